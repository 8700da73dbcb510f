"""PyTorch parent -> ONNX file, at the operator set of our choice, with or without a KV cache."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.export import positional, quiet
from models.recipe import Parent
from tools.zoo.row import Row, Sizes

if TYPE_CHECKING:
    from torch import nn


def dynamo(parent: Parent, file: Path, opset: int) -> None:
    """torch.export, then torch.onnx's decompositions."""
    import torch

    symbols = {s: torch.export.Dim(s, min=2, max=64) for axes in parent.axes.values() for s in axes.values()}
    dynamic = tuple({axis: symbols[s] for axis, s in parent.axes.get(n, {}).items()} for n in parent.inputs)
    with quiet():
        program = torch.onnx.export(
            positional(parent),
            tuple(parent.inputs.values()),
            input_names=list(parent.inputs),
            output_names=list(parent.outputs),
            dynamic_shapes=(dynamic,),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(file, external_data=False)


def torchscript(parent: Parent, file: Path, opset: int) -> None:
    """Tracing; names of the outputs' axes are the exporter's own."""
    import torch

    with quiet():
        torch.onnx.export(
            positional(parent),
            tuple(parent.inputs.values()),
            str(file),
            input_names=list(parent.inputs),
            output_names=list(parent.outputs),
            dynamic_axes={name: dict(axes) for name, axes in parent.axes.items()},
            opset_version=opset,
            dynamo=False,
        )


def with_positions(parent: Parent) -> Parent:
    """A decoder with its position ids as an input, where it takes any."""
    import torch

    ids = parent.inputs["input_ids"]
    if "position_ids" not in signature(parent.module.forward).parameters:
        return parent
    positions = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
    inputs = {**parent.inputs, "position_ids": positions}
    return replace(parent, inputs=inputs, axes={**parent.axes, "position_ids": parent.axes["input_ids"]})


def with_cache(row: Row, sizes: Sizes) -> Parent:
    """A decoder with its KV cache as inputs and outputs: past and present, keys and values, layer by layer."""
    import torch
    from transformers import DynamicCache

    plain = row.load(sizes)
    past = 5
    shape = (len(plain.inputs["input_ids"]), sizes.kv_heads, past, sizes.head_dim)
    generator = torch.Generator().manual_seed(1)
    ids, mask = plain.inputs["input_ids"], plain.inputs["attention_mask"]
    whole = torch.cat([torch.ones(len(mask), past, dtype=mask.dtype), torch.ones_like(mask)], 1)
    names = [f"{layer}.{part}" for layer in range(sizes.layers) for part in ("key", "value")]
    caches = {f"past_key_values.{n}": torch.randn(shape, generator=generator) for n in names}
    presents = tuple(f"present.{n}" for n in names)

    class Cached(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = plain.module

        def forward(self, **tensors: Any) -> dict[str, Any]:
            pairs = [tensors[f"past_key_values.{n}"] for n in names]
            held = DynamicCache(list(zip(pairs[::2], pairs[1::2], strict=True)))
            answer = self.model(
                input_ids=tensors["input_ids"],
                attention_mask=tensors["attention_mask"],
                past_key_values=held,
                use_cache=True,
            )
            made = [t for layer in answer.past_key_values.layers for t in (layer.keys, layer.values)]
            return {"logits": answer.logits, **dict(zip(presents, made, strict=True))}

    cached: nn.Module = Cached().eval()
    axes = {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "total"},
        **{name: {0: "batch", 2: "past"} for name in caches},
    }
    inputs = {"input_ids": ids, "attention_mask": whole, **caches}
    return Parent(cached, inputs, ("logits", *presents), axes)

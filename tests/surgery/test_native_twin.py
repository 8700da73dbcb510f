"""The native twin: the architecture at the clone's shape, by the same exporter, with the clone's weights."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

import models
from graphclone import graph
from graphclone.anatomy.parts import AxisRef
from tests.surgery.parents import SIZES, feeds, outputs, parent, with_constants
from tests.tolerances import assert_close

SHAPES = {  # every size halved at least, by numbers that have little in common
    "gpt2": {"hidden": 24, "heads": 2, "ffn": 80, "layers": 2},
    "llama": {"hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 80, "layers": 2},
    "bert": {"hidden": 24, "heads": 2, "ffn": 80, "layers": 2},
    "vit-tiny": {"hidden": 24, "heads": 2, "ffn": 80, "layers": 2},
}
KINDS = {"residual": "hidden", "tail": "hidden", "ffn": "ffn", "head": "heads", "kv_head": "kv_heads"}


def keep_for(found, shape, rng):
    keep = {}
    for name in found.groups(*KINDS):
        group = found.anatomy.groups[name]
        keep[name] = np.sort(rng.permutation(group.size)[: shape[KINDS[group.kind]]])
    return keep


def weights_in_order(model):
    """(node, input) of every float operand that varies, in the order in which the graph meets them."""
    operands = [(node.op, tensor) for node in model.graph.nodes for tensor in node.inputs]
    held = [(op, t) for op, t in operands if isinstance(t, gs.Constant)]
    return [(op, t) for op, t in held if t.values.dtype.kind == "f" and t.values.size > 4]


def twin_of(found, made, shape):
    """The twin's graph with the clone's numbers: the k-th weight that one reads is the k-th of the other."""
    twin = graph.load(models.cached(found.name, exporter=found.exporter, **shape))
    theirs, ours = weights_in_order(twin), weights_in_order(made)
    assert [(op, t.values.shape) for op, t in theirs] == [(op, t.values.shape) for op, t in ours]
    return with_constants(twin, {a.name: b.values for (_, a), (_, b) in zip(theirs, ours, strict=True)})


@pytest.mark.parametrize("method", ["none", "paper"])
def test_the_clone_computes_what_its_native_twin_computes(found, method, rng):
    shape = SHAPES[found.name]
    made = found.cut(keep_for(found, shape, rng), method, drop=[1])
    for got, want in zip(outputs(made), outputs(twin_of(found, made, shape)), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)


def test_the_twin_notices_another_weight(rng):
    found = parent("gpt2", "dynamo")
    shape = SHAPES["gpt2"]
    made = found.cut(keep_for(found, shape, rng), drop=[1])
    twin = twin_of(found, made, shape)
    name = next(n for n, a in made.constants().items() if a.ndim == 2 and a.shape[1] == shape["ffn"])
    spoiled = with_constants(made, {name: made.constants()[name][:, ::-1]})
    (logits,), (wanted,) = outputs(spoiled)[1], outputs(twin)[1]
    with pytest.raises(AssertionError, match="differs by"):
        assert_close(logits, wanted)


class OverKept(torch.nn.Module):
    """A norm whose statistics are those of the kept channels alone; the others come out as zero."""

    def __init__(self, norm, kept):
        super().__init__()
        self.norm, self.kept = norm, torch.as_tensor(kept)

    def forward(self, x):
        inner = x[..., self.kept]
        if hasattr(self.norm, "variance_epsilon"):
            scale = torch.rsqrt(inner.pow(2).mean(-1, keepdim=True) + self.norm.variance_epsilon)
            shown = inner * scale * self.norm.weight[self.kept]
        else:
            gain, bias = self.norm.weight[self.kept], self.norm.bias[self.kept]
            shown = torch.nn.functional.layer_norm(inner, (len(self.kept),), gain, bias, self.norm.eps)
        return torch.zeros_like(x).index_copy(-1, self.kept, shown)


def over_kept(module, kept, hidden):
    for child_name, child in module.named_children():
        weight = getattr(child, "weight", None)
        if "Norm" in type(child).__name__ and weight is not None and weight.shape == (hidden,):
            setattr(module, child_name, OverKept(child, kept))
        else:
            over_kept(child, kept, hidden)


def channels(found, kept):
    """Neurons of the residual group as positions of a gain, which is how PyTorch counts them."""
    gain = next(ref for ref in found.anatomy.groups["residual"].axes if found.model.constants()[ref.tensor].ndim == 1)
    ((_, neurons),) = found.anatomy.axes[AxisRef(gain.tensor, 0)]
    return np.flatnonzero(np.isin(neurons, kept))


def test_a_narrower_residual_equals_the_parent_with_norms_over_the_kept_channels(found, rng):
    """Nothing but the residual is cut, which no configuration of GPT-2, BERT or ViT could say."""
    hidden = found.anatomy.stacks[0].hidden
    kept = np.sort(rng.permutation(hidden)[: hidden // 2 - 1])
    made = found.cut({"residual": kept})
    reference = models.parent(found.name, models.options(found.name, exporter=found.exporter))
    over_kept(reference.module, channels(found, kept), hidden)
    for got, (batch, length) in zip(outputs(made), SIZES, strict=True):
        fed = {n: torch.from_numpy(a) for n, a in feeds(found.model, batch, length).items()}
        with torch.no_grad():
            answer = reference.module(**fed)
        for name, actual in zip(reference.outputs, got, strict=True):
            want = answer[name].numpy()
            assert_close(actual, want[..., channels(found, kept)] if name == "last_hidden_state" else want)

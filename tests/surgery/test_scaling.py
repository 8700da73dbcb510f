"""The paper's weight scaling: sqrt(d/d') on every weight whose fan-in shrank, and on nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphclone.anatomy import inspect
from graphclone.anatomy.parts import AxisRef
from graphclone.plan import Plan
from graphclone.surgery.operate import clone
from tests.surgery.parents import dropped
from tests.surgery.tied import HIDDEN, LAYERS, VOCAB, tied_parent

KINDS = ("residual", "tail", "ffn", "head", "kv_head")


def kept_share(found, linear, keep):
    """Fan-in before and after, counted from the anatomy's axes."""
    size = found.model.constants()[linear.weight].shape[linear.in_axis]
    if not set(linear.reads) & keep.keys():
        return size, size
    return size, size - int(dropped(found.anatomy, AxisRef(linear.weight, linear.in_axis), keep).sum())


def norm_before(found, linear):
    """Gain and bias of the norm that a tied head reads: the embedding itself is not scaled."""
    makers = {n.outputs[0].name: n for n in found.model.graph.nodes}
    norm = makers[linear.input]
    while norm.op == "Reshape":
        norm = makers[norm.inputs[0].name]
    assert norm.op == "LayerNormalization"
    return [t.name for t in norm.inputs[1:]]


def test_every_weight_is_scaled_by_the_root_of_its_fan_in(found, rng):
    keep = found.some(rng, 0.5, *KINDS) | found.some(rng, 0.7, "ffn")
    plain, scaled = found.cut(keep, "none").constants(), found.cut(keep, "paper").constants()
    assert plain.keys() == scaled.keys()
    factors = {}
    for linear in found.anatomy.linears:
        before, after = kept_share(found, linear, keep)
        (weight,) = [t for t in found.model.graph.tensors().values() if t.name == linear.weight]
        scaled_here = [linear.weight] if len(weight.outputs) == 1 else norm_before(found, linear)
        factors |= dict.fromkeys(scaled_here, math.sqrt(before / after))
    assert len({round(f, 6) for f in factors.values()} - {1.0}) >= 2
    for name, array in plain.items():
        factor = factors.get(name, 1.0)
        want = array * np.float32(factor) if factor != 1.0 else array
        assert scaled[name].tobytes() == want.tobytes(), f"{name} should be scaled by {factor}"


KEPT = (0, 2, 3, 5, 7)


def cut(parent, method):
    anatomy = inspect(parent)
    return clone(parent, anatomy, Plan(anatomy.fingerprint, {"residual": KEPT}, method=method))


def test_a_tied_embedding_stays_one_tensor_and_is_not_scaled():
    parent = tied_parent()
    made = cut(parent, "paper")
    (shared,) = [n for n, a in made.constants().items() if a.shape == (VOCAB, len(KEPT))]
    readers = [n.op for n in made.graph.tensors()[shared].outputs]
    assert sorted(readers) == ["Gather", "Transpose"]
    assert np.array_equal(made.constants()[shared], parent.constants()["embed"][:, KEPT])


def test_the_final_norm_takes_the_factor_of_a_tied_head():
    parent = tied_parent()
    made, held = cut(parent, "paper").constants(), parent.constants()
    factor = np.float32(math.sqrt(HIDDEN / len(KEPT)))
    for name in ("final.gain", "final.bias"):
        assert np.array_equal(made[name], held[name][list(KEPT)] * factor)
    for name in ("before0.gain", "between1.bias"):
        assert np.array_equal(made[name], held[name][list(KEPT)])
    assert np.array_equal(made["up1"], held["up1"][list(KEPT)] * factor)
    assert np.array_equal(made["down1"], held["down1"][:, list(KEPT)])


def test_the_output_is_multiplied_where_no_norm_can_take_the_factor():
    """The caller sees the normalised stream too: scaling it would change what he gets."""
    parent = tied_parent()
    (norm,) = [n for n in parent.graph.nodes if n.name == "final.node"]
    norm.outputs[0].dtype = np.dtype(np.float32)
    parent.graph.outputs.append(norm.outputs[0])
    plain, scaled = cut(parent, "none"), cut(parent, "paper")
    assert np.array_equal(scaled.constants()["final.gain"], plain.constants()["final.gain"])
    (last,) = [n for n in scaled.graph.nodes if n.outputs[0].name == parent.graph.outputs[0].name]
    assert last.op == "Mul"
    assert float(last.inputs[1].values) == np.float32(math.sqrt(HIDDEN / len(KEPT)))
    assert last.inputs[0].inputs[0].op == "MatMul"


def test_a_gain_that_other_norms_share_is_scaled_for_the_head_alone():
    """An exporter merged all gains of one: the final norm's becomes a tensor of its own."""
    parent = tied_parent(gain=False)
    made = cut(parent, "paper")
    factor = np.float32(math.sqrt(HIDDEN / len(KEPT)))
    gains = {n.name: n.inputs[1].values for n in made.graph.nodes if n.op == "LayerNormalization"}
    assert np.array_equal(gains.pop("final.node"), np.full(len(KEPT), factor))
    assert len(gains) == 2 * LAYERS
    assert all(np.array_equal(g, np.ones(len(KEPT), np.float32)) for g in gains.values())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_scaling_keeps_the_type_and_rounds_once(dtype):
    parent = tied_parent()
    for tensor in parent.graph.tensors().values():
        if hasattr(tensor, "values") and tensor.values.dtype == np.float32:
            tensor.values = tensor.values.astype(dtype)
    parent.graph.outputs[0].dtype = np.dtype(dtype)
    made = cut(parent, "paper").constants()["up0"]
    exact = parent.constants()["up0"][list(KEPT)].astype(np.float64) * math.sqrt(HIDDEN / len(KEPT))
    assert made.dtype == dtype
    assert np.abs(made - exact).max() <= np.abs(exact).max() * max(np.finfo(dtype).eps, np.finfo("float32").eps)


def test_a_weight_that_every_block_reads_is_scaled_once():
    """Shared by layers as in ALBERT: not tied to an embedding, so it takes the factor itself and stays one tensor."""
    parent = tied_parent(albert=True)
    made, held = cut(parent, "paper").constants(), parent.constants()
    factor = np.float32(math.sqrt(HIDDEN / len(KEPT)))
    assert np.array_equal(made["up0"], held["up0"][list(KEPT)] * factor)
    assert [n for n in made if n.startswith("up")] == ["up0"]
    for name in ("between0.gain", "between1.gain", "before1.bias"):
        assert np.array_equal(made[name], held[name][list(KEPT)])


def test_a_quantised_weight_keeps_its_integers_and_its_multiplier_takes_the_factor():
    parent = tied_parent(quantised=True)
    made, held = cut(parent, "paper").constants(), parent.constants()
    factor = np.float32(math.sqrt(HIDDEN / len(KEPT)))
    for i in range(LAYERS):
        assert np.array_equal(made[f"up{i}"], held[f"up{i}"][list(KEPT)])
        assert made[f"up{i}"].dtype == np.int8
        assert np.array_equal(made[f"up{i}.scale"], held[f"up{i}.scale"] * factor)
        assert np.array_equal(made[f"down{i}.scale"], held[f"down{i}.scale"][list(KEPT)])

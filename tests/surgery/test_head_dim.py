"""head_dim: the same positions of every head, rotary pairs whole, and the scale of the scores follows."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import AxisRef
from graphclone.errors import InvalidTarget
from graphclone.planner import Target
from graphclone.surgery.head_scale import rooted
from tests.surgery.parents import dropped, outputs, parent, with_constants, zeroed
from tests.tolerances import assert_close


def rescaled(found, keep, factor):
    """The parent whose dropped dimensions of queries and values are zero, and its queries times ``factor``: the scores
    of the kept dimensions at the clone's own scale."""
    model = zeroed(found, {n: k for n, k in keep.items() if found.anatomy.groups[n].kind == "v_dim"})
    dims = {n: k for n, k in keep.items() if found.anatomy.groups[n].kind == "qk_dim"}
    values = {}
    for block in found.anatomy.stacks[0].blocks:
        for attention in block.attention:
            for ref in with_biases(found, attention.q):
                array = np.moveaxis(model.constants()[ref.tensor].copy(), ref.axis, -1)
                width = (
                    array.shape[-1] // 3 if attention.q == attention.k else array.shape[-1]
                )  # GPT-2 packs q, k and v
                array[..., :width] *= np.float32(factor)
                array[..., dropped(found.anatomy, ref, dims) & (np.arange(array.shape[-1]) < width)] = 0
                values[ref.tensor] = np.moveaxis(array, -1, ref.axis)
    return with_constants(model, values)


def with_biases(found, weights):
    """Where a projection writes: an axis of its matrix, and the bias that is added next."""
    (matrix,) = weights
    (linear,) = [ln for ln in found.anatomy.linears if ln.weight == matrix]
    made = next(n for n in found.model.graph.nodes for t in n.outputs if t.name == linear.output)
    beside = [t for n in (made, *made.outputs[0].outputs) for t in n.inputs if n.op in ("Add", "Gemm")]
    constants = found.model.constants()
    biases = [t.name for t in beside if t.name in constants and constants[t.name].ndim == 1]
    return [AxisRef(matrix, linear.out_axis), *(AxisRef(name, 0) for name in biases)]


@pytest.mark.parametrize("importance", ["first", "uniform", "random"])
def test_the_clone_is_the_parent_with_zeroed_dimensions_at_its_own_scale(found, importance):
    """Held against the whole parent: kept pairs turn at their own frequencies, and scores are divided by sqrt(d')."""
    whole = found.anatomy.stacks[0].blocks[0].attention[0].head_dim
    plan = pipeline.plan(found.anatomy, None, Target(head_dim="50%"), importance=importance, method="none")
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    reference = rescaled(found, plan.keep, np.sqrt(whole / (whole // 2)))
    for got, want in zip(outputs(made), outputs(reference), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)


def test_the_clone_has_the_head_that_was_asked_for(found):
    whole = found.anatomy.stacks[0].blocks[0].attention[0].head_dim
    plan = pipeline.plan(found.anatomy, None, Target(head_dim=whole // 2, heads="50%"), importance="uniform")
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    pipeline.verify(found.model, made, plan).raise_if_failed()
    assert plan.target["head_dim"] == whole // 2
    for block in inspect(made).stacks[0].blocks:
        assert {(a.head_dim, a.v_dim) for a in block.attention} == {(whole // 2, whole // 2)}


def test_rotary_pairs_are_kept_whole_and_alike_in_queries_and_keys():
    for exporter in ("dynamo", "torchscript"):
        found = parent("llama", exporter)
        with pytest.raises(InvalidTarget, match=r"head_dim 3: block 0 has 8 and can have 2, 4, 6, 8; nearest: 2 or 4"):
            pipeline.plan(found.anatomy, None, Target(head_dim=3), importance="uniform")
        (attention,) = found.anatomy.stacks[0].blocks[0].attention
        ((group, held),) = attention.qk_dims
        assert (found.anatomy.groups[group].size, held) == (4, 8)
        for weights, heads in ((attention.q, 8), (attention.k, 4)):
            linear = next(ln for ln in found.anatomy.linears if ln.weight == weights[0])
            pairs = dict(found.anatomy.axes[AxisRef(linear.weight, linear.out_axis)])[group]
            assert np.array_equal(pairs, np.tile(np.arange(4), 2 * heads))  # (i, i + r/2)


@pytest.mark.parametrize(("full", "kept"), [*product((16, 64, 80, 128), (8, 48))])
def test_every_root_that_a_scale_is_written_as_is_known(full, kept):
    for power in (0.5, -0.5, 0.25, -0.25):
        assert rooted(full**power, full, kept) == pytest.approx(kept**power)
        assert rooted(float(np.float16(full**power)), full, kept) == pytest.approx(kept**power)
    assert rooted(1.0, full, kept) is None
    assert rooted(full**-0.5 * 1.02, full, kept) is None
    assert rooted(full**-0.5, full, full) is None

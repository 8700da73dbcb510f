"""The oracles again, on trained parents."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphclone.anatomy import inspect
from tests.surgery.parents import expected, outputs, parent, shuffled, zeroed
from tests.tolerances import assert_close

pytestmark = pytest.mark.real


def assert_equal(actual, wanted):
    for got, want in zip(actual, wanted, strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)


@pytest.fixture(scope="module", params=["dynamo", "torchscript"])
def found(request):
    return parent("minilm", request.param)


def test_keeping_everything_changes_no_byte(found):
    made = found.cut({n: range(found.anatomy.groups[n].size) for n in found.groups()}, "paper")
    before, after = found.model.constants(), made.constants()
    assert before.keys() == after.keys()
    assert all(before[n].tobytes() == after[n].tobytes() for n in before)


def test_a_permutation_changes_no_output(found, rng):
    keep = {n: shuffled(rng, found.anatomy.groups[n].size) for n in found.groups()}
    assert_equal(outputs(found.cut(keep)), expected(found, found.model, keep))


def test_dropped_heads_and_neurons_equal_the_zeroed_parent(found, rng):
    keep = found.some(rng, 0.5, "ffn", "head")
    assert_equal(outputs(found.cut(keep)), outputs(zeroed(found, keep)))


@pytest.mark.slow
def test_smollm2_stays_tied_when_everything_is_cut():
    """30 layers of 576 to 10 of 192, 9 heads on 3 to 3 on 1, as the demo cuts them, and the head is the embedding."""
    found = parent("smollm2", "dynamo")
    sizes = {"residual": 192, "ffn": 512, "kv_head": 1}
    keep = {n: range(sizes[found.anatomy.groups[n].kind]) for n in found.groups(*sizes)}
    made = found.cut(keep, "paper", drop=range(5, 25))
    (stack,) = inspect(made).stacks
    block = stack.blocks[-1]
    assert (stack.hidden, len(stack.blocks), block.feed_forward[0].ffn) == (192, 10, 512)
    assert (block.attention[0].heads, block.attention[0].kv_heads) == (3, 1)
    vocabulary = [n for n, a in made.constants().items() if 49152 in a.shape]
    assert len(vocabulary) == 1
    embedding = made.constants()[vocabulary[0]]
    assert np.array_equal(embedding, np.take(found.model.constants()[vocabulary[0]], np.arange(192), axis=1))
    last = block.norms[0].gain  # in the stack: unscaled
    assert np.array_equal(made.constants()[last], found.model.constants()[last][:192])
    final = [n for n, a in made.constants().items() if a.shape == (192,) and n not in _block_gains(stack)]
    assert len(final) == 1
    scaled = found.model.constants()[final[0]][:192] * np.float32(math.sqrt(576 / 192))
    assert np.array_equal(made.constants()[final[0]], scaled)
    for row in outputs(made):
        assert np.isfinite(row[0]).all()


def _block_gains(stack):
    return {norm.gain for block in stack.blocks for norm in block.norms}

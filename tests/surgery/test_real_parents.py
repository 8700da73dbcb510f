"""The properties again, on trained parents: a decoder with a tied head, a post-norm encoder, a vision transformer."""

from __future__ import annotations

import math

import numpy as np
import pytest

import models
from graphclone import graph
from graphclone.anatomy import inspect
from models.packages import MissingPackage
from tests.surgery.parents import Parent, outputs, parent
from tests.surgery.properties import PROPERTIES
from tests.surgery.subject import Subject

pytestmark = pytest.mark.real


REAL = {
    "smollm2": ("dynamo", {"size": (1, 7), "calibration": (24, (8, 128))}),
    "minilm": ("torchscript", {"calibration": (24, (8, 128))}),
    "vit-focus": ("asis", {"size": (1, 1), "calibration": (11, (8, 1))}),
}


@pytest.fixture(scope="module", params=REAL)
def subject(request):
    """One parent in memory at a time, with what its properties share."""
    exporter, more = REAL[request.param]
    try:
        file = models.cached(request.param, exporter=exporter)
    except MissingPackage as missing:
        pytest.skip(f"NOT TESTED on {request.param}: {missing}")
    model = graph.load(file)
    return Subject(Parent(request.param, exporter, model, inspect(model)), file, **more)


@pytest.mark.slow
@pytest.mark.parametrize("property_", PROPERTIES)
def test_it_holds(property_, subject, tmp_path):
    PROPERTIES[property_](subject, tmp_path)


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

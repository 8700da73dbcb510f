"""Corrections against the parent in float64: post-norm, Gemma's 1 + w and scaled embedding, LayerScale, a tied head.

Each parent's dropped channels say nothing (zero, or the mean of the others, which a LayerNorm takes for zero), so that
a clone whose norms are corrected has to give what its parent gives; the plain slice does not.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphclone import pipeline
from graphclone.feeds import tiny_feeds
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tests.surgery.parents import parent
from tests.surgery.silenced import data, level, means, measured, without
from tests.surgery.zoo_parent import zoo_parent
from tests.tolerances import TOLERANCE, assert_close, difference


def in_float64(model, fed) -> np.ndarray:
    """The first output."""
    module = pipeline.to_torch(model).double()
    given = {n: torch.from_numpy(a.astype(np.float64) if a.dtype.kind == "f" else a) for n, a in fed.items()}
    with torch.no_grad():
        made = module(**given)
    return (
        made if isinstance(made, torch.Tensor) else next(iter(made.values() if isinstance(made, dict) else made))
    ).numpy()


CASES = {
    "post-norm": (lambda: parent("bert", "dynamo"), True),
    "1 + w and a scaled embedding": (lambda: zoo_parent("gemma2", "torchscript"), False),
    "LayerScale": (lambda: zoo_parent("dinov2", "torchscript"), True),
    "a tied head": (lambda: parent("gpt2", "dynamo"), True),
}


@pytest.mark.parametrize("name", CASES)
def test_the_clone_gives_what_its_parent_gives(name):
    make, centred = CASES[name]
    found = make()
    residual = found.anatomy.stacks[0].residual
    size = found.anatomy.groups[residual].size
    gone = np.arange(3, size - 1, 4)
    kept = np.setdiff1d(np.arange(size), gone)
    if centred:
        found = level(found)
    found = without(found, gone, centred=centred)
    if name == "post-norm":
        found = means(found, gone)
    fed = tiny_feeds(found.model, 2, 9)
    wanted = in_float64(found.model, fed)
    plan = found.plan({residual: kept}, "norm-gain")
    first = measured(found, 8)
    second = pipeline.measure_kept(
        found.model, plan, data(found.model), anatomy=found.anatomy, provider="cpu", threads=1
    )
    plain = in_float64(clone(found.model, found.anatomy, found.plan({residual: kept})), fed)
    if wanted.shape != plain.shape:  # the stream itself
        wanted = wanted[..., kept]
    for affine in (None, second):
        made = clone(found.model, found.anatomy, plan, first, affine)
        report = verify(found.model, made, plan)
        assert report.passed, report.summary
        given = in_float64(made, fed)
        assert given.dtype == np.float64
        assert_close(given, wanted, "float32")
    assert difference(plain, wanted) > 10 * TOLERANCE["float32"]

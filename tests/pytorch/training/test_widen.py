"""Half precision: trained in float32, written back as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime.transformers.float16 import convert_float_to_float16

import graphclone as gc
from graphclone.pytorch.training import TrainingOptions
from graphclone.pytorch.training.course import Beside, run
from graphclone.statistics.widening import HALVES, needed, widened
from graphclone.verification.sessions import open_session
from tests.pytorch.training.conftest import counting
from tests.tolerances import assert_close


@pytest.fixture(scope="module")
def half(parent_file, tmp_path_factory):
    source = parent_file("llama", exporter="torchscript")
    file = tmp_path_factory.mktemp("half") / "half.onnx"
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=False, op_block_list=["Range"]), file)
    return gc.load(file)


def test_widening_changes_the_precision_alone(half):
    wide = widened(half, HALVES)
    found, expected = (open_session(model).run(counting(1)[0])["logits"] for model in (wide, half))
    assert (found.dtype, expected.dtype) == (np.float32, np.float16)
    assert_close(found.astype(np.float16), expected)
    assert np.abs(found - expected).max() > 0  # it is computed anew, not converted


def test_half_precision_is_told(llama, half):
    assert (needed(llama, HALVES), needed(half), needed(half, HALVES)) == (False, False, True)


def test_a_half_precision_clone_learns_and_stays_half(half):
    options = TrainingOptions(steps=12, learning_rate=3e-3, evaluate_every=12)
    trained = run(half, counting(), options, Beside(), held_out=counting(1))
    (_, before), (_, after) = trained.history.evaluations
    assert after < before - 0.5
    assert trained.in_runtime == pytest.approx(after, rel=trained.tolerance)
    kinds = {name: array.dtype for name, array in half.constants().items()}
    assert {name: array.dtype for name, array in trained.model.constants().items()} == kinds
    assert np.dtype(np.float16) in kinds.values()

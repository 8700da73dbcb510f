"""Real files in PyTorch: what ONNX Runtime computes, every float weight a parameter, home again byte for byte."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

import models
from graphclone import graph
from graphclone.feeds import tiny_feeds
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.write_back import from_torch

pytestmark = [pytest.mark.real, pytest.mark.slow]
LIMIT = 1e-5  # of the largest number of an output
SIZES = ((1, 5), (2, 17))
FILES = [
    (name, exporter)
    for name, row in models.TABLE.items()
    if not row.seeded
    for exporter in (("asis",) if row.ready else ("torchscript", "dynamo"))
]


@pytest.fixture(params=FILES, ids="-".join)
def real(request, parent_file):
    name, exporter = request.param
    return parent_file(name) if exporter == "asis" else parent_file(name, exporter=exporter)


def test_a_real_file_computes_what_onnx_runtime_computes(real):
    model = graph.load(real)
    module = to_torch(model).eval()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(real, options, providers=["CPUExecutionProvider"])
    arguments = module.meta["graphclone.inputs"]
    for batch, length in SIZES:
        given = tiny_feeds(model, batch, length)
        with torch.no_grad():
            found = module(**{arguments[n]: torch.from_numpy(a) for n, a in given.items()})
        for output, wanted in zip(session.get_outputs(), session.run(None, given), strict=True):
            assert found[output.name].shape == wanted.shape
            away = np.abs(found[output.name].numpy() - wanted).max() / max(np.abs(wanted).max(), 1e-12)
            assert away <= LIMIT, output.name
    held = {name for weight in weights(module) for name, _ in weight.initializers}
    constants = model.constants()
    left = {n for n, a in constants.items() if a.dtype.kind == "f" and a.size > 64} - held
    assert {n for n in left if not _is_table(n, constants[n])} == set()
    back = from_torch(model, module).constants()
    assert [n for n, a in constants.items() if back[n].tobytes() != a.tobytes()] == []


def _is_table(name, values):
    """A mask, sines and cosines, or statistics of BatchNormalization, which training leaves alone."""
    bounds = (1.0, np.finfo(values.dtype).max)
    return "running_" in name or not np.isfinite(values).all() or np.abs(values).max() in bounds

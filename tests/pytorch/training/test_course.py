"""Whole runs of small graphs: fixed batches, batches that come once, what a run says that it leaves out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphclone as gc
from graphclone.errors import BadData
from graphclone.pytorch.training.course import Beside, run
from tests.pytorch.test_weights import F32, I64, floats, made

NODES = [("Gather", ["table", "input_ids"], ["e"], "", {}), ("MatMul", ["e", "head"], ["y"], "", {})]
CONSTANTS = {"table": floats(20, 8), "head": floats(8, 20)}
STEPS = gc.TrainingOptions(steps=2, learning_rate=1e-2)


def ids(rows=2, seed=0):
    return {"input_ids": np.random.default_rng(seed).integers(0, 20, (rows, 5))}


def test_a_graph_with_a_fixed_batch_is_trained():
    model = made(NODES, [("input_ids", I64, [2, 5])], CONSTANTS)
    _, history = gc.train(model, [ids()], STEPS, held_out=[ids(seed=1)])
    assert len(history.losses) == 2
    free = made(NODES, [("input_ids", I64, ["b", 5])], CONSTANTS)
    _, history = gc.train(free, [ids()], STEPS, teacher=model)
    assert history.taught == 2
    with pytest.raises(BadData, match="--batch-size 2 may fit"):
        gc.train(model, [ids(3)], STEPS)


def test_no_batch_of_a_generator_is_lost():
    model = made(NODES, [("input_ids", I64, ["b", "t"])], CONSTANTS)
    _, expected = gc.train(model, [ids(), ids(seed=1)], STEPS)
    _, found = gc.train(model, (ids(seed=seed) for seed in range(2)), STEPS)
    assert found.losses == expected.losses


def test_a_run_says_what_may_have_been_learned_and_is_not_trained():
    nodes = [*NODES[:1], ("Mul", ["e", "embed.scale"], ["s"], "", {}), ("MatMul", ["s", "head"], ["y"], "", {})]
    constants = CONSTANTS | {"embed.scale": np.float32(2)}
    told = []
    model = made(nodes, [("input_ids", I64, ["b", "t"])], constants)
    trained = run(model, [ids()], STEPS, Beside(), say=told.append)
    assert trained.history.notes == told
    assert told[0].startswith("not trained: embed.scale (")


def test_pixels_of_bytes_train_the_whole_net():
    nodes = [
        ("Cast", ["pixel_values"], ["c"], "", {"to": F32}),
        ("Mul", ["c", "scale"], ["d"], "", {}),
        ("Conv", ["d", "filters"], ["e"], "", {"strides": [4, 4]}),
        ("Flatten", ["e"], ["f"], "", {}),
        ("MatMul", ["f", "head"], ["y"], "", {}),
    ]
    constants = {"scale": np.float32(1 / 255), "filters": floats(5, 3, 4, 4), "head": floats(20, 3)}
    model = made(nodes, [("pixel_values", onnx.TensorProto.UINT8, ["b", 3, 8, 8])], constants)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8)).astype(np.uint8)
    options = gc.TrainingOptions(steps=2, task="image-classification")
    trained, _ = gc.train(model, [{"pixel_values": pixels, "labels": np.array([0, 1, 2, 0])}], options)
    before, after = model.constants(), trained.constants()
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"filters", "head"}

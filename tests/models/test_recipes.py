"""Every row of the table of recipes builds a valid file that computes what its PyTorch parent computes."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import models
from models.recipe import ATTENTIONS
from tests.conftest import SEEDED, SEEDED_EXPORTS
from tests.tolerances import assert_close

SIZES = ((2, 11), (1, 1), (3, 7), (5, 2))  # batch, length; the first is what the exporters saw
SLOW = {("smollm2", "dynamo"), ("smollm2", "torchscript")}


def cases() -> list[Any]:
    """A test case for each recipe that has a PyTorch parent, by each of its exporters."""
    found = []
    for name, row in models.TABLE.items():
        for exporter in row.exporters if row.load else ():
            marks = [] if row.seeded else [pytest.mark.real]
            marks += [pytest.mark.slow] if (name, exporter) in SLOW else []
            found.append(pytest.param(name, exporter, marks=marks, id=f"{name}-{exporter}"))
    return found


@functools.lru_cache(maxsize=1)
def parent_of(name: str) -> models.Parent:
    """The same for both exporters; trained parents take long to load."""
    return models.parent(name)


def feeds(parent: models.Parent, batch: int, length: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Inputs like the parent's own examples, at another size; the last row is padded where there is a mask."""
    made = {}
    for name, example in parent.inputs.items():
        sizes = {"batch": batch, "sequence": length}
        axes = parent.axes[name]
        shape = tuple(sizes[axes[axis]] if axis in axes else size for axis, size in enumerate(example.shape))
        if example.is_floating_point():
            array = rng.standard_normal(shape).astype(np.float32)
        else:
            array = rng.integers(0, int(example.max()) + 1, shape)
        if name.endswith("attention_mask"):  # a position that may look at nothing is nobody's business
            array[:] = 1
            array[-1, max(1, length - 2) :] = 0
        made[name] = torch.from_numpy(array)
    return made


def run(file: Any, fed: dict[str, torch.Tensor]) -> list[Any]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in fed.items()})


def compute(parent: models.Parent, fed: dict[str, torch.Tensor]) -> list[Any]:
    with torch.no_grad():
        answer = parent.module(**fed)
    return [answer[name].numpy() for name in parent.outputs]


@pytest.mark.parametrize(("name", "exporter"), cases())
def test_the_file_computes_what_pytorch_computes_at_every_size(name, exporter, rng):
    file = models.cached(name, exporter=exporter)
    parent = parent_of(name)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch, length in SIZES:
        fed = feeds(parent, batch, length, rng)
        got = session.run(None, {key: tensor.numpy() for key, tensor in fed.items()})
        for actual, expected in zip(got, compute(parent, fed), strict=True):
            assert_close(actual, expected)


@pytest.mark.parametrize(("name", "exporter"), cases())
def test_the_file_is_valid_and_its_axes_are_what_the_recipe_says(name, exporter):
    file = models.cached(name, exporter=exporter)
    onnx.checker.check_model(str(file), full_check=True)
    parent = parent_of(name)
    graph = onnx.load(file, load_external_data=False).graph
    assert [value.name for value in graph.input] == list(parent.inputs)
    assert [value.name for value in graph.output] == list(parent.outputs)
    for value in graph.input:
        declared = value.type.tensor_type.shape.dim
        example = parent.inputs[value.name]
        for axis, size in enumerate(example.shape):
            symbol = parent.axes[value.name].get(axis)
            assert declared[axis].dim_param == symbol if symbol else declared[axis].dim_value == size


@pytest.mark.parametrize("name", SEEDED)
def test_no_two_seeded_parameters_are_equal_by_accident(name):
    parameters = dict(models.parent(name).module.named_parameters())
    for one, other in itertools.combinations(parameters, 2):
        if parameters[one].shape == parameters[other].shape:
            assert not torch.equal(parameters[one], parameters[other]), f"{one} equals {other}"
    for label, parameter in parameters.items():
        assert parameter.unique().numel() > 0.9 * parameter.numel(), f"{label} repeats itself"


@pytest.mark.parametrize(("name", "exporter"), SEEDED_EXPORTS, ids="-".join)
def test_the_exporter_had_nothing_to_merge(name, exporter):
    graph = onnx.load(models.cached(name, exporter=exporter)).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer if np.prod(t.dims) >= 24}
    floats = {label: array for label, array in arrays.items() if array.dtype == np.float32}
    assert len(floats) > 10
    for one, other in itertools.combinations(floats, 2):
        assert not np.array_equal(floats[one], floats[other]), f"{one} equals {other}"


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_either_way_of_writing_attention_gives_the_same_outputs(name, attention, rng):
    file = models.cached(name, exporter="torchscript", attention=attention)
    parent = models.parent(name, models.options(name, attention="eager"))
    fed = feeds(parent, 2, 5, rng)
    for actual, expected in zip(run(file, fed), compute(parent, fed), strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_decides_the_weights(name):
    first, again, other = (
        models.parent(name, models.options(name, seed=seed)).module.state_dict() for seed in (3, 3, 4)
    )
    parameters = [label for label, _ in models.parent(name).module.named_parameters()]
    assert all(torch.equal(first[label], again[label]) for label in parameters)
    assert not any(torch.equal(first[label], other[label]) for label in parameters)


SMALLER = {
    "gpt2": {"hidden": 24, "heads": 2, "ffn": 80, "layers": 2},
    "llama": {"hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 80, "layers": 2},
    "bert": {"hidden": 24, "heads": 2, "ffn": 80, "layers": 2},
    "vit-tiny": {"hidden": 24, "heads": 2, "ffn": 80, "layers": 2},
}


@pytest.mark.parametrize("name", SEEDED)
def test_a_seeded_parent_takes_the_shape_that_is_asked_for(name, rng):
    asked = SMALLER[name]
    wanted = models.options(name, exporter="torchscript", **asked)
    parent = models.parent(name, wanted)
    config = parent.module.config
    assert config.hidden_size == asked["hidden"]
    assert config.num_attention_heads == asked["heads"]
    assert config.num_hidden_layers == asked["layers"]
    shapes = [tuple(p.shape) for p in parent.module.parameters()]
    assert sum(asked["ffn"] in shape and len(shape) == 2 for shape in shapes) >= 2 * asked["layers"]
    fed = feeds(parent, 3, 5, rng)
    got = run(models.cached(name, exporter="torchscript", **asked), fed)
    for actual, expected in zip(got, compute(parent, fed), strict=True):
        assert_close(actual, expected)

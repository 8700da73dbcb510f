"""Weights that an exporter wrote once because they were equal: they train apart, and the graph stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphclone as gc
from graphclone.cli.app import run as command_line
from graphclone.graph import Model
from graphclone.pytorch.training import TrainingOptions
from graphclone.pytorch.training.course import Beside, run
from graphclone.verification import verify_trained
from tests.pytorch.training.conftest import counting

OPTIONS = TrainingOptions(steps=2, learning_rate=1e-2)


@pytest.fixture
def merged(parent_file: Callable[..., Path]) -> tuple[Model, str]:
    """A GPT-2 whose zero biases of norms are one initializer, as exporters write a model that was never trained."""
    model = gc.load(parent_file("gpt2", exporter="torchscript"))
    biases = [t for name, t in sorted(model.graph.tensors().items()) if name.endswith(("ln_1.bias", "ln_2.bias"))]
    assert len(biases) > 3
    first = biases[0]
    first.values = np.zeros_like(first.values)
    for bias in biases[1:]:
        rewire(model, bias, first)
    return model, first.name


def rewire(model: Model, old: Any, new: Any) -> None:
    for node in model.graph.nodes:
        for k, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[k] = new


def fed(model: Model) -> list[dict[str, np.ndarray]]:
    names = [tensor.name for tensor in model.graph.inputs]
    return [{name: batch[name] for name in names} for batch in counting()]


def test_they_train_apart_and_only_weights_have_changed(merged):
    model, name = merged
    trained = run(model, fed(model), OPTIONS, Beside()).model
    own = {n: a for n, a in trained.constants().items() if n.partition("@")[0] == name}
    assert len({a.tobytes() for a in own.values()}) == len(own) > 3
    report = verify_trained(model, trained)
    assert report.passed, report.summary
    again = run(trained, fed(model), OPTIONS, Beside()).model
    assert verify_trained(trained, again).passed


def test_those_that_stay_equal_do_not_take_the_names_of_those_that_were_told_apart(merged):
    """Two of the readers are still zero, and the rest have initializers of their own from an earlier training."""
    model, name = merged
    once = run(model, fed(model), OPTIONS, Beside()).model
    tensors = once.graph.tensors()
    tensors[name].values = np.zeros_like(tensors[name].values)
    rewire(once, tensors[f"{name}@2"], tensors[name])
    assert f"{name}@1" in once.constants()
    state = {n: a for n, a in once.constants().items() if n in {i for w in weights(once) for i, _ in w.initializers}}
    assert {n: a.tobytes() for n, a in gc.pack(once, state).constants().items()} == {
        n: a.tobytes() for n, a in once.constants().items()
    }
    twice = run(once, fed(model), OPTIONS, Beside()).model
    assert verify_trained(once, twice).passed
    assert len({a.tobytes() for n, a in twice.constants().items() if n.partition("@")[0] == name}) > 3


def weights(model: Model):
    from graphclone.pytorch.weights import weight_map

    return weight_map(model)


@pytest.mark.parametrize("spoil", ["shape", "name", "wire"])
def test_an_initializer_of_ones_own_is_told_from_another_graph(merged, spoil):
    model, name = merged
    trained = run(model, fed(model), OPTIONS, Beside()).model
    tensors = trained.graph.tensors()
    own = tensors[f"{name}@1"]
    if spoil == "shape":
        own.values = own.values[:-1]
    elif spoil == "name":
        own.name = f"{name}@first"
    else:
        rewire(trained, own, tensors[name.replace(".bias", ".weight")])
    changes = {check.name: check for check in verify_trained(model, trained).checks}
    assert not changes["only weights changed"].passed


def test_the_command_ends_well(merged, tmp_path):
    model, _ = merged
    gc.save(model, tmp_path / "fresh.onnx")
    batches = fed(model)
    np.savez(tmp_path / "data.npz", **{n: np.concatenate([b[n] for b in batches]) for n in batches[0]})
    options = "--steps 3 --keep last --held-out 1 --batch-size 4 --learning-rate 1e-2".split()
    asked = ["train", str(tmp_path / "fresh.onnx"), "--data", str(tmp_path / "data.npz"), *options]
    assert command_line([*asked, "-o", str(tmp_path / "out.onnx")]) == 0

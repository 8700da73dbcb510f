"""Deeper than the parent: blocks behind themselves, with weights and caches of their own."""

from __future__ import annotations

from copy import deepcopy
from functools import reduce

import numpy as np
import pytest
import torch

import models
from graphclone import graph, pipeline
from graphclone.errors import InvalidTarget
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.weights import weight_map
from graphclone.pytorch.write_back import from_torch
from models.building import cache_folder
from tests.pytorch.test_weights import I64, floats, made
from tests.surgery.parents import SIZES, feeds, outputs
from tests.surgery.test_depth import LAYERS
from tests.tolerances import assert_close
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.oracles import stepping
from tools.zoo.rows import ROWS


def deeper(found, layers, **more):
    plan = pipeline.plan(
        found.anatomy, None, Target(layers=layers, deeper=True, **more), importance="uniform", method="none"
    )
    return plan, pipeline.clone(found.model, plan, anatomy=found.anatomy)


@pytest.mark.parametrize(("layers", "order"), [(4, [0, 1, 1, 2]), (7, [0, 0, 1, 1, 1, 2, 2])], ids=str)
def test_the_clone_is_the_architecture_with_those_layers(found, layers, order):
    plan, made = deeper(found, layers)
    reference = models.parent(found.name, models.options(found.name, exporter=found.exporter))
    *path, last = LAYERS[found.name]
    holder = reduce(getattr, path, reference.module)
    blocks = list(getattr(holder, last))
    setattr(holder, last, torch.nn.ModuleList(deepcopy(blocks[k]) for k in order))
    reference.module.config.num_hidden_layers = len(order)
    for got, (batch, length) in zip(outputs(made), SIZES, strict=True):
        fed = {n: torch.from_numpy(a) for n, a in feeds(found.model, batch, length).items()}
        with torch.no_grad():
            answer = reference.module(**fed)
        for name, actual in zip(reference.outputs, got, strict=True):
            assert_close(actual, answer[name].numpy())
    pipeline.verify(found.model, made, plan).raise_if_failed()


def test_copies_have_weights_of_their_own_and_a_cut_shape(found):
    plan, made = deeper(found, 4, ffn="50%", hidden="50%")
    pipeline.verify(found.model, made, plan).raise_if_failed()
    anatomy = pipeline.inspect(made)
    (stack,) = anatomy.stacks
    assert [b.index for b in stack.blocks] == [0, 1, 2, 3]
    assert len({f.group for b in stack.blocks for f in b.feed_forward}) == 4
    weights = [
        {*a.q, *a.k, *a.v, *a.o} | {*f.up, *f.down} for b in stack.blocks for a in b.attention for f in b.feed_forward
    ]
    assert all(not one & other for k, one in enumerate(weights) for other in weights[:k])
    held = made.constants()
    for one, other in zip(sorted(weights[1]), sorted(weights[2]), strict=True):
        assert held[one].shape == held[other].shape


def test_copies_are_parameters_of_their_own_that_training_tells_apart(found):
    _, made = deeper(found, 5)
    module = to_torch(made)
    own = sum(p.numel() for p in to_torch(found.model).parameters()) - found.anatomy.parameters
    assert sum(p.numel() for p in module.parameters()) == pipeline.inspect(made).parameters + own
    before, back = made.constants(), from_torch(made, module).constants()
    assert before.keys() == back.keys()
    assert all(array.tobytes() == back[name].tobytes() for name, array in before.items())
    fed = {name: torch.from_numpy(array) for name, array in feeds(found.model, 2, 7).items()}
    sum(value.square().mean() for value in module(**fed).values()).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    after = from_torch(made, module).constants()
    copies = [name for name, array in before.items() if "_again" in name and array.ndim == 2 and array.size >= 64]
    assert copies
    for name in copies:
        twin = name.partition("_again")[0]
        assert before[name].tobytes() == before[twin].tobytes()
        assert not np.array_equal(after[name], after[twin]), name


def test_what_is_tied_inside_stays_tied_beside_copies():
    """Embedding and head; and the two uses of one weight in the block and in each of its copies."""
    table, inner = floats(16, 4), floats(16, 8)
    nodes = [("Gather", ["e", "p"], ["x"], "", {}), ("MatMul", ["x", "in"], ["a"], "", {})]
    constants = {"e": table, "head": np.ascontiguousarray(table.T), "in": 3 * floats(4, 16), "out": 2 * floats(16, 4)}
    value = "a"
    for copy in ("", "_again1", "_again2"):
        nodes += [
            ("MatMul", [value, f"up{copy}"], [f"mid{copy}"], "", {}),
            ("MatMul", [f"mid{copy}", f"down{copy}"], [f"end{copy}"], "", {}),
        ]
        constants |= {f"up{copy}": inner, f"down{copy}": np.ascontiguousarray(inner.T)}
        value = f"end{copy}"
    nodes += [("MatMul", [value, "out"], ["z"], "", {}), ("Gemm", ["z", "head"], ["y"], "", {})]
    ties = [
        [name for name, _ in weight.initializers] for weight in weight_map(made(nodes, [("p", I64, ["b"])], constants))
    ]
    apart = [["up", "down"], ["up_again1", "down_again1"], ["up_again2", "down_again2"]]
    assert sorted(ties) == sorted([["e", "head"], ["in"], ["out"], *apart])


@pytest.mark.parametrize("column", ["cache-torchscript", "cache-dynamo"])
def test_a_copy_has_its_own_cache_numbered_in_between(column):
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS["llama"], COLUMNS[column], folder):
        build.build(ROWS["llama"], COLUMNS[column], folder)
    model = graph.load(build.file_of(ROWS["llama"], COLUMNS[column], folder))
    anatomy = pipeline.inspect(model)
    plan = Plan(anatomy.fingerprint, {}, {"blocks": (2,)}, method="none", repeat_blocks={"blocks": (0,)})
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    numbers = [
        [f"{stem}.{k}.{part}" for k in range(3) for part in ("key", "value")] for stem in ("past_key_values", "present")
    ]
    assert [
        sorted(t.name for t in side if "key_values" in t.name or "present" in t.name)
        for side in (made.graph.inputs, made.graph.outputs)
    ] == numbers
    assert float(stepping(made)) < 1e-4


def test_without_being_asked_nothing_is_repeated(found):
    with pytest.raises(InvalidTarget, match="layers 4: without --deeper blocks has 3 and can have 1 to 3"):
        pipeline.plan(found.anatomy, None, Target(layers=4), importance="first")
    plan = Plan(found.anatomy.fingerprint, {}, {"blocks": (1,)}, method="none", repeat_blocks={"blocks": (1,)})
    with pytest.raises(InvalidTarget, match="blocks keeps no block 1 to repeat"):
        pipeline.clone(found.model, plan, anatomy=found.anatomy)


def test_a_plan_that_repeats_survives_json(found):
    plan, _ = deeper(found, 5)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.target == {"layers": 5}
    assert np.array_equal(plan.repeat_blocks["blocks"], (0, 1))

"""Weights that several nodes read: a block's own in every layer (ALBERT), equal vectors that an exporter merged."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import graph, pipeline
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import Target
from models.building import cache_folder
from tests.surgery.parents import parent, with_constants
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS


@pytest.fixture(scope="module", params=["torchscript", "dynamo"])
def albert(request):
    """The file; by dynamo each layer has a transposed copy of the one weight."""
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    row, column = ROWS["albert"], COLUMNS[request.param]
    if not build.present(row, column, folder):
        build.build(row, column, folder)
    return folder / f"albert-{request.param}.onnx"


def matrices(model):
    return [n for n, a in model.constants().items() if a.ndim == 2 and a.dtype.kind == "f" and a.size > 400]


def test_layers_that_share_their_weights_are_one_set_of_groups(albert):
    model = graph.load(albert)
    anatomy = pipeline.inspect(model)
    (stack,) = anatomy.stacks
    assert len({f.group for b in stack.blocks for f in b.feed_forward}) == 1
    assert len({g for b in stack.blocks for a in b.attention for g in a.head_groups}) == 1
    kinds = [g.kind for g in anatomy.groups.values() if not g.pinned and g.kind != "other"]
    assert sorted(kinds) == sorted(set(kinds)), "a group for each layer"
    assert len(matrices(model)) == 10  # words, positions, into the stream, q, k, v, o, up, down, dense


def test_they_are_cut_once_and_stay_one(albert):
    model = graph.load(albert)
    anatomy = pipeline.inspect(model)
    target = Target(hidden="50%", heads="50%", ffn="60%", layers=2)
    plan = pipeline.plan(anatomy, None, target, importance="uniform", method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    (stack,) = pipeline.inspect(made).stacks
    assert (stack.hidden, len(stack.blocks), stack.blocks[0].feed_forward[0].ffn) == (24, 2, 60)
    inner = {a.q[0] for b in stack.blocks for a in b.attention} | {
        f.up[0] for b in stack.blocks for f in b.feed_forward
    }
    assert len(inner) == 2


def test_a_layer_goes_and_its_weights_stay(albert):
    model = graph.load(albert)
    anatomy = pipeline.inspect(model)
    plan = Plan(anatomy.fingerprint, {}, {"blocks": (0, 2)}, method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    assert made.constants().keys() == {n for n in model.constants() if n in made.constants()}
    assert len(matrices(made)) == len(matrices(model))
    pipeline.verify(model, made, plan).raise_if_failed()


def merged(found):
    """The seeded parent with every feed-forward's bias equal, and one tensor, as exporters merge zeros."""
    biases = [
        ref.tensor
        for block in found.anatomy.stacks[0].blocks
        for part in block.feed_forward
        for ref in found.anatomy.groups[part.group].axes
        if found.model.constants()[ref.tensor].ndim == 1
    ]
    value = np.full_like(found.model.constants()[biases[0]], 0.25)
    made = with_constants(found.model, dict.fromkeys(biases, value)).graph
    for node in made.nodes:
        for k, tensor in enumerate(node.inputs):
            if tensor.name in biases:
                node.inputs[k] = made.tensors()[biases[0]]
    return Model(made), biases[0]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_equal_tensors_are_taken_apart_and_shared_again(exporter, rng):
    model, name = merged(parent("gpt2", exporter))
    anatomy = pipeline.inspect(model)
    groups = [f.group for b in anatomy.stacks[0].blocks for f in b.feed_forward]
    assert len(set(groups)) == 3, "unrelated blocks are tied by a merged bias"
    size = anatomy.groups[groups[0]].size

    def biases(keep):
        made = pipeline.clone(model, Plan(anatomy.fingerprint, keep, method="none"), anatomy=anatomy)
        held = [t for n in made.graph.nodes for t in n.inputs if isinstance(t, gs.Constant)]
        return {t.name for t in held if t.name.startswith(name)}, made

    same, _ = biases(dict.fromkeys(groups, tuple(range(0, size, 2))))
    assert same == {name}
    kept = {g: tuple(sorted(map(int, rng.permutation(size)[: size // 2]))) for g in groups}
    apart, made = biases(kept)
    assert len(apart) == 3
    assert {made.constants()[n].shape for n in apart} == {(size // 2,)}


def test_equal_weights_of_separate_blocks_stay_apart():
    """A block that was duplicated learns on its own: equal bytes alone tie nothing."""
    found = parent("gpt2", "torchscript")
    blocks = found.anatomy.stacks[0].blocks
    (first,), (second,) = blocks[0].feed_forward[0].up, blocks[1].feed_forward[0].up
    values = {second: found.model.constants()[first]}
    proto, arrays = graph.to_proto(with_constants(found.model, values))
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = np.ascontiguousarray(arrays[tensor.name]).tobytes()
    again = graph.from_proto(proto)
    assert {first, second} <= again.constants().keys()
    anatomy = pipeline.inspect(again)
    assert len({f.group for b in anatomy.stacks[0].blocks for f in b.feed_forward}) == 3

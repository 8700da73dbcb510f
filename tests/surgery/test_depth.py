"""Depth: a clone without blocks is the parent without them, in ONNX and in PyTorch."""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.plan import Plan
from graphclone.surgery.drop_blocks import move_readers_of_inputs
from graphclone.surgery.operate import clone
from models.building import cache_folder
from tests.conftest import SEEDED_EXPORTS
from tests.surgery.parents import SIZES, feeds, outputs, parent, with_constants
from tests.tolerances import assert_close
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.oracles import stepping
from tools.zoo.rows import ROWS

LAYERS = {  # where each architecture keeps its list of blocks
    "gpt2": ("transformer", "h"),
    "llama": ("model", "layers"),
    "bert": ("encoder", "layer"),
    "vit-tiny": ("vit", "layers"),
}
PRE_NORM = [cell for cell in SEEDED_EXPORTS if cell[0] != "bert"]  # a post-norm block that adds nothing normalises
DROPS = [(0,), (1, 2), (0, 2)]


def silenced(found, drop):
    """The parent with what the dropped blocks add to the stream, biases too, set to zero."""
    values, constants = {}, found.model.constants()
    makers = {t.name: n for n in found.model.graph.nodes for t in n.outputs}
    for linear in found.anatomy.linears:
        block = next((b.index for b in found.anatomy.stacks[0].blocks if linear.node in b.nodes), None)
        if block in drop and "residual" in linear.writes:
            values[linear.weight] = np.zeros_like(constants[linear.weight])
            for node in (makers[linear.output], *makers[linear.output].outputs[0].outputs):
                if node.op in ("Add", "Gemm"):
                    biases = [t for t in node.inputs if isinstance(t, gs.Constant) and t.values.ndim == 1]
                    values |= {t.name: np.zeros_like(t.values) for t in biases}
    return with_constants(found.model, values)


@pytest.mark.parametrize("drop", DROPS, ids=str)
@pytest.mark.parametrize(("name", "exporter"), PRE_NORM, ids="-".join)
def test_dropped_blocks_equal_the_parent_where_they_add_nothing(name, exporter, drop):
    found = parent(name, exporter)
    for got, want in zip(outputs(found.cut({}, drop=drop)), outputs(silenced(found, drop)), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("drop", [(0,), (1, 2)], ids=str)
def test_dropped_blocks_equal_the_architecture_without_them(found, drop):
    reference = models.parent(found.name, models.options(found.name, exporter=found.exporter))
    *path, last = LAYERS[found.name]
    holder = reduce(getattr, path, reference.module)
    kept = [block for index, block in enumerate(getattr(holder, last)) if index not in drop]
    setattr(holder, last, torch.nn.ModuleList(kept))
    reference.module.config.num_hidden_layers = len(kept)
    for got, (batch, length) in zip(outputs(found.cut({}, drop=drop)), SIZES, strict=True):
        fed = {n: torch.from_numpy(a) for n, a in feeds(found.model, batch, length).items()}
        with torch.no_grad():
            answer = reference.module(**fed)
        for name, actual in zip(reference.outputs, got, strict=True):
            assert_close(actual, answer[name].numpy())


@pytest.mark.parametrize("drop", [(1,), (0, 2)], ids=str)
def test_nothing_of_a_dropped_block_is_left(found, drop):
    made = found.cut({}, drop=drop)
    gone = {n for b in found.anatomy.stacks[0].blocks if b.index in drop for n in b.nodes}
    kept_names = {t.name for t in found.model.graph.outputs}  # an output keeps its name wherever it comes from
    assert [t.name for t in made.graph.outputs] == [t.name for t in found.model.graph.outputs]
    assert not gone & {t.name for n in made.graph.nodes for t in n.outputs} - kept_names
    stayed = {n for b in found.anatomy.stacks[0].blocks if b.index not in drop for n in b.nodes}
    of_weights = {ln.weight for ln in found.anatomy.linears if ln.node in gone}
    assert of_weights
    assert not of_weights & made.constants().keys()
    assert {ln.weight for ln in found.anatomy.linears if ln.node in stayed} <= made.constants().keys()
    assert [b.index for b in inspect(made).stacks[0].blocks] == list(range(3 - len(drop)))
    used = {t.name for n in made.graph.nodes for t in n.inputs} | {t.name for t in made.graph.outputs}
    assert all(any(t.name in used for t in n.outputs) for n in made.graph.nodes), "dead nodes"
    assert made.constants().keys() <= used, "dead weights"


def test_a_single_block_stays_a_clone_that_can_be_read(found):
    made = found.cut({}, drop=[0, 1])
    (stack,) = inspect(made).stacks
    (block,) = stack.blocks
    original = found.anatomy.stacks[0].blocks[2]
    assert [len(p) for p in (block.attention, block.feed_forward, block.norms)] == [
        len(p) for p in (original.attention, original.feed_forward, original.norms)
    ]
    assert stack.hidden == found.anatomy.stacks[0].hidden


@pytest.mark.parametrize(("named", "moved"), [("past", True), (None, False)])
def test_sizes_read_off_the_cache_of_a_dropped_block_are_read_off_another(named, moved):
    """As dynamo exports a decoder with a cache: the length of the past is that of one block's, for all."""
    caches = [gs.Variable(f"past.{k}", np.float32, ["batch", 2, named, 4]) for k in range(2)]
    presents = [gs.Variable(f"present.{k}", np.float32) for k in range(2)]
    steps = [gs.Node("Identity", inputs=[c], outputs=[p]) for c, p in zip(caches, presents, strict=True)]
    size = gs.Node("Shape", inputs=[caches[0]], outputs=[gs.Variable("size", np.int64)])
    graph = gs.Graph(nodes=[size, *steps], inputs=caches, outputs=[*presents, *size.outputs])
    move_readers_of_inputs(graph, {id(steps[0])})
    assert size.inputs[0] is caches[1 if moved else 0], "an axis without a name may be of any length"


def test_the_caches_of_what_is_left_are_numbered_from_the_first():
    """The first block's cache is also what the length of the past is read off."""
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    row, column = ROWS["qwen3"], COLUMNS["cache-torchscript"]
    if not build.present(row, column, folder):
        build.build(row, column, folder)
    model = graph.load(build.file_of(row, column, folder))
    anatomy = inspect(model)
    made = clone(model, anatomy, Plan(anatomy.fingerprint, {}, {"blocks": (0,)}, method="none"))
    names = [f"past_key_values.{k}.{part}" for k in range(2) for part in ("key", "value")]
    assert sorted(t.name for t in made.graph.inputs if "past" in t.name) == names
    assert float(stepping(made)) < 1e-4

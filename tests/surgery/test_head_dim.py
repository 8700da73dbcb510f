"""head_dim: the same positions of every head, rotary pairs whole, and the scale of the scores follows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import AxisRef
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.feeds import tiny_feeds
from graphclone.planner import Target
from graphclone.surgery.head_scale import rooted
from tests.surgery.parents import Parent, outputs, parent, with_constants
from tests.surgery.rescaled import rescaled
from tests.surgery.silenced import answer
from tests.surgery.tied import HEADS, HIDDEN, Decoder, assembled
from tests.surgery.zoo_parent import zoo_parent
from tests.tolerances import assert_close


@pytest.mark.parametrize("importance", ["first", "uniform", "random"])
def test_the_clone_is_the_parent_with_zeroed_dimensions_at_its_own_scale(found, importance):
    """Held against the whole parent: kept pairs turn at their own frequencies, and scores are divided by sqrt(d')."""
    whole = found.anatomy.stacks[0].blocks[0].attention[0].head_dim
    plan = pipeline.plan(found.anatomy, None, Target(head_dim="50%"), importance=importance, method="none")
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    reference = rescaled(found, plan.keep, np.sqrt(whole / (whole // 2)))
    for got, want in zip(outputs(made), outputs(reference), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)


def test_the_clone_has_the_head_that_was_asked_for(found):
    whole = found.anatomy.stacks[0].blocks[0].attention[0].head_dim
    plan = pipeline.plan(found.anatomy, None, Target(head_dim=whole // 2, heads="50%"), importance="uniform")
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    pipeline.verify(found.model, made, plan).raise_if_failed()
    assert plan.target["head_dim"] == whole // 2
    for block in inspect(made).stacks[0].blocks:
        assert {(a.head_dim, a.v_dim) for a in block.attention} == {(whole // 2, whole // 2)}


def test_rotary_pairs_are_kept_whole_and_alike_in_queries_and_keys():
    for exporter in ("dynamo", "torchscript"):
        found = parent("llama", exporter)
        with pytest.raises(InvalidTarget, match=r"head_dim 3: block 0 has 8 and can have 2, 4, 6, 8; nearest: 2 or 4"):
            pipeline.plan(found.anatomy, None, Target(head_dim=3), importance="uniform")
        (attention,) = found.anatomy.stacks[0].blocks[0].attention
        ((group, held),) = attention.qk_dims
        assert (found.anatomy.groups[group].size, held) == (4, 8)
        for weights, heads in ((attention.q, 8), (attention.k, 4)):
            linear = next(ln for ln in found.anatomy.linears if ln.weight == weights[0])
            pairs = dict(found.anatomy.axes[AxisRef(linear.weight, linear.out_axis)])[group]
            assert np.array_equal(pairs, np.tile(np.arange(4), 2 * heads))  # (i, i + r/2)


LAYOUTS = {  # how heads lie in a projection, and pairs in a head
    ("phi", "torchscript"): "a part of the head turns",
    ("phi3", "torchscript"): "queries, keys and values in one weight",
    ("gpt-neox", "torchscript"): "so they are, head by head, and a part turns",
    ("cohere", "dynamo"): "pairs side by side (2i, 2i + 1)",
    ("codegen", "torchscript"): "so they are, in a part of the head; scores are divided behind their mask",
}


@pytest.mark.parametrize(("name", "column"), LAYOUTS)
def test_pairs_stay_pairs_in_every_layout(name, column):
    found = zoo_parent(name, column)
    plan = pipeline.plan(found.anatomy, None, Target(head_dim="50%"), importance="uniform", method="none")
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    fed = tiny_feeds(found.model, 2, 9)
    assert_close(answer(made, fed), answer(rescaled(found, plan.keep, np.sqrt(2)), fed))
    other = {n: k for n, k in plan.keep.items() if found.anatomy.groups[n].kind == "v_dim"}
    spared = next(n for n, k in plan.keep.items() if found.anatomy.groups[n].kind == "qk_dim" and len(k) > 1)
    other |= {n: k for n, k in plan.keep.items() if n not in other} | {spared: plan.keep[spared][1:]}
    with pytest.raises(AssertionError, match="differs by"):
        assert_close(answer(made, fed), answer(rescaled(found, other, np.sqrt(2)), fed))
    assert {a.head_dim for b in inspect(made).stacks[0].blocks for a in b.attention} == {
        found.anatomy.stacks[0].blocks[0].attention[0].head_dim // 2
    }
    pipeline.verify(found.model, made, plan).raise_if_failed()


ROOT = {"root": np.array((HIDDEN // HEADS) ** 0.5, np.float32)}
MASK = {"far": np.array(99, np.float32), "never": np.array(-1e4, np.float32)}
BEFORE = {  # what scores pass before they are divided -> nodes, _ for what the last one made; numbers they read
    "nothing": ((), {}),
    "an axis more": ((("Unsqueeze", "_ at"),), {"at": np.array([0])}),
    "a mask": ((("Less", "_ far"), ("Where", "_ scores never")), MASK),
    "a mask and an axis": ((("Less", "_ far"), ("Where", "_ scores never"), ("Unsqueeze", "_ at")), {"at": [0]} | MASK),
    "another shape": ((("Reshape", "_ flat"), ("Add", "_ far"), ("Cast", "_")), {"flat": [0, HEADS, -1]} | MASK),
}


@dataclass
class Scaled(Decoder):
    """Scores are divided by the root of a head's width; ``before``: a name of BEFORE."""

    before: str = "nothing"

    def scores(self, q, k, i):
        made = scores = super().scores(q, k, i)
        nodes, numbers = BEFORE[self.before]
        self.weights |= {name: np.asarray(value) for name, value in (numbers | ROOT).items()}
        for place, (op, read) in enumerate(nodes):
            inputs = [{"_": made, "scores": scores}.get(name, name) for name in read.split()]
            made = self.add(op, inputs, f"{scores}.{place}", **({"to": 1} if op == "Cast" else {}))
        made = self.add("Div", [made, "root"], f"{scores}.divided")
        return self.add("Reshape", [made, self.add("Shape", [scores], f"{scores}.shape")], f"{scores}.scaled")


WIDTH = HIDDEN // HEADS
ANGLES = np.tile(np.linspace(0.3, 1.1, WIDTH // 2), 2)
SIGNS = np.repeat([-1.0, 1.0], WIDTH // 2)  # of the halves, exchanged
EXCHANGE = np.roll(np.arange(WIDTH), WIDTH // 2)


@dataclass
class Turned(Decoder):
    """Queries and keys are turned by x cos + exchanged(x) sin; ``by``: a constant matrix, or indices and signs."""

    by: str = "matrix"

    def scores(self, q, k, i):
        self.weights |= {"cos": np.cos(ANGLES), "sin": np.sin(ANGLES), "signs": SIGNS}
        self.weights |= {f"{name}_column": self.weights[name][:, None] for name in ("cos", "sin", "signs")}
        self.weights["matrix"] = (np.eye(WIDTH)[EXCHANGE] * SIGNS[:, None]).T
        self.weights["matrix_column"] = self.weights["matrix"].T
        self.weights |= {n: a.astype(np.float32) for n, a in self.weights.items() if a.dtype == np.float64}
        self.weights["order"] = EXCHANGE
        return super().scores(self.turned(q, ""), self.turned(k, "_column"), i)

    def turned(self, x, column):
        """The dimensions of a head are rows where ``column`` says so."""
        if self.by == "matrix":
            other = self.add("MatMul", [f"matrix{column}", x] if column else [x, "matrix"], f"{x}.other")
        else:
            moved = self.add("Gather", [x, "order"], f"{x}.moved", axis=2 if column else 3)
            other = self.add("Mul", [moved, f"signs{column}"], f"{x}.other")
        parts = [self.add("Mul", [t, f"{n}{column}"], f"{t}.{n}") for t, n in ((x, "cos"), (other, "sin"))]
        return self.add("Add", parts, f"{x}.turned")


def test_a_matrix_that_moves_numbers_keeps_their_pairs():
    clones = []
    for by in ("matrix", "indices"):
        model = assembled(Turned(by=by))
        anatomy = inspect(model)
        with pytest.raises(InvalidTarget, match=r"head_dim 1: block 0 has 4 and can have 2, 4"):
            pipeline.plan(anatomy, None, Target(head_dim=1), importance="first", method="none")
        plan = pipeline.plan(anatomy, None, Target(head_dim=2), importance="first", method="none")
        clones.append(pipeline.clone(model, plan, anatomy=anatomy))
        pipeline.verify(model, clones[-1], plan).raise_if_failed()
    fed = tiny_feeds(model, 2, 9)
    assert_close(answer(clones[0], fed), answer(clones[1], fed))
    assert np.array_equal(clones[0].constants()["matrix"], [[0, 1], [-1, 0]])


@pytest.mark.parametrize("before", BEFORE)
def test_the_divisor_of_scores_follows_wherever_it_stands(before):
    model = assembled(Scaled(before=before))
    found = Parent(before, "by hand", model, inspect(model))
    plan = pipeline.plan(found.anatomy, None, Target(head_dim="50%"), importance="uniform", method="none")
    made = pipeline.clone(model, plan, anatomy=found.anatomy)
    fed = tiny_feeds(model, 2, 9)
    assert_close(answer(made, fed), answer(rescaled(found, plan.keep, np.sqrt(2)), fed))
    pipeline.verify(model, made, plan).raise_if_failed()


def root(width, power=-0.5, shape=()):
    return np.full(shape, width**power, np.float32)


WRITTEN = {  # what divides scores, in a model of heads of a width -> nodes as in BEFORE, and the numbers they read
    "a vector": lambda d: ((("Mul", "q by"),), {"by": root(d, shape=d)}),
    "a number a head": lambda d: ((("Mul", "_ by"),), {"by": root(d, shape=(1, HEADS, 1, 1))}),
    "two fourth roots": lambda d: ((("Div", "_ by"), ("Div", "_ by")), {"by": root(d, 0.25)}),
    "its negative": lambda d: ((("Mul", "_ by"), ("Neg", "_")), {"by": -root(d)}),
    "the largest taken off": lambda d: (
        (("ReduceMax", "_"), ("Sub", "scores _"), ("Mul", "_ by")),
        {"by": root(d)},
    ),
    "a temperature beside it": lambda d: (
        (("Mul", "_ by"), ("Mul", "_ half")),
        {"by": root(d), "half": root(4, -0.25)},
    ),
    "a temperature alone": lambda d: ((("Mul", "_ half"),), {"half": root(4, -0.25)}),
}


@dataclass
class Written(Decoder):
    """Scores are scaled in one of the ways of WRITTEN, as the configuration of heads ``width`` wide gives it."""

    how: str = ""
    width: int = WIDTH

    def scores(self, q, k, i):
        nodes, numbers = WRITTEN[self.how](self.width)
        self.weights |= {name: np.asarray(number) for name, number in numbers.items()}
        if nodes[0][1].startswith("q"):
            return super().scores(self.add("Mul", [q, "by"], f"{q}.scaled"), k, i)
        made = scores = super().scores(q, k, i)
        for place, (op, read) in enumerate(nodes):
            inputs = [{"_": made, "scores": scores}.get(name, name) for name in read.split()]
            made = self.add(op, inputs, f"{scores}.{place}", **({"axes": [-1]} if op == "ReduceMax" else {}))
        return made


@pytest.mark.parametrize("how", WRITTEN)
def test_the_root_follows_however_it_is_written_and_nothing_else(how):
    """Held against the same architecture at the clone's width, with the clone's weights."""
    model = assembled(Written(how=how))
    anatomy = inspect(model)
    plan = pipeline.plan(anatomy, None, Target(head_dim="50%"), importance="uniform", method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    numbers = WRITTEN[how](WIDTH // 2)[1]
    twin = with_constants(made, {})
    before = {node.outputs[0].name: node for node in model.graph.nodes}
    for node in twin.graph.nodes:
        old = before.get(node.outputs[0].name)
        for place in range(len(node.inputs)):
            name = old.inputs[place].name if old is not None and place < len(old.inputs) else ""
            if name in numbers:
                node.inputs[place] = gs.Constant(f"{node.name}.{place}.twin", np.asarray(numbers[name]))
    fed = tiny_feeds(model, 2, 9)
    assert_close(answer(made, fed), answer(twin, fed))


def test_factors_that_may_each_be_the_root_are_refused_by_name():
    twice = (("Mul", "_ by"), ("Mul", "_ by"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WRITTEN, "both", lambda d: (twice, {"by": root(d)}))
        model = assembled(Written(how="both"))
    plan = pipeline.plan(inspect(model), None, Target(head_dim="50%"), importance="uniform", method="none")
    with pytest.raises(UnsupportedGraph, match=r"each of scores0.0, scores0.1 may be what divides scores by the root"):
        pipeline.clone(model, plan)


def test_frequencies_that_are_picked_one_by_one_are_a_refusal_with_the_reason():
    found = zoo_parent("gpt-j", "torchscript")
    with pytest.raises(InvalidTarget, match=r"picked one by one by GatherElements node .* can have 8; nearest: 8"):
        pipeline.plan(found.anatomy, None, Target(head_dim=4), importance="uniform", method="none")


@pytest.mark.parametrize(("full", "kept"), [*product((16, 64, 80, 128), (8, 48))])
def test_every_root_that_a_scale_is_written_as_is_known(full, kept):
    for power in (0.5, -0.5, 0.25, -0.25):
        assert rooted(full**power, full, kept) == pytest.approx(kept**power)
        assert rooted(float(np.float16(full**power)), full, kept) == pytest.approx(kept**power)
    assert rooted(1.0, full, kept) is None
    assert rooted(full**-0.5 * 1.02, full, kept) is None
    assert rooted(full**-0.5, full, full) is None

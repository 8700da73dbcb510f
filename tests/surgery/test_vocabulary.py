"""Vocabulary: the parent's logits at the tokens kept, on ids counted anew; with every other cut, and by itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import graphclone as gc
from graphclone.anatomy import inspect
from graphclone.anatomy.vocabulary import TRIMMED, find
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.surgery.operate import clone
from tests.surgery.parents import VOCAB, Parent, feeds, parent, session
from tests.tolerances import assert_close

TEXT = [("gpt2", "dynamo"), ("llama", "torchscript"), ("bert", "dynamo")]
KEPT = (0, 1, 2, 7, *range(20, 90, 3), 130)


@pytest.fixture(params=TEXT, ids="-".join)
def text(request) -> Parent:
    return parent(*request.param)


def keep(found: Parent, kept=KEPT) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys((g.name for g in found.anatomy.groups.values() if g.kind == "vocabulary"), kept)


def assert_kept_tokens_are_equal(before: Model, after: Model, kept=KEPT) -> None:
    """``before`` has all tokens."""
    ids = np.asarray(kept)
    few, many = session(after), session(before)
    for batch, length in ((1, 3), (2, 7), (3, 11)):
        fed = feeds(after, batch, length)
        fed["input_ids"] %= len(ids)
        expected = many.run(None, {**fed, "input_ids": ids[fed["input_ids"]]})
        for a, b in zip(few.run(None, fed), expected, strict=True):
            assert_close(a, b[..., ids] if b.shape[-1] == VOCAB else b)


def test_alone_it_changes_no_kept_logit(text):
    made = text.cut(keep(text))
    assert all(t.shape[-1] != VOCAB for t in made.graph.outputs)
    assert_kept_tokens_are_equal(text.model, made)
    report = gc.verify(text.model, made)
    assert report.passed
    assert next(c for c in report.checks if c.name == "vocabulary").passed
    assert next(c for c in report.checks if c.name == "equals the zeroed parent").passed
    assert inspect(made).parameters < text.anatomy.parameters


def test_with_everything_else_it_equals_the_same_clone_with_all_tokens(text, rng):
    others = text.some(rng, 0.5, "residual", "ffn", "head", "kv_head", "tail")
    whole, made = (text.cut({**others, **more}, "paper", drop=[1]) for more in ({}, keep(text)))
    assert_kept_tokens_are_equal(whole, made)
    assert gc.verify(text.model, made).passed


def test_depth_alone_with_it(text):
    whole, made = (text.cut(more, "paper", drop=[0]) for more in ({}, keep(text)))
    assert_kept_tokens_are_equal(whole, made)


def test_a_cut_of_a_cut_is_the_cut_of_both(text):
    once = text.cut(keep(text))
    half = tuple(range(0, len(KEPT), 2))
    middle = Parent("cut", "", once, inspect(once))
    twice = middle.cut(keep(middle, half))
    both = text.cut(keep(text, KEPT[::2]))
    assert {n: a.tobytes() for n, a in twice.constants().items()} == {
        n: a.tobytes() for n, a in both.constants().items()
    }


def test_a_tied_head_stays_tied():
    found = parent("gpt2", "dynamo")
    groups = [g for g in found.anatomy.groups.values() if g.kind == "vocabulary"]
    assert [(g.size, g.pinned) for g in groups] == [(VOCAB, TRIMMED)]
    shapes = [a.shape for a in found.cut(keep(found)).constants().values()]
    assert shapes.count((len(KEPT), found.anatomy.stacks[0].hidden)) == 1
    assert not any(VOCAB in shape for shape in shapes)


def edited(found: Parent, edit) -> Parent:
    """The parent with nodes put before its first output."""
    model = Model(found.model.copy().graph)
    edit(model.graph)
    model.graph.cleanup().toposort()
    return Parent("edited", "", model, inspect(model))


def node(graph: gs.Graph, op: str, inputs: list[gs.Tensor], dtype, **attributes) -> gs.Variable:
    out = gs.Variable(f"{op}_{len(graph.nodes)}", dtype)
    graph.nodes.append(gs.Node(op, out.name, attributes, inputs, [out]))
    return out


def silent_at(token: int):
    """Logits are zero where the id is ``token``: as padding ids are told apart inside many graphs."""

    def edit(graph: gs.Graph) -> None:
        (ids,) = (t for t in graph.inputs if t.name == "input_ids")
        logits = graph.outputs[0]
        here = node(graph, "Equal", [ids, gs.Constant("padding", np.array(token))], np.bool_)
        wide = node(graph, "Unsqueeze", [here, gs.Constant("last", np.array([-1]))], np.bool_)
        zero = gs.Constant("zero", np.array(0, np.float32))
        graph.outputs[0] = node(graph, "Where", [wide, zero, logits], np.float32)
        graph.outputs[0].shape = logits.shape

    return edit


def test_ids_that_the_graph_names_are_counted_anew():
    found = edited(parent("llama", "dynamo"), silent_at(7))
    assert find(found.model, found.anatomy).needed == (7,)
    made = found.cut(keep(found))
    assert_kept_tokens_are_equal(found.model, made)
    silent = session(made).run(None, {**feeds(made, 1, 3), "input_ids": np.full((1, 3), KEPT.index(7))})[0]
    assert not silent.any()
    assert gc.verify(found.model, made).passed
    with pytest.raises(InvalidTarget, match="names the token 7"):
        found.cut(keep(found, KEPT[4:]))


def test_the_examiner_sees_a_token_that_is_another():
    found = edited(parent("llama", "dynamo"), silent_at(7))
    made = found.cut(keep(found))
    (name,) = (n for n, c in json.loads(made.metadata["graphclone.slices"]).items() if c.get("tokens"))
    made.graph.tensors()[name].values = np.array(KEPT.index(20))
    failed = {c.name for c in gc.verify(found.model, made).failures}
    assert "weights are the parent's slices" in failed
    found = parent("gpt2", "dynamo")
    made = found.cut(keep(found))
    (name,) = (n for n, a in made.constants().items() if a.shape[:1] == (len(KEPT),))
    made.graph.tensors()[name].values = np.roll(made.constants()[name], 1, axis=0)
    assert {"weights are the parent's slices", "vocabulary"} <= {c.name for c in gc.verify(found.model, made).failures}


def doubled(graph: gs.Graph) -> None:
    (ids,) = (t for t in graph.inputs if t.name == "input_ids")
    graph.outputs.append(node(graph, "Mul", [ids, gs.Constant("two", np.array(2))], np.int64))
    graph.outputs[-1].shape = ["batch", "sequence"]


def likely(graph: gs.Graph) -> None:
    logits = graph.outputs[0]
    graph.outputs[0] = node(graph, "Softmax", [logits], np.float32, axis=-1)
    graph.outputs[0].shape = logits.shape


def flagged(dtype):
    """Each logit times a flag of its token, from a table that is no weight."""

    def edit(graph: gs.Graph) -> None:
        (ids,) = (t for t in graph.inputs if t.name == "input_ids")
        logits = graph.outputs[0]
        table = gs.Constant("flags", (np.arange(VOCAB) == 7).astype(dtype))
        flags = node(graph, "Cast", [node(graph, "Gather", [table, ids], dtype)], np.float32, to=1)
        wide = node(graph, "Unsqueeze", [flags, gs.Constant("last", np.array([-1]))], np.float32)
        graph.outputs[0] = node(graph, "Mul", [logits, wide], np.float32)
        graph.outputs[0].shape = logits.shape

    return edit


def compared_inside(op):
    """An If whose body reads the ids: for their shape alone, or to compare them."""

    def edit(graph: gs.Graph) -> None:
        (ids,) = (t for t in graph.inputs if t.name == "input_ids")
        logits = graph.outputs[0]
        longest = node(graph, "ReduceMax", [node(graph, "Shape", [ids], np.int64)], np.int64, keepdims=0)
        chosen = node(graph, "Greater", [longest, gs.Constant("five", np.array(5))], np.bool_)
        bodies = {}
        for branch, token in (("then_branch", 7), ("else_branch", 8)):
            body = gs.Graph(opset=graph.opset)
            named = [gs.Constant(f"{branch}_named", np.array(token))] if op == "Equal" else []
            met = node(body, op, [ids, *named], np.bool_ if named else np.int64)
            seen = node(body, "Cast", [met], np.float32, to=1)
            made = node(body, "ReduceSum", [seen], np.float32, keepdims=0)
            for tensor, name in ((met, "met"), (seen, "seen"), (made, "made")):
                tensor.name = f"{branch}_{name}"
            made.shape = ()
            body.outputs = [made]
            bodies[branch] = body
        factor = node(graph, "If", [chosen], np.float32, **bodies)
        graph.outputs[0] = node(graph, "Mul", [logits, factor], np.float32)
        graph.outputs[0].shape = logits.shape

    return edit


def test_a_body_that_asks_ids_for_their_shape_alone_is_no_hindrance():
    found = edited(parent("llama", "dynamo"), compared_inside("Shape"))
    assert_kept_tokens_are_equal(found.model, found.cut(keep(found)))


REFUSED = {
    "ids": (doubled, "computes with"),
    "softmax": (likely, "Softmax"),
    "integers": (flagged(np.int64), "a table of integers"),
    "truths": (flagged(np.bool_), "a table of integers"),
    "a body": (compared_inside("Equal"), "the body of If"),
}


@pytest.mark.parametrize(("edit", "why"), REFUSED.values(), ids=REFUSED)
def test_a_graph_that_says_more_of_tokens_is_refused_with_the_reason(edit, why):
    found = edited(parent("llama", "dynamo"), edit)
    with pytest.raises(UnsupportedGraph, match=why):
        find(found.model, found.anatomy)
    with pytest.raises(InvalidTarget, match=f"cannot be cut.*{why}"):
        found.cut(keep(found))


def test_plans_that_are_no_vocabulary_are_refused():
    found = parent("llama", "dynamo")
    assert len(keep(found)) == 2  # embedding and head of their own
    with pytest.raises(InvalidTarget, match="are one vocabulary"):
        found.cut({"vocabulary": KEPT})
    with pytest.raises(InvalidTarget, match="keep their order"):
        found.cut(keep(found, KEPT[::-1]))
    vit = parent("vit-tiny", "dynamo")
    with pytest.raises(UnsupportedGraph, match="no vocabulary"):
        find(vit.model, vit.anatomy)


def test_the_library_plans_tokens_alone_and_beside_a_target():
    found = parent("llama", "dynamo")
    alone = gc.plan(found.anatomy, None, gc.Target(), tokens=KEPT)
    assert (alone.keep, alone.target) == (keep(found), {"vocab": len(KEPT)})
    both = gc.plan(found.anatomy, None, gc.Target(ffn="50%"), importance="first", method="none", tokens=KEPT)
    without = gc.plan(found.anatomy, None, gc.Target(ffn="50%"), importance="first", method="none")
    assert replace(both, keep=without.keep, target=without.target) == without
    assert_kept_tokens_are_equal(clone(found.model, found.anatomy, without), clone(found.model, found.anatomy, both))

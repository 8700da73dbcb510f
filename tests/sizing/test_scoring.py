"""What judges clones: the loss of the next token where a graph tells it, the parent's distribution where it does not,
and padding never."""

from __future__ import annotations

import weakref

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import feeds
from graphclone.causality import is_causal
from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.planner import Target, plan
from graphclone.sizing import scoring
from graphclone.sizing.scoring import Judge, alikeness, scores
from graphclone.surgery.operate import clone
from tests.sizing.test_sizing import measured
from tests.surgery.parents import parent, session

VOCAB = 12
AHEAD = {  # what a position takes in beside its own token: (nodes from "e" to "s", whether that is of the past alone)
    "the sum so far": ([("CumSum", ["e", "along"], {})], True),
    "nothing else": ([("Identity", ["e"], {})], True),
    "the mean": ([("ReduceMean", ["e"], {"axes": [1]}), ("Add", ["@", "e"], {})], False),
    "the sum from the end": ([("CumSum", ["e", "along"], {"reverse": 1})], False),
}
ROUNDING = [
    ("DynamicQuantizeLinear", ["s"], {}, "q", "scale", "zero"),
    ("DequantizeLinear", ["q", "scale", "zero"], {}),
]


def predicting(head, how="nothing else", *, rounded=False):
    """logits = what a position knows @ head; tokens are unit vectors."""
    nodes = [("Gather", ["table", "input_ids"], {}, "e"), *chained(AHEAD[how][0], "s")]
    nodes += chained(ROUNDING, "r") if rounded else []
    nodes.append(("MatMul", ["r" if rounded else "s", "head"], {}, "logits"))
    constants = {"table": np.eye(VOCAB, dtype=np.float32), "head": head.astype(np.float32), "along": np.array(1)}
    return built(nodes, {"input_ids": ["b", "t"]}, constants)


def chained(steps, last):
    """Nodes one after the other, without a name for what they make; @: what the one before made."""
    made = []
    for number, (op, inputs, attributes, *outputs) in enumerate(steps):
        name = last if number == len(steps) - 1 else f"{last}.{number}"
        made.append((op, [f"{last}.{number - 1}" if i == "@" else i for i in inputs], attributes, *(outputs or [name])))
    return made


def built(nodes, inputs, constants):
    """A model of (operator, what it reads, attributes, what it writes)."""
    tensors = {name: gs.Constant(name, np.asarray(value)) for name, value in constants.items()}
    tensors |= {name: gs.Variable(name, np.int64, shape) for name, shape in inputs.items()}
    logits = tensors["logits"] = gs.Variable("logits", np.float32, ["b", "t", VOCAB])
    made = [
        gs.Node(op, f"n{number}", attributes, *([named(tensors, n) for n in names] for names in (reads, writes)))
        for number, (op, reads, attributes, *writes) in enumerate(nodes)
    ]
    return Model(gs.Graph(made, [tensors[name] for name in inputs], [logits], opset=17))


def named(tensors, name):
    return tensors.setdefault(name, gs.Variable(name))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("how", AHEAD)
def test_a_graph_is_causal_where_later_tokens_change_nothing_before(how, rounded):
    """Also where activations are rounded by the range of a whole batch, which every token may change."""
    head = np.random.default_rng(0).standard_normal((VOCAB, VOCAB))
    model = predicting(head, how, rounded=rounded)
    assert is_causal(model, "input_ids", "logits") == AHEAD[how][1]


@pytest.mark.parametrize(("recipe", "exporter"), [("llama", "dynamo"), ("gpt2", "torchscript")])
def test_language_models_are_causal(recipe, exporter):
    assert is_causal(parent(recipe, exporter).model, "input_ids", "logits")


def test_a_masked_language_model_is_judged_by_what_it_says_of_its_own_positions():
    """It is sure of the token that stands there: the worse a clone copies it, the better it looked as to the next."""
    rng = np.random.default_rng(1)
    data = [{"input_ids": rng.integers(0, VOCAB, (4, 16))} for _ in range(2)]
    whole, noise = 8 * np.eye(VOCAB), rng.standard_normal((VOCAB, VOCAB))
    model, near, far = (predicting(head, "the mean") for head in (whole, whole + 0.2 * noise, 0.1 * whole))
    judge = Judge(model, data)
    assert (judge.unit, judge.parent()) == ("divergence", 0.0)
    assert 0 < judge.score(near) < 0.1 < judge.score(far)
    rows = session(model).run(None, data[0])[0].astype(np.float64), session(far).run(None, data[0])[0]
    p, q = (np.exp(r) / np.exp(r).sum(-1, keepdims=True) for r in rows)
    assert Judge(model, data[:1]).score(far) == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-5)


def test_an_encoder_decoder_is_judged_by_the_next_token_of_its_decoder():
    """After token t comes t + 1, the decoder says, and is right; the encoder's tokens are others."""
    nodes = [
        ("Gather", ["table", "input_ids"], {}, "e"),
        ("ReduceMean", ["e"], {"axes": [1]}, "m"),
        ("Mul", ["m", "little"], {}, "z"),
        ("Gather", ["after", "decoder_input_ids"], {}, "d"),
        ("Add", ["d", "z"], {}, "logits"),
    ]
    table = 20 * np.eye(VOCAB, dtype=np.float32)
    constants = {"table": table, "after": np.roll(table, 1, axis=1), "little": np.float32(1e-3)}
    model = built(nodes, {"input_ids": ["b", "s"], "decoder_input_ids": ["b", "t"]}, constants)
    heard, told = np.random.default_rng(0).integers(0, VOCAB, (2, 8)), np.arange(8)[None].repeat(2, 0)
    judge = Judge(model, [{"input_ids": heard, "decoder_input_ids": told}])
    assert judge.unit == "loss"
    assert judge.parent() < 1e-6


@pytest.mark.parametrize("left", [False, True])
def test_padding_does_not_count_for_a_language_model(left):
    found = parent("llama", "dynamo")
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 131, (4, 32)), np.ones((4, 32), np.int64)
    real = slice(24, None) if left else slice(0, 8)
    mask[:] = 0
    mask[:, real] = 1
    mask[0] = 1  # one sequence has no padding: every token counts once, not every batch
    logits = session(found.model).run(None, {"input_ids": ids, "attention_mask": mask})[0].astype(np.float64)
    told = (mask[:, 1:] * mask[:, :-1]).astype(bool)
    losses = np.log(np.exp(logits).sum(-1))[:, :-1] - np.take_along_axis(logits[:, :-1], ids[:, 1:, None], -1)[..., 0]
    padded = np.where(mask == 1, ids, 7)
    for given in (ids, padded):
        judge = Judge(found.model, [{"input_ids": given, "attention_mask": mask}])
        assert judge.parent() == pytest.approx(losses[told].mean(), rel=1e-4)
        assert judge.score(found.model) == pytest.approx(judge.parent(), rel=1e-6)
    unpadded = {"input_ids": ids, "attention_mask": np.ones_like(mask)}
    whole = Judge(found.model, [unpadded, {"input_ids": ids[:2], "attention_mask": mask[:2] * 0 + 1}])
    assert whole.parent() != pytest.approx(losses[told].mean(), rel=1e-4)
    with pytest.raises(BadData, match="no position is left to judge by"):
        Judge(found.model, [{"input_ids": ids, "attention_mask": mask * 0}]).parent()


def test_padding_does_not_count_where_outputs_are_compared():
    found = parent("bert", "dynamo")
    rng = np.random.default_rng(0)
    mask = (np.arange(24) < np.array([[24], [5], [9], [3]])).astype(np.int64)
    batch = {"input_ids": rng.integers(0, 131, (4, 24)), "attention_mask": mask}
    narrow = clone(found.model, found.anatomy, plan(found.anatomy, None, Target(hidden="50%"), importance="uniform"))
    fed = feeds.fill(feeds.inputs(found.model), batch)
    names = [t.name for t in found.model.graph.outputs]
    wanted, got = (dict(zip(names, session(m).run(None, fed), strict=True)) for m in (found.model, narrow))
    seen = mask.astype(bool)
    each = [1 - alikeness(*(a[n][seen] if a[n].ndim == 3 else a[n] for a in (wanted, got))) for n in names]
    assert Judge(found.model, [batch]).score(narrow) == pytest.approx(np.mean(each), abs=1e-4)
    other = {**batch, "input_ids": np.where(seen, batch["input_ids"], 7)}
    assert Judge(found.model, [other]).score(narrow) == pytest.approx(np.mean(each), abs=1e-4)
    with pytest.raises(InvalidTarget, match="no mask input"):
        Judge(found.model, [batch], mask="input_ids")


def test_batches_of_one_image_are_compared_together():
    found = parent("vit-tiny", "dynamo")
    fed = feeds.tiny_feeds(found.model, 6)
    single = [{name: array[k : k + 1] for name, array in fed.items()} for k in range(6)]
    less = clone(found.model, found.anatomy, plan(found.anatomy, None, Target(layers=1), importance="first"))
    assert Judge(found.model, single).score(less) == pytest.approx(Judge(found.model, [fed]).score(less), abs=1e-4)
    assert Judge(found.model, single).parent() == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(BadData, match="fewer than two positions"):
        Judge(found.model, [{"pixel_values": fed["pixel_values"][:1, :]}]).parent()


@pytest.mark.parametrize("recipe", ["llama", "bert"])
def test_side_by_side_scores_are_the_same_and_hold_no_data(recipe):
    found = parent(recipe, "dynamo")
    first, _ = measured(found)
    others = [clone(found.model, found.anatomy, plan(found.anatomy, None, Target(layers=n), importance="first"))
              for n in (2, 1)]  # fmt: skip
    living: list[weakref.ref[np.ndarray]] = []

    def batches():
        for _ in range(12):
            made = {name: np.array(array) for name, array in first.items()}
            living.append(weakref.ref(made["input_ids"]))
            yield made
            assert sum(ref() is not None for ref in living) <= 3

    unit, found_scores = scores(found.model, others, batches())
    judge = Judge(found.model, [first])
    assert unit == judge.unit
    wanted = [judge.parent(), *map(judge.score, others)]
    assert found_scores == pytest.approx(wanted, rel=1e-2, abs=1e-6)  # other positions of the same together
    with pytest.raises(BadData, match="empty"):
        scores(found.model, others, [])


@pytest.mark.parametrize(("recipe", "numbers"), [("llama", 4 * 31), ("bert", 4 * 32 * 64 + 4 * 64)])
def test_a_judge_keeps_of_each_answer_what_its_score_takes(recipe, numbers, monkeypatch):
    """ONNX Runtime's outputs are views of the memory of their session, and sessions of their model."""
    found = parent(recipe, "dynamo")
    opened = []

    def counting(model, **options):
        opened.append(model)
        return plainly(model, **options)

    plainly = scoring.open_session
    monkeypatch.setattr(scoring, "open_session", counting)
    batches = [feeds.tiny_feeds(found.model, 4, 32, seed=k) for k in range(5)]
    judge = Judge(found.model, batches)
    assert len(opened) == 1
    for answer in judge.answers:
        arrays = [answer] if isinstance(answer, np.ndarray) else [rows.values for rows in answer.values()]
        assert sum(array.size for array in arrays) <= numbers
        assert all(array.base is None for array in arrays)
    assert judge.score(found.model) == pytest.approx(judge.parent(), abs=1e-5)

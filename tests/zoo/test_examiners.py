"""What judges the cells is judged: each comparer fails on what it is there to find."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from tools.zoo import cell, oracles, runner, table, twin
from tools.zoo.expectation import mismatches
from tools.zoo.row import Expected, Sizes
from tools.zoo.rows import ROWS

STACK = Expected(hidden=48, layers=3, heads=6, kv_heads=6, head_dim=8, ffn=100)


def product(weight, scale=1.0):
    """x @ weight * scale, x of [batch, 4]."""
    x, y = gs.Variable("x", np.float32, ["batch", 4]), gs.Variable("y", np.float32)
    out = gs.Variable("out", np.float32, ["batch", weight.shape[1]])
    nodes = [
        gs.Node("MatMul", inputs=[x, gs.Constant("w", weight)], outputs=[y]),
        gs.Node("Mul", inputs=[y, gs.Constant("s", np.array(scale, np.float32))], outputs=[out]),
    ]
    return Model(gs.Graph(nodes=nodes, inputs=[x], outputs=[out], opset=17, ir_version=8))


def test_a_twin_with_the_same_weights_is_equal_and_one_with_another_scale_is_not():
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    blank = np.ones_like(weight)
    assert float(twin.compare(product(weight), product(blank))) == 0
    with pytest.raises(AssertionError, match="differs from its native twin"):
        twin.compare(product(weight, 1.01), product(blank))


def test_a_twin_of_another_shape_is_no_twin():
    with pytest.raises(twin.NoTwin, match=r"\[4, 3\] in the clone"):
        twin.compare(product(np.ones((4, 3), np.float32)), product(np.ones((4, 2), np.float32)))


def test_difference_sees_one_number_and_infinity():
    a = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    b = a.copy()
    b[1, 2] += 0.5
    assert oracles.difference({"logits": a}, {"logits": a}) == 0
    assert oracles.difference({"logits": a}, {"logits": b}) == pytest.approx(0.5)
    assert oracles.difference({"logits": a}, {"logits": a * np.inf}) == np.inf
    assert oracles.difference({"logits": a}, {"logits": a[:, :3]}) == np.inf
    assert oracles.difference({"logits": a}, {"logits": a[:, ::-1]}) > 0.1
    assert oracles.difference({"present.0": a}, {"present.0": a[:, ::-1]}) == 0


@pytest.mark.parametrize("field", ["hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "attentions"])
def test_every_size_of_the_configuration_is_compared(field, seeded_anatomy):
    anatomy, config = seeded_anatomy
    assert mismatches(anatomy, [config]) == ""
    assert "expected" in mismatches(anatomy, [replace(config, **{field: getattr(config, field) + 1})])


def test_a_missing_stack_is_a_mismatch(seeded_anatomy):
    anatomy, config = seeded_anatomy
    assert "the configuration has 2" in mismatches(anatomy, [config, config])


def test_what_is_no_refusal_is_wrong():
    def refuse():
        raise InvalidTarget("no such size")

    def crash():
        raise KeyError("blocks.0.head")

    def differ():
        raise AssertionError("differs")

    answers = [cell.judge("?", ask).answer for ask in (lambda: "", refuse, differ, crash)]
    assert answers == ["green", "refused", "WRONG", "WRONG"]
    assert cell.overall([cell.Verdict("?", a) for a in ("green", "refused", "WRONG")]) == "WRONG"


@pytest.mark.parametrize("row", [r for r in ROWS.values() if r.coupled and r.stacks is None], ids=lambda r: r.name)
def test_coupled_rows_are_cut_to_configurations_that_exist(row, tmp_path):
    held = cell.Cell(tmp_path / "x.onnx", row.name, "torchscript", row.expected(row.sizes))
    sizes = twin.sizes_of(row, cell.targets(held)["all"])
    assert sizes.hidden == sizes.heads * sizes.head_dim
    assert sizes.heads % sizes.kv_heads == 0
    assert sizes != row.sizes
    assert row.ffn_ratio is None or sizes.ffn == row.ffn_ratio * sizes.hidden


def verdict(row, column, answer, detail=""):
    questions = [{"question": "hidden", "answer": answer, "detail": detail}]
    return {"row": row, "column": column, "verdict": answer, "seconds": 1.0, "questions": questions}


def test_the_page_shows_every_verdict_and_its_reason(tmp_path):
    (tmp_path / "results").mkdir()
    for held in (verdict("gpt2", "torchscript", "green"), verdict("opt", "dynamo", "refused", "no room")):
        (tmp_path / "results" / f"{held['row']}.json").write_text(json.dumps(held))
    (tmp_path / "INDEX.json").write_text(json.dumps({"t5-dynamo": "failed export: ValueError: views"}))
    said = table.write(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert said == "3 cells: 1 green, 1 refused, 0 WRONG; 1 without a working export."
    assert "| gpt2 | yes |" in page
    assert "- opt-dynamo (hidden): no room" in page
    assert "- t5-dynamo: ValueError: views" in page


def test_a_crash_is_a_verdict(tmp_path):
    file = tmp_path / "gpt2-torchscript.onnx"
    file.write_bytes(b"no model")
    file.with_suffix(".json").write_text(json.dumps({"row": "gpt2", "column": "torchscript", "stacks": []}))
    held = runner.settle(file)
    runner.refresh(tmp_path)
    assert held["verdict"] == "WRONG"
    assert "exit 1" in held["questions"][0]["detail"]
    assert (tmp_path / "RESULTS.txt").read_text().startswith("1 cells: 1 WRONG")
    assert runner.stale(file) is False, "a verdict newer than the code stands"


def test_sizes_are_those_of_the_target():
    assert twin.sizes_of(ROWS["gpt2"], {"hidden": 24, "heads": 3}) == Sizes(24, 3, 6, 8, 100, 3)

"""What judges the cells is judged: each comparer fails on what it is there to find."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from tools.zoo import build, cell, goldens, oracles, runner, table, twin
from tools.zoo.code import Code
from tools.zoo.columns import COLUMNS
from tools.zoo.expectation import mismatches
from tools.zoo.row import Sizes
from tools.zoo.rows import ROWS


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


def verdict(row, column, answer, detail="", question="hidden"):
    questions = [{"question": question, "answer": answer, "detail": detail}]
    held = {"row": row, "column": column, "verdict": answer, "quick": False, "seconds": 1.0, "questions": questions}
    return {**held, "commit": "abc", "digest": "def", "anatomy": ""}


def test_the_page_shows_every_verdict_and_its_reason(tmp_path):
    (tmp_path / "results").mkdir()
    made = (
        verdict("gpt2", "torchscript", "green"),
        verdict("opt", "dynamo", "refused", "no room"),
        verdict("t5", "dynamo", "unexported", "ValueError: views", "export"),
        verdict("cohere", "onnxsim", "broken", "Reshape fails", "parent"),
        verdict("bert", "torchscript", "green") | {"quick": True},
        verdict("bert", "keras", "green"),
    )
    for held in made:
        (tmp_path / "results" / f"{held['row']}-{held['column']}.json").write_text(json.dumps(held))
    said = table.write(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert (
        "2 green (67 % of 3 working exports), 1 of them with everything cut together only; 1 refused, 0 WRONG" in said
    )
    assert f"1 that the exporter does not make; {len(build.cells([])) - 5} not run" in said, "bert-keras is no cell"
    assert "raw and fused: 1 of 32" in page
    assert "| gpt2 | yes | ?" in page
    assert "| bert | together | ?" in page
    assert "- opt-dynamo (hidden): no room" in page
    assert "- t5-dynamo (export): ValueError: views" in page
    assert "- cohere-onnxsim (parent): Reshape fails" in page
    assert "Judged with: abc (5)." in page


def work(folder, quick=False, digest="def"):
    return runner.Work(ROWS["gpt2"], COLUMNS["torchscript"], folder, Code("abc", digest), quick)


def test_a_crash_is_a_verdict(tmp_path):
    (tmp_path / "results").mkdir()
    file = tmp_path / "gpt2-torchscript.onnx"
    file.write_bytes(b"no model")
    stacks = [asdict(s) for s in ROWS["gpt2"].expected(ROWS["gpt2"].sizes)]
    file.with_suffix(".json").write_text(json.dumps({"row": "gpt2", "column": "torchscript", "stacks": stacks}))
    heard = []
    runner.settle_all([work(tmp_path)], 1, heard.append)
    assert [v["verdict"] for v in heard] == ["WRONG"]
    assert "exit 1" in heard[0]["questions"][0]["detail"]
    assert "process] WRONG: exit 1" in runner.line(heard[0])


def test_what_is_judged_again(tmp_path):
    (tmp_path / "results").mkdir()
    one = work(tmp_path)
    assert one.stale(), "no verdict"
    one.keep(cell.Exam((cell.Verdict("hidden", "green"),)), 1.0)
    assert not work(tmp_path, digest="other").stale()
    assert work(tmp_path, digest="other").stale(again=True)
    one.keep(cell.Exam((cell.Verdict("hidden", "WRONG"),)), 1.0)
    assert not one.stale(), "the same code says the same"
    assert work(tmp_path, digest="other").stale()
    quick = work(tmp_path, quick=True)
    quick.keep(cell.Exam((cell.Verdict("all", "green"),)), 1.0)
    assert not quick.stale()
    assert one.stale(), "the full examination asks for more"


def test_goldens_are_kept_by_row_and_columns_of_equal_text_together(tmp_path):
    file = goldens.write("gpt2", {"dynamo": "other\n\ntext\n", "onnxsim": "a\n", "torchscript": "text\n"}, tmp_path)
    goldens.write("gpt2", {"onnxsim": "text\n"}, tmp_path)
    assert file.read_text() == "== torchscript, onnxsim\ntext\n\n== dynamo\nother\n\ntext\n"
    held = [verdict("gpt2", "torchscript", "green") | {"anatomy": said} for said in ("text\n", "texts\n", "")]
    assert goldens.changed(held, tmp_path) == ["gpt2-torchscript"], "only the second differs"
    assert goldens.changed([verdict("opt", "dynamo", "green") | {"anatomy": "text"}], tmp_path) == ["opt-dynamo"]


def test_sizes_are_those_of_the_target():
    assert twin.sizes_of(ROWS["gpt2"], {"hidden": 24, "heads": 3}) == Sizes(24, 3, 6, 8, 100, 3)

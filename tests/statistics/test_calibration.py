"""Every kind of data becomes batches that fit the graph, or says in one line why it cannot."""

from __future__ import annotations

import json
from operator import length_hint

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.graph import Model
from graphclone.statistics.calibration import open_source
from graphclone.statistics.kinds import KINDS

WORDS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", ".")


@pytest.fixture
def model(hand):
    return hand.model()


@pytest.fixture
def tokenizer(tmp_path):
    """``tokenizer(framed=..., words=...)``: a tokenizer.json that truncates and pads, as sentence models ship them."""

    def make(framed: bool = False, words=WORDS):
        made = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
        made.pre_tokenizer = Whitespace()
        made.enable_truncation(4)
        made.enable_padding(length=4, pad_id=2, pad_token="[PAD]")
        if framed:
            made.post_processor = TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
            )
        file = tmp_path / "a.tokenizer.json"
        made.save(str(file))
        return file

    return make


def test_text_is_packed_into_windows_without_gaps(model, tokenizer, tmp_path):
    (tmp_path / "t.txt").write_text("the cat sat on a mat .\n" * 5)
    source = open_source(tmp_path / "t.txt", model, tokenizer=tokenizer(), length=8, batch_size=3)
    found = list(source)
    ids = np.tile(np.arange(4, 11), 5)[:32].reshape(4, 8)
    np.testing.assert_array_equal(np.concatenate([b["input_ids"] for b in found]), ids)
    assert [b["input_ids"].shape for b in found] == [(3, 8), (1, 8)]
    assert all(b["attention_mask"].all() and b["attention_mask"].shape == b["input_ids"].shape for b in found)
    assert source.filled == {"attention_mask": "nothing masked"}
    assert [b["input_ids"].tolist() for b in source] == [b["input_ids"].tolist() for b in found]


def test_each_window_is_framed_as_the_tokenizer_frames_a_sequence(model, tokenizer, tmp_path):
    (tmp_path / "t.md").write_text("the cat sat on a mat . the cat")
    (batch,) = open_source(tmp_path / "t.md", model, tokenizer=tokenizer(framed=True), length=6)
    np.testing.assert_array_equal(batch["input_ids"], [[0, 4, 5, 6, 7, 1], [0, 8, 9, 10, 4, 1]])


def test_a_folder_of_text_is_read_in_order_of_name_and_jsonl_by_its_field(model, tokenizer, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.rst").write_text("sat on")
    (folder / "a.txt").write_text("the cat")
    (tmp_path / "r.jsonl").write_text('{"text": "the cat"}\n\n{"text": "sat on", "more": 1}\n')
    for spec in (folder, tmp_path / "r.jsonl"):
        (batch,) = open_source(spec, model, tokenizer=tokenizer(), length=4)
        np.testing.assert_array_equal(batch["input_ids"], [[4, 5, 6, 7]])


def test_the_tokenizer_beside_the_model_is_found(model, tokenizer, tmp_path):
    model.path = tokenizer().with_name("a.onnx")
    (tmp_path / "t.txt").write_text("the cat sat on")
    assert len(list(open_source(tmp_path / "t.txt", model, length=2))) == 1
    model.path = tmp_path / "other.onnx"
    with pytest.raises(BadData, match=r"give --tokenizer \(looked for other.tokenizer.json and tokenizer.json"):
        open_source(tmp_path / "t.txt", model, length=2)


def test_python_docs_need_nothing_but_a_tokenizer(model, tokenizer):
    source = open_source("python-docs", model, tokenizer=tokenizer(), length=64, limit=3)
    assert [b["input_ids"].shape for b in source] == [(8, 64)] * 3
    assert len(source.fingerprint) == 64


def test_npz_files_are_batches_and_large_ones_are_cut(model, tmp_path, batches):
    for number, batch in enumerate(batches):
        np.savez(tmp_path / f"{number}.npz", **batch)
    found = list(open_source(tmp_path, model))
    for batch, expected in zip(found, batches, strict=True):
        assert all(np.array_equal(batch[name], expected[name]) for name in expected)
    rows = np.arange(14).reshape(7, 2)
    np.savez(tmp_path / "rows.npz", input_ids=rows)
    cut = [b["input_ids"] for b in open_source(tmp_path / "rows.npz", model, batch_size=3)]
    assert [len(b) for b in cut] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(cut), rows)


def test_rows_that_do_not_fill_a_fixed_batch_are_left_out(model, tmp_path):
    ids, mask = model.graph.inputs
    ids.shape = mask.shape = [3, 2]
    rows = np.arange(16).reshape(8, 2)
    np.savez(tmp_path / "rows.npz", input_ids=rows, attention_mask=np.ones_like(rows))
    source = open_source(tmp_path / "rows.npz", model, batch_size=99)
    np.testing.assert_array_equal([b["input_ids"] for b in source], rows[:6].reshape(2, 3, 2))
    assert length_hint(source) == 2
    np.savez(tmp_path / "rows.npz", input_ids=rows[:2])
    with pytest.raises(BadData, match=r"the graph wants input_ids int64\[3, 2\], the batch has int64\[2, 2\]"):
        open_source(tmp_path / "rows.npz", model)


def test_lengths_of_sequences_are_cut_with_their_sequences(tmp_path):
    ids = gs.Variable("input_ids", np.int64, ["batch", "length"])
    lengths = gs.Variable("seqlens_k", np.int64, ["batch"])
    y = [gs.Variable(n, np.int64, ["batch"]) for n in ("y", "z")]
    nodes = [gs.Node("Identity", "n", {}, [lengths], [y[0]]), gs.Node("ReduceMax", "m", {"axes": [1]}, [ids], [y[1]])]
    np.savez(tmp_path / "x.npz", input_ids=np.zeros((5, 4), np.int64), seqlens_k=np.arange(5))
    source = open_source(tmp_path / "x.npz", Model(gs.Graph(nodes, [ids, lengths], y, opset=13)), batch_size=2)
    assert [batch["seqlens_k"].tolist() for batch in source] == [[0, 1], [2, 3], [4]]


def test_random_says_what_it_is_and_repeats_itself(model):
    first, again = (list(open_source("random:2", model, length=5, batch_size=2)) for _ in range(2))
    other = list(open_source("random:2", model, length=5, batch_size=2, seed=1))
    assert len(open_source("random:2", model)) == 2
    assert "not to be trusted" in open_source("random:2", model).description
    same = [np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True)]
    assert all(same)
    assert not np.array_equal(first[0]["input_ids"], first[1]["input_ids"])
    assert not np.array_equal(first[0]["input_ids"], other[0]["input_ids"])


def test_any_iterable_of_batches_is_data(model, batches):
    only_ids = [{"input_ids": batch["input_ids"]} for batch in batches]
    source = open_source(only_ids, model, limit=2)
    assert len(source) == 2
    assert [b["attention_mask"].all() for b in source] == [True, True]
    once = open_source((batch for batch in only_ids), model)
    assert [b["input_ids"].shape for b in once] == [b["input_ids"].shape for b in only_ids]
    with pytest.raises(TypeError):
        len(once)


def test_fixed_axes_of_the_graph_win(model, tokenizer, tmp_path):
    ids, mask = model.graph.inputs
    ids.shape = mask.shape = [2, 4]
    (tmp_path / "t.txt").write_text("the cat sat on a mat . " * 2)
    found = [b["input_ids"].shape for b in open_source(tmp_path / "t.txt", model, tokenizer=tokenizer(), length=128)]
    assert found == [(2, 4)]


def test_the_fingerprint_follows_what_is_read(model, tokenizer, tmp_path):
    file, words = tmp_path / "t.txt", tokenizer()
    prints = []
    for text, length in (("the cat sat on", 2), ("the cat sat on", 2), ("the cat sat a", 2), ("the cat sat a", 4)):
        file.write_text(text)
        prints.append(open_source(file, model, tokenizer=words, length=length).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def bad_npz(folder, kind):
    file = folder / "x.npz"
    np.savez(file, input_ids=np.zeros((2, 3), np.int64))
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    if kind == "objects":
        np.savez(file, input_ids=np.array([{}], dtype=object))
    if kind == "empty":
        file.write_bytes(b"")
    return file


REFUSED = {
    "missing file": (lambda f: f / "no.txt", "there is no such file"),
    "unknown suffix": (lambda f: touch(f / "x.docx", b"x"), "cannot be told from its name; data is random:N"),
    "empty folder": (lambda f: f / "empty", "cannot be told from its name"),
    "empty text": (lambda f: touch(f / "x.txt", b""), "too little text to fill one window of 8 tokens"),
    "short text": (lambda f: touch(f / "x.txt", b"the cat"), "lower --length"),
    "not UTF-8": (lambda f: touch(f / "x.txt", b"ab\xff\xfe"), "not UTF-8 text"),
    "not JSON": (lambda f: touch(f / "x.jsonl", b'{"text": "a"}\nnope'), "line 2 is not JSON"),
    "no field": (lambda f: touch(f / "x.jsonl", json.dumps({"body": "a"}).encode()), "line 1 has no field text"),
    "truncated npz": (lambda f: bad_npz(f, "truncated"), "or truncated"),
    "npz of objects": (lambda f: bad_npz(f, "objects"), "not a .npz file of plain arrays"),
    "empty npz": (lambda f: bad_npz(f, "empty"), "or truncated"),
    "no number": (lambda f: "random:", "as in random:4"),
    "one batch": (lambda f: {"input_ids": np.zeros((1, 2), np.int64)}, "put it in a list"),
    "no batch": (lambda f: [], "it is empty"),
    "wrong name": (lambda f: [{"ids": np.zeros((1, 2), np.int64)}], "no input 'ids'; it has input_ids int64[batch"),
    "wrong dtype": (lambda f: [{"input_ids": np.zeros((1, 2))}], "the batch has float64[1, 2]"),
}


def touch(file, content):
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_is_said_in_one_line(model, tokenizer, tmp_path, case):
    (tmp_path / "empty").mkdir()
    make, said = REFUSED[case]
    with pytest.raises(GraphCloneError) as caught:
        list(open_source(make(tmp_path), model, tokenizer=tokenizer(), length=8))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in (2, 5)


def test_a_tokenizer_of_another_model_is_refused_with_both_numbers(model, tokenizer, tmp_path):
    words = (*WORDS, *(f"w{i}" for i in range(300)))
    (tmp_path / "t.txt").write_text("w299 cat")
    with pytest.raises(
        BadData, match=r"made the id 310 \(its vocabulary has 311\), the graph's embedding has 300 rows"
    ):
        open_source(tmp_path / "t.txt", model, tokenizer=tokenizer(words=words), length=2)


def test_a_file_that_is_no_tokenizer_is_refused(model, tmp_path):
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(BadData, match=r"not a tokenizer\.json"):
        open_source(tmp_path / "t.txt", model, tokenizer=tmp_path / "t.txt")
    with pytest.raises(BadData, match="no such tokenizer"):
        open_source(tmp_path / "t.txt", model, tokenizer=tmp_path / "none.json")


def test_text_is_refused_where_the_graph_takes_none(tmp_path):
    image = gs.Variable("pixel_values", np.float32, ["batch", 3, 8, 8])
    node = gs.Node("Neg", "neg", {}, [image], [gs.Variable("y", np.float32, ["batch", 3, 8, 8])])
    model = Model(gs.Graph([node], [image], node.outputs))
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(BadData, match=r"takes no token ids; it has pixel_values float32\[batch, 3, 8, 8\]"):
        open_source(tmp_path / "t.txt", model)


def test_sizes_have_to_be_positive(model):
    for wrong in ({"length": 0}, {"batch_size": 0}, {"limit": 0}):
        with pytest.raises(InvalidTarget):
            open_source("random:1", model, **wrong)


def test_every_kind_says_what_it_looks_like():
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(kind.looks_like for kind in KINDS)

"""Rows of text files that are damaged, folders of mixed kinds, and whole numbers of another width."""

from __future__ import annotations

import gzip
import json

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.statistics.calibration import open_source

WORDS = ("[UNK]", *(f"w{k}" for k in range(97)))
ROWS = [" ".join(f"w{(3 * k + j) % 97}" for j in range(5)) for k in range(40)]


@pytest.fixture
def model(hand):
    return hand.model()


@pytest.fixture
def words(tmp_path):
    made = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(tmp_path / "words.json"))
    return tmp_path / "words.json"


DAMAGED = {
    "r.json": (b'{"text": "w1"}', "one dict, not a list of records"),
    "s.json": (b"[1]", "record 1 is one int, it has no fields"),
    "t.json": (b"[", r"not JSON \("),
    "r.csv": (b"body,n\nw1,2\n", "line 2 has no field text; it has body, n: name one with --column"),
    "s.csv": (b'text,n\n"w1', "it is empty|too little text"),
    "t.csv": (b"text\n\xff\n", "not UTF-8 text"),
    "r.jsonl.gz": (b'{"text": "w1"}', "not a gzip file, or damaged"),
    "s.jsonl.gz": (gzip.compress(b'{"text": "w1"}')[:-9], "not a gzip file, or damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_rows_are_said_in_one_line(model, words, tmp_path, name):
    held, said = DAMAGED[name]
    (tmp_path / name).write_bytes(held)
    with pytest.raises(BadData, match=said) as refused:
        list(open_source(tmp_path / name, model, tokenizer=words, length=8))
    assert "\n" not in str(refused.value)


def test_of_a_mixed_folder_that_is_read_which_the_graph_takes_and_the_others_are_said(model, words, tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(ROWS))
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    source = open_source(tmp_path, model, tokenizer=words, length=10, batch_size=4)
    assert sum(len(batch["input_ids"]) for batch in source) == 40
    assert source.notes[-1].startswith("1 .txt file is not read: .jsonl files")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (batch,) = list(open_source(tmp_path, model, tokenizer=words, length=10, limit=1))  # images are passed over
    assert batch["input_ids"].shape == (8, 10)
    assert "not read" not in "".join(open_source(tmp_path / "a.txt", model, tokenizer=words, length=10).notes)
    pixels = gs.Variable("pixel_values", np.float32, ["batch", 3, 4, 4])
    made = Model(gs.Graph([gs.Node("Identity", "n", {}, [pixels], [y := gs.Variable("y")])], [pixels], [y], opset=17))
    source = open_source(tmp_path, made, images="mean=0,std=1")
    assert [batch["pixel_values"].shape for batch in source] == [(1, 3, 4, 4)]
    assert source.notes[-1].startswith("2 .jsonl files, 1 .txt file are not read: images")


def test_whole_numbers_of_another_width_are_taken_where_they_fit(model, tmp_path):
    np.savez(tmp_path / "a.npz", input_ids=np.ones((2, 3), np.int32))
    (batch,) = open_source(tmp_path / "a.npz", model)
    assert batch["input_ids"].dtype == np.int64
    np.savez(tmp_path / "a.npz", input_ids=np.ones((2, 3), np.float32))
    with pytest.raises(BadData, match="the batch has float32"):
        open_source(tmp_path / "a.npz", model)

"""Records, functions, both sides of an encoder-decoder: read as they are, or refused in one line."""

from __future__ import annotations

import csv
import gzip
import json
import re
from operator import length_hint

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from graphclone.errors import BadData, GraphCloneError
from graphclone.graph import Model
from graphclone.statistics import text
from graphclone.statistics.calibration import open_source

datasets = pytest.importorskip("datasets", reason="datasets is not installed: its source is not tested")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: parquet is not tested")
pq = pytest.importorskip("pyarrow.parquet")

WORDS = ("<pad>", "</s>", "[UNK]", *(f"w{k}" for k in range(97)))
ROWS = [" ".join(f"w{(3 * k + j) % 97}" for j in range(5)) for k in range(40)]
IDS = np.array([WORDS.index(word) for row in ROWS for word in row.split()])


@pytest.fixture
def model(hand):
    return hand.model()


@pytest.fixture
def words(tmp_path):
    made = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(tmp_path / "words.json"))
    return tmp_path / "words.json"


def two_sides(folder, *, extra: gs.Variable | None = None) -> Model:
    """Two embeddings, of an encoder's and a decoder's ids; ``extra`` is an input beside them."""
    names = ("input_ids", "decoder_input_ids")
    ids = [gs.Variable(name, np.int64, ["batch", f"{name}_length"]) for name in names]
    tables = [gs.Constant(f"table_{name}", np.ones((100, 4), np.float32)) for name in names]
    outputs = [gs.Variable(f"y_{name}", np.float32, ["batch", f"{name}_length", 4]) for name in names]
    nodes = [
        gs.Node("Gather", f"n_{k}", {}, [table, i], [y])
        for k, (table, i, y) in enumerate(zip(tables, ids, outputs, strict=True))
    ]
    if extra is not None:
        outputs.append(gs.Variable("y_extra", np.float32, extra.shape))
        nodes.append(gs.Node("Neg", "n_extra", {}, [extra], [outputs[-1]]))
    model = Model(gs.Graph(nodes, [*ids, *([extra] if extra is not None else [])], outputs))
    model.path = folder / "model.onnx"
    return model


def write(file, column="text", rows=ROWS):
    pq.write_table(pa.table({column: rows, "number": list(range(len(rows)))}), file)
    return file


def test_records_of_every_kind_give_the_same_windows(model, words, tmp_path):
    (tmp_path / "r.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    (tmp_path / "r.json").write_text(json.dumps([{"text": row, "n": 1} for row in ROWS], indent=1))
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress((tmp_path / "r.jsonl").read_bytes()))
    for suffix, between in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"r.{suffix}").open("w", newline="", encoding="utf-8-sig") as stream:
            csv.writer(stream, delimiter=between).writerows([("text", "n"), *((row, "a,b\tc\n") for row in ROWS)])
    write(tmp_path / "r.parquet")
    (tmp_path / "parts").mkdir()
    for part in range(2):
        write(tmp_path / "parts" / f"{part}.parquet", rows=ROWS[part * 20 : part * 20 + 20])
    held = datasets.Dataset.from_dict({"text": ROWS, "body": ROWS[::-1]})
    held.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": held.select(range(3)), "test": held}).save_to_disk(tmp_path / "two")
    specs = ["r.jsonl", "r.jsonl.gz", "r.json", "r.csv", "r.tsv", "r.parquet", "parts", "one"]
    for spec in [*(tmp_path / s for s in specs), f"datasets:{tmp_path}/one", f"datasets:{tmp_path}/two:test"]:
        source = open_source(spec, model, tokenizer=words, length=10, batch_size=4)
        found = np.concatenate([batch["input_ids"] for batch in source])
        np.testing.assert_array_equal(found, IDS.reshape(20, 10))
        assert length_hint(source, -1) in (4, 5, 6), spec  # 5, about
        assert len(source.fingerprint) == 64
    other = open_source(f"datasets:{tmp_path}/two:test:body", model, tokenizer=words, length=10)
    assert next(iter(other))["input_ids"][0, :5].tolist() == IDS[-5:].tolist()
    write(tmp_path / "body.parquet", column="body")
    (batch,) = open_source(tmp_path / "body.parquet", model, tokenizer=words, length=10, column="body", limit=1)
    np.testing.assert_array_equal(batch["input_ids"], IDS[:80].reshape(8, 10))


SPELLED = {  # what stands before the text, and what else is in each record
    "byte order marks": ("\ufeff", "3"),
    "long numbers": ("", "1" * 5000),
    "half a surrogate pair elsewhere": ("", r'"\ud800"'),
}


@pytest.mark.parametrize("case", SPELLED)
def test_records_are_read_whatever_is_around_their_text(model, words, tmp_path, case):
    before, other = SPELLED[case]
    rows = [f'{{"text": "{row}", "other": {other}}}\n' for row in ROWS]
    (tmp_path / "r.jsonl").write_text(before + "".join(rows), encoding="utf-8")
    (tmp_path / "r.txt").write_text(before + " ".join(ROWS), encoding="utf-8")
    for name in ("r.jsonl", "r.txt"):
        source = open_source(tmp_path / name, model, tokenizer=words, length=10, batch_size=4)
        np.testing.assert_array_equal(np.concatenate([b["input_ids"] for b in source]), IDS.reshape(20, 10))
    assert not any("\ufeff" in piece for piece in text.plain(str(tmp_path / "r.txt")).pieces())


def test_half_a_surrogate_pair_becomes_the_replacement_character(model, words, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"text": "w1 \\ud800 w2 \\ud83d\\ude00"}\n' * 20)
    assert next(text.rows_of(".jsonl")(str(tmp_path / "r.jsonl")).pieces()) == "w1 \ufffd w2 \N{GRINNING FACE}"
    assert next(iter(open_source(tmp_path / "r.jsonl", model, tokenizer=words, length=4)))["input_ids"].shape[1] == 4


def test_columns_of_categories_are_text(model, words, tmp_path):
    column = pa.array(ROWS).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "r.parquet")
    source = open_source(tmp_path / "r.parquet", model, tokenizer=words, length=10, batch_size=4)
    np.testing.assert_array_equal(np.concatenate([b["input_ids"] for b in source]), IDS.reshape(20, 10))
    pq.write_table(pa.table({"text": pa.array([1, 2]).dictionary_encode()}), tmp_path / "n.parquet")
    with pytest.raises(BadData, match="column text holds int64, not text"):
        open_source(tmp_path / "n.parquet", model, tokenizer=words)


def test_the_number_of_batches_is_guessed_for_text_and_held_to_the_limit(model, words, tmp_path):
    (tmp_path / "t.txt").write_text(" ".join(ROWS * 300))
    source = open_source(tmp_path / "t.txt", model, tokenizer=words, length=10, batch_size=8)
    exact = sum(1 for _ in source)
    assert abs(length_hint(source, -1) - exact) <= exact * 0.05
    assert length_hint(source.part(2, 4), -1) in range(exact // 4 - exact // 40, exact // 4 + exact // 40)
    assert length_hint(open_source(tmp_path / "t.txt", model, tokenizer=words, length=10, limit=3), -1) == 3
    with pytest.raises(TypeError):
        len(source)


@pytest.mark.parametrize(
    ("beside", "start", "said"),
    [("config.json", 1, r"the token 1 \(config\.json\)"), (None, 0, "<pad>")],
)
def test_an_encoder_decoder_reads_both_sides(words, tmp_path, beside, start, said):
    model = two_sides(tmp_path)
    if beside:
        (tmp_path / beside).write_text(json.dumps({"decoder_start_token_id": start}))
    (tmp_path / "t.txt").write_text(" ".join(ROWS))
    source = open_source(tmp_path / "t.txt", model, tokenizer=words, length=10, batch_size=3)
    encoder, decoder = (np.concatenate([b[n] for b in source]) for n in ("input_ids", "decoder_input_ids"))
    text = IDS[: 19 * 10].reshape(10, 19)  # 10 tokens for one side, 9 behind the start for the other
    np.testing.assert_array_equal(encoder, text[:, :10])
    np.testing.assert_array_equal(decoder, np.concatenate([np.full((10, 1), start), text[:, 10:]], axis=1))
    (note,) = source.notes
    assert re.search(said, note)


def test_a_decoder_is_framed_as_the_tokenizer_frames_its_labels(words, tmp_path):
    made = Tokenizer.from_file(str(words))
    made.post_processor = TemplateProcessing(single="[UNK] $A </s>", special_tokens=[("[UNK]", 2), ("</s>", 1)])
    made.save(str(words))
    (tmp_path / "t.txt").write_text(" ".join(ROWS))
    batch = next(iter(open_source(tmp_path / "t.txt", two_sides(tmp_path), tokenizer=words, length=6)))
    assert batch["input_ids"][0].tolist() == [2, *IDS[:4], 1]
    assert batch["decoder_input_ids"][0].tolist() == [0, 2, *IDS[4:8]]  # the end is what it is to predict


def test_text_is_refused_where_features_are_wanted_too(words, tmp_path):
    features = gs.Variable("input_features", np.float32, ["batch", 80, 3000])
    (tmp_path / "t.txt").write_text(" ".join(ROWS))
    with pytest.raises(BadData, match=r"wants input_features float32\[batch, 80, 3000\] too: give \.npz"):
        open_source(tmp_path / "t.txt", two_sides(tmp_path, extra=features), tokenizer=words)


def test_a_decoder_without_a_known_start_is_refused(words, tmp_path):
    made = Tokenizer(WordLevel({"[UNK]": 0, "w0": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(words))
    (tmp_path / "t.txt").write_text("w0 " * 99)
    with pytest.raises(BadData, match=r"starts with is not known: put the model's config\.json"):
        open_source(tmp_path / "t.txt", two_sides(tmp_path), tokenizer=words)


def test_a_tokenizer_that_knows_far_fewer_words_is_doubted(model, words, tmp_path):
    (tmp_path / "t.txt").write_text(" ".join(ROWS))
    (note,) = open_source(tmp_path / "t.txt", model, tokenizer=words, length=8).notes
    assert "knows 100 tokens, the graph's embedding 300" in note


FUNCTIONS = """
import numpy as np

def plain():
    for k in range(3):
        yield {"input_ids": np.full((2, 4), k)}

def shaped(inputs):
    given = inputs["input_ids"]
    assert given.shape == ("batch", "length")
    return [{"input_ids": np.full((2, 4), k, given.dtype)} for k in range(3)]

def two(a, b): return []
def number(): return 3
def array(): return [np.zeros(3)]
def one(): return {"input_ids": np.zeros((1, 2), np.int64)}
def breaks():
    yield {"input_ids": np.zeros((1, 2), np.int64)}
    raise RuntimeError("no more\\nof it")
value = 3
"""


def test_batches_from_a_function_that_was_named(model, tmp_path, monkeypatch):
    file = tmp_path / "graphclone_test_batches.py"
    file.write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    for spec in (f"{file}:plain", f"{file}:shaped", "graphclone_test_batches:plain"):
        source = open_source(spec, model)
        assert [int(batch["input_ids"][0, 0]) for batch in source] == [0, 1, 2]
        assert [int(batch["input_ids"][0, 0]) for batch in source] == [0, 1, 2]
        assert source.filled == {"attention_mask": "nothing masked"}
    refused = {
        "two": "it wants 2 arguments",
        "number": "it gave one int",
        "array": "gave a ndarray, not a mapping",
        "one": "it gave one dict",
        "breaks": "RuntimeError: no more",
        "absent": "has no function 'absent'",
        "value": "has no function 'value'",
    }
    for name, said in refused.items():
        with pytest.raises(BadData, match=said):
            list(open_source(f"{file}:{name}", model))
    file.write_text("import no_such_module_anywhere")
    with pytest.raises(BadData, match=r"cannot be imported \(ModuleNotFoundError"):
        open_source(f"{file}:plain", model)
    with pytest.raises(BadData, match="there is no such file"):
        open_source(f"{tmp_path}/none.py:plain", model)


def broken_parquet(folder, part):
    file = write(folder / "x.parquet", rows=[f"{row} {k}" for k, row in enumerate(ROWS * 100)])
    held = bytearray(file.read_bytes())
    if part == "truncated":
        held = held[:-9]
    elif part == "empty":
        held = bytearray()
    else:
        held[20:2000] = bytes(1980)
    file.write_bytes(held)
    return file


REFUSED = {
    "truncated parquet": (lambda f: broken_parquet(f, "truncated"), "not a parquet file, or damaged"),
    "empty parquet": (lambda f: broken_parquet(f, "empty"), "not a parquet file, or damaged"),
    "damaged parquet": (lambda f: broken_parquet(f, "pages"), "not a parquet file, or damaged"),
    "no column": (lambda f: write(f / "x.parquet", column="body"), "no column 'text'; it has body, number"),
    "no text": (lambda f: write(f / "x.parquet", rows=[1, 2]), "column text holds int64, not text"),
    "null": (lambda f: write(f / "x.parquet", rows=["w1", None]), "row 1, column text holds NoneType"),
    "no dataset": (lambda f: f"datasets:{f}", "not a dataset that can be read"),
    "a field of numbers": (lambda f: lines(f, '{"text": 3}'), "field text holds int, not text"),
    "another field": (lambda f: lines(f, '{"body": "w1"}'), "line 1 has no field text; it has body"),
    "a number of many digits": (lambda f: lines(f, f'{{"text": {"1" * 5000}}}'), "field text holds float, not text"),
    "deep JSON": (lambda f: lines(f, "[" * 100_000), "line 1 is not JSON"),
}


def lines(folder, text):
    (folder / "x.jsonl").write_text(text)
    return folder / "x.jsonl"


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_records_are_said_in_one_line(model, words, tmp_path, case):
    make, said = REFUSED[case]
    with pytest.raises(GraphCloneError) as caught:
        list(open_source(make(tmp_path), model, tokenizer=words, length=8))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in (2, 5)


def test_splits_and_columns_that_are_not_there(model, words, tmp_path):
    held = datasets.Dataset.from_dict({"text": ROWS})
    datasets.DatasetDict({"test": held}).save_to_disk(tmp_path / "d")
    with pytest.raises(BadData, match="no split 'train'; it has test"):
        open_source(f"datasets:{tmp_path}/d", model, tokenizer=words)
    with pytest.raises(BadData, match="no column 'body'; it has text"):
        open_source(f"datasets:{tmp_path}/d:test:body", model, tokenizer=words)

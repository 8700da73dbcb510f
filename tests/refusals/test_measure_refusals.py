"""Calibration data that does not fit, through the command line: one line with both sides, 2 or 5, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import models
from graphclone.cli.app import run
from graphclone.statistics.store import Statistics

USAGE, FILE = 2, 5
RECIPE = "resize={0}x{0},mean=0.5,std=0.5"


@pytest.fixture(scope="module")
def llama() -> Path:
    return models.cached("llama", exporter="torchscript")


@pytest.fixture(scope="module")
def vit() -> Path:
    return models.cached("vit-tiny", exporter="torchscript")


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, list[str]]]:
    """Measure what has to be refused: the exit code, the one line that says why, and the files left behind."""
    out = tmp_path / "out"
    out.mkdir()

    def attempt(model: Path, data: object, *more: str) -> tuple[int, str, list[str]]:
        line = ["measure", model, "--data", data, "--provider", "cpu", "--threads", "1", *more, "-o", out / "s"]
        code = run([str(part) for part in line])
        said = capfd.readouterr()
        lines = [text for text in said.err.splitlines() if not text.startswith("measuring")]
        assert said.out == ""
        assert len(lines) == 1, said.err
        assert lines[0].startswith("graphclone: ")
        return code, lines[0], sorted(file.name for file in out.iterdir())

    return attempt


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


IDS = np.zeros((2, 7), np.int64)
ARRAYS = {
    "a name": ({"ids": IDS}, "the graph has no input 'ids'; it has input_ids int64"),
    "a rank": ({"input_ids": IDS[0]}, "the graph wants input_ids int64[batch"),
    "a type": ({"input_ids": IDS.astype(np.float32)}, "the batch has float32[2, 7]"),
    "another shape": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 6), np.int64)},
        "the batch has int64[2, 6], and",
    ),
    "an id": ({"input_ids": IDS + 10**6}, "holds ids from 1000000 to 1000000, the graph's table has"),
    "a negative id": ({"input_ids": IDS - 1}, "holds ids from -1 to -1"),
    "no row": ({"input_ids": IDS[:0]}, "it is empty"),
    "only a mask": ({"attention_mask": IDS}, "is missing; the batch has attention_mask"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_batches_that_do_not_fit_show_both_sides(refused, llama, tmp_path, case):
    arrays, said = ARRAYS[case]
    code, line, left = refused(llama, npz(tmp_path, **arrays))
    assert (code, left) == (FILE, [])
    assert said in line


def test_an_activation_that_is_no_number_is_named_by_site_and_batch_and_the_rest_is_kept(refused, vit, tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "batches"
    folder.mkdir()
    side = 32
    for number in range(4):
        pixels = rng.standard_normal((1, 3, side, side)).astype(np.float32)
        if number == 2:
            pixels[0, 0, 0, 0] = np.nan
        np.savez(folder / f"{number}.npz", pixel_values=pixels)
    code, line, left = refused(vit, folder)
    assert (code, left) == (FILE, ["s.partial"])
    assert "batch 3: the activations at " in line
    assert "are not finite (NaN or infinite)" in line
    assert "the 2 batches before are kept in " in line
    assert Statistics.read(tmp_path / "out" / "s.partial").batches == 2
    code, line, _ = refused(vit, folder)
    assert (code, "--resume" in line) == (USAGE, True)
    np.savez(folder / "2.npz", pixel_values=pixels)  # mended
    assert run(["measure", str(vit), "--data", str(folder), "--resume", "-q", "-o", str(tmp_path / "out" / "s")]) == 0
    assert Statistics.read(tmp_path / "out" / "s").batches == 4
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["s"]


def test_images_of_another_size_and_images_that_are_none(refused, vit, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((40, 40, 3), number, np.uint8)).save(folder / f"{number}.png")
    code, line, left = refused(vit, folder, "--images", RECIPE.format(48))
    assert (code, left) == (FILE, [])
    assert line == (
        "graphclone: the graph wants pixel_values float32[batch, 3, 32, 32], the recipe makes images of 48x48 (asked "
        "for): give --images with the size of the graph"
    )
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:40])
    code, line, left = refused(vit, folder, "--images", RECIPE.format(32), "--batch-size", "1")
    assert (code, left) == (FILE, ["s.partial"])
    assert "1.png: not an image that can be read" in line
    code, line, _ = refused(vit, tmp_path / "images", "--images", "resize=big", "--resume")
    assert (code, "resize=256" in line) == (USAGE, True)


def tokenizer(folder: Path, size: int) -> Path:
    made = Tokenizer(WordLevel({f"w{k}": k for k in range(size)}, unk_token="w0"))
    made.pre_tokenizer = Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_text_that_does_not_fit(refused, llama, tmp_path):
    words = tokenizer(tmp_path, 10**5)
    text = tmp_path / "t.txt"
    text.write_text("w99999 " * 400)
    code, line, _ = refused(llama, text, "--tokenizer", str(words), "--length", "8")
    assert code == FILE
    assert "made the id 99999 (its vocabulary has 100000), the graph's embedding has" in line
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["w1 w2 " * 50] * 100}), file)
    file.write_bytes(file.read_bytes()[:-20])
    code, line, _ = refused(llama, file, "--tokenizer", str(words))
    assert (code, "t.parquet: not a parquet file, or damaged" in line) == (FILE, True)
    text.write_bytes(b"\xff\xfe\x00")
    code, line, _ = refused(llama, text, "--tokenizer", str(words))
    assert (code, "t.txt: not UTF-8" in line) == (FILE, True)
    for gone in (tmp_path / "link.txt", tmp_path / "none.npz"):
        if gone.suffix == ".txt":
            gone.symlink_to(tmp_path / "nowhere")
        code, line, _ = refused(llama, gone, "--tokenizer", str(words))
        assert (code, "there is no such file" in line) == (FILE, True)


def test_sequences_longer_than_the_positions(refused):
    gpt2 = models.cached("gpt2", exporter="torchscript")
    code, line, left = refused(gpt2, "random:2", "--length", "100")
    assert (code, left) == (FILE, [])
    assert line.endswith("length 100: the model has 64 positions: --length 64 at most")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "0/4"), "such as 1/4"),
        (("--shard", "5/4"), "such as 1/4"),
        (("--shard", "half"), "such as 1/4"),
        (("--engine", "spark"), "here, ray"),
        (("--workers", "2"), "of --engine ray"),
        (("--engine", "ray", "--shard", "1/2"), "Ray makes the shards itself"),
        (("--provider", "tpu"), "not one of auto, cpu, cuda"),
        (("--checkpoint-every", "0"), "greater than or equal to 1"),
    ],
)
def test_options_that_make_no_sense(refused, llama, options, said):
    code, line, left = refused(llama, "random:4", *options)
    assert (code, left) == (USAGE, [])
    assert said in line


def test_a_shard_beyond_the_data_and_a_folder_that_is_not_there(refused, llama, tmp_path):
    code, line, left = refused(llama, "random:2", "--shard", "3/3")
    assert (code, left, "shard 3/3 has no batch in it" in line) == (FILE, [], True)
    code = run(["measure", str(llama), "--data", "random:2", "-o", str(tmp_path / "no" / "s")])
    assert code == FILE


def test_statistics_are_merged_and_used_for_what_they_are_of_alone(llama, vit, tmp_path, capfd):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    short = ["--length", "8", "--quiet"]
    for file, shard in ((one, "1/2"), (two, "2/2")):
        line = ["measure", str(llama), "--data", "random:4", *short, "--shard", shard, "-o", str(file), "--json"]
        assert run(line) == 0
    assert run(["measure", str(vit), "--data", "random:1", "--quiet", "-o", str(other), "--json"]) == 0
    assert [json.loads(line)["batches"] for line in capfd.readouterr().out.splitlines()] == [2, 2, 1]
    both = str(tmp_path / "both")
    refused = {
        (one, one): "would count twice: random:4",
        (one, other): "two parents do not add up (sha256",
        (one, tmp_path / "none"): "no such file",
        (one, llama): "not statistics of graphclone",
    }
    for files, said in refused.items():
        assert run(["measure", "--merge", *map(str, files), "-o", both]) == FILE
        line = capfd.readouterr().err
        assert said in line
        assert line.count("(sha256") <= 1  # one source, once
        assert str(files[1]) in line
    assert run(["measure", "--merge", str(one), str(two), "-o", both]) == 0
    assert run(["measure", "--merge", both, str(one), "-o", str(tmp_path / "three")]) == FILE
    assert run(["plan", str(llama), "--hidden", "32", "--stats", str(other)]) == USAGE
    assert "another parent" in capfd.readouterr().err

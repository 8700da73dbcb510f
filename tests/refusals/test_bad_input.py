"""What surgery is asked that cannot be, or hardly: one line through the real command line, or a warning and a clone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import graphclone as gc
from graphclone.cli.app import run
from tests.refusals.conftest import FILE, USAGE, Refused
from tests.refusals.test_cli_refusals import poisoned

NEAR = {  # target -> what the line says; the parent: 64 wide, 8 heads on 4 KV heads of 8, 160 in the feed-forward
    ("--hidden", "65"): "hidden 65: blocks has 64 and can have 1 to 64; nearest: 63 or 64",
    ("--hidden", "0"): "hidden 0: a clone has at least 1",
    ("--ffn", "161"): "nearest: 159 or 160",
    ("--layers", "4"): "layers 4: without --deeper blocks has 3 and can have 1 to 3; nearest: 2 or 3",
    ("--heads", "3"): "(8 heads on 4 KV heads) has 8 and can have 2, 4, 6, 8; nearest: 2 or 4",
    ("--heads", "4", "--kv-heads", "3"): "heads 4: block 0 (8 heads on 4 KV heads) with 3 KV heads",
    ("--head-dim", "3"): "head_dim 3: block 0 has 8 and can have 2, 4, 6, 8; nearest: 2 or 4",
    ("--head-dim", "16"): "nearest: 6 or 8",
}


@pytest.mark.parametrize("target", NEAR, ids=" ".join)
def test_what_is_near_is_said(refused: Refused, llama: Path, clone: Path, target: tuple[str, ...]) -> None:
    got = refused("clone", llama, clone, *target, "--data", "random:2")
    assert (got.code, NEAR[target] in got.line) == (USAGE, True), got.line


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_met_where_they_are_measured(
    refused: Refused, llama: Path, tmp_path: Path, clone: Path, value: float
) -> None:
    wrong = poisoned(llama, tmp_path / "poisoned.onnx", value)
    got = refused("clone", wrong, clone, "--hidden", "32", "--data", "random:2", "--length", "8")
    assert (got.code, "are not finite" in got.line) == (FILE, True), got.line


ONE_TOKEN = 5


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    """One token, again and again: every neuron is what it always is, and second moments have one direction."""
    path = tmp_path / "alike.npz"
    ids = np.full((40, 192), ONE_TOKEN, np.int64)
    np.savez(path, input_ids=ids, attention_mask=np.ones_like(ids))
    return path


def test_singular_moments_make_a_clone_of_numbers(llama: Path, tmp_path: Path, alike: Path) -> None:
    out = tmp_path / "clone.onnx"
    given = ["--hidden", "40", "--ffn", "100", "--kv-heads", "2", "--method", "norm-gain+least-squares+read-in"]
    assert run(["clone", str(llama), str(out), *given, "--data", str(alike)]) == 0
    weights = [a for a in gc.load(out).constants().values() if a.ndim == 2 and a.dtype.kind == "f"]
    assert len(weights) > 20
    assert all(np.isfinite(array).all() for array in weights)


def test_too_few_tokens_for_a_second_pass(
    llama: Path, refused: Refused, tmp_path: Path, clone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Read-in and depth patch keep their slices and say so; directions that nothing was measured of are no stream."""
    few = ("--hidden", "32", "--keep-blocks", "0,2", "--data", "random:2", "--length", "8", "--batch-size", "2")
    assert run(["clone", str(llama), str(tmp_path / "a.onnx"), *few, "--method", "norm-gain+read-in+depth-patch"]) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("graphclone: warning")]
    assert len(said) == 2, said
    assert all("keep their slices: moments of" in line for line in said)
    got = refused("clone", llama, clone, *few, "--method", "pca")
    assert (got.code, "1280 are needed" in got.line) == (USAGE, True), got.line


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file system of 64 KB."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(refused: Refused, llama: Path, full: Path) -> None:
    got = refused("clone", llama, full / "clone.onnx", "--ffn", "50%", "--importance", "first")
    assert (got.code, "cannot be written" in got.line) == (FILE, True), got.line
    assert list(full.iterdir()) == []

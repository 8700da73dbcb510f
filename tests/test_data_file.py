"""What is put into a data file is in it, digested, whichever way it was written."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import xxhash

from graphclone import data_file
from graphclone.data_file import DataFile

SIZES = [[], [0], [1], [4096], [100, 4096, 5000, 3], [1 << 16], [(1 << 16) + 4095, 1, 7], [300_001]]


@pytest.fixture(params=["past the cache", "no such way", "refused"])
def way(request, monkeypatch):
    monkeypatch.setattr(data_file, "BLOCK", 1 << 14)
    monkeypatch.setattr(data_file, "FLUSH_EVERY", 1 << 15)
    if request.param == "no such way":
        monkeypatch.setattr(data_file, "PAST_CACHE", 0)
    if request.param == "refused":
        monkeypatch.setattr(data_file, "PAST_CACHE", 1 << 30)  # which this system's open refuses, or does not know
        opened = os.open

        def refuse(path, flags, *rest):
            if flags & 1 << 30:
                raise OSError(errno.EINVAL, "Invalid argument")
            return opened(path, flags, *rest)

        monkeypatch.setattr(os, "open", refuse)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_file_holds_what_was_put_into_it(tmp_path, rng, sizes):
    parts = [rng.integers(0, 255, size, np.uint8) for size in sizes]
    with DataFile(tmp_path / "data") as data:
        for part in parts:
            data.put(part)
    expected = b"".join(part.tobytes() for part in parts)
    assert (tmp_path / "data").read_bytes() == expected
    assert data.digest.hexdigest() == xxhash.xxh3_128(expected).hexdigest()


def test_what_may_be_changed_after_it_was_put(tmp_path):
    part = np.zeros(3 * data_file.BLOCK // 2, np.uint8)
    with DataFile(tmp_path / "data") as data:
        for number in range(5):
            part[:] = number
            data.put(part)
    held = np.fromfile(tmp_path / "data", np.uint8).reshape(5, -1)
    assert (held == np.arange(5)[:, None]).all()


def put(path, blocks, failure=None):
    with DataFile(path) as data:
        for _ in range(blocks):
            data.put(np.zeros(data_file.BLOCK, np.uint8))
        if failure is not None:
            raise failure


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DataFile, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path / "data", 8)


def test_an_error_of_the_caller_is_the_one_that_is_seen(tmp_path):
    with pytest.raises(KeyError, match="mine"):
        put(tmp_path / "data", 2, KeyError("mine"))


def test_a_file_system_that_wants_other_sizes_is_written_through_the_cache(tmp_path, monkeypatch):
    if not data_file.PAST_CACHE:
        pytest.skip("the system has one way")
    monkeypatch.setattr(data_file, "BLOCK", 1000)  # no whole pages: refused, where they matter
    part = np.arange(10_000).astype(np.uint8)
    with DataFile(tmp_path / "data") as data:
        data.put(part)
    assert (tmp_path / "data").read_bytes() == part.tobytes()

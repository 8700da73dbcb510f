"""Where texts and images come from: Debian packages, installed or unpacked into the cache without being installed."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graphclone.errors import BadData

Array = np.ndarray[Any, Any]
WORDNET = ("noun", "verb", "adj", "adv")
PIECE = 4000  # characters
FOLDERS = {
    "wordnet-base": "usr/share/wordnet",
    "dict-gcide": "usr/share/dictd",
    "python3.11-doc": "usr/share/doc/python3.11/html/_sources",
    "dataset-fashion-mnist": "usr/share/datasets/fashion-mnist",
}


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/graphclone/speedup, or ~/.cache/graphclone/speedup."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "graphclone" / "speedup"


def folder(package: str) -> Path:
    """The files of a package of FOLDERS. Raises BadData where they are neither installed nor to be had."""
    inside = FOLDERS[package]
    if (Path("/") / inside).is_dir():
        return Path("/") / inside
    root = cache_folder() / "packages" / package
    if not (root / inside).is_dir():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent) as draft:
            try:
                subprocess.run(["apt-get", "download", package], cwd=draft, check=True, capture_output=True)
                archive = next(Path(draft).glob("*.deb"))
                subprocess.run(["dpkg-deb", "-x", str(archive), f"{draft}/files"], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError, StopIteration):
                raise BadData(f"{package}: install this Debian package (its files belong into /{inside})") from None
            os.replace(Path(draft, "files"), root)
    return root / inside


def wordnet() -> Iterator[str]:
    """Glosses and examples, a line a meaning: "word, word: gloss". WordNet 3.0, its four files by part of speech."""
    for part in WORDNET:
        with (folder("wordnet-base") / f"data.{part}").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(" "):
                    continue  # the licence
                entry, _, gloss = line.partition(" | ")
                fields = entry.split()
                words = [w.replace("_", " ") for w in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
                yield f"{', '.join(words)}: {gloss.strip()}\n"


def gcide() -> Iterator[str]:
    """Webster 1913 as GCIDE keeps it, an entry at a time, without the marks of where each line is from."""
    with gzip.open(folder("dict-gcide") / "gcide.dict.dz", "rt", encoding="utf-8", errors="replace") as held:
        entry: list[str] = []
        for line in held:
            if not line.startswith(" ") and line.strip() and entry:
                yield " ".join(entry) + "\n"
                entry = []
            kept = re.sub(r"\[(1913 Webster|PJC|WordNet 1\.5|.{0,20}Suppl\.?|R\.)[^]]*\]", "", line).strip()
            if kept:
                entry.append(kept)
        yield " ".join(entry) + "\n"


def python_docs() -> Iterator[str]:
    """The documentation of Python 3.11, file by file in order of name."""
    for file in sorted(folder("python3.11-doc").rglob("*.rst.txt")):
        yield file.read_text(encoding="utf-8")


TEXTS: dict[str, Callable[[], Iterator[str]]] = {"wordnet": wordnet, "gcide": gcide, "python-docs": python_docs}


def pieces(name: str) -> list[str]:
    """A text in runs of about PIECE characters, whole lines."""
    found: list[str] = []
    held: list[str] = []
    size = 0
    for text in TEXTS[name]():
        for line in text.splitlines(keepends=True):
            held.append(line)
            size += len(line)
            if size >= PIECE:
                found.append("".join(held))
                held, size = [], 0
    return found


def fashion(part: str) -> tuple[Array, Array]:
    """Fashion-MNIST, ``train`` or ``t10k``: images uint8 [n, 28, 28] and classes int64 [n]. IDX, as MNIST has it."""
    where = folder("dataset-fashion-mnist")
    with gzip.open(where / f"{part}-images-idx3-ubyte.gz") as held:
        images = np.frombuffer(held.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(where / f"{part}-labels-idx1-ubyte.gz") as held:
        labels = np.frombuffer(held.read(), np.uint8, offset=8).astype(np.int64)
    return images, labels

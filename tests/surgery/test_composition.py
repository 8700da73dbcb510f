"""Cutting a clone again is cutting once by the composed plan; and the same cut gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from graphclone import graph, saving
from graphclone.anatomy import inspect
from tests.conftest import SEEDED_EXPORTS
from tests.surgery.parents import Parent, outputs, parent
from tests.tolerances import assert_close

KINDS = ("residual", "tail", "ffn", "head", "kv_head")


def as_parent(found, model, tmp_path):
    """The clone as it comes back from its file."""
    saving.save(model, tmp_path / "clone.onnx")
    loaded = graph.load(tmp_path / "clone.onnx")
    return Parent(found.name, found.exporter, loaded, inspect(loaded))


def renamed(name, surviving):
    """A group of the clone's block i as the parent calls it."""
    head, *rest = name.split(".")
    return ".".join([head, str(surviving[int(rest[0])]), *rest[1:]]) if head == "blocks" else name


SOME = [("llama", "torchscript", "paper"), ("bert", "dynamo", "paper")]


@pytest.mark.parametrize(
    ("name", "exporter", "method"), [(*cell, "none") for cell in SEEDED_EXPORTS] + SOME, ids="-".join
)
def test_a_cut_of_a_cut_is_the_cut_of_the_composed_plan(name, exporter, method, rng, tmp_path):
    found = parent(name, exporter)
    first = {n: rng.permutation(k) for n, k in found.some(rng, 0.75, *KINDS).items()}  # out of order, too
    once = as_parent(found, found.cut(first, method, drop=[0]), tmp_path)
    surviving = [1, 2]
    second = once.some(rng, 0.6, *KINDS)
    twice = once.cut(second, method)
    composed = {}
    for name, kept in second.items():
        original = renamed(name, surviving)
        composed[original] = first[original][kept]
    gone = {n: k for n, k in first.items() if n.startswith("blocks.0.")}
    direct = found.cut(composed | gone, method, drop=[0])
    floats = {n: a for n, a in direct.constants().items() if a.dtype.kind == "f"}
    for got, want in zip(outputs(twice), outputs(direct), strict=True):
        for a, b in zip(got, want, strict=True):
            if method == "none":
                assert a.tobytes() == b.tobytes()
            assert_close(a, b)
    after = twice.constants()
    for name, array in floats.items():
        np.testing.assert_allclose(after[name], array, rtol=0 if method == "none" else 1e-6, err_msg=name)


def test_the_same_cut_gives_the_same_bytes(found, rng, tmp_path):
    keep = found.some(rng, 0.5, *KINDS)
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        saving.save(found.cut(keep, "paper", drop=[1]), file)
    assert files[0].read_bytes() == files[1].read_bytes()


SCRIPT = """
import sys
import numpy as np
from graphclone import graph, saving
from tests.surgery.parents import parent
found = parent(sys.argv[1], sys.argv[2])
keep = found.some(np.random.default_rng(0), 0.5, "residual", "ffn", "head", "kv_head")
saving.save(found.cut(keep, "paper", drop=[1]), sys.argv[3])
"""


@pytest.mark.parametrize(("name", "exporter"), [("llama", "torchscript"), ("bert", "dynamo")])
def test_the_order_of_sets_decides_nothing(name, exporter, tmp_path):
    """Python hashes strings differently in every process."""
    digests = set()
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.onnx"
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p) or ".",
        }
        subprocess.run([sys.executable, "-c", SCRIPT, name, exporter, file], env=environment, check=True)
        digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(digests) == 1

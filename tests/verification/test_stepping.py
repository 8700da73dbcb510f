"""A graph with a KV cache is stepped, token by token, and held against one pass."""

from __future__ import annotations

import pytest

from graphclone import graph
from graphclone.verification import Verdict, runtime, stepping
from graphclone.verification.sessions import open_session
from models import cache_folder
from tests.surgery.parents import parent
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS


@pytest.fixture(scope="module")
def cached():
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    row, column = ROWS["qwen3"], COLUMNS["cache-torchscript"]
    if not build.present(row, column, folder):
        build.build(row, column, folder)
    return graph.load(build.file_of(row, column, folder))


def stepped(model):
    return stepping.examine(model, open_session(model, threads=1))


def test_stepping_gives_what_one_pass_gives(cached):
    (check,) = stepped(cached)
    assert check.verdict is Verdict.PASSED, check
    assert stepping.NAME in {made.name for made in runtime.examine(cached)}


def test_caches_that_are_exchanged_are_found(cached):
    wrong = cached.copy()
    caches = {t.name: t for t in wrong.graph.outputs if "present" in t.name}
    one, other = (next(t for n, t in caches.items() if n.endswith(end)) for end in ("0.key", "0.value"))
    one.name, other.name = other.name, one.name
    (check,) = stepped(wrong)
    assert check.verdict is Verdict.FAILED


def test_a_cache_that_nothing_follows_is_said(cached):
    odd = cached.copy()
    odd.graph.outputs[:] = [t for t in odd.graph.outputs if not t.name.endswith("0.key")]
    (check,) = stepped(odd)
    assert (check.verdict, "no output follows the cache" in check.detail) == (Verdict.NOT_APPLICABLE, True)


def test_without_a_cache_there_is_nothing_to_step():
    assert stepped(parent("llama", "torchscript").model) == []

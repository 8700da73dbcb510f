"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted((ROOT / "graphclone").rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]
FEWEST = 20  # modules with examples: fewer would mean that they are no longer found


def examples_of(module: str) -> list[doctest.DocTest]:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as reason:
        if (reason.name or "graphclone").startswith("graphclone"):
            raise
        pytest.skip(f"needs {reason.name}")
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(loaded) if test.examples]


def test_there_are_examples():
    assert len(MODULES) >= FEWEST
    assert len(examples_of("graphclone.target")) == 2


@pytest.mark.parametrize("module", MODULES)
def test_examples_give_what_they_say(module):
    for test in examples_of(module):
        said: list[str] = []
        failed = doctest.DocTestRunner().run(test, out=said.append).failed
        assert not failed, "".join(said)


def test_an_example_that_says_otherwise_fails():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1

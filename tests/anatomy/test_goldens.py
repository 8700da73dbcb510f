"""The printed anatomy of every recipe, as text that a person reviews; `python -m tools.goldens` refreshes it."""

from __future__ import annotations

import pytest

from tests.conftest import SEEDED
from tools import goldens


def cases():
    for name, exporter in goldens.cells():
        marks = [] if name in SEEDED else [pytest.mark.real]
        marks += [pytest.mark.slow] if name == "smollm2" else []
        yield pytest.param(name, exporter, id=f"{name}-{exporter}", marks=marks)


@pytest.mark.parametrize(("name", "exporter"), list(cases()))
def test_the_printed_anatomy_is_the_golden(name, exporter):
    golden = goldens.file(name, exporter).read_text(encoding="utf-8")
    assert goldens.text(name, exporter) == golden, "changed: python -m tools.goldens, and review the diff"


def test_every_golden_is_of_a_recipe():
    assert {f.name for f in goldens.FOLDER.iterdir()} == {goldens.file(*cell).name for cell in goldens.cells()}

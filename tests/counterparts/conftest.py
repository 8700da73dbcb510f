"""A test marked ``counterpart(name)`` needs that tool: elsewhere it is skipped, and says how to run it."""

from __future__ import annotations

import os

import pytest

from graphclone.requirements import FEATURES
from tests.counterparts.workplace import Workplace


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("counterpart"):
        faults = FEATURES[mark.args[0]].faults
        if faults and os.environ.get("COUNTERPARTS") == "all":
            pytest.fail(f"make counterparts installs this: {', '.join(faults)}")
        if faults:
            pytest.skip(f"{', '.join(faults)}: make counterparts")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("counterparts"))

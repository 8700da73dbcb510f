"""The eight exports."""

from __future__ import annotations

import pytest

from tests.conftest import SEEDED_EXPORTS
from tests.surgery.parents import Parent, parent


@pytest.fixture(params=SEEDED_EXPORTS, ids="-".join)
def found(request: pytest.FixtureRequest) -> Parent:
    """Each seeded parent by each exporter, inspected."""
    return parent(*request.param)

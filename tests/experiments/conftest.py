"""The experiments are scripts: they import one another from their own folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))


@pytest.fixture(scope="session", autouse=True)
def fast(compiled):
    """All programs here."""

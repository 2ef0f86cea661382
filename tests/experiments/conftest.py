"""The experiments are scripts that import one another, so their folder must be on the path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))


@pytest.fixture(scope="session", autouse=True)
def fast(compiled):
    """Share compiled programs among all tests of experiments."""

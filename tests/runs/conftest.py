"""Tests of whole commands."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def fast(compiled):
    """Compile the programs of all tests in this folder fast, and only once."""

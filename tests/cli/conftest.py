"""Tests of whole commands."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def fast(compiled):
    """Share compiled programs among all tests of commands."""

"""Tests of whole commands."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def fast(compiled):
    """All programs here."""

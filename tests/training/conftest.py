"""What several tests of training need."""

import jax
import pytest

from jaxscape.training import members


@pytest.fixture
def by_epoch(monkeypatch):
    """What is compiled on a GPU: whole epochs. jax runs them here as well."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    members._advance.cache_clear()
    yield
    members._advance.cache_clear()

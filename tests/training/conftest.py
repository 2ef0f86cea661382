"""Fixtures for several tests of training."""

import jax
import pytest

from jaxscape.training import members


@pytest.fixture
def by_epoch(monkeypatch):
    """Compile whole epochs, as on a GPU; JAX can run them here as well."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    members._advance.cache_clear()
    yield
    members._advance.cache_clear()

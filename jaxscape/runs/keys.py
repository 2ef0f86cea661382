"""Random streams of a seed: one per purpose, so that no stream depends on what the others draw.

Jump directions use separate keys, `jax.random.key(seed)`; the random labels of the built-in problem are stream 2, and
the draw of its training images is stream 7 (`jaxscape.tasks.images`).
"""

import jax

from jaxscape.runs.config import RetrainSettings

_INIT, _TRAIN, _RETRAIN, _PATH, _PROBES = 1, 3, 4, 5, 6


def init_key(seed: int) -> jax.Array:
    """Return the key of the initial parameters."""
    return _stream(seed, _INIT)


def train_key(seed: int) -> jax.Array:
    """Return the key of the batch order and augmentation of a network that is trained from scratch."""
    return _stream(seed, _TRAIN)


def retrain_key(settings: RetrainSettings) -> jax.Array:
    """Return the key of the batch order and augmentation of the copies."""
    return _stream(settings.order_seed, _RETRAIN)


def path_key(seed: int) -> jax.Array:
    """Return the key of a curve's sampled points and batches, and of the matching of units."""
    return _stream(seed, _PATH)


def probe_key(seed: int) -> jax.Array:
    """Return the key of the probe vectors of traces and densities."""
    return _stream(seed, _PROBES)


def _stream(seed: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), purpose)

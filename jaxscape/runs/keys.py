"""Random streams of a seed: one per purpose, so that no stream depends on what the others draw.

Jump directions use separate keys, `jax.random.key(seed)`; the random labels of the built-in problem are stream 2, and
the draw of its training images is stream 7 (`jaxscape.tasks.images`).

Surrogates are drawn by NumPy from the data of keys. `split_key_data` computes these without jax, so that `jaxscape
plot` need not import it.
"""

from __future__ import annotations

import numpy as np

from jaxscape.lazy import jax
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


def key_data(seed: int) -> np.ndarray:
    """Return the data of `jax.random.key(seed)`, uint32 (2,), for a seed from 0 to 2**32 - 1."""
    return np.array([0, seed], np.uint32)


def split_key_data(seed: int, count: int) -> np.ndarray:
    """Return the data of `jax.random.split(jax.random.key(seed), count)`, uint32 (count, 2).

    jax encrypts the numbers of the new keys with the old key by the block cipher Threefry-2x32 of 20 rounds, whatever
    its default implementation of keys: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    schedule = [np.uint32(0), np.uint32(seed), np.uint32(seed) ^ np.uint32(0x1BD11BDA)]
    first, second = np.zeros(count, np.uint32) + schedule[0], np.arange(count, dtype=np.uint32) + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            first = first + second
            second = (second << np.uint32(rotation) | second >> np.uint32(32 - rotation)) ^ first
        first = first + schedule[(group + 1) % 3]
        second = second + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return np.stack([first, second], axis=1)


_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)


def _stream(seed: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), purpose)

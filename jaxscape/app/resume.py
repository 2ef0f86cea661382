"""The newest full training state on disk, so that an interrupted stage goes on to the same bytes.

One .npz file, replaced in one step: after a crash there is the old state or the new one. Leaves are stored in tree
order; they are put back into a state of the same structure, made afresh.
"""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.app.folder import save_arrays
from jaxscape.training.train import TrainState

PyTree = Any


def save_state(path: Path, epoch: int, states: TrainState) -> None:
    """Keep the states after an epoch."""
    leaves = jax.device_get(jax.tree.leaves(_raw_keys(states)))
    save_arrays(path, {"epoch": np.int64(epoch)} | {f"leaf{i}": leaf for i, leaf in enumerate(leaves)})


def load_state(path: Path, like: TrainState) -> tuple[int, TrainState]:
    """The epoch and the states kept.

    Args:
        path: the file.
        like: states of the same structure, shapes and dtypes.

    Raises:
        ValueError: where the file is damaged or holds other states.
        OSError: where it cannot be read.
    """
    expected, treedef = jax.tree.flatten(_raw_keys(like))
    try:
        with path.open("rb") as file, np.load(file) as kept:
            epoch = int(kept["epoch"])
            leaves = [kept[f"leaf{i}"] for i in range(len(expected))]
            count = len(kept.files) - 1
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged: {error}. Delete it, and the same command computes its epochs anew."
        ) from None
    fits = count == len(expected) and all(
        leaf.shape == other.shape and leaf.dtype == other.dtype for leaf, other in zip(leaves, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"{path} holds the state of another network or optimiser")
    states = jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in leaves])
    return epoch, states._replace(key=jax.random.wrap_key_data(states.key))


def _raw_keys(states: TrainState) -> TrainState:
    return states._replace(key=jax.random.key_data(states.key))

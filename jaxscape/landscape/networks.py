"""Read the networks of trajectories one at a time, in the order of the rows of `gram`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxscape.trajectories.arrays import dictionaries, in_structure
from jaxscape.trajectories.sources import Members, open_source
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any


def network_reader(
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    members: Members | None = None,
    like: PyTree | None = None,
) -> Callable[[int], PyTree]:
    """Return a function `row -> params` that reads one network as NumPy arrays.

    Args:
        points: the points of trajectories; see `gram`.
        members: members of a store; see `gram`.
        like: parameters in the structure to return; by default that of the points, or nested dictionaries for a store.

    Raises:
        ValueError: if `gram` would reject the points; the returned function raises it if `like` has other arrays.
    """
    open_source(points, members, None)  # rejects invalid points, and members that do not exist
    if isinstance(points, TrajectoryStore):
        return _store_reader([points], [members], like)
    items: Any = points if type(points) in (list, tuple) else None
    if items and isinstance(items[0], TrajectoryStore):
        return _store_reader(items, [None] * len(items) if members is None else members, like)

    def read(row: int) -> PyTree:
        if items:
            network = items[row]
            # A point may be a plain sequence of numbers.
            network = np.asarray(network) if type(network) in (list, tuple) and np.ndim(network[0]) == 0 else network
        else:
            network = jax.tree.map(lambda leaf: np.asarray(leaf)[row], points)
        return network if like is None else in_structure(like, dictionaries(network))

    return read


def _store_reader(stores: Sequence[TrajectoryStore], members: Any, like: PyTree | None) -> Callable[[int], PyTree]:
    chosen = [
        list(range(store.num_members)) if each is None else np.atleast_1d(each).tolist()
        for store, each in zip(stores, members, strict=True)
    ]
    ends = np.cumsum([store.num_epochs * len(each) for store, each in zip(stores, chosen, strict=True)])

    def read(row: int) -> PyTree:
        number = int(np.searchsorted(ends, row, side="right"))
        within = row - (int(ends[number - 1]) if number else 0)
        epoch, index = divmod(within, len(chosen[number]))
        block = stores[number].read(epoch, chosen[number][index], like=like)
        return jax.tree.map(lambda leaf: leaf[0, 0], block)

    return read

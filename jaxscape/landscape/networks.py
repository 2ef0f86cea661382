"""Networks of trajectories, one at a time, in the order of the rows that `gram` has of them."""

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
    """Return `row -> params`, which reads one network, as NumPy arrays.

    Args:
        points: as `gram` takes them; likewise
        members: of a store.
        like: parameters whose structure is wanted; by default that of the points, of a store nested dictionaries.

    Raises:
        ValueError: for points that `gram` refuses; by the function that is returned, for `like` with other arrays.
    """
    open_source(points, members, None)  # refuses what is no points, and members that are not there
    if isinstance(points, TrajectoryStore):
        return _of_stores([points], [members], like)
    items: Any = points if type(points) in (list, tuple) else None
    if items and isinstance(items[0], TrajectoryStore):
        return _of_stores(items, [None] * len(items) if members is None else members, like)

    def read(row: int) -> PyTree:
        if items:
            found = items[row]
            found = np.asarray(found) if type(found) in (list, tuple) and np.ndim(found[0]) == 0 else found
        else:
            found = jax.tree.map(lambda leaf: np.asarray(leaf)[row], points)
        return found if like is None else in_structure(like, dictionaries(found))

    return read


def _of_stores(stores: Sequence[TrajectoryStore], members: Any, like: PyTree | None) -> Callable[[int], PyTree]:
    chosen = [
        list(range(store.num_members)) if each is None else np.atleast_1d(each).tolist()
        for store, each in zip(stores, members, strict=True)
    ]
    ends = np.cumsum([store.num_epochs * len(each) for store, each in zip(stores, chosen, strict=True)])

    def read(row: int) -> PyTree:
        number = int(np.searchsorted(ends, row, side="right"))
        within = row - (int(ends[number - 1]) if number else 0)
        epoch, place = divmod(within, len(chosen[number]))
        found = stores[number].read(epoch, chosen[number][place], like=like)
        return jax.tree.map(lambda leaf: leaf[0, 0], found)

    return read

"""Checks of the inputs of `gram` before any data are read: the points, the reference and the parents of the rows."""

import numbers
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64, Integer, Real

from jaxscape.lazy import jax, jnp
from jaxscape.trajectories.arrays import describe_shape, differences, matching_names
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

EXACT = 2**53  # integers up to this size are exact in float64


class Source(NamedTuple):
    """A description of the points, with a function that reads them."""

    num_rows: int
    shapes: dict[str, tuple[int, ...]]  # of the arrays of one point, by key path, in the order of the columns
    all_shapes: dict[str, tuple[int, ...]]  # the same, including the arrays that are left out
    parents: Int[np.ndarray, " points"] | None  # of the rows, if they are known
    is_narrow: bool  # no wider than float32, so that float64 represents the squares of all finite values
    blocks: Callable[[int], Iterator[np.ndarray]]  # from the size of a block in bytes (as float32) to the blocks

    @property
    def dimension(self) -> int:
        """Return P, the number of parameters of a point."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


Chosen = Sequence[int] | Integer[np.ndarray, " _"]
Members = int | Chosen | Sequence[Chosen | None]


def open_source(points: Any, members: Members | None, leaves: str | Sequence[str] | None) -> Source:
    """Return the description of `points`; raise a ValueError if they cannot be rows of real numbers."""
    if isinstance(points, TrajectoryStore):
        return _of_store(points, members, leaves)
    is_list = type(points) in (list, tuple) and len(points) > 0
    if is_list and any(isinstance(item, TrajectoryStore) for item in points):
        return _of_stores(points, members, leaves)
    if members is not None:
        raise ValueError("members can be chosen from a TrajectoryStore only; index the arrays instead")
    return _of_list(points, leaves) if is_list else _of_arrays(points, leaves)


def _of_store(store: TrajectoryStore, members: Any, leaves: str | Sequence[str] | None) -> Source:
    chosen = None
    if members is not None:
        chosen = integers([members] if isinstance(members, int) else members, "members must be integers").tolist()
    # This reads nothing, but refuses an empty store, and members and leaves that are not in it.
    store.blocks(sys.maxsize, members=chosen, leaves=leaves)
    count = store.num_members if chosen is None else len(chosen)
    num_rows = store.num_epochs * count
    parents = np.maximum(np.arange(num_rows) - count, -1)
    shapes = dict(zip(store.leaf_names, store.leaf_shapes, strict=True))
    blocks = partial(store.blocks, members=chosen, leaves=leaves)
    return Source(num_rows, _chosen(shapes, leaves), shapes, parents, True, blocks)


def _of_stores(stores: Sequence[Any], members: Any, leaves: str | Sequence[str] | None) -> Source:
    """Return the rows of several stores, one store after the other."""
    for number, store in enumerate(stores):
        if not isinstance(store, TrajectoryStore):
            raise ValueError(f"points must all be stores, or none, but points[{number}] is a {type(store).__name__}")
    parts = [_of_store(*each, leaves) for each in zip(stores, _members_by_store(members, len(stores)), strict=True)]
    for store in stores[1:]:
        _require_same_leaves(store, stores[0])
    num_rows = sum(part.num_rows for part in parts)
    first_rows = np.cumsum([0, *(part.num_rows for part in parts[:-1])])
    parents = [
        np.where(rows >= 0, rows + first, -1)
        for part, first in zip(parts, first_rows, strict=True)
        if (rows := part.parents) is not None
    ]

    def blocks(max_bytes: int) -> Iterator[Real[np.ndarray, "points columns"]]:
        if max_bytes < 4 * num_rows:
            raise ValueError(f"max_bytes={max_bytes} is less than one column, {4 * num_rows} bytes")
        # Half of max_bytes, since the blocks of the stores and their concatenation are held at the same time.
        width = max(max_bytes // (8 * num_rows), 1)
        by_store = [part.blocks(4 * width * part.num_rows) for part in parts]
        return (np.concatenate(rows) for rows in zip(*by_store, strict=True))

    return parts[0]._replace(num_rows=num_rows, parents=np.concatenate(parents), blocks=blocks)


def _members_by_store(members: Any, count: int) -> Any:
    if members is None:
        return [None] * count
    is_sequence = isinstance(members, Sequence | np.ndarray) and not isinstance(members, str)
    are_selections = is_sequence and all(
        each is None or (isinstance(each, Sequence | np.ndarray) and not isinstance(each, str)) for each in members
    )
    if not are_selections or len(members) != count:
        raise ValueError(
            f"members must be one selection for each of the {count} stores, a sequence of integers or None for all, "
            f"got {members!r:.100}"
        )
    return members


def _require_same_leaves(store: TrajectoryStore, first: TrajectoryStore) -> None:
    now, then = (dict(zip(each.leaf_names, each.leaf_shapes, strict=True)) for each in (store, first))
    for name, here, there in differences(now, then, describe_shape):
        raise ValueError(
            f"stores must hold the same arrays: {name!r} is {here} in {store.path} and {there} in {first.path}"
        )
    if list(now) != list(then):
        raise ValueError(
            f"stores must hold the same arrays in the same order, but {store.path} and {first.path} do not"
        )


def _of_arrays(points: PyTree, leaves: str | Sequence[str] | None) -> Source:
    if isinstance(points, Iterator):
        raise ValueError(f"points must be arrays, and not a {type(points).__name__}; make a list of its items")
    arrays = _named_arrays("points", points)
    shapes = [array.shape for array in arrays.values()]
    if not arrays:
        raise ValueError(f"points must be an array (n, P), or a pytree of stacked arrays, got {points!r}, without any")
    if any(len(shape) == 0 or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(f"points must be arrays that share a leading axis, got shapes {shapes}")
    if _is_bare(points) and len(shapes[0]) == 1:
        raise ValueError(f"points must be an array (n, P), or a pytree of stacked arrays, got the shape {shapes[0]}")
    of_one = {name: array.shape[1:] for name, array in arrays.items()}
    return _of_rows(arrays, of_one, shapes[0][0], leaves)


def _of_list(points: Sequence[Any], leaves: str | Sequence[str] | None) -> Source:
    """Return the rows of a plain list or tuple, in which each item is a network or a vector."""
    items = [_named_arrays(f"points[{number}]", _as_vector(item)) for number, item in enumerate(points)]
    _refuse_unequal(items)
    shapes = [array.shape for array in items[0].values()]
    if not shapes:
        raise ValueError(f"points must hold arrays, but points[0] is {points[0]!r:.60}, without any")
    if _is_bare(_as_vector(points[0])) and len(shapes[0]) != 1:
        items_are = "numbers" if shapes[0] == () else f"arrays of shape {shapes[0]}, which may be stacked themselves"
        raise ValueError(
            f"points must be an array (n, P), a list of networks or of vectors, or a pytree of stacked arrays, got a "
            f"{type(points).__name__} of {items_are}; {_STACK}"
        )
    of_one = {name: array.shape for name, array in items[0].items()}
    return _of_rows({name: [item[name] for item in items] for name in of_one}, of_one, len(items), leaves)


_STACK = "stack points on axis 0 (np.stack), and give arrays that are stacked already in a dictionary"


def _as_vector(item: Any) -> Any:
    """Return a list of numbers as a vector, anything else unchanged."""
    is_numbers = type(item) in (list, tuple) and len(item) and all(isinstance(number, numbers.Real) for number in item)
    return np.array(item) if is_numbers else item


def _refuse_unequal(items: Sequence[dict[str, np.ndarray]]) -> None:
    first, *others = ({name: array.shape for name, array in item.items()} for item in items)
    for number, item in enumerate(others, start=1):
        for name, now, then in differences(item, first, describe_shape):
            raise ValueError(
                f"points in a list must be networks with the same arrays, or vectors of one length, but {name!r} "
                f"is {then} in points[0] and {now} in points[{number}]; {_STACK}"
            )


def _of_rows(
    arrays: Mapping[str, np.ndarray | list[np.ndarray]],
    of_one: dict[str, tuple[int, ...]],
    num_rows: int,
    leaves: str | Sequence[str] | None,
) -> Source:
    """Return the rows of named arrays, each stacked on axis 0 or given as a list with one array per point."""
    shapes = _chosen(of_one, leaves)
    if num_rows == 0 or not any(np.prod(shape) for shape in shapes.values()):
        raise ValueError(f"points must not be empty, got shapes {[(num_rows, *shape) for shape in shapes.values()]}")
    chosen = [arrays[name] for name, shape in shapes.items() if np.prod(shape)]

    def blocks(max_bytes: int) -> Iterator[Real[np.ndarray, "points columns"]]:
        width = max(max_bytes // (4 * num_rows), 1)
        for rows in chosen:
            size = rows[0].size
            yield from (_columns(rows, slice(first, first + width)) for first in range(0, size, width))

    parts = [part for rows in chosen for part in (rows if isinstance(rows, list) else [rows])]
    is_narrow = not any(part.dtype == np.float64 for part in parts)
    return Source(num_rows, shapes, of_one, None, is_narrow, blocks)


def _columns(rows: np.ndarray | list[np.ndarray], columns: slice) -> Real[np.ndarray, "points columns"]:
    if isinstance(rows, np.ndarray):
        return rows.reshape(len(rows), -1)[:, columns]
    parts = [row.reshape(-1)[columns] for row in rows]
    one_type = len({part.dtype for part in parts}) == 1
    return np.stack(parts if one_type else [part.astype(np.float64) for part in parts])


def _chosen(shapes: dict[str, tuple[int, ...]], leaves: str | Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that are selected by name or pattern."""
    return shapes if leaves is None else {name: shapes[name] for name in matching_names(list(shapes), leaves)}


def flatten_reference(reference: PyTree, source: Source) -> Float64[np.ndarray, " parameters"]:
    """Return the reference with its arrays in the order of the columns of the points.

    It may include the arrays that are left out of the points, or not.

    Raises:
        ValueError: for anything but an array (P,) or the arrays of one point, with the same key paths and shapes.
    """
    arrays = _named_arrays("reference", reference)
    if type(reference) in (list, tuple) and all(array.ndim == 0 for array in arrays.values()):
        reference = np.array(list(arrays.values()))  # a list of numbers
        arrays = {"params": reference}
    if _is_bare(reference) and np.ndim(reference) == 1:
        (flat,) = arrays.values()
        return _chosen_columns(flat, source).astype(np.float64)
    for name in [*source.shapes, *arrays]:
        shape, expected = (arrays[name].shape if name in arrays else None), source.all_shapes.get(name)
        if shape != expected:
            raise ValueError(
                f"reference must have the arrays of one point, or be an array ({source.dimension},): {name!r} is "
                f"{describe_shape(shape)} in the reference and {describe_shape(expected)} in a point"
            )
    return np.concatenate([arrays[name].ravel().astype(np.float64) for name in source.shapes])


def _chosen_columns(flat: Real[np.ndarray, " _"], source: Source) -> Real[np.ndarray, " _"]:
    """Return the selected arrays of a flat reference, which holds either only these or all arrays of a point."""
    if flat.size == source.dimension:
        return flat
    sizes = [int(np.prod(shape)) for shape in source.all_shapes.values()]
    if flat.size != sum(sizes):
        raise ValueError(f"reference has {flat.size} parameters, the points have {source.dimension}")
    columns = dict(zip(source.all_shapes, np.split(flat, np.cumsum(sizes)[:-1]), strict=True))
    return np.concatenate([columns[name] for name in source.shapes])


def check_parents(
    parents: Sequence[int] | Integer[np.ndarray, " points"], num_rows: int
) -> Int64[np.ndarray, " points"]:
    """Return the parents; raise a ValueError unless each is an earlier row, or -1."""
    allowed = f"parents must be {num_rows} row numbers, each -1 (a start) or smaller than its own row"
    array = integers(parents, allowed)
    if len(array) != num_rows:
        raise ValueError(f"{allowed}, got {len(array)}")
    bad = np.flatnonzero((array < -1) | (array >= np.arange(num_rows)))
    if len(bad):
        raise ValueError(f"{allowed}, got {array[bad[0]]} for row {bad[0]}")
    return array


def integers(values: Sequence[int] | Integer[np.ndarray, " values"], allowed: str) -> Int64[np.ndarray, " values"]:
    """Return a sequence of integers as an array; raise a ValueError that says what is allowed for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:  # items of unequal lengths
        array = np.empty((), object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{allowed}, got {str(values)[:60]}")
    return array.astype(np.int64)


def _named_arrays(argument: str, tree: PyTree) -> dict[str, Real[np.ndarray, "..."]]:
    """Return the arrays of a pytree by key path, named as in a store; refuse anything but arrays of real numbers."""
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_sparse):
        name = "/".join(jax.tree_util.keystr((key,), simple=True) for key in path) or "params"
        if name in arrays:
            raise ValueError(f"{argument}: two arrays have the key path {name!r}")
        arrays[name] = _real_numbers(f"{argument}: {name!r}" if path else argument, leaf)
    return arrays


def _real_numbers(name: str, leaf: Any) -> Real[np.ndarray, "..."]:
    kind = type(leaf).__name__
    if isinstance(leaf, np.ma.MaskedArray) or _is_sparse(leaf):
        raise ValueError(f"{name} is a {kind}; allowed: a plain array of real numbers")
    try:
        array = np.asarray(leaf)
    except (TypeError, ValueError, RuntimeError) as error:  # PRNG keys, deleted arrays
        raise ValueError(f"{name} is a {kind}, and no array: {error}") from error
    dtype = array.dtype
    is_real = jnp.issubdtype(dtype, jnp.integer) or (jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 8)
    if not is_real:
        raise ValueError(f"{name} is a {kind} of {dtype}; allowed: real floats up to float64, and integers")
    if dtype.kind in "iu" and dtype.itemsize == 8 and array.size and max(-int(array.min()), int(array.max())) > EXACT:
        raise ValueError(f"{name} has integers beyond 2**53, which float64 does not hold")
    return array


def _is_sparse(node: Any) -> bool:
    return hasattr(node, "todense")


def _is_bare(tree: PyTree) -> bool:
    return jax.tree_util.all_leaves([tree])  # a one-element list: is its element a leaf, and not a container?

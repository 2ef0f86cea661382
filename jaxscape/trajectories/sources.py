"""What `gram` is given, checked before any of it is read: the points, the reference and the parents of the rows."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

EXACT = 2**53  # integers up to this size are exact in float64


class Source(NamedTuple):
    """What the points are, before any of them is read."""

    num_rows: int
    shapes: dict[str, tuple[int, ...]]  # of the arrays of one point, by key path, in the order of the columns
    parents: np.ndarray | None  # of the rows, where they are known
    is_narrow: bool  # no wider than float32: float64 holds the squares of all finite values
    blocks: Callable[[int], Iterator[np.ndarray]]  # given the bytes of a block as float32

    @property
    def dimension(self) -> int:
        """P, the number of parameters of a point."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


def open_source(points: TrajectoryStore | PyTree, members: Sequence[int] | None) -> Source:
    """Return what `points` are; raise ValueError for what cannot be rows of real numbers."""
    if isinstance(points, TrajectoryStore):
        return _of_store(points, members)
    if members is not None:
        raise ValueError("members can be chosen from a TrajectoryStore only; index the arrays instead")
    return _of_arrays(points)


def _of_store(store: TrajectoryStore, members: Sequence[int] | None) -> Source:
    chosen = None
    if members is not None:
        chosen = integers([members] if isinstance(members, int) else members, "members must be integers").tolist()
    store.blocks(sys.maxsize, members=chosen)  # reads nothing; refuses an empty store, and members not in it
    count = store.num_members if chosen is None else len(chosen)
    num_rows = store.num_epochs * count
    parents = np.maximum(np.arange(num_rows) - count, -1)
    shapes = dict(zip(store.leaf_names, store.leaf_shapes, strict=True))
    return Source(num_rows, shapes, parents, True, partial(store.blocks, members=chosen))


def _of_arrays(points: PyTree) -> Source:
    if isinstance(points, Iterator):
        raise ValueError(f"points must be arrays, and not a {type(points).__name__}; stack its items on axis 0")
    leaves = _named_arrays("points", points)
    shapes = [leaf.shape for leaf in leaves.values()]
    _refuse_rows_in_a_list(points, shapes)
    if not leaves:
        raise ValueError(f"points must be an array (n, P), or a pytree of stacked arrays, got {points!r}, without any")
    if any(len(shape) == 0 or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(f"points must be arrays that share a leading axis, got shapes {shapes}")
    if _is_bare(points) and len(shapes[0]) == 1:
        raise ValueError(f"points must be an array (n, P), or a pytree of stacked arrays, got the shape {shapes[0]}")
    num_rows = shapes[0][0]
    if num_rows == 0 or sum(leaf.size for leaf in leaves.values()) == 0:
        raise ValueError(f"points must not be empty, got shapes {shapes}")
    matrices = [leaf.reshape(num_rows, -1) for leaf in leaves.values() if leaf.size]

    def blocks(max_bytes: int) -> Iterator[np.ndarray]:
        width = max(max_bytes // (4 * num_rows), 1)
        return (matrix[:, first : first + width] for matrix in matrices for first in range(0, matrix.shape[1], width))

    of_one = {name: leaf.shape[1:] for name, leaf in leaves.items()}
    is_narrow = not any(leaf.dtype == np.float64 for leaf in leaves.values())
    return Source(num_rows, of_one, None, is_narrow, blocks)


def _refuse_rows_in_a_list(points: PyTree, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a list whose items may be points: read as stacked arrays it would give plausible wrong distances."""
    if type(points) not in (list, tuple) or not points:
        return
    kinds = {(jax.tree.structure(item), tuple(map(np.shape, jax.tree.leaves(item)))) for item in points}
    if len(kinds) == 1 or all(len(shape) < 2 for shape in shapes):
        raise ValueError(
            f"points must not be a {type(points).__name__} whose {len(points)} items may be points themselves; stack "
            f"points on axis 0 (np.stack, leaf by leaf), and give arrays that are stacked already in a dictionary"
        )


def flatten_reference(reference: PyTree, source: Source) -> np.ndarray:
    """Return the reference as float64 (P,), its arrays in the order of the columns of the points.

    Raises:
        ValueError: for anything but an array (P,) or the arrays of one point, by key path and shape.
    """
    arrays = _named_arrays("reference", reference)
    if type(reference) in (list, tuple) and all(array.ndim == 0 for array in arrays.values()):
        reference = np.array(list(arrays.values()))  # a list of numbers
        arrays = {"params": reference}
    if _is_bare(reference) and np.ndim(reference) == 1:
        (flat,) = arrays.values()
        if flat.size != source.dimension:
            raise ValueError(f"reference has {flat.size} parameters, the points have {source.dimension}")
        return flat.astype(np.float64)
    for name in [*source.shapes, *arrays]:
        found, expected = (arrays[name].shape if name in arrays else None), source.shapes.get(name)
        if found != expected:
            raise ValueError(
                f"reference must have the arrays of one point, or be an array ({source.dimension},): {name!r} is "
                f"{_describe(found)} in the reference and {_describe(expected)} in a point"
            )
    return np.concatenate([arrays[name].ravel().astype(np.float64) for name in source.shapes])


def check_parents(parents: Sequence[int] | np.ndarray, num_rows: int) -> np.ndarray:
    """Return the parents as int64 (n,); raise ValueError where one is not a row before its own, or -1."""
    allowed = f"parents must be {num_rows} row numbers, each -1 (a start) or smaller than its own row"
    array = integers(parents, allowed)
    if len(array) != num_rows:
        raise ValueError(f"{allowed}, got {len(array)}")
    bad = np.flatnonzero((array < -1) | (array >= np.arange(num_rows)))
    if len(bad):
        raise ValueError(f"{allowed}, got {array[bad[0]]} for row {bad[0]}")
    return array


def integers(values: Sequence[int] | np.ndarray, allowed: str) -> np.ndarray:
    """Return a sequence of integers as int64 (n,); raise ValueError that says what is allowed."""
    try:
        array = np.asarray(values)
    except ValueError:  # items of unequal lengths
        array = np.empty((), object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{allowed}, got {str(values)[:60]}")
    return array.astype(np.int64)


def _named_arrays(argument: str, tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a pytree by key path, named as a store names them; refuses what is no array of real numbers."""
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_sparse):
        name = "/".join(jax.tree_util.keystr((key,), simple=True) for key in path) or "params"
        if name in arrays:
            raise ValueError(f"{argument}: two arrays have the key path {name!r}")
        arrays[name] = _real_numbers(f"{argument}: {name!r}" if path else argument, leaf)
    return arrays


def _real_numbers(name: str, leaf: Any) -> np.ndarray:
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
    return jax.tree_util.all_leaves([tree])


def _describe(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"

"""Conversion of a pytree of parameters to named arrays for a store, and back to nested dictionaries or the pytree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from jaxscape.arguments import is_prng_key
from jaxscape.lazy import jax, jnp
from jaxscape.trajectories.index import Leaf


def named_arrays(params: Any, num_members: int) -> Iterator[tuple[Leaf, Any]]:
    """Yield the arrays of params with their descriptions, in tree order.

    Raises:
        ValueError: for a leaf that cannot be stored (names its key path).
    """
    names = set()
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        keys = key_names(path)
        name = "/".join(keys)
        if not isinstance(array, np.ndarray | jax.Array):
            raise ValueError(f"params: {name!r} is a {type(array).__name__}; allowed: JAX and NumPy arrays")
        if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize > 4:
            raise ValueError(f"params: {name!r} is {array.dtype}; allowed: float32, bfloat16 and float16")
        if array.shape[:1] != (num_members,) or array.size == 0:
            raise ValueError(
                f"params: {name!r} has the shape {array.shape}; allowed: ({num_members}, ...), not empty, an "
                f"index of the first axis for each record of the labels"
            )
        if name.replace(".", "/") in names:
            raise ValueError(f"params: {name!r} would have the name of another array; allowed: one key path each")
        names.add(name.replace(".", "/"))
        yield Leaf(keys, array.shape[1:], array.dtype.name), array
    if not names:
        raise ValueError("params holds no arrays")


def key_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names of a leaf's key path, the keys of the nested dictionaries that hold it on disk."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path) or ("params",)


def dictionaries(tree: Any) -> dict[str, Any]:
    """Return the leaves of any pytree as nested dictionaries, by key path."""
    return nested((key_names(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))


def require_same(leaves: Iterable[Leaf], first: list[Leaf]) -> None:
    """Raise a ValueError that names the key path if arrays differ from those of the first snapshot."""
    new, old = ({leaf.name: leaf for leaf in each} for each in (leaves, first))
    for name, now, then in differences(new, old, type_and_shape):
        raise ValueError(f"params: {name!r} of a member is {now}; allowed: {then}, as in epoch 0")


def differences[T](
    now: Mapping[str, T], then: Mapping[str, T], describe: Callable[[T], str] = str
) -> Iterator[tuple[str, str, str]]:
    """Yield the names of arrays that differ between two networks, with a description of each side.

    Args:
        now: a property of the arrays of one network, by name, such as their shapes.
        then: the same property of the other network, whose names come first.
        describe: turns the property into words.
    """
    for name in dict.fromkeys([*then, *now]):
        if now.get(name) != then.get(name):
            here, there = (describe(each[name]) if name in each else "absent" for each in (now, then))
            yield name, here, there


def type_and_shape(array: Any) -> str:
    """Describe an array, such as "float32 (3, 4)"."""
    return f"{array.dtype} {array.shape}"


def describe_shape(shape: tuple[int, ...] | None) -> str:
    """Describe the shape of an array, such as "of shape (3, 4)"; None stands for a missing array."""
    return "absent" if shape is None else f"of shape {shape}"


def outline(params: Any, *, leading_axes: int = 0) -> dict[str, str]:
    """Return the dtype and shape of each array of a pytree as text, by key path, in the form that records store.

    Args:
        params: a pytree of arrays or of their shapes.
        leading_axes: number of leading axes to leave out.
    """
    return {
        "/".join(key_names(path)): f"{jnp.result_type(leaf)} {np.shape(leaf)[leading_axes:]}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def matching_names(known: Sequence[str], leaves: Collection[str]) -> list[str]:
    """Return the names selected by name or by pattern, each once, in the order of `known`.

    Raises:
        ValueError: for an unknown name, a pattern without a match, or anything but strings.
    """
    patterns = [leaves] if isinstance(leaves, str) else list(leaves) if isinstance(leaves, Collection) else []
    some = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"leaves={leaves!r:.100} must be names or patterns of arrays; known: {some}")
    chosen: set[str] = set()
    for pattern in patterns:
        # An exact name comes first, since it may hold brackets, which mean something else in a pattern.
        matches = {pattern} if pattern in known else {name for name in known if fnmatchcase(name, pattern)}
        if not matches:
            raise ValueError(f"leaves: {pattern!r} is the name of no array and matches none; known: {some}")
        chosen |= matches
    return [name for name in known if name in chosen]


def host_copies(arrays: list[np.ndarray | jax.Array]) -> list[np.ndarray]:
    """Copy arrays to the host, with all transfers in parallel."""
    for array in arrays:
        if isinstance(array, jax.Array):
            array.copy_to_host_async()  # all transfers run together
    # Always copy: on the CPU the NumPy view is the buffer itself, which the caller may donate.
    return [np.array(array, order="C") for array in arrays]


def nested(items: Iterable[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """Return nested dictionaries built from key paths and values."""
    tree: dict[str, Any] = {}
    for keys, value in items:
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = value
    return tree


def in_structure(like: Any, tree: Mapping[str, Any], *, leading_axes: int = 0) -> Any:
    """Return the values of nested dictionaries in the structure of `like`, matched by key path.

    Values are matched by path and not by order: the leaves of a structure need not be in the order of sorted dictionary
    keys, and unflattening by order could swap a weight and a bias.

    Args:
        like: a pytree of arrays, or of objects with a shape. A typed PRNG key is replaced by what is stored, of any
            shape; if nothing is stored, the key stays.
        tree: values with shapes, by the strings of the key paths; a bare array is under "params".
        leading_axes: number of axes that the values have before those of `like`.

    Raises:
        ValueError: if key paths or shapes differ (names the array).
    """
    stored = {key_names(path): value for path, value in jax.tree_util.tree_leaves_with_path(tree)}
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {key_names(path): leaf for path, leaf in leaves}
    if len(expected) < len(leaves):
        raise ValueError(f"like has {len(leaves)} leaves and {len(expected)} key paths; allowed: one key path each")
    random_keys = {keys: stored.get(keys, leaf) for keys, leaf in expected.items() if is_prng_key(leaf)}
    for keys in [*expected, *stored]:
        shape, stored_shape = _shape(expected.get(keys)), _shape(stored.get(keys))
        stored_shape = stored_shape and stored_shape[leading_axes:]
        if keys not in random_keys and (shape is None or shape != stored_shape):
            now = "no array" if shape is None and keys in expected else describe_shape(shape)
            raise ValueError(f"like: {'/'.join(keys)!r} is {now}; allowed: {describe_shape(stored_shape)}, as stored")
    return jax.tree_util.tree_unflatten(structure, [(stored | random_keys)[keys] for keys in expected])


def shapes_of_one(like: Any, leaves: Iterable[Leaf], num_members: int) -> Any:
    """Return `like` without its member axis if it holds the arrays of all members; otherwise return it unchanged."""
    stacked = {leaf.keys: (num_members, *leaf.shape) for leaf in leaves}

    def of_one(leaf: Any) -> Any:
        return leaf if is_prng_key(leaf) else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    arrays = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(like) if not is_prng_key(leaf)]
    are_stacked = all(_shape(leaf) == stacked.get(key_names(path), ()) for path, leaf in arrays)
    return jax.tree.map(of_one, like) if are_stacked else like


def _shape(leaf: Any) -> tuple[int, ...] | None:
    if isinstance(leaf, int | float | complex):
        return ()
    shape = getattr(leaf, "shape", None)
    return shape if isinstance(shape, tuple) else None

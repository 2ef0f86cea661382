"""Decide which leaves are perturbed, and over which axes the norm of a filter is taken: by name, shape and user choice.

A bias or a scale is not a filter bank. The shape alone does not identify one: a bias may be (out,), (out, 1, 1) in
Equinox's convolutions or (heads, head_dim) in an attention layer, and a dense kernel with one output is (in, 1). So the
name decides first, and the shape if the name says nothing.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxscape.arguments import leaf_name, whole_number
from jaxscape.problem import FilterAxis, Where

PyTree = Any
Path = tuple[Any, ...]
Filter = tuple[int, ...]  # the axes of a leaf over which the norm of one filter is taken

BIASES = ("bias", "scale")
WEIGHTS = ("kernel", "weight", "w", "lora_a", "lora_b")  # LoRA of rank 1 has the shapes (in, 1) and (1, out)


def leaf_filters(params: PyTree, filter_axis: FilterAxis, ignore: bool, where: Where | None) -> list[Filter | None]:
    """Return the filter axes of each leaf, in tree order; None for a leaf that is not perturbed.

    Raises:
        TypeError: if filter_axis or where is of another kind (names the leaf).
        ValueError: if an axis is out of range (names the leaf), or where does not match the params or selects no leaf.
    """
    if not callable(filter_axis):
        _axes(filter_axis)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    chosen = selected(where, params)
    return [
        _leaf_filter(path, np.shape(leaf), filter_axis, ignore) if is_chosen else None
        for (path, leaf), is_chosen in zip(leaves, chosen, strict=True)
    ]


def selected(where: Where | None, params: PyTree) -> list[bool]:
    """Return whether each leaf is perturbed, in tree order.

    Raises:
        TypeError: if where is neither a mask of bools nor a function that returns them (names the leaf).
        ValueError: if a mask has another structure, or no leaf is selected.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if where is None:
        return [True] * len(paths)
    # A mask of an Equinox model is itself a model, and so may be callable; unlike a function it is not a leaf, which
    # all_leaves of a one-element list tells.
    is_function = callable(where) and jax.tree_util.all_leaves([where])
    if not is_function and len({jax.tree.structure(where), jax.tree.structure(params)}) > 1:
        names = [{leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(t)} for t in (where, params)]
        only = ", ".join(sorted(names[0] ^ names[1])) or "the containers"
        raise ValueError(f"where and params must have the same structure, but {only} differ")
    answers = [where(path) for path in paths] if is_function else jax.tree.leaves(where)
    for path, answer in zip(paths, answers, strict=True):
        if not isinstance(answer, bool | np.bool_):
            raise TypeError(
                "where must be a pytree of True and False like params, or a function from a leaf's key path to one of "
                f"them, got {answer!r:.100} for the leaf {leaf_name(path)}"
            )
    if paths and not any(answers):
        some = ", ".join(map(leaf_name, paths[:5])) + (", ..." if len(paths) > 5 else "")
        raise ValueError(f"where must select at least one leaf, but it selects none of {some}")
    return [bool(answer) for answer in answers]


def is_ignored(ignore: bool, ignore_1d: bool | None) -> bool:
    """Return `ignore`, or the value given under its former name.

    Raises:
        TypeError: if either is not a bool.
        ValueError: if they contradict each other.
    """
    for name, value in (("ignore", ignore), ("ignore_1d", False if ignore_1d is None else ignore_1d)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r:.100}")
    if ignore_1d is None:
        return bool(ignore)
    if ignore_1d and not ignore:
        raise ValueError(
            "ignore_1d is the former name of ignore, got ignore=False and ignore_1d=True; give ignore alone"
        )
    return bool(ignore_1d)


def ties(params: PyTree) -> list[tuple[int, int]]:
    """Return pairs of leaf indices that are the same array object; each pair begins with the first occurrence."""
    first: dict[int, int] = {}
    pairs = []
    for number, leaf in enumerate(jax.tree.leaves(params)):
        if isinstance(leaf, np.ndarray | jax.Array) and first.setdefault(id(leaf), number) != number:
            pairs.append((first[id(leaf)], number))
    return pairs


def refuse_ties(params: PyTree, filters: Sequence[Filter | None]) -> None:
    """Raise an error if two leaves are the same array and one of them is perturbed.

    Each would get its own direction, and after a jump an optimiser would train each separately, so that tied weights
    would no longer be tied.

    Raises:
        ValueError: with the names of both leaves.
    """
    for pair in ties(params):
        if any(filters[number] is not None for number in pair):
            raise tied(params, pair)


def tied(params: PyTree, pair: tuple[int, int]) -> ValueError:
    """Return the error that says which leaves are one array."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    one, other = (leaf_name(paths[number]) for number in pair)
    return ValueError(
        f"params must not hold one array in two leaves, but {one} and {other} are the same object and would not stay "
        "tied; keep tied weights in one leaf that the model uses twice, or copy the array if they are not tied"
    )


def _leaf_filter(path: Path, shape: tuple[int, ...], filter_axis: FilterAxis, ignore: bool) -> Filter | None:
    name = _last_name(path)
    one_filter = None if ignore else tuple(range(len(shape)))
    is_bias = name in BIASES or len(shape) <= 1
    if is_bias and ignore:
        return None
    answer = filter_axis(path) if callable(filter_axis) else filter_axis  # an axis, several, None or "ignore"
    if callable(filter_axis) and (answer is None or (isinstance(answer, str) and answer == "ignore")):
        return None
    if is_bias:
        return one_filter
    outputs = _output_axes(answer, len(shape), path)
    long = {axis for axis, length in enumerate(shape) if length != 1}
    # A pytree that is a single array (an empty path) has no bias.
    if path and name not in WEIGHTS and len(long) <= 1 and long <= outputs:
        return one_filter
    return tuple(axis for axis in range(len(shape)) if axis not in outputs)


def _last_name(path: Path) -> str:
    """Return the last name of a key path in lower case, without list indices, array boxes, or anything before a dot."""
    names = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    texts = [name for name in names if isinstance(name, str)]
    if len(texts) > 1 and texts[-1] == "value":  # Flax boxes arrays, as in nnx.Param and Partitioned
        texts.pop()
    return re.split(r"[./]", texts[-1])[-1].lower() if texts else ""


def _axes(filter_axis: Any, where: str = "") -> tuple[int, ...]:
    """Return the given axes as a tuple; `where` names the leaf in the message if a user's function gave them."""
    try:
        axes = tuple(filter_axis) if isinstance(filter_axis, tuple | list) else (filter_axis,)
        return tuple(whole_number("filter_axis", axis) for axis in axes)
    except TypeError:
        allowed = 'one of these, None or "ignore"'
        raise TypeError(
            f"filter_axis must be a whole number, a tuple of them, or a function from a leaf's key path to {allowed}, "
            f"got {filter_axis!r:.100}{where}"
        ) from None


def _output_axes(axes: Any, ndim: int, path: Path) -> set[int]:
    given = _axes(axes, f" for the leaf {leaf_name(path)}")
    if not all(-ndim <= axis < ndim for axis in given):
        raise ValueError(f"filter_axis {axes} is out of range for the leaf {leaf_name(path)} with {ndim} dimensions")
    return {axis % ndim for axis in given}

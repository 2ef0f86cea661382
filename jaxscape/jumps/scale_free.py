"""Positions of copies after rescaling every filter to the norm of the minimum's filter, so that only directions count.

The loss does not depend on the norm of a filter that batch norm follows, but weight decay changes that norm. Positions
in parameter space depend on both; these depend on neither.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from jaxscape.arguments import check_finite, check_parameters, leaf_name
from jaxscape.jumps.filters import Filter, is_ignored, leaf_filters
from jaxscape.problem import FilterAxis

PyTree = Any


class ScaleFree(NamedTuple):
    """Distances and angles of copies relative to a minimum, after rescaling every filter to the minimum's."""

    distance: Float64[np.ndarray, " members"]  # from the minimum
    angle: Float64[np.ndarray, " members"]  # between the displacements of the copy and of its start: 0 to pi radians
    norm: float  # norm of the minimum's parameters that are included


def scale_free(
    params: PyTree,
    minimum: PyTree,
    starts: PyTree,
    *,
    filter_axis: FilterAxis = -1,
    ignore: bool = True,
) -> ScaleFree:
    """Return the distance and direction of copies from a minimum after every filter is rescaled to the minimum's norm.

    Each filter of a copy is rescaled to the norm of the minimum's filter. Distances and angles are those of the
    differences from the minimum. The distance is that of `filter_normalized_distance`, in float64.

    Args:
        params: the copies, a pytree of arrays [member, ...].
        minimum: the parameters of one network, arrays [...] with the same structure.
        starts: the copies right after their jumps, arrays [member, ...] with the same structure.
        filter_axis: see `filter_normalize`; a leaf that is not perturbed is left out.
        ignore: leave out biases and scales, as defined in `filter_normalize`; with False each of them is one filter.

    Returns:
        Distances, angles and the norm of the minimum. An angle is NaN where a displacement is 0.

    Raises:
        TypeError: if a leaf does not hold real floating-point numbers (names the leaf); see also `filter_normalize`.
        ValueError: if a leaf holds NaN or infinity, structures or shapes differ (names the leaf), or all leaves are
            left out.
    """
    leaves, count = _checked({"params": params, "minimum": minimum, "starts": starts})
    filters = leaf_filters(minimum, filter_axis, is_ignored(ignore, None), None)
    if all(over is None for over in filters):
        raise ValueError("minimum has no leaf to measure: all are biases and scales, or filter_axis ignores them")
    own, cross, start = np.zeros(count), np.zeros(count), np.zeros(count)
    for number, one, other in _displacements(leaves, filters, count):
        own[number] += np.vdot(one, one)
        cross[number] += np.vdot(one, other)
        start[number] += np.vdot(other, other)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.where(own * start > 0, cross / np.sqrt(own * start), np.nan)
    measured = [leaf for leaf, over in zip(leaves["minimum"], filters, strict=True) if over is not None]
    norm = float(np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in measured)))
    return ScaleFree(np.sqrt(own), np.arccos(np.clip(cosine, -1, 1)), norm)


def _displacements(
    leaves: dict[str, list[Any]], filters: list[Filter | None], count: int
) -> Iterator[tuple[int, Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]]:
    """Yield a member's number and one leaf of its displacement and of its start's, one float64 leaf at a time."""
    for over, w, *stacks in zip(filters, *(leaves[name] for name in ("minimum", "params", "starts")), strict=True):
        if over is None:
            continue
        center = np.asarray(w, np.float64)
        norms = np.sqrt(np.square(center).sum(axis=over, keepdims=True))
        for member in range(count):
            one, other = (_rescaled(np.asarray(stack[member], np.float64), norms, over) - center for stack in stacks)
            yield member, one, other


def _rescaled(
    filters: Float64[np.ndarray, " *leaf"], norms: Float64[np.ndarray, "..."], over: Filter
) -> Float64[np.ndarray, " *leaf"]:
    """Rescale filters to the given norms; a filter of zeros stays zero."""
    current = np.sqrt(np.square(filters).sum(axis=over, keepdims=True))
    return np.asarray(filters * np.where(current > 0, norms / np.where(current > 0, current, 1), 0))


def _checked(trees: dict[str, PyTree]) -> tuple[dict[str, list[Any]], int]:
    """Return the leaves of each tree, in one order, and the number of members."""
    for name, tree in trees.items():
        if len({jax.tree.structure(each) for each in (tree, trees["minimum"])}) > 1:
            raise ValueError(f"{name} must have the structure of minimum, got {jax.tree.structure(tree)}")
        check_parameters(name, tree)
        check_finite(name, tree)
    leaves = {name: jax.tree.leaves(tree) for name, tree in trees.items()}
    counts = {np.shape(leaf)[:1] for name in ("params", "starts") for leaf in leaves[name]}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(trees["minimum"])]
    if len(counts) != 1 or counts == {()}:
        raise ValueError("params and starts must hold arrays [member, ...] with the same number of members")
    for name in ("params", "starts"):
        for path, leaf, one in zip(paths, leaves[name], leaves["minimum"], strict=True):
            if np.shape(leaf)[1:] != np.shape(one):
                raise ValueError(
                    f"{name} must hold copies of minimum, [member, ...], got {np.shape(leaf)} for {np.shape(one)} "
                    f"at {leaf_name(path)}"
                )
    ((count,),) = counts
    return leaves, count

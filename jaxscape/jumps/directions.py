"""Perturbations of a minimum: random directions, filter normalisation, the jump, and the paper's grid of jumps.

Pure functions over the parameters of one network of any framework. Filter normalisation is that of Li et al. (2018):
every filter of a direction is rescaled to the norm of the corresponding filter of the parameters. A step of size 1
therefore moves every filter by its own norm, however the network scales its filters.
"""

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, Integer, Real

from jaxscape.arguments import (
    check_finite,
    check_parameters,
    check_same,
    count,
    finite_number,
    number,
    typed_key,
    whole_number,
)
from jaxscape.jumps.filters import Filter, is_ignored, leaf_filters, refuse_ties, selected, tied, ties
from jaxscape.problem import FilterAxis, Where
from jaxscape.training.members import stack_members

PyTree = Any

MAX_UNCHANGED = 0.01  # `jump_grid` warns if rounding leaves more than this fraction of the parameters unchanged


class JumpGrid(NamedTuple):
    """Perturbed copies of one minimum: every step size along every direction, directions outermost."""

    params: PyTree  # leaves [member, ...]
    seed: Int[np.ndarray, " members"]  # the direction's seed
    step_size: Float64[np.ndarray, " members"]

    @property
    def labels(self) -> list[dict[str, int | float]]:
        """Return one record per member, in the form that `TrajectoryStore` takes."""
        return [
            {"seed": int(seed), "step_size": float(step)} for seed, step in zip(self.seed, self.step_size, strict=True)
        ]


def random_direction(key: jax.Array, params: PyTree) -> PyTree:
    """Return a pytree like `params` (shapes, dtypes) of independent standard normal numbers.

    Raises:
        TypeError: if key is not a PRNG key, or a leaf does not hold real floating-point numbers (names the leaf).
    """
    key = typed_key(key)
    check_parameters("params", params)
    leaves, treedef = jax.tree.flatten(params)
    return jax.tree.unflatten(treedef, _normal(key, leaves, [True] * len(leaves)))


def filter_normalize(
    direction: PyTree,
    params: PyTree,
    *,
    filter_axis: FilterAxis = -1,
    ignore: bool = True,
    where: Where | None = None,
    ignore_1d: bool | None = None,
) -> PyTree:
    """Rescale every filter of `direction` to the norm of the same filter of `params`.

    A filter is the slice of a leaf at one index of its output axis: for a Flax convolution kernel (H, W, in, out), all
    weights of one output channel. This takes one network, not a stack.

    Args:
        direction: a pytree like `params`.
        params: the parameters of one network.
        filter_axis: the output axis. -1 is Flax's layout, 0 that of Equinox and PyTorch; a tuple names several
            (an attention kernel (in, heads, head_dim) has (1, 2)). A function of the leaf's key path gives either, or
            None or "ignore" for a leaf that is not perturbed.
        ignore: biases and scales get a zero direction, as in the paper's code; with False each of them is one filter.
            The name decides first: a leaf is a bias or scale if the last name of its key path (lower case, indices
            left out) is "bias" or "scale", whatever its shape, such as an attention bias (heads, head_dim). A
            "kernel", "weight", "w", "lora_a" or "lora_b" with two dimensions or more is not one, such as a dense
            kernel (in, 1). For any other name the shape decides: a leaf is one if it has at most one dimension, or if
            at most one axis is longer than 1 and that is an output axis, such as (out, 1, 1) with `filter_axis=0`,
            whose filters would be single numbers. For a pytree that is one array only the number of dimensions counts.
        where: which leaves are perturbed: a pytree of bools like `params`, or a function from the leaf's key path to a
            bool. The others get a zero direction, as for the frozen base of adapters. All by default.
        ignore_1d: the former name of `ignore`, which will be removed in the next version.

    Returns:
        A pytree like `params`. A filter whose parameters are zero gets a zero direction, never NaN.

    Raises:
        TypeError: if a leaf does not hold real floating-point numbers (names the leaf), or filter_axis, ignore or
            where is of another kind.
        ValueError: if structures or shapes differ (names the leaf), an axis is out of range, no leaf is selected, or a
            perturbed leaf is the same array object as another leaf: the perturbation would untie tied weights.

    Reference:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 4.
    """
    check_same("direction", direction, "params", params)
    filters = leaf_filters(params, filter_axis, is_ignored(ignore, ignore_1d), where)
    refuse_ties(params, filters)
    return _normalized(direction, params, filters)


def filter_normalized_distance(
    params: PyTree,
    minimum: PyTree,
    *,
    filter_axis: FilterAxis = -1,
    ignore: bool = True,
) -> Float32[Array, ""]:
    """Return the distance of a network from a minimum after rescaling every filter to the norm of the minimum's filter.

    The loss does not depend on the norm of a filter that batch norm follows, but weight decay changes that norm. A
    distance in parameter space depends on both; this one depends on neither.

    Args:
        params: the parameters of one network; use `jax.vmap` for a stack.
        minimum: the parameters of the minimum.
        filter_axis: see `filter_normalize`; a leaf that is not perturbed is left out.
        ignore: leave out biases and scales, as defined in `filter_normalize`; with False each of them is one filter.

    Returns:
        A float32 scalar, accurate to about 1e-7 of the minimum's norm; 0 for the minimum itself.

    Raises:
        TypeError, ValueError: see `filter_normalize`; tied arrays are allowed here.
    """
    check_same("params", params, "minimum", minimum)
    filters = leaf_filters(minimum, filter_axis, is_ignored(ignore, None), None)
    one, other = (_normalized(tree, minimum, filters) for tree in (params, minimum))
    differences = jax.tree.map(lambda a, b: (a - b).astype(jnp.float32), one, other)
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(differences)), jnp.float32(0)))


def jump(params: PyTree, direction: PyTree, step_size: float | Real[Array, ""]) -> PyTree:
    """Return `params + step_size * direction` in the dtype of the parameters.

    Raises:
        TypeError: if a leaf does not hold real floating-point numbers (names the leaf), or the step size is not a
            number.
        ValueError: if structures or shapes differ, the step size is not finite, or two leaves of params are the same
            array object but have different directions, which would untie them.
    """
    check_same("direction", direction, "params", params)
    if not isinstance(step_size, jax.core.Tracer):
        finite_number("step_size", step_size)
    directions = jax.tree.leaves(direction)
    for pair in ties(params):
        both = [directions[number] for number in pair]
        if not any(isinstance(d, jax.core.Tracer) for d in both) and not np.array_equal(*both):
            raise tied(params, pair)
    return jax.tree.map(lambda w, d: _displaced(w, d, step_size), params, direction)


def jump_grid(
    params: PyTree,
    *,
    seeds: Sequence[int] | Integer[np.ndarray | Array, " seeds"] = range(5),
    step_sizes: Sequence[float] | Real[np.ndarray | Array, " steps"] = (0.25, 0.5, 0.75, 1.0),
    controls: int = 0,
    filter_axis: FilterAxis = -1,
    ignore: bool = True,
    where: Where | None = None,
    ignore_1d: bool | None = None,
) -> JumpGrid:
    """Return the paper's jumps: every step size along one filter-normalised random direction per seed.

    Args:
        params: the minimum: parameters of one network.
        seeds: distinct integers, 0 <= seed < 2**32; the direction of a seed depends on nothing else.
        step_sizes: distinct finite numbers; 1 moves every filter by its own norm.
        controls: number of unperturbed copies (step size 0) that are added at the end; they show where the minimum
            itself drifts. Their seeds are the first ones of `seeds`, then the smallest numbers that are not in `seeds`;
            only their batches depend on them.
        filter_axis: see `filter_normalize`.
        ignore: leave biases and scales unperturbed; see `filter_normalize`.
        where: which leaves are perturbed; see `filter_normalize`. The others keep their bytes and are not checked.
            It does not change the directions of the leaves that it selects.
        ignore_1d: the former name of `ignore`, which will be removed in the next version.

    Returns:
        A `JumpGrid` of len(seeds) * len(step_sizes) members, seeds outermost, followed by the controls.

    Raises:
        TypeError: if seeds are not integers or step sizes are not numbers; see also `filter_normalize`.
        ValueError: if seeds or step sizes are empty, repeated or out of range; if controls is negative, or positive
            together with a step size of 0; if params has no leaves, or holds NaN or infinity (names the leaf); see
            also `filter_normalize`.

    Warns:
        UserWarning: if more than 1 % of the parameters to be perturbed do not change at the smallest step, since the
            step is lost in the rounding of their dtype, as steps of 0.001 are in bfloat16.
    """
    seeds, step_sizes = checked_grid(seeds, step_sizes)
    if count("controls", controls, least=0) and 0 in step_sizes:
        raise ValueError(f"controls must be 0 if a step size is 0, got {controls} with step sizes {step_sizes}")
    if not jax.tree.leaves(params):
        raise ValueError("params must hold at least one array, got an empty pytree")
    chosen = jax.tree.unflatten(jax.tree.structure(params), selected(where, params))
    perturbed = jax.tree.map(lambda leaf, is_chosen: leaf if is_chosen else None, params, chosen)
    check_parameters("params", perturbed)
    check_finite("params", perturbed)
    filters = leaf_filters(params, filter_axis, is_ignored(ignore, ignore_1d), where)
    refuse_ties(params, filters)
    smallest = min(range(len(step_sizes)), key=lambda place: abs(step_sizes[place]) or math.inf)
    copies, unchanged = [], Counter[str]()
    for seed in seeds:
        directions = _filter_normalized_directions(jax.random.key(seed), params, filters)
        along = [_perturbed(params, directions, step_size) for step_size in step_sizes]
        if step_sizes[smallest]:
            unchanged += _count_unchanged(params, directions, along[smallest])
        copies += along
    _warn_about_rounding(unchanged, step_sizes[smallest])
    control_seeds = _control_seeds(seeds, controls)
    return JumpGrid(
        stack_members(copies + [jax.tree.map(jnp.asarray, params)] * controls),
        np.concatenate([np.repeat(seeds, len(step_sizes)), np.array(control_seeds, int)]),
        np.concatenate([np.tile(np.asarray(step_sizes, np.float64), len(seeds)), np.zeros(controls)]),
    )


def _control_seeds(seeds: Sequence[int], controls: int) -> list[int]:
    others = (seed for seed in itertools.count() if seed not in seeds)
    return list(itertools.islice(itertools.chain(seeds, others), controls))


Directions = list[jax.Array | None]  # one direction per leaf, None for a leaf that is not perturbed


def _filter_normalized_directions(key: jax.Array, params: PyTree, filters: Sequence[Filter | None]) -> Directions:
    leaves = jax.tree.leaves(params)
    normal = _normal(key, leaves, [over is not None for over in filters])
    return [
        None if over is None else _rescale(d, jnp.asarray(w), over)
        for d, w, over in zip(normal, leaves, filters, strict=True)
    ]


def _normal(key: jax.Array, leaves: Sequence[Any], moves: Sequence[bool]) -> list[Any]:
    """Draw standard normal numbers for the leaves that move, from keys that do not depend on which leaves those are."""
    keys = jax.random.split(key, max(len(leaves), 1))
    return [
        jax.random.normal(leaf_key, np.shape(leaf), jnp.result_type(leaf)) if is_moving else None
        for leaf_key, leaf, is_moving in zip(keys, leaves, moves, strict=False)
    ]


def _perturbed(params: PyTree, directions: Directions, step_size: float) -> PyTree:
    leaves, treedef = jax.tree.flatten(params)
    perturbed = [
        jnp.asarray(w) if d is None else _displaced(w, d, step_size) for w, d in zip(leaves, directions, strict=True)
    ]
    return jax.tree.unflatten(treedef, perturbed)


def _displaced(
    w: Float[np.ndarray | Array, "*leaf"], d: Float[np.ndarray | Array, "*leaf"], step_size: float | Real[Array, ""]
) -> Float[np.ndarray | Array, "*leaf"]:
    return (w + step_size * d).astype(jnp.result_type(w))


_TO_MOVE = "to move"


def _count_unchanged(params: PyTree, directions: Directions, copy: PyTree) -> Counter[str]:
    """Count the parameters that should move, and, by dtype, those that did not change; traced arrays are skipped."""
    counts = Counter[str]()
    for w, d, perturbed in zip(jax.tree.leaves(params), directions, jax.tree.leaves(copy), strict=True):
        if d is None or any(isinstance(each, jax.core.Tracer) for each in (w, d, perturbed)):
            continue
        # NumPy rather than JAX, which would compile a program for each shape.
        should_move = np.asarray(d) != 0
        is_unchanged = np.asarray(perturbed) == np.asarray(w).astype(perturbed.dtype)
        counts[_TO_MOVE] += int(np.count_nonzero(should_move))
        counts[str(perturbed.dtype)] += int(np.count_nonzero(should_move & is_unchanged))
    return counts


def _warn_about_rounding(counts: Counter[str], step_size: float) -> None:
    lost = counts.total() - counts[_TO_MOVE]
    if lost <= MAX_UNCHANGED * counts[_TO_MOVE]:
        return
    dtypes = ", ".join(sorted(name for name, count in counts.items() if name != _TO_MOVE and count))
    warnings.warn(
        f"step_sizes: at {step_size} {lost / counts[_TO_MOVE]:.0%} of the parameters to be perturbed do not change, "
        f"since the step is lost in the rounding of {dtypes}; give params of a wider dtype, or larger steps",
        stacklevel=3,
    )


def _normalized(direction: PyTree, params: PyTree, filters: Sequence[Filter | None]) -> PyTree:
    leaves, treedef = jax.tree.flatten(params)
    normalized = [
        jnp.zeros_like(w) if over is None else _rescale(jnp.asarray(d), jnp.asarray(w), over)
        for d, w, over in zip(jax.tree.leaves(direction), leaves, filters, strict=True)
    ]
    return jax.tree.unflatten(treedef, normalized)


def _rescale(d: Float[Array, " *leaf"], w: Float[Array, " *leaf"], axes: tuple[int, ...]) -> Float[Array, " *leaf"]:
    """Rescale `d` to the norm of `w`, both taken over `axes`, in the dtype of `w`; a zero `d` stays zero."""
    wide = jnp.promote_types(jnp.result_type(d, w), jnp.float32)  # squares of float16 would overflow
    norm, target = (jnp.sqrt(jnp.sum(jnp.square(x.astype(wide)), axis=axes, keepdims=True)) for x in (d, w))
    # The inner `where` keeps 0 / 0 out of the division, so that its gradient is not NaN either.
    return (d * jnp.where(norm > 0, target / jnp.where(norm > 0, norm, 1), 0)).astype(w.dtype)


def checked_grid(seeds: Any, step_sizes: Any) -> tuple[list[int], list[float]]:
    """Return the seeds and step sizes of a grid as plain numbers.

    Raises:
        TypeError: if seeds are not integers, or step sizes are not numbers.
        ValueError: if either is empty, repeated or out of range.
    """
    seeds = [whole_number("seeds", seed) for seed in _listed("seeds", seeds)]
    step_sizes = [number("step_sizes", step) for step in _listed("step_sizes", step_sizes)]
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds must be one or more distinct integers from 0 to 2**32 - 1, got {seeds}")
    if not step_sizes or len(set(step_sizes)) < len(step_sizes) or not all(map(math.isfinite, step_sizes)):
        raise ValueError(f"step_sizes must be one or more distinct finite numbers, got {step_sizes}")
    return seeds, step_sizes


def _listed(name: str, values: Any) -> list[Any]:
    try:
        if isinstance(values, str):
            raise TypeError
        return list(values)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r:.100}") from None

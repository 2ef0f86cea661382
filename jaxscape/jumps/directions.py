"""Where the copies are thrown: random directions, filter normalisation, the jump, and the paper's grid of jumps.

Pure functions over the parameters of one network, of any framework. Filter normalisation is that of Li et al.
(2018): every filter of a direction gets the norm of the filter of the parameters that it stands for, so that a step
of size 1 moves every filter by its own length, however the network scales its filters.
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

SWALLOWED = 0.01  # the share of the parameters that rounding may keep where they were before `jump_grid` warns


class JumpGrid(NamedTuple):
    """The jumped copies of one minimum: every step size along every direction, directions outermost."""

    params: PyTree  # leaves [member, ...]
    seed: np.ndarray  # int [member]: the direction's seed
    step_size: np.ndarray  # float64 [member]

    @property
    def labels(self) -> list[dict[str, int | float]]:
        """A record a member, as `TrajectoryStore` takes them."""
        return [
            {"seed": int(seed), "step_size": float(step)} for seed, step in zip(self.seed, self.step_size, strict=True)
        ]


def random_direction(key: jax.Array, params: PyTree) -> PyTree:
    """Return a pytree like `params` (shapes, dtypes) of independent standard normal numbers.

    Raises:
        TypeError: for a key that is none, or leaves that are not real floating-point numbers (names the leaf).
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

    A filter is the slice of a leaf at one index of its output axis: for a Flax convolution kernel (H, W, in, out)
    all that feeds one output channel. Works on one network, not on a stack.

    Args:
        direction: a pytree like `params`.
        params: the parameters of one network.
        filter_axis: the output axis. -1 is Flax's layout, 0 that of Equinox and PyTorch; a tuple names several
            (an attention kernel (in, heads, head_dim) has (1, 2)). A function of the leaf's key path gives either, or
            None or "ignore" for a leaf that does not move.
        ignore: biases and scales get a zero direction, as in the paper's code; with False each of them is one filter.
            By name first: a leaf is one where the last name of its key path (lower case, indices left out) is "bias"
            or "scale", whatever its shape, such as an attention bias (heads, head_dim). A "kernel", "weight", "w",
            "lora_a" or "lora_b" is none where it has two dimensions or more, such as a dense kernel (in, 1). Under
            any other name the shape tells: at most one dimension; or at most one axis longer than 1, and that an
            output axis, such as (out, 1, 1) with `filter_axis=0`, for its filters would be single numbers. A pytree
            that is one array goes by its dimensions alone.
        where: which leaves are thrown: a pytree of bools like `params`, or a function from the leaf's key path to a
            bool. The others get a zero direction, as a frozen base has beside its adapters. All by default.
        ignore_1d: the former name of `ignore`, which goes with the next version.

    Returns:
        A pytree like `params`. A filter whose parameters are zero gets a zero direction, never NaN.

    Raises:
        TypeError: for leaves that are not real floating-point numbers (names the leaf), or a filter_axis, an ignore or
            a where of another kind.
        ValueError: where structures or shapes differ (names the leaf), an axis is out of range, no leaf is selected,
            or a leaf that moves is the same array object as another one: tied weights would come apart.

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
) -> jax.Array:
    """How far a network lies from a minimum once every filter has the norm of the minimum's: a matter of directions.

    Batch norm makes the loss blind to the norm of a filter before it, and weight decay changes it: a distance in the
    parameters moves with both, this one with neither.

    Args:
        params: the parameters of one network; `jax.vmap` takes a stack.
        minimum: the same of the minimum.
        filter_axis: as in `filter_normalize`; a leaf that does not move does not count.
        ignore: biases and scales do not count, as `filter_normalize` tells them; with False each of them is one filter.

    Returns:
        A float32 scalar, right to about 1e-7 of the minimum's norm; 0 for the minimum itself.

    Raises:
        TypeError, ValueError: as `filter_normalize`, but for arrays that are the same object.
    """
    check_same("params", params, "minimum", minimum)
    filters = leaf_filters(minimum, filter_axis, is_ignored(ignore, None), None)
    one, other = (_normalized(tree, minimum, filters) for tree in (params, minimum))
    differences = jax.tree.map(lambda a, b: (a - b).astype(jnp.float32), one, other)
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(differences)), jnp.float32(0)))


def jump(params: PyTree, direction: PyTree, step_size: float) -> PyTree:
    """`params + step_size * direction`, in the dtype of the parameters.

    Raises:
        TypeError: for leaves that are not real floating-point numbers (names the leaf), or a step size that is no
            number.
        ValueError: where structures or shapes differ, the step size is not finite, or two leaves of params are the
            same array object and would come apart, since their directions differ.
    """
    check_same("direction", direction, "params", params)
    if not isinstance(step_size, jax.core.Tracer):
        finite_number("step_size", step_size)
    directions = jax.tree.leaves(direction)
    for pair in ties(params):
        alike = [directions[number] for number in pair]
        if not any(isinstance(d, jax.core.Tracer) for d in alike) and not np.array_equal(*alike):
            raise tied(params, pair)
    return jax.tree.map(lambda w, d: _moved(w, d, step_size), params, direction)


def jump_grid(
    params: PyTree,
    *,
    seeds: Sequence[int] = range(5),
    step_sizes: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    controls: int = 0,
    filter_axis: FilterAxis = -1,
    ignore: bool = True,
    where: Where | None = None,
    ignore_1d: bool | None = None,
) -> JumpGrid:
    """The paper's jumps: every step size along one filter-normalised random direction a seed.

    Args:
        params: the minimum: parameters of one network.
        seeds: distinct integers, 0 <= seed < 2**32; a seed's direction depends on nothing else.
        step_sizes: distinct finite numbers; 1 moves every filter by its own norm.
        controls: so many copies of step size 0 after the others, which show where the minimum itself drifts. Their
            seeds are the first ones of `seeds`, then the smallest numbers that are no seed; nothing but their batches
            follows from them.
        filter_axis: as in `filter_normalize`; likewise
        ignore: which leaves stay where they are; and
        where: which leaves are thrown at all. Those that are not keep their bytes, and may hold anything. The others
            move as they do without `where`.
        ignore_1d: the former name of `ignore`, which goes with the next version.

    Returns:
        A `JumpGrid` of len(seeds) * len(step_sizes) members, seeds outermost, and the controls.

    Raises:
        TypeError: for seeds that are no integers, step sizes that are no numbers, and as `filter_normalize`.
        ValueError: for empty, repeated or out-of-range seeds or step sizes; a negative number of controls, or some
            beside a step size of 0; for params without leaves, or with NaN or
            infinity (names the leaf); and as `filter_normalize`.

    Warns:
        UserWarning: where more than 1 % of the parameters that are to move do not at the smallest step, since it is
            lost in the rounding of their type, as steps of 0.001 are in bfloat16.
    """
    seeds, step_sizes = checked_grid(seeds, step_sizes)
    if count("controls", controls, least=0) and 0 in step_sizes:
        raise ValueError(f"controls must be 0 where a step size is 0, got {controls} beside step sizes {step_sizes}")
    if not jax.tree.leaves(params):
        raise ValueError("params must hold at least one array, got an empty pytree")
    chosen = jax.tree.unflatten(jax.tree.structure(params), selected(where, params))
    thrown = jax.tree.map(lambda leaf, is_chosen: leaf if is_chosen else None, params, chosen)
    check_parameters("params", thrown)
    check_finite("params", thrown)
    filters = leaf_filters(params, filter_axis, is_ignored(ignore, ignore_1d), where)
    refuse_ties(params, filters)
    smallest = min(range(len(step_sizes)), key=lambda place: abs(step_sizes[place]) or math.inf)
    copies, stayed = [], Counter[str]()
    for seed in seeds:
        direction = _thrown(jax.random.key(seed), params, filters)
        landed = [_landed(params, direction, step_size) for step_size in step_sizes]
        if step_sizes[smallest]:
            stayed += _count_stayed(params, direction, landed[smallest])
        copies += landed
    _warn_of_rounding(stayed, step_sizes[smallest])
    of_controls = _seeds_of_controls(seeds, controls)
    return JumpGrid(
        stack_members(copies + [jax.tree.map(jnp.asarray, params)] * controls),
        np.concatenate([np.repeat(seeds, len(step_sizes)), np.array(of_controls, int)]),
        np.concatenate([np.tile(np.asarray(step_sizes, np.float64), len(seeds)), np.zeros(controls)]),
    )


def _seeds_of_controls(seeds: Sequence[int], controls: int) -> list[int]:
    others = (seed for seed in itertools.count() if seed not in seeds)
    return list(itertools.islice(itertools.chain(seeds, others), controls))


Directions = list[jax.Array | None]  # a leaf's direction each, None for a leaf that does not move


def _thrown(key: jax.Array, params: PyTree, filters: Sequence[Filter | None]) -> Directions:
    leaves = jax.tree.leaves(params)
    normal = _normal(key, leaves, [over is not None for over in filters])
    return [
        None if over is None else _rescale(d, jnp.asarray(w), over)
        for d, w, over in zip(normal, leaves, filters, strict=True)
    ]


def _normal(key: jax.Array, leaves: Sequence[Any], moves: Sequence[bool]) -> list[Any]:
    """Standard normal numbers for the leaves that move, from keys that do not depend on which those are."""
    keys = jax.random.split(key, max(len(leaves), 1))
    return [
        jax.random.normal(leaf_key, np.shape(leaf), jnp.result_type(leaf)) if is_moving else None
        for leaf_key, leaf, is_moving in zip(keys, leaves, moves, strict=False)
    ]


def _landed(params: PyTree, directions: Directions, step_size: float) -> PyTree:
    leaves, treedef = jax.tree.flatten(params)
    landed = [jnp.asarray(w) if d is None else _moved(w, d, step_size) for w, d in zip(leaves, directions, strict=True)]
    return jax.tree.unflatten(treedef, landed)


def _moved(w: Any, d: Any, step_size: Any) -> jax.Array:
    return (w + step_size * d).astype(jnp.result_type(w))


_MOVING = "moving"


def _count_stayed(params: PyTree, direction: Directions, copy: PyTree) -> Counter[str]:
    """How many parameters are to move, and by dtype how many of them did not; traced ones are not looked at."""
    counts = Counter[str]()
    for w, d, landed in zip(jax.tree.leaves(params), direction, jax.tree.leaves(copy), strict=True):
        if d is None or any(isinstance(each, jax.core.Tracer) for each in (w, d, landed)):
            continue
        # NumPy, which compiles nothing for each shape.
        is_to_move = np.asarray(d) != 0
        has_stayed = np.asarray(landed) == np.asarray(w).astype(landed.dtype)
        counts[_MOVING] += int(np.count_nonzero(is_to_move))
        counts[str(landed.dtype)] += int(np.count_nonzero(is_to_move & has_stayed))
    return counts


def _warn_of_rounding(counts: Counter[str], step_size: float) -> None:
    lost = counts.total() - counts[_MOVING]
    if lost <= SWALLOWED * counts[_MOVING]:
        return
    dtypes = ", ".join(sorted(name for name, count in counts.items() if name != _MOVING and count))
    warnings.warn(
        f"step_sizes: at {step_size} {lost / counts[_MOVING]:.0%} of the parameters that are to move stay where they "
        f"are, for the step is lost in the rounding of {dtypes}; give params of a wider type, or larger steps",
        stacklevel=3,
    )


def _normalized(direction: PyTree, params: PyTree, filters: Sequence[Filter | None]) -> PyTree:
    leaves, treedef = jax.tree.flatten(params)
    normalized = [
        jnp.zeros_like(w) if over is None else _rescale(jnp.asarray(d), jnp.asarray(w), over)
        for d, w, over in zip(jax.tree.leaves(direction), leaves, filters, strict=True)
    ]
    return jax.tree.unflatten(treedef, normalized)


def _rescale(d: jax.Array, w: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Give `d` the norm of `w`, both norms over `axes`, and its dtype; nothing where `d` is zero."""
    wide = jnp.promote_types(jnp.result_type(d, w), jnp.float32)  # squares of float16 would overflow
    have, want = (jnp.sqrt(jnp.sum(jnp.square(x.astype(wide)), axis=axes, keepdims=True)) for x in (d, w))
    return (d * jnp.where(have > 0, want / jnp.where(have > 0, have, 1), 0)).astype(w.dtype)


def checked_grid(seeds: Any, step_sizes: Any) -> tuple[list[int], list[float]]:
    """Return the seeds and step sizes of a grid as plain numbers.

    Raises:
        TypeError: for seeds that are no integers, or step sizes that are no numbers.
        ValueError: for empty, repeated or out-of-range ones.
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

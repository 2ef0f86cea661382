"""Where the copies are thrown: random directions, filter normalisation, the jump, and the paper's grid of jumps.

Pure functions over the parameters of one network, of any framework. Filter normalisation is that of Li et al.
(2018): every filter of a direction gets the norm of the filter of the parameters that it stands for, so that a step
of size 1 moves every filter by its own length, however the network scales its filters.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import (
    check_finite,
    check_parameters,
    finite_number,
    leaf_name,
    number,
    typed_key,
    whole_number,
)
from jaxscape.problem import FilterAxis
from jaxscape.training.members import stack_members

PyTree = Any


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
    keys = jax.random.split(key, max(len(leaves), 1))
    normal = [
        jax.random.normal(leaf_key, np.shape(leaf), jnp.result_type(leaf))
        for leaf_key, leaf in zip(keys, leaves, strict=False)
    ]
    return jax.tree.unflatten(treedef, normal)


def filter_normalize(
    direction: PyTree, params: PyTree, *, filter_axis: FilterAxis = -1, ignore_1d: bool = True
) -> PyTree:
    """Rescale every filter of `direction` to the norm of the same filter of `params`.

    A filter is the slice of a leaf at one index of its output axis: for a Flax convolution kernel (H, W, in, out)
    all that feeds one output channel. Works on one network, not on a stack.

    Args:
        direction: a pytree like `params`.
        params: the parameters of one network.
        filter_axis: the output axis. -1 is Flax's layout, 0 that of Equinox and PyTorch; a tuple names several
            (an attention kernel (in, heads, head_dim) has (1, 2)); a function of the leaf's key path gives either.
        ignore_1d: leaves of at most one dimension (biases, batch norm) get a zero direction, as in the paper's
            code. With False each such leaf is one filter.

    Returns:
        A pytree like `params`. A filter whose parameters are zero gets a zero direction, never NaN.

    Raises:
        TypeError: for leaves that are not real floating-point numbers (names the leaf), or a filter_axis of another
            kind.
        ValueError: where structures or shapes differ (names the leaf), or an axis is out of range.

    Reference:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 4.
    """
    _check_same(direction, params, "direction")
    if not callable(filter_axis):
        _axes(filter_axis)

    def normalize(path: tuple[Any, ...], d: jax.Array, w: jax.Array) -> jax.Array:
        d, w = jnp.asarray(d), jnp.asarray(w)
        if w.ndim <= 1:
            return jnp.zeros_like(w) if ignore_1d else _rescale(d, w, None)
        outputs = _output_axes(filter_axis(path) if callable(filter_axis) else filter_axis, w.ndim, path)
        return _rescale(d, w, tuple(axis for axis in range(w.ndim) if axis not in outputs))

    return jax.tree_util.tree_map_with_path(normalize, direction, params)


def filter_normalized_distance(params: PyTree, minimum: PyTree, *, filter_axis: FilterAxis = -1) -> jax.Array:
    """How far a network lies from a minimum once every filter has the norm of the minimum's: a matter of directions.

    Batch norm makes the loss blind to the norm of a filter before it, and weight decay changes it: a distance in the
    parameters moves with both, this one with neither. Leaves of at most one dimension do not count.

    Args:
        params: the parameters of one network; `jax.vmap` takes a stack.
        minimum: the same of the minimum.
        filter_axis: as in `filter_normalize`.

    Returns:
        A float32 scalar, right to about 1e-7 of the minimum's norm; 0 for the minimum itself.

    Raises:
        TypeError, ValueError: as `filter_normalize`.
    """
    _check_same(params, minimum, "params", "minimum")
    one, other = (filter_normalize(tree, minimum, filter_axis=filter_axis) for tree in (params, minimum))
    differences = jax.tree.map(lambda a, b: (a - b).astype(jnp.float32), one, other)
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(differences)), jnp.float32(0)))


def jump(params: PyTree, direction: PyTree, step_size: float) -> PyTree:
    """`params + step_size * direction`, in the dtype of the parameters.

    Raises:
        TypeError: for leaves that are not real floating-point numbers (names the leaf), or a step size that is no
            number.
        ValueError: where structures or shapes differ, or the step size is not finite.
    """
    _check_same(direction, params, "direction")
    if not isinstance(step_size, jax.core.Tracer):
        finite_number("step_size", step_size)
    return jax.tree.map(lambda w, d: (w + step_size * d).astype(jnp.result_type(w)), params, direction)


def jump_grid(
    params: PyTree,
    *,
    seeds: Sequence[int] = range(5),
    step_sizes: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    filter_axis: FilterAxis = -1,
    ignore_1d: bool = True,
) -> JumpGrid:
    """The paper's jumps: every step size along one filter-normalised random direction a seed.

    Args:
        params: the minimum: parameters of one network.
        seeds: distinct integers, 0 <= seed < 2**32; a seed's direction depends on nothing else.
        step_sizes: distinct finite numbers; 1 moves every filter by its own norm.
        filter_axis: as in `filter_normalize`.
        ignore_1d: as in `filter_normalize`.

    Returns:
        A `JumpGrid` of len(seeds) * len(step_sizes) members, seeds outermost.

    Raises:
        TypeError: for seeds that are no integers, step sizes that are no numbers, and as `filter_normalize`.
        ValueError: for empty, repeated or out-of-range seeds or step sizes; for params without leaves, or with NaN or
            infinity (names the leaf).
    """
    seeds = [whole_number("seeds", seed) for seed in _listed("seeds", seeds)]
    step_sizes = [number("step_sizes", step) for step in _listed("step_sizes", step_sizes)]
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds must be one or more distinct integers from 0 to 2**32 - 1, got {seeds}")
    if not step_sizes or len(set(step_sizes)) < len(step_sizes) or not all(map(math.isfinite, step_sizes)):
        raise ValueError(f"step_sizes must be one or more distinct finite numbers, got {step_sizes}")
    if not jax.tree.leaves(params):
        raise ValueError("params must hold at least one array, got an empty pytree")
    check_parameters("params", params)
    check_finite("params", params)
    copies = []
    for seed in seeds:
        direction = random_direction(jax.random.key(seed), params)
        direction = filter_normalize(direction, params, filter_axis=filter_axis, ignore_1d=ignore_1d)
        copies += [jump(params, direction, step_size) for step_size in step_sizes]
    return JumpGrid(
        stack_members(copies),
        np.repeat(seeds, len(step_sizes)),
        np.tile(np.asarray(step_sizes, np.float64), len(seeds)),
    )


def _rescale(d: jax.Array, w: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    """Give `d` the norm of `w`, both norms over `axes`, and its dtype; nothing where `d` is zero."""
    wide = jnp.promote_types(jnp.result_type(d, w), jnp.float32)  # squares of float16 would overflow
    have, want = (jnp.sqrt(jnp.sum(jnp.square(x.astype(wide)), axis=axes, keepdims=True)) for x in (d, w))
    return (d * jnp.where(have > 0, want / jnp.where(have > 0, have, 1), 0)).astype(w.dtype)


def _listed(name: str, values: Any) -> list[Any]:
    try:
        if isinstance(values, str):
            raise TypeError
        return list(values)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r:.100}") from None


def _axes(filter_axis: Any, where: str = "") -> tuple[int, ...]:
    """The axes that a user names, or a user's function for the leaf `where`, as a tuple."""
    try:
        axes = tuple(filter_axis) if isinstance(filter_axis, tuple | list) else (filter_axis,)
        return tuple(whole_number("filter_axis", axis) for axis in axes)
    except TypeError:
        raise TypeError(
            "filter_axis must be a whole number, a tuple of them, or a function from a leaf's key path to one of "
            f"these, got {filter_axis!r:.100}{where}"
        ) from None


def _output_axes(axes: Any, ndim: int, path: tuple[Any, ...]) -> set[int]:
    given = _axes(axes, f" for the leaf {leaf_name(path)}")
    if not all(-ndim <= axis < ndim for axis in given):
        raise ValueError(f"filter_axis {axes} is out of range for the leaf {leaf_name(path)} with {ndim} dimensions")
    return {axis % ndim for axis in given}


def _check_same(tree: PyTree, params: PyTree, name: str, like: str = "params") -> None:
    if len({jax.tree.structure(tree), jax.tree.structure(params)}) > 1:
        names = [
            {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(t)} for t in (tree, params)
        ]
        only = ", ".join(sorted(names[0] ^ names[1])) or "the containers"
        raise ValueError(f"{name} and {like} must have the same structure, but {only} differ")
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(params), strict=True):
        if np.shape(leaf) != np.shape(other):
            raise ValueError(
                f"{name} and {like} must have the same shapes, got {np.shape(leaf)} and {np.shape(other)} "
                f"at {leaf_name(path)}"
            )
    check_parameters(name, tree)
    check_parameters(like, params)

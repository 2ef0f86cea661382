"""Weight matching: permute the hidden units of one network to bring its parameters close to those of another.

Permuting the hidden units of a layer, together with all weights that produce or read them, changes the parameters but
not the function. Two independently trained networks differ by such a permutation, among other things, and the straight
line between them mixes unrelated units. Weight matching permutes the units of the second network such that its
parameters come as close as possible to those of the first.

A mapping says on which axes of which arrays each permutation acts. It maps the name of an array to one name of a
permutation (or None) per axis:

    {"hidden/kernel": (None, "units"), "hidden/bias": ("units",), "head/kernel": ("units", None)}

The name of an array is its key path joined by "/" (see `array_names`), or a pattern such as "*/bias", where "*" matches
any characters. Arrays without an entry are left unchanged.

S. Ainsworth, J. Hayase, S. Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries" (ICLR 2023),
algorithm 1.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int, Int64
from scipy.optimize import linear_sum_assignment

from jaxscape.arguments import check_finite, check_same, count, typed_key

PyTree = Any
Axes = Mapping[str, tuple[str | None, ...]]
# The units of one layer in a new order; each layer has its own number of units.
Permutation = Int64[np.ndarray, " _units"]
Permutations = Mapping[str, Sequence[int] | Int[np.ndarray, " _units"]]

# A gain below this fraction of the scale of the products is rounding, and the permutation is not changed.
_LEAST_GAIN = 1e-12


class Matching(NamedTuple):
    """The second network with its units permuted to match those of the first."""

    params: PyTree
    model_state: PyTree  # permuted likewise; arrays without an entry in the axes are unchanged
    permutations: dict[str, Permutation]  # index of the unit of the second network at each position
    squared_distance: float  # between the parameters, in float64
    squared_distance_before: float  # before the permutation
    converged: bool  # whether the last sweep over all permutations found no gain
    start: int  # index of the start that gave this result; 0 is the original order


def array_names(tree: PyTree) -> list[str]:
    """Return the names of the arrays of a pytree in tree order: their key paths joined by "/"."""
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def match_units(
    a: PyTree,
    b: PyTree,
    axes: Axes,
    *,
    key: jax.Array,
    model_state: PyTree = None,
    restarts: int = 8,
    max_sweeps: int = 100,
) -> Matching:
    """Permute the units of `b` such that its parameters come as close as possible to those of `a`.

    This is coordinate descent. Each permutation in turn is replaced by the best one given the others, which is a linear
    assignment problem, until no permutation gains anything; every sweep visits them in a new random order. The result
    is a local minimum, so there are several starts, and the best result is returned (the first one of equals). The
    first start is the original order, which makes the result no worse than `b` itself. The others alternate between
    permutations that are built up from arrays whose other permutations are already known, from the inputs and outputs
    inward, and random permutations.

    Args:
        a: the parameters of the first network.
        b: the parameters of the second network, of the same structure and shapes.
        axes: which permutation acts on which axis of which array; see the docstring of this module.
            `jaxscape.wide_resnet_axes` returns it for a `WideResNet`.
        key: a PRNG key, which determines all orders and starts.
        model_state: the model state of `b`, which is permuted too but does not influence the matching.
        restarts: number of starts in addition to the original order.
        max_sweeps: largest number of sweeps over all permutations per start.

    Raises:
        TypeError: if arrays do not hold real floating-point numbers, key is not a PRNG key, or a count is not an
            integer.
        ValueError: if the networks differ in structure or shapes or are not finite; if a count is out of range; or if
            the axes do not fit: a name or pattern that matches nothing, an array matched by two patterns that disagree,
            an entry whose length is not the array's number of axes, axes of different lengths with one permutation, or
            a permutation that acts on no parameter.

    Example:
        >>> import jax, numpy as np
        >>> a = {"in": np.array([[1.0, 2.0, 3.0]]), "out": np.array([[4.0], [5.0], [6.0]])}
        >>> b = {"in": np.array([[3.0, 1.0, 2.0]]), "out": np.array([[6.0], [4.0], [5.0]])}
        >>> matching = match_units(a, b, {"in": (None, "units"), "out": ("units", None)}, key=jax.random.key(0))
        >>> matching.permutations["units"].tolist(), matching.squared_distance
        ([1, 2, 0], 0.0)
    """
    key = typed_key(key)
    restarts, max_sweeps = count("restarts", restarts, least=0), count("max_sweeps", max_sweeps)
    check_same("b", b, "a", a)
    check_finite("a", a)
    check_finite("b", b)
    sizes = _sizes(axes, b, model_state)
    pairs = _pairs(axes, a, b)
    for name in sizes:
        if not any(name in pair.names for pair in pairs):
            raise ValueError(f"axes must let {name!r} act on an array of params, got arrays of model_state alone")
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    results = [_descend(pairs, _identity(sizes), generator, max_sweeps)]
    for number in range(restarts):
        if number % 2:
            start = {name: generator.permutation(size) for name, size in sizes.items()}
        else:
            start = _built_up(pairs, sizes, generator)
        results.append(_descend(pairs, start, generator, max_sweeps))
    best = int(np.argmax([products for _, products, _ in results]))
    permutations, _, converged = results[best]
    params, state = permute_units(b, axes, permutations, model_state=model_state)
    return Matching(
        params,
        state,
        permutations,
        _squared_distance(a, params),
        _squared_distance(a, b),
        converged,
        best,
    )


def permute_units(
    params: PyTree, axes: Axes, permutations: Permutations, *, model_state: PyTree = None
) -> tuple[PyTree, PyTree]:
    """Permute the units of a network, which does not change its function.

    Args:
        params: the parameters of one network.
        axes: which permutation acts on which axis of which array; see `match_units`.
        permutations: for each name, the index of the unit of `params` at each position of the result.
        model_state: the model state of the same network.

    Returns:
        `(params, model_state)`. The function is pure, and `jax.jit` can compile it for concrete permutations.

    Raises:
        ValueError: if the axes do not fit, see `match_units`; or if a permutation is missing, or is not a permutation
            of that many units.
    """
    sizes = _sizes(axes, params, model_state)
    orders = {name: _checked_permutation(name, permutations, size) for name, size in sizes.items()}

    def permuted(path: tuple[Any, ...], leaf: Any) -> Any:
        for axis, name in enumerate(_entry(axes, _name(path)) or ()):
            if name is not None:
                take = np.take if isinstance(leaf, np.ndarray) else jnp.take  # jax would cast float64 to float32
                leaf = take(leaf, orders[name], axis=axis)
        return leaf

    result: tuple[PyTree, PyTree] = tuple(jax.tree_util.tree_map_with_path(permuted, t) for t in (params, model_state))
    return result


class _Pair(NamedTuple):
    """An array on which permutations act, from both networks."""

    a: Float64[np.ndarray, "*axes"]
    b: Float64[np.ndarray, "*axes"]
    names: tuple[str | None, ...]  # name of the permutation of each axis


def _pairs(axes: Axes, a: PyTree, b: PyTree) -> list[_Pair]:
    entries = [_entry(axes, name) for name in array_names(a)]
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), entries, strict=True)
    return [
        _Pair(np.asarray(one, np.float64), np.asarray(other, np.float64), names)
        for one, other, names in leaves
        if names is not None and any(names)
    ]


def _descend(
    pairs: list[_Pair], permutations: dict[str, Permutation], generator: np.random.Generator, max_sweeps: int
) -> tuple[dict[str, Permutation], float, bool]:
    """Run coordinate descent from a start; return permutations, the sum of all products, and whether it converged.

    The squared distance is |a|^2 + |b|^2 minus twice the inner product of both networks, the only term that changes.
    """
    names = list(permutations)
    scale = sum(float(np.linalg.norm(pair.a) * np.linalg.norm(pair.b)) for pair in pairs)
    converged = False
    for _ in range(max_sweeps):
        converged = True
        for index in generator.permutation(len(names)):
            name = names[index]
            touched = [pair for pair in pairs if name in pair.names]
            sums = _sums(touched, permutations, name)
            best = linear_sum_assignment(sums, maximize=True)[1]
            changed = permutations | {name: best}
            if all(pair.names.count(name) == 1 for pair in touched):
                units = np.arange(len(best))
                gain = float((sums[units, best] - sums[units, permutations[name]]).sum())
            else:
                # If it acts on two axes of an array, the assignment keeps one of them fixed and may not be a gain.
                gain = sum(_products(pair, changed) - _products(pair, permutations) for pair in touched)
            if gain > _LEAST_GAIN * scale:
                permutations, converged = changed, False
        if converged:
            break
    return permutations, sum(_products(pair, permutations) for pair in pairs), converged


def _sums(pairs: list[_Pair], permutations: Permutations, name: str) -> Float64[np.ndarray, "units units"]:
    """Return the inner products of the units of `a` and `b`, with the other permutations applied."""
    sums: Any = 0
    for pair in pairs:
        for axis, acting in enumerate(pair.names):
            if acting == name:
                sums = sums + _rows(pair.a, axis) @ _rows(_permuted(pair, permutations, skip=axis), axis).T
    return sums


def _built_up(pairs: list[_Pair], sizes: dict[str, int], generator: np.random.Generator) -> dict[str, Permutation]:
    """Return a start in which each permutation is matched on the arrays whose other permutations are known."""
    settled: dict[str, Permutation] = {}
    waiting = [list(sizes)[index] for index in generator.permutation(len(sizes))]
    while waiting:
        # Take the first permutation that some array determines. If there is none, leave the first one unpermuted.
        for name in waiting:
            known = [pair for pair in pairs if pair.names.count(name) == 1 and {*pair.names} <= {None, name, *settled}]
            if known:
                settled[name] = linear_sum_assignment(_sums(known, settled, name), maximize=True)[1]
                break
        else:
            name = waiting[0]
            settled[name] = np.arange(sizes[name])
        waiting.remove(name)
    return {name: settled[name] for name in sizes}


def _products(pair: _Pair, permutations: Permutations) -> float:
    return float(np.vdot(pair.a, _permuted(pair, permutations)))


def _permuted(pair: _Pair, permutations: Permutations, skip: int | None = None) -> Float64[np.ndarray, "*axes"]:
    array = pair.b
    for axis, name in enumerate(pair.names):
        if name is not None and axis != skip:
            array = np.take(array, permutations[name], axis=axis)
    return array


def _rows(array: Float64[np.ndarray, "*axes"], axis: int) -> Float64[np.ndarray, "units entries"]:
    """Return the slices along an axis as the rows of a matrix."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _identity(sizes: dict[str, int]) -> dict[str, Permutation]:
    return {name: np.arange(size) for name, size in sizes.items()}


def _squared_distance(a: PyTree, b: PyTree) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum(np.sum((np.asarray(x, np.float64) - np.asarray(y, np.float64)) ** 2) for x, y in pairs))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _entry(axes: Axes, name: str) -> tuple[str | None, ...] | None:
    """Return the entry of an array, None if there is none. A name takes precedence over patterns, which must agree."""
    if name in axes:
        return tuple(axes[name])
    matches = {pattern: tuple(axes[pattern]) for pattern in axes if fnmatchcase(name, pattern)}
    if len(set(matches.values())) > 1:
        raise ValueError(f"axes must not disagree, but {' and '.join(map(repr, matches))} both match {name!r}")
    return next(iter(matches.values()), None)


def _sizes(axes: Axes, params: PyTree, model_state: PyTree) -> dict[str, int]:
    """Return the number of units of each permutation, after checking that the axes fit the network."""
    if not isinstance(axes, Mapping) or not axes:
        raise ValueError(f"axes must map names of arrays to a name or None for each axis, got {axes!r:.100}")
    leaves = [each for tree in (params, model_state) for each in jax.tree_util.tree_leaves_with_path(tree)]
    names = [_name(path) for path, _ in leaves]
    for pattern, entry in axes.items():
        if not isinstance(entry, tuple | list) or not all(each is None or isinstance(each, str) for each in entry):
            raise ValueError(f"axes must give a name or None for each axis of {pattern!r}, got {entry!r:.100}")
        if not any(name == pattern or fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"axes name {pattern!r}, which matches no array; there are {', '.join(names):.300}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, (_, leaf) in zip(names, leaves, strict=True):
        acting_on, shape = _entry(axes, name), np.shape(leaf)
        if acting_on is None:
            continue
        if len(acting_on) != len(shape):
            raise ValueError(f"axes must have one entry for each axis of {name!r} of shape {shape}, got {acting_on}")
        for acting, size in zip(acting_on, shape, strict=True):
            if acting is None:
                continue
            first, where = sizes.setdefault(acting, (size, name))
            if first != size:
                raise ValueError(f"axes give {acting!r} {first} units in {where!r} and {size} in {name!r}")
    if not sizes:
        raise ValueError("axes must name at least one permutation, got None for every axis")
    return {acting: size for acting, (size, _) in sizes.items()}


def _checked_permutation(name: str, permutations: Permutations, size: int) -> Int[np.ndarray, " units"]:
    if name not in permutations:
        raise ValueError(f"permutations must have {name!r}, got {', '.join(map(repr, permutations)) or 'none'}")
    order = np.asarray(permutations[name])
    if order.shape != (size,) or not np.array_equal(np.sort(order), np.arange(size)):
        raise ValueError(f"permutations must order the {size} units of {name!r}, got {np.array2string(order):.100}")
    return order

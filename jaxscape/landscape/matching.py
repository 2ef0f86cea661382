"""Units of one network matched with those of another, by weight matching: the same function, nearer by.

The hidden units of a layer can be put in any order, where everything that produces or reads them follows: the function
stays the same, and the parameters do not. Two networks that were trained apart differ by such an order, among other
things, and the straight line between them mixes units that have nothing to do with one another. Weight matching puts
the units of the second network in the order in which its parameters are nearest to those of the first.

Which axes of which arrays a permutation acts on is said by a mapping from names of arrays to names of permutations,
one for each axis:

    {"hidden/kernel": (None, "units"), "hidden/bias": ("units",), "head/kernel": ("units", None)}

The name of an array is its key path, joined by "/", as `array_names` gives it; or a pattern such as "*/bias", where
"*" stands for any characters. Arrays without an entry stay as they are.

S. Ainsworth, J. Hayase, S. Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries" (ICLR 2023),
algorithm 1.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxscape.arguments import check_finite, check_same, count, typed_key

PyTree = Any
Axes = Mapping[str, tuple[str | None, ...]]
Permutations = Mapping[str, np.ndarray]

# A gain below this share of the products' scale is rounding: a permutation that changes nothing is no change.
_LEAST_GAIN = 1e-12


class Matching(NamedTuple):
    """The second network with its units in the order that brings it nearest to the first."""

    params: PyTree
    model_state: PyTree  # in the same order; what was given where no entry of the axes names it
    permutations: dict[str, np.ndarray]  # int64 (units,): at each place, which unit of the second network stands there
    squared_distance: float  # between the parameters, in float64
    squared_distance_before: float
    converged: bool  # whether a sweep over all permutations came to an end with nothing to gain
    start: int  # which start gave it, counted from 0; 0 is the order as it was


def array_names(tree: PyTree) -> list[str]:
    """Return the names of the arrays of a pytree, in its order: their key paths joined by "/"."""
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
    """Put the units of `b` in the order in which its parameters are nearest to those of `a`.

    Coordinate descent: permutation after permutation is replaced by the best one while the others stay, which is a
    linear assignment problem, until no permutation gains anything. The order in which they take turns is drawn anew
    for each sweep. This is a local minimum; so there are several starts, and the best is kept, the first of several:
    the order as it was, which makes the result no worse than `b` itself; then, in turns, permutations that are built up
    from the arrays whose other axes are settled, from the inputs and outputs inward, and permutations at random.

    Args:
        a: the parameters of the first network.
        b: those of the second one, of the same structure and shapes.
        axes: which permutation acts on which axis of which array; see the top of this module.
            `jaxscape.wide_resnet_axes` makes it for a `WideResNet`.
        key: a PRNG key, from which all orders and starts follow.
        model_state: of `b`, whose arrays are put in order too. They have no part in the matching.
        restarts: how many starts there are besides the order as it was.
        max_sweeps: how many sweeps over all permutations a start has at most.

    Raises:
        TypeError: for arrays that are not real floating-point numbers, a key that is none or counts that are none.
        ValueError: for networks that differ in structure or shapes or are not finite, counts out of range, and axes
            that do not fit: a name or pattern that matches nothing, an array matched by two patterns that disagree, an
            entry of another length than the array has axes, or axes of different lengths with one permutation.

    Example:
        >>> import jax, numpy as np
        >>> a = {"in": np.array([[1.0, 2.0, 3.0]]), "out": np.array([[4.0], [5.0], [6.0]])}
        >>> b = {"in": np.array([[3.0, 1.0, 2.0]]), "out": np.array([[6.0], [4.0], [5.0]])}
        >>> found = match_units(a, b, {"in": (None, "units"), "out": ("units", None)}, key=jax.random.key(0))
        >>> found.permutations["units"].tolist(), found.squared_distance
        ([1, 2, 0], 0.0)
    """
    key = typed_key(key)
    restarts, max_sweeps = count("restarts", restarts, least=0), count("max_sweeps", max_sweeps)
    check_same("b", b, "a", a)
    check_finite("a", a)
    check_finite("b", b)
    sizes = _sizes(axes, b, model_state)
    pairs = _pairs(axes, a, b)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    found = [_descend(pairs, _identity(sizes), generator, max_sweeps)]
    for number in range(restarts):
        if number % 2:
            start = {name: generator.permutation(size) for name, size in sizes.items()}
        else:
            start = _built_up(pairs, sizes, generator)
        found.append(_descend(pairs, start, generator, max_sweeps))
    best = int(np.argmax([products for _, products, _ in found]))
    permutations, _, converged = found[best]
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
    """Put the units of a network in another order, which leaves its function as it is.

    Args:
        params: the parameters of one network.
        axes: which permutation acts on which axis of which array, as for `match_units`.
        permutations: by name, ints (units,): at each place, which unit of `params` is to stand there.
        model_state: of the same network.

    Returns:
        `(params, model_state)`; pure, and `jax.jit` compiles it for permutations that are known.

    Raises:
        ValueError: for axes that do not fit, as `match_units`; permutations that are missing, or are none of so many
            units.
    """
    sizes = _sizes(axes, params, model_state)
    orders = {name: _checked_permutation(name, permutations, size) for name, size in sizes.items()}

    def permuted(path: tuple[Any, ...], leaf: Any) -> Any:
        for axis, name in enumerate(_entry(axes, _name(path)) or ()):
            if name is not None:
                take = np.take if isinstance(leaf, np.ndarray) else jnp.take  # jax would make float32 of float64
                leaf = take(leaf, orders[name], axis=axis)
        return leaf

    done: tuple[PyTree, PyTree] = tuple(jax.tree_util.tree_map_with_path(permuted, t) for t in (params, model_state))
    return done


class _Pair(NamedTuple):
    """An array that permutations act on, of both networks."""

    a: np.ndarray  # float64
    b: np.ndarray
    names: tuple[str | None, ...]  # of the permutations, by axis


def _pairs(axes: Axes, a: PyTree, b: PyTree) -> list[_Pair]:
    entries = [_entry(axes, name) for name in array_names(a)]
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), entries, strict=True)
    return [
        _Pair(np.asarray(one, np.float64), np.asarray(other, np.float64), names)
        for one, other, names in leaves
        if names is not None and any(names)
    ]


def _descend(
    pairs: list[_Pair], permutations: dict[str, np.ndarray], generator: np.random.Generator, max_sweeps: int
) -> tuple[dict[str, np.ndarray], float, bool]:
    """Coordinate descent from a start: permutations, the sum of all products, and whether it has converged.

    The squared distance is |a|^2 + |b|^2 minus twice the products of both networks, which are all that changes.
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
                places = np.arange(len(best))
                gain = float((sums[places, best] - sums[places, permutations[name]]).sum())
            else:
                # On two axes of one array the assignment holds one of them fast, and need not be a gain.
                gain = sum(_products(pair, changed) - _products(pair, permutations) for pair in touched)
            if gain > _LEAST_GAIN * scale:
                permutations, converged = changed, False
        if converged:
            break
    return permutations, sum(_products(pair, permutations) for pair in pairs), converged


def _sums(pairs: list[_Pair], permutations: Permutations, name: str) -> np.ndarray:
    """The sum of products of each unit of `a` with each of `b`, as (units, units), other permutations as they are."""
    sums: Any = 0
    for pair in pairs:
        for axis, acting in enumerate(pair.names):
            if acting == name:
                sums = sums + _rows(pair.a, axis) @ _rows(_permuted(pair, permutations, skip=axis), axis).T
    return sums


def _built_up(pairs: list[_Pair], sizes: dict[str, int], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """A start from what is certain: each permutation by the arrays whose other permutations are settled."""
    settled: dict[str, np.ndarray] = {}
    waiting = [list(sizes)[index] for index in generator.permutation(len(sizes))]
    while waiting:
        # The first in the order that any array determines; where none does, the first as it was.
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


def _permuted(pair: _Pair, permutations: Permutations, skip: int | None = None) -> np.ndarray:
    array = pair.b
    for axis, name in enumerate(pair.names):
        if name is not None and axis != skip:
            array = np.take(array, permutations[name], axis=axis)
    return array


def _rows(array: np.ndarray, axis: int) -> np.ndarray:
    """The slices at each index of an axis, as rows."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _identity(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    return {name: np.arange(size) for name, size in sizes.items()}


def _squared_distance(a: PyTree, b: PyTree) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum(np.sum((np.asarray(x, np.float64) - np.asarray(y, np.float64)) ** 2) for x, y in pairs))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _entry(axes: Axes, name: str) -> tuple[str | None, ...] | None:
    """The axes of an array; None where no entry matches. A name goes before patterns, which must agree."""
    if name in axes:
        return tuple(axes[name])
    found = {pattern: tuple(axes[pattern]) for pattern in axes if fnmatchcase(name, pattern)}
    if len(set(found.values())) > 1:
        raise ValueError(f"axes must not disagree, but {' and '.join(map(repr, found))} both match {name!r}")
    return next(iter(found.values()), None)


def _sizes(axes: Axes, params: PyTree, model_state: PyTree) -> dict[str, int]:
    """The number of units of each permutation, where the axes fit the network."""
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


def _checked_permutation(name: str, permutations: Permutations, size: int) -> np.ndarray:
    if name not in permutations:
        raise ValueError(f"permutations must have {name!r}, got {', '.join(map(repr, permutations)) or 'none'}")
    order = np.asarray(permutations[name])
    if order.shape != (size,) or not np.array_equal(np.sort(order), np.arange(size)):
        raise ValueError(f"permutations must order the {size} units of {name!r}, got {np.array2string(order):.100}")
    return order

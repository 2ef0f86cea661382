"""Null (surrogate) trajectories, whose relation to the landscape has been removed, wholly or in part.

They are a control for figures and statistics. A null keeps the minimum, the starts, and some properties of the
movements. It is computed from the inner products of the increments alone and is again an `IncrementGram`, so everything
that is computed from the real trajectories can be computed from it. The results are inner products of vectors, hence
positive semidefinite. Random directions are drawn from the exact distribution of such products in P dimensions,
without making the vectors: the lower-triangular factor of a matrix of Gaussian vectors has independent normal and chi
entries (Bartlett's decomposition).

Some kinds separate weight decay from the loss. SGD, with or without momentum, is linear in parameters and gradients; an
optimiser with decoupled decay, such as AdamW, is linear in its parameters and the steps that it computes from
gradients. After t updates theta_t = f_t theta_0 + G_t, where f_t is the factor by which decay alone multiplies any
parameters (`jaxscape.decay_factors`) and G_t is the response to the gradients. The displacement from the start
therefore splits exactly into a decay part (f_t - 1) theta_0 and a gradient part G_t (`split_displacements`). Adam with
coupled decay does not split in this way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Real, Shaped, UInt32
from threadpoolctl import threadpool_limits

from jaxscape.lazy import jax
from jaxscape.trajectories.geometry import distance_from_start, trajectory_rows
from jaxscape.trajectories.gram import IncrementGram

KINDS = ("rotated", "random", "shuffled", "exchange", "decay", "decay+rotated")
NEED_FACTORS = ("decay", "decay+rotated")


def null_trajectories(
    gram: IncrementGram,
    *,
    kind: str = "rotated",
    key: jax.Array | UInt32[np.ndarray, " k"],
    factors: Real[np.ndarray, " points"] | None = None,
    alike: Shaped[np.ndarray, " points"] | None = None,
) -> IncrementGram:
    """Return null trajectories from the same starts, whose relation to the landscape is removed wholly or in part.

    Args:
        gram: the real trajectories, of any lengths; the null has the same lengths.
        kind: "rotated": the movements of each member are rotated together by a random rotation. This keeps their
            lengths, persistence and curvature, and removes their relation to the jump, the minimum and the other
            members. "random": keeps only the length of each movement. These two drift outward almost surely.
            "shuffled": permutes the movements of each member in time. It keeps the end points, so it says nothing about
            return. "exchange": each member makes the movements of another one (with `factors`, their gradient part).
            This keeps drift that members share, the subspace and the layers that move, and every length, and removes
            the relation of a movement to its own jump. "decay": weight decay alone, applied to each start.
            "decay+rotated": the decay part of each displacement, and its gradient part rotated at random.
        key: a PRNG key, or its data as a NumPy array uint32 (k,); "decay" does not use it.
        factors: the factor by which weight decay alone multiplies the parameters of the start until each
            point, 1 for a start: `jaxscape.decay_factors(optimizer, updates)` at the updates of the points. Required
            for "decay" and "decay+rotated", optional for "exchange".
        alike: a label of the trajectory of each point, such as its step size: members exchange with members of
            the same label and length. Only for "exchange"; by default all members of the same length.

    Returns:
        An `IncrementGram` of the same rows.

    Raises:
        ValueError: for an unknown kind (lists the known ones), factors or labels that are missing, not taken by the
            kind or of the wrong shape, a member without a partner for the exchange, trajectories that branch, or
            anything but one key.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    numbers = _key_data(key)
    rows = trajectory_rows(gram)
    _check_arguments(kind, factors, alike)
    if factors is not None:
        factors = _checked_factors(gram, factors, rows)
    movements = [chain[chain >= 0] for chain in rows[1:].T]  # of each member; empty if it has only a start
    generator = np.random.default_rng(numbers)
    moving = [chain for chain in movements if len(chain)]
    if kind == "exchange":
        order = _exchanged(gram, rows, movements, alike, generator)
        return _keeping_decay(gram, rows, factors, lambda each: _reordered(each, order))
    if not moving:
        return gram
    if kind == "shuffled":
        return _shuffled(gram, moving, generator)
    if kind == "decay":
        return _keeping_decay(gram, rows, factors, lambda each: _without_movements(each, rows))
    groups = list(np.concatenate(moving)[:, None]) if kind == "random" else moving
    # Small matrices: one thread takes 0.09 s per draw on 2 busy cores, two threads 2.2 s.
    with threadpool_limits(1, user_api="blas"):
        return _keeping_decay(gram, rows, factors, lambda each: _rotated(each, groups, generator))


class Split(NamedTuple):
    """The decay and gradient parts of each member's displacement from its start.

    Inward means towards the reference (the origin, without one): along -y_0, where y_0 is the displacement of the start
    from it. Lengths and inward components are in units of |y_0|; NaN if that is 0, and after the end of a shorter
    trajectory. The two inward components add up to 1 - (d / d_0) cos(y, y_0).
    """

    decay: Float64[np.ndarray, "epochs members"]  # inward component of the decay part
    gradient: Float64[np.ndarray, "epochs members"]  # inward component of the gradient part
    decay_length: Float64[np.ndarray, "epochs members"]  # length of the decay part
    gradient_length: Float64[np.ndarray, "epochs members"]  # length of the gradient part
    cosine: Float64[np.ndarray, "epochs members"]  # of gradient part and inward direction; NaN if the part is 0


def split_displacements(gram: IncrementGram, factors: Real[np.ndarray, " points"]) -> Split:
    """Return the parts of each member's displacement due to weight decay and to the gradients; see the module
    docstring.

    The split is exact for optimisers that are linear in the sense described there.

    Args:
        gram: trajectories of any lengths.
        factors: as for `null_trajectories`; all 1 without weight decay.

    Raises:
        ValueError: see `null_trajectories`.
    """
    rows = trajectory_rows(gram)
    factors = _checked_factors(gram, factors, rows)
    exists = rows >= 0
    ends = rows[exists.sum(axis=0) - 1, np.arange(rows.shape[1])]
    at, start = np.where(exists, rows, ends), rows[0]
    gradient_part = _with_decay(gram, rows, factors, sign=-1).products
    length = distance_from_start(gradient_part, at[1:])
    # G_t . y_0; the increment of a start is y_0, its displacement from the reference or the origin.
    with_start = np.concatenate([np.zeros((1, len(start))), np.cumsum(gradient_part[at[1:], start], axis=0)])
    jump = np.sqrt(gram.products[start, start])
    with_reference = gram.products[0, start] if gram.has_reference else 0
    start_with_jump = jump**2 + with_reference  # theta_0 . y_0
    norm = np.sqrt(np.maximum(start_with_jump + with_reference + (gram.products[0, 0] if gram.has_reference else 0), 0))
    shrunk = 1 - factors[at - int(gram.has_reference)]
    with np.errstate(divide="ignore", invalid="ignore"):
        split = Split(
            decay=shrunk * start_with_jump / jump**2,
            gradient=-with_start / jump**2,
            decay_length=np.abs(shrunk) * norm / jump,
            gradient_length=length / jump,
            cosine=np.where(length > 0, np.clip(-with_start / (length * jump), -1, 1), np.nan),
        )
    return Split(*(np.where(exists & (jump > 0), values, np.nan) for values in split))


def _check_arguments(kind: str, factors: object, alike: object) -> None:
    if factors is None and kind in NEED_FACTORS:
        raise ValueError(f"kind {kind!r} needs factors, those of jaxscape.decay_factors at the updates of the points")
    if factors is not None and kind not in (*NEED_FACTORS, "exchange"):
        raise ValueError(f"factors are for the kinds {', '.join((*NEED_FACTORS, 'exchange'))}, got kind {kind!r}")
    if alike is not None and kind != "exchange":
        raise ValueError(f"alike is for the kind exchange, got kind {kind!r}")


def _checked_factors(
    gram: IncrementGram, factors: Real[np.ndarray, " points"], rows: Int[np.ndarray, "epochs members"]
) -> Float64[np.ndarray, " points"]:
    factors = np.asarray(factors, np.float64)
    if factors.shape != (gram.num_points,) or not np.isfinite(factors).all():
        raise ValueError(f"factors must be {gram.num_points} finite numbers, one per point, got shape {factors.shape}")
    if not (factors[rows[0] - int(gram.has_reference)] == 1).all():
        raise ValueError("factors must be 1 for the starts of trajectories")
    return factors


def _key_data(key: jax.Array | np.ndarray) -> list[int]:
    """Return the data of one key; refuse integer seeds and stacks of keys."""
    if isinstance(key, np.ndarray):  # the data of a key, for which jax need not be imported
        data = key
    else:
        try:
            data = np.asarray(jax.random.key_data(key))
        except (TypeError, ValueError, AttributeError):
            data = np.empty(0)
    if data.shape not in ((2,), (4,)) or data.dtype != np.uint32:  # those of Threefry and of RBG
        shown = f"{key.dtype} of shape {key.shape}" if isinstance(key, jax.Array | np.ndarray) else repr(key)
        raise ValueError(f"key must be one PRNG key, such as jax.random.key(0), got {shown}")
    numbers: list[int] = data.tolist()
    return numbers


def _keeping_decay(
    gram: IncrementGram,
    rows: Int[np.ndarray, "epochs members"],
    factors: Float64[np.ndarray, " points"] | None,
    change: Callable[[IncrementGram], IncrementGram],
) -> IncrementGram:
    """Apply `change` to the gradient parts only: subtract the decay parts, change the rest, and add them again."""
    if factors is None or (factors == 1).all():
        return change(gram)
    return _with_decay(change(_with_decay(gram, rows, factors, sign=-1)), rows, factors, sign=1)


def _with_decay(
    gram: IncrementGram, rows: Int[np.ndarray, "epochs members"], factors: Float64[np.ndarray, " points"], *, sign: int
) -> IncrementGram:
    """Return the Gram with the decay parts added to the increments (sign 1), or subtracted from them (sign -1)."""
    first = int(gram.has_reference)
    moved, starts, shares = [], [], []
    for chain in rows.T:
        start, *later = chain[chain >= 0]
        moved += later
        starts += [start] * len(later)
        shares.append(sign * np.diff(factors[[start - first, *(row - first for row in later)]]))
    share = np.concatenate(shares)[:, None]
    products = gram.products.copy()
    # Add a multiple of its start's parameters theta_0 to each increment: first in the rows, then in the columns.
    for _ in range(2):
        theta_0 = products[starts] + products[0] if gram.has_reference else products[starts]
        products[moved] += share * theta_0
        products = np.ascontiguousarray(products.T)
    fixed = np.ix_(*[np.setdiff1d(np.arange(len(products)), moved)] * 2)
    remainders = np.zeros_like(products)
    remainders[fixed] = gram.remainders[fixed]
    return gram._replace(products=(products + products.T) / 2, remainders=remainders)


def _exchanged(
    gram: IncrementGram,
    rows: Int[np.ndarray, "epochs members"],
    movements: list[Int[np.ndarray, " _"]],
    alike: Shaped[np.ndarray, " points"] | None,
    generator: np.random.Generator,
) -> Int[np.ndarray, " rows"]:
    """Return the row whose increment each row gets: members exchange in a random cycle, so that none keeps its own."""
    first = int(gram.has_reference)
    labels = np.zeros(gram.num_points, int) if alike is None else np.asarray(alike)
    if labels.shape != (gram.num_points,):
        raise ValueError(f"alike must have shape ({gram.num_points},), one label per point, got {labels.shape}")
    groups: dict[tuple[Any, int], list[np.ndarray]] = defaultdict(list)
    for start, chain in zip(rows[0], movements, strict=True):
        if len(chain):
            groups[labels[start - first].item(), len(chain)].append(chain)
    order = np.arange(len(gram.parents))
    for (label, length), chains in groups.items():
        if len(chains) < 2:
            raise ValueError(
                f"exchange needs at least two trajectories of each label and length, but there is one of "
                f"{label!r} with {length + 1} points"
            )
        cycle = generator.permutation(len(chains))
        for to, of in zip(cycle, np.roll(cycle, 1), strict=True):
            order[chains[to]] = chains[of]
    return order


def _reordered(gram: IncrementGram, order: Int[np.ndarray, " rows"]) -> IncrementGram:
    grid = np.ix_(order, order)
    return gram._replace(products=gram.products[grid], remainders=gram.remainders[grid])


def _without_movements(gram: IncrementGram, rows: Int[np.ndarray, "epochs members"]) -> IncrementGram:
    moved = np.zeros(len(gram.parents), bool)
    moved[rows[1:][rows[1:] >= 0]] = True
    zeroed = moved[:, None] | moved
    return gram._replace(products=np.where(zeroed, 0, gram.products), remainders=np.where(zeroed, 0, gram.remainders))


def _shuffled(
    gram: IncrementGram, movements: list[Int[np.ndarray, " _"]], generator: np.random.Generator
) -> IncrementGram:
    order = np.arange(len(gram.parents))
    for rows in movements:
        order[rows] = generator.permutation(rows)
    return _reordered(gram, order)


def _rotated(gram: IncrementGram, groups: list[Int[np.ndarray, " _"]], generator: np.random.Generator) -> IncrementGram:
    """Rotate each group of increments independently; groups are arrays of row numbers."""
    fixed = np.setdiff1d(np.arange(len(gram.parents)), np.concatenate(groups))
    coordinates = _coordinates(gram.products[np.ix_(fixed, fixed)], gram.dimension)
    factors = [_coordinates(gram.products[np.ix_(rows, rows)], gram.dimension) for rows in groups]
    sizes = [factor.shape[1] for factor in factors]
    gaussian = _gaussian_rows(sum(sizes), coordinates.shape[1], gram.dimension, generator)
    vectors = np.zeros((len(gram.parents), gaussian.shape[1]))
    vectors[fixed, : coordinates.shape[1]] = coordinates
    if max(sizes) == 1:  # an orthonormal frame of one vector is its direction, so all of them are normalised at once
        moved, length = np.concatenate(groups), np.concatenate([factor[:, 0] for factor in factors])
        vectors[moved] = (length / np.linalg.norm(gaussian, axis=1))[:, None] * gaussian
    else:
        for rows, factor, rotated in zip(groups, factors, np.split(gaussian, np.cumsum(sizes)[:-1]), strict=True):
            vectors[rows] = factor @ _orthonormal(rotated)
    products = vectors @ vectors.T
    remainders = np.zeros_like(products)
    for rows in (fixed, *groups):  # products within the fixed rows, and within each group, are kept bit for bit
        block = np.ix_(rows, rows)
        products[block], remainders[block] = gram.products[block], gram.remainders[block]
    return gram._replace(products=products, remainders=remainders)


def _coordinates(products: Float64[np.ndarray, "rows rows"], dimension: int) -> Float64[np.ndarray, "rows axes"]:
    """Return vectors with the given inner products, on min(rows, dimension) axes."""
    if len(products) == 1:
        return np.sqrt(np.maximum(products, 0))
    values, vectors = np.linalg.eigh(products)
    rank = min(len(values), dimension)
    return vectors[:, ::-1][:, :rank] * np.sqrt(np.maximum(values[::-1][:rank], 0))


def _gaussian_rows(
    count: int, fixed: int, dimension: int, generator: np.random.Generator
) -> Float64[np.ndarray, "rows axes"]:
    """Draw `count` standard normal vectors of R^dimension in an orthonormal basis that begins with `fixed` given axes.

    Beyond the given axes the basis is that of the vectors themselves (Gram-Schmidt in order), so that `count` more
    coordinates are enough. They form a lower-triangular matrix, normal below the diagonal and chi on it, with one
    degree of freedom fewer for each row.
    """
    rest = dimension - fixed
    along = generator.standard_normal((count, fixed))
    if rest <= count:
        return np.concatenate([along, generator.standard_normal((count, rest))], axis=1)
    triangle = np.tril(generator.standard_normal((count, count)), -1)
    diagonal = np.sqrt(generator.chisquare(rest - np.arange(count)))
    return np.concatenate([along, triangle + np.diag(diagonal)], axis=1)


def _orthonormal(vectors: Float64[np.ndarray, "rows axes"]) -> Float64[np.ndarray, "rows axes"]:
    """Return an orthonormal frame of the rows, uniformly distributed over all frames if the rows are Gaussian."""
    q, r = np.linalg.qr(vectors.T)
    return (q * np.sign(np.diag(r))).T

"""Null trajectories, or surrogates: what trajectories would look like if the landscape told them less, or nothing.

A control for pictures and for numbers. A null keeps the minimum and the starts where they are, and part of what the
copies did; it is made from the inner products of the increments alone and is again a `Gram`, so everything that is
computed of the real trajectories can be computed of it. All of them are products of vectors, hence positive
semidefinite. Random directions are drawn from the exact distribution of such products in P dimensions, without making
the vectors: the lower-triangular factor of a matrix of Gaussian vectors has independent normal and chi entries
(Bartlett's decomposition).

Some kinds tell weight decay from the loss. SGD, with momentum or without, is linear in parameters and gradients, and so
is every optimiser whose decay is decoupled, such as AdamW, in its parameters and the steps that it makes of gradients.
After t updates theta_t = f_t theta_0 + G_t, where f_t is what decay alone makes of any parameters
(`jaxscape.decay_factors`) and G_t is the response to the gradients. The displacement from the start so has a decay part
(f_t - 1) theta_0 and a gradient part G_t, exactly (`split_displacements`). Adam with coupled decay has no such parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from jaxscape.lazy import jax
from jaxscape.trajectories.geometry import distance_from_start, trajectory_rows
from jaxscape.trajectories.gram import Gram

KINDS = ("rotated", "random", "shuffled", "exchange", "decay", "decay+rotated")
NEED_FACTORS = ("decay", "decay+rotated")


def null_trajectories(
    gram: Gram,
    *,
    kind: str = "rotated",
    key: jax.Array,
    factors: np.ndarray | None = None,
    alike: np.ndarray | None = None,
) -> Gram:
    """Trajectories from the same starts that have lost their relation to the landscape, or part of it.

    Args:
        gram: the real trajectories, of any lengths, which the null keeps.
        kind: "rotated": each member's movements, as they are to one another, are rotated at random; this keeps their
            lengths, persistence and curvature and removes their relation to the jump, the minimum and the other
            members. "random": keeps only the length of each movement. These drift outward almost surely.
            "shuffled": permutes each member's movements in time; it keeps the end points, so it says nothing about
            return. "exchange": each member makes the movements of another one, its gradient part where there are
            `factors`; this keeps drift that members share, the subspace and the layers that move, and every length, and
            removes the relation of a movement to its own jump. "decay": what weight decay alone makes of each start.
            "decay+rotated": the decay part of each displacement, and its gradient part rotated at random.
        key: a PRNG key; "decay" draws nothing.
        factors: float (n,), by what weight decay alone multiplies the parameters of the start of each point: 1 for a
            start. Of `jaxscape.decay_factors(optimizer, updates)` the ones at the updates of the points. Only for
            "decay" and "decay+rotated", which need them, and "exchange".
        alike: (n,), a label of each point's trajectory, such as its step size: members exchange with those of the same
            label and length. Only for "exchange"; all of one length by default.

    Returns:
        A `Gram` of the same rows.

    Raises:
        ValueError: for an unknown kind (lists the known ones), factors or labels that are missing, that the kind does
            not take or that do not fit, a member that has nobody to exchange with, trajectories that branch, or
            anything but one key.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    numbers = _key_data(key)
    rows = trajectory_rows(gram)
    _check_arguments(kind, factors, alike)
    if factors is not None:
        factors = _checked_factors(gram, factors, rows)
    movements = [chain[chain >= 0] for chain in rows[1:].T]  # of each member, none where it is a start alone
    generator = np.random.default_rng(numbers)
    moving = [chain for chain in movements if len(chain)]
    if kind == "exchange":
        order = _exchanged(gram, rows, movements, alike, generator)
        return _keeping_decay(gram, rows, factors, lambda each: _taken(each, order))
    if not moving:
        return gram
    if kind == "shuffled":
        return _shuffled(gram, moving, generator)
    if kind == "decay":
        return _keeping_decay(gram, rows, factors, lambda each: _stopped(each, rows))
    groups = list(np.concatenate(moving)[:, None]) if kind == "random" else moving
    with threadpool_limits(1, user_api="blas"):  # small matrices: 0.09 s a draw on 2 busy cores, 2.2 s with two threads
        return _keeping_decay(gram, rows, factors, lambda each: _rotated(each, groups, generator))


class Split(NamedTuple):
    """The displacement of each member from its start in its two parts; float64 [epoch, member].

    Inward is towards the reference, or the origin where there is none: along -y_0, with y_0 the start seen from there.
    Lengths and shares are in units of |y_0|; NaN where that is 0 and after the end of a shorter trajectory. The two
    shares add up to 1 - (d / d_0) cos(y, y_0).
    """

    decay: np.ndarray  # inward share of the decay part
    gradient: np.ndarray  # inward share of the gradient part
    decay_length: np.ndarray
    gradient_length: np.ndarray
    cosine: np.ndarray  # of the gradient part with the inward direction; NaN where it is 0


def split_displacements(gram: Gram, factors: np.ndarray) -> Split:
    """Return what weight decay and what the gradients did to each member, exactly, as far as its optimiser is linear.

    Args:
        gram: trajectories, of any lengths.
        factors: float (n,), as for `null_trajectories`: all 1 where there is no weight decay.

    Raises:
        ValueError: as `null_trajectories`.
    """
    rows = trajectory_rows(gram)
    factors = _checked_factors(gram, factors, rows)
    there = rows >= 0
    ends = rows[there.sum(axis=0) - 1, np.arange(rows.shape[1])]
    at, start = np.where(there, rows, ends), rows[0]
    bare = _with_decay(gram, rows, factors, sign=-1).products
    length = distance_from_start(bare, at[1:])
    with_start = np.concatenate([np.zeros((1, len(start))), np.cumsum(bare[at[1:], start], axis=0)])  # G_t . y_0
    # The increment of a start is y_0, seen from the reference or the origin.
    jump = np.sqrt(gram.products[start, start])
    with_reference = gram.products[0, start] if gram.has_reference else 0
    start_with_jump = jump**2 + with_reference  # theta_0 . y_0
    norm = np.sqrt(np.maximum(start_with_jump + with_reference + (gram.products[0, 0] if gram.has_reference else 0), 0))
    shrunk = 1 - factors[at - int(gram.has_reference)]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = Split(
            decay=shrunk * start_with_jump / jump**2,
            gradient=-with_start / jump**2,
            decay_length=np.abs(shrunk) * norm / jump,
            gradient_length=length / jump,
            cosine=np.where(length > 0, np.clip(-with_start / (length * jump), -1, 1), np.nan),
        )
    return Split(*(np.where(there & (jump > 0), values, np.nan) for values in found))


def _check_arguments(kind: str, factors: object, alike: object) -> None:
    if factors is None and kind in NEED_FACTORS:
        raise ValueError(f"kind {kind!r} needs factors, those of jaxscape.decay_factors at the updates of the points")
    if factors is not None and kind not in (*NEED_FACTORS, "exchange"):
        raise ValueError(f"factors are for the kinds {', '.join((*NEED_FACTORS, 'exchange'))}, got kind {kind!r}")
    if alike is not None and kind != "exchange":
        raise ValueError(f"alike is for the kind exchange, got kind {kind!r}")


def _checked_factors(gram: Gram, factors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    factors = np.asarray(factors, np.float64)
    if factors.shape != (gram.num_points,) or not np.isfinite(factors).all():
        raise ValueError(f"factors must be {gram.num_points} finite numbers, one a point, got shape {factors.shape}")
    if not (factors[rows[0] - int(gram.has_reference)] == 1).all():
        raise ValueError("factors must be 1 for the starts of trajectories")
    return factors


def _key_data(key: jax.Array) -> list[int]:
    """Return the numbers of one key; refuse seeds, which are no keys, and stacks, which would pass for one."""
    found = f"{key.dtype} of shape {key.shape}" if isinstance(key, jax.Array | np.ndarray) else repr(key)
    try:
        data = np.asarray(jax.random.key_data(key))
    except (TypeError, ValueError, AttributeError):
        data = np.empty(0)
    if data.ndim != 1 or data.dtype != np.uint32:
        raise ValueError(f"key must be one PRNG key, such as jax.random.key(0), got {found}")
    numbers: list[int] = data.tolist()
    return numbers


def _keeping_decay(gram: Gram, rows: np.ndarray, factors: np.ndarray | None, change: Callable[[Gram], Gram]) -> Gram:
    """The Gram with its gradient parts changed: their increments in place of the whole ones, and back."""
    if factors is None or (factors == 1).all():
        return change(gram)
    return _with_decay(change(_with_decay(gram, rows, factors, sign=-1)), rows, factors, sign=1)


def _with_decay(gram: Gram, rows: np.ndarray, factors: np.ndarray, *, sign: int) -> Gram:
    """The Gram of increments to which their decay parts are added (sign 1), or from which they are taken (-1)."""
    first = int(gram.has_reference)
    moved, starts, shares = [], [], []
    for chain in rows.T:
        start, *later = chain[chain >= 0]
        moved += later
        starts += [start] * len(later)
        shares.append(sign * np.diff(factors[[start - first, *(row - first for row in later)]]))
    share = np.concatenate(shares)[:, None]
    products = gram.products.copy()
    for _ in range(2):  # each increment gets a share of its start, seen from the origin: in the rows, then the columns
        whole = products[starts] + products[0] if gram.has_reference else products[starts]
        products[moved] += share * whole
        products = np.ascontiguousarray(products.T)
    fixed = np.ix_(*[np.setdiff1d(np.arange(len(products)), moved)] * 2)
    remainders = np.zeros_like(products)
    remainders[fixed] = gram.remainders[fixed]
    return gram._replace(products=(products + products.T) / 2, remainders=remainders)


def _exchanged(
    gram: Gram,
    rows: np.ndarray,
    movements: list[np.ndarray],
    alike: np.ndarray | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Whose increment each row gets: those who exchange do so in a random circle, so that nobody keeps its own."""
    first = int(gram.has_reference)
    labels = np.zeros(gram.num_points, int) if alike is None else np.asarray(alike)
    if labels.shape != (gram.num_points,):
        raise ValueError(f"alike must have shape ({gram.num_points},), a label a point, got {labels.shape}")
    found: dict[tuple[Any, int], list[np.ndarray]] = defaultdict(list)
    for start, chain in zip(rows[0], movements, strict=True):
        if len(chain):
            found[labels[start - first].item(), len(chain)].append(chain)
    order = np.arange(len(gram.parents))
    for (label, length), chains in found.items():
        if len(chains) < 2:
            raise ValueError(
                f"exchange needs two trajectories or more of each label and length, and there is one of "
                f"{label!r} with {length + 1} points"
            )
        circle = generator.permutation(len(chains))
        for to, of in zip(circle, np.roll(circle, 1), strict=True):
            order[chains[to]] = chains[of]
    return order


def _taken(gram: Gram, order: np.ndarray) -> Gram:
    grid = np.ix_(order, order)
    return gram._replace(products=gram.products[grid], remainders=gram.remainders[grid])


def _stopped(gram: Gram, rows: np.ndarray) -> Gram:
    moved = np.zeros(len(gram.parents), bool)
    moved[rows[1:][rows[1:] >= 0]] = True
    stopped = moved[:, None] | moved
    return gram._replace(products=np.where(stopped, 0, gram.products), remainders=np.where(stopped, 0, gram.remainders))


def _shuffled(gram: Gram, movements: list[np.ndarray], generator: np.random.Generator) -> Gram:
    order = np.arange(len(gram.parents))
    for rows in movements:
        order[rows] = generator.permutation(rows)
    return _taken(gram, order)


def _rotated(gram: Gram, groups: list[np.ndarray], generator: np.random.Generator) -> Gram:
    """Rotate each group of increments on its own; groups are row numbers."""
    fixed = np.setdiff1d(np.arange(len(gram.parents)), np.concatenate(groups))
    kept = _coordinates(gram.products[np.ix_(fixed, fixed)], gram.dimension)
    factors = [_coordinates(gram.products[np.ix_(rows, rows)], gram.dimension) for rows in groups]
    sizes = [factor.shape[1] for factor in factors]
    gaussian = _gaussian_rows(sum(sizes), kept.shape[1], gram.dimension, generator)
    vectors = np.zeros((len(gram.parents), gaussian.shape[1]))
    vectors[fixed, : kept.shape[1]] = kept
    if max(sizes) == 1:  # a frame of one vector is its direction: all of them at once
        moved, length = np.concatenate(groups), np.concatenate([factor[:, 0] for factor in factors])
        vectors[moved] = (length / np.linalg.norm(gaussian, axis=1))[:, None] * gaussian
    else:
        for rows, factor, rotated in zip(groups, factors, np.split(gaussian, np.cumsum(sizes)[:-1]), strict=True):
            vectors[rows] = factor @ _orthonormal(rotated)
    products = vectors @ vectors.T
    remainders = np.zeros_like(products)
    for rows in (fixed, *groups):  # what is kept is kept to the last bit
        block = np.ix_(rows, rows)
        products[block], remainders[block] = gram.products[block], gram.remainders[block]
    return gram._replace(products=products, remainders=remainders)


def _coordinates(products: np.ndarray, dimension: int) -> np.ndarray:
    """Vectors (n, q) with the given inner products (n, n), q = min(n, dimension)."""
    if len(products) == 1:
        return np.sqrt(np.maximum(products, 0))
    values, vectors = np.linalg.eigh(products)
    rank = min(len(values), dimension)
    return vectors[:, ::-1][:, :rank] * np.sqrt(np.maximum(values[::-1][:rank], 0))


def _gaussian_rows(count: int, fixed: int, dimension: int, generator: np.random.Generator) -> np.ndarray:
    """`count` standard normal vectors of R^dimension in an orthonormal basis that begins with `fixed` given axes.

    Beyond the given axes the basis is that of the vectors themselves (Gram-Schmidt in order), so that `count` more
    coordinates are enough: below the diagonal normal, on it chi with one degree of freedom fewer for each.
    """
    rest = dimension - fixed
    along = generator.standard_normal((count, fixed))
    if rest <= count:
        return np.concatenate([along, generator.standard_normal((count, rest))], axis=1)
    triangle = np.tril(generator.standard_normal((count, count)), -1)
    diagonal = np.sqrt(generator.chisquare(rest - np.arange(count)))
    return np.concatenate([along, triangle + np.diag(diagonal)], axis=1)


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """An orthonormal frame of the rows, uniform over all frames where the rows are Gaussian."""
    q, r = np.linalg.qr(vectors.T)
    return (q * np.sign(np.diag(r))).T

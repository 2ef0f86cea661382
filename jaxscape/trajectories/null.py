"""Null trajectories: what trajectories would look like if the landscape told them nothing.

A control for pictures and for numbers. A null keeps the minimum and the starts where they are, and part of what the
copies did; it is made from the inner products of the increments alone and is again a `Gram`, so everything that is
computed of the real trajectories can be computed of it. The inner products are drawn from their exact distribution
for random vectors in P dimensions, without making such vectors: the lower-triangular factor of a matrix of Gaussian
vectors has independent normal and chi entries (Bartlett's decomposition).
"""

import jax
import numpy as np

from jaxscape.trajectories.geometry import trajectory_rows
from jaxscape.trajectories.gram import Gram

KINDS = ("rotated", "random", "shuffled")


def null_trajectories(gram: Gram, *, kind: str = "rotated", key: jax.Array) -> Gram:
    """Trajectories from the same starts that have lost their relation to the landscape.

    Args:
        gram: the real trajectories, of any lengths, which the null keeps.
        kind: "rotated": each member's movements, as they are to one another, are rotated at random; this keeps their
            lengths, persistence and curvature and removes their relation to the jump, the minimum and the other
            members. The control to judge by. "random": keeps only the length of each movement. These drift outward
            almost surely. "shuffled": permutes each member's movements in time; it keeps the end points, so it says
            nothing about return.
        key: a PRNG key.

    Returns:
        A `Gram` of the same rows.

    Raises:
        ValueError: for an unknown kind (lists the known ones), trajectories that branch, or anything but one
            key.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    found = [rows[rows >= 0] for rows in trajectory_rows(gram)[1:].T]
    movements = [rows for rows in found if len(rows)]  # of each member that moves
    generator = np.random.default_rng(_key_data(key))
    if not movements:
        return gram
    if kind == "shuffled":
        return _shuffled(gram, movements, generator)
    groups = movements if kind == "rotated" else list(np.concatenate(movements)[:, None])
    return _rotated(gram, groups, generator)


def decay_trajectories(gram: Gram, factors: np.ndarray) -> Gram:
    """Trajectories from the same starts on which weight decay alone acts: a loss without a gradient.

    What is left of a real trajectory beside this one is the doing of the loss. It keeps the starts and the number of
    updates, and no more; every point is a multiple of its start.

    Args:
        gram: the real trajectories, of any lengths.
        factors: float (n,), by what the parameters of a point are a multiple of those of its start: 1 for a start. Of
            `jaxscape.decay_factors(optimizer, updates)` the ones at the updates of the points.

    Returns:
        A `Gram` of the same rows.

    Raises:
        ValueError: for factors of another length or of starts that are not 1, trajectories that branch, or anything
            but a Gram.
    """
    rows = trajectory_rows(gram)
    first = int(gram.has_reference)
    factors = np.asarray(factors, np.float64)
    if factors.shape != (gram.num_points,) or not np.isfinite(factors).all():
        raise ValueError(f"factors must be {gram.num_points} finite numbers, one a point, got shape {factors.shape}")
    if not (factors[rows[0] - first] == 1).all():
        raise ValueError("factors must be 1 for the starts of trajectories")
    mixing = np.eye(len(gram.parents))  # each increment as a sum of the real ones
    for chain in rows.T:
        start, *later = chain[chain >= 0]
        whole = mixing[start] + (mixing[0] if gram.has_reference else 0)  # the start seen from the origin
        mixing[later] = np.diff(factors[[start - first, *(row - first for row in later)]])[:, None] * whole
    products = mixing @ gram.products @ mixing.T
    remainders = np.zeros_like(products)
    fixed = np.ix_(*[np.setdiff1d(np.arange(len(mixing)), rows[1:][rows[1:] >= 0])] * 2)
    products[fixed], remainders[fixed] = gram.products[fixed], gram.remainders[fixed]  # to the last bit
    return gram._replace(products=(products + products.T) / 2, remainders=remainders)


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


def _shuffled(gram: Gram, movements: list[np.ndarray], generator: np.random.Generator) -> Gram:
    order = np.arange(len(gram.parents))
    for rows in movements:
        order[rows] = generator.permutation(rows)
    grid = np.ix_(order, order)
    return gram._replace(products=gram.products[grid], remainders=gram.remainders[grid])


def _rotated(gram: Gram, groups: list[np.ndarray], generator: np.random.Generator) -> Gram:
    """Rotate each group of increments on its own; groups are row numbers."""
    fixed = np.setdiff1d(np.arange(len(gram.parents)), np.concatenate(groups))
    kept = _coordinates(gram.products[np.ix_(fixed, fixed)], gram.dimension)
    factors = [_coordinates(gram.products[np.ix_(rows, rows)], gram.dimension) for rows in groups]
    sizes = [factor.shape[1] for factor in factors]
    gaussian = _gaussian_rows(sum(sizes), kept.shape[1], gram.dimension, generator)
    vectors = np.zeros((len(gram.parents), gaussian.shape[1]))
    vectors[fixed, : kept.shape[1]] = kept
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

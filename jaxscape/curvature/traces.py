"""The trace of a curvature matrix, estimated from its products with random vectors."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import count, typed_key
from jaxscape.curvature.points import LossOptions, Point
from jaxscape.curvature.products import Kind, kind_points, products
from jaxscape.problem import Problem

PyTree = Any


class Trace(NamedTuple):
    """A trace and how far it may be off; of a stack both have a member axis."""

    value: np.ndarray  # float64 []
    standard_error: np.ndarray  # float64 []; 0 where the trace was taken exactly


def trace(
    problem: Problem,
    params: PyTree,
    *,
    method: str = "xtrace",
    probes: int = 20,
    kind: Kind = "hessian",
    key: jax.Array | None = None,
    **of: Unpack[LossOptions],
) -> Trace:
    """Return the trace of the Hessian or of the Gauss-Newton matrix at a point.

    Args:
        problem: whose loss it is; likewise
        params: the point, as `hessian` takes them.
        method: "hutchinson", the mean of z^T H z over vectors of random signs, whose standard error falls with the
            square root of `probes`; or "xtrace", which takes two products a probe, is exact on what the products span
            and estimates the rest, so that its error falls with the eigenvalues.
        probes: at least 2. Of a matrix of at most twice as many parameters the trace is taken exactly.
        kind: "hessian" or "gauss_newton".
        key: of the probes, the same ones for every member; `jax.random.key(0)` by default.
        of: the keyword arguments of `hessian`.

    Returns:
        A `Trace`. The standard error of "xtrace" is that of its leave-one-out estimates, which are not independent: a
        guide, not a bound.

    Raises:
        TypeError, ValueError: as `hessian` or `gauss_newton`, for an unknown method or kind, or too few probes.

    References:
        Hutchinson, Communications in Statistics 1990. Epperly, Tropp & Webber, "XTrace: Making the most of every
        sample in stochastic trace estimation", SIAM J. Matrix Anal. Appl. 2024.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    probes = count("probes", probes, least=2)
    key = typed_key(jax.random.key(0) if key is None else key)
    at = kind_points(kind, problem, params, of)
    return Trace(*at.map(partial(estimate_trace, kind=kind, method=method, probes=probes, key=key)))


def estimate_trace(point: Point, *, kind: str, method: str, probes: int, key: jax.Array) -> tuple[np.ndarray, ...]:
    """Return the traces of a group's members and their standard errors, float64 [member]."""
    members, dimension = point.flat.shape

    def times(vectors: jax.Array) -> np.ndarray:
        """Products of every member with the same vectors [vector, P], or with its own [member, vector, P]."""
        own = jnp.broadcast_to(jnp.asarray(vectors, point.flat.dtype), (members, *np.shape(vectors)[-2:]))
        return np.asarray(products(point, kind, own), np.float64)

    if dimension <= 2 * probes:
        # float32 or float64, exactly: rows of the identity.
        diagonals = np.einsum("mii->mi", times(jnp.eye(dimension)))
        return diagonals.sum(axis=1), np.zeros(members)
    estimates = METHODS[method](times, key, probes, dimension)
    return estimates.mean(axis=1), estimates.std(axis=1, ddof=1) / np.sqrt(probes)


def _hutchinson(times: Callable[[Any], np.ndarray], key: jax.Array, probes: int, dimension: int) -> np.ndarray:
    """Estimates [member, probe]; one vector at a time, so that memory holds one."""
    parts = []
    for probe in range(probes):
        signs = jax.random.rademacher(jax.random.fold_in(key, probe), (1, dimension), jnp.float32)
        parts.append(times(signs)[:, 0] @ np.asarray(signs[0], np.float64))
    return np.stack(parts, axis=1)


def _xtrace(times: Callable[[Any], np.ndarray], key: jax.Array, probes: int, dimension: int) -> np.ndarray:
    """Leave-one-out estimates [member, probe]."""
    # The same numbers in 64-bit mode, and exact in both.
    normal = np.asarray(jax.random.normal(key, (probes, dimension), jnp.float32), np.float64)
    images = times(normal)
    finite = np.isfinite(images).all(axis=(1, 2))
    images = np.where(finite[:, None, None], images, 0)
    bases, factors = np.linalg.qr(images.transpose(0, 2, 1))
    moved = times(bases.transpose(0, 2, 1))
    each = zip(bases, factors, moved.transpose(0, 2, 1), strict=True)
    found = np.stack([xtrace_estimates(normal.T, *member) for member in each])
    found[~finite] = np.nan
    return found


def xtrace_estimates(probes: np.ndarray, basis: np.ndarray, factor: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return XTrace's leave-one-out estimates (n,) of a symmetric matrix H.

    Args:
        probes: float64 (P, n), normal numbers; each is brought to the length that its part outside of the basis is
            expected to have.
        basis: Q of H probes = Q R; and
        factor: R.
        moved: H Q.

    Reference:
        Epperly, Tropp & Webber 2024, algorithm 2.1 and section 2.3.
    """
    size, number_of = probes.shape
    inner = basis.T @ moved
    diagonal = np.abs(np.diagonal(factor))
    if diagonal.min() <= np.finfo(np.float32).eps * diagonal.max():  # the products span all of H's range
        return np.full(number_of, np.trace(inner))
    # Column i: the direction of the basis that is lost without probe i.
    lost = np.linalg.inv(factor).T
    lost /= np.linalg.norm(lost, axis=0)
    inside = basis.T @ probes
    within = inside - lost * (lost * inside).sum(axis=0)
    outside = (size - number_of + 1) / ((probes**2).sum(axis=0) - (within**2).sum(axis=0))
    low_rank = np.trace(inner) - (lost * (inner @ lost)).sum(axis=0)
    rest = (
        -((moved.T @ probes) * within).sum(axis=0)
        + (within * (inner @ within)).sum(axis=0)
        + (lost * factor).sum(axis=0) * (lost * inside).sum(axis=0)
    )
    return low_rank + outside * rest


METHODS: dict[str, Callable[..., np.ndarray]] = {"xtrace": _xtrace, "hutchinson": _hutchinson}

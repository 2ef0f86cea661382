"""Traces of curvature matrices, estimated from their products with random vectors."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key

from jaxscape.arguments import count, typed_key
from jaxscape.curvature.points import LossOptions, PerMember, Point
from jaxscape.curvature.products import Kind, kind_points, products
from jaxscape.problem import Problem

PyTree = Any
# Vectors that all members share, or own ones of each.
Vectors = Float[Array, "*members vectors parameters"] | Float[np.ndarray, "*members vectors parameters"]
Products = Float64[np.ndarray, "members vectors parameters"]
Estimates = Float64[np.ndarray, "members probes"]


class Trace(NamedTuple):
    """A trace and its standard error, or those of each member of a stack."""

    value: PerMember
    standard_error: PerMember  # 0 if the trace was computed exactly


def trace(
    problem: Problem,
    params: PyTree,
    *,
    method: str = "xtrace",
    probes: int = 20,
    kind: Kind = "hessian",
    key: jax.Array | None = None,
    **loss_options: Unpack[LossOptions],
) -> Trace:
    """Return the trace of the Hessian or of the Gauss-Newton matrix at a point.

    Args:
        problem: the problem whose loss is used.
        params: the parameters at the point; see `hessian`.
        method: "hutchinson", the mean of z^T H z over vectors of random signs, whose standard error decreases with the
            square root of `probes`; or "xtrace", which needs two products per probe, is exact on the span of the
            products and estimates the rest, so that its error decreases with the decay of the eigenvalues.
        probes: number of random vectors, at least 2. With at most twice as many parameters the trace is exact.
        kind: "hessian" or "gauss_newton".
        key: PRNG key of the probes, which are the same for every member; `jax.random.key(0)` by default.
        loss_options: the keyword arguments of `hessian`.

    Returns:
        A `Trace`. The standard error of "xtrace" is that of its leave-one-out estimates, which are not independent: it
        is a guide, not a bound.

    Raises:
        TypeError, ValueError: see `hessian` or `gauss_newton`; also for an unknown method or kind, or too few probes.

    References:
        Hutchinson, Communications in Statistics 1990. Epperly, Tropp & Webber, "XTrace: Making the most of every
        sample in stochastic trace estimation", SIAM J. Matrix Anal. Appl. 2024.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    probes = count("probes", probes, least=2)
    key = typed_key(jax.random.key(0) if key is None else key)
    at = kind_points(kind, problem, params, loss_options)
    return at.map(partial(estimate_trace, kind=kind, method=method, probes=probes, key=key))


def estimate_trace(point: Point, *, kind: str, method: str, probes: int, key: Key[Array, ""]) -> Trace:
    """Return the traces of a group's members and their standard errors."""
    members, dimension = point.flat.shape

    def times(vectors: Vectors) -> Products:
        """Return every member's products with the same vectors, or with its own."""
        own = jnp.broadcast_to(jnp.asarray(vectors, point.flat.dtype), (members, *np.shape(vectors)[-2:]))
        return np.asarray(products(point, kind, own), np.float64)

    if dimension <= 2 * probes:
        # Exact trace, from products with the rows of the identity.
        diagonals = np.einsum("mii->mi", times(jnp.eye(dimension)))
        return Trace(diagonals.sum(axis=1), np.zeros(members))
    estimates = METHODS[method](times, key, probes, dimension)
    return Trace(estimates.mean(axis=1), estimates.std(axis=1, ddof=1) / np.sqrt(probes))


def _hutchinson(times: Callable[[Vectors], Products], key: Key[Array, ""], probes: int, dimension: int) -> Estimates:
    """Return estimates, computed one vector at a time to save memory."""
    parts = []
    for probe in range(probes):
        signs = jax.random.rademacher(jax.random.fold_in(key, probe), (1, dimension), jnp.float32)
        parts.append(times(signs)[:, 0] @ np.asarray(signs[0], np.float64))
    return np.stack(parts, axis=1)


def _xtrace(times: Callable[[Vectors], Products], key: Key[Array, ""], probes: int, dimension: int) -> Estimates:
    """Return leave-one-out estimates."""
    # Drawn in float32, so that the numbers are the same in 64-bit mode.
    normal = np.asarray(jax.random.normal(key, (probes, dimension), jnp.float32), np.float64)
    images = times(normal)
    finite = np.isfinite(images).all(axis=(1, 2))
    images = np.where(finite[:, None, None], images, 0)
    bases, factors = np.linalg.qr(images.transpose(0, 2, 1))
    products_of_bases = times(bases.transpose(0, 2, 1))
    each = zip(bases, factors, products_of_bases.transpose(0, 2, 1), strict=True)
    estimates = np.stack([xtrace_estimates(normal.T, *member) for member in each])
    estimates[~finite] = np.nan
    return estimates


def xtrace_estimates(
    probes: Float64[np.ndarray, "parameters probes"],
    basis: Float64[np.ndarray, "parameters probes"],
    factor: Float64[np.ndarray, "probes probes"],
    image: Float64[np.ndarray, "parameters probes"],
) -> Float64[np.ndarray, " probes"]:
    """Return XTrace's leave-one-out estimates of the trace of a symmetric matrix H.

    Args:
        probes: normal numbers; each probe is rescaled to the expected norm of its part outside of the basis.
        basis: Q of the QR decomposition H probes = Q R.
        factor: R of the same decomposition.
        image: H Q.

    Reference:
        Epperly, Tropp & Webber 2024, algorithm 2.1 and section 2.3.
    """
    size, num_probes = probes.shape
    inner = basis.T @ image
    diagonal = np.abs(np.diagonal(factor))
    if diagonal.min() <= np.finfo(np.float32).eps * diagonal.max():  # the products span all of H's range
        return np.full(num_probes, np.trace(inner))
    # Column i: the direction that the basis loses without probe i.
    lost = np.linalg.inv(factor).T
    lost /= np.linalg.norm(lost, axis=0)
    inside = basis.T @ probes
    within = inside - lost * (lost * inside).sum(axis=0)
    outside = (size - num_probes + 1) / ((probes**2).sum(axis=0) - (within**2).sum(axis=0))
    low_rank = np.trace(inner) - (lost * (inner @ lost)).sum(axis=0)
    rest = (
        -((image.T @ probes) * within).sum(axis=0)
        + (within * (inner @ within)).sum(axis=0)
        + (lost * factor).sum(axis=0) * (lost * inside).sum(axis=0)
    )
    return low_rank + outside * rest


METHODS: dict[str, Callable[..., Estimates]] = {"xtrace": _xtrace, "hutchinson": _hutchinson}

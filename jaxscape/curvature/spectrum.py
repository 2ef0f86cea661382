"""Extreme eigenvalues and spectral densities from matrix-vector products: Lanczos with full reorthogonalisation.

Lanczos with m steps from a start vector q gives a small tridiagonal matrix T. Its eigenvalues (Ritz values) approximate
the ends of the spectrum first. The squared first components of its eigenvectors are the weights of a quadrature for the
spectral measure of q (Golub & Welsch 1969), and its mean over random starts is the spectral density (stochastic Lanczos
quadrature; Ghorbani et al. 2019).

The loop runs on the host, and each product calls a few compiled programs, since gradients of convolutions inside a
compiled loop are 60 times slower on a CPU. The basis stays on the device as one array [member, step, P].
"""

import warnings
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int64, Key

from jaxscape.arguments import count, number, typed_key
from jaxscape.curvature.points import LossOptions, PerMember, Point, Points
from jaxscape.curvature.products import Kind, kind_points, product, products
from jaxscape.problem import Problem

PyTree = Any

GRID = 1000  # number of grid points of a density

Basis = Float[Array, "members steps parameters"]
Entries = Float64[np.ndarray, "members steps"]


class Eigenpairs(NamedTuple):
    """Eigenvalues and eigenvectors of a matrix, or of that of each member of a stack."""

    values: Float64[np.ndarray, "*members pairs"]  # Rayleigh quotients of the vectors
    vectors: PyTree  # [pair, ...], for a stack [member, pair, ...]; of norm 1, zero in leaves that are not chosen
    residuals: Float64[np.ndarray, "*members pairs"]  # ||H v - value v||, within which an eigenvalue lies of the value


class Density(NamedTuple):
    """A spectral density, in which each Ritz value is a Gaussian of the same width. Its integral is 1."""

    grid: Float64[np.ndarray, "*members points"]
    values: Float64[np.ndarray, "*members points"]
    width: PerMember  # the standard deviation of the Gaussians


class Spectrum(NamedTuple):
    """Extreme eigenvalues of a matrix and its spectral density, or those of each member of a stack."""

    eigenvalues: Float64[np.ndarray, "*members k"]  # the largest, in descending order
    eigenvectors: PyTree  # [k, ...], for a stack [member, k, ...]; of norm 1, zero in leaves that are not chosen
    residuals: Float64[np.ndarray, "*members k"]  # ||H v - eigenvalue v||: an error bound of each eigenvalue
    lowest: Eigenpairs  # the smallest (most negative) eigenvalues, in ascending order
    density: Density | None  # None if probes is 0
    ritz_values: Float64[np.ndarray, "*members probes steps"] | None
    weights: Float64[np.ndarray, "*members probes steps"] | None  # with sum 1 for each probe
    steps: Int64[np.ndarray, " members"] | np.int64  # number of Lanczos steps for the eigenpairs
    dimension: int  # P, the number of chosen parameters


def hessian_spectrum(
    problem: Problem,
    params: PyTree,
    *,
    k: int = 5,
    lowest: int = 1,
    num_steps: int = 60,
    probes: int = 1,
    tolerance: float = 1e-3,
    width: float | None = None,
    kind: Kind = "hessian",
    key: jax.Array | None = None,
    **loss_options: Unpack[LossOptions],
) -> Spectrum:
    """Return the largest and smallest eigenvalues of a loss's Hessian at a point, and its spectral density.

    Args:
        problem: the problem whose loss is used.
        params: the parameters at the point; see `hessian`.
        k: number of largest eigenvalues.
        lowest: number of smallest eigenvalues, which are the most negative ones if there are any.
        num_steps: Lanczos steps per start, at most P; as many vectors of length P are held in memory.
        probes: number of random starts for the density. With 0 there is no density, and the iteration ends as soon as
            all eigenpairs have converged.
        tolerance: largest acceptable residual of an eigenpair, relative to the largest absolute eigenvalue.
        width: standard deviation of the density's Gaussians, in units of the eigenvalues; by default 1 % of the range
            of the Ritz values.
        kind: "hessian" or "gauss_newton".
        key: PRNG key of the random starts, which are the same for every member; `jax.random.key(0)` by default.
        loss_options: the keyword arguments of `hessian`.

    Returns:
        A `Spectrum`. For a repeated eigenvalue Lanczos finds one eigenvector, until rounding or a restart gives
        another. All results of a member with NaN or infinity are NaN.

    Raises:
        TypeError, ValueError: see `hessian` or `gauss_newton`; also for an unknown kind, counts below 0 (k and
            num_steps below 1), more eigenpairs than steps or parameters, or a tolerance or width that is not above 0.

    Warns:
        UserWarning: if residuals are above the tolerance after num_steps.

    References:
        Ghorbani, Krishnan & Xiao, "An investigation into neural net optimization via Hessian eigenvalue density",
        ICML 2019. Golub & Welsch, "Calculation of Gauss quadrature rules", Mathematics of Computation 1969.
    """
    k, lowest, probes = count("k", k), count("lowest", lowest, least=0), count("probes", probes, least=0)
    num_steps = count("num_steps", num_steps)
    for name, value in (("tolerance", tolerance), ("width", 1 if width is None else width)):
        if not number(name, value) > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    key = typed_key(jax.random.key(0) if key is None else key)
    at = kind_points(kind, problem, params, loss_options)
    steps = min(num_steps, at.layout.dimension)
    if k + lowest > steps:
        raise ValueError(
            f"k + lowest must be at most num_steps and the number of parameters, {steps}; got {k} + {lowest}"
        )
    measure = partial(
        measure_spectrum, kind=kind, k=k, lowest=lowest, steps=steps, probes=probes, tolerance=tolerance, key=key
    )
    pairs, scale, ritz, weights, taken = at.map(measure)
    _warn_of_residuals(pairs.residuals, scale, tolerance, steps, at)
    # Largest and smallest pairs. In exact arithmetic each is ordered; Rayleigh quotients of close ones may not be.
    high, low = (
        Eigenpairs(*jax.tree.map(lambda leaf, own=own: leaf[:, own] if at.stacked else leaf[own], tuple(pairs)))
        for own in (slice(0, k), slice(k, k + lowest))
    )
    ends = Spectrum(high.values, high.vectors, high.residuals, low, None, None, None, taken, at.layout.dimension)
    if probes == 0:
        return ends
    density = spectral_density(ritz, weights, width=width)
    return ends._replace(density=density, ritz_values=ritz, weights=weights)


def spectral_density(
    ritz_values: Float[np.ndarray, "*members probes steps"],
    weights: Float[np.ndarray, "*members probes steps"],
    *,
    width: float | None = None,
    grid: Float[np.ndarray, " points"] | None = None,
) -> Density:
    """Return the density of eigenvalues on a grid, the mean over probes of Gaussians at the Ritz values.

    Args:
        ritz_values: for one matrix, or for each member of a stack.
        weights: those of the Ritz values, with sum 1 for each probe.
        width: standard deviation of the Gaussians; by default 1 % of the range of each member's Ritz values.
        grid: where to evaluate; by default `GRID` points on each member's range, extended by 4 widths.

    Raises:
        ValueError: for other shapes, or a width that is not above 0.
    """
    values, weights = np.asarray(ritz_values, np.float64), np.asarray(weights, np.float64)
    if values.ndim < 2 or values.shape != weights.shape:
        raise ValueError(
            f"ritz_values and weights must have one shape [..., probe, step], got {values.shape} and {weights.shape}"
        )
    if width is not None and not number("width", width) > 0:
        raise ValueError(f"width must be above 0, got {width}")
    low, high = values.min(axis=(-2, -1)), values.max(axis=(-2, -1))
    # A spectrum of one value has no range: use a hundredth of the value, or of 1 if it is zero.
    spread = np.where(high > low, high - low, np.maximum(np.abs(high), 1 * (high == 0)))
    widths = np.full(low.shape, width, np.float64) if width is not None else 0.01 * spread
    if grid is None:
        ends = (low - 4 * widths, high + 4 * widths)
        grid = np.moveaxis(np.linspace(*ends, GRID), 0, -1)
    else:
        grid = np.broadcast_to(np.asarray(grid, np.float64), (*low.shape, np.size(grid)))
    density = np.zeros(grid.shape)
    for index in np.ndindex(low.shape):
        z = (grid[index][:, None] - values[index].ravel()) / widths[index]
        heights = np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * widths[index])
        density[index] = heights @ weights[index].ravel() / values.shape[-2]
    return Density(grid, density, widths[()])  # a scalar for one network


def measure_spectrum(
    point: Point, *, kind: str, k: int, lowest: int, steps: int, probes: int, tolerance: float, key: Key[Array, ""]
) -> tuple[
    Eigenpairs,
    Float64[np.ndarray, " members"],
    Float64[np.ndarray, "members probes steps"],
    Float64[np.ndarray, "members probes steps"],
    Int64[np.ndarray, " members"],
]:
    """Return a group's eigenpairs (largest, then smallest), largest absolute Ritz values, quadrature and steps.

    The arguments are those of `hessian_spectrum`.
    """
    counts = (k, lowest)
    runs = []
    for probe in range(max(probes, 1)):
        ends = counts if probe == 0 and probes == 0 else None
        run = lanczos(point, kind, jax.random.fold_in(key, probe), steps, until=ends, tolerance=tolerance)
        if probe == 0:
            pairs = _eigenpairs(point, kind, run, counts)
            taken, scale = run.diagonal.shape[1], np.abs(_quadrature(run)[0]).max(axis=1)
        runs.append(_quadrature(run))
        del run  # frees its basis before the next run
    if probes == 0:  # members end after different numbers of steps, and nothing reads the nodes
        ritz = weights = np.zeros((point.members, 0, 0))
    else:
        ritz, weights = (np.stack(parts, axis=1) for parts in zip(*runs, strict=True))
    return pairs, scale, ritz, weights, np.full(point.members, taken)


class Run(NamedTuple):
    """A Lanczos run of each member: T = Q H Q^T, with the basis Q."""

    diagonal: Entries
    off_diagonal: Entries  # the last one is the norm of the remainder outside of the basis
    basis: Basis


def lanczos(
    point: Point,
    kind: str,
    key: Key[Array, ""],
    steps: int,
    *,
    until: tuple[int, int] | None = None,
    tolerance: float = 0.0,
) -> Run:
    """Run Lanczos from a random start, with full reorthogonalisation.

    If the basis spans an invariant subspace (the next vector is zero up to rounding), the run continues with a random
    vector and an off-diagonal entry of 0. Repeated eigenvalues are thereby found, and small matrices give all of their
    eigenvalues.

    Args:
        point: the members, which are stepped together.
        kind: the kind of matrix.
        key: PRNG key of the start and of further random vectors.
        steps: number of steps, at most P.
        until: end as soon as this many of the largest and of the smallest Ritz pairs have converged for every member.
        tolerance: error bound at which a pair has converged, relative to the largest absolute Ritz value.
    """
    members, dimension = point.flat.shape
    dtype = point.flat.dtype
    basis = jnp.zeros((members, steps, dimension), dtype)
    start = jnp.broadcast_to(_normal_vector(key, dimension).astype(dtype), (members, dimension))
    basis = _place(basis, start, 0, 1 / _norm(start))
    diagonal, off_diagonal = np.zeros((members, steps)), np.zeros((members, steps))
    largest = np.zeros(members)
    for step in range(steps):
        rest, alpha, beta = _orthogonalized(basis, product(point, kind, basis[:, step]), step)
        diagonal[:, step], off_diagonal[:, step] = np.asarray(alpha), np.asarray(beta)
        largest = np.maximum(largest, np.abs(diagonal[:, step]) + off_diagonal[:, step])
        # Below the rounding error of a product: the basis spans an invariant subspace.
        ended = off_diagonal[:, step] <= 100 * float(jnp.finfo(dtype).eps) * largest
        off_diagonal[ended, step] = 0
        tridiagonal = diagonal[:, : step + 1], off_diagonal[:, : step + 1]
        if step + 1 == steps or (until is not None and _has_converged(*tridiagonal, until, tolerance)):
            break
        if ended.any():
            fresh = _normal_vector(jax.random.fold_in(key, step + 1), dimension).astype(dtype)
            fresh = _orthogonalized(basis, jnp.broadcast_to(fresh, (members, dimension)), step)[0]
            rest = jnp.where(jnp.asarray(ended)[:, None], fresh, rest)
        basis = _place(basis, rest, step + 1, 1 / _norm(rest))
    return Run(*tridiagonal, basis[:, : step + 1])


def _normal_vector(key: Key[Array, ""], dimension: int) -> Float[Array, " parameters"]:
    """Return standard normal numbers, the same in 64-bit mode."""
    return jax.random.normal(key, (dimension,), jnp.float32)


@jax.jit
def _norm(vectors: Float[Array, "members parameters"]) -> Float[Array, " members"]:
    return jnp.linalg.norm(vectors, axis=1)


@partial(jax.jit, donate_argnums=0)
def _place(
    basis: Basis,
    vectors: Float[Array, "members parameters"],
    step: int | Int[Array, ""],
    scale: Float[Array, " members"],
) -> Basis:
    """Write a scaled vector of each member into its basis, in place."""
    return jax.lax.dynamic_update_slice_in_dim(basis, (vectors * scale[:, None])[:, None], step, axis=1)


@jax.jit
def _orthogonalized(
    basis: Basis, vectors: Float[Array, "members parameters"], step: int | Int[Array, ""]
) -> tuple[Float[Array, "members parameters"], Float[Array, " members"], Float[Array, " members"]]:
    """Return vectors orthogonalised against the bases, their inner products with row `step`, and their new norms."""
    einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    row = jax.lax.dynamic_index_in_dim(basis, step, axis=1, keepdims=False)
    along = einsum("mp,mp->m", row, vectors)
    for _ in range(2):  # "twice is enough": the second pass removes the rounding errors of the first
        inside = einsum("msp,mp->ms", basis, vectors)
        vectors = vectors - einsum("msp,ms->mp", basis, inside)
    return vectors, along, _norm(vectors)


def _eigh(diagonal: Entries, off_diagonal: Entries) -> tuple[Entries, Float64[np.ndarray, "members steps steps"]]:
    """Return ascending eigenvalues of T, and eigenvectors as columns; NaN if T has NaN."""
    members, steps = diagonal.shape
    matrices = np.zeros((members, steps, steps))
    each = np.arange(steps)
    matrices[:, each, each] = diagonal
    matrices[:, each[1:], each[:-1]] = off_diagonal[:, :-1]  # eigh reads the lower triangle
    finite = np.isfinite(matrices).all(axis=(1, 2))
    matrices[~finite] = 0
    values, vectors = np.linalg.eigh(matrices)
    values[~finite], vectors[~finite] = np.nan, np.nan
    return values, vectors


def _quadrature(run: Run) -> tuple[Entries, Entries]:
    """Return the nodes and the weights of each member's quadrature."""
    values, vectors = _eigh(run.diagonal, run.off_diagonal)
    return values, vectors[:, 0] ** 2


def _ends(steps: int, counts: tuple[int, int]) -> Int64[np.ndarray, " pairs"]:
    """Return the indices of the largest values, descending, followed by those of the smallest, ascending."""
    return np.concatenate([np.arange(steps)[::-1][: counts[0]], np.arange(counts[1])])


def _has_converged(diagonal: Entries, off_diagonal: Entries, counts: tuple[int, int], tolerance: float) -> bool:
    steps = diagonal.shape[1]
    if steps < sum(counts):
        return False
    values, vectors = _eigh(diagonal, off_diagonal)
    bounds = off_diagonal[:, -1:] * np.abs(vectors[:, -1])
    limits = tolerance * np.abs(values).max(axis=1, keepdims=True)
    within = bounds[:, _ends(steps, counts)] <= limits
    # More steps do not help a member with NaN.
    return bool((within | np.isnan(values[:, :1])).all())


def _eigenpairs(point: Point, kind: str, run: Run, counts: tuple[int, int]) -> Eigenpairs:
    """Return Ritz pairs, with values and residuals computed from products with their vectors."""
    steps = run.diagonal.shape[1]
    chosen = _eigh(run.diagonal, run.off_diagonal)[1][:, :, _ends(steps, counts)]
    vectors = _combined(run.basis, jnp.asarray(chosen, run.basis.dtype))
    images = products(point, kind, vectors)
    v, hv = (np.asarray(each, np.float64) for each in (vectors, images))
    values = (v * hv).sum(axis=2) / (v * v).sum(axis=2)
    residuals = np.linalg.norm(hv - values[:, :, None] * v, axis=2)
    return Eigenpairs(values, point.layout.unflatten(vectors), residuals)


@jax.jit
def _combined(
    basis: Basis, coefficients: Float[Array, "members steps pairs"]
) -> Float[Array, "members pairs parameters"]:
    """Return combinations of basis vectors of norm 1, with the largest component positive."""
    vectors = jnp.einsum("msp,msk->mkp", basis, coefficients, precision=jax.lax.Precision.HIGHEST)
    largest = jnp.argmax(jnp.abs(vectors), axis=2, keepdims=True)
    signs = jnp.sign(jnp.take_along_axis(vectors, largest, axis=2))
    return vectors * (signs / jnp.linalg.norm(vectors, axis=2, keepdims=True))


def _warn_of_residuals(
    residuals: Float64[np.ndarray, "*members pairs"], scale: PerMember, tolerance: float, steps: int, at: Points
) -> None:
    relative = np.asarray(residuals) / np.maximum(np.asarray(scale), np.finfo(float).tiny)[..., None]
    worst = np.nanmax(relative, initial=0)
    # With P steps only rounding errors are left.
    if worst > tolerance and steps < at.layout.dimension:
        warnings.warn(
            f"num_steps: after {steps} steps an eigenpair has a residual of {worst:.1g} of the largest absolute "
            f"eigenvalue, above the tolerance {tolerance}; use more steps or a larger tolerance",
            stacklevel=3,
        )

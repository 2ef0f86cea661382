"""Eigenvalues at the ends of a spectrum, and its density, from products alone: Lanczos with full reorthogonalisation.

A run of m steps from a start q gives a small tridiagonal matrix T. Its eigenvalues (Ritz values) approach the ends of
the spectrum first; the squares of the first components of its eigenvectors are weights of a quadrature for the
distribution of the eigenvalues as q sees it (Golub & Welsch 1969), and the mean over random starts is the density
(stochastic Lanczos quadrature; Ghorbani et al. 2019).

The loop runs on the host, and each product is a few compiled programs: inside of a compiled loop gradients of
convolutions are 60 times slower on a CPU. The basis stays on the device, one array [member, step, P].
"""

import warnings
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import count, number, typed_key
from jaxscape.curvature.points import LossOptions, Point, Points
from jaxscape.curvature.products import Kind, kind_points, product, products
from jaxscape.problem import Problem

PyTree = Any

GRID = 1000  # points of a density


class Eigenpairs(NamedTuple):
    """Eigenvalues with their vectors, [member, pair] where they are of a stack."""

    values: np.ndarray  # float64 [pair], Rayleigh quotients of the vectors
    vectors: PyTree  # [pair, ...], of length 1; zero in leaves that are not chosen
    residuals: np.ndarray  # float64 [pair], ||H v - value v||: an eigenvalue lies no farther than that from the value


class Density(NamedTuple):
    """A density of eigenvalues: each Ritz value is a Gaussian of one width. Its integral is 1."""

    grid: np.ndarray  # float64 [point]
    values: np.ndarray  # float64 [point]
    width: np.ndarray  # float64 [], the standard deviation of the Gaussians


class Spectrum(NamedTuple):
    """The ends of a spectrum and its density; of a stack every array has a leading member axis."""

    eigenvalues: np.ndarray  # float64 [k], the largest, in descending order
    eigenvectors: PyTree  # [k, ...], of length 1; zero in leaves that are not chosen
    residuals: np.ndarray  # float64 [k], ||H v - eigenvalue v||: an error bound of each eigenvalue
    lowest: Eigenpairs  # the smallest (most negative) ones, in ascending order
    density: Density | None  # None where probes is 0
    ritz_values: np.ndarray | None  # float64 [probe, step]
    weights: np.ndarray | None  # float64 [probe, step], of each probe their sum is 1
    steps: np.ndarray  # int [], Lanczos steps of the eigenpairs
    dimension: int  # P


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
    **of: Unpack[LossOptions],
) -> Spectrum:
    """Return the largest and the smallest eigenvalues of a loss's Hessian at a point, and the density of all.

    Args:
        problem: whose loss it is; likewise
        params: the point, as `hessian` takes them.
        k: how many of the largest eigenvalues.
        lowest: how many of the smallest, which are the most negative ones where there are any.
        num_steps: Lanczos steps of each start, at most P; so many vectors of P numbers are held.
        probes: random starts of the density. With 0 there is none, and the steps end as soon as all eigenpairs have
            converged.
        tolerance: the residual that an eigenpair may have, as a share of the largest absolute eigenvalue.
        width: of the density's Gaussians, a standard deviation in units of the eigenvalues; by default 1 % of the
            range of the Ritz values.
        kind: "hessian" or "gauss_newton".
        key: of the random starts, the same ones for every member; `jax.random.key(0)` by default.
        of: the keyword arguments of `hessian`.

    Returns:
        A `Spectrum`. Of an eigenvalue with several eigenvectors Lanczos sees one, until rounding or a new start shows
        another. A member with NaN or infinity has NaN for everything.

    Raises:
        TypeError, ValueError: as `hessian` or `gauss_newton`; for an unknown kind, counts below 0 (of k, num_steps
            below 1), more eigenpairs than steps or parameters, or a tolerance or width that is not above 0.

    Warns:
        UserWarning: where residuals are above the tolerance after num_steps.

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
    at = kind_points(kind, problem, params, of)
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
    # Exact arithmetic would have these in order; Rayleigh quotients of near ones may not be.
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
    ritz_values: np.ndarray, weights: np.ndarray, *, width: float | None = None, grid: np.ndarray | None = None
) -> Density:
    """Return the density of eigenvalues on a grid, the mean over probes of Gaussians at the Ritz values.

    Args:
        ritz_values: float [..., probe, step]; the axes before are members.
        weights: likewise, of each probe with the sum 1.
        width: standard deviation of the Gaussians; by default 1 % of the range of the Ritz values, of each member.
        grid: float [point], where to evaluate; by default `GRID` points of each member's range and 4 widths beyond.

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
    # A spectrum of one value has no range: a hundredth of the value, or of 1, shows it.
    spread = np.where(high > low, high - low, np.maximum(np.abs(high), 1 * (high == 0)))
    widths = np.full(low.shape, width, np.float64) if width is not None else 0.01 * spread
    if grid is None:
        ends = (low - 4 * widths, high + 4 * widths)
        grid = np.moveaxis(np.linspace(*ends, GRID), 0, -1)
    else:
        grid = np.broadcast_to(np.asarray(grid, np.float64), (*low.shape, np.size(grid)))
    found = np.zeros(grid.shape)
    for place in np.ndindex(low.shape):
        away = (grid[place][:, None] - values[place].ravel()) / widths[place]
        heights = np.exp(-0.5 * away**2) / (np.sqrt(2 * np.pi) * widths[place])
        found[place] = heights @ weights[place].ravel() / values.shape[-2]
    return Density(grid, found, widths)


def measure_spectrum(
    point: Point, *, kind: str, k: int, lowest: int, steps: int, probes: int, tolerance: float, key: jax.Array
) -> tuple[Eigenpairs, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a group's eigenpairs (the largest, then the smallest), largest absolute Ritz values, quadrature and steps.

    The arguments are those of `hessian_spectrum`.
    """
    wanted = (k, lowest)
    runs = []
    for probe in range(max(probes, 1)):
        ends = wanted if probe == 0 and probes == 0 else None
        run = lanczos(point, kind, jax.random.fold_in(key, probe), steps, until=ends, tolerance=tolerance)
        if probe == 0:
            pairs = _eigenpairs(point, kind, run, wanted)
            taken, scale = run.diagonal.shape[1], np.abs(_eigh(run)[0]).max(axis=1)
        runs.append(_quadrature(run))
        del run  # and its basis, before the next one
    ritz, weights = (np.stack(parts, axis=1) for parts in zip(*runs, strict=True))
    return pairs, scale, ritz, weights, np.full(point.members, taken)


class Run(NamedTuple):
    """A Lanczos run of each member: T = Q H Q^T, with Q the basis."""

    diagonal: np.ndarray  # float64 [member, step]
    off_diagonal: np.ndarray  # float64 [member, step]; the last is the norm of what the basis lacks
    basis: jax.Array  # [member, step, P]


def lanczos(
    point: Point,
    kind: str,
    key: jax.Array,
    steps: int,
    *,
    until: tuple[int, int] | None = None,
    tolerance: float = 0.0,
) -> Run:
    """Run Lanczos from a random start, with full reorthogonalisation.

    Where a basis is complete in itself (its next vector is zero up to rounding) a random vector goes on, with an
    off-diagonal 0: so that repeated eigenvalues are found, and small matrices end with all of theirs.

    Args:
        point: of the members, which take their steps together.
        kind: of the matrix.
        key: of the start, and of those that follow it.
        steps: at most P.
        until: end as soon as so many of the largest and of the smallest Ritz pairs have converged, for every member.
        tolerance: the error bound at which one has, as a share of the largest absolute Ritz value.
    """
    members, dimension = point.flat.shape
    dtype = point.flat.dtype
    basis = jnp.zeros((members, steps, dimension), dtype)
    start = jnp.broadcast_to(_drawn(key, dimension).astype(dtype), (members, dimension))
    basis = _place(basis, start, 0, 1 / _norm(start))
    diagonal, off_diagonal = np.zeros((members, steps)), np.zeros((members, steps))
    largest = np.zeros(members)
    for step in range(steps):
        rest, alpha, beta = _orthogonalized(basis, product(point, kind, basis[:, step]), step)
        diagonal[:, step], off_diagonal[:, step] = np.asarray(alpha), np.asarray(beta)
        largest = np.maximum(largest, np.abs(diagonal[:, step]) + off_diagonal[:, step])
        # Less than rounding leaves of a product: the basis holds all that the start reaches.
        ended = off_diagonal[:, step] <= 100 * float(jnp.finfo(dtype).eps) * largest
        off_diagonal[ended, step] = 0
        run = Run(diagonal[:, : step + 1], off_diagonal[:, : step + 1], basis)
        if step + 1 == steps or (until is not None and _has_converged(run, until, tolerance)):
            break
        if ended.any():
            fresh = _drawn(jax.random.fold_in(key, step + 1), dimension).astype(dtype)
            fresh = _orthogonalized(basis, jnp.broadcast_to(fresh, (members, dimension)), step)[0]
            rest = jnp.where(jnp.asarray(ended)[:, None], fresh, rest)
        basis = _place(basis, rest, step + 1, 1 / _norm(rest))
    return run._replace(basis=basis)


def _drawn(key: jax.Array, dimension: int) -> jax.Array:
    """Standard normal numbers (P,), the same ones in 64-bit mode."""
    return jax.random.normal(key, (dimension,), jnp.float32)


@jax.jit
def _norm(vectors: jax.Array) -> jax.Array:
    return jnp.linalg.norm(vectors, axis=1)


@partial(jax.jit, donate_argnums=0)
def _place(basis: jax.Array, vectors: jax.Array, step: int, scale: jax.Array) -> jax.Array:
    """Put a vector of each member, times a number, into its basis, in place."""
    return jax.lax.dynamic_update_slice_in_dim(basis, (vectors * scale[:, None])[:, None], step, axis=1)


@jax.jit
def _orthogonalized(basis: jax.Array, vectors: jax.Array, step: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Vectors without what lies in the bases, their products with row `step`, and their remaining norms."""
    einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    row = jax.lax.dynamic_index_in_dim(basis, step, axis=1, keepdims=False)
    along = einsum("mp,mp->m", row, vectors)
    for _ in range(2):  # twice is enough: what the first pass leaves is rounding of it
        inside = einsum("msp,mp->ms", basis, vectors)
        vectors = vectors - einsum("msp,ms->mp", basis, inside)
    return vectors, along, _norm(vectors)


def _eigh(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [member, step], ascending, and eigenvectors [member, step, pair] of T; NaN where T has any."""
    steps = run.diagonal.shape[1]
    matrices = np.zeros((len(run.diagonal), steps, steps))
    each = np.arange(steps)
    matrices[:, each, each] = run.diagonal
    matrices[:, each[1:], each[:-1]] = run.off_diagonal[:, :-1]  # eigh reads the lower triangle
    finite = np.isfinite(matrices).all(axis=(1, 2))
    matrices[~finite] = 0
    values, vectors = np.linalg.eigh(matrices)
    values[~finite], vectors[~finite] = np.nan, np.nan
    return values, vectors


def _quadrature(run: Run) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = _eigh(run)
    return values, vectors[:, 0] ** 2


def _ends(steps: int, wanted: tuple[int, int]) -> np.ndarray:
    """Places of the largest values, descending, and then of the smallest, ascending."""
    return np.concatenate([np.arange(steps)[::-1][: wanted[0]], np.arange(wanted[1])])


def _has_converged(run: Run, wanted: tuple[int, int], tolerance: float) -> bool:
    steps = run.diagonal.shape[1]
    if steps < sum(wanted):
        return False
    values, vectors = _eigh(run)
    bounds = run.off_diagonal[:, -1:] * np.abs(vectors[:, -1])
    limits = tolerance * np.abs(values).max(axis=1, keepdims=True)
    within = bounds[:, _ends(steps, wanted)] <= limits
    # A member with NaN gets nothing from more steps.
    return bool((within | np.isnan(values[:, :1])).all())


def _eigenpairs(point: Point, kind: str, run: Run, wanted: tuple[int, int]) -> Eigenpairs:
    """Ritz pairs with their values and residuals as the products give them."""
    steps = run.diagonal.shape[1]
    chosen = _eigh(run)[1][:, :, _ends(steps, wanted)]
    vectors = _combined(run.basis[:, :steps], jnp.asarray(chosen, run.basis.dtype))
    moved = products(point, kind, vectors)
    v, hv = (np.asarray(each, np.float64) for each in (vectors, moved))
    values = (v * hv).sum(axis=2) / (v * v).sum(axis=2)
    residuals = np.linalg.norm(hv - values[:, :, None] * v, axis=2)
    return Eigenpairs(values, point.layout.unflatten(vectors), residuals)


@jax.jit
def _combined(basis: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Sums of basis vectors [member, pair, P] of length 1, the component of largest absolute value positive."""
    vectors = jnp.einsum("msp,msk->mkp", basis, coefficients, precision=jax.lax.Precision.HIGHEST)
    largest = jnp.argmax(jnp.abs(vectors), axis=2, keepdims=True)
    signs = jnp.sign(jnp.take_along_axis(vectors, largest, axis=2))
    return vectors * (signs / jnp.linalg.norm(vectors, axis=2, keepdims=True))


def _warn_of_residuals(residuals: np.ndarray, scale: np.ndarray, tolerance: float, steps: int, at: Points) -> None:
    shares = np.asarray(residuals) / np.maximum(np.asarray(scale), np.finfo(float).tiny)[..., None]
    worst = np.nanmax(shares, initial=0)
    # With the whole space taken, rounding is all that is left.
    if worst > tolerance and steps < at.layout.dimension:
        warnings.warn(
            f"num_steps: after {steps} steps an eigenpair has a residual of {worst:.1g} of the largest absolute "
            f"eigenvalue, above the tolerance {tolerance}; take more steps, or a larger tolerance",
            stacklevel=3,
        )

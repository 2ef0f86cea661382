"""Measures of sharpness at a point; each is a record of its name, formula, reference, unit and options.

Perturbations e are measured relative to a scale s of each parameter: 1 (a ball or Gaussian in the parameters
themselves), the magnitude |w| of the parameter ("adaptive", element by element), or the norm of the filter that
contains it ("filter"). The last two are invariant to the scale of a filter before batch norm. For biases and other
parameters outside of filters, the filter scale is |w|, as in ASAM.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key

from jaxscape.arguments import count, finite_number, typed_key
from jaxscape.curvature.points import LossOptions, PerMember, Point, Points, points
from jaxscape.curvature.products import product
from jaxscape.curvature.spectrum import hessian_spectrum
from jaxscape.curvature.traces import trace
from jaxscape.jumps.filters import leaf_filters
from jaxscape.problem import Problem

PyTree = Any
Scale = Literal["one", "element", "filter"]
# Of each member: the estimate of a number, and its standard error.
Estimates = tuple[Float64[np.ndarray, " members"], Float64[np.ndarray, " members"]]

MAX_SIGMA = 1e6  # the search ends beyond this sigma: the loss does not depend on the perturbation
RELATIVE_TOLERANCE = 1e-3  # relative width at which the bisection for sigma ends


class Sharpness(NamedTuple):
    """A measure of sharpness at a point, or at those of a stack."""

    value: PerMember
    standard_error: PerMember | None  # None for measures without random numbers
    kind: str


class Kind(NamedTuple):
    """A measure of sharpness."""

    name: str
    formula: str
    reference: str
    unit: str
    options: Mapping[str, Any]  # name -> default
    measure: Callable[..., tuple[Any, Any]]  # (problem, params, loss_options, key, **options) -> value, standard error


def sharpness(
    problem: Problem,
    params: PyTree,
    *,
    kind: str,
    radius: float | None = None,
    steps: int | None = None,
    sigma: float | None = None,
    draws: int | None = None,
    target: float | None = None,
    metric: str | None = None,
    probes: int | None = None,
    key: jax.Array | None = None,
    **loss_options: Unpack[LossOptions],
) -> Sharpness:
    """Return one measure of the sharpness of a loss at a point.

    Args:
        problem: the problem whose loss is measured.
        params: the parameters at the point; see `hessian`.
        kind: the name of a record in `SHARPNESS`, which gives the formula and says which of the following options it
            takes.
        radius: radius of the ball, in units of the scale.
        steps: number of ascent steps; 1 is the single step of SAM or ASAM.
        sigma: standard deviation of the perturbation, in units of the scale.
        draws: number of pairs of opposite perturbations e and -e, the same for every member and every sigma; at least
            2.
        target: the rise of the loss or error that the largest sigma may cause.
        metric: the quantity that rises: "loss", or "accuracy" for the error 1 - accuracy.
        probes: number of probes for the estimate of a trace, at least 2.
        key: PRNG key of all random numbers; `jax.random.key(0)` by default.
        loss_options: the keyword arguments of `hessian`.

    Raises:
        TypeError, ValueError: see `hessian`; also if kind is unknown, an option is out of range or not one of this
            kind, or, for "relative_flatness", if leaves are not one weight array.
    """
    if kind not in SHARPNESS:
        raise ValueError(f"kind must be one of {', '.join(SHARPNESS)}, got {kind!r}")
    record = SHARPNESS[kind]
    given = {
        "radius": radius,
        "steps": steps,
        "sigma": sigma,
        "draws": draws,
        "target": target,
        "metric": metric,
        "probes": probes,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := given.keys() - record.options.keys():
        known = ", ".join(record.options) or "none"
        raise ValueError(f"kind {kind!r} takes the options {known}; got {', '.join(sorted(unknown))}")
    options = {**record.options, **given}
    for name in ("radius", "sigma", "target"):
        if name in options and not finite_number(name, options[name]) > 0:
            raise ValueError(f"{name} must be above 0, got {options[name]}")
    for name, least in (("steps", 1), ("draws", 2), ("probes", 2)):
        if name in options:
            count(name, options[name], least=least)
    key = typed_key(jax.random.key(0) if key is None else key)
    value, error = record.measure(problem, params, loss_options, key, **options)
    return Sharpness(np.asarray(value, np.float64)[()], None if error is None else np.asarray(error)[()], kind)


def _scales_of(scale: Scale, problem: Problem, at: Points) -> Callable[[Point], Float[Array, "members parameters"]]:
    """Return a function that gives the scale of each parameter of a group's members."""
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(at.layout.shapes, at.layout.dtypes, strict=True)
    ]
    form = jax.tree.unflatten(at.layout.treedef, shapes)
    filters = leaf_filters(form, problem.filter_axis, True, None) if scale == "filter" else []
    chosen = [over for over, is_chosen in zip(filters, at.layout.chosen, strict=False) if is_chosen]
    chosen_shapes = [shape for shape, is_chosen in zip(at.layout.shapes, at.layout.chosen, strict=True) if is_chosen]

    def of_group(point: Point) -> Float[Array, "members parameters"]:
        if scale == "one":
            return jnp.ones_like(point.flat)
        if scale == "element":
            return jnp.abs(point.flat)
        leaves = jnp.split(point.flat, np.cumsum(at.layout.sizes)[:-1], axis=1)
        parts = []
        for leaf, shape, over in zip(leaves, chosen_shapes, chosen, strict=True):
            if not over:
                parts.append(jnp.abs(leaf))
                continue
            full = leaf.reshape(-1, *shape)
            axes = tuple(axis + 1 for axis in over)
            lengths = jnp.sqrt(jnp.sum(jnp.square(full), axis=axes, keepdims=True))
            parts.append(jnp.broadcast_to(lengths, full.shape).reshape(leaf.shape))
        return jnp.concatenate(parts, axis=1)

    return of_group


def _worst_case(scale: Scale) -> Callable[..., tuple[PerMember, None]]:
    def measure(
        problem: Problem,
        params: PyTree,
        loss_options: LossOptions,
        key: Key[Array, ""],
        *,
        radius: float,
        steps: int,
    ) -> tuple[PerMember, None]:
        at = points(problem, params, loss_options)
        scales = _scales_of(scale, problem, at)
        return at.map(lambda point: _ascent(point, scales(point), key, radius, steps)), None

    return measure


def _ascent(
    point: Point, scale: Float[Array, "members parameters"], key: Key[Array, ""], radius: float, steps: int
) -> Float64[np.ndarray, " members"]:
    """Return the largest rise of each member's loss along a gradient ascent in a ball.

    Each step goes to the point of the ball at which the linearisation at the last point is largest (Frank-Wolfe with
    full steps). The first step is that of SAM; for a quadratic loss the steps are a power iteration, which converges to
    the maximum.
    """
    start = point.loss()
    best = np.full(point.members, -np.inf)
    fallback = jax.random.normal(key, point.flat.shape[1:], point.flat.dtype)
    perturbed = point.flat
    for _ in range(steps):
        perturbed = point.flat + _ascent_step(point.gradient(perturbed), scale, fallback, radius)
        # NaN and infinity are not excluded: a loss that overflows in the ball is maximally sharp.
        best = np.maximum(best, point.loss(perturbed))
    return best - start


@jax.jit
def _ascent_step(
    gradient: Float[Array, "members parameters"],
    scale: Float[Array, "members parameters"],
    fallback: Float[Array, " parameters"],
    radius: float | Float[Array, ""],
) -> Float[Array, "members parameters"]:
    """Return the e that maximises <gradient, e> for ||e / scale|| <= radius; for a zero gradient, a random e."""
    along = scale * gradient
    along = jnp.where(jnp.any(along != 0, axis=1, keepdims=True), along, fallback[None] * (scale > 0))
    # Divide by the largest component first, since squares of small gradients would underflow.
    along = along / jnp.maximum(jnp.max(jnp.abs(along), axis=1, keepdims=True), jnp.finfo(along.dtype).tiny)
    length = jnp.linalg.norm(along, axis=1, keepdims=True)
    return radius * scale * along / jnp.where(length > 0, length, 1)


def _average_case(scale: Scale) -> Callable[..., tuple[PerMember, PerMember]]:
    def measure(
        problem: Problem,
        params: PyTree,
        loss_options: LossOptions,
        key: Key[Array, ""],
        *,
        sigma: float,
        draws: int,
    ) -> tuple[PerMember, PerMember]:
        at = points(problem, params, loss_options)
        scales = _scales_of(scale, problem, at)

        def of_group(point: Point) -> Estimates:
            sigmas = np.full(point.members, sigma)
            return _mean_and_error(_rises(point, scales(point), key, sigmas, draws, "loss"))

        return at.map(of_group)

    return measure


def _normal_vectors(key: Key[Array, ""], draws: int, point: Point) -> Iterator[Float[Array, " parameters"]]:
    """Yield standard normal vectors, the same in float32 and float64."""
    for draw in range(draws):
        yield jax.random.normal(jax.random.fold_in(key, draw), point.flat.shape[1:], jnp.float32)


def _rises(
    point: Point,
    scale: Float[Array, "members parameters"],
    key: Key[Array, ""],
    sigmas: Float64[np.ndarray, " members"],
    draws: int,
    metric: str,
) -> Float64[np.ndarray, "members draws"]:
    """Return the rises of the loss or of the error, as means over e and -e of each draw."""
    sign = -1 if metric == "accuracy" else 1
    start = point.metric(metric)
    lengths = jnp.asarray(sigmas, point.flat.dtype)[:, None]
    rises = []
    for normal in _normal_vectors(key, draws, point):
        perturbation = lengths * scale * normal[None]
        plus, minus = (point.metric(metric, point.flat + e) for e in (perturbation, -perturbation))
        rises.append(sign * ((plus + minus) / 2 - start))
    return np.stack(rises, axis=1)


def _mean_and_error(estimates: Float64[np.ndarray, "members draws"]) -> Estimates:
    return estimates.mean(axis=1), estimates.std(axis=1, ddof=1) / np.sqrt(estimates.shape[1])


def _pac_bayes(scale: Scale) -> Callable[..., tuple[PerMember, PerMember]]:
    def measure(
        problem: Problem,
        params: PyTree,
        loss_options: LossOptions,
        key: Key[Array, ""],
        *,
        target: float,
        draws: int,
        metric: str,
    ) -> tuple[PerMember, PerMember]:
        at = points(problem, params, loss_options)
        scales = _scales_of(scale, problem, at)
        return at.map(lambda point: _largest_sigma(point, scales(point), key, target, draws, metric))

    return measure


def _largest_sigma(
    point: Point,
    scale: Float[Array, "members parameters"],
    key: Key[Array, ""],
    target: float,
    draws: int,
    metric: str,
) -> Estimates:
    """Return each member's sigma at which the mean rise equals the target, and its standard error.

    The same draws are used for every sigma, so that the mean rise is a function of sigma, assumed to be increasing.
    Sigma is doubled or halved until it brackets the target, and then bisected on a logarithmic scale.
    """

    def rises(sigmas: Float64[np.ndarray, " members"]) -> Float64[np.ndarray, "members draws"]:
        return _rises(point, scale, key, sigmas, draws, metric)

    sigma, low, high = (np.full(point.members, value) for value in (0.01, 0.0, np.inf))
    while True:
        within = rises(sigma).mean(axis=1) <= target  # False for NaN
        low, high = np.where(within, sigma, low), np.where(within, high, sigma)
        is_done = (high <= low * (1 + RELATIVE_TOLERANCE)) | (low > MAX_SIGMA) | (high < 1 / MAX_SIGMA)
        if is_done.all():
            break
        with np.errstate(invalid="ignore"):  # 0 * inf, in entries that are not selected
            middle = np.sqrt(low * high)
        next_sigma = np.where(np.isinf(high), 2 * sigma, np.where(low == 0, sigma / 2, middle))
        sigma = np.where(is_done, sigma, next_sigma)
    is_bracketed = (low > 0) & np.isfinite(high)
    sigma = np.sqrt(np.where(is_bracketed, low * high, 1))
    error = _mean_and_error(rises(sigma))[1]
    slope = (rises(1.02 * sigma).mean(axis=1) - rises(0.98 * sigma).mean(axis=1)) / (0.04 * sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(slope > 0, error / slope, np.nan)
    # Above the target at every sigma: 0, or NaN if the loss at the point is not finite. Always below it: infinity.
    unbracketed = np.where(np.isfinite(high), np.where(np.isfinite(point.metric(metric)), 0, np.nan), np.inf)
    return np.where(is_bracketed, sigma, unbracketed), np.where(is_bracketed, errors, np.nan)


def _relative_flatness(
    problem: Problem, params: PyTree, loss_options: LossOptions, key: Key[Array, ""], *, probes: int
) -> tuple[PerMember, PerMember]:
    at = points(problem, params, loss_options)
    names = at.layout.names
    shapes = [shape for shape, is_chosen in zip(at.layout.shapes, at.layout.chosen, strict=True) if is_chosen]
    if len(names) != 1 or len(shapes[0]) < 2:
        raise ValueError(
            "relative_flatness is defined for one layer: leaves must choose one weight array of two axes or more, such "
            f"as 'head/kernel', got {', '.join(names[:5])}"
        )
    form = jax.tree.unflatten(
        at.layout.treedef,
        [jax.ShapeDtypeStruct(*each) for each in zip(at.layout.shapes, at.layout.dtypes, strict=True)],
    )
    within = leaf_filters(form, problem.filter_axis, False, None)[at.layout.chosen.index(True)]
    assert within is not None
    outputs = tuple(axis for axis in range(len(shapes[0])) if axis not in within)
    order = (*outputs, *within)
    rows = int(np.prod([shapes[0][axis] for axis in outputs]))

    def of_group(point: Point) -> Estimates:
        return _layer_flatness(point, key, probes, shapes[0], order, rows)

    return at.map(of_group)


def _layer_flatness(
    point: Point, key: Key[Array, ""], probes: int, shape: tuple[int, ...], order: tuple[int, ...], rows: int
) -> Estimates:
    """Estimate the sum over neurons i, j of <w_i, w_j> tr H_ij as the trace of R H R with R = (W W^T)^(1/2)."""
    members = point.members
    weights = np.asarray(point.flat, np.float64).reshape(members, *shape)
    matrices = weights.transpose(0, *(axis + 1 for axis in order)).reshape(members, rows, -1)
    values, vectors = np.linalg.eigh(matrices @ matrices.transpose(0, 2, 1))
    roots = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1)
    inner = [shape[axis] for axis in order]
    inverse = np.argsort(order)
    estimates = []
    for probe in range(probes):
        signs = np.asarray(
            jax.random.rademacher(jax.random.fold_in(key, probe), matrices.shape[1:], jnp.float32), np.float64
        )
        mixed = (roots @ signs).reshape(members, *inner).transpose(0, *(axis + 1 for axis in inverse))
        vector = jnp.asarray(mixed.reshape(members, -1), point.flat.dtype)
        estimates.append(
            np.sum(np.asarray(vector, np.float64) * np.asarray(product(point, "hessian", vector), np.float64), axis=1)
        )
    return _mean_and_error(np.stack(estimates, axis=1))


def _trace(
    problem: Problem, params: PyTree, loss_options: LossOptions, key: Key[Array, ""], *, probes: int
) -> tuple[PerMember, PerMember]:
    return trace(problem, params, probes=probes, key=key, **loss_options)


def _top_eigenvalue(
    problem: Problem, params: PyTree, loss_options: LossOptions, key: Key[Array, ""], *, steps: int
) -> tuple[PerMember, None]:
    spectrum = hessian_spectrum(problem, params, k=1, lowest=0, num_steps=steps, probes=0, key=key, **loss_options)
    return spectrum.eigenvalues[..., 0][()], None  # a scalar for one network


_SAM = "Foret et al., ICLR 2021 (steps=1)"
_ASAM = "Kwon et al., ICML 2021 (steps=1)"
_ANDRIUSHCHENKO = "Andriushchenko et al., ICML 2023"
_JIANG = "Jiang et al., ICLR 2020"
_BALL: dict[str, Any] = {"radius": 0.05, "steps": 20}
_RELATIVE_BALL: dict[str, Any] = {"radius": 0.5, "steps": 20}
_GAUSSIAN: dict[str, Any] = {"sigma": 0.01, "draws": 20}
_BOUND: dict[str, Any] = {"target": 0.1, "draws": 20, "metric": "loss"}

_KINDS = (
    Kind(
        "worst_case",
        "max of L(w + e) - L(w) over ||e|| <= radius",
        f"{_SAM}; {_ANDRIUSHCHENKO}",
        "loss",
        _BALL,
        _worst_case("one"),
    ),
    Kind(
        "worst_case_adaptive",
        "max of L(w + e) - L(w) over ||e / |w| || <= radius",
        f"{_ASAM}; {_ANDRIUSHCHENKO}",
        "loss",
        _RELATIVE_BALL,
        _worst_case("element"),
    ),
    Kind(
        "worst_case_filter",
        "max of L(w + e) - L(w) over ||e / ||filter|| || <= radius",
        f"{_ASAM}, filter-wise",
        "loss",
        _BALL,
        _worst_case("filter"),
    ),
    Kind(
        "average_case",
        "mean of L(w + e) - L(w), e normal with deviation sigma",
        _ANDRIUSHCHENKO,
        "loss",
        _GAUSSIAN,
        _average_case("one"),
    ),
    Kind(
        "average_case_adaptive",
        "mean of L(w + e) - L(w), e normal with deviation sigma |w|",
        _ANDRIUSHCHENKO,
        "loss",
        {**_GAUSSIAN, "sigma": 0.1},
        _average_case("element"),
    ),
    Kind(
        "average_case_filter",
        "mean of L(w + e) - L(w), e normal with deviation sigma ||filter||",
        f"{_ANDRIUSHCHENKO}, filter-wise",
        "loss",
        {**_GAUSSIAN, "sigma": 0.003},
        _average_case("filter"),
    ),
    Kind(
        "pac_bayes",
        "largest sigma with mean of L(w + e) - L(w) <= target, e normal with deviation sigma",
        f"{_JIANG} (their measure is 1 / sigma^2)",
        "parameters",
        _BOUND,
        _pac_bayes("one"),
    ),
    Kind(
        "pac_bayes_adaptive",
        "largest sigma with mean of L(w + e) - L(w) <= target, e normal with deviation sigma |w|",
        f"{_JIANG}, magnitude-aware (their measure is 1 / sigma^2)",
        "fraction of |w|",
        _BOUND,
        _pac_bayes("element"),
    ),
    Kind(
        "relative_flatness",
        "sum over neurons i, j of one layer of <w_i, w_j> tr(H_ij)",
        "Petzka et al., NeurIPS 2021",
        "loss",
        {"probes": 20},
        _relative_flatness,
    ),
    Kind("trace", "tr(H), by XTrace", "Epperly et al., SIMAX 2024", "loss / parameters^2", {"probes": 20}, _trace),
    Kind(
        "top_eigenvalue",
        "largest eigenvalue of H, by Lanczos",
        "Keskar et al., ICLR 2017; Jastrzebski et al., 2018",
        "loss / parameters^2",
        {"steps": 60},
        _top_eigenvalue,
    ),
)

SHARPNESS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}

"""How sharp a point is: every measure a record of its name, formula, reference, unit and options.

Perturbations e are measured against a scale s of each parameter: 1 (a ball, or a Gaussian, of the parameters as they
are), the parameter's own size |w| ("adaptive", element by element), or the norm of the filter that holds it ("filter").
The last two do not change when a filter before batch norm is scaled. With biases, and whatever else is in no filter,
the filter's scale is |w|, as in ASAM.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import count, finite_number, typed_key
from jaxscape.curvature.points import LossOptions, Point, Points, points
from jaxscape.curvature.products import product
from jaxscape.curvature.spectrum import hessian_spectrum
from jaxscape.curvature.traces import trace
from jaxscape.jumps.filters import leaf_filters
from jaxscape.problem import Problem

PyTree = Any
Scale = Literal["one", "element", "filter"]

LARGEST = 1e6  # a sigma beyond which the search ends: the loss does not feel it
PRECISE = 1e-3  # relative width at which the bisection for sigma ends


class Sharpness(NamedTuple):
    """A measure at a point; of a stack value and standard error are [member]."""

    value: np.ndarray  # float64 []
    standard_error: np.ndarray | None  # float64 []; None where nothing is drawn
    kind: str


class Kind(NamedTuple):
    """A measure of sharpness."""

    name: str
    formula: str
    reference: str
    unit: str
    options: Mapping[str, Any]  # with their defaults
    measure: Callable[..., tuple[Any, Any]]  # (problem, params, of, key, **options) -> (value, standard error)


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
    **of: Unpack[LossOptions],
) -> Sharpness:
    """Return one measure of the sharpness of a loss at a point.

    Args:
        problem: whose loss it is; likewise
        params: the point, as `hessian` takes them.
        kind: the name of a record of `SHARPNESS`, which says what it measures and which of these options it takes:
        radius: of the ball, in units of the scale.
        steps: of the ascent; 1 is the single step of SAM or ASAM.
        sigma: standard deviation of the perturbation, in units of the scale.
        draws: pairs of opposite perturbations e and -e, the same ones for every member and every sigma; at least 2.
        target: the rise that the largest sigma may cause, of the loss or of the error.
        metric: what rises: "loss", or "accuracy" for the error 1 - accuracy.
        probes: of the estimate of a trace, at least 2.
        key: of everything that is drawn; `jax.random.key(0)` by default.
        of: the keyword arguments of `hessian`.

    Raises:
        TypeError, ValueError: as `hessian`; for an unknown kind, an option that the kind does not take, or one that is
            out of range; for "relative_flatness", leaves that are not one matrix.
    """
    if kind not in SHARPNESS:
        raise ValueError(f"kind must be one of {', '.join(SHARPNESS)}, got {kind!r}")
    found = SHARPNESS[kind]
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
    if foreign := given.keys() - found.options.keys():
        known = ", ".join(found.options) or "none"
        raise ValueError(f"kind {kind!r} takes the options {known}; got {', '.join(sorted(foreign))}")
    options = {**found.options, **given}
    for name in ("radius", "sigma", "target"):
        if name in options and not finite_number(name, options[name]) > 0:
            raise ValueError(f"{name} must be above 0, got {options[name]}")
    for name, least in (("steps", 1), ("draws", 2), ("probes", 2)):
        if name in options:
            count(name, options[name], least=least)
    key = typed_key(jax.random.key(0) if key is None else key)
    value, error = found.measure(problem, params, of, key, **options)
    return Sharpness(np.asarray(value, np.float64)[()], None if error is None else np.asarray(error)[()], kind)


def _scaled(scale: Scale, problem: Problem, at: Points) -> Callable[[Point], jax.Array]:
    """The scale of each parameter of a group's members [member, P]."""
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(at.layout.shapes, at.layout.dtypes, strict=True)
    ]
    form = jax.tree.unflatten(at.layout.treedef, shapes)
    filters = leaf_filters(form, problem.filter_axis, True, None) if scale == "filter" else []
    chosen = [over for over, is_chosen in zip(filters, at.layout.chosen, strict=False) if is_chosen]
    chosen_shapes = [shape for shape, is_chosen in zip(at.layout.shapes, at.layout.chosen, strict=True) if is_chosen]

    def of_group(point: Point) -> jax.Array:
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


def _worst_case(scale: Scale) -> Callable[..., tuple[Any, None]]:
    def measure(
        problem: Problem, params: PyTree, of: LossOptions, key: jax.Array, *, radius: float, steps: int
    ) -> tuple[Any, None]:
        at = points(problem, params, of)
        scales = _scaled(scale, problem, at)
        return at.map(lambda point: _ascent(point, scales(point), key, radius, steps)), None

    return measure


def _ascent(point: Point, scale: jax.Array, key: jax.Array, radius: float, steps: int) -> np.ndarray:
    """The largest rise of the loss that an ascent in a ball meets.

    Each step goes to where the linearisation at the last point is largest in the ball (Frank-Wolfe with whole steps):
    the first is that of SAM, and of a quadratic loss the steps are a power iteration, which ends at the maximum.
    """
    start = point.loss()
    best = np.full(point.members, -np.inf)
    drawn = jax.random.normal(key, point.flat.shape[1:], point.flat.dtype)
    moved = point.flat
    for _ in range(steps):
        moved = point.flat + _furthest(point.gradient(moved), scale, drawn, radius)
        # NaN and infinity count: a loss that overflows in the ball is as sharp as can be.
        best = np.maximum(best, point.loss(moved))
    return best - start


@jax.jit
def _furthest(gradient: jax.Array, scale: jax.Array, drawn: jax.Array, radius: float) -> jax.Array:
    """The e of greatest <gradient, e> with ||e / scale|| <= radius; any where the gradient is zero."""
    along = scale * gradient
    # Where nothing points anywhere, a random direction does.
    along = jnp.where(jnp.any(along != 0, axis=1, keepdims=True), along, drawn[None] * (scale > 0))
    # By the largest first: squares of small gradients would vanish.
    along = along / jnp.maximum(jnp.max(jnp.abs(along), axis=1, keepdims=True), jnp.finfo(along.dtype).tiny)
    length = jnp.linalg.norm(along, axis=1, keepdims=True)
    return radius * scale * along / jnp.where(length > 0, length, 1)


def _average_case(scale: Scale) -> Callable[..., tuple[Any, Any]]:
    def measure(
        problem: Problem, params: PyTree, of: LossOptions, key: jax.Array, *, sigma: float, draws: int
    ) -> tuple[Any, Any]:
        at = points(problem, params, of)
        scales = _scaled(scale, problem, at)

        def of_group(point: Point) -> tuple[np.ndarray, np.ndarray]:
            sigmas = np.full(point.members, sigma)
            return _mean_and_error(_rises(point, scales(point), key, sigmas, draws, "loss"))

        return at.map(of_group)

    return measure


def _drawn(key: jax.Array, draws: int, point: Point) -> Iterator[jax.Array]:
    """Standard normal vectors (P,), the same in float32 and float64."""
    for draw in range(draws):
        yield jax.random.normal(jax.random.fold_in(key, draw), point.flat.shape[1:], jnp.float32)


def _rises(point: Point, scale: jax.Array, key: jax.Array, sigmas: np.ndarray, draws: int, metric: str) -> np.ndarray:
    """Rises float64 [member, draw] of the loss, or of the error: the mean over e and -e of each draw."""
    sign = -1 if metric == "accuracy" else 1
    start = point.metric(metric)
    lengths = jnp.asarray(sigmas, point.flat.dtype)[:, None]
    found = []
    for normal in _drawn(key, draws, point):
        away = lengths * scale * normal[None]
        both = (point.metric(metric, point.flat + away) + point.metric(metric, point.flat - away)) / 2
        found.append(sign * (both - start))
    return np.stack(found, axis=1)


def _mean_and_error(rises: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rises.mean(axis=1), rises.std(axis=1, ddof=1) / np.sqrt(rises.shape[1])


def _pac_bayes(scale: Scale) -> Callable[..., tuple[Any, Any]]:
    def measure(
        problem: Problem,
        params: PyTree,
        of: LossOptions,
        key: jax.Array,
        *,
        target: float,
        draws: int,
        metric: str,
    ) -> tuple[Any, Any]:
        at = points(problem, params, of)
        scales = _scaled(scale, problem, at)
        return at.map(lambda point: _largest_sigma(point, scales(point), key, target, draws, metric))

    return measure


def _largest_sigma(
    point: Point, scale: jax.Array, key: jax.Array, target: float, draws: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """The sigma of each member at which the mean rise meets the target, and its standard error.

    The same draws serve every sigma, so that the mean rise is one function of it, which is taken to rise. Sigma is
    doubled or halved until the target lies between two values, and then bisected in the logarithm.
    """

    def rises(sigmas: np.ndarray) -> np.ndarray:
        return _rises(point, scale, key, sigmas, draws, metric)

    sigma, low, high = (np.full(point.members, value) for value in (0.01, 0.0, np.inf))
    while True:
        within = rises(sigma).mean(axis=1) <= target  # NaN is not
        low, high = np.where(within, sigma, low), np.where(within, high, sigma)
        is_done = (high <= low * (1 + PRECISE)) | (low > LARGEST) | (high < 1 / LARGEST)
        if is_done.all():
            break
        with np.errstate(invalid="ignore"):  # 0 * inf, of what is not taken
            middle = np.sqrt(low * high)
        following = np.where(np.isinf(high), 2 * sigma, np.where(low == 0, sigma / 2, middle))
        sigma = np.where(is_done, sigma, following)
    is_found = (low > 0) & np.isfinite(high)
    sigma = np.sqrt(np.where(is_found, low * high, 1))
    error = _mean_and_error(rises(sigma))[1]
    slope = (rises(1.02 * sigma).mean(axis=1) - rises(0.98 * sigma).mean(axis=1)) / (0.04 * sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(slope > 0, error / slope, np.nan)
    # Never below the target: 0, or NaN where the point itself has no loss. Never above it: infinity.
    beyond = np.where(np.isfinite(high), np.where(np.isfinite(point.metric(metric)), 0, np.nan), np.inf)
    return np.where(is_found, sigma, beyond), np.where(is_found, errors, np.nan)


def _relative_flatness(
    problem: Problem, params: PyTree, of: LossOptions, key: jax.Array, *, probes: int
) -> tuple[Any, Any]:
    at = points(problem, params, of)
    names = at.layout.names
    shapes = [shape for shape, is_chosen in zip(at.layout.shapes, at.layout.chosen, strict=True) if is_chosen]
    if len(names) != 1 or len(shapes[0]) < 2:
        raise ValueError(
            "relative_flatness is of one layer: leaves must choose one weight array of two axes or more, such as "
            f"'head/kernel', got {', '.join(names[:5])}"
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

    def of_group(point: Point) -> tuple[np.ndarray, np.ndarray]:
        return _of_layer(point, key, probes, shapes[0], order, rows)

    return at.map(of_group)


def _of_layer(
    point: Point, key: jax.Array, probes: int, shape: tuple[int, ...], order: tuple[int, ...], rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum over neurons i, j of <w_i, w_j> tr H_ij, as the trace of R H R with R = (W W^T)^(1/2) on the neurons."""
    members = point.members
    weights = np.asarray(point.flat, np.float64).reshape(members, *shape)
    matrices = weights.transpose(0, *(axis + 1 for axis in order)).reshape(members, rows, -1)
    values, vectors = np.linalg.eigh(matrices @ matrices.transpose(0, 2, 1))
    roots = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1)
    inner = [shape[axis] for axis in order]
    back = np.argsort(order)
    found = []
    for probe in range(probes):
        signs = np.asarray(
            jax.random.rademacher(jax.random.fold_in(key, probe), matrices.shape[1:], jnp.float32), np.float64
        )
        mixed = (roots @ signs).reshape(members, *inner).transpose(0, *(axis + 1 for axis in back))
        vector = jnp.asarray(mixed.reshape(members, -1), point.flat.dtype)
        found.append(
            np.sum(np.asarray(vector, np.float64) * np.asarray(product(point, "hessian", vector), np.float64), axis=1)
        )
    return _mean_and_error(np.stack(found, axis=1))


def _trace(problem: Problem, params: PyTree, of: LossOptions, key: jax.Array, *, probes: int) -> tuple[Any, Any]:
    return trace(problem, params, probes=probes, key=key, **of)


def _top_eigenvalue(
    problem: Problem, params: PyTree, of: LossOptions, key: jax.Array, *, steps: int
) -> tuple[Any, None]:
    found = hessian_spectrum(problem, params, k=1, lowest=0, num_steps=steps, probes=0, key=key, **of)
    return found.eigenvalues[..., 0], None


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
        "shares of |w|",
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

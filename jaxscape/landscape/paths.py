"""Curves of low loss between two networks: the straight line, bent until the loss along it is low.

A curve has the two networks as its ends and some bends between them, which are all that is trained: a step draws a
place t on the curve, evaluates the training loss there on a batch, and moves the bends down its gradient. In
expectation this is the mean loss over t. To `jaxscape.train` a curve is a member like any other, whose parameters are
the bends; so every strategy, several devices and data of any kind work, and several curves train side by side.

T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov, A. G. Wilson, "Loss Surfaces, Mode Connectivity, and Fast Ensembling
of DNNs" (NeurIPS 2018); F. Draxler, K. Veschgini, M. Salmhofer, F. A. Hamprecht, "Essentially No Barriers in Neural
Network Energy Landscape" (ICML 2018).
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape.arguments import check_finite, check_same, count, number, typed_key
from jaxscape.landscape.lines import Barrier, Line, line_barrier
from jaxscape.landscape.options import Options, split_of
from jaxscape.landscape.points import points_evaluator
from jaxscape.landscape.surfaces import check_range
from jaxscape.problem import LossFn, Metrics, Problem, checked_loss
from jaxscape.training.members import stack_members, take_member
from jaxscape.training.train import Chooser, TrainState, copy_states, init_states, train

PyTree = Any
Kind = Literal["bezier", "polygon"]


PLACES = np.linspace(0, 1, 21)


class PathProfile(NamedTuple):
    """A curve beside the straight line between its ends."""

    curve: Barrier  # its line has the metrics along the curve, and its length
    straight: Barrier

    @property
    def relative_length(self) -> float:
        """The length of the curve, in lengths of the straight line."""
        return self.curve.line.length / self.straight.line.length


class Curve(NamedTuple):
    """A curve between two networks."""

    kind: Kind
    a: PyTree  # where t = 0
    b: PyTree  # where t = 1
    state: TrainState  # of training, not stacked: its params are the bends, a list of pytrees in order from a to b
    losses: np.ndarray  # float64 (epochs,): the mean training loss over the places of each epoch's steps

    @property
    def bends(self) -> list[PyTree]:
        """The points that were trained, in order from a to b. The curve goes through those of a polygon alone."""
        bends: list[PyTree] = self.state.params
        return bends

    @property
    def points(self) -> list[PyTree]:
        """The ends and the bends between them, in order: what the places on the curve are weighted means of."""
        return [self.a, *self.bends, self.b]

    def params_at(self, t: Any) -> PyTree:
        """Return the parameters at a place, from 0 (a, to the bit) to 1 (b, to the bit); pure, for `jax.jit` too.

        Raises:
            TypeError: for a place that is no number.
            ValueError: for a place outside of 0 to 1, where it is known.
        """
        if not isinstance(t, jax.core.Tracer) and not 0 <= number("t", t) <= 1:
            raise ValueError(f"t must be between 0 and 1, got {t}")
        return curve_point(self.points, self.kind, t)


def bezier_weights(degree: int, t: Any) -> list[Any]:
    """Return the weights of the points of a Bézier curve at a place, the Bernstein polynomials."""
    return [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)]


def polygon_weights(degree: int, t: Any) -> list[Any]:
    """Return the weights of the corners of a polygonal chain at a place; each side takes as much of t as the others."""
    return [(1 - abs(degree * t - i)).clip(0) for i in range(degree + 1)]


# By kind of curve: (number of points - 1, t) -> the weight of each point.
WEIGHTS: dict[str, Callable[[int, Any], list[Any]]] = {"bezier": bezier_weights, "polygon": polygon_weights}


@partial(jax.jit, static_argnames="kind")
def curve_point(points: Sequence[PyTree], kind: Kind, t: Any) -> PyTree:
    """Return the point of a curve at a place t from 0 to 1: the ends are the first and the last point to the bit."""
    t = jnp.asarray(t, jnp.result_type(float))
    weights = WEIGHTS[kind](len(points) - 1, t)

    def at(*leaves: Any) -> jax.Array:
        first, last = jnp.asarray(leaves[0]), jnp.asarray(leaves[-1])
        mean = sum(weight * leaf for weight, leaf in zip(weights, leaves, strict=True))
        # Sums of products would make 0 of -0.0.
        return jnp.where(t == 0, first, jnp.where(t == 1, last, mean.astype(first.dtype)))

    return jax.tree.map(at, *points)


def connect(
    problem: Problem,
    a: PyTree,
    b: PyTree,
    *,
    key: jax.Array,
    kind: Kind = "bezier",
    bends: int = 1,
    start: Curve | Sequence[PyTree] | None = None,
    model_state: PyTree = None,
    optimizer: optax.GradientTransformation | None = None,
    epochs: int = 30,
    batch_size: int = 128,
    steps: int | None = None,
    strategy: str | Chooser = "loop",
    devices: Sequence[jax.Device] | None = None,
) -> Curve:
    """Train a curve of low loss between two networks.

    Args:
        problem: whose `loss_fn` and `data` it is trained on.
        a: the parameters of one network, which stay as they are.
        b: of the other one, of the same structure, shapes and dtypes.
        key: a PRNG key, from which places, batches and augmentation follow. A curve that goes on has its own.
        kind: "bezier", a Bézier curve with the bends as its inner control points, smooth; or "polygon", straight lines
            from bend to bend.
        bends: how many.
        start: a `Curve` to go on from, to `epochs` in all; or the bends to start from. By default these lie evenly on
            the straight line. On a line that is a ridge of an exact symmetry no gradient bends it: start beside it.
        model_state: the running statistics and the like to start from, of either network.
        optimizer: an optax transformation of the bends; `optax.adam(3e-3)` by default. A curve decays no weights:
            `optax.add_decayed_weights` would shrink the bends, not the networks on the curve.
        epochs: the last epoch to reach.
        batch_size: examples a step, where data are arrays.
        steps: of what counts as an epoch; see `jaxscape.train`.
        strategy: how curves run together; see `jaxscape.train`.
        devices: those that share the curves out; see `jaxscape.train`.

    Raises:
        TypeError: for arguments of another kind.
        ValueError: for networks that differ in structure, shapes or dtypes, are not finite or are the same; an unknown
            kind; counts out of range; a start with other ends, or of another kind or number of bends; and as
            `jaxscape.train` says.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxscape import Problem, connect
        >>> def loss_fn(params, model_state, batch, key):  # low on a circle
        ...     return (jnp.sum(params**2) - 1) ** 2, (model_state, {})
        >>> problem = Problem(loss_fn, jnp.zeros(1000))
        >>> a, b = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
        >>> beside = [jnp.array([0.0, 0.5])]
        >>> path = connect(problem, a, b, start=beside, key=jax.random.key(0), batch_size=1, epochs=2)
        >>> bool(loss_fn(path.params_at(0.5), None, None, None)[0] < 0.1)  # 1 on the straight line
        True
    """
    epochs_of = connect_epochs(
        problem,
        [(a, b)],
        key=key,
        kind=kind,
        bends=bends,
        start=None if start is None else [start],
        model_state=model_state,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        steps=steps,
        strategy=strategy,
        devices=devices,
    )
    last = deque(epochs_of, maxlen=1)
    if last:
        return last[0][0]
    assert isinstance(start, Curve)  # which has all epochs behind it
    return start


def connect_epochs(
    problem: Problem,
    pairs: Sequence[tuple[PyTree, PyTree]],
    *,
    key: jax.Array,
    kind: Kind = "bezier",
    bends: int = 1,
    start: Sequence[Curve | Sequence[PyTree]] | None = None,
    model_state: PyTree = None,
    optimizer: optax.GradientTransformation | None = None,
    epochs: int = 30,
    batch_size: int = 128,
    steps: int | None = None,
    strategy: str | Chooser = "loop",
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[list[Curve]]:
    """Train curves between several pairs of networks side by side, epoch by epoch.

    Args:
        problem: as for `connect`, likewise all that is not named here.
        pairs: (a, b) of each curve; all of one structure.
        key: as for `connect`; the first curve is what `connect` gives for the first pair, to the bit with the strategy
            "loop", and the places and batches of the others are their own.
        kind: as for `connect`.
        bends: likewise.
        start: one for each pair, as for `connect`: all of them paths of as many epochs, or none.
        model_state: as for `connect`, the same for all.
        optimizer: likewise.
        epochs: likewise.
        batch_size: likewise.
        steps: likewise.
        strategy: likewise.
        devices: likewise.

    Yields:
        The curves after each epoch, in arrays of their own; first as they start, unless they go on from paths.

    Raises:
        TypeError, ValueError: before any work, as `connect`.
    """
    key, bends = typed_key(key), count("bends", bends)
    if kind not in WEIGHTS:
        raise ValueError(f"kind must be one of {', '.join(WEIGHTS)}, got {kind!r}")
    pairs = [(a, b) for a, b in pairs]
    _check_pairs(pairs)
    optimizer = optax.adam(3e-3) if optimizer is None else optimizer
    started = _started(pairs, start, kind, bends)
    going_on = [path for path in started if isinstance(path, Curve)]
    if going_on:
        if len(going_on[0].losses) > count("epochs", epochs):
            raise ValueError(f"epochs must be at least the {len(going_on[0].losses)} of start, got {epochs}")
        own = stack_members([path.state for path in going_on])
        losses = np.stack([path.losses for path in going_on], axis=1)
    else:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, np.arange(len(pairs), dtype=np.uint32))
        own = init_states(stack_members(list(started)), optimizer, keys=keys, model_state=model_state)
        losses = np.zeros((0, len(pairs)))
    # The ends are carried along with the model state: constants of each member that no gradient reaches.
    ends = jax.tree.map(jnp.asarray, stack_members(pairs))
    epochs_of = train(
        _curve_loss(problem.loss_fn, kind),
        optimizer,
        copy_states(own._replace(model_state=(ends, own.model_state))),
        problem.data,
        epochs=epochs,
        batch_size=batch_size,
        steps=steps,
        first_epoch=len(losses),
        strategy=strategy,
        devices=devices,
    )
    return _paths(epochs_of, pairs, kind, losses)


def path_profile(
    problem: Problem,
    path: Curve,
    *,
    t: Sequence[float] | np.ndarray = PLACES,
    metric: str | None = None,
    larger_is_better: bool | None = None,
    **how: Unpack[Options],
) -> PathProfile:
    """Evaluate networks along a curve and along the straight line beside it.

    Args:
        problem: whose metrics they are.
        path: the curve.
        t: the places, of the curve and of the straight line, from 0 to 1, increasing.
        metric: whose barriers they are; as in `jaxscape.barrier`, likewise
        larger_is_better: whether a barrier is a drop.
        how: `statistics` ("recalibrated" by default, or "kept", those that training on the curve left), `split`,
            `batch_size`, `metrics`, `strategy` and `devices`, as in `jaxscape.landscape.points.evaluate_points`.

    Raises:
        TypeError, ValueError: before any work, as `jaxscape.barrier`; and for statistics that are interpolated, which
            a curve does not have.
    """
    places = check_range("t", t)
    if places[0] != 0 or places[-1] != 1:
        raise ValueError(f"t must go from 0 to 1, got {places[0]} to {places[-1]}")
    if how.get("statistics") == "interpolated" or how.get("model_states") is not None:
        raise ValueError('statistics must be "recalibrated" or "kept" along a curve, got "interpolated"')
    how.setdefault("model_state", path.state.model_state)
    degree = len(path.points) - 1
    # Both in one go: the straight line is a polygon that passes its bends by.
    on_curve = np.stack(WEIGHTS[path.kind](degree, places), axis=1)
    on_line = np.zeros_like(on_curve)
    on_line[:, [0, -1]] = np.stack(WEIGHTS["polygon"](1, places), axis=1)
    evaluator = points_evaluator(problem, path.points, **how)
    found: dict[str, list[np.ndarray]] = {}
    for _, chunk in evaluator.chunks(np.concatenate([on_curve, on_line]), 2 * len(places)):
        for name, values in chunk.items():
            found.setdefault(name, []).append(values)
    metrics = {name: np.concatenate(values) for name, values in found.items()}
    split = split_of(problem, how.get("split"))
    lines = [
        Line(places, {name: values[part] for name, values in metrics.items()}, length, evaluator.statistics, split)
        for part, length in (
            (slice(len(places)), curve_length(path.points, path.kind)),
            (slice(len(places), None), curve_length([path.a, path.b], "polygon")),
        )
    ]
    return PathProfile(*(line_barrier(one, metric=metric, larger_is_better=larger_is_better) for one in lines))


# Gauss-Legendre nodes of each of as many parts of a Bézier curve, whose speed is smooth but where it turns back.
_NODES, _PARTS = 16, 64


def curve_length(points: Sequence[PyTree], kind: Kind) -> float:
    """Return the length of a curve in the parameters, in float64; NaN where it is not finite.

    Args:
        points: the ends and the bends between them, in order.
        kind: "bezier" or "polygon".
    """
    leaves = [[np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(point)] for point in points]
    steps = [np.concatenate([y - x for x, y in zip(one, two, strict=True)]) for one, two in pairwise(leaves)]
    if kind == "polygon":
        return float(sum(np.linalg.norm(step) for step in steps))
    products = np.array([[x @ y for y in steps] for x in steps])
    nodes, shares = np.polynomial.legendre.leggauss(_NODES)
    t = ((nodes + 1) / 2 + np.arange(_PARTS)[:, None]) / _PARTS
    # The velocity is a Bézier curve too, of the steps from point to point.
    weights = len(steps) * np.stack(bezier_weights(len(steps) - 1, t))
    speed = np.sqrt(np.maximum(np.einsum("i...,ij,j...->...", weights, products, weights), 0))
    return float((speed @ shares).sum() / 2 / _PARTS)


def _paths(epochs: Iterator[Any], pairs: list[Any], kind: Kind, losses: np.ndarray) -> Iterator[list[Curve]]:
    for _, states, metrics in epochs:
        if "epoch_loss" in metrics:
            losses = np.concatenate([losses, np.asarray(metrics["epoch_loss"], float)[None]])
        own = states._replace(model_state=states.model_state[1])
        yield [Curve(kind, a, b, take_member(own, i), losses[:, i].copy()) for i, (a, b) in enumerate(pairs)]


def _curve_loss(loss_fn: LossFn, kind: Kind) -> LossFn:
    """The loss of a curve's bends: that of the network at a place that is drawn from the step's key."""
    one_loss = checked_loss(loss_fn)

    def loss(
        bends: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        (a, b), own = model_state
        of_place, of_loss = jax.random.split(key)
        params = curve_point([a, *bends, b], kind, jax.random.uniform(of_place))
        found, (own, metrics) = one_loss(params, own, batch, of_loss)
        return found, (((a, b), own), {**metrics, "loss": found})

    check = getattr(loss_fn, "check_data", None)
    if check is not None:
        loss.check_data = lambda bends, state, data: check(state[0][0], state[1], data)  # type: ignore[attr-defined]
    return loss


def _started(
    pairs: list[tuple[PyTree, PyTree]], start: Sequence[Any] | None, kind: Kind, bends: int
) -> list[Curve] | list[list[PyTree]]:
    """Paths to go on from, or the bends to start from, one for each pair."""
    if start is None:
        places = [(i + 1) / (bends + 1) for i in range(bends)]
        return [[curve_point(pair, "polygon", t) for t in places] for pair in pairs]
    if len(start) != len(pairs):
        raise ValueError(f"start must have one entry for each of the {len(pairs)} pairs, got {len(start)}")
    paths = [path for path in start if isinstance(path, Curve)]
    if not paths:
        for points, (a, _) in zip(start, pairs, strict=True):
            if not isinstance(points, list | tuple) or len(points) != bends:
                raise ValueError(f"start must be a Curve or a list of as many points as bends = {bends}")
            for point in points:
                check_same("start", point, "a", a)
                check_finite("start", point)
        like = jax.tree.map(jnp.asarray, pairs[0][0])
        return [
            [jax.tree.map(lambda leaf, of_a: jnp.asarray(leaf, of_a.dtype), point, like) for point in points]
            for points in start
        ]
    if len(paths) < len(pairs) or len({len(path.losses) for path in paths}) > 1:
        raise ValueError("start must hold paths that have as many epochs behind them as one another, or none")
    for path, (a, b) in zip(paths, pairs, strict=True):
        if (path.kind, len(path.bends)) != (kind, bends):
            raise ValueError(
                f"start must be a path of kind {kind!r} with bends = {bends}, got {path.kind!r} with {len(path.bends)}"
            )
        for name, end, other in (("a", path.a, a), ("b", path.b, b)):
            check_same("start", end, name, other, dtypes=True)
            if not _same(end, other):
                raise ValueError(f"start must be a path between the same networks, but its {name} is another one")
    return paths


def _check_pairs(pairs: list[tuple[PyTree, PyTree]]) -> None:
    if not pairs:
        raise ValueError("pairs must hold at least one pair of networks, got none")
    for index, (a, b) in enumerate(pairs):
        names = ("a", "b") if len(pairs) == 1 else (f"a of pair {index}", f"b of pair {index}")
        for name, tree in zip(names, (a, b), strict=True):
            check_same(name, tree, "a", pairs[0][0], dtypes=True)
            check_finite(name, tree)
        if _same(a, b):
            raise ValueError(f"{names[0]} and {names[1]} must differ, but they are the same network")


def _same(a: PyTree, b: PyTree) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

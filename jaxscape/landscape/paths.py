"""Curves of low loss between two networks (mode connectivity).

A curve has the two networks as its ends and some bends between them. Only the bends are trained: each step draws a
position t on the curve, evaluates the training loss there on a batch, and updates the bends along the gradient, which
minimises the mean loss over t. For `jaxscape.train` a curve is a member like any other, whose parameters are the bends.
Every strategy, several devices and data of every kind therefore work, and several curves can be trained together.

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
from jaxtyping import Array, Float, Float64, Key, Real

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

PROFILE_POINTS = np.linspace(0, 1, 21)


class PathProfile(NamedTuple):
    """The barriers of a curve and of the straight line between its ends."""

    curve: Barrier  # its `line` holds the metrics along the curve, and the length of the curve
    straight: Barrier

    @property
    def relative_length(self) -> float:
        """The length of the curve divided by that of the straight line."""
        return self.curve.line.length / self.straight.line.length


class Curve(NamedTuple):
    """A curve between two networks."""

    kind: Kind
    a: PyTree  # the network at t = 0
    b: PyTree  # the network at t = 1
    state: TrainState  # training state of one member: its params are the bends, a list of pytrees from a to b
    losses: Float64[np.ndarray, " epochs"]  # the mean training loss over the steps of each epoch, at random positions

    @property
    def bends(self) -> list[PyTree]:
        """The trained points, in order from a to b. A polygon passes through them, a Bézier curve does not."""
        bends: list[PyTree] = self.state.params
        return bends

    @property
    def points(self) -> list[PyTree]:
        """The ends and the bends between them, in order; each network on the curve is a weighted mean of them."""
        return [self.a, *self.bends, self.b]

    def params_at(self, t: Any) -> PyTree:
        """Return the parameters at position t, from 0 (bitwise a) to 1 (bitwise b); pure, and works under `jax.jit`.

        Raises:
            TypeError: if t is not a number.
            ValueError: if t is outside of 0 to 1; not checked for a traced t.
        """
        if not isinstance(t, jax.core.Tracer) and not 0 <= number("t", t) <= 1:
            raise ValueError(f"t must be between 0 and 1, got {t}")
        return curve_point(self.points, self.kind, t)


def bezier_weights(degree: int, t: Any) -> list[Any]:
    """Return the weights of the control points of a Bézier curve at position t, the Bernstein polynomials."""
    return [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)]


def polygon_weights(degree: int, t: Any) -> list[Any]:
    """Return the weights of the vertices of a polygonal chain at position t; every segment spans equally much of t."""
    return [(1 - abs(degree * t - i)).clip(0) for i in range(degree + 1)]


# Kind of curve -> function of (number of points - 1, t) that returns the weight of each point.
WEIGHTS: dict[str, Callable[[int, Any], list[Any]]] = {"bezier": bezier_weights, "polygon": polygon_weights}


@partial(jax.jit, static_argnames="kind")
def curve_point(points: Sequence[PyTree], kind: Kind, t: Any) -> PyTree:
    """Return the point of a curve at position t from 0 to 1; at the ends it is bitwise the first or last point."""
    t = jnp.asarray(t, jnp.result_type(float))
    weights = WEIGHTS[kind](len(points) - 1, t)

    def at(*leaves: Any) -> jax.Array:
        first, last = jnp.asarray(leaves[0]), jnp.asarray(leaves[-1])
        mean = sum(weight * leaf for weight, leaf in zip(weights, leaves, strict=True))
        # A sum of products would turn -0.0 into 0.
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
        problem: the problem whose `loss_fn` and `data` are used for training.
        a: the parameters of one network, or a model (see `Problem.split_model`); they stay fixed.
        b: the parameters of the other network, of the same structure, shapes and dtypes; they stay fixed too.
        key: a PRNG key, which determines positions, batches and augmentation. A resumed curve uses its own key.
        kind: "bezier", a smooth Bézier curve with the bends as its inner control points; or "polygon", straight
            segments from bend to bend.
        bends: number of bends.
        start: a `Curve` to resume until `epochs`, or the initial bends. By default the bends are spaced evenly on the
            straight line. If that line is a ridge by an exact symmetry, no gradient bends it: give bends off the line.
        model_state: the initial model state, such as running statistics, of either network; by default that of the
            model `a`, if it holds one.
        optimizer: an optax optimiser of the bends; `optax.adam(3e-3)` by default. Do not add weight decay:
            `optax.add_decayed_weights` would shrink the bends, not the networks on the curve.
        epochs: the last epoch, counted from the start of the curve.
        batch_size: examples per step, if the data are arrays.
        steps: number of steps per epoch; see `jaxscape.train`.
        strategy: how curves are trained together; see `jaxscape.train`.
        devices: devices over which curves are sharded; see `jaxscape.train`.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: if the networks differ in structure, shapes or dtypes, are not finite or are equal; if kind is
            unknown or a count is out of range; if start has other ends, or another kind or number of bends; see also
            `jaxscape.train`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxscape import Problem, connect
        >>> def loss_fn(params, model_state, batch, key):  # low on a circle
        ...     return (jnp.sum(params**2) - 1) ** 2, (model_state, {})
        >>> problem = Problem(loss_fn, jnp.zeros(1000))
        >>> a, b = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
        >>> off_line = [jnp.array([0.0, 0.5])]
        >>> path = connect(problem, a, b, start=off_line, key=jax.random.key(0), batch_size=1, epochs=2)
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
    assert isinstance(start, Curve)  # it has finished all epochs
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
    """Train curves between several pairs of networks together, and yield them after every epoch.

    Args:
        problem: see `connect`.
        pairs: (a, b) of each curve; all networks have one structure.
        key: see `connect`. The first curve is the one that `connect` returns for the first pair, bitwise with the
            strategy "loop". Every other curve has its own positions and batches.
        kind: see `connect`.
        bends: see `connect`.
        start: one per pair, see `connect`: either all are curves with equally many epochs, or none is a curve.
        model_state: see `connect`; the same for all curves.
        optimizer: see `connect`.
        epochs: see `connect`.
        batch_size: see `connect`.
        steps: see `connect`.
        strategy: see `connect`.
        devices: see `connect`.

    Yields:
        The curves after each epoch, as new arrays; first the initial curves, unless training is resumed.

    Raises:
        TypeError, ValueError: before any work; see `connect`.
    """
    key, bends = typed_key(key), count("bends", bends)
    if kind not in WEIGHTS:
        raise ValueError(f"kind must be one of {', '.join(WEIGHTS)}, got {kind!r}")
    models = [(a, b) for a, b in pairs]
    pairs = [(problem.split_model(a)[0], problem.split_model(b)[0]) for a, b in models]
    _check_pairs(pairs)
    model_state = problem.split_model(models[0][0], model_state)[1]
    optimizer = optax.adam(3e-3) if optimizer is None else optimizer
    if start is not None:
        start = [each if isinstance(each, Curve) else problem.split_model(each)[0] for each in start]
    starts = _checked_starts(pairs, start, kind, bends)
    resumed = [path for path in starts if isinstance(path, Curve)]
    if resumed:
        if len(resumed[0].losses) > count("epochs", epochs):
            raise ValueError(f"epochs must be at least the {len(resumed[0].losses)} of start, got {epochs}")
        own = stack_members([path.state for path in resumed])
        losses = np.stack([path.losses for path in resumed], axis=1)
    else:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, np.arange(len(pairs), dtype=np.uint32))
        own = init_states(stack_members(list(starts)), optimizer, keys=keys, model_state=model_state)
        losses = np.zeros((0, len(pairs)))
    # The ends are stored in the model state: constants of each member, to which no gradient flows.
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
    return _curves(epochs_of, pairs, kind, losses)


def path_profile(
    problem: Problem,
    path: Curve,
    *,
    t: Sequence[float] | Real[np.ndarray, " points"] = PROFILE_POINTS,
    metric: str | None = None,
    larger_is_better: bool | None = None,
    **options: Unpack[Options],
) -> PathProfile:
    """Evaluate networks along a curve and along the straight line between its ends.

    Args:
        problem: the problem whose metrics are evaluated.
        path: the curve.
        t: positions on the curve and on the straight line, from 0 to 1, increasing.
        metric: the metric of the barriers; see `jaxscape.barrier`.
        larger_is_better: whether a barrier is a drop; see `jaxscape.barrier`.
        options: `statistics` ("recalibrated" by default, or "kept", those at the end of the curve's training), `split`,
            `batch_size`, `metrics`, `strategy` and `devices`; see `jaxscape.landscape.points.evaluate_points`.

    Raises:
        TypeError, ValueError: before any work, see `jaxscape.barrier`; also for interpolated statistics, which a curve
            does not have.
    """
    positions = check_range("t", t)
    if positions[0] != 0 or positions[-1] != 1:
        raise ValueError(f"t must go from 0 to 1, got {positions[0]} to {positions[-1]}")
    if options.get("statistics") == "interpolated" or options.get("model_states") is not None:
        raise ValueError('statistics must be "recalibrated" or "kept" along a curve, got "interpolated"')
    options.setdefault("model_state", path.state.model_state)
    degree = len(path.points) - 1
    # Both are evaluated in one call: on the straight line the bends have weight 0.
    on_curve = np.stack(WEIGHTS[path.kind](degree, positions), axis=1)
    on_line = np.zeros_like(on_curve)
    on_line[:, [0, -1]] = np.stack(WEIGHTS["polygon"](1, positions), axis=1)
    evaluator = points_evaluator(problem, path.points, **options)
    parts: dict[str, list[Float64[np.ndarray, " points"]]] = {}
    for _, chunk in evaluator.chunks(np.concatenate([on_curve, on_line]), 2 * len(positions)):
        for name, values in chunk.items():
            parts.setdefault(name, []).append(values)
    metrics = {name: np.concatenate(values) for name, values in parts.items()}
    split = split_of(problem, options.get("split"))
    lines = [
        Line(positions, {name: values[rows] for name, values in metrics.items()}, length, evaluator.statistics, split)
        for rows, length in (
            (slice(len(positions)), curve_length(path.points, path.kind)),
            (slice(len(positions), None), curve_length([path.a, path.b], "polygon")),
        )
    ]
    return PathProfile(*(line_barrier(one, metric=metric, larger_is_better=larger_is_better) for one in lines))


# Gauss-Legendre nodes per part, and parts of a Bézier curve, whose speed is smooth except where the curve turns back.
_NODES, _PARTS = 16, 64


def curve_length(points: Sequence[PyTree], kind: Kind) -> float:
    """Return the length of a curve in parameter space, in float64; NaN if it is not finite.

    Args:
        points: the ends and the bends between them, in order.
        kind: "bezier" or "polygon".
    """
    leaves = [[np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(point)] for point in points]
    steps = [np.concatenate([y - x for x, y in zip(one, two, strict=True)]) for one, two in pairwise(leaves)]
    if kind == "polygon":
        return float(sum(np.linalg.norm(step) for step in steps))
    products = np.array([[x @ y for y in steps] for x in steps])
    nodes, node_weights = np.polynomial.legendre.leggauss(_NODES)
    t = ((nodes + 1) / 2 + np.arange(_PARTS)[:, None]) / _PARTS
    # The velocity is a Bézier curve too, whose control points are the steps from point to point.
    weights = len(steps) * np.stack(bezier_weights(len(steps) - 1, t))
    speed = np.sqrt(np.maximum(np.einsum("i...,ij,j...->...", weights, products, weights), 0))
    return float((speed @ node_weights).sum() / 2 / _PARTS)


def _curves(
    epochs: Iterator[Any], pairs: list[Any], kind: Kind, losses: Float64[np.ndarray, "epochs curves"]
) -> Iterator[list[Curve]]:
    for _, states, metrics in epochs:
        if "epoch_loss" in metrics:
            losses = np.concatenate([losses, np.asarray(metrics["epoch_loss"], float)[None]])
        own = states._replace(model_state=states.model_state[1])
        yield [Curve(kind, a, b, take_member(own, i), losses[:, i].copy()) for i, (a, b) in enumerate(pairs)]


def _curve_loss(loss_fn: LossFn, kind: Kind) -> LossFn:
    """Return the loss of a curve's bends: that of the network at a position drawn from the step's key."""
    one_loss = checked_loss(loss_fn)

    def loss(
        bends: PyTree, model_state: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        (a, b), own = model_state
        position_key, loss_key = jax.random.split(key)
        params = curve_point([a, *bends, b], kind, jax.random.uniform(position_key))
        value, (own, metrics) = one_loss(params, own, batch, loss_key)
        return value, (((a, b), own), {**metrics, "loss": value})

    check = getattr(loss_fn, "check_data", None)
    if check is not None:
        loss.check_data = lambda bends, state, data: check(state[0][0], state[1], data)  # type: ignore[attr-defined]
    return loss


def _checked_starts(
    pairs: list[tuple[PyTree, PyTree]], start: Sequence[Any] | None, kind: Kind, bends: int
) -> list[Curve] | list[list[PyTree]]:
    """Return the curves to resume, or the initial bends, one entry per pair."""
    if start is None:
        positions = [(i + 1) / (bends + 1) for i in range(bends)]
        return [[curve_point(pair, "polygon", t) for t in positions] for pair in pairs]
    if len(start) != len(pairs):
        raise ValueError(f"start must have one entry for each of the {len(pairs)} pairs, got {len(start)}")
    paths = [path for path in start if isinstance(path, Curve)]
    if not paths:
        for points, (a, _) in zip(start, pairs, strict=True):
            if not isinstance(points, list | tuple) or len(points) != bends:
                raise ValueError(f"start must be a Curve, or a list of points with one for each of bends = {bends}")
            for point in points:
                check_same("start", point, "a", a)
                check_finite("start", point)
        like = jax.tree.map(jnp.asarray, pairs[0][0])
        return [
            [jax.tree.map(lambda leaf, of_a: jnp.asarray(leaf, of_a.dtype), point, like) for point in points]
            for points in start
        ]
    if len(paths) < len(pairs) or len({len(path.losses) for path in paths}) > 1:
        raise ValueError("start must hold curves that have all finished equally many epochs, or no curves")
    for path, (a, b) in zip(paths, pairs, strict=True):
        if (path.kind, len(path.bends)) != (kind, bends):
            raise ValueError(
                f"start must be a curve of kind {kind!r} with bends = {bends}, got {path.kind!r} with {len(path.bends)}"
            )
        for name, end, other in (("a", path.a, a), ("b", path.b, b)):
            check_same("start", end, name, other, dtypes=True)
            if not _same(end, other):
                raise ValueError(f"start must be a curve between the same networks, but its {name} is another network")
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
            raise ValueError(f"{names[0]} and {names[1]} must differ, but they are equal")


def _same(a: PyTree, b: PyTree) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

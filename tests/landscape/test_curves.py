"""Curves of low loss are compared with closed forms, and train like any other members."""

import itertools
from math import asinh, sqrt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from known_landscapes import batch_norm, batch_norm_loss, batch_norm_params, measured_statistics

from jaxscape import Problem
from jaxscape.landscape import paths
from jaxscape.landscape.lines import barrier
from jaxscape.landscape.paths import Curve, connect, connect_epochs, curve_length, path_profile
from jaxscape.tasks.classification import classification_score, flax_loss, flax_predict
from jaxscape.tasks.equinox import equinox_problem
from jaxscape.tasks.models import WideResNet
from jaxscape.tasks.nnx import nnx_problem
from jaxscape.training.train import TrainState

KEY = jax.random.key(0)
KINDS = ("bezier", "polygon")


def as_bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def keys_as_numbers(path):
    return path._replace(kind="", state=path.state._replace(key=jax.random.key_data(path.state.key)))


# The loss is 0 on the unit circle: on the straight line between two opposite points it rises from 0 to 1 and falls.

LEFT, RIGHT = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
OFF_LINE = [jnp.array([0.1, 0.5])]  # on the line itself the gradient is parallel to it


def circle(metrics=lambda loss: {}):
    def loss_fn(params, model_state, batch, key):
        loss = (jnp.sum(params**2) - 1) ** 2
        return loss, (model_state, metrics(loss))

    return Problem(loss_fn, np.zeros((2000, 1), np.float32))


# With the bend (0, c) and u = 2 t - 1 a point of the Bézier curve has r^2 - 1 = (1 - u^2) (c^2 (1 - u^2) / 4 - 1).
# With the moments M_k of 1 - u^2 the mean of its square is q^2 M_4 - 2 q M_3 + M_2, q = c^2 / 4, least at q = 9 / 8;
# its largest value, at 1 - u^2 = 1 / (2 q), is 1 / (4 q)^2. A side of the polygon has (1 - s)^2 + c^2 s^2 - 1 at
# fraction s of its length; with k = 1 + c^2 the mean of its square is k^2 / 5 - k + 4 / 3, least at k = 5 / 2, and the
# largest value is that of the bend, (k - 2)^2 = 1 / 4.
CLOSED_FORM = {"bezier": (sqrt(9 / 2), 2 / 105, (2 / 9) ** 2), "polygon": (sqrt(3 / 2), 1 / 12, 1 / 4)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_bend_is_at_the_minimum_of_the_mean_loss(kind):
    height, mean, largest = CLOSED_FORM[kind]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 8000))
    path = connect(
        circle(), LEFT, RIGHT, start=OFF_LINE, key=KEY, kind=kind, batch_size=1, epochs=4, optimizer=optimizer
    )
    np.testing.assert_allclose(path.bends[0], [0, height], atol=0.02)
    assert path.losses.shape == (4,)
    assert path.losses[-1] == pytest.approx(mean, rel=0.1)
    profile = path_profile(circle(), path, t=np.linspace(0, 1, 41))
    assert profile.straight.height == 1
    assert profile.straight.t == 0.5
    assert profile.curve.height == pytest.approx(largest, rel=0.05)
    assert profile.curve.metric == "loss"


def reference_bezier(points, t):
    """Evaluate a Bézier curve by De Casteljau's algorithm, in float64."""
    points = [np.asarray(point, np.float64) for point in points]
    while len(points) > 1:
        points = [(1 - t) * one + t * two for one, two in itertools.pairwise(points)]
    return points[0]


def reference_polygon(points, t):
    position = t * (len(points) - 1)
    side = min(int(position), len(points) - 2)
    one, two = (np.asarray(point, np.float64) for point in points[side : side + 2])
    return one + (position - side) * (two - one)


REFERENCES = {"bezier": reference_bezier, "polygon": reference_polygon}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bends", [1, 3])
def test_points_of_a_curve_match_reference_implementations(kind, bends):
    points = [{"x": jax.random.normal(jax.random.key(i), (4,))} for i in range(bends + 2)]
    for t in np.linspace(0, 1, 11):
        point = paths.curve_point(points, kind, t)["x"]
        np.testing.assert_allclose(point, REFERENCES[kind]([each["x"] for each in points], t), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_ends_of_a_curve_are_bitwise_the_networks(kind, dtype):
    a, b = ({"x": jax.random.normal(jax.random.key(i), (50,)).at[0].set(-0.0).astype(dtype)} for i in range(2))
    state = TrainState([{"x": 1e30 * a["x"]}], {}, (), KEY)
    path = Curve(kind, a, b, state, np.zeros(0))
    jitted = jax.jit(path.params_at)
    for t, end in ((0, a), (1, b)):
        assert as_bytes(path.params_at(t)) == as_bytes(end) == as_bytes(jitted(jnp.float32(t)))
    assert path.params_at(0.5)["x"].dtype == dtype


def test_initial_bends_are_evenly_spaced_on_the_straight_line():
    problem = circle()
    for kind in KINDS:
        (path,) = next(connect_epochs(problem, [(LEFT, RIGHT)], key=KEY, kind=kind, bends=3))
        np.testing.assert_allclose(path.bends, [[-0.5, 0], [0, 0], [0.5, 0]], atol=1e-7)
        profile = path_profile(problem, path)
        assert profile.relative_length == pytest.approx(1)
        np.testing.assert_allclose(profile.curve.line.metrics["loss"], profile.straight.line.metrics["loss"], atol=1e-6)


def test_lengths_of_curves_match_closed_forms():
    a, c, b = np.array([-1.0, 0.0]), np.array([0.0, 2.0]), np.array([1.0, 0.0])
    assert curve_length([a, c, b], "polygon") == pytest.approx(2 * sqrt(5), rel=1e-12)
    # A quadratic Bézier curve is a parabola, here y = 1 - x^2.
    assert curve_length([a, c, b], "bezier") == pytest.approx(sqrt(5) + asinh(2) / 2, rel=1e-12)
    # Forth and back along a line: it turns where the velocity (1 - t) (c - a) + t (b - c) is 0.
    assert curve_length([np.array([0.0]), np.array([3.0]), np.array([2.0])], "bezier") == pytest.approx(2.5, rel=1e-4)
    # A cubic curve is compared with a polygon through many points on it.
    points = [np.random.default_rng(i).standard_normal(5) for i in range(4)]
    fine = np.array([reference_bezier(points, t) for t in np.linspace(0, 1, 20001)])
    chords = np.linalg.norm(np.diff(fine, axis=0), axis=1).sum()
    assert curve_length(points, "bezier") == pytest.approx(chords, rel=1e-7)


# Training: resumption, several curves together, and the step itself.


def noisy():
    """Return a problem whose loss depends on batch and key, and whose model state counts steps."""

    def loss_fn(params, model_state, batch, key):
        loss = jnp.sum((params["x"] ** 2 - batch.mean(axis=0)) ** 2) + 0.1 * jax.random.normal(key) * params["x"].sum()
        return loss, ({"steps": model_state["steps"] + 1}, {"loss": loss, "first": params["x"][0]})

    return Problem(loss_fn, np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32))


def network(seed):
    return {"x": jax.random.normal(jax.random.key(seed), (3,))}


NOISY = {"key": KEY, "batch_size": 8, "model_state": {"steps": jnp.int32(0)}, "bends": 2}


def test_a_resumed_curve_is_bitwise_an_uninterrupted_one():
    a, b = network(0), network(1)
    whole = connect(noisy(), a, b, epochs=4, **NOISY)
    half = connect(noisy(), a, b, epochs=2, **NOISY)
    before = as_bytes(keys_as_numbers(half))
    for _ in range(2):  # resuming does not change `half`
        resumed = connect(noisy(), a, b, epochs=4, start=half, **NOISY)
        assert as_bytes(keys_as_numbers(resumed)) == as_bytes(keys_as_numbers(whole))
        assert as_bytes(keys_as_numbers(half)) == before
    assert len(whole.losses) == 4
    assert int(whole.state.model_state["steps"]) == 16
    assert connect(noisy(), a, b, epochs=2, start=half, **NOISY) is half


@pytest.mark.parametrize("strategy", ["loop", "threads", "vmap_grad", "grad_vmap"])
def test_curves_trained_together_are_independent(strategy):
    pairs = [(network(0), network(1)), (network(2), network(3))]
    *_, both = connect_epochs(noisy(), pairs, epochs=2, strategy=strategy, **NOISY)
    alone = connect(noisy(), *pairs[0], epochs=2, **NOISY)
    if strategy in ("loop", "threads"):
        assert as_bytes(keys_as_numbers(both[0])) == as_bytes(keys_as_numbers(alone))
    np.testing.assert_allclose(both[0].bends[1]["x"], alone.bends[1]["x"], rtol=1e-5)
    # The second curve has other ends, and its own positions.
    assert both[1].a is pairs[1][0]
    *_, reversed_order = connect_epochs(noisy(), pairs[::-1], epochs=2, strategy=strategy, **NOISY)
    assert as_bytes(reversed_order[0].bends) != as_bytes(both[1].bends)


def test_a_step_uses_the_loss_at_a_position_drawn_from_its_key():
    """Compare with one step of SGD written out: position and loss key are drawn from the step's key."""
    a, b = network(0), network(1)
    problem = noisy()
    options = {**NOISY, "batch_size": 32, "bends": 1, "optimizer": optax.sgd(0.1)}
    path = connect(problem, a, b, epochs=1, **options)
    member = jax.random.fold_in(KEY, 0)
    step_key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(member, 1), 1), 0)  # the key that `train` uses
    position_key, loss_key = jax.random.split(step_key)
    t = float(jax.random.uniform(position_key))
    middle = (a["x"] + b["x"]) / 2

    def loss(bend):
        x = bezier_weighted(a["x"], bend, b["x"], t)
        return problem.loss_fn({"x": x}, {"steps": 0}, problem.data, loss_key)[0]

    expected = middle - 0.1 * jax.grad(loss)(middle)
    np.testing.assert_allclose(path.bends[0]["x"], expected, rtol=1e-5)
    assert path.losses[0] == pytest.approx(float(loss(middle)), rel=1e-5)


def bezier_weighted(a, c, b, t):
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b


def test_curves_train_on_an_iterator_of_batches():
    def passes():
        while True:
            yield np.ones((8, 3), np.float32)

    problem = Problem(noisy().loss_fn, passes())
    path = connect(problem, network(0), network(1), epochs=2, steps=3, key=KEY, model_state={"steps": jnp.int32(0)})
    assert int(path.state.model_state["steps"]) == 6


def test_labels_out_of_range_are_rejected_before_any_work():
    module = WideResNet(10, 1, 3)
    problem = Problem(flax_loss(module), (np.zeros((4, 8, 8, 1), np.float32), np.array([0, 1, 2, 3])))
    variables = jax.eval_shape(module.init, KEY, jnp.zeros((1, 8, 8, 1)))
    params, stats = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), (variables["params"], variables))
    other = jax.tree.map(np.zeros_like, params)
    state = {"batch_stats": stats["batch_stats"]}
    with pytest.raises(ValueError, match="data must have labels from 0 to 2"):
        connect(problem, params, other, key=KEY, batch_size=2, model_state=state)


# Profiles: statistics are recalibrated, and the straight line agrees with `barrier`.


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_profile_has_recalibrated_statistics(split):
    problem = batch_norm()
    a, b = batch_norm_params(0), batch_norm_params(1)
    model_state = measured_statistics(a)
    path = connect(problem, a, b, key=KEY, batch_size=5, epochs=3, model_state=model_state)
    positions = np.linspace(0, 1, 5)
    profile = path_profile(problem, path, t=positions, split=split)
    part = problem.data if split == "train" else problem.test_data
    for number, t in enumerate(positions):
        params = path.params_at(t)
        expected = batch_norm_loss(params, measured_statistics(params), *part)
        assert profile.curve.line.metrics["loss"][number] == pytest.approx(expected, rel=1e-4)
    straight = barrier(problem, a, b, t=positions, split=split, model_state=model_state)
    for name, values in straight.line.metrics.items():
        np.testing.assert_allclose(profile.straight.line.metrics[name], values, rtol=1e-5)
    assert profile.straight.height == pytest.approx(straight.height, rel=1e-4)
    assert profile.straight.line.length == pytest.approx(straight.line.length)
    assert profile.curve.line.statistics == "recalibrated"
    assert profile.curve.line.split == split
    drop = path_profile(problem, path, t=positions, split=split, metric="accuracy").curve
    accuracy = drop.line.metrics["accuracy"]
    ends = (1 - positions) * accuracy[0] + positions * accuracy[-1]
    assert drop.height == pytest.approx(max((ends - accuracy).max(), 0), abs=1e-6)


def test_a_profile_can_keep_the_statistics_of_training():
    problem = batch_norm()
    a, b = batch_norm_params(0), batch_norm_params(1)
    path = connect(problem, a, b, key=KEY, batch_size=5, epochs=1, model_state=measured_statistics(a))
    kept = path_profile(problem, path, statistics="kept", split="train").curve.line
    expected = batch_norm_loss(a, path.state.model_state)
    assert kept.metrics["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert kept.statistics == "kept"


# Networks of frameworks.

INPUTS = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
LABELS = (INPUTS[:, 0] * INPUTS[:, 1] > 0).astype(np.int32)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.hidden(x))))


def nnx_example(seed):
    return nnx_problem(
        Network(nnx.Rngs(seed)),
        (INPUTS, LABELS),
        loss=lambda model, batch, key: cross_entropy(model(batch[0]), batch[1]),
        predict=lambda model, batch: model(batch[0]),
        score=classification_score,
    )


def equinox_example(seed):
    return equinox_problem(
        eqx.nn.MLP(4, 2, width_size=8, depth=1, key=jax.random.key(seed)),
        (INPUTS, LABELS),
        loss=lambda model, batch, key: cross_entropy(jax.vmap(model)(batch[0]), batch[1]),
    )


@pytest.mark.usefixtures("users_broadcast")
@pytest.mark.parametrize("example", [nnx_example, equinox_example])
def test_nnx_and_equinox_models_can_be_connected(example):
    problem = example(0)
    (a, model_state), (b, _) = (example(seed).init(KEY) for seed in (0, 1))
    path = connect(
        problem, a, b, key=KEY, batch_size=16, epochs=30, model_state=model_state, optimizer=optax.adam(0.03)
    )
    profile = path_profile(problem, path, t=np.linspace(0, 1, 5))
    assert profile.curve.line.metrics["loss"][2] < profile.straight.line.metrics["loss"][2]
    merged = problem.loss_fn.merge(path.params_at(0.5), path.state.model_state)
    assert isinstance(merged, Network | eqx.nn.MLP)


@pytest.mark.slow
@pytest.mark.usefixtures("users_broadcast")
def test_wide_resnets_can_be_connected():
    module = WideResNet(10, 1, 2)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((20, 4, 4, 1)).astype(np.float32)
    labels = np.arange(20) % 2
    problem = Problem(flax_loss(module), (images, labels), predict=flax_predict(module), score=classification_score)
    init = jax.jit(module.init)
    (a, model_state), (b, _) = (
        ((variables := dict(init(jax.random.key(seed), images[:1]))).pop("params"), variables) for seed in (0, 1)
    )
    path = connect(problem, a, b, key=KEY, batch_size=10, epochs=3, model_state=model_state)
    assert as_bytes(path.params_at(0)) == as_bytes(a)
    profile = path_profile(problem, path, t=np.linspace(0, 1, 3))
    assert profile.curve.line.metrics.keys() == {"loss", "accuracy"}
    assert profile.curve.line.metrics["loss"][1] < profile.straight.line.metrics["loss"][1]
    assert profile.relative_length > 1


# Invalid arguments.


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"kind": "spline"}, ValueError, "kind must be one of bezier, polygon, got 'spline'"),
        ({"bends": 0}, ValueError, "bends must be at least 1, got 0"),
        ({"key": 1}, TypeError, "key must be a PRNG key"),
        ({"b": LEFT}, ValueError, "a and b must differ, but they are equal"),
        ({"b": jnp.zeros(3)}, ValueError, "b and a must have the same shapes"),
        ({"b": RIGHT.astype(jnp.bfloat16)}, ValueError, "b and a must have the same dtypes, got bfloat16 and float32"),
        ({"b": jnp.array([np.nan, 0])}, ValueError, "b must be finite, got NaN or infinity"),
        ({"a": jnp.array([1, 2])}, TypeError, "a must hold arrays of real floating-point numbers"),
        (
            {"start": [LEFT, LEFT]},
            ValueError,
            "start must be a Curve, or a list of points with one for each of bends = 1",
        ),
        ({"start": [jnp.zeros(3)]}, ValueError, "start and a must have the same shapes"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"batch_size": 3000}, ValueError, "batch_size must be at most the number of examples"),
    ],
)
def test_invalid_arguments_of_connect_are_rejected(changed, error, message):
    arguments = {"a": LEFT, "b": RIGHT, "key": KEY, "epochs": 1, **changed}
    with pytest.raises(error, match=message):
        connect(circle(), **arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "polygon"}, "start must be a curve of kind 'polygon' with bends = 1, got 'bezier' with 1"),
        ({"bends": 2}, "start must be a curve of kind 'bezier' with bends = 2, got 'bezier' with 1"),
        ({"b": jnp.array([0.0, 1.0])}, "start must be a curve between the same networks, but its b is another network"),
        ({"epochs": 1}, "epochs must be at least the 2 of start, got 1"),
        ({"optimizer": optax.sgd(0.1)}, "states must hold the state of this optimizer"),
    ],
)
def test_resuming_a_different_curve_is_rejected(changed, message):
    path = connect(circle(), LEFT, RIGHT, key=KEY, epochs=2, batch_size=1000)
    arguments = {"a": LEFT, "b": RIGHT, "key": KEY, "epochs": 3, "start": path, "batch_size": 1000, **changed}
    with pytest.raises(ValueError, match=message):
        connect(circle(), **arguments)


def test_invalid_starts_and_pairs_are_rejected():
    pairs = [(LEFT, RIGHT), (RIGHT, LEFT)]
    first = connect(circle(), *pairs[0], key=KEY, epochs=1, batch_size=1000)
    with pytest.raises(ValueError, match="pairs must hold at least one pair"):
        connect_epochs(circle(), [], key=KEY)
    with pytest.raises(ValueError, match="start must have one entry for each of the 2 pairs, got 1"):
        connect_epochs(circle(), pairs, key=KEY, start=[first])
    with pytest.raises(
        ValueError, match="start must hold curves that have all finished equally many epochs, or no curves"
    ):
        connect_epochs(circle(), pairs, key=KEY, start=[first, OFF_LINE])
    with pytest.raises(ValueError, match="b of pair 1 and a must have the same shapes"):
        connect_epochs(circle(), [pairs[0], (LEFT, jnp.zeros(3))], key=KEY)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"t": [0.5]}, "t must"),
        ({"t": [0.0, 0.5]}, "t must go from 0 to 1, got 0.0 to 0.5"),
        ({"metric": "speed"}, "unknown metric 'speed'; known: loss"),
        ({"statistics": "interpolated"}, 'statistics must be "recalibrated" or "kept" along a curve'),
        ({"split": "test"}, "split 'test' needs"),
    ],
)
def test_invalid_arguments_of_a_profile_are_rejected(changed, message):
    (path,) = next(connect_epochs(circle(), [(LEFT, RIGHT)], key=KEY))
    with pytest.raises(ValueError, match=message):
        path_profile(circle(), path, **changed)


def test_positions_outside_of_a_curve_are_rejected():
    (path,) = next(connect_epochs(circle(), [(LEFT, RIGHT)], key=KEY))
    with pytest.raises(ValueError, match=r"t must be between 0 and 1, got 1\.5"):
        path.params_at(1.5)
    with pytest.raises(TypeError, match="t must be a number"):
        path.params_at("0")

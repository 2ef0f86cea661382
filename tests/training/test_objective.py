"""The loss of a data set in batches equals its loss at once, and is a function of the parameters alone."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxscape.problem import Problem
from jaxscape.tasks.classification import classification_score
from jaxscape.tasks.equinox import equinox_problem
from jaxscape.tasks.flax import flax_problem
from jaxscape.tasks.nnx import nnx_problem
from jaxscape.training.batches import SharedBatches
from jaxscape.training.objective import mean_metrics, objective
from jaxscape.training.statistics import recalibration

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(10, 4)).astype(np.float32), RANDOM.integers(0, 3, 10).astype(np.int32)
X_TEST, Y_TEST = RANDOM.normal(size=(7, 4)).astype(np.float32), RANDOM.integers(0, 3, 7).astype(np.int32)


def linear_loss(params, model_state, batch, key):
    loss = optax.softmax_cross_entropy_with_integer_labels(batch[0] @ params, batch[1]).mean()
    return loss + jax.random.normal(key) * params.sum(), (model_state, {"accuracy": jnp.float32(0.5)})


def predict(params, model_state, batch):
    return batch[0] @ params


PARAMS = jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32)
PLAIN = Problem(linear_loss, (X, Y))
SCORED = Problem(linear_loss, (X, Y), predict=predict, score=classification_score, test_data=(X_TEST, Y_TEST))


def value(problem, **options):
    over = objective(problem, **options)
    return mean_metrics(jax.jit(over.metrics), over, PARAMS, {})


def cross_entropy(x, y):
    logits = np.asarray(x, np.float64) @ np.asarray(PARAMS, np.float64)
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]).mean(), (logits.argmax(1) == y).mean()


@pytest.mark.parametrize("batch_size", [1, 3, 10, 1000])
@pytest.mark.parametrize(("split", "data"), [("train", (X, Y)), ("test", (X_TEST, Y_TEST))])
def test_batches_of_any_size_give_the_mean_over_all_examples(split, data, batch_size):
    actual = value(SCORED, split=split, batch_size=batch_size)
    loss, accuracy = cross_entropy(*data)
    np.testing.assert_allclose(actual["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(actual["accuracy"], accuracy, rtol=1e-6)


def test_only_the_first_examples():
    np.testing.assert_allclose(value(SCORED, examples=4)["loss"], cross_entropy(X[:4], Y[:4])[0], rtol=1e-6)
    np.testing.assert_allclose(value(SCORED, examples=400)["loss"], cross_entropy(X, Y)[0], rtol=1e-6)


def test_the_training_loss_has_a_fixed_key():
    assert objective(PLAIN).predict is None
    same = [float(value(PLAIN, batch_size=3)["loss"]) for _ in range(2)]
    assert same[0] == same[1] != value(PLAIN, batch_size=3, key=jax.random.key(1))["loss"]
    noise = jax.vmap(jax.random.normal)(jax.random.split(jax.random.key(0), 4)) @ np.array([0.3, 0.3, 0.3, 0.1])
    np.testing.assert_allclose(same[0], cross_entropy(X, Y)[0] + noise * PARAMS.sum(), rtol=1e-5)
    assert value(SCORED, mode="train", batch_size=3)["loss"] == same[0]


@pytest.mark.parametrize(
    "data",
    [
        lambda epoch, keys: (X.reshape(1, 2, 5, 4), Y.reshape(1, 2, 5)),
        lambda epoch, keys: SharedBatches((X.reshape(2, 5, 4), Y.reshape(2, 5))),
        type("Loader", (), {"__iter__": lambda self: iter([(X[:5], Y[:5]), (X[5:], Y[5:])])})(),
    ],
    ids=["function", "shared", "loader"],
)
def test_data_of_any_kind(data):
    problem = Problem(linear_loss, data, predict=predict, score=classification_score)
    np.testing.assert_allclose(value(problem)["loss"], cross_entropy(X, Y)[0], rtol=1e-6)


def test_gradients_and_stacks_pass_through():
    over = objective(SCORED, batch_size=4)

    def loss(params):
        return mean_metrics(over.metrics, over, params, {})["loss"]

    logits = X @ np.asarray(PARAMS)
    expected = X.T @ (np.asarray(jax.nn.softmax(logits)) - np.eye(3)[Y]) / len(Y)
    np.testing.assert_allclose(jax.grad(loss)(PARAMS), expected, atol=1e-6)
    stack = jnp.stack([PARAMS, 2 * PARAMS])
    np.testing.assert_allclose(jax.vmap(loss)(stack), [loss(PARAMS), loss(2 * PARAMS)], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "split must be one of train, test, got 'validation'"),
        ({"mode": "eval"}, "mode must be one of evaluate, train, or None, got 'eval'"),
        ({"mode": "evaluate"}, "mode 'evaluate' needs a problem with predict and score; this one has none"),
        ({"split": "test"}, "split 'test' needs mode 'evaluate': a problem with predict and score"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"examples": 0}, "examples must be at least 1, got 0"),
    ],
)
def test_missing_parts_of_a_problem_are_rejected(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        objective(PLAIN, **options)


def test_data_from_an_iterator_are_rejected():
    with pytest.raises(ValueError, match=r"got an iterator$"):
        objective(Problem(linear_loss, iter([(X, Y)])))
    loader = type("Loader", (), {"__iter__": lambda self: iter([(X, Y)])})()
    with pytest.raises(ValueError, match=r"^examples must be None if data are not arrays, got 3$"):
        objective(Problem(linear_loss, loader), examples=3)
    with pytest.raises(ValueError, match=r"^split 'test' needs a problem with test_data; this one has none$"):
        objective(Problem(linear_loss, (X, Y), predict=predict, score=classification_score), split="test")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"predict": predict}, ValueError, "predict and score belong together: give both, or neither"),
        ({"score": classification_score}, ValueError, "predict and score belong together"),
        ({"predict": lambda p: p, "score": classification_score}, TypeError, "predict must be a function predict"),
        ({"predict": predict, "score": lambda p: p}, TypeError, "score must be a function score"),
        ({"test_data": lambda epoch, keys: X}, TypeError, "test_data must be a pytree of arrays"),
    ],
)
def test_a_problem_rejects_invalid_measurements(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        Problem(linear_loss, (X, Y), **options)


@pytest.mark.parametrize(
    "score",
    [lambda out, batch: out.mean(), lambda out, batch: {"loss": out.mean()}, lambda out, batch: {"error": out[:, 0]}],
)
def test_a_score_must_give_a_loss_for_each_example(score):
    with pytest.raises(TypeError, match=r"^score must be score\(outputs, batch\)"):
        value(Problem(linear_loss, (X, Y), predict=predict, score=score))


# Adapters give the results of their framework in evaluation mode.


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(not train, momentum=0.9)(nn.Dense(5)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


class Nnx(nnx.Module):
    def __init__(self):
        self.first, self.norm = nnx.Linear(4, 5, rngs=nnx.Rngs(0)), nnx.BatchNorm(5, momentum=0.8, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(5, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 2)
        self.first, self.last = eqx.nn.Linear(4, 5, key=keys[0]), eqx.nn.Linear(5, 3, key=keys[1])
        self.norm = eqx.nn.BatchNorm(5, "batch", momentum=0.7, mode="batch")

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.last(jax.nn.relu(x)), state


def of_batch(model, state, images):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(images, state)


def equinox_loss(model, state, batch, key):
    logits, state = of_batch(model, state, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), state


def frameworks():
    module = Linen()
    yield "linen", flax_problem(module, (X, Y), test_data=(X_TEST, Y_TEST))
    yield (
        "nnx",
        nnx_problem(
            Nnx(),
            (X, Y),
            loss=lambda m, b, k: optax.softmax_cross_entropy_with_integer_labels(m(b[0]), b[1]).mean(),
            predict=lambda model, batch: model(batch[0]),
            score=classification_score,
            test_data=(X_TEST, Y_TEST),
        ),
    )
    model, state = eqx.nn.make_with_state(Equinox)()
    yield (
        "equinox",
        equinox_problem(
            model,
            (X, Y),
            loss=equinox_loss,
            state=state,
            predict=lambda model, state, batch: of_batch(model, state, batch[0])[0],
            score=classification_score,
            test_data=(X_TEST, Y_TEST),
        ),
    )


FRAMEWORKS = dict(frameworks())


def by_hand(name, params, model_state, x, *, statistics):
    """Return logits of Dense, batch norm with these statistics (mean, variance), relu, Dense, in NumPy."""
    leaf = jax.tree.map(np.asarray, params)
    if name == "linen":
        first, norm, last = leaf["Dense_0"], leaf["BatchNorm_0"], leaf["Dense_1"]
        w, b, scale, shift, v, c = (
            first["kernel"],
            first["bias"],
            norm["scale"],
            norm["bias"],
            last["kernel"],
            last["bias"],
        )
    elif name == "nnx":
        first, norm, last = leaf["first"], leaf["norm"], leaf["last"]
        w, b, scale, shift, v, c = (
            first["kernel"],
            first["bias"],
            norm["scale"],
            norm["bias"],
            last["kernel"],
            last["bias"],
        )
    else:
        first, norm, last = leaf["first"], leaf["norm"], leaf["last"]
        w, b, scale, shift = first["weight"].T, first["bias"], norm["weight"], norm["bias"]
        v, c = last["weight"].T, last["bias"]
    hidden = x @ w + b
    mean, variance = statistics(hidden) if callable(statistics) else statistics
    hidden = (hidden - mean) / np.sqrt(variance + 1e-5) * scale + shift
    return np.maximum(hidden, 0) @ v + c


def loss_of(logits, y):
    logits = logits.astype(np.float64)
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]).mean()


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_an_adapter_evaluates_with_running_statistics(name):
    problem = FRAMEWORKS[name]
    params, model_state = problem.init(jax.random.key(0))
    over = objective(problem, split="test")
    actual = mean_metrics(jax.jit(over.metrics), over, params, model_state)
    expected = loss_of(by_hand(name, params, model_state, X_TEST, statistics=(0, 1)), Y_TEST)
    np.testing.assert_allclose(actual["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_recalibrated_statistics_are_those_of_all_the_data(name):
    """In one batch, the variance of the data is that of the batch, whatever the framework's momentum."""
    problem = FRAMEWORKS[name]
    params, model_state = problem.init(jax.random.key(0))
    new = recalibration(problem, params, model_state)(params, model_state)
    assert jax.tree.structure(new) == jax.tree.structure(model_state)
    assert [leaf.dtype for leaf in jax.tree.leaves(new)] == [leaf.dtype for leaf in jax.tree.leaves(model_state)]
    over = objective(problem, split="test")
    actual = mean_metrics(jax.jit(over.metrics), over, params, new)["loss"]
    hidden = {}
    by_hand(name, params, model_state, X, statistics=lambda h: hidden.setdefault("of", (h.mean(axis=0), h.var(axis=0))))
    expected = loss_of(by_hand(name, params, model_state, X_TEST, statistics=hidden["of"]), Y_TEST)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


def test_statistics_are_the_mean_over_batches_by_their_sizes():
    problem = FRAMEWORKS["linen"]
    params, model_state = problem.init(jax.random.key(0))
    new = recalibration(problem, params, model_state, batch_size=6)(params, model_state)
    hidden = X @ np.asarray(params["Dense_0"]["kernel"]) + np.asarray(params["Dense_0"]["bias"])
    expected = 0.6 * hidden[:6].var(axis=0) + 0.4 * hidden[6:].var(axis=0)
    np.testing.assert_allclose(new["batch_stats"]["BatchNorm_0"]["var"], expected, rtol=1e-4)


def test_a_stack_of_networks_is_recalibrated_at_once():
    problem = FRAMEWORKS["linen"]
    params, model_state = problem.init(jax.random.key(0))
    again = recalibration(problem, params, model_state)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    both = jax.vmap(again, in_axes=(0, None))(stack, model_state)
    for number, scale in enumerate((1, 2)):
        one = again(jax.tree.map(lambda leaf, scale=scale: scale * leaf, params), model_state)
        for actual, expected in zip(jax.tree.leaves(both), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(actual[number], expected, rtol=1e-5)


def counting_loss(params, model_state, batch, key):
    mean = batch[0].mean()
    new = {
        "count": model_state["count"] + 1,
        "mean": 0.75 * model_state["mean"] + 0.25 * mean,
        "fixed": model_state["fixed"],
    }
    return (params**2).sum(), (new, {})


def test_counters_and_constant_leaves_are_unchanged():
    problem = Problem(counting_loss, (X, Y))
    model_state = {"count": jnp.int32(7), "mean": jnp.float32(3), "fixed": jnp.float32(-2)}
    new = recalibration(problem, PARAMS, model_state)(PARAMS, model_state)
    assert (new["count"], new["fixed"]) == (7, -2)
    np.testing.assert_allclose(new["mean"], X.mean(), rtol=1e-5)


def test_without_running_statistics_the_state_is_returned_unchanged():
    model_state = {"fixed": jnp.float32(-2)}
    problem = Problem(lambda p, s, b, k: ((p**2).sum(), (s, {})), (X, Y))
    assert recalibration(problem, PARAMS, model_state)(PARAMS, model_state) is model_state
    assert recalibration(problem, PARAMS, {})(PARAMS, {}) == {}


def test_a_state_that_is_not_a_moving_average_is_rejected():
    problem = Problem(lambda p, s, b, k: ((p**2).sum(), ({"power": s["power"] ** 2 + b[0].mean()}, {})), (X, Y))
    model_state = {"power": jnp.arange(3, dtype=jnp.float32)}
    with pytest.raises(ValueError, match=r"^the model state at \['power'\] is not a moving average"):
        recalibration(problem, PARAMS, model_state)

"""Adapters: a training step equals the framework's own step, written by hand, to the bit."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxscape.jumps.directions import filter_normalize, random_direction
from jaxscape.jumps.retrain import retrain
from jaxscape.problem import Problem
from jaxscape.tasks.classification import dropout_key
from jaxscape.tasks.equinox import equinox_problem
from jaxscape.tasks.flax import flax_problem
from jaxscape.tasks.nnx import nnx_problem
from jaxscape.training.train import init_states, train

OPTIMIZER = optax.adam(0.1)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 1, 2, 2, 1, 0], np.int32)
DATA = (X, Y)
KEYS = jax.random.split(jax.random.key(3), 2)
STEPS = 2


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def step_key(member, step):
    """Return the key of a step of epoch 1, as `train` documents it."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEYS[member], 1), 1), step)


def batches(epoch, keys):
    """Return two steps of a batch, in a different order for each member."""
    orders = np.array([[[0, 1, 2, 3], [4, 5, 0, 1]], [[5, 4, 3, 2], [1, 0, 5, 4]]])
    return X[orders], Y[orders]


def trained(problem):
    params, model_state = problem.init(jax.random.key(0))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), params)
    states = init_states(stacked, problem.optimizer, keys=KEYS, model_state=model_state)
    *_, last = train(problem.loss_fn, problem.optimizer, states, batches, epochs=1)
    return last.states


def member(tree, number):
    return jax.tree.map(lambda leaf: leaf[number], tree)


def as_bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


# Flax Linen.


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(not train)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


class Deterministic(nn.Module):
    """A module with another name for its mode, on tokens."""

    @nn.compact
    def __call__(self, tokens, deterministic):
        x = nn.Embed(6, 4)(tokens)
        return nn.Dense(3)(nn.Dropout(0.5)(x, deterministic=deterministic))


def linen_loss(model, batch, key):
    logits = model(batch[0], train=True)
    return cross_entropy(logits, batch[1]), {"largest": logits.max()}


@pytest.mark.parametrize("loss", [None, linen_loss], ids=["classifier", "own loss"])
def test_a_step_of_a_linen_module_equals_a_handwritten_step(loss):
    module = Linen()
    problem = flax_problem(module, DATA, loss=loss, optimizer=OPTIMIZER)
    states = trained(problem)

    @jax.jit
    def step(params, batch_stats, opt_state, images, labels, key):
        def loss_of(params):
            logits, changed = module.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key(key)},
            )
            return cross_entropy(logits, labels), changed["batch_stats"]

        grads, batch_stats = jax.grad(loss_of, has_aux=True)(params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    for number in range(2):
        variables = module.init(jax.random.key(0), X[:1])
        params, batch_stats = variables["params"], variables["batch_stats"]
        opt_state = OPTIMIZER.init(params)
        for index in range(STEPS):
            images, labels = member(batches(1, None), number)
            params, batch_stats, opt_state = step(
                params, batch_stats, opt_state, images[index], labels[index], step_key(number, index)
            )
        assert as_bytes(member(states.params, number)) == as_bytes(params)
        assert as_bytes(member(states.model_state, number)) == as_bytes({"batch_stats": batch_stats})
    assert as_bytes(member(states.params, 0)) != as_bytes(member(states.params, 1))


def test_a_linen_module_is_called_as_the_loss_calls_it():
    def loss(model, batch, key):
        return cross_entropy(model(batch[0], deterministic=False), batch[1])

    tokens = np.arange(6)
    problem = flax_problem(Deterministic(), (tokens, Y), loss=loss, optimizer=OPTIMIZER)
    params, model_state = problem.init(jax.random.key(1))
    assert model_state == {}
    value, (_, metrics) = problem.loss_fn(params, model_state, (tokens, Y), KEYS[0])
    rngs = {"dropout": dropout_key(KEYS[0])}
    logits = Deterministic().apply({"params": params}, tokens, deterministic=False, rngs=rngs)
    assert value == metrics["loss"] == cross_entropy(logits, Y)


def test_a_batch_initializes_a_linen_module_where_data_are_a_function():
    with pytest.raises(ValueError, match="example must be a batch to initialize the module with"):
        flax_problem(Linen(), batches)
    problem = flax_problem(Linen(), batches, example=(X, Y))
    assert as_bytes(problem.init(KEYS[0])[0]) == as_bytes(Linen().init(KEYS[0], X)["params"])


def test_a_loss_that_does_not_call_its_model_is_rejected():
    problem = flax_problem(Linen(), DATA, loss=lambda model, batch, key: jnp.zeros(()))
    with pytest.raises(ValueError, match="loss must call its model"):
        problem.init(KEYS[0])


# Flax NNX.


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.List([nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropouts = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        for layer, dropout in zip(self.hidden, self.dropouts, strict=True):
            x = dropout(nnx.relu(layer(x)))
        return self.head(self.norm(x))


def nnx_loss(model, batch, key):
    logits = model(batch[0])
    return cross_entropy(logits, batch[1]), {"largest": logits.max()}


def nnx_model():
    model = Nnx(nnx.Rngs(0, dropout=1))
    model.train()
    return model


def test_a_step_of_an_nnx_module_equals_a_handwritten_step():
    states = trained(nnx_problem(nnx_model(), DATA, loss=nnx_loss, optimizer=OPTIMIZER))

    @nnx.jit
    def step(model, optimizer, images, labels, key):
        bits = jax.random.bits(key)
        for dropout in model.dropouts:
            dropout.rngs.key[...] = jax.random.fold_in(dropout.rngs.key[...], bits)
        (_, _), grads = nnx.value_and_grad(nnx_loss, has_aux=True)(model, (images, labels), None)
        optimizer.update(model, grads)

    for number in range(2):
        model = nnx_model()
        optimizer = nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)
        fresh = nnx.state(nnx_model(), nnx.RngState)
        for index in range(STEPS):
            images, labels = member(batches(1, None), number)
            # Every step begins with the initial streams.
            nnx.update(model, jax.tree.map(jnp.copy, fresh))
            step(model, optimizer, images[index], labels[index], step_key(number, index))
        assert as_bytes(member(states.params, number)) == as_bytes(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        expected = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        assert as_bytes(member(states.model_state, number)) == as_bytes(expected)


def test_an_nnx_model_is_not_changed_and_its_parameters_are_plain_dicts():
    model = nnx_model()
    before = as_bytes(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))))
    problem = nnx_problem(model, DATA, loss=nnx_loss, optimizer=OPTIMIZER)
    trained(problem)
    assert as_bytes(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey)))) == before
    params, model_state = problem.init(KEYS[0])
    assert params["hidden"]["1"]["kernel"].shape == (8, 8)
    assert set(model_state) == {"norm"}


def test_every_step_and_every_dropout_of_an_nnx_model_has_its_own_mask():
    class Masks(nnx.Module):
        def __init__(self, rngs):
            self.scale = nnx.Param(jnp.ones(()))
            self.dropouts = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

    seen = []

    def loss(model, batch, key):
        seen.append([dropout(jnp.ones(64)).tobytes() for dropout in model.dropouts])
        return model.scale[...]

    model = Masks(nnx.Rngs(dropout=0))
    problem = nnx_problem(model, DATA, loss=loss)
    for key in KEYS:
        problem.loss_fn(*problem.init(key), DATA, key)
    assert len({mask for masks in seen for mask in masks}) == 4


def test_an_nnx_evaluation_gets_the_model_in_eval_mode():
    def evaluate(model):
        return {"loss": cross_entropy(model(X), Y)}

    problem = nnx_problem(nnx_model(), DATA, loss=nnx_loss, evaluate=evaluate)
    model = nnx_model()
    model.eval()
    assert problem.evaluate(*problem.init(KEYS[0]))["loss"] == cross_entropy(model(X), Y)
    again = problem.loss_fn.merge(*problem.init(KEYS[0]))
    assert isinstance(again, Nnx)


def test_a_linen_module_is_rejected_as_an_nnx_module():
    with pytest.raises(TypeError, match=r"model must be a module of flax.nnx, got"):
        nnx_problem(Linen(), DATA, loss=nnx_loss)


# Equinox.


class Equinox(eqx.Module):
    layers: list
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.layers = [eqx.nn.Linear(4, 8, key=first), eqx.nn.Linear(8, 3, key=second)]
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.layers[0](x), state)
        return self.layers[1](self.dropout(jax.nn.relu(x), key=key)), state


def equinox_loss(model, state, batch, key):
    keys = jax.random.split(key, len(batch[0]))
    mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    logits, state = mapped(batch[0], state, keys)
    return cross_entropy(logits, batch[1]), (state, {"largest": logits.max()})


def test_a_step_of_an_equinox_model_equals_a_handwritten_step():
    make = eqx.nn.make_with_state(Equinox)
    model, state = make(jax.random.key(0))
    states = trained(equinox_problem(model, DATA, loss=equinox_loss, state=state, optimizer=OPTIMIZER))

    @eqx.filter_jit
    def step(model, state, opt_state, images, labels, key):
        gradient = eqx.filter_value_and_grad(equinox_loss, has_aux=True)
        (_, (state, _)), grads = gradient(model, state, (images, labels), key)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, opt_state

    for number in range(2):
        model, state = make(jax.random.key(0))
        opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))
        for index in range(STEPS):
            images, labels = member(batches(1, None), number)
            model, state, opt_state = step(
                model, state, opt_state, images[index], labels[index], step_key(number, index)
            )
        params = sorted(as_bytes(eqx.filter(model, eqx.is_inexact_array)))
        assert sorted(as_bytes(member(states.params, number))) == params
        assert sorted(as_bytes(member(states.model_state, number))) == sorted(as_bytes(eqx.filter(state, eqx.is_array)))


def plain_loss(model, batch, key):
    return cross_entropy(jax.vmap(model)(batch[0]), batch[1])


def test_an_equinox_model_without_state_evaluates_and_is_recovered():
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))

    def evaluate(model):
        return {"loss": cross_entropy(jax.vmap(model)(X), Y)}

    problem = equinox_problem(model, DATA, loss=plain_loss, evaluate=evaluate, optimizer=OPTIMIZER)
    params, model_state = problem.init(KEYS[0])
    assert (params["layers"]["0"]["weight"].shape, model_state) == ((8, 4), {})
    assert problem.evaluate(params, model_state)["loss"] == evaluate(model)["loss"]
    assert eqx.tree_equal(problem.loss_fn.merge(params, model_state), model)
    losses = problem.loss_fn(params, model_state, DATA, KEYS[0])
    assert losses[0] == losses[1][1]["loss"] == evaluate(model)["loss"]


def test_an_equinox_evaluation_gets_the_model_and_its_state_in_inference_mode():
    model, state = eqx.nn.make_with_state(Equinox)(jax.random.key(0))

    def evaluate(model, state):
        logits, _ = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(X, state)
        return {"loss": cross_entropy(logits, Y), "inference": jnp.float32(model.dropout.inference)}

    problem = equinox_problem(model, DATA, loss=equinox_loss, state=state, evaluate=evaluate)
    assert problem.evaluate(*problem.init(KEYS[0]))["inference"] == 1


def test_without_equinox_the_adapter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "equinox", None)
    with pytest.raises(ImportError, match="equinox_problem needs Equinox; `pip install equinox` installs it"):
        equinox_problem(None, DATA, loss=plain_loss)


# Common to all adapters.


def problems():
    mlp = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    model, state = eqx.nn.make_with_state(Equinox)(jax.random.key(0))
    return {
        "linen": lambda **more: flax_problem(Linen(), DATA, **more),
        "nnx": lambda **more: nnx_problem(nnx_model(), DATA, loss=nnx_loss, **more),
        "equinox": lambda **more: equinox_problem(mlp, DATA, loss=plain_loss, **more),
        "equinox state": lambda **more: equinox_problem(model, DATA, loss=equinox_loss, state=state, **more),
    }


@pytest.mark.parametrize("name", problems())
def test_descriptions_of_a_problem_pass_through(name):
    problem = problems()[name](optimizer=OPTIMIZER, describe={"model": "small"}, version="2", filter_axis=(0, 1))
    assert isinstance(problem, Problem)
    assert (problem.optimizer, problem.describe, problem.version) == (OPTIMIZER, {"model": "small"}, "2")
    assert problem.filter_axis == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", problems())
def test_copies_of_an_adapted_model_are_retrained_in_every_strategy(name):
    problem = problems()[name](optimizer=optax.sgd(0.1))
    params, model_state = problem.init(KEYS[0])
    start = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    for strategy in ("loop", "grad_vmap"):
        *_, last = retrain(
            problem.loss_fn,
            problem.optimizer,
            start,
            problem.data,
            epochs=1,
            key=KEYS[0],
            model_state=model_state,
            batch_size=3,
            strategy=strategy,
        )
        assert last.metrics["finite"].all()
        assert np.isfinite(last.metrics["epoch_loss"]).all()


@pytest.mark.parametrize("name", problems())
def test_filters_are_the_outputs_of_a_layer(name):
    problem = problems()[name]()
    params, _ = problem.init(KEYS[0])
    direction = filter_normalize(random_direction(KEYS[0], params), params, filter_axis=problem.filter_axis)
    axis = 0 if "equinox" in name else -1
    for moved, leaf in zip(jax.tree.leaves(direction), jax.tree.leaves(params), strict=True):
        if leaf.ndim == 2:
            norms = [np.linalg.norm(np.moveaxis(np.asarray(each), axis, 0), axis=1) for each in (moved, leaf)]
            np.testing.assert_allclose(*norms, rtol=1e-5)


def test_the_filters_of_an_embedding_are_its_rows():
    problem = flax_problem(
        Deterministic(), (np.arange(6), Y), loss=lambda model, batch, key: model(batch[0], deterministic=False).mean()
    )
    params, _ = problem.init(KEYS[0])
    moved = filter_normalize(random_direction(KEYS[0], params), params, filter_axis=problem.filter_axis)
    norms = [np.linalg.norm(each["Embed_0"]["embedding"], axis=1) for each in (moved, params)]
    np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_filters_of_attention_are_those_of_one_feature_of_one_head(framework, with_bias):
    tokens = jnp.ones((2, 5, 8))
    if framework == "linen":
        attention = nn.MultiHeadDotProductAttention(num_heads=4, use_bias=with_bias)
        problem = flax_problem(attention, tokens, loss=lambda model, batch, key: model(batch).mean())
    else:
        attention = nnx.MultiHeadAttention(4, 8, use_bias=with_bias, decode=False, rngs=nnx.Rngs(0))
        problem = nnx_problem(attention, tokens, loss=lambda model, batch, key: model(batch).mean())
    params, _ = problem.init(KEYS[0])
    moved = filter_normalize(random_direction(KEYS[0], params), params, filter_axis=problem.filter_axis)
    for name, inputs in (("query", 0), ("key", 0), ("value", 0), ("out", (0, 1))):
        assert params[name]["kernel"].shape == ((4, 2, 8) if name == "out" else (8, 4, 2))
        norms = [jnp.sqrt((each[name]["kernel"] ** 2).sum(axis=inputs)) for each in (moved, params)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
        if with_bias:
            np.testing.assert_array_equal(moved[name]["bias"], 0)


def test_filters_of_a_layer_with_several_output_axes_are_those_of_its_bias():
    layer = nn.DenseGeneral((3, 2))
    problem = flax_problem(layer, jnp.ones((4, 5)), loss=lambda model, batch, key: model(batch).mean())
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(problem.init(KEYS[0])[0])]
    assert {path[-1].key: problem.filter_axis(path) for path in paths} == {"kernel": (-2, -1), "bias": -1}


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_losses_with_other_arguments_are_rejected(name):
    adapter = {"nnx": lambda loss: nnx_problem(nnx_model(), DATA, loss=loss)}.get(
        name, lambda loss: equinox_problem(nn.Dense(1), DATA, loss=loss)
    )
    with pytest.raises(TypeError, match=r"loss must be a function loss\(model, batch, key\) -> loss or"):
        adapter(lambda model, batch: 0)


def test_metrics_that_are_not_a_dict_are_rejected():
    problem = equinox_problem(jnp.ones(2), DATA, loss=lambda model, batch, key: (model.sum(), 3))
    with pytest.raises(TypeError, match="metrics is a dict, got 3"):
        problem.loss_fn(*problem.init(KEYS[0]), DATA, KEYS[0])

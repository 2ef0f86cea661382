"""Optimisers of optax: each row of docs/optimizers.md equals a loop of direct optax calls, to the bit."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxscape.training.train import init_states, make_stacked_step, make_step, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimized")]

DOCS = Path(__file__).parents[2] / "docs" / "optimizers.md"
KEYS = jax.random.split(jax.random.key(0), 2)
STEPS = 3
# Leaves [member, step, batch, ...].
INPUTS = np.random.default_rng(0).normal(size=(2, STEPS, 5, 3)).astype(np.float32)
TARGETS = np.random.default_rng(1).normal(size=(2, STEPS, 5, 2)).astype(np.float32)
PARAMS = {
    "kernel": np.random.default_rng(2).normal(size=(2, 3, 2)).astype(np.float32),
    "bias": np.zeros((2, 2), np.float32),
}


def loss_of(params, batch):
    inputs, targets = batch
    return jnp.mean((jnp.tanh(inputs @ params["kernel"]) + params["bias"][None] - targets) ** 2)


def loss_fn(params, model_state, batch, key):
    loss = loss_of(params, batch)
    return loss, (model_state, {"loss": loss})


def is_kernel(params):
    return {"kernel": True, "bias": False}


def labels(params):
    return {"kernel": "adam", "bias": "sgd"}


# By the name in docs/optimizers.md.
GRADIENTS_ALONE = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.1),
    "adamw": lambda: optax.adamw(0.1, mask=is_kernel),
    "nadamw": lambda: optax.nadamw(0.1),
    "adamax": lambda: optax.adamax(0.1),
    "amsgrad": lambda: optax.amsgrad(0.1),
    "adabelief": lambda: optax.adabelief(0.1),
    "adan": lambda: optax.adan(0.1),
    "adagrad": lambda: optax.adagrad(0.1),
    "adadelta": lambda: optax.adadelta(0.1),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "rmsprop": lambda: optax.rmsprop(0.1),
    "rprop": lambda: optax.rprop(0.1),
    "lion": lambda: optax.lion(0.1),
    "signum": lambda: optax.sign_sgd(0.1),
    "lamb": lambda: optax.lamb(0.1),
    "lars": lambda: optax.lars(0.1),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=0),
    "sm3": lambda: optax.sm3(0.1),
    "yogi": lambda: optax.yogi(0.1),
    "novograd": lambda: optax.novograd(0.1),
    "radam": lambda: optax.radam(0.1),
    "optimistic_gradient_descent": lambda: optax.optimistic_gradient_descent(0.1),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.add_decayed_weights(0.1), optax.adam(0.1)),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(0.1, 10)),
    "masked": lambda: optax.chain(optax.masked(optax.add_decayed_weights(0.1), is_kernel), optax.sgd(0.1)),
    "partition": lambda: optax.partition({"adam": optax.adam(0.1), "sgd": optax.sgd(0.1)}, labels),
    "multi_transform": lambda: optax.multi_transform({"adam": optax.adam(0.1), "sgd": optax.sgd(0.1)}, labels),
    "freeze": lambda: optax.partition({"adam": optax.adam(0.1), "sgd": optax.set_to_zero()}, labels),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 2),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 2),
    "MultiSteps.gradient_transformation": lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "contrib.schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "contrib.schedule_free_adamw": lambda: optax.contrib.schedule_free_adamw(0.1),
    "contrib.sam": lambda: optax.contrib.sam(optax.sgd(0.1), optax.contrib.normalize(), sync_period=2),
    "contrib.muon": lambda: optax.contrib.muon(0.1),
    "contrib.prodigy": lambda: optax.contrib.prodigy(0.1),
    "contrib.dadapt_adamw": lambda: optax.contrib.dadapt_adamw(0.1),
    "contrib.dog": lambda: optax.contrib.dog(0.1),
    "contrib.mechanize": lambda: optax.contrib.mechanize(optax.sgd(0.1)),
    "contrib.cocob": lambda: optax.contrib.cocob(0.1),
    "contrib.ademamix": lambda: optax.contrib.ademamix(0.1),
    "contrib.adopt": lambda: optax.contrib.adopt(0.1),
    "contrib.acprop": lambda: optax.contrib.acprop(0.1),
    "contrib.madgrad": lambda: optax.contrib.madgrad(0.1),
    "contrib.galore": lambda: optax.contrib.galore(0.1, rank=1),
}
WITH_MORE = {
    "lbfgs": lambda: optax.lbfgs(),
    "scale_by_backtracking_linesearch": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
    "scale_by_zoom_linesearch": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(5)),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "contrib.reduce_on_plateau": lambda: optax.chain(
        optax.adam(0.1), optax.contrib.reduce_on_plateau(patience=0, factor=0.5)
    ),
    "contrib.momo": lambda: optax.contrib.momo(0.1),
    "contrib.momo_adam": lambda: optax.contrib.momo_adam(0.1),
    "contrib.sam, opaque": lambda: optax.contrib.sam(
        optax.sgd(0.1), optax.contrib.normalize(), sync_period=2, opaque_mode=True
    ),
}


OPTIMIZERS = GRADIENTS_ALONE | WITH_MORE
# Name -> its text in docs/optimizers.md.
TABLE = dict(re.findall(r"^\| `(.+)` \| (the same bytes|the same to rounding)", DOCS.read_text(), re.MULTILINE))


def batches(epoch, keys):
    return INPUTS, TARGETS


def extras(name, value, grads, value_fn):
    """Return what optax's documentation of this optimiser passes to update."""
    if name not in WITH_MORE:
        return {}
    if "sam" in name:
        return {"grad_fn": lambda params, _: jax.grad(value_fn)(params)}
    if "linesearch" in name or name == "lbfgs":
        return {"value": value, "grad": grads, "value_fn": value_fn}
    return {"value": value}


def by_hand(name, optimizer):
    """Run the loop that users of optax write, for one member after the other."""

    @jax.jit
    def step(params, opt_state, batch):
        def value_fn(params):
            return loss_of(params, batch)

        value, grads = jax.value_and_grad(value_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params, **extras(name, value, grads, value_fn))
        return optax.apply_updates(params, updates), opt_state

    for member in range(2):
        params = jax.tree.map(lambda leaf, member=member: jnp.asarray(leaf[member]), PARAMS)
        opt_state = optimizer.init(params)
        for index in range(STEPS):
            params, opt_state = step(params, opt_state, (INPUTS[member, index], TARGETS[member, index]))
        yield params, opt_state


def trained(optimizer, **arguments):
    states = init_states(PARAMS, optimizer, keys=KEYS)
    *_, last = train(loss_fn, optimizer, states, batches, epochs=1, **arguments)
    return last.states


def as_arrays(tree):
    def array(leaf):
        return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return [array(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(ours, theirs, words):
    ours, theirs = as_arrays(ours), as_arrays(theirs)
    if words == "the same bytes":
        assert [leaf.tobytes() for leaf in ours] == [leaf.tobytes() for leaf in theirs]
    else:
        for own, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-6)


@pytest.mark.parametrize("name", TABLE)
def test_training_equals_a_loop_over_optaxs_calls(name):
    optimizer = OPTIMIZERS[name]()
    states = trained(optimizer)
    for member, theirs in enumerate(by_hand(name, optimizer)):
        own = jax.tree.map(lambda leaf, member=member: leaf[member], (states.params, states.opt_state))
        assert_same(own, theirs, TABLE[name])
    assert not np.array_equal(states.params["kernel"], PARAMS["kernel"])


def test_the_table_of_the_docs_lists_every_optimiser_tested_here():
    assert TABLE.keys() == OPTIMIZERS.keys()


def test_lookahead_works_as_the_docs_wrap_it():
    ahead = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5)
    wrapped = optax.GradientTransformation(
        ahead.init, lambda grads, state, params: ahead.update(grads.fast, state, params)
    )
    states = init_states(optax.LookaheadParams.init_synced(PARAMS), wrapped, keys=KEYS)
    run = train(lambda params, *rest: loss_fn(params.fast, *rest), wrapped, states, batches, epochs=1)
    *_, last = run
    for member in range(2):

        @jax.jit
        def step(params, opt_state, batch):
            updates, opt_state = ahead.update(jax.grad(loss_of)(params.fast, batch), opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        params = optax.LookaheadParams.init_synced(
            jax.tree.map(lambda leaf, own=member: jnp.asarray(leaf[own]), PARAMS)
        )
        opt_state = ahead.init(params)
        for index in range(STEPS):
            params, opt_state = step(params, opt_state, (INPUTS[member, index], TARGETS[member, index]))
        own = jax.tree.map(lambda leaf, member=member: leaf[member], last.states.params)
        assert_same(own, params, "the same bytes")


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        (optax.contrib.sophia(0.1), ValueError, "obj_fn must be provided"),
        (optax.contrib.differentially_private_aggregate(1.0, 0.1, key=0), ValueError, "to have a batch dimension"),
    ],
    ids=["sophia", "private"],
)
def test_what_the_docs_call_rejected_is_rejected_before_any_work(optimizer, error, message):
    with pytest.raises(error, match=message):
        train(loss_fn, optimizer, init_states(PARAMS, optimizer, keys=KEYS), batches, epochs=1)


def test_the_loss_function_is_traced_again_only_for_an_optimiser_that_calls_it():
    def traces(optimizer):
        calls = []

        def counted(*arguments):
            calls.append(1)
            return loss_fn(*arguments)

        data = (INPUTS[0, 0], TARGETS[0, 0])
        list(train(counted, optimizer, init_states(PARAMS, optimizer, keys=KEYS), data, epochs=1, batch_size=5))
        return len(calls)

    # An update that takes extra arguments and uses none of them, and one that uses only the loss.
    ignoring = optax.with_extra_args_support(optax.adam(0.1))
    assert [traces(each) for each in (optax.adam(0.1), ignoring, WITH_MORE["polyak_sgd"]())] == [1, 1, 1]
    assert traces(WITH_MORE["lbfgs"]()) > 1


@pytest.mark.parametrize("make", [make_step, make_stacked_step])
def test_an_optimiser_that_takes_extra_arguments_and_uses_none_is_the_same_program(make):
    states = init_states(PARAMS, optax.adam(0.1), keys=KEYS)
    batch = (INPUTS[:, 0], TARGETS[:, 0])
    arguments = states, batch, KEYS
    if make is make_step:
        arguments = jax.tree.map(lambda leaf: leaf[0], arguments)
    texts = [
        jax.jit(make(loss_fn, optimizer)).lower(*arguments).as_text()
        for optimizer in (optax.adam(0.1), optax.with_extra_args_support(optax.adam(0.1)))
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("strategy", ["vmap_grad", "grad_vmap"])
@pytest.mark.parametrize("name", ["lbfgs", "contrib.reduce_on_plateau", "contrib.sam, opaque"])
def test_optimisers_that_use_the_loss_run_as_a_stack_too(name, strategy):
    optimizer = WITH_MORE[name]()
    one, stack = trained(optimizer), trained(optimizer, strategy=strategy)
    for ours, theirs in zip(*(jax.tree.leaves(states.params) for states in (one, stack)), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-5)

"""Stacks of members, and that the arithmetic of a member is the same alone and beside others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_stacks import dense_members, small_networks

from jaxscape.tasks.augment import augmentation
from jaxscape.tasks.classification import flax_loss, standardization
from jaxscape.tasks.models import WideResNet
from jaxscape.training import members
from jaxscape.training.members import (
    Update,
    epoch_runner,
    map_members,
    num_members,
    parse_strategy,
    stack_members,
    take_member,
)
from jaxscape.training.train import TrainState, copy_states, init_states, make_step


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("strategy", ["loop", "threads:3"])
def test_a_network_trains_to_the_same_bytes_alone_and_in_a_stack_of_20(strategy):
    generator = np.random.default_rng(1)
    images, labels = generator.integers(0, 256, (30, 8, 8, 1), np.uint8), generator.integers(0, 10, 30)
    optimizer = optax.sgd(0.1, momentum=0.9)
    loss_fn = flax_loss(
        WideResNet(10, 1, 10), preprocess=standardization(images), augment=augmentation("crop", padding=1)
    )
    step = make_step(loss_fn, optimizer)

    def update(state, data, rows, epoch, index):
        batch = jax.tree.map(lambda array: array[rows], data)
        return step(state, batch, jax.random.fold_in(jax.random.fold_in(state.key, epoch), index))

    params, model_state = small_networks(20)
    states = init_states(params, optimizer, keys=jax.random.split(jax.random.key(0), 20), model_state=model_state)
    rows = generator.integers(0, 30, (20, 3, 8))
    run, data = epoch_runner(Update(update), strategy=strategy), (jnp.asarray(images), jnp.asarray(labels))
    one_of = jax.jit(lambda stack, member: jax.tree.map(lambda leaf: leaf[member][None], stack))
    together, metrics = run(copy_states(states), data, rows, 1)
    for member in (0, 7, 19):
        alone, own_metrics = run(one_of(states, member), data, rows[[member]], 1)
        expected = one_of(together, member)
        for ours, theirs in zip(jax.tree.leaves(alone.params), jax.tree.leaves(expected.params), strict=True):
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
        assert own_metrics["loss"][0] == metrics["loss"][member]
    for new, old in zip(jax.tree.leaves(together.params), jax.tree.leaves(params), strict=True):
        assert not np.array_equal(new, old)


def test_an_epoch_passes_epoch_and_step_numbers_and_every_members_own_batches():
    def update(state, data, batch, epoch, step):
        return state * 10 + batch, {"sum": data + 100 * epoch + 10 * step + batch}

    batches = jnp.array([[1, 2], [3, 4], [5, 6]])
    states, metrics = epoch_runner(Update(update))(jnp.array([7, 8, 9]), 1000, batches, 2)
    np.testing.assert_array_equal(states, [712, 834, 956])
    np.testing.assert_array_equal(metrics["sum"], 1205 + batches.mean(axis=1))


ALL = (
    "loop",
    "threads",
    "threads:2",
    "vmap_grad",
    "vmap_grad:2",
    "vmap_grad:3",
    "vmap_grad:9",
    "grad_vmap",
    "grad_vmap:2",
)


def assert_like_the_loop(strategy):
    update, states, data, rows = dense_members(5)
    expected, expected_metrics = epoch_runner(update)(copy_states(states), data, rows, 3)
    actual, metrics = epoch_runner(update, strategy=strategy)(copy_states(states), data, rows, 3)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, loops in zip(*map(jax.tree.leaves, (actual._replace(key=0), expected._replace(key=0))), strict=True):
        np.testing.assert_allclose(ours, loops, rtol=1e-5, atol=1e-6)
    assert actual.model_state["seen"].tolist() == [5] * 5
    for name in ("loss", "hidden"):
        assert metrics[name].dtype == np.float64
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ALL)
def test_every_strategy_gives_the_results_of_the_loop(strategy):
    assert_like_the_loop(strategy)


@pytest.mark.slow
@pytest.mark.usefixtures("by_epoch")
@pytest.mark.parametrize("strategy", ALL)
def test_whole_epochs_in_one_program_give_the_same(strategy):
    assert_like_the_loop(strategy)


@pytest.mark.usefixtures("by_epoch")
def test_whole_epochs_equal_single_steps(monkeypatch):
    update, states, data, rows = dense_members(3)
    together, metrics = epoch_runner(update)(copy_states(states), data, rows, 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    members._advance.cache_clear()
    apart, expected = epoch_runner(update)(states, data, rows, 2)
    for ours, loops in zip(*map(jax.tree.leaves, (together.params, apart.params)), strict=True):
        np.testing.assert_allclose(ours, loops, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)


def test_a_stacked_step_keeps_members_independent():
    # One member with NaN: the gradient of the sum must not spread it to the others.
    update, states, data, rows = dense_members(3)
    expected, _ = epoch_runner(update, strategy="grad_vmap")(copy_states(states), data, rows, 1)
    broken = states._replace(params=jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), states.params))
    actual, metrics = epoch_runner(update, strategy="grad_vmap")(broken, data, rows, 1)
    for ours, alone in zip(*map(jax.tree.leaves, (actual.params, expected.params)), strict=True):
        assert np.isnan(ours[1]).all()
        np.testing.assert_array_equal(np.delete(ours, 1, 0), np.delete(alone, 1, 0))
    assert np.isnan(metrics["loss"]).tolist() == [False, True, False]


def counted_traces(strategy, members_count):
    """Return how often the step is traced in three epochs of four steps."""
    traces = []

    def one(state, data, batch, epoch, step):
        traces.append(1)
        return state + batch + epoch + step, {"sum": data + batch.sum()}

    run, states = (
        epoch_runner(Update(one, jax.vmap(one, (0, None, 0, None, None))), strategy=strategy),
        jnp.zeros(members_count),
    )
    for epoch in (1, 2, 3):
        states, _ = run(states, jnp.float32(2), jnp.ones((members_count, 4)), epoch)
    return len(traces)


@pytest.mark.parametrize(
    ("strategy", "count"),
    [("loop", 1), ("threads", 1), ("vmap_grad", 1), ("grad_vmap", 1), ("vmap_grad:3", 1), ("vmap_grad:4", 2)],
)
def test_nothing_is_traced_again_between_steps_chunks_and_epochs(strategy, count):
    assert counted_traces(strategy, 6) == count  # 4 does not divide 6: the remaining 2 have a program of their own


@pytest.mark.usefixtures("by_epoch")
@pytest.mark.parametrize(("strategy", "count"), [("loop", 1), ("vmap_grad:3", 1), ("grad_vmap:4", 2)])
def test_nothing_is_traced_again_if_an_epoch_is_one_program(strategy, count):
    assert counted_traces(strategy, 6) == count


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("", "unknown strategy ''"),
        ("loop:2", "unknown strategy 'loop:2'"),
        ("vmap_grad:", "must be a whole number of at least 1, got 'vmap_grad:'"),
        ("vmap_grad:0", "must be a whole number of at least 1, got 'vmap_grad:0'"),
        ("threads:-1", "must be a whole number of at least 1, got 'threads:-1'"),
        ("grad_vmap:2.5", "must be a whole number of at least 1, got 'grad_vmap:2.5'"),
    ],
)
def test_invalid_strategies_are_rejected(strategy, message):
    with pytest.raises(ValueError, match=message):
        parse_strategy(strategy)


def test_grad_vmap_needs_a_step_for_a_stack():
    with pytest.raises(ValueError, match="'grad_vmap' needs an update with a step for a stack of members"):
        epoch_runner(Update(lambda *_: None), strategy="grad_vmap")


def test_an_error_in_a_thread_is_raised():
    def one(state, data, batch, epoch, step):
        raise FloatingPointError("in the step")

    with pytest.raises(FloatingPointError, match="in the step"):
        epoch_runner(Update(one), strategy="threads:2")(jnp.zeros(4), 0, jnp.ones((4, 1)), 1)


def test_unknown_strategies_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown strategy 'vmap2'; known: auto, loop, threads, vmap_grad, grad_vmap"):
        epoch_runner(Update(lambda *_: None), strategy="vmap2")


# Out of memory on the device


def no_room_for_more_than(monkeypatch, most, *, lost=False):
    """Make programs with more than `most` members fail, as on a GPU whose memory is full; `lost`: donated states go."""
    real = members._advance

    def advance(step, mesh):
        made = real(step, mesh)

        def run(state, data, batches, epoch):
            count = jax.tree.leaves(batches)[0].shape[1]
            if count > most:
                if lost:
                    jax.tree.map(lambda leaf: leaf.delete(), state)
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
            return made.run(state, data, batches, epoch)

        return made._replace(run=run)

    monkeypatch.setattr(members, "_advance", advance)


@pytest.mark.parametrize("strategy", ["vmap_grad", "grad_vmap:5", "vmap_grad:4"])
def test_if_members_do_not_fit_at_once_fewer_run_at_once(monkeypatch, strategy):
    update, states, data, rows = dense_members(5)
    expected, expected_metrics = epoch_runner(update)(copy_states(states), data, rows, 3)
    no_room_for_more_than(monkeypatch, 2)
    run = epoch_runner(update, strategy=strategy)
    with pytest.warns(RuntimeWarning, match="at once do not fit into the device's memory; continuing with") as warned:
        actual, metrics = run(states, data, rows, 3)
    assert str(warned[-1].message).endswith("continuing with 2")
    for ours, loops in zip(*map(jax.tree.leaves, (actual.params, expected.params)), strict=True):
        np.testing.assert_allclose(ours, loops, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-5)
    run(actual, data, rows, 4)  # it remembers how many fit: a warning would be an error


def test_a_single_member_that_does_not_fit_is_a_memory_error(monkeypatch):
    update, states, data, rows = dense_members(2)
    no_room_for_more_than(monkeypatch, 0)
    with (
        pytest.warns(RuntimeWarning, match="2 members at once do not fit"),
        pytest.raises(MemoryError, match=r"one member does not fit .* bfloat16 .*Out of memory"),
    ):
        epoch_runner(update, strategy="vmap_grad")(states, data, rows, 1)

    monkeypatch.undo()

    def one(state, data, batch, epoch, step):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with pytest.raises(MemoryError, match="one member does not fit"):
        epoch_runner(Update(one))(jnp.zeros(4), 0, jnp.ones((4, 1)), 1)


def test_states_lost_in_a_failure_are_not_used_again(monkeypatch):
    update, states, data, rows = dense_members(4)
    no_room_for_more_than(monkeypatch, 2, lost=True)
    with pytest.raises(MemoryError, match="4 members at once do not fit"):
        epoch_runner(update, strategy="vmap_grad")(states, data, rows, 1)


def test_another_device_error_is_raised_unchanged():
    def one(state, data, batch, epoch, step):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    for strategy in ("loop", "vmap_grad"):
        with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: broken"):
            epoch_runner(Update(one), strategy=strategy)(jnp.zeros(4), 0, jnp.ones((4, 1)), 1)


def test_members_taken_from_a_stack_equal_those_stacked():
    networks = [{"kernel": jnp.full((2, 3), i), "rest": (jnp.array(i), jax.random.key(i))} for i in range(3)]
    stacked = stack_members(networks)
    assert num_members(stacked) == 3
    for number, member in enumerate(networks):
        taken = take_member(stacked, number)
        assert jax.tree.structure(taken) == jax.tree.structure(member)
        assert all(jnp.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (taken, member)), strict=True))


def test_mapping_over_members_gives_numpy_arrays_with_one_result_per_member():
    scale, shift = {"a": jnp.arange(3.0)}, jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    results = map_members(lambda s, b: {"value": s["a"] * b.sum(), "vector": b, "number": 0.5}, scale, shift)
    assert all(isinstance(values, np.ndarray) for values in results.values())
    np.testing.assert_array_equal(results["value"], [0, 7, 22])
    np.testing.assert_array_equal(results["vector"], shift)
    np.testing.assert_array_equal(results["number"], [0.5] * 3)


def test_a_train_state_is_a_stack_with_its_keys():
    keys = jax.random.split(jax.random.key(0), 4)
    assert num_members(TrainState(np.zeros((4, 2)), {}, (), keys)) == 4


@pytest.mark.parametrize(
    ("stacked", "message"),
    [
        ({}, "at least one array, got an empty pytree"),
        ({"a": np.zeros((0, 2))}, r"at least one member \(or example\), got shape \(0, 2\)"),
        (np.float32(1), r"must share their leading axis, got  of shape \(\)"),
        ({"a": np.zeros(3), "b": [np.zeros(())]}, r"got \['a'\] of shape \(3,\) and \['b'\]\[0\] of shape \(\)"),
        ({"a": np.zeros((3, 1)), "b": np.zeros((2, 3))}, r"\['a'\] of shape \(3, 1\) and \['b'\] of shape \(2, 3\)"),
    ],
)
def test_stacks_without_a_common_leading_axis_are_rejected(stacked, message):
    with pytest.raises(ValueError, match=message):
        num_members(stacked)

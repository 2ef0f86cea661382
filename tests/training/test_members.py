"""Stacks of members, and that a member sees the same arithmetic alone and beside others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.training.augment import augmentation
from jaxscape.training.members import (
    Update,
    epoch_runner,
    map_members,
    num_members,
    stack_members,
    take_member,
)
from jaxscape.training.models import WideResNet
from jaxscape.training.objective import flax_loss, standardization
from jaxscape.training.train import TrainState, copy_states, init_states, make_step


def small_networks(members):
    """Random parameters of WRN-10-1 [member, ...] and its first model state."""
    shapes = jax.eval_shape(WideResNet(10, 1, 10).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * generator.standard_normal((members, *leaf.shape), np.float32), shapes["params"]
    )
    return params, {"batch_stats": jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["batch_stats"])}


@pytest.mark.parametrize("strategy", ["loop", "threads:3"])
def test_a_network_trains_to_the_same_bytes_alone_and_among_20(strategy):
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


def test_unknown_strategies_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown strategy 'vmap2'; known: loop"):
        epoch_runner(Update(lambda *_: None), strategy="vmap2")


def test_members_taken_from_a_stack_are_those_put_into_it():
    members = [{"kernel": jnp.full((2, 3), i), "rest": (jnp.array(i), jax.random.key(i))} for i in range(3)]
    stacked = stack_members(members)
    assert num_members(stacked) == 3
    for number, member in enumerate(members):
        taken = take_member(stacked, number)
        assert jax.tree.structure(taken) == jax.tree.structure(member)
        assert all(jnp.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (taken, member)), strict=True))


def test_mapping_over_members_gives_numpy_arrays_of_a_result_a_member():
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
def test_stacks_without_a_common_leading_axis_are_refused(stacked, message):
    with pytest.raises(ValueError, match=message):
        num_members(stacked)

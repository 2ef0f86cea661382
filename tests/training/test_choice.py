"""Autotuning: the choice of a strategy, and the device memory of each."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from small_stacks import dense_members, small_networks

from jaxscape.tasks.classification import flax_loss
from jaxscape.tasks.models import WideResNet
from jaxscape.training import choice as choice_room
from jaxscape.training.choice import choose_strategy, estimate_memory, memory_of, num_bytes
from jaxscape.training.members import lower_epoch
from jaxscape.training.train import init_states, member_update


def test_the_fastest_strategy_is_chosen_and_arguments_are_not_changed(monkeypatch):
    update, states, data, rows = dense_members(4)
    before = jax.tree.map(np.asarray, states._replace(key=0))
    pace = {"loop": 3.0, "threads": 2.0, "vmap_grad": 1.0}
    turns = []

    def trial(run, strategy, count, *arguments):
        turns.append(strategy)
        return pace[strategy]

    monkeypatch.setattr(choice_room, "_trial", trial)
    choice = choose_strategy(update, states, data, rows)
    assert choice.strategy == "vmap_grad"
    assert choice.seconds == pace
    assert turns == 8 * ["loop", "threads", "vmap_grad"]  # a first round that compiles, then seven
    pace |= {"threads": 2.95, "vmap_grad": 2.95}
    assert choose_strategy(update, states, data, rows).strategy == "loop"
    turns.clear()
    assert choose_strategy(update, states, data, rows, known={choice.key: "threads"})[:3] == ("threads", {}, choice.key)
    assert choose_strategy(update, states, data, rows, seconds=0).seconds == pace
    assert len(turns) == 4 * 3
    monkeypatch.undo()
    choice = choose_strategy(update, states, data, rows, seconds=0)
    assert choice.strategy in choice.seconds
    assert set(choice.seconds) == {"loop", "threads", "vmap_grad"}
    for now, then in zip(*map(jax.tree.leaves, (states._replace(key=0), before)), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("loop", "threads", "chosen", "consistent"),
    [
        ([2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1], "threads", True),
        ([2, 2, 2, 2, 2, 2, 2], [1, 1, 9, 1, 1, 1, 1], "threads", True),  # disturbed once
        ([2, 2, 2, 2, 2, 2, 2], [1, 1, 9, 1, 9, 1, 1], "threads", False),
        ([4.2, 4.0, 6.9, 9.1, 4.4, 5.1, 4.3], [9.6, 2.9, 8.0, 8.8, 5.6, 8.1, 9.2], "loop", False),  # a busy machine
        ([2.00, 2.01, 1.99, 2.00, 2.02, 1.98, 2.00], [1.99, 1.98, 2.01, 1.99, 2.00, 2.01, 1.97], "loop", True),  # a tie
    ],
)
def test_a_choice_is_consistent_if_its_rounds_agree(monkeypatch, loop, threads, chosen, consistent):
    times = {"loop": iter([0, *loop]), "threads": iter([0, *threads])}  # a first round that compiles
    monkeypatch.setattr(choice_room, "_trial", lambda run, strategy, *arguments: float(next(times[strategy])))
    choice = choose_strategy(*dense_members(4), candidates=["loop", "threads"])
    assert (choice.strategy, choice.consistent) == (chosen, consistent)


def test_of_three_rounds_none_may_disagree(monkeypatch):
    for last, consistent in ((1, True), (9, False)):
        times = {"loop": iter([0, 2, 2, 2]), "threads": iter([0, 1, 1, last])}
        trial = lambda run, strategy, *arguments, times=times: float(next(times[strategy]))  # noqa: E731
        monkeypatch.setattr(choice_room, "_trial", trial)
        choice = choose_strategy(*dense_members(4), candidates=["loop", "threads"], seconds=0)
        assert (choice.strategy, choice.consistent) == ("threads", consistent)


def test_a_strategy_that_fails_is_dropped(monkeypatch):
    def trial(run, strategy, *arguments):
        if "vmap" in strategy:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return 1.0

    monkeypatch.setattr(choice_room, "_trial", trial)
    update, states, data, rows = dense_members(4)
    assert set(choose_strategy(update, states, data, rows).seconds) == {"loop", "threads"}
    with pytest.raises(ValueError, match="none of the strategies vmap_grad, vmap_grad:2 runs on this device"):
        choose_strategy(update, states, data, rows, candidates=["vmap_grad", "vmap_grad:2"])


def test_the_key_of_a_choice_depends_on_network_shapes_and_members():
    update, states, data, rows = dense_members(3)
    key = choose_strategy(update, states, data, rows, candidates=["loop"]).key
    again = choose_strategy(*dense_members(3), candidates=["loop"]).key
    assert key == again
    others = [
        dense_members(4),
        dense_members(3, optax.sgd(0.1)),
        (update, states, data, rows[:, :, :3]),
    ]
    assert len({key, *(choose_strategy(*other, candidates=["loop"]).key for other in others)}) == 4


def test_on_a_cpu_networks_with_convolutions_are_not_tried_in_one_program():
    loss_fn = flax_loss(WideResNet(10, 1, 10))
    params, model_state = small_networks(2)
    optimizer = optax.sgd(0.1)
    states = init_states(params, optimizer, keys=jax.random.split(jax.random.key(0), 2), model_state=model_state)
    data, rows = (jnp.zeros((8, 8, 8, 1)), jnp.zeros(8, jnp.int32)), jnp.zeros((2, 1, 4), jnp.int32)
    update = member_update(loss_fn, optimizer, from_arrays=True)
    assert choice_room._candidates(update, states, data, rows) == ["loop", "threads"]
    assert choice_room._candidates(*dense_members(2)) == ["loop", "threads", "vmap_grad"]
    assert choice_room._candidates(*dense_members(1)) == ["loop"]


@pytest.mark.usefixtures("by_epoch")
def test_on_a_gpu_chunks_and_both_orders_are_tried():
    actual = choice_room._candidates(*dense_members(6))
    assert actual == ["loop", *(f"{kind}{k}" for kind in ("vmap_grad", "grad_vmap") for k in (":2", ":5", ""))]


# Memory


def test_bytes_are_counted_over_all_arrays_and_shapes():
    tree = {
        "a": np.zeros((3, 4), np.float32),
        "b": [jnp.zeros(5, jnp.bfloat16)],
        "key": jax.random.split(jax.random.key(0), 2),
    }
    assert num_bytes(tree) == 48 + 10 + 16
    assert num_bytes(jax.eval_shape(lambda: tree)) == 48 + 10 + 16
    assert num_bytes({}) == 0


def wide_members(count):
    """Return members whose intermediate results are larger than anything else: 1,000 x 256 float32 per layer, 1 MB."""

    def loss_fn(params, model_state, batch, key):
        hidden = jnp.tanh(batch @ params)
        return jnp.mean(hidden**2), (model_state, {"loss": hidden.mean()})

    optimizer = optax.sgd(0.1)
    keys = jax.random.split(jax.random.key(0), count)
    states = init_states(jnp.ones((count, 4, 256)), optimizer, keys=keys)
    data, rows = jnp.ones((1000, 4)), jnp.tile(jnp.arange(1000), (count, 2, 1))
    return member_update(loss_fn, optimizer, from_arrays=True), states, data, rows


def test_the_estimate_counts_states_data_and_the_program():
    work = wide_members(6)
    takes = {
        strategy: estimate_memory(*work, strategy=strategy)
        for strategy in ("loop", "vmap_grad:2", "vmap_grad:3", "vmap_grad", "grad_vmap:2")
    }
    for memory in takes.values():
        assert memory.states == 6 * (4 * 256 * 4 + 8)
        assert memory.data == 1000 * 4 * 4 + 2 * (6 * 2 * 1000 * 4)
        assert memory.total == sum(memory)
    assert 1e6 < takes["loop"].program < 4e6
    # Programs grow with the number of members at once.
    for strategy, count in {"vmap_grad:2": 2, "vmap_grad:3": 3, "vmap_grad": 6, "grad_vmap:2": 2}.items():
        assert count * 1e6 < takes[strategy].program < count * 4e6
    shapes = jax.eval_shape(lambda: work[1:])
    assert estimate_memory(work[0], *shapes, strategy="vmap_grad:2") == takes["vmap_grad:2"]


def test_the_padding_of_a_device_is_counted():
    _, states, data, rows = wide_members(6)
    shapes, of_rows = num_bytes(states), num_bytes(rows)

    class Compiled:  # like a TPU, which pads the arrays of a chunk of two by a half
        def memory_analysis(self):
            of_states, of_data = shapes // 6 * 2 * 3 // 2, num_bytes(data) * 3 // 2
            return SimpleNamespace(
                temp_size_in_bytes=5_000_000,
                output_size_in_bytes=of_states + 1000,
                alias_size_in_bytes=of_states,
                argument_size_in_bytes=of_states + of_data + of_rows // 3,
            )

    memory = memory_of(Compiled(), states, data, rows, strategy="vmap_grad:2")
    assert memory.states == shapes * 3 // 2
    assert memory.data == num_bytes(data) * 3 // 2 + 2 * of_rows
    assert memory.program == 5_001_000 + shapes // 2  # two of six are a copy of their own while they run


@pytest.mark.usefixtures("by_epoch")
def test_the_program_for_a_mesh_is_the_program_of_each_device():
    update, states, data, rows = wide_members(4)
    mesh = Mesh(np.array(jax.devices()[:1]), ("member",))
    shapes = jax.eval_shape(lambda: (states, data, rows))
    for strategy in ("loop", "vmap_grad:2", "grad_vmap"):
        alone = lower_epoch(update, strategy, *shapes).compile()
        shared = lower_epoch(update, strategy, *shapes, mesh).compile()
        assert shared.input_shardings[0][1] == NamedSharding(mesh, PartitionSpec())  # the data
        takes = memory_of(alone, *shapes, strategy=strategy)
        assert memory_of(shared, *shapes, strategy=strategy).total == pytest.approx(takes.total, rel=0.01)


@pytest.mark.usefixtures("by_epoch")
def test_an_epoch_as_one_program_takes_the_memory_of_its_steps():
    work = wide_members(4)
    for strategy, count in {"loop": 1, "vmap_grad:2": 2, "vmap_grad": 4}.items():
        assert count * 1e6 < estimate_memory(*work, strategy=strategy).program < count * 4e6


@pytest.mark.usefixtures("by_epoch")
def test_strategies_that_do_not_fit_are_not_tried(monkeypatch):
    work = wide_members(6)
    tried = []

    def trial(run, strategy, *arguments):
        tried.append(strategy)
        return 1.0

    monkeypatch.setattr(choice_room, "_trial", trial)
    takes = {name: estimate_memory(*work, strategy=name).total for name in choice_room._candidates(*work)}
    room = sorted(takes.values())[3]
    choose_strategy(*work, max_bytes=room)
    assert set(tried) == {name for name, total in takes.items() if total <= room}
    tried.clear()
    assert choose_strategy(*work, max_bytes=min(takes.values())).strategy == "loop"
    with pytest.raises(
        MemoryError, match=r"not even one member fits .* with 6 members on it loop takes 0.00 GiB of 0.00"
    ):
        choose_strategy(*work, max_bytes=min(takes.values()) - 1)


def test_the_free_memory_that_a_device_reports_is_used(monkeypatch):
    work = wide_members(6)
    placed = num_bytes(work[1:])
    assert choice_room._free_bytes(*work[1:]) is None  # a CPU

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 10_000_000, "bytes_in_use": 4_000_000, "peak_bytes_in_use": 5_000_000}

    class Array:
        shape, dtype = (6, 1), np.dtype(np.float32)

        def devices(self):
            return {Device()}

    assert choice_room._free_bytes(Array(), *work[2:]) == 6_000_000 + placed - num_bytes(work[1]) + 24

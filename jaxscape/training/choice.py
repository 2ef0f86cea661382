"""Which strategy is the fastest here, and which of them fit into the device's memory: measured before the work."""

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxscape.training.members import (
    EpochRunner,
    Update,
    epoch_runner,
    lower_epoch,
    num_members,
    num_workers,
    parse_strategy,
    take_range,
)
from jaxscape.xla_cpu.convolutions import convolution_flops

PyTree = Any


class Choice(NamedTuple):
    """The outcome of a measurement of strategies."""

    strategy: str
    seconds: dict[str, float]  # strategy -> median time of one step of one member; empty where nothing was measured
    key: str  # of the network, the shapes, the number of members, the device and the versions


class DeviceMemory(NamedTuple):
    """Bytes that the retraining takes on one device; evaluation comes between epochs, when the programs are at rest."""

    states: int  # of all members
    data: int  # and the batches of an epoch
    program: int  # what the running program adds: intermediate results and the states that it works on

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def estimate_memory(update: Update, states: PyTree, data: PyTree, batches: PyTree, *, strategy: str) -> DeviceMemory:
    """What a strategy will take of a device's memory, by the compiler's own account; nothing is run.

    Args:
        update: one step.
        states: [member, ...] of the members of one device; arrays or their shapes (`jax.eval_shape`), here and below.
        data: as the update takes it.
        batches: [member, step, ...].
        strategy: as for `epoch_runner`.
    """
    compiled = lower_epoch(update, strategy, states, data, batches).compile()
    return memory_of(compiled, states, data, batches, strategy=strategy)


def memory_of(compiled: Any, states: PyTree, data: PyTree, batches: PyTree, *, strategy: str) -> DeviceMemory:
    """`estimate_memory` by the program that is compiled already (`jax.stages.Compiled`)."""
    members = num_members(states)
    kind, together = parse_strategy(strategy)
    apart = kind in ("loop", "threads")
    at_once = 1 if apart else min(together or members, members)
    programs = min(num_workers(strategy), members)
    found = compiled.memory_analysis()
    new = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    # A device may pad arrays (a TPU does): what takes the place of donated states has the size that these have there.
    of_states = max(found.alias_size_in_bytes, at_once * num_bytes(states) // members)
    of_batches = num_bytes(batches)
    of_data = max(found.argument_size_in_bytes - of_states - at_once * of_batches // members, num_bytes(data))
    part = 0 if at_once == members and not apart else of_states
    # The order of the batches' axes is turned, which is a copy.
    return DeviceMemory(members * of_states // at_once, of_data + 2 * of_batches, programs * (new + part))


def num_bytes(tree: PyTree) -> int:
    """Of all arrays, or shapes of arrays, in a pytree."""

    def of_leaf(leaf: Any) -> int:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize

    return sum(map(of_leaf, jax.tree.leaves(tree)))


def choose_strategy(
    update: Update,
    states: PyTree,
    data: PyTree,
    batches: PyTree,
    *,
    candidates: Sequence[str] | None = None,
    known: Mapping[str, str] | None = None,
    seconds: float = 5.0,
    max_bytes: int | None = None,
) -> Choice:
    """The fastest strategy for this work on this machine, by a short measurement, of those that fit into its memory.

    Each candidate runs a few steps of a few members (copies: nothing given is changed), in turn and three to seven
    times, after a first time that compiles. The first candidate is kept unless another is 3 % faster.

    Args:
        update: one step.
        states: [member, ...].
        data: as the update takes it.
        batches: [member, step, ...], of any epoch.
        candidates: strategies; by default what suits the kind of device. One that fails (for want of memory, say)
            is out.
        known: choices of earlier measurements by `Choice.key`; one that is there is not measured again.
        seconds: stop after the third turn when the measurement has taken that long.
        max_bytes: of the device's memory; by default what it has free, where it tells (a CPU does not).

    Raises:
        ValueError: where no candidate runs.
        MemoryError: where not even one member fits.
    """
    key = _key(update, states, data, batches)
    if known is not None and key in known:
        return Choice(known[key], {}, key)
    members = num_members(states)
    candidates = candidates or _candidates(update, states, data, batches)
    room = _free_bytes(states, data, batches) if max_bytes is None else max_bytes
    if room is not None:
        candidates = _fitting(update, states, data, batches, candidates, room)
    if len(candidates) == 1:
        return Choice(candidates[0], {}, key)
    trials = {name: partial(_trial, epoch_runner(update, strategy=name), name, members) for name in candidates}
    times: dict[str, list[float]] = {}
    for name, trial in trials.items():
        try:
            trial(states, data, batches)
        except jax.errors.JaxRuntimeError:
            continue
        times[name] = []
    if not times:
        raise ValueError(f"none of the strategies {', '.join(candidates)} runs on this device")
    started = time.monotonic()
    for turn in range(7):
        for name, measured in times.items():
            measured.append(trials[name](states, data, batches))
        if turn >= 2 and time.monotonic() - started > seconds:
            break
    medians = {name: float(np.median(measured)) for name, measured in times.items()}
    first, best = next(iter(medians)), min(medians, key=lambda name: medians[name])
    return Choice(best if medians[best] < 0.97 * medians[first] else first, medians, key)


def _free_bytes(states: PyTree, data: PyTree, batches: PyTree) -> int | None:
    """What the device has for the whole of the work, part of which lies on it already; None where it does not tell."""
    (device, *_) = jax.tree.leaves(states)[0].devices()
    found = device.memory_stats() or {}
    if not {"bytes_limit", "bytes_in_use"} <= found.keys():
        return None
    return int(found["bytes_limit"] - found["bytes_in_use"]) + num_bytes((states, data, batches))


def _fitting(
    update: Update, states: PyTree, data: PyTree, batches: PyTree, candidates: Sequence[str], room: int
) -> list[str]:
    """The candidates that fit, in their order."""
    takes = {name: estimate_memory(update, states, data, batches, strategy=name).total for name in candidates}
    fitting = [name for name in candidates if takes[name] <= room]
    if not fitting:
        name = min(takes, key=lambda name: takes[name])
        raise MemoryError(
            f"not even one member fits into the device's memory: with {num_members(states)} members on it {name} takes "
            f"{takes[name] / 2**30:.2f} GiB of {room / 2**30:.2f}; fewer members, a smaller batch_size or bfloat16 "
            "activations take less"
        )
    return fitting


def _candidates(update: Update, states: PyTree, data: PyTree, batches: PyTree) -> Sequence[str]:
    """The strategies that are worth a trial."""
    members = num_members(states)
    if members == 1:
        return ["loop"]
    together = [f":{count}" for count in (2, 5) if count < members] + [""]
    if jax.default_backend() != "cpu":
        kinds = ("vmap_grad", "grad_vmap") if update.stack else ("vmap_grad",)
        return ["loop", *(kind + number for kind in kinds for number in together)]
    # Convolutions of several networks at once are many times slower on a CPU, and slow to compile.
    return ["loop", "threads", *([] if convolution_flops(_program(update, states, data, batches)) else ["vmap_grad"])]


def _trial(run: EpochRunner, strategy: str, members: int, states: PyTree, data: PyTree, batches: PyTree) -> float:
    """Seconds for a step of a member, measured over a few steps of as many members as the strategy takes at once."""
    kind, together = parse_strategy(strategy)
    together = {"loop": 2, "threads": 2 * num_workers(strategy)}.get(kind, together or members)
    count, steps = min(together, members), min(4, jax.tree.leaves(batches)[0].shape[1])
    some, own = take_range(states, 0, count), jax.tree.map(lambda leaf: leaf[:count, :steps], batches)
    jax.block_until_ready((some, own))
    started = time.perf_counter()
    jax.block_until_ready(run(some, data, own, 1)[0])
    return (time.perf_counter() - started) / (count * steps)


def _program(update: Update, states: PyTree, data: PyTree, batches: PyTree) -> Any:
    """The step of one member as a jaxpr."""
    state = jax.eval_shape(lambda states: jax.tree.map(lambda leaf: leaf[0], states), states)
    batch = jax.eval_shape(lambda batches: jax.tree.map(lambda leaf: leaf[0, 0], batches), batches)
    return jax.make_jaxpr(update.one)(state, data, batch, np.int32(0), np.int32(0))


def _key(update: Update, states: PyTree, data: PyTree, batches: PyTree) -> str:
    """A short name for what the speed of a strategy follows from."""
    # Functions and arrays inside a program are printed with their addresses.
    program = re.sub(r"0x[0-9a-f]+", "", str(_program(update, states, data, batches)))
    device = jax.devices()[0].device_kind
    facts = (program, num_members(states), device, jax.device_count(), os.cpu_count(), jax.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

"""Autotuning of the execution strategy: measure which one is the fastest here, of those that fit into memory."""

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxscape.arguments import is_prng_key
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
from jaxscape.xla_cpu import compiler
from jaxscape.xla_cpu.convolutions import convolution_flops

PyTree = Any

_ROUNDS = 7
_TIE = 0.97  # ratios of times above this one are ties


class Choice(NamedTuple):
    """The result of autotuning."""

    strategy: str
    seconds: dict[str, float]  # strategy -> median time of one step of one member; empty where nothing was measured
    key: str  # hash of the network, the shapes, the number of members, the device and the versions
    consistent: bool = True  # whether the rounds of the measurement agree; see `choose_strategy`


class DeviceMemory(NamedTuple):
    """Bytes that training takes on one device. Evaluation runs between epochs, when no training program runs."""

    states: int  # of all members
    data: int  # with the batches of an epoch
    program: int  # added by the running program: intermediate results and the states that it works on

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return sum(self)


def estimate_memory(update: Update, states: PyTree, data: PyTree, batches: PyTree, *, strategy: str) -> DeviceMemory:
    """Estimate the device memory of a strategy from the compiler's memory analysis, without running it.

    Args:
        update: one step.
        states: [member, ...] of the members of one device. States, data and batches may be arrays or their shapes
            (`jax.eval_shape`).
        data: as the update takes it.
        batches: [member, step, ...].
        strategy: as for `epoch_runner`.
    """
    lowered = lower_epoch(update, strategy, states, data, batches)
    with compiler.without_storing() if jax.default_backend() == "cpu" else nullcontext():
        compiled = lowered.compile()
    return memory_of(compiled, states, data, batches, strategy=strategy)


def memory_of(compiled: Any, states: PyTree, data: PyTree, batches: PyTree, *, strategy: str) -> DeviceMemory:
    """Return what `estimate_memory` returns, given the compiled program (`jax.stages.Compiled`)."""
    members = num_members(states)
    kind, together = parse_strategy(strategy)
    separate = kind in ("loop", "threads")
    at_once = 1 if separate else min(together or members, members)
    programs = min(num_workers(strategy), members)
    analysis = compiled.memory_analysis()
    new = analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    # A device may pad arrays (a TPU does): the aliased outputs of donated states show their padded size.
    of_states = max(analysis.alias_size_in_bytes, at_once * num_bytes(states) // members)
    of_batches = num_bytes(batches)
    of_data = max(analysis.argument_size_in_bytes - of_states - at_once * of_batches // members, num_bytes(data))
    part = 0 if at_once == members and not separate else of_states
    # Twice the batches: swapping their member and step axes makes a copy.
    return DeviceMemory(members * of_states // at_once, of_data + 2 * of_batches, programs * (new + part))


def num_bytes(tree: PyTree) -> int:
    """Return the bytes of all arrays, or shapes of arrays, in a pytree."""

    def of_leaf(leaf: Any) -> int:
        if is_prng_key(leaf):
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
    """Time the candidates briefly, and return the fastest strategy that fits into the device's memory.

    Each candidate runs a few steps of a few members (on copies: the arguments are not changed). After a first run that
    compiles, the candidates are timed in turn, in three to seven rounds. The first candidate is chosen unless the
    median of another is 3 % faster. The choice is consistent if the chosen strategy is also nowhere slower than another
    by 3 % or more: in none of the rounds, or at most one of seven. Otherwise something else used the machine.

    Args:
        update: one step.
        states: [member, ...].
        data: as the update takes it.
        batches: [member, step, ...], of any epoch.
        candidates: strategies; the default depends on the kind of device. A candidate that fails (out of memory, for
            example) is dropped.
        known: results of earlier measurements by `Choice.key`; a known key is not measured again.
        seconds: stop after the third round once the measurement has taken this long.
        max_bytes: device memory to use; by default what is free, if the device reports it (a CPU does not).

    Raises:
        ValueError: if no candidate runs.
        MemoryError: if not even one member fits.
    """
    key = _key(update, states, data, batches)
    if known is not None and key in known:
        return Choice(known[key], {}, key)
    members = num_members(states)
    candidates = candidates or _candidates(update, states, data, batches)
    available = _free_bytes(states, data, batches) if max_bytes is None else max_bytes
    if available is not None:
        candidates = _fitting(update, states, data, batches, candidates, available)
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
    for repeat in range(_ROUNDS):
        for name, measured in times.items():
            measured.append(trials[name](states, data, batches))
        if repeat >= 2 and time.monotonic() - started > seconds:
            break
    medians = {name: float(np.median(measured)) for name, measured in times.items()}
    first, best = next(iter(medians)), min(medians, key=lambda name: medians[name])
    chosen = best if medians[best] < _TIE * medians[first] else first
    return Choice(chosen, medians, key, _is_consistent(times, chosen))


def _is_consistent(times: Mapping[str, list[float]], chosen: str) -> bool:
    """Return whether the rounds agree that no other strategy is faster than the chosen one.

    Medians always have an order, however busy the machine. If it were random, one of two strategies would win all of
    three rounds in one case of four, and six of seven in one of eight.
    """
    measured = np.array([times[chosen], *times.values()])
    lost = (measured[1:] < _TIE * measured[0]).sum(axis=1)
    return bool((lost <= measured.shape[1] // _ROUNDS).all())


def _free_bytes(states: PyTree, data: PyTree, batches: PyTree) -> int | None:
    """Return the device memory for training: what is free, and what the arguments occupy. None if it is not known."""
    (device, *_) = jax.tree.leaves(states)[0].devices()
    stats = device.memory_stats() or {}
    if not {"bytes_limit", "bytes_in_use"} <= stats.keys():
        return None
    return int(stats["bytes_limit"] - stats["bytes_in_use"]) + num_bytes((states, data, batches))


def _fitting(
    update: Update, states: PyTree, data: PyTree, batches: PyTree, candidates: Sequence[str], available: int
) -> list[str]:
    """Return the candidates that fit into memory, in the given order."""
    needed = {name: estimate_memory(update, states, data, batches, strategy=name).total for name in candidates}
    fitting = [name for name in candidates if needed[name] <= available]
    if not fitting:
        name = min(needed, key=lambda name: needed[name])
        raise MemoryError(
            f"not even one member fits into the device's memory: with {num_members(states)} members on it {name} takes "
            f"{needed[name] / 2**30:.2f} GiB of {available / 2**30:.2f}; fewer members, a smaller batch_size or "
            "bfloat16 activations take less"
        )
    return fitting


def _candidates(update: Update, states: PyTree, data: PyTree, batches: PyTree) -> Sequence[str]:
    """Return the strategies to measure."""
    members = num_members(states)
    if members == 1:
        return ["loop"]
    together = [f":{count}" for count in (2, 5) if count < members] + [""]
    if jax.default_backend() != "cpu":
        kinds = ("vmap_grad", "grad_vmap") if update.stack else ("vmap_grad",)
        return ["loop", *(kind + number for kind in kinds for number in together)]
    # A CPU runs the convolutions of several networks in one program many times slower, and compiles them slowly.
    return ["loop", "threads", *([] if convolution_flops(_program(update, states, data, batches)) else ["vmap_grad"])]


def _trial(run: EpochRunner, strategy: str, members: int, states: PyTree, data: PyTree, batches: PyTree) -> float:
    """Return seconds per step and member, over a few steps of as many members as the strategy runs at once."""
    kind, together = parse_strategy(strategy)
    together = {"loop": 2, "threads": 2 * num_workers(strategy)}.get(kind, together or members)
    count, steps = min(together, members), min(4, jax.tree.leaves(batches)[0].shape[1])
    some, own = take_range(states, 0, count), jax.tree.map(lambda leaf: leaf[:count, :steps], batches)
    jax.block_until_ready((some, own))
    started = time.perf_counter()
    jax.block_until_ready(run(some, data, own, 1)[0])
    return (time.perf_counter() - started) / (count * steps)


def _program(update: Update, states: PyTree, data: PyTree, batches: PyTree) -> Any:
    """Return the jaxpr of the step of one member."""
    state = jax.eval_shape(lambda states: jax.tree.map(lambda leaf: leaf[0], states), states)
    batch = jax.eval_shape(lambda batches: jax.tree.map(lambda leaf: leaf[0, 0], batches), batches)
    return jax.make_jaxpr(update.one)(state, data, batch, np.int32(0), np.int32(0))


def _key(update: Update, states: PyTree, data: PyTree, batches: PyTree) -> str:
    """Return a hash of everything that the speed of a strategy depends on."""
    # A jaxpr prints the functions and arrays in it with their memory addresses.
    program = re.sub(r"0x[0-9a-f]+", "", str(_program(update, states, data, batches)))
    device = jax.devices()[0].device_kind
    facts = (program, num_members(states), device, jax.device_count(), os.cpu_count(), jax.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

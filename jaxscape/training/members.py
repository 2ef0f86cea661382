"""Execution strategies: how a stack of members runs on the hardware.

A strategy turns the step of one member into an epoch of a stack of members (pytrees whose leaves have a leading
`member` axis). Callers only name the strategy:

    run = epoch_runner(update, strategy="loop")
    states, metrics = run(states, data, batches, epoch)

    loop           one member after the other
    threads        several at once, each in its own thread: for a CPU, which one small network cannot saturate
    vmap_grad      all in one program, gradients inside: vmap(grad(f))
    grad_vmap      all in one program, members inside: grad(sum of vmap(f)); XLA generates different convolutions
    vmap_grad:4    four in one program, then the next four; likewise grad_vmap:4 and threads:4

With "loop" and "threads" the arithmetic of a member does not depend on the other members, and both give the same
bytes. Between the other strategies rounding differs.

On a GPU or TPU a whole epoch is compiled (a `lax.scan` over its steps). On a CPU a single step is compiled, because
loops inside a program are slow there. On several devices (`jaxscape.training.devices`) each device runs its own
members with the strategy, all at the same time; "threads" means "loop" there.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxscape.training.devices import (
    BY_MEMBER,
    BY_STEP_AND_MEMBER,
    REPLICATED,
    local_members,
    local_stacks,
    num_local_devices,
    per_device,
    shapes_on,
)
from jaxscape.xla_cpu import compiler

PyTree = Any

STRATEGIES = ("loop", "threads", "vmap_grad", "grad_vmap")
EVALUATIONS = ("loop", "threads", "vmap")  # strategies where nothing is trained


class Update(NamedTuple):
    """One training step, for one member and for a stack of members at once.

    Both functions are pure: (state, data, batch, epoch, step) -> (state, metrics), where data, epoch and step (int32)
    are the same for all members.
    """

    one: Callable[..., tuple[PyTree, PyTree]]
    stack: Callable[..., tuple[PyTree, PyTree]] | None = None  # other than `vmap` of one; needed by "grad_vmap"


class EpochRunner(Protocol):
    """A function that runs one epoch of every member."""

    def __call__(self, states: PyTree, data: PyTree, batches: PyTree, epoch: int) -> tuple[PyTree, PyTree]:
        """Run states [member, ...] (donated) on batches [member, step, ...]; return states and metrics [member]."""
        ...


def take_member(stacked: PyTree, member: int) -> PyTree:
    """Return one member of a stack."""
    return _take(stacked, member)


def stack_members(members: list[PyTree]) -> PyTree:
    """Return a stack of members that share one structure."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def num_members(stacked: PyTree) -> int:
    """Return the length of the leading axis that all leaves share.

    Raises:
        ValueError: if there is no leaf or no member, or the leaves disagree (the message names two of them).
    """
    leaves = jax.tree_util.tree_leaves_with_path(stacked)
    if not leaves:
        raise ValueError("a stack of members needs at least one array, got an empty pytree")
    first_path, first = leaves[0]
    for path, leaf in leaves:
        if np.ndim(leaf) == 0 or np.shape(leaf)[0] != np.shape(first)[0]:
            raise ValueError(
                "arrays stacked by member (or by example) must share their leading axis, got "
                f"{jax.tree_util.keystr(first_path)} of shape {np.shape(first)} and "
                f"{jax.tree_util.keystr(path)} of shape {np.shape(leaf)}"
            )
    if np.shape(first)[0] == 0:
        raise ValueError(f"a stack needs at least one member (or example), got shape {np.shape(first)}")
    return np.shape(first)[0]


def epoch_runner(update: Update, *, strategy: str = "loop", mesh: Mesh | None = None) -> EpochRunner:
    """Return a function that runs one epoch of all members.

    Args:
        update: one step.
        strategy: how the members run together: one of `STRATEGIES`. Those that run several members at once accept
            their number, as in "vmap_grad:4". On a mesh, every device uses this strategy.
        mesh: the mesh of devices that the members are sharded over. States and batches must be sharded over it
            (`shard_members`), and data replicated.

    Returns:
        `run(states, data, batches, epoch) -> (states, metrics)`. Metrics are means over the steps, NumPy [member], of
        the members on this process's devices. The function compiles once per number of members, and once more if the
        number at once does not divide it.

    Raises:
        ValueError: for an unknown strategy (the message lists the known ones), or a number below 1.
        MemoryError: from the returned function, if not even one member fits into the device's memory. If several at
            once do not fit, it continues with half as many and warns.
    """
    kind, together = parse_strategy(strategy)
    if kind in ("loop", "threads"):
        if mesh is None:
            return _run_separately(_advance(update.one, None), num_workers(strategy))
        return _run_together(_advance(_stack_of_one(update.one), mesh), mesh, 1)
    return _run_together(_advance(_stacked_step(update, strategy), mesh), mesh, together)


def lower_epoch(
    update: Update, strategy: str, states: PyTree, data: PyTree, batches: PyTree, mesh: Mesh | None = None
) -> Any:
    """Lower the program of a strategy, for as many members as it runs at once, without running it.

    Args:
        update: one step.
        strategy: as for `epoch_runner`.
        states: [member, ...]. States, data and batches may be arrays or their shapes (`jax.eval_shape`).
        data: as the update takes it.
        batches: [member, step, ...].
        mesh: as for `epoch_runner`; its size must divide the number of members. Its devices need not be attached (a
            topology description will do).

    Returns:
        The result of `jax.jit(...).lower`.
    """
    kind, together = parse_strategy(strategy)
    devices = 1 if mesh is None else mesh.size
    each = num_members(states) // devices
    if kind in ("loop", "threads"):
        if mesh is None:
            state, own = jax.eval_shape(lambda *stacked: _first(stacked), states, batches)
            return _advance(update.one, None).lower(state, data, own, 1)
        step, count = _stack_of_one(update.one), devices
    else:
        step, count = _stacked_step(update, strategy), devices * min(together or each, each)

    def some(states: PyTree, batches: PyTree) -> tuple[PyTree, PyTree]:
        of_steps = jax.tree.map(lambda leaf: jnp.swapaxes(leaf[:count], 0, 1), batches)
        return jax.tree.map(lambda leaf: leaf[:count], states), of_steps

    of_some, own = jax.eval_shape(some, states, batches)
    if mesh is not None:
        of_some, own = shapes_on(mesh, BY_MEMBER, of_some), shapes_on(mesh, BY_STEP_AND_MEMBER, own)
        data = shapes_on(mesh, REPLICATED, data)
    return _advance(step, mesh).lower(of_some, data, own, 1)


def _stacked_step(update: Update, strategy: str) -> Callable[..., tuple[PyTree, PyTree]]:
    if parse_strategy(strategy)[0] == "vmap_grad":
        return _vmapped(update.one)
    if update.stack is None:
        raise ValueError(f"strategy {strategy!r} needs an update with a step for a stack of members; this one has none")
    return update.stack


def parse_strategy(strategy: str, known: Sequence[str] = STRATEGIES) -> tuple[str, int | None]:
    """Return a strategy's kind and the number of members at once, None where it has none.

    Args:
        strategy: a kind, all but "loop" also with a number, as in "threads:4".
        known: the kinds that are allowed: `STRATEGIES` or `EVALUATIONS`.

    Raises:
        TypeError: for a strategy that is no string.
        ValueError: for an unknown strategy (lists the known ones), or a number below 1.
    """
    if not isinstance(strategy, str):
        raise TypeError(f"strategy must be a name such as 'loop', got {strategy!r:.100}")
    kind, colon, number = strategy.partition(":")
    if kind not in known or (colon and kind == "loop"):
        automatic = ("auto",) if known is STRATEGIES else ()  # which callers replace by one of the others
        raise ValueError(f"unknown strategy {strategy!r:.100}; known: {', '.join((*automatic, *known))}")
    if colon and not (number.isdecimal() and int(number) >= 1):
        raise ValueError(f"the number of members at once must be a whole number of at least 1, got {strategy!r}")
    return kind, int(number) if colon else None


def parse_evaluation(strategy: str | None, platform: str, *, stack: int) -> tuple[str, int]:
    """Return the kind of an evaluation strategy and the number of points at once.

    Args:
        strategy: one of `EVALUATIONS`, all but "loop" also with a number; None is "threads" on a CPU, "vmap" elsewhere.
        platform: platform of the devices.
        stack: points in one program for "vmap" without a number; "threads" without one takes one per CPU core.

    Raises:
        TypeError, ValueError: see `parse_strategy`.
    """
    if strategy is None:
        strategy = "threads" if platform == "cpu" else "vmap"
    kind, number = parse_strategy(strategy, EVALUATIONS)
    return kind, number or (stack if kind == "vmap" else num_workers(kind))


def map_members(
    function: Callable[..., PyTree], *stacked: PyTree, workers: int = 1, mesh: Mesh | None = None
) -> PyTree:
    """Apply `function` to each member on its own device, with `workers` threads; return NumPy arrays [member, ...].

    Only members on this process's devices are included.
    """
    devices = local_stacks(stacked, mesh)

    def of_member(number: int) -> PyTree:
        member, device = divmod(number, len(devices))  # round-robin, so that all devices are busy
        result = function(*(_take(tree, member) for tree in devices[device]))
        return result if workers == 1 else jax.block_until_ready(result)

    results = _map_in_threads(of_member, range(len(devices) * num_members(devices[0])), workers)
    # Transfer once at the end: all work is dispatched before the host waits for any of it.
    results = jax.device_get(results)
    return jax.tree.map(
        lambda *values: np.stack(values),
        *(each for first in range(len(devices)) for each in results[first :: len(devices)]),
    )


def _map_in_threads(function: Callable[[int], Any], members: Sequence[int], workers: int) -> list[Any]:
    """Apply `function` to each of these members, in as many threads as there are workers (one: no thread)."""
    if workers == 1:
        return list(map(function, members))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, members))


def num_workers(strategy: str) -> int:
    """Return the number of threads that a strategy uses."""
    kind, together = parse_strategy(strategy)
    return (together or getattr(os, "process_cpu_count", os.cpu_count)() or 1) if kind == "threads" else 1


@lru_cache(maxsize=4)  # the same function object each time, so that jax.jit finds the compiled program
def _vmapped(one: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., tuple[PyTree, PyTree]]:
    return jax.vmap(one, in_axes=(0, None, 0, None, None))


@lru_cache(maxsize=4)
def _stack_of_one(one: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., tuple[PyTree, PyTree]]:
    """Return the step of one member as the step of a stack of length one."""

    def step(states: PyTree, data: PyTree, batches: PyTree, epoch: PyTree, index: PyTree) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda leaf: leaf[None], one(_first(states), data, _first(batches), epoch, index))

    return step


class Advance(NamedTuple):
    """All steps of an epoch, for one state (of one member, or of several in one program) and its batches."""

    run: Callable[[PyTree, PyTree, PyTree, int], tuple[PyTree, PyTree]]  # state (donated), data, batches, epoch
    lower: Callable[[PyTree, PyTree, PyTree, int], Any]  # the lowered program, as from `jax.jit(...).lower`


@lru_cache(maxsize=4)  # "loop" and "threads" share one program of the same step
def _advance(step: Callable[..., tuple[PyTree, PyTree]], mesh: Mesh | None) -> Advance:
    return _by_step(step, mesh) if jax.default_backend() == "cpu" else _by_epoch(step, mesh)


def _by_step(step: Callable[..., tuple[PyTree, PyTree]], mesh: Mesh | None) -> Advance:
    specs = (BY_MEMBER, REPLICATED, BY_MEMBER, REPLICATED, REPLICATED)
    on_devices = partial(per_device, mesh=mesh, in_specs=specs, out_specs=BY_MEMBER)
    compiled = compiler.jit(step, donate_argnums=0, around=on_devices)

    def advance(state: PyTree, data: PyTree, batches: PyTree, epoch: int) -> tuple[PyTree, PyTree]:
        metrics = []
        for index in range(num_members(batches)):
            state, step_metrics = compiled(state, data, _take(batches, index), np.int32(epoch), np.int32(index))
            metrics.append(step_metrics)
        rows = [local_members(step_metrics, mesh) for step_metrics in metrics]
        return state, jax.tree.map(lambda *values: np.stack(values), *rows)

    def lower(state: PyTree, data: PyTree, batches: PyTree, epoch: int) -> Any:
        batch = jax.eval_shape(_first, batches)
        return compiled.lower(state, data, batch, np.int32(epoch), np.int32(0))  # type: ignore[attr-defined]

    return Advance(advance, lower)


def _by_epoch(step: Callable[..., tuple[PyTree, PyTree]], mesh: Mesh | None) -> Advance:
    def advance(state: PyTree, data: PyTree, batches: PyTree, epoch: int) -> tuple[PyTree, PyTree]:
        def body(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
            index, own = batch
            return step(state, data, own, jnp.int32(epoch), index)

        return jax.lax.scan(body, state, (jnp.arange(num_members(batches), dtype=jnp.int32), batches))

    specs = (BY_MEMBER, REPLICATED, BY_STEP_AND_MEMBER, REPLICATED)
    compiled = jax.jit(per_device(advance, mesh, specs, (BY_MEMBER, BY_STEP_AND_MEMBER)), donate_argnums=0)
    return Advance(compiled, compiled.lower)


def _run_separately(advance: Advance, workers: int) -> EpochRunner:
    """Return a runner of one program per member, with as many at once as there are workers."""

    def run(states: PyTree, data: PyTree, batches: PyTree, epoch: int) -> tuple[PyTree, PyTree]:
        def run_one(member: int) -> tuple[PyTree, PyTree]:
            state, metrics = advance.run(_take(states, member), data, _take(batches, member), epoch)
            return jax.block_until_ready(state), jax.tree.map(lambda leaf: leaf[:, None], metrics)

        members, metrics = num_members(states), []
        # In groups of `workers`, so that only one group of states exists twice in memory.
        for first in range(0, members, workers):
            group = range(first, min(first + workers, members))
            try:
                done = _map_in_threads(run_one, group, workers)
            except jax.errors.JaxRuntimeError as error:
                raise _memory_error(error, workers) from error
            for member, (state, own) in zip(group, done, strict=True):
                states = _put(states, state, member)
                metrics.append(own)
        return states, _means(metrics)

    return run


def _run_together(advance: Advance, mesh: Mesh | None, together: int | None) -> EpochRunner:
    """Return a runner of programs that hold several members each, on every device; fewer if they do not fit."""
    largest, have_run = together, set[int]()

    def run(states: PyTree, data: PyTree, batches: PyTree, epoch: int) -> tuple[PyTree, PyTree]:
        nonlocal largest
        members, metrics, first = num_members(states) // (1 if mesh is None else mesh.size), [], 0
        batches = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batches)
        while first < members:
            count = min(largest or members, members - first)
            try:
                some, rows = states, batches
                if count < members:
                    some, rows = take_range(states, first, count, 0, mesh), take_range(batches, first, count, 1, mesh)
                some, own = advance.run(some, data, rows, epoch)
                if count not in have_run:
                    jax.block_until_ready(some)  # raises here at the latest if memory is short
                    have_run.add(count)
            except jax.errors.JaxRuntimeError as error:
                lost = any(leaf.is_deleted() for leaf in jax.tree.leaves(states))
                if not is_out_of_memory(error) or count == 1 or lost or (mesh and mesh.is_multi_process):
                    raise _memory_error(error, count) from error
                largest = -(-count // 2)
                message = f"{count} members at once do not fit into the device's memory; continuing with {largest}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
                continue
            states = some if count == members else _put_range(states, some, first, mesh)
            metrics.append(own)
            first += count
        return states, _means(metrics, mesh)

    return run


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that a device is out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def _memory_error(error: jax.errors.JaxRuntimeError, members: int) -> Exception:
    """Return a MemoryError if the device is out of memory, else the error itself."""
    if not is_out_of_memory(error):
        return error
    number = "one member does" if members == 1 else f"{members} members at once do"
    return MemoryError(
        f"{number} not fit into the device's memory; fewer at once (strategy vmap_grad:2 or loop), a smaller "
        f"batch_size or bfloat16 activations need less ({str(error).splitlines()[0]:.200})"
    )


def _means(metrics: list[PyTree], mesh: Mesh | None = None) -> PyTree:
    """Return the means over the steps [member] of metrics [step, member] of groups of members on each device."""
    devices = num_local_devices(mesh)

    def mean(*leaves: Any) -> np.ndarray:
        # float64: the sum of a diverging member's losses must not overflow.
        some = [np.asarray(leaf, np.float64).mean(axis=0) for leaf in leaves]
        by_device = [values.reshape(devices, -1, *values.shape[1:]) for values in some]
        return np.concatenate(by_device, axis=1).reshape(-1, *some[0].shape[1:])

    return jax.tree.map(mean, *local_members(metrics, mesh, axis=1))


def _first(stacked: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], stacked)


@jax.jit
def _take(stacked: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], stacked)


@partial(jax.jit, static_argnames=("count", "axis", "mesh"))
def take_range(stacked: PyTree, first: int, count: int, axis: int = 0, mesh: Mesh | None = None) -> PyTree:
    """Return `count` members of each device from `first` on, as new arrays; `axis` is the member axis."""

    def take(stacked: PyTree, first: jax.Array) -> PyTree:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, count, axis), stacked)

    spec = BY_STEP_AND_MEMBER if axis else BY_MEMBER
    return per_device(take, mesh, (spec, REPLICATED), spec)(stacked, first)


@partial(jax.jit, donate_argnums=0)
def _put(stacked: PyTree, one: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf, value: leaf.at[index].set(value), stacked, one)


@partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _put_range(stacked: PyTree, part: PyTree, first: int, mesh: Mesh | None) -> PyTree:
    def put(stacked: PyTree, part: PyTree, first: jax.Array) -> PyTree:
        into = partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=0)
        return jax.tree.map(into, stacked, part)

    return per_device(put, mesh, (BY_MEMBER, BY_MEMBER, REPLICATED), BY_MEMBER)(stacked, part, first)

"""Members sharded over devices: a mesh with one axis, `member`, and the arrays on it.

Members are independent, so a step on several devices is the same step on each of them (`jax.shard_map`). A stack is
padded with copies of its last member until every device has the same number. The devices may belong to several
processes (`jax.distributed`): each process then holds the members of its own devices, and all processes call the
functions of this module with the same arguments.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxscape.arguments import is_prng_key

PyTree = Any

AXIS = "member"
BY_MEMBER = PartitionSpec(AXIS)
BY_STEP_AND_MEMBER = PartitionSpec(None, AXIS)
REPLICATED = PartitionSpec()


def member_mesh(members: int, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """Return a mesh of as many of these devices as the members need, or None if that is the default device alone.

    Args:
        members: the number of members.
        devices: all by default, including those of other processes. 20 members take two rounds on 16 devices and on
            10, so 10 are used. Every process contributes the same number.

    Raises:
        TypeError: if devices is not a sequence of devices.
        ValueError: for an empty list of devices, a device that is named twice, or devices of some processes but not of
            all.
    """
    if devices is not None:
        _check_devices(devices)
    by_process: dict[int, list[jax.Device]] = defaultdict(list)
    for device in jax.devices() if devices is None else devices:
        by_process[device.process_index].append(device)
    if not by_process:
        raise ValueError("devices must name at least one device, or be None for all")
    if set(by_process) not in ({jax.process_index()}, set(range(jax.process_count()))):
        raise ValueError(
            f"devices must be those of this process, {jax.process_index()}, or of all {jax.process_count()} "
            f"processes, got devices of the processes {sorted(by_process)}"
        )
    available = min(map(len, by_process.values()))
    per_process = -(-members // len(by_process))
    rounds = -(-per_process // available)
    used = -(-per_process // rounds)
    if devices is None and len(by_process) == used == 1:
        return None
    return Mesh(np.array([device for process in sorted(by_process) for device in by_process[process][:used]]), (AXIS,))


def _check_devices(devices: Sequence[jax.Device]) -> None:
    if not isinstance(devices, Iterable) or not all(hasattr(each, "process_index") for each in devices):
        raise TypeError(f"devices must be a list of devices, as jax.devices() gives it, got {devices!r:.100}")
    if len(set(devices)) < len(devices):
        raise ValueError(f"devices must be distinct, got {devices!r:.100}")


def shard_members(stacked: PyTree, mesh: Mesh | None) -> PyTree:
    """Shard a stack [member, ...] over the devices of a mesh, padded to a multiple of their number."""
    return _place(stacked if mesh is None else _pad(stacked, mesh.size), mesh, BY_MEMBER)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Put a copy of the arrays on every device of a mesh."""
    return _place(tree, mesh, REPLICATED)


def shapes_on(mesh: Mesh, spec: PartitionSpec, tree: PyTree) -> PyTree:
    """Return the shapes of arrays with this sharding on a mesh; its devices need not be attached."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def per_device(function: Callable[..., Any], mesh: Mesh | None, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Return a function of all members that applies `function` to the members of each device (`jax.shard_map`)."""
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def local_stacks(stacked: PyTree, mesh: Mesh | None) -> list[PyTree]:
    """Return one stack per device of this process, in the order of the mesh and thus of the members."""
    if mesh is None:
        return [stacked]
    return [
        jax.tree.map(lambda leaf, place=place: _shards(leaf, mesh)[place], stacked)
        for place in range(num_local_devices(mesh))
    ]


def num_local_devices(mesh: Mesh | None) -> int:
    """Return the number of devices of this process in a mesh."""
    return 1 if mesh is None else len(mesh.local_devices)


def local_members(stacked: PyTree, mesh: Mesh | None, *, axis: int = 0) -> PyTree:
    """Return the members of this process as NumPy arrays, from stacks whose member axis is `axis`."""
    if not _spans_processes(mesh):
        return jax.device_get(stacked)

    def rows(leaf: jax.Array | np.ndarray) -> np.ndarray:
        return leaf if isinstance(leaf, np.ndarray) else np.concatenate(jax.device_get(_shards(leaf, mesh)), axis)

    return jax.tree.map(rows, stacked)


def gather(rows: PyTree, mesh: Mesh | None) -> PyTree:
    """Return the NumPy arrays [member, ...] of all members on every process, given those of this process's members."""
    if not _spans_processes(mesh):
        return rows

    def of_all(leaf: np.ndarray) -> np.ndarray:
        # As bytes, because JAX would round float64 to float32.
        rows = np.ascontiguousarray(leaf)
        gathered = multihost_utils.process_allgather(rows.reshape(len(rows), -1).view(np.uint8), tiled=True)
        return np.ascontiguousarray(gathered).view(rows.dtype).reshape(-1, *rows.shape[1:])

    return jax.tree.map(of_all, rows)


def agree(choice: str, mesh: Mesh | None) -> str:
    """Return the choice of the first process: several processes measure, and may choose differently."""
    if not _spans_processes(mesh):
        return choice
    encoded = np.frombuffer(choice.encode().ljust(64), np.uint8)
    return multihost_utils.broadcast_one_to_all(encoded).tobytes().decode().strip()


def _shards(leaf: jax.Array, mesh: Mesh) -> list[jax.Array]:
    """Return this process's shards of an array on a mesh, in the order of the mesh."""
    by_device = {shard.device: shard.data for shard in leaf.addressable_shards}
    return [by_device[device] for device in mesh.local_devices]


def _spans_processes(mesh: Mesh | None) -> TypeGuard[Mesh]:
    return mesh is not None and mesh.is_multi_process


def _pad(stacked: PyTree, multiple: int) -> PyTree:
    members = len(jax.tree.leaves(stacked)[0])
    if members % multiple == 0:
        return stacked
    rows = np.minimum(np.arange(-(-members // multiple) * multiple), members - 1)
    return jax.tree.map(lambda leaf: leaf[rows], stacked)


def _place(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec) -> PyTree:
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, spec)
    if not mesh.is_multi_process:
        return jax.device_put(tree, sharding)

    def place(leaf: jax.Array) -> jax.Array:
        if is_prng_key(leaf):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:  # yielded by an earlier call
            return jax.jit(lambda leaf: leaf, out_shardings=sharding)(leaf)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda rows: whole[rows])

    return jax.tree.map(place, tree)

"""Members shared out over devices: a mesh of one axis, `member`, and what goes on it.

Members need nothing of one another, so that a step on several devices is the step on each of them (`jax.shard_map`).
A stack is filled up with copies of its last member until every device has as many. The devices may be those of
several processes (`jax.distributed`): each then holds the rows of its own devices, and calls what stands here with the
same arguments as the others.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any

AXIS = "member"
BY_MEMBER = PartitionSpec(AXIS)
BY_STEP_AND_MEMBER = PartitionSpec(None, AXIS)
EVERYWHERE = PartitionSpec()


def member_mesh(members: int, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """As many of these devices as the members keep busy; None where that is the default device alone.

    Args:
        members: how many there are.
        devices: all by default, those of other processes too. 20 members on 16 devices take two turns each way, for
            which 10 devices do. Of every process there are as many.

    Raises:
        TypeError: for what is no sequence of devices.
        ValueError: for an empty list of devices, one that is named twice, or devices of some processes but not of all.
    """
    if devices is not None:
        _check_devices(devices)
    found: dict[int, list[jax.Device]] = defaultdict(list)
    for device in jax.devices() if devices is None else devices:
        found[device.process_index].append(device)
    if not found:
        raise ValueError("devices must name at least one device, or be None for all")
    if set(found) not in ({jax.process_index()}, set(range(jax.process_count()))):
        raise ValueError(
            f"devices must be those of this process, {jax.process_index()}, or of all {jax.process_count()} "
            f"processes, got some of the processes {sorted(found)}"
        )
    most = min(map(len, found.values()))
    of_process = -(-members // len(found))
    used = -(-of_process // -(-of_process // most))
    if devices is None and len(found) == used == 1:
        return None
    return Mesh(np.array([device for process in sorted(found) for device in found[process][:used]]), (AXIS,))


def _check_devices(devices: Sequence[jax.Device]) -> None:
    if not isinstance(devices, Iterable) or not all(hasattr(each, "process_index") for each in devices):
        raise TypeError(f"devices must be a list of devices, as jax.devices() gives it, got {devices!r:.100}")
    if len(set(devices)) < len(devices):
        raise ValueError(f"devices must be named once each, got {devices!r:.100}")


def share_out(stacked: PyTree, mesh: Mesh | None) -> PyTree:
    """A stack [member, ...] over the devices of a mesh, filled up where they do not divide it."""
    return _place(stacked if mesh is None else _fill(stacked, mesh.size), mesh, BY_MEMBER)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same arrays on every device of a mesh."""
    return _place(tree, mesh, EVERYWHERE)


def shapes_on(mesh: Mesh, spec: PartitionSpec, tree: PyTree) -> PyTree:
    """Shapes of arrays, which are to lie so on a mesh; its devices need not be there."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def on_each(function: Callable[..., Any], mesh: Mesh | None, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """The function of each device's own members, as a function of all."""
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def parts(stacked: PyTree, mesh: Mesh | None) -> list[PyTree]:
    """What each device of this process holds, as arrays of its own, in the order of the mesh and so of the members."""
    if mesh is None:
        return [stacked]
    return [
        jax.tree.map(lambda leaf, place=place: _shards(leaf, mesh)[place], stacked) for place in range(num_parts(mesh))
    ]


def num_parts(mesh: Mesh | None) -> int:
    """How many devices of this process take part."""
    return 1 if mesh is None else len(mesh.local_devices)


def own_rows(stacked: PyTree, mesh: Mesh | None, *, axis: int = 0) -> PyTree:
    """The members of this process as NumPy arrays, from stacks whose member axis is `axis`; NumPy's are left alone."""
    if not _spans_processes(mesh):
        return jax.device_get(stacked)

    def rows(leaf: jax.Array | np.ndarray) -> np.ndarray:
        return leaf if isinstance(leaf, np.ndarray) else np.concatenate(jax.device_get(_shards(leaf, mesh)), axis)

    return jax.tree.map(rows, stacked)


def gather(rows: PyTree, mesh: Mesh | None) -> PyTree:
    """NumPy arrays [member, ...] of this process's members -> those of all members, on every process."""
    if not _spans_processes(mesh):
        return rows

    def of_all(leaf: np.ndarray) -> np.ndarray:
        # As bytes, for jax would round float64.
        rows = np.ascontiguousarray(leaf)
        found = multihost_utils.process_allgather(rows.reshape(len(rows), -1).view(np.uint8), tiled=True)
        return np.ascontiguousarray(found).view(rows.dtype).reshape(-1, *rows.shape[1:])

    return jax.tree.map(of_all, rows)


def agree(choice: str, mesh: Mesh | None) -> str:
    """What the first process chose, where several measured and may have chosen differently."""
    if not _spans_processes(mesh):
        return choice
    written = np.frombuffer(choice.encode().ljust(64), np.uint8)
    return multihost_utils.broadcast_one_to_all(written).tobytes().decode().strip()


def _shards(leaf: jax.Array, mesh: Mesh) -> list[jax.Array]:
    """What the devices of this process hold of an array on a mesh, in its order."""
    held = {shard.device: shard.data for shard in leaf.addressable_shards}
    return [held[device] for device in mesh.local_devices]


def _spans_processes(mesh: Mesh | None) -> TypeGuard[Mesh]:
    return mesh is not None and mesh.is_multi_process


def _fill(stacked: PyTree, multiple: int) -> PyTree:
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
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:  # yielded by an earlier call
            return jax.jit(lambda leaf: leaf, out_shardings=sharding)(leaf)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda rows: whole[rows])

    return jax.tree.map(place, tree)

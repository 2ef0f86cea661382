"""Members shared out over devices: a mesh of one axis, `member`, and what goes on it.

Members need nothing of one another, so that a step on several devices is the step on each of them (`jax.shard_map`).
A stack is filled up with copies of its last member until every device has as many.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
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
        devices: those of this process by default. 20 members on 16 devices take two turns each way, for which 10
            devices do.

    Raises:
        ValueError: for an empty list of devices.
    """
    found = list(jax.local_devices() if devices is None else devices)
    if not found:
        raise ValueError("devices must name at least one device, or be None for all")
    used = -(-members // -(-members // len(found)))
    return None if devices is None and used == 1 else Mesh(np.array(found[:used]), (AXIS,))


def share_out(stacked: PyTree, mesh: Mesh | None) -> PyTree:
    """A stack [member, ...] over the devices of a mesh, filled up where they do not divide it."""
    if mesh is None:
        return stacked
    return jax.device_put(_fill(stacked, mesh.size), NamedSharding(mesh, BY_MEMBER))


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same arrays on every device of a mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, EVERYWHERE))


def on_each(function: Callable[..., Any], mesh: Mesh | None, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """The function of each device's own members, as a function of all."""
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _fill(stacked: PyTree, multiple: int) -> PyTree:
    members = len(jax.tree.leaves(stacked)[0])
    if members % multiple == 0:
        return stacked
    rows = np.minimum(np.arange(-(-members // multiple) * multiple), members - 1)
    return jax.tree.map(lambda leaf: leaf[rows], stacked)


def parts(stacked: PyTree, mesh: Mesh | None) -> list[PyTree]:
    """What each device of a mesh holds, as arrays of its own, in the order of the mesh and so of the members."""
    if mesh is None:
        return [stacked]

    def held_by(device: jax.Device) -> Callable[[jax.Array], jax.Array]:
        return lambda leaf: next(shard.data for shard in leaf.addressable_shards if shard.device == device)

    return [jax.tree.map(held_by(device), stacked) for device in mesh.local_devices]

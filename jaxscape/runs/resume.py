"""The newest full training state on disk, so that an interrupted stage resumes and produces the same bytes.

A state is an .npz file, written atomically. With several processes each one writes a part with its own members, and a
state counts once all parts exist. Leaves are stored in tree order and restored into a fresh state of the same
structure.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxscape.arguments import is_prng_key
from jaxscape.runs.arrays import load_arrays, save_arrays

PyTree = Any

_NAME = re.compile(r"state-(\d+)-(\d+)-of-(\d+)\.npz")  # epoch, part, parts


def save_state(folder: Path, epoch: int, states: PyTree) -> None:
    """Save the states after an epoch, a pytree of arrays [member, ...] and typed keys.

    Every process calls this; a process may be one epoch ahead of the others.
    """
    part, parts = jax.process_index(), jax.process_count()
    leaves = [_members_to_save(leaf, part, parts) for leaf in jax.tree.leaves(_raw_keys(states))]
    save_arrays(folder / f"state-{epoch}-{part}-of-{parts}.npz", {f"leaf{i}": leaf for i, leaf in enumerate(leaves)})
    if part == 0:
        for old, path in _files(folder):
            # Since this process has reached this epoch, all others have written the previous one.
            if old not in ((epoch,) if parts == 1 else (epoch - 1, epoch)):
                path.unlink()


def resume_state(folder: Path, start: PyTree, console: Console) -> tuple[int, PyTree]:
    """Return the newest epoch with a usable state, and the state; 0 and the start if there is none.

    For a damaged state a message is printed, and its epochs have to be recomputed.
    """
    try:
        epoch, states = load_state(folder, start) or (0, start)
    except ValueError as error:
        console.print(f"{error}; its epochs are recomputed")
        return 0, start
    return (epoch, states) if epoch else (0, start)


def load_state(folder: Path, like: PyTree) -> tuple[int, PyTree] | None:
    """Read the newest saved epoch and its states; None if there is none.

    Args:
        folder: folder of the states.
        like: states of the same structure, shapes and dtypes.

    Raises:
        ValueError: if a file is damaged or holds other states.
        OSError: if it cannot be read.
    """
    newest = _newest(folder)
    if newest is None:
        return None
    epoch, paths = newest
    expected = jax.tree.leaves(_raw_keys(like))
    parts = [load_arrays(path) for path in paths]
    names = [f"leaf{i}" for i in range(len(expected))]
    same = all(part.keys() == set(names) for part in parts)
    leaves = [np.concatenate([part[name] for part in parts]) for name in names] if same else []
    leaves = [_with_dtype_of(leaf, other) for leaf, other in zip(leaves, expected, strict=False)]
    if len(leaves) != len(expected) or any(
        leaf.shape != other.shape or leaf.dtype != other.dtype for leaf, other in zip(leaves, expected, strict=True)
    ):
        raise ValueError(f"{paths[0]} is damaged: it holds the state of another network or optimiser")
    originals, treedef = jax.tree.flatten(like)
    return epoch, jax.tree.unflatten(treedef, map(_to_jax, leaves, originals))


def delete_states(folder: Path) -> None:
    """Delete all states."""
    for _, path in _files(folder):
        path.unlink()


def _newest(folder: Path) -> tuple[int, list[Path]] | None:
    """Return the newest epoch with all its parts, and their files in order."""
    by_epoch: dict[tuple[int, int], dict[int, Path]] = {}
    for epoch, path in _files(folder):
        _, part, parts = map(int, _NAME.fullmatch(path.name).groups())  # type: ignore[union-attr]
        by_epoch.setdefault((epoch, parts), {})[part] = path
    complete = [key for key, files in by_epoch.items() if len(files) == key[1]]
    if not complete:
        return None
    newest = max(complete)
    return newest[0], [by_epoch[newest][part] for part in range(newest[1])]


def _files(folder: Path) -> list[tuple[int, Path]]:
    """Return the files of all states, with their epochs."""
    paths = folder.iterdir() if folder.is_dir() else ()
    matches = ((_NAME.fullmatch(path.name), path) for path in paths if path.is_file())
    return [(int(match[1]), path) for match, path in matches if match]


def _members_to_save(leaf: jax.Array, part: int, parts: int) -> np.ndarray:
    """Return the rows of the members that this process saves."""
    if parts > 1 and not leaf.is_fully_replicated:  # sharded: each device holds different members
        shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])
    rows = len(leaf)
    return np.asarray(leaf.addressable_data(0))[rows * part // parts : rows * (part + 1) // parts]


def _raw_keys(states: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_prng_key(leaf) else leaf, states)


def _with_dtype_of(values: np.ndarray, original: jax.Array) -> np.ndarray:
    """Return the same bytes with the original dtype; .npz files store bfloat16 and similar types as raw bytes."""
    is_raw = values.dtype.kind == "V" and values.dtype.itemsize == original.dtype.itemsize
    return values.view(original.dtype) if is_raw else values


def _to_jax(values: np.ndarray, original: jax.Array) -> jax.Array:
    if is_prng_key(original):
        return jax.random.wrap_key_data(jnp.asarray(values), impl=jax.random.key_impl(original))
    return jnp.asarray(values)

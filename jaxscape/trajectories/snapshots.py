"""Snapshots on disk: an orbax checkpoint of all members at one epoch, with checksums.

Its arrays are uncompressed zarr in an OCDBT database, chunked by member, so that tensorstore can read any part of them.
The checksums of all rows, the epoch and the update are in the checkpoint's own metadata, so they exist exactly if the
checkpoint is complete. In a packed store a checkpoint holds the snapshots of several consecutive epochs, a pack. Its
folder is named after the first epoch, and its arrays have an additional leading axis.
"""

import errno
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped, UInt64

from jaxscape.lazy import jax
from jaxscape.trajectories import checksums
from jaxscape.trajectories.index import Leaf, naming_what_is_read
from jaxscape.trajectories.paths import plain_path

METADATA = "_CHECKPOINT_METADATA"
PAGE = 4096  # bytes, the smallest unit that is read from a disk
EPOCH = re.compile("0|[1-9][0-9]*")  # orbax writes to "3.orbax-checkpoint-tmp", renamed to "3" when all is on disk
_STATUS = re.compile("[A-Z_]+(?=:)")
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
# Errors that mean a file is missing or replaced; others (too many open files, no permission) may be temporary.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class Snapshot(NamedTuple):
    """A complete folder of a store: the snapshot of one epoch, or a pack of several."""

    folder: Path
    updates: tuple[int | None, ...]  # optimizer updates before each epoch, None if `append` was not given any
    checksums: dict[str, str] | None  # encoded, by the name of a leaf; None in stores of an earlier version
    packed: bool = False  # whether its arrays are [epoch, member, ...] rather than [member, ...]

    @property
    def epochs(self) -> range:
        """Return the consecutive epochs in it."""
        first = int(self.folder.name)
        return range(first, first + len(self.updates))

    def update(self, epoch: int) -> int | None:
        """Return the number of optimizer updates before one of its epochs."""
        return self.updates[epoch - self.epochs.start]

    def row_checksums(self, leaf: Leaf, num_members: int) -> UInt64[np.ndarray, " rows"] | None:
        """Return the checksums of the members' arrays, epoch by epoch, or None if none were stored."""
        text = (self.checksums or {}).get(leaf.name)
        stored = None if text is None else checksums.decode(text)
        expected = num_members * len(self.updates)
        if stored is not None and len(stored) != expected:
            rows = "rows" if self.packed else "members"
            raise self.damaged(f"{leaf.name!r} has checksums of {len(stored)} {rows}, not {expected}")
        return stored

    def damaged(self, reason: str) -> ValueError:
        """Return the error that says what is wrong with the snapshot and how to repair the store."""
        return damaged(self.folder, reason, self.packed)


def find_snapshots(store: Path, packed: bool = False) -> dict[int, Snapshot]:
    """Return the complete snapshots of a store by epoch; the epochs of a pack share one object.

    Raises:
        ValueError: if one is damaged; says which and how to repair the store.
    """
    with naming_what_is_read(store):
        first_epochs = sorted(int(entry.name) for entry in store.iterdir() if EPOCH.fullmatch(entry.name))
    snapshots: dict[int, Snapshot] = {}
    for first in first_epochs:
        snapshot = read_snapshot(store / str(first), packed)
        if first in snapshots:
            raise snapshot.damaged(f"its epochs are in the pack {snapshots[first].folder.name} too")
        snapshots |= dict.fromkeys(snapshot.epochs, snapshot)
    return snapshots


def read_snapshot(folder: Path, packed: bool = False) -> Snapshot:
    """Read the metadata of a snapshot or a pack.

    Orbax's own reader opens every array (20 ms each), so its file is read directly.

    Raises:
        ValueError: if the metadata is missing or damaged.
        OSError: if it cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a snapshot but a file, in the place of one; delete it")
    try:
        with naming_what_is_read(folder / METADATA):
            content = json.loads((folder / METADATA).read_bytes())
        return (_parse_pack if packed else _parse)(folder, content["custom_metadata"])
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise damaged(folder, f"it has no file {METADATA}", packed) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged(folder, f"its {METADATA} is not what was written", packed) from None


def _parse(folder: Path, metadata: Any) -> Snapshot:
    """Return a snapshot; raise a ValueError, KeyError or TypeError for metadata that `save_snapshot` cannot write."""
    update = metadata["update"]
    if update is not None and not isinstance(update, int):
        raise TypeError("update is no integer")
    if metadata.keys() == {"update"}:
        return Snapshot(folder, (update,), None)
    plain = checksums.unsealed(metadata)
    if plain["epoch"] != int(folder.name):
        raise ValueError("it is the snapshot of another epoch")
    return Snapshot(folder, (update,), dict(plain["checksums"]))


def _parse_pack(folder: Path, metadata: Any) -> Snapshot:
    """Return a pack; raise a ValueError, KeyError or TypeError for metadata that `save_snapshot` cannot write."""
    plain = checksums.unsealed(metadata)
    updates = plain["updates"]
    if plain["epoch"] != int(folder.name) or not updates:
        raise ValueError("it is the pack of other epochs")
    if not all(update is None or isinstance(update, int) for update in updates):
        raise TypeError("updates are no integers")
    return Snapshot(folder, tuple(updates), dict(plain["checksums"]), packed=True)


def damaged(folder: Path, reason: str, packed: bool = False) -> ValueError:
    """Return the error that says what is wrong with a snapshot or a pack, and how to repair the store."""
    if packed:
        return ValueError(
            f"pack {folder.name} of the store {folder.parent}, of the epochs from {folder.name} on, is damaged: "
            f"{reason}. Delete the folder {folder}, and append its epochs again; the other packs are not affected"
        )
    return ValueError(
        f"epoch {folder.name} of the store {folder.parent} is damaged: {reason}. Delete the folder {folder}, and "
        f"append the epoch again; the other epochs are not affected"
    )


@contextmanager
def naming_damage(snapshot: Snapshot) -> Iterator[None]:
    """Turn tensorstore's long errors into one line about a snapshot.

    Raises:
        OSError: if the system could not read an existing file.
        ValueError: if the snapshot is damaged.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        number = _SYSTEM_ERROR.search(str(error))
        if number and int(number[1]) not in _DAMAGE:
            raise OSError(f"cannot read {snapshot.folder}: {os.strerror(int(number[1]))}") from None
        status = _STATUS.match(str(error))  # the rest of the message fills a page
        raise snapshot.damaged(f"its arrays cannot be read{f' ({status[0]})' if status else ''}") from None


def reason(error: BaseException) -> str:
    """Return the system's message if tensorstore reports a system error, otherwise the beginning of the message."""
    number = _SYSTEM_ERROR.search(str(error))
    if number:
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split(" [")[0].split())
    return words if len(words) <= 200 else f"{words[:200]}..."


class StoredArray:
    """One leaf of a snapshot, [member, ...], or of a pack, [epoch, member, ...], opened in the background.

    Its rows are the members' arrays, epoch by epoch.
    """

    def __init__(self, snapshot: Snapshot, leaf: Leaf, num_members: int, context: Any):
        """Start to open the array.

        Args:
            snapshot: the snapshot or pack.
            leaf: the leaf.
            num_members: the required length of the member axis.
            context: tensorstore's context, with its caches.
        """
        import tensorstore as ts

        self.snapshot = snapshot
        self.leaf = leaf
        self.num_members = num_members
        self.checksums = snapshot.row_checksums(leaf, num_members)
        epochs = (len(snapshot.epochs),) if snapshot.packed else ()
        self._shape = (*epochs, num_members, *leaf.shape)
        folder = snapshot.folder
        database = {"driver": "file", "path": f"{plain_path(folder.parent) / folder.name}/state/"}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "ocdbt", "base": database, "path": f"{'.'.join(leaf.keys)}/"},
            "recheck_cached_data": False,  # a complete snapshot never changes
            "recheck_cached_metadata": False,
        }
        self._pending = ts.open(spec, open=True, context=context)

    def result(self) -> Any:
        """Return tensorstore's array.

        Raises:
            ValueError: if it cannot be opened, or its shape or dtype is not that of the index.
            OSError: if the system cannot read it.
        """
        with naming_damage(self.snapshot):
            array = self._pending.result()
        if array.shape != self._shape or array.dtype.name != self.leaf.dtype:
            difference = f"{array.dtype.name} {array.shape}, not {self.leaf.dtype} {self._shape} as in the index"
            raise self.snapshot.damaged(f"{self.leaf.name!r} is {difference}")
        return array

    def rows(
        self, epochs: Integer[np.ndarray, " epochs"], members: Integer[np.ndarray, " members"]
    ) -> Integer[np.ndarray, " rows"]:
        """Return the row numbers of some epochs and members, epoch by epoch."""
        places = epochs - self.snapshot.epochs.start
        numbers: np.ndarray = (places[:, None] * self.num_members + members).ravel()
        return numbers

    def start_reading(
        self, epochs: Integer[np.ndarray, " epochs"], members: Integer[np.ndarray, " members"]
    ) -> Callable[[], Shaped[np.ndarray, "epochs members ..."]]:
        """Start to read some epochs and members; return a function that waits, verifies and returns the array."""
        array = self.result() if self.snapshot.packed else self.result()[None]
        pending = array.oindex[epochs - self.snapshot.epochs.start, members].read()

        def wait() -> Shaped[np.ndarray, "epochs members ..."]:
            with naming_damage(self.snapshot):
                values: np.ndarray = pending.result()  # [epoch, member, ...]
            if self.checksums is not None:
                sums = checksums.rows_checksums(values.reshape(-1, *self.leaf.shape))
                self.verify(self.rows(epochs, members), sums)
            return values

        return wait

    def verify(self, rows: Integer[np.ndarray, " rows"], sums: UInt64[np.ndarray, " rows"]) -> None:
        """Raise a ValueError if the checksums of some rows differ from the stored ones."""
        if self.checksums is None:
            return
        wrong = rows[sums != self.checksums[rows]]
        if wrong.size:
            raise self.snapshot.damaged(f"{self.describe(wrong[0])} does not match its checksum")

    def describe(self, row: int) -> str:
        """Return in words which array a row is."""
        place, member = divmod(int(row), self.num_members)
        epoch = f" at epoch {self.snapshot.epochs[place]}" if self.snapshot.packed else ""
        return f"{self.leaf.name!r} of member {member}{epoch}"


def save_snapshot(snapshot: Snapshot, state: Any) -> None:
    """Write the arrays of a snapshot; they are completely on disk when this returns.

    Raises:
        FileExistsError: if the snapshot exists already.
        OSError: if it cannot be written; orbax may raise other errors.
    """
    from orbax.checkpoint import v1 as ocp

    if snapshot.folder.exists():  # orbax checks it too, but leaves a coroutine that was never awaited
        raise FileExistsError(f"{snapshot.folder} is there already")
    with orbax_silenced(), saving_context((0, 1) if snapshot.packed else (0,)):
        ocp.save(_where_to_write(snapshot), state, custom_metadata=_metadata(snapshot))


def start_saving_among_processes(snapshot: Snapshot, state: Any) -> Any:
    """Start to write the arrays of a snapshot that are sharded over several processes; return orbax's response.

    All processes must call this. The local shards have been copied when it returns.
    """
    from orbax.checkpoint import v1 as ocp

    context = saving_context()
    # With these settings the processes synchronise through their coordinator. Otherwise each would run a collective
    # program on all devices from a thread of its own, and all processes must run such programs in the same order.
    context.multiprocessing.active_processes = set(range(jax.process_count()))
    context.multiprocessing.barrier_sync_key_prefix = f"{zlib.crc32(os.fsencode(snapshot.folder.parent)):08x}"
    with orbax_silenced(), context:
        return ocp.save_async(_where_to_write(snapshot), state, custom_metadata=_metadata(snapshot))


def _where_to_write(snapshot: Snapshot) -> Path:
    return plain_path(snapshot.folder.parent) / snapshot.folder.name


def _metadata(snapshot: Snapshot) -> dict[str, Any]:
    updates = {"updates": list(snapshot.updates)} if snapshot.packed else {"update": snapshot.updates[0]}
    return checksums.sealed({"epoch": snapshot.epochs.start, **updates, "checksums": snapshot.checksums})


def ending_context() -> Any:
    """Return an orbax context in which a folder that cannot be made raises an error and leaves no threads behind.

    Otherwise threads would wait for the folder for 20 minutes and keep Python alive.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.asynchronous.create_directories_asynchronously = False
    return context


def saving_context(row_axes: tuple[int, ...] = (0,)) -> Any:
    """Return the orbax context for saving; `row_axes` are (0,), the members, or (0, 1), epochs and members."""
    from orbax.checkpoint import v1 as ocp

    options = ocp.options.ArrayOptions.Saving.StorageOptions

    def chunk_by_row(keys: Any, array: np.ndarray) -> Any:
        num_rows = math.prod(array.shape[: len(row_axes)])
        small = array.nbytes < PAGE * num_rows  # chunks smaller than a page would only be more chunks
        return options(shard_axes=() if small else row_axes)

    context = ending_context()
    context.array.saving.use_compression = False  # parameters hardly compress (to 0.92), and it takes longer
    context.array.saving.use_replica_parallel = False  # it would split the arrays of a member
    context.array.saving.scoped_storage_options_creator = chunk_by_row
    context.memory.deepcopy_host_arrays = False  # `append` has copied them
    return context


@contextmanager
def orbax_silenced() -> Iterator[None]:
    """Silence orbax, which logs hundreds of lines of traceback per thread for an error that `wait` raises anyway."""
    from absl import logging as absl_logging

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = absl_logging.get_absl_logger()
    logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(from_elsewhere)

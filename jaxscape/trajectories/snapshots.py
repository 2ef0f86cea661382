"""Snapshots on disk: an orbax checkpoint of all members at one epoch, and what proves that it is as it was written.

Its arrays are uncompressed zarr in an OCDBT database, chunked by member, and tensorstore reads any part of them. The
checksums of all rows, the epoch and the update stand in the checkpoint's own metadata, so that they are there exactly
when it is complete. In a packed store a checkpoint holds the snapshots of several consecutive epochs, a pack; its
folder has the name of the first, and its arrays have an axis more.
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

from jaxscape.lazy import jax
from jaxscape.trajectories import checksums
from jaxscape.trajectories.index import Leaf, naming_what_is_read
from jaxscape.trajectories.paths import plain_path

METADATA = "_CHECKPOINT_METADATA"
PAGE = 4096  # bytes; nothing less is ever read from a disk
EPOCH = re.compile("0|[1-9][0-9]*")  # orbax writes to "3.orbax-checkpoint-tmp", renamed to "3" when all is on disk
_STATUS = re.compile("[A-Z_]+(?=:)")
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
# Something else stands where a file was; other errors of the system (too many open files, no permission) may pass.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class Snapshot(NamedTuple):
    """A complete folder of a store: the snapshot of one epoch, or a pack of several."""

    folder: Path
    updates: tuple[int | None, ...]  # of each epoch: optimizer updates before it, where `append` was told
    checksums: dict[str, str] | None  # by the name of a leaf, encoded; None in stores of an earlier version
    packed: bool = False  # whether its arrays are [epoch, member, ...], and not [member, ...]

    @property
    def epochs(self) -> range:
        """The epochs in it, which follow one another."""
        first = int(self.folder.name)
        return range(first, first + len(self.updates))

    def update(self, epoch: int) -> int | None:
        """Return how many optimizer updates came before one of its epochs."""
        return self.updates[epoch - self.epochs.start]

    def row_checksums(self, leaf: Leaf, num_members: int) -> np.ndarray | None:
        """Return the checksums of the members' arrays, epoch by epoch, or None where none were kept."""
        text = (self.checksums or {}).get(leaf.name)
        found = None if text is None else checksums.decode(text)
        expected = num_members * len(self.updates)
        if found is not None and len(found) != expected:
            rows = "rows" if self.packed else "members"
            raise self.damaged(f"{leaf.name!r} has checksums of {len(found)} {rows}, not {expected}")
        return found

    def damaged(self, reason: str) -> ValueError:
        """Return the error that says what is wrong with it, and the way out."""
        return damaged(self.folder, reason, self.packed)


def find_snapshots(store: Path, packed: bool = False) -> dict[int, Snapshot]:
    """Return the complete snapshots of a store by epoch; those of a pack are the same object.

    Raises:
        ValueError: where one is damaged; names it and the way out.
    """
    with naming_what_is_read(store):
        first_epochs = sorted(int(entry.name) for entry in store.iterdir() if EPOCH.fullmatch(entry.name))
    found: dict[int, Snapshot] = {}
    for first in first_epochs:
        snapshot = read_snapshot(store / str(first), packed)
        if first in found:
            raise snapshot.damaged(f"its epochs are in the pack {found[first].folder.name} too")
        found |= dict.fromkeys(snapshot.epochs, snapshot)
    return found


def read_snapshot(folder: Path, packed: bool = False) -> Snapshot:
    """Read what is known of a snapshot, or of a pack, besides its arrays.

    Orbax's own reader opens every array (20 ms each), so its file is read here.

    Raises:
        ValueError: where its metadata is missing or damaged.
        OSError: where it cannot be read.
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


def _parse(folder: Path, found: Any) -> Snapshot:
    """Raise a ValueError, KeyError or TypeError for what `save_snapshot` does not write."""
    update = found["update"]
    if update is not None and not isinstance(update, int):
        raise TypeError("update is no integer")
    if found.keys() == {"update"}:
        return Snapshot(folder, (update,), None)
    plain = checksums.unsealed(found)
    if plain["epoch"] != int(folder.name):
        raise ValueError("it is the snapshot of another epoch")
    return Snapshot(folder, (update,), dict(plain["checksums"]))


def _parse_pack(folder: Path, found: Any) -> Snapshot:
    """Raise a ValueError, KeyError or TypeError for what `save_snapshot` does not write of a pack."""
    plain = checksums.unsealed(found)
    updates = plain["updates"]
    if plain["epoch"] != int(folder.name) or not updates:
        raise ValueError("it is the pack of other epochs")
    if not all(update is None or isinstance(update, int) for update in updates):
        raise TypeError("updates are no integers")
    return Snapshot(folder, tuple(updates), dict(plain["checksums"]), packed=True)


def damaged(folder: Path, reason: str, packed: bool = False) -> ValueError:
    """Return the error that says what is wrong with a snapshot or a pack, and the way out."""
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
    """Turn a page of tensorstore's into one line about a snapshot.

    Raises:
        OSError: where the system could not read a file that is there.
        ValueError: where the snapshot is damaged.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        number = _SYSTEM_ERROR.search(str(error))
        if number and int(number[1]) not in _DAMAGE:
            raise OSError(f"cannot read {snapshot.folder}: {os.strerror(int(number[1]))}") from None
        status = _STATUS.match(str(error))  # what follows is a page
        raise snapshot.damaged(f"its arrays cannot be read{f' ({status[0]})' if status else ''}") from None


def reason(error: BaseException) -> str:
    """Return the system's words where tensorstore reports a system error, otherwise the first words of an error."""
    number = _SYSTEM_ERROR.search(str(error))
    if number:
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split(" [")[0].split())
    return words if len(words) <= 200 else f"{words[:200]}..."


class StoredArray:
    """One leaf of a snapshot, [member, ...], or of a pack, [epoch, member, ...]; it is opened in the background.

    Its rows are the members' arrays, epoch by epoch.
    """

    def __init__(self, snapshot: Snapshot, leaf: Leaf, num_members: int, context: Any):
        """Start to open it.

        Args:
            snapshot: of which epoch or epochs.
            leaf: which array.
            num_members: the length of the member axis that it must have.
            context: tensorstore's, with its caches.
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
            ValueError: where it cannot be opened, or is another array than the index says.
            OSError: where the system cannot read it.
        """
        with naming_damage(self.snapshot):
            array = self._pending.result()
        if array.shape != self._shape or array.dtype.name != self.leaf.dtype:
            found = f"{array.dtype.name} {array.shape}, not {self.leaf.dtype} {self._shape} as in the index"
            raise self.snapshot.damaged(f"{self.leaf.name!r} is {found}")
        return array

    def rows(self, epochs: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows of some epochs and members, epoch by epoch."""
        places = epochs - self.snapshot.epochs.start
        numbers: np.ndarray = (places[:, None] * self.num_members + members).ravel()
        return numbers

    def start_reading(self, epochs: np.ndarray, members: np.ndarray) -> Callable[[], np.ndarray]:
        """Start to read some epochs and members; what comes back waits, verifies and returns [epoch, member, ...]."""
        array = self.result() if self.snapshot.packed else self.result()[None]
        pending = array.oindex[epochs - self.snapshot.epochs.start, members].read()

        def wait() -> np.ndarray:
            with naming_damage(self.snapshot):
                found: np.ndarray = pending.result()
            if self.checksums is not None:
                sums = checksums.rows_checksums(found.reshape(-1, *self.leaf.shape))
                self.verify(self.rows(epochs, members), sums)
            return found

        return wait

    def verify(self, rows: np.ndarray, found: np.ndarray) -> None:
        """Raise a ValueError where the checksums of some rows are not those that were kept."""
        if self.checksums is None:
            return
        wrong = rows[found != self.checksums[rows]]
        if wrong.size:
            raise self.snapshot.damaged(f"{self.describe(wrong[0])} does not match its checksum")

    def describe(self, row: int) -> str:
        """Return which array a row is, in words."""
        place, member = divmod(int(row), self.num_members)
        epoch = f" at epoch {self.snapshot.epochs[place]}" if self.snapshot.packed else ""
        return f"{self.leaf.name!r} of member {member}{epoch}"


def save_snapshot(snapshot: Snapshot, state: Any) -> None:
    """Write the arrays of a snapshot, complete when this returns.

    Raises:
        FileExistsError: where one is there already.
        OSError: where it cannot be written; or another error of orbax's.
    """
    from orbax.checkpoint import v1 as ocp

    if snapshot.folder.exists():  # orbax sees it too, and leaves a coroutine that was never awaited
        raise FileExistsError(f"{snapshot.folder} is there already")
    with orbax_silenced(), saving_context((0, 1) if snapshot.packed else (0,)):
        ocp.save(_where_to_write(snapshot), state, custom_metadata=_metadata(snapshot))


def start_saving_among_processes(snapshot: Snapshot, state: Any) -> Any:
    """Start to write the arrays of a snapshot that several processes hold; return orbax's response.

    All of them call this. What this process holds has been copied when this returns.
    """
    from orbax.checkpoint import v1 as ocp

    context = saving_context()
    # Named so, the processes meet through their coordinator. Otherwise they would run a program on all devices,
    # in a thread of their own, and each must run such programs in the same order.
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
    """Return a context of orbax in which a folder that cannot be made ends in an error and in nothing else.

    Otherwise threads that wait for it stay behind, 20 minutes, and keep Python alive.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.asynchronous.create_directories_asynchronously = False
    return context


def saving_context(row_axes: tuple[int, ...] = (0,)) -> Any:
    """Return how a snapshot lies on disk; `row_axes` are (0,), the members, or (0, 1), epochs and members."""
    from orbax.checkpoint import v1 as ocp

    options = ocp.options.ArrayOptions.Saving.StorageOptions

    def chunk_by_row(keys: Any, array: np.ndarray) -> Any:
        num_rows = math.prod(array.shape[: len(row_axes)])
        small = array.nbytes < PAGE * num_rows  # then a chunk a row would only make more chunks
        return options(shard_axes=() if small else row_axes)

    context = ending_context()
    context.array.saving.use_compression = False  # parameters hardly compress (0.92), and it takes longer
    context.array.saving.use_replica_parallel = False  # it cuts members into pieces
    context.array.saving.scoped_storage_options_creator = chunk_by_row
    context.memory.deepcopy_host_arrays = False  # `append` has copied them
    return context


@contextmanager
def orbax_silenced() -> Iterator[None]:
    """Silence orbax, which logs hundreds of lines of traceback, once a thread, of what `wait` raises in one."""
    from absl import logging as absl_logging

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = absl_logging.get_absl_logger()
    logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(from_elsewhere)

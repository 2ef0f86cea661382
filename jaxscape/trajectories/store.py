"""The trajectories on disk: every parameter that the members pass through, epoch by epoch.

Retraining appends a snapshot of all members an epoch, which is written while the next epoch runs. Distances,
geometry and embeddings read them back by epoch, by member, or as blocks of columns, so that nobody holds a
whole trajectory of a large network in memory. A snapshot is an orbax checkpoint
(https://orbax.readthedocs.io): its arrays are uncompressed zarr in an OCDBT database, chunked by member, and
tensorstore reads any part of them.
"""

import json
import logging
import operator
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxscape.trajectories.blocks import Leaf, read_blocks

INDEX = "store.json"
FORMAT = "jaxscape trajectories"
VERSION = 1
PAGE = 4096  # bytes; nothing less is ever read from a disk
ABOUT = (
    "One folder an epoch, an orbax checkpoint whose item 'state' holds the parameters stacked [member, ...]. "
    "labels: a record a member, in that order. leaves: the arrays of one member, in the order of the columns."
)


class _Pending(Protocol):
    """A write that goes on."""

    def result(self) -> Any:
        """Return when it is done; raise where it failed."""
        ...


class TrajectoryStore:
    """A folder of snapshots, one an epoch, each with the parameters of all members.

    A snapshot counts once it is completely on disk: a process may be killed at any time, and the store goes
    on after its last complete epoch. One program writes at a time; any number may read. Where the program is several
    processes (`jax.distributed`) all of them create the store, append and close together, on a file system that they
    share, and each writes the members that its devices hold.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with TrajectoryStore.create(folder, labels=[{"seed": 0}, {"seed": 1}]) as store:
        ...     store.append(0, {"dense": {"kernel": np.ones((2, 3, 4), np.float32)}})
        >>> store = TrajectoryStore.open(folder)
        >>> store.read(members=1)["dense"]["kernel"].shape
        (1, 1, 3, 4)
    """

    def __init__(self, path: Path, labels: list[dict[str, Any]], leaves: list[Leaf]):
        """Not for callers: `create` and `open` make stores."""
        import tensorstore as ts

        self._path = path
        self._labels = labels
        self._leaves = leaves
        self._updates = [_update(path / str(epoch)) for epoch in range(_count_epochs(path))]
        # Each epoch is a database of its own; its index is read once and kept for all of its leaves.
        self._reading = ts.Context({"cache_pool": {"total_bytes_limit": 2**26}})
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trajectory-store")
        self._pending: _Pending | None = None
        self._checkpointer: Any = None
        self._closed = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], labels: Sequence[Mapping[str, Any]]) -> Self:
        """Start an empty store.

        Args:
            path: a folder, new or empty.
            labels: a record a member, in the order of the member axis, all with the same columns (seed,
                step_size, optimizer, ...). Values are JSON values; NumPy and JAX scalars are converted.

        Raises:
            FileExistsError: where a store or anything else stands already.
            ValueError: for labels that are empty, differ in their columns or hold something else.
        """
        folder = _absolute(path)
        records = _records(labels)
        _by_first_process(lambda: _make_folder(folder, records))
        return cls(folder, records, [])

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a store to read it or to append to it.

        Raises:
            FileNotFoundError: when the folder, or an epoch in the midst of the others, is missing.
            ValueError: when the folder is not a trajectory store, or one of another version.
        """
        folder = _absolute(path)
        if not folder.exists():
            raise FileNotFoundError(f"path={folder} does not exist; a trajectory store is a folder")
        if not (folder / INDEX).is_file():
            raise ValueError(f"path={folder} is not a trajectory store: it has no {INDEX}")
        index = json.loads((folder / INDEX).read_text())
        found = (index.get("format"), index.get("version"))
        if found != (FORMAT, VERSION):
            raise ValueError(f"path={folder} has format and version {found}; allowed: {(FORMAT, VERSION)}")
        leaves = [Leaf(tuple(leaf["keys"]), tuple(leaf["shape"]), leaf["dtype"]) for leaf in index["leaves"]]
        return cls(folder, index["labels"], leaves)

    @property
    def path(self) -> Path:
        """The folder, absolute."""
        return self._path

    @property
    def num_epochs(self) -> int:
        """How many snapshots there are: those on disk and those that this object has appended."""
        return len(self._updates)

    @property
    def num_members(self) -> int:
        """How many copies each snapshot holds."""
        return len(self._labels)

    @property
    def num_parameters(self) -> int:
        """P, the parameters of one member; 0 before the first snapshot."""
        return sum(leaf.size for leaf in self._leaves)

    @property
    def labels(self) -> list[dict[str, Any]]:
        """A record a member, as given to `create`."""
        return [dict(record) for record in self._labels]

    @property
    def updates(self) -> list[int | None]:
        """Optimiser updates before each snapshot, as given to `append`; None where none was."""
        return list(self._updates)

    @property
    def leaf_names(self) -> list[str]:
        """Key paths of the arrays, such as "group1/conv/kernel", in the order of the columns of `blocks`."""
        return [leaf.name for leaf in self._leaves]

    @property
    def leaf_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the arrays of one member, in the order of `leaf_names`."""
        return [leaf.shape for leaf in self._leaves]

    def append(self, epoch: int, params: Any, *, update: int | None = None) -> None:
        """Add the snapshot of an epoch; the write goes on in the background.

        The arrays are copied before this returns, so they may be donated or deleted at once. It waits for the
        write of the epoch before, of which it raises the error. The last snapshot is safe after `wait` or
        `close`, and lost when the program ends without either.

        Args:
            epoch: the next epoch, `num_epochs`.
            params: a pytree of JAX or NumPy arrays [member, ...] of float32, bfloat16 or float16. float64 is
                refused, for `blocks` would round it. Structure, shapes and dtypes are those of epoch 0. Among several
                processes, arrays that lie on the devices of all, or are the same everywhere.
            update: how many optimiser updates came before this snapshot, kept with it.

        Raises:
            ValueError: for another epoch, arrays that do not fit (named by key path), or a closed store.
            OSError: when the epoch before could not be written (a full disk). It does not count any more and
                can be appended again; the epochs before it are as they were.
        """
        self.wait()
        if self._closed:
            raise ValueError(f"the store {self._path} is closed; open it again to append")
        if epoch != self.num_epochs:
            raise ValueError(f"epoch={epoch} cannot be appended; the next epoch is {self.num_epochs}")
        arrays = dict(_named_arrays(params, self.num_members))
        update = None if update is None else operator.index(update)
        if self.num_epochs == 0:
            self._leaves = list(arrays)
            _by_first_process(lambda: _write_index(self._path, self._labels, self._leaves))
        else:
            _require_same(arrays, self._leaves)
        keys = [leaf.keys for leaf in arrays]
        if jax.process_count() == 1:
            state = _nested(zip(keys, _host_copies(list(arrays.values())), strict=True))
            self._pending = self._writer.submit(self._save, self.num_epochs, state, update)
        else:
            state = _nested(zip(keys, arrays.values(), strict=True))
            self._pending = self._save_among_processes(self.num_epochs, state, update)
        self._updates.append(update)

    def wait(self) -> None:
        """Return when everything appended is on disk; raise the OSError of a write that failed."""
        if self._pending is None:
            return
        try:
            self._pending.result()
        except Exception as error:
            self._pending = None
            self._updates.pop()
            self._release_checkpointer()  # it would raise the same error for ever
            raise OSError(
                f"epoch {self.num_epochs} could not be written to {self._path} and can be appended again; "
                f"the epochs before it are complete: {_reason(error)}"
            ) from error
        self._pending = None

    def close(self) -> None:
        """Wait, then end writing. Reading goes on working."""
        self._closed = True
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._release_checkpointer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read(
        self,
        epochs: int | Sequence[int] | None = None,
        members: int | Sequence[int] | None = None,
        leaves: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Read parameters; only the bytes asked for come from disk.

        Args:
            epochs: one, several or (None) all. The axis stays in any case, in the order asked for.
            members: likewise.
            leaves: key paths (see `leaf_names`), or None for all.

        Returns:
            NumPy arrays [epoch, member, ...] of the dtypes that were appended, in nested dictionaries with
            strings as keys. A list, tuple, NamedTuple or other node comes back as a dictionary by index or
            field ("0", "kernel"), a bare array as {"params": array}.

        Raises:
            ValueError: for an empty store, or for what is not in it.
        """
        self._require_snapshots()
        epoch_numbers = _selection("epochs", epochs, self.num_epochs)
        member_numbers = _selection("members", members, self.num_members)
        chosen = self._leaves if leaves is None else self._by_name(leaves)
        opened = {leaf: [self._open_array(epoch, leaf) for epoch in epoch_numbers] for leaf in chosen}
        reads = {leaf: [array.result()[member_numbers].read() for array in opened[leaf]] for leaf in chosen}
        return _nested((leaf.keys, np.stack([part.result() for part in reads.pop(leaf)])) for leaf in list(reads))

    def blocks(self, max_bytes: int, *, members: int | Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """Read the matrix of all snapshots, some columns at a time.

        Args:
            max_bytes: the size of a block; while one is filled the caller still holds the one before.
            members: as for `read`. What the others hold is not read.

        Returns:
            Iterator of float32 arrays (n, k). The n = epochs x members rows go epoch by epoch, members
            within; the columns of all blocks are the parameters in the order of `leaf_names`, each leaf in C
            order. All blocks but the last have the largest k that fits.

        Raises:
            ValueError: when not even one column fits, the store is empty, or for members that are not in it.
        """
        self._require_snapshots()
        num_epochs, chosen = self.num_epochs, _selection("members", members, self.num_members)
        column_bytes = 4 * num_epochs * len(chosen)
        if max_bytes < column_bytes:
            raise ValueError(f"max_bytes={max_bytes} is less than one column, {column_bytes} bytes")
        width = int(max_bytes // column_bytes)
        return read_blocks(self._open_array, self._leaves, width, num_epochs, chosen)

    def _open_array(self, epoch: int, leaf: Leaf) -> Any:
        """A tensorstore future of the array [member, ...] of a leaf."""
        import tensorstore as ts

        database = {"driver": "file", "path": f"{self._path}/{epoch}/state/"}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "ocdbt", "base": database, "path": f"{'.'.join(leaf.keys)}/"},
            "recheck_cached_data": False,  # a complete snapshot never changes
            "recheck_cached_metadata": False,
        }
        return ts.open(spec, open=True, context=self._reading)

    def _save(self, epoch: int, state: Any, update: int | None) -> None:
        """Runs in the writer's thread, which alone uses the checkpointer while a write is pending."""
        with _orbax_silenced():
            # Without force orbax may skip a save and say so only by what it returns.
            saved = self._opened().save(epoch, state, force=True, custom_metadata={"update": update})
        if not saved:
            raise RuntimeError("orbax skipped the save")

    def _save_among_processes(self, epoch: int, state: Any, update: int | None) -> _Pending:
        """Orbax copies what this process holds before this returns."""
        from orbax.checkpoint import v1 as ocp

        context = _saving_context()
        # Named so, the processes meet through their coordinator. Otherwise they would run a program on all devices,
        # in a thread of their own, and each must run such programs in the same order.
        context.multiprocessing.active_processes = set(range(jax.process_count()))
        context.multiprocessing.barrier_sync_key_prefix = f"{zlib.crc32(str(self._path).encode()):08x}"
        try:
            with _orbax_silenced(), context:
                saving = ocp.save_async(self._path / str(epoch), state, custom_metadata={"update": update})
        except Exception as error:
            saving = Future()
            saving.set_exception(error)  # `wait` raises it, as it does what comes later
        return saving

    def _opened(self) -> Any:
        if self._checkpointer is None:
            from orbax.checkpoint import v1 as ocp

            self._checkpointer = ocp.training.Checkpointer(self._path, context=_saving_context())
        return self._checkpointer

    def _release_checkpointer(self) -> None:
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            with suppress(Exception), _orbax_silenced():  # `wait` has raised what there was to raise
                checkpointer.close()

    def _require_snapshots(self) -> None:
        self.wait()
        if self.num_epochs == 0:
            raise ValueError(f"the store {self._path} has no snapshots yet")

    def _by_name(self, names: Sequence[str]) -> list[Leaf]:
        known = {leaf.name: leaf for leaf in self._leaves}
        unknown = [name for name in names if name not in known]
        if unknown or isinstance(names, str):
            raise ValueError(f"leaves={names!r} must be a sequence of key paths among {list(known)}")
        return [known[name] for name in names]


def _absolute(path: str | os.PathLike[str]) -> Path:
    """Orbax takes absolute paths only."""
    return Path(path).expanduser().absolute()


def _by_first_process(work: Callable[[], None]) -> None:
    """Let the first of all processes do something; the others wait for it, and fail where it fails."""
    error = None
    if jax.process_index() == 0:
        try:
            work()
        except Exception as found:
            error = found
    failed = multihost_utils.broadcast_one_to_all(np.array(error is not None)) if jax.process_count() > 1 else False
    if error is not None:
        raise error
    if failed:
        raise OSError("the first process could not do this, and says why")


def _make_folder(folder: Path, records: list[dict[str, Any]]) -> None:
    # The temporary index is what a crash in the midst of creating leaves.
    if folder.exists() and not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {f"{INDEX}.tmp"}):
        found = "a trajectory store" if (folder / INDEX).exists() else "something"
        raise FileExistsError(f"path={folder} holds {found} already; open it, or choose a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_index(folder, records, [])


def _count_epochs(path: Path) -> int:
    """Complete snapshots: orbax writes to "3.orbax-checkpoint-tmp", renamed to "3" when all is on disk."""
    found = {int(entry.name) for entry in path.iterdir() if entry.name.isdigit()}
    missing = set(range(len(found))) - found
    if missing:
        raise FileNotFoundError(f"epoch {min(missing)} is missing in the store {path}; it has {sorted(found)}")
    return len(found)


def _update(snapshot: Path) -> int | None:
    """Read from orbax's file, for its own reader opens every array of the snapshot (20 ms each)."""
    metadata = json.loads((snapshot / "_CHECKPOINT_METADATA").read_text())
    update: int | None = metadata["custom_metadata"]["update"]
    return update


def _write_index(path: Path, labels: list[dict[str, Any]], leaves: list[Leaf]) -> None:
    """Replace the index in one step, so that a reader sees the old one or the new one."""
    index = {
        "format": FORMAT,
        "version": VERSION,
        "about": ABOUT,
        "labels": labels,
        "leaves": [leaf._asdict() for leaf in leaves],
    }
    unfinished = path / f"{INDEX}.tmp"
    try:
        with unfinished.open("w") as file:
            json.dump(index, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path / INDEX)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{path / INDEX} could not be written: {error}") from error


def _reason(error: Exception) -> str:
    """The system's words where tensorstore reports a system error, in the midst of a page of its own."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else str(error)


def _records(labels: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if len(labels) == 0:
        raise ValueError("labels=[] is empty; give one record a member")
    records = []
    for member, record in enumerate(labels):
        if record.keys() != labels[0].keys():
            columns, first = list(record), list(labels[0])
            raise ValueError(f"labels[{member}] has the columns {columns}; allowed: {first}, as in labels[0]")
        try:
            records.append(json.loads(json.dumps(dict(record), default=_scalar, allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"labels[{member}]={record!r} must hold finite JSON values: {error}") from error
    return records


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
        return value.item()
    raise TypeError(f"{value!r} is no JSON value")


def _named_arrays(params: Any, num_members: int) -> Iterator[tuple[Leaf, Any]]:
    """The arrays of params with their description, in tree order; refuses what cannot be stored."""
    names = set()
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        keys = tuple(jax.tree_util.keystr((key,), simple=True) for key in path) or ("params",)
        name = "/".join(keys)
        if not isinstance(array, np.ndarray | jax.Array):
            raise ValueError(f"params: {name!r} is a {type(array).__name__}; allowed: JAX and NumPy arrays")
        if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize > 4:
            raise ValueError(f"params: {name!r} is {array.dtype}; allowed: float32, bfloat16 and float16")
        if array.shape[:1] != (num_members,) or array.size == 0:
            raise ValueError(
                f"params: {name!r} has the shape {array.shape}; allowed: ({num_members}, ...), not empty, an "
                f"index of the first axis for each record of the labels"
            )
        if name.replace(".", "/") in names:
            raise ValueError(f"params: {name!r} would have the name of another array; allowed: one key path each")
        names.add(name.replace(".", "/"))
        yield Leaf(keys, array.shape[1:], array.dtype.name), array
    if not names:
        raise ValueError("params holds no arrays")


def _require_same(found: Iterable[Leaf], first: list[Leaf]) -> None:
    new = {leaf.name: leaf for leaf in found}
    old = {leaf.name: leaf for leaf in first}
    for name in [*old, *new]:
        if new.get(name) != old.get(name):
            now, then = _describe(new.get(name)), _describe(old.get(name))
            raise ValueError(f"params: {name!r} of a member is {now}; allowed: {then}, as in epoch 0")


def _describe(leaf: Leaf | None) -> str:
    return f"{leaf.dtype} {leaf.shape}" if leaf else "absent"


def _host_copies(arrays: list[np.ndarray | jax.Array]) -> list[np.ndarray]:
    for array in arrays:
        if isinstance(array, jax.Array):
            array.copy_to_host_async()  # all transfers run together
    # A copy in any case: on the CPU the host's view is the buffer itself, which the caller may donate.
    return [np.array(array, order="C") for array in arrays]


def _nested(items: Iterable[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """Nested dictionaries from key paths and values."""
    tree: dict[str, Any] = {}
    for keys, value in items:
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = value
    return tree


def _selection(argument: str, chosen: int | Sequence[int] | None, count: int) -> np.ndarray:
    numbers = np.atleast_1d(np.arange(count) if chosen is None else np.asarray(chosen))
    integers = numbers.ndim == 1 and numbers.size > 0 and numbers.dtype.kind in "iu"
    if not integers or numbers.min() < 0 or numbers.max() >= count:
        raise ValueError(f"{argument}={chosen} must be one or several of 0 to {count - 1}")
    return numbers


def _saving_context() -> Any:
    """How a snapshot lies on disk."""
    from orbax.checkpoint import v1 as ocp

    options = ocp.options.ArrayOptions.Saving.StorageOptions

    def chunk_by_member(keys: Any, array: np.ndarray) -> Any:
        small = array.nbytes < PAGE * len(array)  # then a chunk a member would only make more chunks
        return options(shard_axes=() if small else (0,))

    context = ocp.Context()
    context.array.saving.use_compression = False  # parameters hardly compress (0.92), and it takes longer
    context.array.saving.use_replica_parallel = False  # it cuts members into pieces
    context.array.saving.scoped_storage_options_creator = chunk_by_member
    context.memory.deepcopy_host_arrays = False  # `append` has copied them
    # Otherwise a folder that cannot be made leaves threads that wait for it, 20 minutes, and keep Python alive.
    context.asynchronous.create_directories_asynchronously = False
    return context


@contextmanager
def _orbax_silenced() -> Iterator[None]:
    """Orbax logs the traceback of an error once a thread, hundreds of lines of what `wait` raises in one."""
    from absl import logging as absl_logging

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = absl_logging.get_absl_logger()
    logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(from_elsewhere)

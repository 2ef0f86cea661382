"""Trajectories on disk: the parameters of all members, epoch by epoch.

Retraining appends a snapshot of all members per epoch, which is written while the next epoch runs. Distances, geometry
and embeddings read snapshots by epoch, by member, or as blocks of columns, so that a whole trajectory of a large
network need never be in memory. A snapshot is an orbax checkpoint (https://orbax.readthedocs.io), and everything that
is read is verified against the checksums in it. In a packed store many small snapshots share a checkpoint; reading is
the same.
"""

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Integer, Shaped

from jaxscape.lazy import jax, multihost_utils
from jaxscape.trajectories.arrays import (
    host_copies,
    in_structure,
    matching_names,
    named_arrays,
    nested,
    require_same,
    shapes_of_one,
)
from jaxscape.trajectories.blocks import read_blocks
from jaxscape.trajectories.checksums import encode, rows_checksums, rows_checksums_among_processes
from jaxscape.trajectories.index import Index, Leaf, make_store_folder, plain_records, read_index, write_index
from jaxscape.trajectories.packs import PackBuffer
from jaxscape.trajectories.paths import plain_path
from jaxscape.trajectories.snapshots import (
    Snapshot,
    StoredArray,
    find_snapshots,
    read_snapshot,
    reason,
    save_snapshot,
    start_saving_among_processes,
)


class TrajectoryStore:
    """A folder of snapshots, one per epoch, each with the parameters of all members.

    A snapshot exists once it is completely on disk: a process may be killed at any time, and the store resumes after
    its last complete epoch. A damaged epoch can be deleted and appended again. One program may write at a time; any
    number may read. If the program has several processes (`jax.distributed`), all of them must create the store, append
    and close together, on a shared file system; each process writes the members on its own devices.

    A packed store is for many small snapshots, such as one per training step. They are buffered in memory and written
    together: by the first `append` after they fill 64 MB or the oldest is a minute old, by `wait` and `close`, and
    before anything is read. A process that is killed loses the buffer and the pack that is being written; every pack on
    disk is whole. Damage affects all epochs of a pack. Only programs of one process can write a packed store.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with TrajectoryStore.create(folder, labels=[{"seed": 0}, {"seed": 1}]) as store:
        ...     store.append(0, {"dense": {"kernel": np.ones((2, 3, 4), np.float32)}})
        >>> store = TrajectoryStore.open(folder)
        >>> store.read(members=1)["dense"]["kernel"].shape
        (1, 1, 3, 4)
    """

    def __init__(self, path: Path, index: Index):
        """Use `create` or `open` instead."""
        self._path = path
        self._labels, self._leaves, self._packed = index
        self._snapshots = find_snapshots(path, self._packed)
        self._num_epochs = max(self._snapshots, default=-1) + 1
        self._buffer: PackBuffer | None = None  # of a packed store: snapshots that are not written yet
        self._reading = _reading_context()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trajectory-store")
        self._pending: tuple[range, Future[Snapshot]] | None = None
        self._read_back = False
        self._closed = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], labels: Sequence[Mapping[str, Any]], *, packed: bool = False) -> Self:
        """Create an empty store.

        Args:
            path: a folder, new or empty.
            labels: one record per member, in the order of the member axis, all with the same columns (seed, step_size,
                optimizer, ...). Values are JSON values; NumPy and JAX scalars are converted.
            packed: whether many small snapshots share a checkpoint: about ten files for 64 MB of snapshots, and not for
                each snapshot. Version 0.1 cannot read such a store.

        Raises:
            FileExistsError: if the folder holds a store or anything else already.
            ValueError: if labels are empty, differ in their columns or hold anything but JSON values, or for a packed
                store with several processes.
            OSError: if the folder cannot be made.
        """
        folder = _absolute(path)
        index = Index(plain_records(labels), [], bool(packed))
        if index.packed and jax.process_count() > 1:
            raise ValueError(f"packed=True is for one process, and there are {jax.process_count()}; allowed: False")
        plain_path(folder)  # refuses a path that cannot be written to
        _by_first_process(lambda: make_store_folder(folder, index))
        return cls(folder, index)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a store to read it or to append to it.

        Raises:
            FileNotFoundError: if there is no folder.
            ValueError: if the folder is not a trajectory store, is one of another version, or holds a damaged file.
            OSError: if it cannot be read.
        """
        folder = _absolute(path)
        return cls(folder, read_index(folder))

    @property
    def path(self) -> Path:
        """Return the absolute path of the folder."""
        return self._path

    @property
    def num_epochs(self) -> int:
        """Return the last epoch, on disk or appended by this object, plus one; see `missing_epochs`."""
        return self._num_epochs

    @property
    def packed(self) -> bool:
        """Return whether many snapshots share a checkpoint, as given to `create`."""
        return self._packed

    @property
    def missing_epochs(self) -> list[int]:
        """Return the epochs before the last one whose snapshot was deleted; `append` accepts them."""
        return [epoch for epoch in range(self.num_epochs) if epoch not in self._snapshots]

    @property
    def num_members(self) -> int:
        """Return the number of members in each snapshot."""
        return len(self._labels)

    @property
    def num_parameters(self) -> int:
        """Return P, the number of parameters of one member; 0 before the first snapshot."""
        return sum(leaf.size for leaf in self._leaves)

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Return one record per member, as given to `create`."""
        return [dict(record) for record in self._labels]

    @property
    def updates(self) -> list[int | None]:
        """Return the optimizer updates before each snapshot, as given to `append`; None if not given or missing."""
        known = self._snapshots
        return [known[epoch].update(epoch) if epoch in known else None for epoch in range(self.num_epochs)]

    def columns(self, members: Sequence[int] | None = None) -> dict[str, Shaped[np.ndarray, " members"]]:
        """Return labels for each row, in the form that tables and figures take.

        With x the coordinates of an embedding of `pairwise_distances(gram(store))`,
        `jaxscape.figures.plots.plot_trajectories(ax, x, seed=..., epoch=..., member=...)` draws them.

        Args:
            members: members whose rows to label, in this order; all by default, as in `gram(store, members=)`.

        Returns:
            Arrays (n,) by name, in the order of rows (epoch by epoch, members within): int64 "member" and "epoch", each
            label under its own name, and int64 "update" if every step has a number.

        Raises:
            IndexError: if a member does not exist.
        """
        chosen = range(self.num_members) if members is None else members
        labels, updates = [self._labels[member] for member in chosen], self.updates
        named = {name: np.tile([record[name] for record in labels], self.num_epochs) for name in self._labels[0]}
        columns = {"member": np.tile(np.array(chosen), self.num_epochs), **named}
        columns["epoch"] = np.repeat(np.arange(self.num_epochs), len(labels))
        if None in updates:
            return columns
        return columns | {"update": np.repeat(np.array(updates, np.int64), len(labels))}

    @property
    def last_update(self) -> int | None:
        """Return the last entry of `updates`, without reading the others; None before the first snapshot."""
        last = self._num_epochs - 1
        return self._snapshots[last].update(last) if last >= 0 else None

    @property
    def leaf_names(self) -> list[str]:
        """Return the key paths of the arrays, such as "group1/conv/kernel", in the column order of `blocks`."""
        return [leaf.name for leaf in self._leaves]

    @property
    def leaf_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays of one member, in the order of `leaf_names`."""
        return [leaf.shape for leaf in self._leaves]

    def append(self, epoch: float, params: Any, *, update: int | None = None) -> None:
        """Add the snapshot of an epoch, which is written in the background.

        The arrays are copied before this returns, so they may be donated or deleted at once. It waits until the
        previous epoch is written, and raises the error of that write. The last snapshot is safe after `wait` or
        `close`, and lost if the program ends without either.

        The first snapshot that an object writes is read back and compared.

        In a packed store this copies, and waits only if the previous pack is still being written when the next one is
        full. An error names all epochs of the pack that could not be written.

        Args:
            epoch: the next epoch, `num_epochs`, or one of `missing_epochs`.
            params: a pytree of JAX or NumPy arrays [member, ...] of float32, bfloat16 or float16. float64 is refused,
                since `blocks` would round it. Structure, shapes and dtypes are those of epoch 0. With several
                processes, arrays that are sharded over the devices of all, or replicated on every process.
            update: number of optimizer updates before this snapshot, which is stored with it. In a packed store, where
                it is the number of a step, it must increase from epoch to epoch.

        Raises:
            ValueError: for another epoch, arrays that do not match (names the key path), an update that does not
                increase in a packed store, or a closed store.
            OSError: if the previous epoch could not be written (a full disk). That epoch is dropped and can be appended
                again; the other epochs are unchanged.
            FileExistsError: if another process has written the previous epoch.
        """
        self._make_room() if self._packed else self.wait()
        if self._closed:
            raise ValueError(f"the store {self._path} is closed; open it again to append")
        epoch = self._free_epoch(epoch)
        arrays = dict(named_arrays(params, self.num_members))
        update = None if update is None else int(operator.index(update))
        if self._packed:
            self._require_one_process()
            self._require_increasing(epoch, update)
        self._require_structure(arrays)
        if self._packed:
            self._append_to_pack(epoch, arrays, update)
        else:
            start = self._start_writing if jax.process_count() == 1 else self._start_writing_among_processes
            self._pending = range(epoch, epoch + 1), start(epoch, arrays, update)
        # The entry has no checksums until the snapshot is on disk.
        self._snapshots[epoch] = Snapshot(self._path / str(epoch), (update,), None, self._packed)
        self._num_epochs = max(self._num_epochs, epoch + 1)

    def _require_structure(self, arrays: dict[Leaf, Any]) -> None:
        """Refuse arrays that differ from those of the first snapshot; record those of the first in the index."""
        if self.num_epochs > 0:
            return require_same(arrays, self._leaves)
        self._leaves = list(arrays)
        index = Index(self._labels, self._leaves, self._packed)
        return _by_first_process(lambda: write_index(self._path, index))

    def wait(self) -> None:
        """Wait until everything appended is on disk; raise the OSError of a write that failed."""
        try:
            self._finish_writing()
        finally:  # write the buffer even if the previous pack could not be written
            if self._buffer:
                self._start_pack()
                self._finish_writing()

    def _finish_writing(self) -> None:
        """Wait for the current write; raise its error."""
        if self._pending is None:
            return
        epochs, pending = self._pending
        words = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
        try:
            self._snapshots |= dict.fromkeys(epochs, pending.result())
        except _NotReadBackError as error:
            self._forget(epochs)
            raise OSError(
                f"{words} {'was' if len(epochs) == 1 else 'were'} written and cannot be read back: {error}"
            ) from error
        except Exception as error:
            self._forget(epochs)
            if (self._path / str(epochs[0])).exists():
                raise FileExistsError(
                    f"another process has written {words} to {self._path}; one at a time may write. Open the "
                    f"store again to resume after it"
                ) from error
            raise OSError(
                f"{words} could not be written to {self._path} and can be appended again; "
                f"the other epochs are unchanged: {reason(error)}"
            ) from error
        self._pending = None

    def _forget(self, epochs: range) -> None:
        """Drop epochs that were not written, and the read cache."""
        self._pending = None
        for epoch in epochs:
            del self._snapshots[epoch]
        self._num_epochs = max(self._snapshots, default=-1) + 1
        self._reading = _reading_context()

    def _make_room(self) -> None:
        """Start to write the buffer if it is full; raise the error of the previous pack if that has failed already."""
        is_full = self._buffer is not None and self._buffer.is_full
        if self._pending and (is_full or self._pending[1].done()):
            self._finish_writing()
        if is_full:
            self._start_pack()

    def _append_to_pack(self, epoch: int, arrays: dict[Leaf, Any], update: int | None) -> None:
        if self._buffer and epoch != self._buffer.next_epoch:
            self.wait()
        self._buffer = self._buffer or PackBuffer(epoch, self._leaves, self.num_members)
        self._buffer.add(arrays, update)

    def _start_pack(self) -> None:
        """Start to write the buffer; the caller makes sure that nothing else is being written."""
        assert self._buffer is not None
        pack, self._buffer = self._buffer.pack(), None
        if pack.epochs:
            snapshot = Snapshot(self._path / str(pack.epochs[0]), pack.updates, None, packed=True)
            self._pending = pack.epochs, self._writer.submit(self._write, snapshot, pack.arrays)

    def close(self) -> None:
        """Wait, then stop writing. The store can still be read."""
        self._closed = True
        try:
            self.wait()
        finally:
            self._writer.shutdown()

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
        *,
        like: Any = None,
    ) -> Any:
        """Read parameters; only the requested bytes are read from disk, and they are verified against their checksums.

        Args:
            epochs: one, several, or None for all. The axis is always present, in the requested order.
            members: one, several, or None for all, as for epochs.
            leaves: key paths (see `leaf_names`), or None for all.
            like: a pytree whose structure the result gets: parameters of one member, or of all members as for `append`,
                or their shapes (`jax.ShapeDtypeStruct`); not together with `leaves`. Its values are not used, except
                typed PRNG keys, which are returned unchanged.

        Returns:
            NumPy arrays [epoch, member, ...] of the dtypes that were appended. With `like` they have its structure,
            otherwise they are in nested dictionaries with string keys: a list, tuple, NamedTuple or other node is a
            dictionary by index or field ("0", "kernel"), a bare array {"params": array}. Do not `jax.tree.unflatten`
            these: their leaves are in another order, that of sorted keys.

        Raises:
            ValueError: for an empty store, epochs, members or leaves that do not exist, `like` with other key paths or
                shapes, or a damaged epoch.
            FileNotFoundError: for missing epochs.
        """
        self._require_snapshots()
        epoch_numbers = _selection("epochs", epochs, self.num_epochs)
        member_numbers = _selection("members", members, self.num_members)
        self._require_epochs(epoch_numbers.tolist())
        chosen = self._leaves if leaves is None else self._by_name(leaves)
        if like is not None:
            if leaves is not None:
                raise ValueError(f"leaves={leaves!r} cannot be given with like; allowed: one of them")
            like = shapes_of_one(like, self._leaves, self.num_members)
            shapes = nested((leaf.keys, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)) for leaf in chosen)
            in_structure(like, shapes)  # raises an error before anything is read
        arrays = self._read_arrays(chosen, epoch_numbers, member_numbers)
        dictionaries = nested((leaf.keys, array) for leaf, array in arrays)
        return dictionaries if like is None else in_structure(like, dictionaries, leading_axes=2)

    def _read_arrays(
        self, leaves: list[Leaf], epochs: Integer[np.ndarray, " epochs"], members: Integer[np.ndarray, " members"]
    ) -> Iterator[tuple[Leaf, Shaped[np.ndarray, "epochs members ..."]]]:
        """Read arrays [epoch, member, ...] in parallel."""
        snapshots = self._grouped(epochs.tolist())
        opened = {leaf: [self._open_array(snapshot, leaf) for snapshot, _ in snapshots] for leaf in leaves}
        all_places = [places for _, places in snapshots]
        reads = {
            leaf: [
                (places, array.start_reading(epochs[places], members))
                for places, array in zip(all_places, opened[leaf], strict=True)
            ]
            for leaf in leaves
        }
        for leaf in list(reads):
            values = np.empty((len(epochs), len(members), *leaf.shape), leaf.dtype)
            for places, wait in reads.pop(leaf):
                values[places] = wait()
            yield leaf, values

    def blocks(
        self,
        max_bytes: int,
        *,
        members: int | Sequence[int] | None = None,
        leaves: str | Sequence[str] | None = None,
    ) -> Iterator[Float32[np.ndarray, "rows columns"]]:
        """Read the matrix of all snapshots, some columns at a time.

        Args:
            max_bytes: size of a block; while a block is filled the caller still holds the previous one. A packed store
                may need the size of a pack in addition.
            members: as for `read`. Other members are not read.
            leaves: key paths (see `leaf_names`), or patterns such as "group1*/*/kernel", in which `*` stands for any
                text, "/" included; None for all. Other leaves are not read.

        Returns:
            Iterator of float32 arrays (n, k). The n = epochs x members rows go epoch by epoch, members within; the
            columns of all blocks are the parameters in the order of `leaf_names`, each leaf in C order. All blocks but
            the last have the largest k that fits. A leaf has been verified when the block with its last column is
            returned.

        Raises:
            ValueError: if not even one column fits, the store is empty, members or leaves do not exist, or an epoch is
                damaged.
            FileNotFoundError: if epochs are missing.
        """
        self._require_snapshots()
        self._require_epochs(range(self.num_epochs))
        chosen = _selection("members", members, self.num_members)
        column_bytes = 4 * self.num_epochs * len(chosen)
        if max_bytes < column_bytes:
            raise ValueError(f"max_bytes={max_bytes} is less than one column, {column_bytes} bytes")
        width = int(max_bytes // column_bytes)
        names = self.leaf_names if leaves is None else matching_names(self.leaf_names, leaves)
        snapshots = [snapshot for snapshot, _ in self._grouped(range(self.num_epochs))]
        counts = [len(snapshot.epochs) for snapshot in snapshots]

        def open_array(place: int, leaf: Leaf) -> StoredArray:
            return self._open_array(snapshots[place], leaf)

        return read_blocks(open_array, self._by_name(names), width, counts, chosen)

    def _grouped(self, epochs: Sequence[int]) -> list[tuple[Snapshot, list[int]]]:
        """Return the snapshots and packs that hold some epochs, each with the indices of its epochs in `epochs`."""
        groups: dict[int, tuple[Snapshot, list[int]]] = {}
        for place, epoch in enumerate(epochs):
            snapshot = self._snapshots[epoch]
            groups.setdefault(snapshot.epochs.start, (snapshot, []))[1].append(place)
        return list(groups.values())

    def _open_array(self, snapshot: Snapshot, leaf: Leaf) -> StoredArray:
        return StoredArray(snapshot, leaf, self.num_members, self._reading)

    def _start_writing(self, epoch: int, arrays: dict[Leaf, Any], update: int | None) -> Future[Snapshot]:
        copies = dict(zip(arrays, host_copies(list(arrays.values())), strict=True))
        return self._writer.submit(self._write, Snapshot(self._path / str(epoch), (update,), None), copies)

    def _write(self, snapshot: Snapshot, copies: dict[Leaf, np.ndarray]) -> Snapshot:
        """Write a snapshot or a pack, and return it with its checksums."""
        if not self._path.exists():  # orbax would create the folder, without an index
            raise FileNotFoundError("the folder is gone")
        rows = {leaf: array.reshape(-1, *leaf.shape) for leaf, array in copies.items()}
        sums = {leaf.name: encode(rows_checksums(array)) for leaf, array in rows.items()}
        written = snapshot._replace(checksums=sums)
        save_snapshot(written, nested((leaf.keys, array) for leaf, array in copies.items()))
        self._compare_first(written)
        return written

    def _start_writing_among_processes(
        self, epoch: int, arrays: dict[Leaf, Any], update: int | None
    ) -> Future[Snapshot]:
        by_leaf = zip(arrays, rows_checksums_among_processes(list(arrays.values())), strict=True)
        sums = {leaf.name: encode(values) for leaf, values in by_leaf if values is not None}
        snapshot = Snapshot(self._path / str(epoch), (update,), sums)
        state = nested((leaf.keys, array) for leaf, array in arrays.items())
        try:
            saving = start_saving_among_processes(snapshot, state)
        except Exception as error:
            failed: Future[Snapshot] = Future()
            failed.set_exception(error)  # `wait` raises it, like errors that occur later
            return failed

        def wait() -> Snapshot:
            saving.result()
            if jax.process_index() == 0:
                self._compare_first(snapshot)
            return snapshot

        return self._writer.submit(wait)

    def _compare_first(self, written: Snapshot) -> None:
        """Read back the first snapshot that this object wrote, array by array.

        A file system on which snapshots cannot be read back thus fails now, and not after the last epoch.
        """
        if self._read_back:
            return
        all_members = np.arange(self.num_members)
        try:
            stored = read_snapshot(written.folder, written.packed)
            if stored != written:
                raise written.damaged("its checksums are not those that were written")
            for leaf in self._leaves:
                self._open_array(stored, leaf).start_reading(np.array(stored.epochs), all_members)()
        except (ValueError, OSError) as error:
            raise _NotReadBackError(str(error)) from error
        self._read_back = True

    def _free_epoch(self, epoch: float) -> int:
        if epoch == self.num_epochs:
            return int(epoch)
        missing = self.missing_epochs
        if epoch in missing:
            return int(epoch)
        also = f", and {missing} are missing" if missing else ""
        raise ValueError(f"epoch={epoch} cannot be appended; the next epoch is {self.num_epochs}{also}")

    def _require_one_process(self) -> None:
        if jax.process_count() > 1:
            raise ValueError(f"the store {self._path} is packed; allowed: one process, and not {jax.process_count()}")

    def _require_increasing(self, epoch: int, update: int | None) -> None:
        """Refuse a step number that is not between those of the neighbouring epochs."""
        if update is None:
            return
        for neighbors, is_right in (
            (range(epoch - 1, -1, -1), operator.lt),
            (range(epoch + 1, self.num_epochs), operator.gt),
        ):
            known = (self._snapshots[e].update(e) for e in neighbors if e in self._snapshots)
            nearest = next((number for number in known if number is not None), None)
            if nearest is not None and not is_right(nearest, update):
                allowed = f"{'more' if is_right is operator.lt else 'less'} than {nearest}"
                raise ValueError(f"update={update} of epoch {epoch} does not increase; allowed: {allowed}")

    def _require_epochs(self, epochs: Sequence[int]) -> None:
        missing = [epoch for epoch in epochs if epoch not in self._snapshots]
        if missing:
            words = f"epochs {missing} are" if len(missing) > 1 else f"epoch {missing[0]} is"
            raise FileNotFoundError(
                f"{words} missing in the store {self._path}; append what is missing again, or read other epochs"
            )

    def _require_snapshots(self) -> None:
        self.wait()
        if self.num_epochs == 0:
            raise ValueError(f"the store {self._path} has no snapshots yet")

    def _by_name(self, names: Sequence[str]) -> list[Leaf]:
        known = {leaf.name: leaf for leaf in self._leaves}
        if isinstance(names, str) or not isinstance(names, Iterable) or not all(name in list(known) for name in names):
            raise ValueError(f"leaves={names!r} must be a sequence of key paths among {list(known)}")
        return [known[name] for name in names]


class _NotReadBackError(Exception):
    """A snapshot was written but cannot be read back unchanged."""


def _absolute(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, since orbax accepts no other."""
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"path={path!r} must be the name of a folder")
    return Path(os.path.expanduser(text)).absolute()  # as in a shell, ~name is unchanged if there is no such user


def _reading_context() -> Any:
    """Return a tensorstore context with a cache, so that the database index of an epoch is read once for all leaves."""
    import tensorstore as ts

    return ts.Context({"cache_pool": {"total_bytes_limit": 2**26}})


def _by_first_process(work: Callable[[], None]) -> None:
    """Run `work` on the first process only; the others wait for it, and fail if it fails."""
    error = None
    if jax.process_index() == 0:
        try:
            work()
        except Exception as raised:
            error = raised
    failed = multihost_utils.broadcast_one_to_all(np.array(error is not None)) if jax.process_count() > 1 else False
    if error is not None:
        raise error
    if failed:
        raise OSError("the first process failed; its own error says why")


def _selection(argument: str, chosen: int | Sequence[int] | None, count: int) -> Integer[np.ndarray, " chosen"]:
    try:
        numbers = np.atleast_1d(np.arange(count) if chosen is None else np.asarray(chosen))
    except (ValueError, OverflowError):  # lists of unequal lengths
        numbers = np.empty(0)
    integers = numbers.ndim == 1 and numbers.size > 0 and numbers.dtype.kind in "iu"
    if not integers or numbers.min() < 0 or numbers.max() >= count:
        raise ValueError(f"{argument}={chosen} must be one or several of 0 to {count - 1}")
    return numbers

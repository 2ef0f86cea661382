"""The stage `record`: store the parameters of the user's own training, step by step, during or after it.

Steps are buffered in memory until a pack of them is written (`jaxscape.trajectories.store`). The metrics are written
every few seconds and at the end. A recording that was killed can be resumed: rows of the table whose steps were not
stored are dropped, and rows that were lost are restored from the parameters, without their metrics.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from jaxscape.arguments import check_parameters, whole_number
from jaxscape.lazy import jax
from jaxscape.runs.config import RecordSettings
from jaxscape.runs.folder import RECORDED, RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.recorded import first_columns
from jaxscape.runs.tables import Columns, join_tables, read_table, write_table
from jaxscape.trajectories.arrays import differences, is_prng_key, outline
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any
Labels = Sequence[Mapping[str, Any]]

_SECONDS_BETWEEN_TABLES = 5.0
_COLUMNS = ("member", "epoch", "update", "finite")  # of metrics.csv, beside the labels


class Recorder:
    """The trajectories of a training, open for appending; holds the lock of the run folder until it is closed."""

    def __init__(self, run: RunFolder, labels: Labels | None, group: str | None, problem: Mapping[str, Any]):
        """Open an existing recording, or begin a new one.

        Args:
            run: the run folder.
            labels: one record per member; by default one member that is named after the folder.
            group: the label that groups the members; the first one by default.
            problem: the description of the training, in the form that `RunFolder.record_problem` takes.

        Raises:
            ValueError: if the folder holds another kind of run, or members with other labels.
            OSError: if the folder cannot be written to, or another process is writing to it.
        """
        kind = run.kind
        if run.read_config() and kind is not RECORDED and (run.minimum.exists() or run.trajectories.exists()):
            raise ValueError(f"{run} holds results of `{kind.stage}`; choose another run folder to record in")
        records = [{"run": run.name}] if labels is None else [dict(label) for label in labels]
        if not records or not records[0]:
            raise ValueError(f"labels must be one record per member with one label or more, got {labels!r:.100}")
        _check_labels(records)
        group = group or next(iter(records[0]))
        if group not in records[0]:
            raise ValueError(f"group must be one of the labels {', '.join(records[0])}, got {group!r}")
        self.run = run
        self._problem = dict(problem)
        self._settings = RecordSettings(group=group)
        self._labels = records
        self._lock = ExitStack()
        self._lock.enter_context(writing(run))
        try:
            self._store = self._open()
            self._metrics = {} if self._store is None else complete_metrics(run, self._store)
        except BaseException:
            self._lock.close()
            raise
        self._pending: list[Columns] = []
        self._written_at = time.monotonic()
        self._warned = False

    @property
    def last_step(self) -> int | None:
        """The number of the last recorded step; None before the first."""
        return None if self._store is None else self._store.last_update

    @property
    def steps(self) -> list[int]:
        """The numbers of all recorded steps, in increasing order."""
        updates = [] if self._store is None else self._store.updates
        return [update for update in updates if update is not None]

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise an error for arrays of a network other than the recorded one.

        Args:
            shapes: the shapes of the arrays of one network, by name.

        Raises:
            ValueError: names an array.
        """
        if self._store is None:
            return
        known = dict(zip(self._store.leaf_names, self._store.leaf_shapes, strict=True))
        for name, now, then in differences(shapes, known):
            raise ValueError(f"{name!r} is {now}, and {then} in the steps that {self.run} holds")

    def record(self, step: int, params: PyTree, metrics: Mapping[str, Any] | None) -> None:
        """Store the parameters of a step; they are copied before this returns.

        Raises:
            TypeError: for metrics that are not numbers.
            ValueError: for a step that is not larger than the last one, arrays that do not match the earlier steps, or
                metrics with the name of another column.
            OSError: if earlier steps could not be written.
        """
        step, last = whole_number("step", step), self.last_step
        if last is not None and step <= last:
            raise ValueError(f"step must be larger than the last recorded one, {last}, got {step}")
        stacked = self._narrow(_stacked(params, len(self._labels)))
        epoch = 0 if self._store is None else self._store.num_epochs
        row = self._row(epoch, step, stacked, metrics or {})
        if self._store is None:
            self.run.record_problem(self._problem | {"parameters": outline(stacked, leading_axes=1)})
            self.run.record_settings("record", self._settings, results=())
            self._store = TrajectoryStore.create(self.run.trajectories, self._labels, packed=True)
        self._store.append(epoch, stacked, update=step)
        self._pending.append(row)
        if time.monotonic() - self._written_at > _SECONDS_BETWEEN_TABLES:
            self._write_metrics()

    def close(self) -> None:
        """Write all pending steps, and release the run folder.

        Raises:
            OSError: if they cannot be written.
        """
        try:
            if self._pending:
                self._write_metrics()
            if self._store is not None:
                self._store.close()
                self.run.record_values(snapshots=self._store.num_epochs - 1)
        finally:
            self._lock.close()

    def _open(self) -> TrajectoryStore | None:
        """Return the store; None before the first step."""
        if not self.run.index.exists():
            return None
        store = TrajectoryStore.open(self.run.trajectories)
        if store.labels != self._labels:
            raise ValueError(f"{self.run.trajectories} holds members of other labels, {store.labels!r:.200}")
        recorded = self.run.read_config().get("problem", {})
        self.run.check_problem(self._problem | {"parameters": recorded.get("parameters")})
        return store

    def _row(self, epoch: int, step: int, stacked: PyTree, metrics: Mapping[str, Any]) -> Columns:
        members = len(self._labels)
        measured = {}
        reserved = [*_COLUMNS, *self._labels[0]]
        for name, value in metrics.items():
            if name in reserved:
                raise ValueError(
                    f"metrics must not have the names {', '.join(reserved)}, which are columns of metrics.csv; "
                    f"got {name!r}"
                )
            try:
                array = np.asarray(value, np.float64)
            except (TypeError, ValueError):
                raise TypeError(
                    f"metrics must be numbers, one or one per member, got {value!r:.100} for {name!r}"
                ) from None
            if array.shape not in ((), (members,)):
                raise ValueError(
                    f"metrics must be numbers, one or one per member, got shape {array.shape} for {name!r}"
                )
            measured[name] = np.broadcast_to(array, members)
        return first_columns(self._labels, epoch, step, _finite(stacked, members)) | measured

    def _write_metrics(self) -> None:
        self._metrics = join_tables([self._metrics, *self._pending])
        self._pending = []
        write_table(self.run, self.run.metrics, self._metrics)
        self._written_at = time.monotonic()

    def _narrow(self, stacked: PyTree) -> PyTree:
        """Convert float64 to float32, with a warning: a store holds at most float32."""
        if not any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(stacked)):
            return stacked
        if not self._warned:
            warnings.warn("parameters of float64 are stored as float32", UserWarning, stacklevel=4)
            self._warned = True
        return jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, stacked)


def complete_metrics(run: RunFolder, store: TrajectoryStore) -> Columns:
    """Return one row per member and stored step; metrics that were not recorded, or were lost, are NaN.

    Raises:
        ValueError: if the table is damaged.
    """
    try:
        table = read_table(run, run.metrics)
    except FileNotFoundError:
        table = {"epoch": np.empty(0, int)}
    stored = {name: values[table["epoch"] < store.num_epochs] for name, values in table.items()}
    missing = sorted(set(range(store.num_epochs)) - set(stored["epoch"].tolist()))
    rows, updates = [], store.updates
    for epoch in missing:
        step = updates[epoch]
        finite = _finite(store.read(epochs=epoch), store.num_members)
        rows.append(first_columns(store.labels, epoch, epoch if step is None else step, finite))
    if not store.num_epochs:
        return {}
    joined = join_tables([stored, *rows])
    order = np.argsort(joined["epoch"], kind="stable")
    return {name: values[order] for name, values in joined.items()}


def _check_labels(records: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ValueError if the members have different labels, or a label has the name of another column."""
    if reserved := [name for name in records[0] if name in _COLUMNS]:
        raise ValueError(
            f"labels must not have the names {', '.join(_COLUMNS)}, which are columns of metrics.csv; "
            f"got {reserved[0]!r}"
        )
    for record in records:
        if record.keys() != records[0].keys():
            raise ValueError(f"labels must have the same names for every member, got {records[0]} and {record}")


def _finite(params: PyTree, members: int) -> np.ndarray:
    """Return whether each member is finite, bool [member], from arrays [member, ...] or [1, member, ...]."""
    finite = np.ones(members, bool)
    for leaf in jax.tree.leaves(params):
        finite &= np.isfinite(np.asarray(leaf, np.float32)).reshape(members, -1).all(axis=1)
    return finite


def _stacked(params: PyTree, members: int) -> PyTree:
    """Return arrays [member, ...] from one network, a list of networks, or arrays that are stacked already.

    Raises:
        TypeError: for PRNG keys, which a whole model may hold.
    """
    if any(is_prng_key(leaf) for leaf in jax.tree.leaves(params)):
        check_parameters("params", params)
    if isinstance(params, list | tuple) and type(params) in (list, tuple) and len(params) == members > 1:
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *params)
    arrays = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), params)
    return jax.tree.map(lambda leaf: leaf[None], arrays) if members == 1 else arrays

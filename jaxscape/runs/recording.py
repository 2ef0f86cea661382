"""Storage of trajectories while they are trained, by `retrain` or `compare`.

The metrics of an epoch are written first, then its full state, then its snapshot. Whenever the process is killed, the
same command resumes from the last state and produces the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from rich.console import Console

from jaxscape.problem import Data, is_arrays
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.processes import is_first, wait_for_all
from jaxscape.runs.recorded import diverged_members, first_columns, read_columns
from jaxscape.runs.resume import delete_states, resume_state, save_state
from jaxscape.runs.strategy import fastest_strategy
from jaxscape.runs.tables import Columns, join_tables, write_table
from jaxscape.training.batches import SharedBatches, data_function
from jaxscape.training.members import Update
from jaxscape.training.train import Epoch, TrainState
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any


class Recording:
    """The trajectories, states and metrics of a run folder, open for appending."""

    def __init__(self, run: RunFolder, labels: Sequence[Mapping[str, Any]], console: Console):
        """Open existing trajectories, or begin with members of these labels. The caller holds the folder's lock."""
        self.run = run
        self.store = _open_store(run, labels)
        self.labels = self.store.labels
        self._console = console
        self._metrics: Columns = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.store.close()

    def is_finished(self, epochs: int) -> bool:
        """Return whether this number of epochs is stored, without a gap."""
        complete = self.store.num_epochs > epochs and not self.store.missing_epochs
        return complete and bool(self._metrics_to(epochs))

    def resume(self, start: PyTree) -> tuple[int, PyTree]:
        """Return the newest epoch with a saved state, and the state; 0 and the start if there is none.

        The state is at most one snapshot ahead of the store. If it is missing, if its metrics are missing, or if the
        store lacks an earlier epoch, everything is recomputed, and snapshots that exist are not stored twice.
        """
        done, states = resume_state(self.run.resume, start, self._console)
        self._metrics = self._metrics_to(done)
        if not self._metrics or done > min([self.store.num_epochs, *self.store.missing_epochs]):
            self._metrics = {}
            return 0, start
        return done, states

    def complete(self, epoch: int, params: PyTree) -> None:
        """Store the snapshot of a resumed epoch, if a process was killed between its state and its snapshot.

        Args:
            epoch: the epoch that `resume` returned.
            params: parameters of all members after that epoch, in the order of the labels.
        """
        if epoch == self.store.num_epochs or epoch in self.store.missing_epochs:
            # NumPy arrays, since every process has read the states of all members: they are the same everywhere.
            self.store.append(epoch, jax.tree.map(np.asarray, params), update=self._update_of(epoch))

    def keep(self, epoch: Epoch, params: PyTree, update: int) -> None:
        """Write an epoch to the folder.

        Args:
            epoch: the epoch; its states have the structure of the start passed to `resume`, and its metrics are those
                of all members.
            params: parameters of all members, in the order of the labels.
            update: number of updates since the start.
        """
        if epoch.epoch not in self._metrics.get("epoch", ()):
            rows = self._rows(epoch, update)
            self._metrics = join_tables([self._metrics, rows], rows)  # epoch 0 lacks the means over an epoch
            write_table(self.run, self.run.metrics, self._metrics)
        self.store.wait()  # a state is useless for resuming without the snapshots before it
        save_state(self.run.resume, epoch.epoch, epoch.states)
        if epoch.epoch == self.store.num_epochs or epoch.epoch in self.store.missing_epochs:
            self.store.append(epoch.epoch, params, update=update)

    def finish(self, console: Console) -> None:
        """Wait for the last snapshot, and print which members diverged."""
        self.store.wait()
        for member, epoch in diverged_members(self._metrics).items():
            words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.labels[member].items())
            console.print(
                f"member {member} ({words}) diverged in epoch {epoch}; it is left out of distances and pictures"
            )

    def updates(self, epoch: int) -> int | None:
        """Return the number of updates up to a stored epoch; None if it is not stored."""
        return self.store.updates[epoch] if epoch < self.store.num_epochs else None

    def _update_of(self, epoch: int) -> int:
        """Return the number of updates up to an epoch whose rows are in the metrics."""
        return int(self._metrics["update"][self._metrics["epoch"] == epoch][0])

    def strategy(self, requested: str) -> str | None:
        """Return the requested strategy; for "auto", the one that these trajectories began with, or None."""
        if requested != "auto":
            return requested
        return self.run.strategy() if self.store.num_epochs else None

    def _metrics_to(self, epoch: int) -> Columns:
        """Return the rows of all epochs up to this one; {} if some are missing or the table is damaged."""
        try:
            columns = read_columns(self.run)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            self._console.print(f"{error}; its epochs are recomputed")
            return {}
        rows = columns["epoch"] <= epoch
        complete = rows.sum() == (epoch + 1) * len(self.labels)
        return {name: values[rows] for name, values in columns.items()} if complete else {}

    def _rows(self, epoch: Epoch, update: int) -> Columns:
        """Return one row per member: labels, then metrics in a fixed order."""
        columns = first_columns(self.labels, epoch.epoch, update, epoch.metrics["finite"])
        return columns | {name: values for name, values in sorted(epoch.metrics.items()) if name != "finite"}


class Updates:
    """A counter of the updates up to an epoch: the steps of passes over arrays, or the number of batches drawn."""

    def __init__(self, data: Data, per_epoch: int | None, *, done: int, before: int | None):
        """Start counting after an epoch.

        Args:
            data: data of any kind that `train` takes.
            per_epoch: steps of one pass over arrays; None for other data.
            done: number of the epoch.
            before: number of updates so far, for data that are a function.
        """
        self._data = data if is_arrays(data) or isinstance(data, Iterator) else data_function(data)
        self._per_epoch, self._done = per_epoch, done
        self._steps: dict[int, int] = {done: before or 0}

    @property
    def data(self) -> Data:
        """The data to train on; if they are a function, its batches are counted."""
        return self._counted if callable(self._data) else self._data

    def after(self, epoch: int) -> int:
        """Return the number of updates up to an epoch that has been reached."""
        if self._per_epoch is not None:
            return epoch * self._per_epoch
        return sum(self._steps[number] for number in range(self._done, epoch + 1))

    def _counted(self, epoch: int, keys: jax.Array) -> PyTree:
        assert callable(self._data)
        batches = self._data(epoch, keys)
        axis = 0 if isinstance(batches, SharedBatches) else 1
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batches)]
        self._steps[epoch] = next((shape[axis] for shape in shapes if len(shape) > axis), 0)
        return batches


def choose_strategy(
    runs: list[RunFolder], console: Console, update: Update, states: TrainState, data: PyTree, batches: PyTree
) -> str:
    """Return the fastest strategy for this work on this machine, and write it to the runs' records."""
    chosen, record, when = fastest_strategy(update, states, data, batches)
    times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in record["seconds_per_step"].items())
    console.print(f"{runs[0]}: strategy {chosen} (time per step and copy, {when}: {times or 'no alternative'})")
    for run in runs:
        run.record_strategy(record)
    return chosen


def describe_epoch(epoch: Epoch) -> str:
    """Return a short note on an epoch: the loss, and how many members diverged."""
    finite = epoch.metrics["finite"]
    diverged = "" if finite.all() else f"{(~finite).sum()} diverged"
    name = next((name for name in ("train_loss", "epoch_loss", "loss") if name in epoch.metrics), None)
    words = {"train_loss": "training loss"}.get(str(name), "loss")
    loss = f"{words} {np.median(epoch.metrics[name][finite]):.4f}" if name and finite.any() else ""
    return ", ".join(filter(None, (loss, diverged)))


def _open_store(run: RunFolder, labels: Sequence[Mapping[str, Any]]) -> TrajectoryStore:
    exists = run.index.exists()
    wait_for_all("looked for trajectories")  # all processes must look before one of them creates the store
    if exists:
        store = TrajectoryStore.open(run.trajectories)
        if store.labels != list(labels):
            raise ValueError(
                f"{run.trajectories} holds members with labels other than those in {run.config.name}; delete it to "
                "start over"
            )
        return store
    # `create` rejects a folder that is not empty, so nothing is deleted before that check.
    store = TrajectoryStore.create(run.trajectories, labels)
    if is_first():
        delete_states(run.resume)  # left over from deleted trajectories
    return store

"""What a run folder keeps of trajectories while they are made, by retraining or by training side by side.

An epoch's metrics are on disk first, then its full state, then its snapshot counts. Whatever moment the process is
killed at, the same command resumes from the last state and ends in the same bytes.
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
    """The trajectories, states and metrics of a run folder, opened to add to them."""

    def __init__(self, run: RunFolder, labels: Sequence[Mapping[str, Any]], console: Console):
        """Open what the folder has, or begin with members of these labels. The caller holds the folder's lock."""
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
        """Return whether there are so many epochs, without a gap."""
        whole = self.store.num_epochs > epochs and not self.store.missing_epochs
        return whole and bool(self._metrics_to(epochs))

    def resume(self, start: PyTree) -> tuple[int, PyTree]:
        """Return the newest epoch whose state was kept, and the state; 0 and the start where there is none.

        That state is one snapshot ahead of the store at most. Without it, without its metrics, or where the store lacks
        an epoch before it, everything is computed again, and what is stored already is not stored twice.
        """
        done, states = resume_state(self.run.resume, start, self._console)
        self._metrics = self._metrics_to(done)
        if not self._metrics or done > min([self.store.num_epochs, *self.store.missing_epochs]):
            self._metrics = {}
            return 0, start
        return done, states

    def complete(self, epoch: int, params: PyTree) -> None:
        """Store the snapshot of a resumed epoch, where a process was killed between its state and its snapshot.

        Args:
            epoch: as `resume` gave it.
            params: of all members after it, in the order of the labels.
        """
        if epoch == self.store.num_epochs or epoch in self.store.missing_epochs:
            # As NumPy arrays, which are the same in every process: each has read the states of all members.
            self.store.append(epoch, jax.tree.map(np.asarray, params), update=self._update_of(epoch))

    def keep(self, epoch: Epoch, params: PyTree, update: int) -> None:
        """Put an epoch into the folder.

        Args:
            epoch: its states are any pytree that `resume` began with, its metrics those of all members.
            params: of all members, in the order of the labels.
            update: how many updates they have behind them.
        """
        if epoch.epoch not in self._metrics.get("epoch", ()):
            rows = self._rows(epoch, update)
            self._metrics = join_tables([self._metrics, rows], rows)  # those of epoch 0 lack means over an epoch
            write_table(self.run, self.run.metrics, self._metrics)
        self.store.wait()  # a state without the snapshots before it could not be resumed from
        save_state(self.run.resume, epoch.epoch, epoch.states)
        if epoch.epoch == self.store.num_epochs or epoch.epoch in self.store.missing_epochs:
            self.store.append(epoch.epoch, params, update=update)

    def finish(self, console: Console) -> None:
        """Wait for the last snapshot, and name who diverged."""
        self.store.wait()
        for member, epoch in diverged_members(self._metrics).items():
            words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.labels[member].items())
            console.print(
                f"member {member} ({words}) diverged in epoch {epoch}; it is left out of distances and pictures"
            )

    def updates(self, epoch: int) -> int | None:
        """Return the updates behind an epoch that is stored; None where it is not."""
        return self.store.updates[epoch] if epoch < self.store.num_epochs else None

    def _update_of(self, epoch: int) -> int:
        """The updates behind an epoch that has its rows in the metrics."""
        return int(self._metrics["update"][self._metrics["epoch"] == epoch][0])

    def strategy(self, asked: str) -> str | None:
        """Return how the members run together: as asked, or as these trajectories began; None where neither says."""
        if asked != "auto":
            return asked
        return self.run.strategy() if self.store.num_epochs else None

    def _metrics_to(self, epoch: int) -> Columns:
        """The rows of all epochs up to this one; nothing where some are missing, or the table is damaged."""
        try:
            columns = read_columns(self.run)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            self._console.print(f"{error}; its epochs are computed again")
            return {}
        rows = columns["epoch"] <= epoch
        complete = rows.sum() == (epoch + 1) * len(self.labels)
        return {name: values[rows] for name, values in columns.items()} if complete else {}

    def _rows(self, epoch: Epoch, update: int) -> Columns:
        """One row per member: labels, then metrics in a fixed order."""
        columns = first_columns(self.labels, epoch.epoch, update, epoch.metrics["finite"])
        return columns | {name: values for name, values in sorted(epoch.metrics.items()) if name != "finite"}


class Updates:
    """Counts the updates behind an epoch: those of passes over arrays, or as many as there are batches drawn."""

    def __init__(self, data: Data, per_epoch: int | None, *, done: int, before: int | None):
        """Begin after an epoch.

        Args:
            data: of any kind that `train` takes.
            per_epoch: steps of one pass over arrays.
            done: the epoch.
            before: updates that a function has given so far.
        """
        self._data = data if is_arrays(data) or isinstance(data, Iterator) else data_function(data)
        self._per_epoch, self._done = per_epoch, done
        self._steps: dict[int, int] = {done: before or 0}

    @property
    def data(self) -> Data:
        """The data to train on; counts what a function gives."""
        return self._counted if callable(self._data) else self._data

    def after(self, epoch: int) -> int:
        """Return how many there are behind an epoch that has been reached."""
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
    """The strategy that was the fastest for such work on this machine, written in the runs' records."""
    chosen, record, when = fastest_strategy(update, states, data, batches)
    times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in record["seconds_per_step"].items())
    console.print(f"{runs[0]}: strategy {chosen} (a step of a copy, {when}: {times or 'no other'})")
    for run in runs:
        run.record_strategy(record)
    return chosen


def describe_epoch(epoch: Epoch) -> str:
    """The loss, and who diverged, in a few words."""
    finite = epoch.metrics["finite"]
    lost = "" if finite.all() else f"{(~finite).sum()} diverged"
    name = next((name for name in ("train_loss", "epoch_loss", "loss") if name in epoch.metrics), None)
    words = {"train_loss": "training loss"}.get(str(name), "loss")
    loss = f"{words} {np.median(epoch.metrics[name][finite]):.4f}" if name and finite.any() else ""
    return ", ".join(filter(None, (loss, lost)))


def _open_store(run: RunFolder, labels: Sequence[Mapping[str, Any]]) -> TrajectoryStore:
    found = run.index.exists()
    wait_for_all("looked for trajectories")  # before one of them makes what the others look for
    if found:
        store = TrajectoryStore.open(run.trajectories)
        if store.labels != list(labels):
            raise ValueError(
                f"{run.trajectories} holds members with other labels than {run.config.name} asks for; delete it to "
                "start anew"
            )
        return store
    # It refuses a folder that holds anything; nothing is deleted before.
    store = TrajectoryStore.create(run.trajectories, labels)
    if is_first():
        delete_states(run.resume)  # of trajectories that were deleted
    return store

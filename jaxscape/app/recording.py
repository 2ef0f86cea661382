"""What a run folder keeps of trajectories while they are made, by retraining or by training side by side.

An epoch's metrics are on disk first, then its full state, then its snapshot counts. Whatever moment the process is
killed at, the same command resumes from the last state and ends in the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from rich.console import Console

from jaxscape.app.config import CompareConfig, RetrainConfig
from jaxscape.app.folder import (
    CONFIG,
    read_config,
    read_number,
    read_section,
    read_strategy,
    record_strategy,
    require_record,
)
from jaxscape.app.processes import is_first, wait_for_all
from jaxscape.app.resume import delete_states, resume_state, save_state
from jaxscape.app.strategy import fastest_strategy
from jaxscape.app.tables import Columns, read_table, write_table
from jaxscape.training.members import Update
from jaxscape.training.train import Epoch, TrainState
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

METRICS = "metrics.csv"


class Recording:
    """The trajectories, states and metrics of a run folder, opened to add to them."""

    def __init__(self, run: Path, labels: Sequence[Mapping[str, Any]], console: Console):
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
        done, states = resume_state(self.run / "resume", start, self._console)
        self._metrics = self._metrics_to(done)
        if not self._metrics or done > min([self.store.num_epochs, *self.store.missing_epochs]):
            self._metrics = {}
            return 0, start
        return done, states

    def keep(self, epoch: Epoch, params: PyTree, update: int) -> None:
        """Put an epoch into the folder.

        Args:
            epoch: its states are any pytree that `resume` began with, its metrics those of all members.
            params: of all members, in the order of the labels.
            update: how many updates they have behind them.
        """
        if epoch.epoch not in self._metrics.get("epoch", ()):
            self._metrics = _add_rows(self._metrics, self._rows(epoch, update))
            write_table(self.run, METRICS, self._metrics)
        self.store.wait()  # a state without the snapshots before it could not be resumed from
        save_state(self.run / "resume", epoch.epoch, epoch.states)
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

    def strategy(self, asked: str) -> str | None:
        """Return how the members run together: as asked, or as these trajectories began; None where neither says."""
        if asked != "auto":
            return asked
        return read_strategy(self.run) if self.store.num_epochs else None

    def _metrics_to(self, epoch: int) -> Columns:
        """The rows of all epochs up to this one; nothing where some are missing, or the table is damaged."""
        try:
            columns = _read_metrics(self.run)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            self._console.print(f"{error}; its epochs are computed again")
            return {}
        rows = columns["epoch"] <= epoch
        complete = rows.sum() == (epoch + 1) * len(self.labels)
        return {name: values[rows] for name, values in columns.items()} if complete else {}

    def _rows(self, epoch: Epoch, update: int) -> Columns:
        """A row a member: labels, then metrics in a fixed order (those of training are NaN at the start)."""
        members = len(self.labels)
        blank = {name: np.full(members, np.nan) for name in ("epoch_loss", "epoch_accuracy")}
        columns = {
            "member": np.arange(members),
            **label_columns(self.labels),
            "epoch": np.full(members, epoch.epoch),
            "update": np.full(members, update),
            "finite": epoch.metrics["finite"].astype(int),
        }
        return columns | {name: values for name, values in sorted((blank | epoch.metrics).items()) if name != "finite"}


def read_metrics(run: Path) -> Columns:
    """Read metrics.csv of a run folder: one row per member and epoch.

    Raises:
        FileNotFoundError: where it is not there.
        ValueError: where it is damaged; says which command makes it again.
    """
    try:
        return _read_metrics(run)
    except ValueError as error:
        raise ValueError(f"{error}; {_command(run)} makes it again") from None


def _read_metrics(run: Path) -> Columns:
    columns = read_table(run, METRICS)
    missing = sorted({"member", "epoch", "finite"} - columns.keys())
    if missing:
        raise ValueError(f"{run / METRICS} is damaged: it has no column {', '.join(missing)}")
    return columns


def read_trajectories(run: Path) -> tuple[RetrainConfig | CompareConfig, TrajectoryStore]:
    """Return how the trajectories of a run folder were made, and the finished trajectories.

    Raises:
        FileNotFoundError: where they are missing or unfinished; says which command makes them.
        ValueError: where the record or the store is damaged.
    """
    require_record(run)
    asked = read_section(run, "compare", CompareConfig) or read_section(run, "retrain", RetrainConfig)
    compared, command = isinstance(asked, CompareConfig), _command(run)
    if asked is None or not (run / "trajectories" / "store.json").exists():
        raise FileNotFoundError(f"{run} has no trajectories; {command} makes them")
    store = TrajectoryStore.open(run / "trajectories")
    last = read_number(run, "snapshots") if compared else asked.epochs
    words = "snapshots" if compared else "epochs of retraining"
    if store.missing_epochs:
        missing = ", ".join(map(str, store.missing_epochs))
        raise FileNotFoundError(f"{run} lacks {words} {missing}; {command} computes them again")
    if store.num_epochs <= last or not (run / METRICS).exists():
        raise FileNotFoundError(f"{run} has {max(store.num_epochs - 1, 0)} of {last} {words}; {command} resumes")
    return asked, store


def _command(run: Path) -> str:
    """The command that makes the trajectories of a run folder."""
    return f"`jaxscape {'compare' if 'compare' in read_config(run) else 'retrain'} {run}`"


def label_columns(labels: Sequence[Mapping[str, Any]]) -> Columns:
    """Turn records, one per member, into columns."""
    return {name: np.array([record[name] for record in labels]) for name in labels[0]}


def diverged_members(metrics: Columns) -> dict[int, int]:
    """Members whose parameters are not finite, and the first epoch in which they are not."""
    bad = metrics["finite"] == 0
    members = np.unique(metrics["member"][bad]).astype(int)
    return {int(m): int(metrics["epoch"][bad & (metrics["member"] == m)].min()) for m in members}


def choose_strategy(
    runs: list[Path], console: Console, update: Update, states: TrainState, data: PyTree, batches: PyTree
) -> str:
    """The strategy that was the fastest for such work on this machine, written in the runs' records."""
    chosen, record, when = fastest_strategy(update, states, data, batches)
    times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in record["seconds_per_step"].items())
    console.print(f"{runs[0]}: strategy {chosen} (a step of a copy, {when}: {times or 'no other'})")
    for run in runs:
        record_strategy(run, record)
    return chosen


def describe_epoch(epoch: Epoch) -> str:
    """The training loss, and who diverged, in a few words."""
    finite = epoch.metrics["finite"]
    lost = "" if finite.all() else f"{(~finite).sum()} diverged"
    loss = f"training loss {np.median(epoch.metrics['train_loss'][finite]):.4f}" if finite.any() else ""
    return ", ".join(filter(None, (loss, lost)))


def _open_store(run: Path, labels: Sequence[Mapping[str, Any]]) -> TrajectoryStore:
    path = run / "trajectories"
    found = (path / "store.json").exists()
    wait_for_all("looked for trajectories")  # before one of them makes what the others look for
    if found:
        store = TrajectoryStore.open(path)
        if store.labels != list(labels):
            raise ValueError(f"{path} holds members with other labels than {CONFIG} asks for; delete it to start anew")
        return store
    store = TrajectoryStore.create(path, labels)  # refuses a folder that holds anything; nothing is deleted before
    if is_first():
        delete_states(run / "resume")  # of trajectories that were deleted
    return store


def _add_rows(columns: Columns, rows: Columns) -> Columns:
    return {name: np.concatenate([columns[name], rows[name]]) for name in rows} if columns else rows

"""Readers of a run folder's finished trajectories and their metrics.

`recording` writes them. The readers are a separate module, since they need neither a problem nor a training step:
`jaxscape info` reads a run folder without jax.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.runs.config import CompareSettings, RetrainSettings
from jaxscape.runs.folder import RECORDED, RunFolder
from jaxscape.runs.tables import Columns, read_table
from jaxscape.trajectories.store import TrajectoryStore


def read_metrics(run: Path) -> Columns:
    """Read metrics.csv of a run folder: one row per member and epoch.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is damaged; names the command that makes it again.
    """
    try:
        return read_columns(RunFolder(run))
    except ValueError as error:
        raise ValueError(f"{error}; {RunFolder(run).command} makes it again") from None


def read_columns(run: RunFolder) -> Columns:
    """Read metrics.csv like `read_metrics`, with errors that name no command.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is damaged.
    """
    columns = read_table(run, run.metrics)
    missing = sorted({"member", "epoch", "finite"} - columns.keys())
    if missing:
        raise ValueError(f"{run.metrics} is damaged: it has no column {', '.join(missing)}")
    return columns


def read_trajectories(run: Path) -> tuple[RetrainSettings | CompareSettings, TrajectoryStore]:
    """Return the settings of a run folder's trajectories, and the finished trajectories.

    Raises:
        FileNotFoundError: if they are missing or unfinished; names the command that makes them.
        ValueError: if the record or the store is damaged.
    """
    run = RunFolder(run)
    run.require_record()
    kind = run.kind
    settings = run.settings(kind.stage)
    if (run.trajectories / "0").exists() and not run.index.exists():
        raise FileNotFoundError(
            f"{run.index} is missing, which maps rows to members; restore it, or delete {run.trajectories} "
            "to start over"
        )
    if settings is None or not run.index.exists():
        raise FileNotFoundError(f"{run} has no trajectories; {run.command} makes them, or a method of Run in Python")
    store = TrajectoryStore.open(run.trajectories)
    last = store.num_epochs - 1 if kind is RECORDED else last_snapshot(run, settings)
    if store.missing_epochs:
        missing = ", ".join(map(str, store.missing_epochs))
        raise FileNotFoundError(f"{run} lacks {kind.unit} {missing}; {run.command} computes them again")
    if store.num_epochs > last and kind is not RECORDED and not run.metrics.exists():
        raise FileNotFoundError(f"{run.metrics} is missing; {run.command} makes it again")
    if store.num_epochs <= last:
        raise FileNotFoundError(
            f"{run} has {max(store.num_epochs - 1, 0)} of {last} {kind.unit}; {run.command} resumes"
        )
    return settings, store


def last_snapshot(run: RunFolder, settings: RetrainSettings | CompareSettings) -> int:
    """Return the number of the last requested snapshot.

    Raises:
        ValueError: if the record lacks it.
    """
    return settings.epochs if isinstance(settings, RetrainSettings) else run.number("snapshots")


def label_columns(labels: Sequence[Mapping[str, Any]]) -> Columns:
    """Convert records, one per member, to columns."""
    return {name: np.array([record[name] for record in labels]) for name in labels[0]}


def first_columns(labels: Sequence[Mapping[str, Any]], epoch: int, update: int, finite: np.ndarray) -> Columns:
    """Return the first columns of metrics.csv for one epoch, before the metrics: one row per member."""
    members = len(labels)
    return {
        "member": np.arange(members),
        **label_columns(labels),
        "epoch": np.full(members, epoch),
        "update": np.full(members, update),
        "finite": finite.astype(int),
    }


def diverged_members(metrics: Columns) -> dict[int, int]:
    """Return the members whose parameters are not finite, each with the first such epoch."""
    diverged = metrics["finite"] == 0
    members = np.unique(metrics["member"][diverged]).astype(int)
    return {int(m): int(metrics["epoch"][diverged & (metrics["member"] == m)].min()) for m in members}

"""What a run folder has of trajectories that were made: the finished ones, and the metrics beside them.

`recording` writes them. What reads them is apart, for it needs neither a problem nor a training step: `jaxscape info`
reads a run folder without jax.
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
        FileNotFoundError: where it is not there.
        ValueError: where it is damaged; says which command makes it again.
    """
    try:
        return read_columns(RunFolder(run))
    except ValueError as error:
        raise ValueError(f"{error}; {RunFolder(run).command} makes it again") from None


def read_columns(run: RunFolder) -> Columns:
    """Read metrics.csv as `read_metrics` does; an error names no command.

    Raises:
        FileNotFoundError: where it is not there.
        ValueError: where it is damaged.
    """
    columns = read_table(run, run.metrics)
    missing = sorted({"member", "epoch", "finite"} - columns.keys())
    if missing:
        raise ValueError(f"{run.metrics} is damaged: it has no column {', '.join(missing)}")
    return columns


def read_trajectories(run: Path) -> tuple[RetrainSettings | CompareSettings, TrajectoryStore]:
    """Return how the trajectories of a run folder were made, and the finished trajectories.

    Raises:
        FileNotFoundError: where they are missing or unfinished; says which command makes them.
        ValueError: where the record or the store is damaged.
    """
    run = RunFolder(run)
    run.require_record()
    kind = run.kind
    asked = run.settings(kind.stage)
    if (run.trajectories / "0").exists() and not run.index.exists():
        raise FileNotFoundError(
            f"{run.index} is missing, which says which member each row is; restore it, or delete {run.trajectories} to "
            "start anew"
        )
    if asked is None or not run.index.exists():
        raise FileNotFoundError(f"{run} has no trajectories; {run.command} makes them")
    store = TrajectoryStore.open(run.trajectories)
    last = store.num_epochs - 1 if kind is RECORDED else last_snapshot(run, asked)
    if store.missing_epochs:
        missing = ", ".join(map(str, store.missing_epochs))
        raise FileNotFoundError(f"{run} lacks {kind.unit} {missing}; {run.command} computes them again")
    if store.num_epochs > last and kind is not RECORDED and not run.metrics.exists():
        raise FileNotFoundError(f"{run.metrics} is missing; {run.command} makes it again")
    if store.num_epochs <= last:
        raise FileNotFoundError(
            f"{run} has {max(store.num_epochs - 1, 0)} of {last} {kind.unit}; {run.command} resumes"
        )
    return asked, store


def last_snapshot(run: RunFolder, asked: RetrainSettings | CompareSettings) -> int:
    """Return the number of the last snapshot that was asked for.

    Raises:
        ValueError: where the record should say, and does not.
    """
    return asked.epochs if isinstance(asked, RetrainSettings) else run.number("snapshots")


def label_columns(labels: Sequence[Mapping[str, Any]]) -> Columns:
    """Turn records, one per member, into columns."""
    return {name: np.array([record[name] for record in labels]) for name in labels[0]}


def first_columns(labels: Sequence[Mapping[str, Any]], epoch: int, update: int, finite: np.ndarray) -> Columns:
    """Return what metrics.csv says of an epoch beside its metrics: one row per member."""
    members = len(labels)
    return {
        "member": np.arange(members),
        **label_columns(labels),
        "epoch": np.full(members, epoch),
        "update": np.full(members, update),
        "finite": finite.astype(int),
    }


def diverged_members(metrics: Columns) -> dict[int, int]:
    """Members whose parameters are not finite, and the first epoch in which they are not."""
    bad = metrics["finite"] == 0
    members = np.unique(metrics["member"][bad]).astype(int)
    return {int(m): int(metrics["epoch"][bad & (metrics["member"] == m)].min()) for m in members}

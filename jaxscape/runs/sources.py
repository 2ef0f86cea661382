"""The stores of a run folder's trajectories: its own, or those of the runs that a joint run names."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.runs.config import JointSettings
from jaxscape.runs.folder import JOINT, RECORDED, RETRAINED, RunFolder
from jaxscape.runs.record import complete_metrics
from jaxscape.runs.recorded import diverged_members, read_metrics, read_trajectories
from jaxscape.runs.tables import Columns
from jaxscape.trajectories.arrays import differences
from jaxscape.trajectories.store import TrajectoryStore


@dataclass(frozen=True)
class Source:
    """The trajectories of one run."""

    run: RunFolder
    store: TrajectoryStore

    @cached_property
    def diverged(self) -> dict[int, int]:
        """The members whose parameters are not finite, each with the first such epoch.

        Raises:
            ValueError: if the metrics are damaged, or all members except controls have diverged.
        """
        metrics = complete_metrics(self.run, self.store) if self.run.kind is RECORDED else read_metrics(self.run)
        diverged = diverged_members(metrics)
        counted = set(self._without_controls(list(range(self.store.num_members))))
        if counted <= diverged.keys():
            raise ValueError(
                f"all {len(counted)} members of {self.run} have diverged; a smaller learning rate may help"
            )
        return diverged

    @property
    def members(self) -> list[int]:
        """The members with finite parameters, whose distances are measured."""
        return [member for member in range(self.store.num_members) if member not in self.diverged]

    @property
    def shown(self) -> list[int]:
        """The members that are shown beside other runs: all measured ones except unperturbed controls."""
        return self._without_controls(self.members)

    def _without_controls(self, members: list[int]) -> list[int]:
        if self.run.kind is not RETRAINED:
            return members
        return [member for member in members if self.store.labels[member]["step_size"]] or members

    def columns(self, members: list[int]) -> Columns:
        """Return the labels of the rows of some members, epoch by epoch: member, its labels, epoch and update."""
        return self.store.columns(members)


def read_sources(run: Path) -> tuple[Any, list[Source]]:
    """Return the settings of a run folder, and its finished trajectories.

    Raises:
        FileNotFoundError: if some are missing or unfinished; names the command that makes them.
        ValueError: if a record or a store is damaged.
    """
    run = RunFolder(run)
    run.require_record()
    if run.kind is not JOINT:
        settings, store = read_trajectories(run)
        return settings, [Source(run, store)]
    joint: JointSettings = run.settings(JOINT.stage)
    return joint, [Source(RunFolder(each), read_trajectories(Path(each))[1]) for each in joint.runs]


def require_same_parameters(source: Source, other: Source) -> None:
    """Raise a ValueError if the networks of two runs differ in the names or shapes of their parameters."""
    shapes, others = (dict(zip(each.store.leaf_names, each.store.leaf_shapes, strict=True)) for each in (source, other))
    for name, here, there in differences(shapes, others):
        raise ValueError(
            f"the networks of all runs must have the same parameters: {name!r} is {here} in {source.run} and "
            f"{there} in {other.run}"
        )


def join_columns(sources: list[Source]) -> Columns:
    """Return the labels of the rows of several runs, run by run.

    Members are numbered consecutively, and the label `run` names their run. A label that a run lacks is "" if it is
    text in other runs, and NaN if it is a number.
    """
    tables, first = [], 0
    for name, source in zip(run_names([source.run for source in sources]), sources, strict=True):
        columns = source.columns(source.shown)
        rows = len(columns["member"])
        tables.append(columns | {"member": first + columns["member"], "run": np.full(rows, name)})
        first += source.store.num_members
    names = ["member", "run", *(name for table in tables for name in table)]
    return {name: np.concatenate([_or_blank(table, name, tables) for table in tables]) for name in dict.fromkeys(names)}


def run_names(runs: list[RunFolder]) -> list[str]:
    """Return the names of run folders; their paths if names repeat."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _or_blank(table: Columns, name: str, tables: list[Columns]) -> np.ndarray:
    """Return a column, or blanks if it is missing; numbers become text if another run has text."""
    has_text = any(name in each and each[name].dtype.kind not in "iuf" for each in tables)
    if name in table:
        return table[name].astype(str) if has_text else table[name]
    return np.full(len(table["member"]), "" if has_text else np.nan)

"""Where the trajectories of a run folder are: in its own store, or in those of the runs that a joint one names."""

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
        """Members whose parameters are not finite, and the first epoch in which they are not.

        Raises:
            ValueError: where the metrics are damaged, or all members have diverged, controls not counted.
        """
        metrics = complete_metrics(self.run, self.store) if self.run.kind is RECORDED else read_metrics(self.run)
        found = diverged_members(metrics)
        counted = set(self._without_controls(list(range(self.store.num_members))))
        if counted <= found.keys():
            raise ValueError(
                f"all {len(counted)} members of {self.run} have diverged; a smaller learning rate may help"
            )
        return found

    @property
    def members(self) -> list[int]:
        """Those of finite parameters, whose distances are measured."""
        return [member for member in range(self.store.num_members) if member not in self.diverged]

    @property
    def shown(self) -> list[int]:
        """Those that stand beside other runs: without the controls of copies, which were not perturbed."""
        return self._without_controls(self.members)

    def _without_controls(self, members: list[int]) -> list[int]:
        if self.run.kind is not RETRAINED:
            return members
        return [member for member in members if self.store.labels[member]["step_size"]] or members

    def columns(self, members: list[int]) -> Columns:
        """Return what each row of some members is: member, its labels, epoch and update, epoch by epoch."""
        return self.store.columns(members)


def read_sources(run: Path) -> tuple[Any, list[Source]]:
    """Return the settings of a run folder, and its finished trajectories.

    Raises:
        FileNotFoundError: where some are missing or unfinished; says which command makes them.
        ValueError: where a record or a store is damaged.
    """
    run = RunFolder(run)
    run.require_record()
    if run.kind is not JOINT:
        settings, store = read_trajectories(run)
        return settings, [Source(run, store)]
    joint: JointSettings = run.settings(JOINT.stage)
    return joint, [Source(RunFolder(each), read_trajectories(Path(each))[1]) for each in joint.runs]


def require_alike(source: Source, other: Source) -> None:
    """Raise a ValueError where the networks of two runs differ in the names or shapes of their parameters."""
    shapes, others = (dict(zip(each.store.leaf_names, each.store.leaf_shapes, strict=True)) for each in (source, other))
    for name, here, there in differences(shapes, others):
        raise ValueError(
            f"runs must be of networks with the same parameters: {name!r} is {here} in {source.run} and {there} in "
            f"{other.run}"
        )


def join_columns(sources: list[Source]) -> Columns:
    """Return what each row of several runs is, run by run; members are counted on, and `run` says whose they are.

    A label that a run lacks is "" where others have names, and NaN where they have numbers.
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
    """Return the names of run folders; their paths where names repeat."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _or_blank(table: Columns, name: str, tables: list[Columns]) -> np.ndarray:
    """A column, or blanks in its place; numbers become text where another run has text."""
    has_text = any(name in each and each[name].dtype.kind not in "iuf" for each in tables)
    if name in table:
        return table[name].astype(str) if has_text else table[name]
    return np.full(len(table["member"]), "" if has_text else np.nan)

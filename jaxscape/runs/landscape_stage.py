"""What the stages `surface`, `path` and `curvature` share: where they measure, and how a measurement is kept."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jaxscape.problem import Problem
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import find_kept, write_kept
from jaxscape.runs.keys import init_key
from jaxscape.runs.landscape_config import MeasurementSettings
from jaxscape.runs.lock import writing
from jaxscape.runs.minimum import checksum, plain, read_minimum
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.sources import Source, read_sources

PyTree = Any


class Place(NamedTuple):
    """Where a run's landscape is measured."""

    problem: Problem
    minimum: PyTree | None  # parameters; None where the run has no minimum
    model_state: PyTree  # of the minimum, or of a fresh network
    like: PyTree  # parameters, or their shapes, in the problem's own structure

    @property
    def checksum(self) -> str | None:
        """That of the minimum, None where there is none."""
        return None if self.minimum is None else checksum(plain(self.minimum, self.model_state))


def read_place(run: RunFolder, own: OwnProblem) -> Place:
    """Return where a run's landscape is measured: at its minimum, or around its trajectories.

    Raises:
        FileNotFoundError: where a run that has a minimum has none yet.
        ValueError: where the minimum is damaged or of another network.
    """
    if run.kind.has_minimum:
        found = read_minimum(run, like=own.structure)
        return Place(own.problem, found.params, found.model_state, own.structure[0])
    if own.problem.init is None:
        raise ValueError("a run without a minimum needs a problem with init, which makes a fresh model state")
    return Place(own.problem, None, own.problem.init(init_key(0))[1], own.structure[0])


def read_source(run: RunFolder) -> Source:
    """Return the finished trajectories of a run.

    Raises:
        FileNotFoundError: where some are missing or unfinished.
        ValueError: for a run that joins several.
    """
    _, sources = read_sources(run)
    if len(sources) > 1:
        raise ValueError(f"{run} joins several runs; take one of them")
    return sources[0]


def made_of(config: MeasurementSettings, own: OwnProblem, **sources: Any) -> dict[str, Any]:
    """Return what a measurement follows from: its settings, the problem, and what it reads of run folders."""
    # How networks ran together changes rounding alone.
    return {"setting": asdict(config) | {"strategy": None}, "problem": own.record(), **sources}


def is_there(run: RunFolder, stage: str, folder: Path, made_of: dict[str, Any], console: Console) -> bool:
    """Return whether a measurement is done, and say so."""
    if find_kept(folder, made_of) is None:
        return False
    console.print(f"{run}: {stage} {folder.name} is there")
    return True


@contextmanager
def keeping(
    run: RunFolder, stage: str, folder: Path, made_of: dict[str, Any], console: Console
) -> Iterator[Callable[..., None]]:
    """Hold the run folder while something is measured, and add the seconds that it takes to those of the stage.

    Args:
        run: the run folder; likewise
        stage: "surface", "path" or "curvature",
        folder: of the measurement, and
        made_of: what it follows from.
        console: where to say that another process holds the run folder.

    Yields:
        `keep(values, **numbers)`, which writes the arrays and the record of the measurement.

    Raises:
        OSError: where the run folder cannot be written to.
    """
    with writing(run, wait=console):
        started = time.monotonic()
        yield partial(_keep, folder, made_of)
        run.record_seconds(stage, time.monotonic() - started)


def _keep(folder: Path, made_of: dict[str, Any], values: Any, **numbers: Any) -> None:
    write_kept(folder, values, made_of, **numbers)

"""Code that the stages `surface`, `path` and `curvature` share: where they measure, and how results are saved."""

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
    """The point of parameter space that measurements of a run's landscape start from."""

    problem: Problem
    minimum: PyTree | None  # parameters; None if the run has no minimum
    model_state: PyTree  # that of the minimum, or of a fresh network
    like: PyTree  # parameters, or their shapes, in the problem's own structure

    @property
    def checksum(self) -> str | None:
        """The checksum of the minimum; None if there is no minimum."""
        return None if self.minimum is None else checksum(plain(self.minimum, self.model_state))


def read_place(run: RunFolder, own: OwnProblem) -> Place:
    """Return the place of a run's measurements: its minimum, or a fresh network for a run without a minimum.

    Raises:
        FileNotFoundError: if the minimum of the run does not exist yet.
        ValueError: if the minimum is damaged or belongs to another network.
    """
    if run.kind.has_minimum:
        minimum = read_minimum(run, like=own.structure)
        return Place(own.problem, minimum.params, minimum.model_state, own.structure[0])
    if own.problem.init is None:
        raise ValueError("a run without a minimum requires a problem with init, to create a fresh model state")
    return Place(own.problem, None, own.problem.init(init_key(0))[1], own.structure[0])


def read_source(run: RunFolder) -> Source:
    """Return the finished trajectories of a run.

    Raises:
        FileNotFoundError: if some are missing or unfinished.
        ValueError: for a joint run.
    """
    _, sources = read_sources(run)
    if len(sources) > 1:
        raise ValueError(f"{run} joins several runs; choose one of them")
    return sources[0]


def inputs_of(config: MeasurementSettings, own: OwnProblem, **sources: Any) -> dict[str, Any]:
    """Return everything that determines a measurement: its settings, the problem, and checksums of its inputs."""
    # The strategy only changes rounding.
    return {"setting": asdict(config) | {"strategy": None}, "problem": own.record(), **sources}


def is_up_to_date(run: RunFolder, stage: str, folder: Path, inputs: dict[str, Any], console: Console) -> bool:
    """Return whether a measurement is done; if so, print that."""
    if find_kept(folder, inputs) is None:
        return False
    console.print(f"{run}: {stage} {folder.name} is up to date")
    return True


@contextmanager
def keeping(
    run: RunFolder, stage: str, folder: Path, inputs: dict[str, Any], console: Console
) -> Iterator[Callable[..., None]]:
    """Hold the lock of the run folder during a measurement, and add its duration to the timings of the stage.

    Args:
        run: the run folder.
        stage: "surface", "path" or "curvature".
        folder: the folder of the measurement.
        inputs: everything that determines the measurement, from `inputs_of`.
        console: where to print that another process holds the lock.

    Yields:
        `keep(values, **numbers)`, which writes the arrays and the record of the measurement.

    Raises:
        OSError: if the run folder cannot be written to.
    """
    with writing(run, wait=console):
        started = time.monotonic()
        yield partial(_keep, folder, inputs)
        run.record_seconds(stage, time.monotonic() - started)


def _keep(folder: Path, inputs: dict[str, Any], values: Any, **numbers: Any) -> None:
    write_kept(folder, values, inputs, **numbers)

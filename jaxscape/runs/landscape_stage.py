"""Code that the stages `surface`, `path` and `curvature` share: where they measure, and how results are saved."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jaxscape.landscape.options import resolved_statistics, split_of
from jaxscape.problem import Problem, is_arrays
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import OBJECTIVE, find_kept, says_objective, write_kept
from jaxscape.runs.keys import init_key
from jaxscape.runs.landscape_config import SPLITS, MeasurementSettings
from jaxscape.runs.lock import writing
from jaxscape.runs.minimum import checksum, plain, read_minimum
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.sources import Source, read_sources
from jaxscape.training.objective import Objective, default_mode, has_fixed_key, objective
from jaxscape.trajectories.arrays import outline

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


class MeasuredLoss(NamedTuple):
    """The loss that a stage measures, and how the network runs meanwhile."""

    mode: str  # "evaluate" (predict and score), "train" (loss_fn), or "function" (the problem's evaluate)
    fixed_key: bool  # whether it is a loss of training that depends on its key
    statistics: str  # a key of `STATISTICS`
    data: dict[str, Any]  # dtypes and shapes of the data sets that are arrays

    @property
    def suffix(self) -> str:
        """The end of the folder's name: names the mode if the result would be another one in evaluation mode."""
        is_training = self.fixed_key or (self.mode == "train" and self.statistics == "batch")
        return "-training-mode" if is_training else ""

    def numbers(self) -> dict[str, Any]:
        """Return the entries of the measurement's record."""
        return {"mode": self.mode, "fixed_key": self.fixed_key, "statistics": self.statistics}


def measured_loss(
    problem: Problem, config: MeasurementSettings, params: PyTree, model_state: PyTree, *, statistics: str
) -> MeasuredLoss:
    """Return what the loss of a measurement is.

    Args:
        problem: the problem whose loss is measured.
        config: the settings of the measurement.
        params: parameters of one network, or their shapes.
        model_state: model state of one network.
        statistics: the requested running statistics.

    Raises:
        TypeError, ValueError: for data from an iterator, and whatever the loss of training raises for this network.
    """
    split: Any = SPLITS[config.split]
    state = {} if model_state is None else model_state
    mode = default_mode(problem) if split_of(problem, split) else "function"
    sets = {"train": problem.data, "test": problem.test_data if split == "test" else None}
    return MeasuredLoss(
        mode,
        mode == "train" and split != "test" and has_fixed_key(_first_batch(problem, config), params, state),
        resolved_statistics(problem, state, statistics, split),
        {name: outline(each) for name, each in sets.items() if each is not None and is_arrays(each)},
    )


def _first_batch(problem: Problem, config: MeasurementSettings) -> Objective:
    examples = config.batch_size if is_arrays(problem.data) else None
    return objective(problem, mode="train", batch_size=config.batch_size, examples=examples)


def inputs_of(config: MeasurementSettings, own: OwnProblem, loss: MeasuredLoss, **sources: Any) -> dict[str, Any]:
    """Return everything that determines a measurement: its settings, problem and loss, and checksums of its inputs."""
    # The strategy only changes rounding.
    setting = asdict(config) | {"strategy": None}
    measured = {OBJECTIVE: {"mode": loss.mode, "data": loss.data}}
    return {"setting": setting, "problem": own.record(), **measured, **sources}


def measurement_folder(parent: Path, name: str, loss: MeasuredLoss, inputs: dict[str, Any]) -> Path:
    """Return the folder of a measurement, whose name says that it was made in training mode if that matters.

    A result of version 0.1, whose name did not, is found where it is.
    """
    folder, older = parent / f"{name}{loss.suffix}", parent / name
    if loss.suffix and not folder.exists():
        found = find_kept(older, inputs)
        if found is not None and not says_objective(found):
            return older
    return folder


def is_up_to_date(run: RunFolder, stage: str, folder: Path, inputs: dict[str, Any], console: Console) -> bool:
    """Return whether a measurement is done; if so, print that."""
    found = find_kept(folder, inputs)
    if found is None:
        return False
    unknown = "" if says_objective(found) else f"; it does not say in which mode: delete {folder} to measure it again"
    console.print(f"{run}: {stage} {folder.name} is up to date{unknown}")
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

"""The stage `train`: from a problem to a minimum in the run folder."""

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from rich.console import Console

from jaxscape.problem import Init, Problem, is_arrays
from jaxscape.runs.checks import check_train
from jaxscape.runs.config import TrainSettings
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.keys import init_key, train_key
from jaxscape.runs.lock import writing
from jaxscape.runs.minimum import (
    Minimum,
    describe_accuracy,
    is_finished,
    is_whole,
    read_accuracy,
    read_minimum,
    write_minimum,
)
from jaxscape.runs.progress import name_runs, track
from jaxscape.runs.recording import describe_epoch
from jaxscape.runs.resume import resume_state, save_state
from jaxscape.runs.strategy import fastest_strategy
from jaxscape.training.members import Update, map_members, num_members
from jaxscape.training.train import (
    Chooser,
    Epoch,
    TrainState,
    concatenate_states,
    init_states,
    split_epoch,
    train,
)

PyTree = Any

# Keeping a state takes a moment on a slow disk; losing this many seconds of training is no great loss.
_SECONDS_BETWEEN_STATES = 30

# What a retraining makes in the run folder, and what is made from it.
TRAJECTORIES = ("trajectories", "resume", "metrics.csv", "gram.npz", "embeddings")


class Training(NamedTuple):
    """How a minimum is to be found: what is asked, in words, and what that stands for."""

    settings: TrainSettings
    problem: Problem
    optimizer: optax.GradientTransformation
    record: Mapping[str, Any] | None = None  # of the problem; None where the settings say what it is


def find_minimum(run: Path, training: Training, *, console: Console) -> Minimum:
    """Train to a minimum, resume where an earlier call was interrupted, or read what is there.

    Raises:
        As `find_minima`.
    """
    find_minima({run: training}, console=console)
    return read_minimum(run)


def find_minima(trainings: Mapping[Path, Training], *, console: Console) -> None:
    """Train to a minimum in each of several run folders, resume where an earlier call was interrupted.

    Those that take the same steps on the same data, from other seeds, are trained as one stack; others come one after
    another.

    Args:
        trainings: run folders, and how the minimum of each is found. Those that share a problem and differ in their
            seed alone share an optimiser too.
        console: where to print.

    Raises:
        ValueError: for settings that cannot work, or others than the kept results were made with.
        FloatingPointError: where training diverges, after the others are found.
        OSError: where the disk is full (the last state kept stays), or another process writes to a run folder.
    """
    for training in trainings.values():
        check_train(training.settings)
        steps_per_epoch(training.problem, training.settings.batch_size)
        require_init(training.problem)
    with writing(*trainings):
        for run, training in trainings.items():
            RunFolder(run).record_problem(training.record)
            RunFolder(run).record_settings("train", training.settings, results=("minimum", *TRAJECTORIES))
        alike: dict[Any, list[_Search]] = {}
        for run, training in trainings.items():
            if is_whole(RunFolder(run), training.settings, console):
                console.print(f"{run}: the minimum is there, {training.settings.epochs} epochs")
            else:
                search = _begin(RunFolder(run), training, console)
                alike.setdefault(_step_of(search), []).append(search)
        diverged = {run: epoch for searches in alike.values() for run, epoch in _train(searches, console).items()}
    if diverged:
        where = ", ".join(f"{run} from epoch {epoch} on" for run, epoch in diverged.items())
        raise FloatingPointError(f"training diverged: parameters are not finite in {where}")


def steps_per_epoch(problem: Problem, batch_size: int) -> int | None:
    """Return the steps of one pass over the data; None where the data are no arrays: their batches say it.

    Raises:
        ValueError: for a batch that is larger than the data, and for an iterator, which a run folder cannot resume.
    """
    if isinstance(problem.data, Iterator):
        raise ValueError(
            "data must not be an iterator in a run folder, which could not resume it; give an iterable of batches "
            "whose passes end, or a function (epoch, keys) -> jaxscape.SharedBatches(batches), "
            f"got a {type(problem.data).__name__}"
        )
    if not is_arrays(problem.data):
        return None
    examples = num_members(problem.data)
    if batch_size > examples:
        raise ValueError(f"batch_size must be at most the number of training examples, {examples}, got {batch_size}")
    return examples // batch_size


def require_init(problem: Problem) -> Init:
    """Return what makes a fresh network.

    Raises:
        ValueError: where the problem does not have it.
    """
    if problem.init is None:
        raise ValueError("the problem needs init, a function key -> (params, model_state), to train from the start")
    return problem.init


def copy_minimum(source: Path, run: Path) -> None:
    """Give a run folder the minimum of another one, to retrain its copies in another way; done once.

    Raises:
        FileNotFoundError: where the source has no finished minimum.
        ValueError: where the run folder holds results of another one.
        OSError: where the disk is full.
    """
    source, run = RunFolder(source), RunFolder(run)
    settings, _ = read_accuracy(source)
    with writing(run):
        run.record_settings("train", settings, results=("minimum", *TRAJECTORIES))
        if not is_finished(run, settings):
            ignored = shutil.ignore_patterns(source.accuracy.name)
            shutil.copytree(source.minimum, run.minimum, ignore=ignored, dirs_exist_ok=True)
            shutil.copy(source.accuracy, run.minimum)  # last: it says that the rest is there


class _Search(NamedTuple):
    """The training of one run folder's minimum, as far as it is."""

    run: RunFolder
    training: Training
    states: list[TrainState]  # one, after `done` epochs, until it trains
    done: int
    strategy: str | None  # as it began, on a GPU or TPU


def _begin(run: RunFolder, training: Training, console: Console) -> _Search:
    seed = training.settings.seed
    params, model_state = require_init(training.problem)(init_key(seed))
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    start = init_states(stacked, training.optimizer, keys=train_key(seed)[None], model_state=model_state)
    done, states = resume_state(run.minimum, start, console)
    return _Search(run, training, [states], done, run.strategy(stage="train") if done else None)


def _step_of(search: _Search) -> tuple[Any, ...]:
    """What its steps follow from, so that searches with the same one can go together."""
    settings = replace(search.training.settings, seed=0)
    return (id(search.training.problem), settings, search.done, search.strategy)


def _train(searches: list[_Search], console: Console) -> dict[RunFolder, int]:
    """Train as one stack what takes the same steps; gives the runs that diverge, and in which epoch."""
    started = time.monotonic()
    first, runs = searches[0], [search.run for search in searches]
    settings, problem, optimizer, _ = first.training
    strategy: str | Chooser = "loop" if len(runs) == 1 else "threads"  # the bytes of a loop, faster
    if len(runs) > 1 and jax.default_backend() != "cpu":
        strategy = partial(_choose_strategy, runs)
    epoch = Epoch(first.done, concatenate_states([search.states.pop() for search in searches]), {})
    epochs = train(
        problem.loss_fn,
        optimizer,
        epoch.states,
        problem.data,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        first_epoch=first.done,
        strategy=first.strategy or strategy,
    )
    if not first.done:
        next(epochs)  # the start, of which nothing is kept
    kept_at, diverged = time.monotonic(), dict[RunFolder, int]()
    title = f"{name_runs(runs)}: train"
    total = settings.epochs - first.done
    for epoch in track(epochs, title=title, total=total, console=console, describe=describe_epoch, every=10):
        lost = [run for run, finite in zip(runs, epoch.metrics["finite"], strict=True) if not finite]
        diverged = dict.fromkeys(lost, epoch.epoch) | diverged
        if len(diverged) == len(runs):
            break
        if epoch.epoch == settings.epochs or time.monotonic() - kept_at > _SECONDS_BETWEEN_STATES:
            for run, own in zip(runs, split_epoch(epoch, [1] * len(runs)), strict=True):
                if run not in diverged:
                    save_state(run.minimum, own.epoch, own.states)
            kept_at = time.monotonic()
    seconds = (time.monotonic() - started) / len(runs)
    for run, own in zip(runs, split_epoch(epoch, [1] * len(runs)), strict=True):
        if run not in diverged:
            _keep_minimum(run, settings.epochs, problem, own.states, seconds, console)
    return diverged


def _choose_strategy(runs: list[RunFolder], update: Update, states: TrainState, data: PyTree, batches: PyTree) -> str:
    chosen, record, _ = fastest_strategy(update, states, data, batches)
    for run in runs:
        run.record_strategy(record, stage="train")
    return chosen


def _keep_minimum(
    run: RunFolder, epochs: int, problem: Problem, states: TrainState, seconds: float, console: Console
) -> None:
    started = time.monotonic()
    metrics = {}
    if problem.evaluate is not None:
        metrics = {name: float(value[0]) for name, value in map_members(problem.evaluate, *states[:2]).items()}
    params, model_state = jax.tree.map(lambda leaf: leaf[0], states[:2])
    write_minimum(run, params, model_state, epochs=epochs, metrics=metrics)
    run.record_seconds("train", seconds + time.monotonic() - started)
    console.print(f"{run}: minimum found, {describe_accuracy(metrics)}" if metrics else f"{run}: minimum found")

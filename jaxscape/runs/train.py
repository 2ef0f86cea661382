"""The stage `train`: train a problem to a minimum in the run folder."""

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

# Saving a state takes a moment on a slow disk; an interruption loses at most this many seconds of training.
_SECONDS_BETWEEN_STATES = 30

# The results of retraining in the run folder, and results that depend on them.
TRAJECTORIES = ("trajectories", "resume", "metrics.csv", "gram.npz", "embeddings")


class Training(NamedTuple):
    """Everything needed to train a minimum: the settings, and the objects that they stand for."""

    settings: TrainSettings
    problem: Problem
    optimizer: optax.GradientTransformation
    record: Mapping[str, Any] | None = None  # description of the problem; None for the built-in one


def find_minimum(run: Path, training: Training, *, console: Console) -> Minimum:
    """Train to a minimum, resume an interrupted call, or read an existing minimum.

    Raises:
        See `find_minima`.
    """
    find_minima({run: training}, console=console)
    return read_minimum(run)


def find_minima(trainings: Mapping[Path, Training], *, console: Console) -> None:
    """Train to a minimum in each of several run folders, or resume an interrupted call.

    Minima that take the same steps on the same data, with different seeds, are trained as one stack; others are trained
    one after another.

    Args:
        trainings: run folders, and the training of each minimum. Trainings that share a problem and differ only in
            their seed must share an optimiser too.
        console: where to print.

    Raises:
        ValueError: for invalid settings, or settings that differ from those of existing results.
        FloatingPointError: if a training diverges, after the other trainings have finished.
        OSError: if the disk is full (the last saved state remains), or another process is writing to a run folder.
    """
    for training in trainings.values():
        check_train(training.settings)
        steps_per_epoch(training.problem, training.settings.batch_size)
        require_init(training.problem)
    with writing(*trainings):
        for run, training in trainings.items():
            RunFolder(run).record_problem(training.record)
            RunFolder(run).record_settings("train", training.settings, results=("minimum", *TRAJECTORIES))
        stacks: dict[Any, list[_Task]] = {}
        for run, training in trainings.items():
            if is_whole(RunFolder(run), training.settings, console):
                console.print(f"{run}: the minimum is complete, {training.settings.epochs} epochs")
            else:
                task = _begin(RunFolder(run), training, console)
                stacks.setdefault(_stack_key(task), []).append(task)
        diverged = {run: epoch for tasks in stacks.values() for run, epoch in _train(tasks, console).items()}
    if diverged:
        where = ", ".join(f"{run} from epoch {epoch} on" for run, epoch in diverged.items())
        raise FloatingPointError(f"training diverged: parameters are not finite in {where}")


def steps_per_epoch(problem: Problem, batch_size: int) -> int | None:
    """Return the steps of one pass over the data; None if the data are not arrays but batches.

    Raises:
        ValueError: for a batch size larger than the data, and for an iterator, which a run folder cannot resume.
    """
    if isinstance(problem.data, Iterator):
        raise ValueError(
            "data must not be an iterator, which a run folder cannot resume; use an iterable of batches with finite "
            "passes, or a function (epoch, keys) -> jaxscape.SharedBatches(batches), "
            f"got a {type(problem.data).__name__}"
        )
    if not is_arrays(problem.data):
        return None
    examples = num_members(problem.data)
    if batch_size > examples:
        raise ValueError(f"batch_size must be at most the number of training examples, {examples}, got {batch_size}")
    return examples // batch_size


def require_init(problem: Problem) -> Init:
    """Return the function that initialises a network.

    Raises:
        ValueError: if the problem does not have one.
    """
    if problem.init is None:
        raise ValueError("the problem needs init, a function key -> (params, model_state), to train from scratch")
    return problem.init


def copy_minimum(source: Path, run: Path) -> None:
    """Copy the minimum of another run folder, to retrain its copies with other settings; done once.

    Raises:
        FileNotFoundError: if the source has no finished minimum.
        ValueError: if the run folder holds results of another minimum.
        OSError: if the disk is full.
    """
    source, run = RunFolder(source), RunFolder(run)
    settings, _ = read_accuracy(source)
    with writing(run):
        run.record_settings("train", settings, results=("minimum", *TRAJECTORIES))
        if not is_finished(run, settings):
            ignored = shutil.ignore_patterns(source.accuracy.name)
            shutil.copytree(source.minimum, run.minimum, ignore=ignored, dirs_exist_ok=True)
            shutil.copy(source.accuracy, run.minimum)  # last: its presence marks the copy as complete


class _Task(NamedTuple):
    """The training of one run folder's minimum, and its progress."""

    run: RunFolder
    training: Training
    # One state, after `done` epochs. A list, so that training can take it out and no second reference keeps its memory.
    states: list[TrainState]
    done: int
    strategy: str | None  # the one that the training began with, on a GPU or TPU


def _begin(run: RunFolder, training: Training, console: Console) -> _Task:
    seed = training.settings.seed
    params, model_state = require_init(training.problem)(init_key(seed))
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    start = init_states(stacked, training.optimizer, keys=train_key(seed)[None], model_state=model_state)
    done, states = resume_state(run.minimum, start, console)
    return _Task(run, training, [states], done, run.strategy(stage="train") if done else None)


def _stack_key(task: _Task) -> tuple[Any, ...]:
    """Return everything that determines the training steps: tasks with equal keys form one stack."""
    settings = replace(task.training.settings, seed=0)
    return (id(task.training.problem), settings, task.done, task.strategy)


def _train(tasks: list[_Task], console: Console) -> dict[RunFolder, int]:
    """Train tasks that take the same steps as one stack; return the runs that diverge, each with the epoch."""
    started = time.monotonic()
    first, runs = tasks[0], [task.run for task in tasks]
    settings, problem, optimizer, _ = first.training
    strategy: str | Chooser = "loop" if len(runs) == 1 else "threads"  # the same bytes as a loop, but faster
    if len(runs) > 1 and jax.default_backend() != "cpu":
        strategy = partial(_choose_strategy, runs)
    epoch = Epoch(first.done, concatenate_states([task.states.pop() for task in tasks]), {})
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
        next(epochs)  # the start, which is not saved
    saved_at, diverged = time.monotonic(), dict[RunFolder, int]()
    title = f"{name_runs(runs)}: train"
    total = settings.epochs - first.done
    for epoch in track(epochs, title=title, total=total, console=console, describe=describe_epoch, every=10):
        not_finite = [run for run, finite in zip(runs, epoch.metrics["finite"], strict=True) if not finite]
        diverged = dict.fromkeys(not_finite, epoch.epoch) | diverged
        if len(diverged) == len(runs):
            break
        if epoch.epoch == settings.epochs or time.monotonic() - saved_at > _SECONDS_BETWEEN_STATES:
            for run, own in zip(runs, split_epoch(epoch, [1] * len(runs)), strict=True):
                if run not in diverged:
                    save_state(run.minimum, own.epoch, own.states)
            saved_at = time.monotonic()
    seconds = (time.monotonic() - started) / len(runs)
    for run, own in zip(runs, split_epoch(epoch, [1] * len(runs)), strict=True):
        if run not in diverged:
            _save_minimum(run, settings.epochs, problem, own.states, seconds, console)
    return diverged


def _choose_strategy(runs: list[RunFolder], update: Update, states: TrainState, data: PyTree, batches: PyTree) -> str:
    chosen, record, _ = fastest_strategy(update, states, data, batches)
    for run in runs:
        run.record_strategy(record, stage="train")
    return chosen


def _save_minimum(
    run: RunFolder, epochs: int, problem: Problem, states: TrainState, seconds: float, console: Console
) -> None:
    started = time.monotonic()
    metrics = {}
    if problem.evaluate is not None:
        metrics = {name: float(value[0]) for name, value in map_members(problem.evaluate, *states[:2]).items()}
    params, model_state = jax.tree.map(lambda leaf: leaf[0], states[:2])
    write_minimum(run, params, model_state, epochs=epochs, metrics=metrics)
    run.record_seconds("train", seconds + time.monotonic() - started)
    console.print(f"{run}: minimum trained, {describe_accuracy(metrics)}" if metrics else f"{run}: minimum trained")

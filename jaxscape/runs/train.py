"""The stage `train`: from a problem to a minimum in the run folder."""

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console

from jaxscape.problem import Problem, is_arrays
from jaxscape.runs.config import TrainSettings, check_train
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.keys import init_key, train_key
from jaxscape.runs.lock import writing
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
from jaxscape.trajectories.files import read_record, write_record
from jaxscape.trajectories.paths import plain_path
from jaxscape.trajectories.snapshots import ending_context, reason

PyTree = Any

# Keeping a state takes a moment on a slow disk; losing this many seconds of training is no great loss.
_SECONDS_BETWEEN_STATES = 30

# What a retraining makes in the run folder, and what is made from it.
TRAJECTORIES = ("trajectories", "resume", "metrics.csv", "gram.npz", "embeddings")

_CHECKSUM = "parameters"  # the entry of a minimum's metrics that proves its parameters whole


class Training(NamedTuple):
    """How a minimum is to be found: what is asked, in words, and what that stands for."""

    settings: TrainSettings
    problem: Problem
    optimizer: optax.GradientTransformation


class Minimum(NamedTuple):
    """A minimum as the run folder keeps it."""

    settings: TrainSettings
    params: PyTree
    model_state: PyTree
    metrics: dict[str, float]


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
        if training.problem.init is None:
            raise ValueError("the problem needs init, a function key -> (params, model_state), to train from the start")
    with writing(*trainings):
        for run, training in trainings.items():
            RunFolder(run).record_settings("train", training.settings, results=("minimum", *TRAJECTORIES))
        alike: dict[Any, list[_Search]] = {}
        for run, training in trainings.items():
            if _is_whole(RunFolder(run), training.settings, console):
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
        ValueError: for a batch that is larger than the data.
    """
    if not is_arrays(problem.data):
        return None
    examples = num_members(problem.data)
    if batch_size > examples:
        raise ValueError(f"batch_size must be at most the number of training examples, {examples}, got {batch_size}")
    return examples // batch_size


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
        if not _is_finished(run, settings):
            ignored = shutil.ignore_patterns(source.accuracy.name)
            shutil.copytree(source.minimum, run.minimum, ignore=ignored, dirs_exist_ok=True)
            shutil.copy(source.accuracy, run.minimum)  # last: it says that the rest is there


def read_minimum(run: Path) -> Minimum:
    """Read the minimum of a run folder.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
        ValueError: where it is damaged; says which command makes it again.
    """
    run = RunFolder(run)
    settings, metrics = read_accuracy(run)
    checksum = _read_metrics(run).get(_CHECKSUM)
    try:
        kept = _load_parameters(run.parameters)
        if checksum is not None and checksum != _checksum(kept):
            raise ValueError("they do not match their checksum")
        return Minimum(settings, kept["params"], kept["model_state"], metrics)
    except Exception as error:  # whatever orbax and tensorstore make of damaged files
        words = str(error).partition("\n")[0]
        raise ValueError(
            f"{run.parameters} is damaged; `jaxscape train {run}` makes it again ({words:.200})"
        ) from error


def read_accuracy(run: Path) -> tuple[TrainSettings, dict[str, float]]:
    """Return how the minimum of a run folder was found and how good it is, without its parameters.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
        ValueError: where the record of its accuracy is damaged.
    """
    run = RunFolder(run)
    run.require_record()
    settings = run.settings("train")
    if settings is None or not _is_finished(run, settings):
        raise FileNotFoundError(f"{run} has no finished minimum; `jaxscape train {run}` makes it")
    return settings, {name: value for name, value in _read_metrics(run).items() if name not in ("epochs", _CHECKSUM)}


def describe_accuracy(metrics: Mapping[str, float]) -> str:
    """Accuracy on the training and test sets in words, or what else was measured."""
    if {"train_accuracy", "test_accuracy"} <= metrics.keys():
        return f"accuracy {metrics['train_accuracy']:.1%} in training, {metrics['test_accuracy']:.1%} on the test set"
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())


def _is_finished(run: RunFolder, settings: TrainSettings) -> bool:
    """Return whether the minimum was trained to the last epoch asked for."""
    return run.accuracy.exists() and _read_metrics(run)["epochs"] == settings.epochs


def _is_whole(run: RunFolder, settings: TrainSettings, console: Console) -> bool:
    """Return whether the minimum is finished and can be read; says where it is damaged."""
    try:
        if not _is_finished(run, settings):
            return False
        read_minimum(run)
    except ValueError as error:
        console.print(f"{error}")
        return False
    return True


def _read_metrics(run: RunFolder) -> dict[str, Any]:
    """Read the accuracy of the minimum, and its checksum.

    Raises:
        ValueError: where the record is damaged; says which command makes it again.
    """
    try:
        record = read_record(run.accuracy)
        if not isinstance(record.get("epochs"), int):
            raise ValueError(f"{run.accuracy} is damaged: it has no number for epochs")
        wrong = [name for name, value in record.items() if name != _CHECKSUM and not _is_metric(value)]
        if wrong:
            raise ValueError(f"{run.accuracy} is damaged: it has no number for {', '.join(wrong)}")
    except ValueError as error:
        raise ValueError(f"{error}; `jaxscape train {run}` makes it again") from None
    return record


def _is_metric(value: Any) -> bool:
    """Whether JSON holds a number here; NaN is written as null."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


class _Search(NamedTuple):
    """The training of one run folder's minimum, as far as it is."""

    run: RunFolder
    training: Training
    states: list[TrainState]  # one, after `done` epochs, until it trains
    done: int
    strategy: str | None  # as it began, on a GPU or TPU


def _begin(run: RunFolder, training: Training, console: Console) -> _Search:
    seed = training.settings.seed
    assert training.problem.init is not None  # as checked
    params, model_state = training.problem.init(init_key(seed))
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
    (settings, problem, optimizer) = first.training
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
    checksum = _save_minimum(run.minimum, states)
    write_record(run.accuracy, {"epochs": epochs} | metrics | {_CHECKSUM: checksum})  # last: it says that the rest is
    run.record_seconds("train", seconds + time.monotonic() - started)
    console.print(f"{run}: minimum found, {describe_accuracy(metrics)}" if metrics else f"{run}: minimum found")


def _save_minimum(folder: Path, states: TrainState) -> str:
    """Write the parameters and the model state, as an orbax checkpoint that anything can read; give their checksum."""
    from orbax.checkpoint import v1 as ocp

    assert num_members(states.params) == 1
    kept = jax.tree.map(lambda leaf: np.asarray(leaf[0]), {"params": states.params, "model_state": states.model_state})
    path, checksum = folder / "parameters", _checksum(kept)
    try:
        with ending_context():
            ocp.save(plain_path(folder.absolute()) / path.name, kept, overwrite=True)
        readable = _checksum(_load_parameters(path)) == checksum
    except Exception as error:  # whatever orbax and tensorstore make of a full disk
        raise OSError(f"cannot write {path}: {reason(error)}") from error
    if not readable:
        raise OSError(f"cannot write {path}: what was written there reads back as something else")
    return checksum


def _load_parameters(path: Path) -> dict[str, Any]:
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    if jax.process_count() > 1:  # whoever reads does so by itself
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
    with context:
        return jax.tree.map(np.asarray, ocp.load(plain_path(path.parent.absolute()) / path.name))


def _checksum(tree: PyTree) -> str:
    """The SHA-256 of all arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()

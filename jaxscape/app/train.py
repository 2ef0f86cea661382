"""The stage `train`: from a configuration to a minimum in the run folder."""

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
from rich.console import Console

from jaxscape.app.config import TaskConfig, TrainConfig, check_train
from jaxscape.app.folder import (
    read_section,
    read_strategy,
    record_seconds,
    record_section,
    record_strategy,
    require_record,
)
from jaxscape.app.lock import writing
from jaxscape.app.problem import Problem, make_loss, make_problems, train_key, train_optimizer
from jaxscape.app.progress import name_runs, track
from jaxscape.app.resume import resume_state, save_state
from jaxscape.app.strategy import fastest_strategy
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


_METRICS = "metrics.json"  # in the folder of the minimum; written last of all
_MEASURED = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
_CHECKSUM = "parameters"  # its entry there that proves the parameters whole


class Minimum(NamedTuple):
    """A minimum as the run folder keeps it."""

    config: TrainConfig
    params: PyTree
    model_state: PyTree
    metrics: dict[str, float]


def find_minimum(run: Path, config: TrainConfig, *, console: Console) -> Minimum:
    """Train to a minimum, resume where an earlier call was interrupted, or read what is there.

    Raises:
        As `find_minima`.
    """
    find_minima({run: config}, console=console)
    return read_minimum(run)


def find_minima(configs: Mapping[Path, TrainConfig], *, console: Console) -> None:
    """Train to a minimum in each of several run folders, resume where an earlier call was interrupted.

    Those that take the same steps on the same data, from other seeds, are trained as one stack; others come one after
    another.

    Args:
        configs: run folders, and how the minimum of each is found.
        console: where to print.

    Raises:
        ValueError: for a configuration that cannot work, or another one than the kept results were made with.
        FloatingPointError: where training diverges, after the others are found.
        OSError: where the disk is full (the last state kept stays), or another process writes to a run folder.
    """
    for config in configs.values():
        check_train(config)
    configs = {run: with_absolute_paths(config) for run, config in configs.items()}
    problems = make_problems(configs)
    for run, config in configs.items():
        train_optimizer(problems[run], config)  # refuses what does not fit the number of steps
    with writing(*configs):
        for run, config in configs.items():
            record_section(run, "train", config, results=("minimum", *TRAJECTORIES))
        alike: dict[Any, list[_Search]] = {}
        for run, config in configs.items():
            if _is_whole(run, config, console):
                console.print(f"{run}: the minimum is there, {config.epochs} epochs")
            else:
                search = _begin(run, config, problems[run], console)
                alike.setdefault(_step_of(search), []).append(search)
        diverged = {run: epoch for searches in alike.values() for run, epoch in _train(searches, console).items()}
    if diverged:
        where = ", ".join(f"{run} from epoch {epoch} on" for run, epoch in diverged.items())
        raise FloatingPointError(f"training diverged: parameters are not finite in {where}")


def copy_minimum(source: Path, run: Path) -> None:
    """Give a run folder the minimum of another one, to retrain its copies in another way; done once.

    Raises:
        FileNotFoundError: where the source has no finished minimum.
        ValueError: where the run folder holds results of another one.
        OSError: where the disk is full.
    """
    config, _ = read_accuracy(source)
    with writing(run):
        record_section(run, "train", config, results=("minimum", *TRAJECTORIES))
        if not _is_finished(run, config):
            shutil.copytree(
                source / "minimum", run / "minimum", ignore=shutil.ignore_patterns(_METRICS), dirs_exist_ok=True
            )
            shutil.copy(source / "minimum" / _METRICS, run / "minimum")  # last: it says that the rest is there


def read_minimum(run: Path) -> Minimum:
    """Read the minimum of a run folder.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
        ValueError: where it is damaged; says which command makes it again.
    """
    config, metrics = read_accuracy(run)
    checksum = _read_metrics(run).get(_CHECKSUM)
    try:
        kept = _load_parameters(run / "minimum" / "parameters")
        if checksum is not None and checksum != _checksum(kept):
            raise ValueError("they do not match their checksum")
        return Minimum(config, kept["params"], kept["model_state"], metrics)
    except Exception as error:  # whatever orbax and tensorstore make of damaged files
        path, reason = run / "minimum" / "parameters", str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged; `jaxscape train {run}` makes it again ({reason:.200})") from error


def read_accuracy(run: Path) -> tuple[TrainConfig, dict[str, float]]:
    """Return how the minimum of a run folder was found and how good it is, without its parameters.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
        ValueError: where the record of its accuracy is damaged.
    """
    require_record(run)
    config = read_section(run, "train", TrainConfig)
    if config is None or not _is_finished(run, config):
        raise FileNotFoundError(f"{run} has no finished minimum; `jaxscape train {run}` makes it")
    return config, {name: value for name, value in _read_metrics(run).items() if name not in ("epochs", _CHECKSUM)}


def describe_accuracy(metrics: dict[str, float]) -> str:
    """Accuracy on the training and test sets, in words."""
    return f"accuracy {metrics['train_accuracy']:.1%} in training, {metrics['test_accuracy']:.1%} on the test set"


def _is_finished(run: Path, config: TrainConfig) -> bool:
    """Return whether the minimum was trained to the last epoch asked for."""
    return (run / "minimum" / _METRICS).exists() and _read_metrics(run)["epochs"] == config.epochs


def _is_whole(run: Path, config: TrainConfig, console: Console) -> bool:
    """Return whether the minimum is finished and can be read; says where it is damaged."""
    try:
        if not _is_finished(run, config):
            return False
        read_minimum(run)
    except ValueError as error:
        console.print(f"{error}")
        return False
    return True


def _read_metrics(run: Path) -> dict[str, Any]:
    """Read the accuracy of the minimum, and its checksum.

    Raises:
        ValueError: where the record is damaged; says which command makes it again.
    """
    path = run / "minimum" / _METRICS
    try:
        record = read_record(path)
        missing = [name for name in ("epochs", *_MEASURED) if not isinstance(record.get(name), int | float)]
        if missing:
            raise ValueError(f"{path} is damaged: it has no number for {', '.join(missing)}")
    except ValueError as error:
        raise ValueError(f"{error}; `jaxscape train {run}` makes it again") from None
    return record


class _Search(NamedTuple):
    """The training of one run folder's minimum, as far as it is."""

    run: Path
    config: TrainConfig
    problem: Problem
    states: list[TrainState]  # one, after `done` epochs, until it trains
    done: int
    strategy: str | None  # as it began, on a GPU or TPU


def _begin(run: Path, config: TrainConfig, problem: Problem, console: Console) -> _Search:
    params, model_state = problem.init(config.seed)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    keys = train_key(config)[None]
    start = init_states(stacked, train_optimizer(problem, config), keys=keys, model_state=model_state)
    done, states = resume_state(run / "minimum", start, console)
    strategy = read_strategy(run, stage="train") if done else None
    return _Search(run, config, problem, [states], done, strategy)


def _step_of(search: _Search) -> tuple[Any, ...]:
    """What its steps follow from, so that searches with the same one can go together."""
    return (id(search.problem), replace(search.config, seed=0), search.done, search.strategy)


def _train(searches: list[_Search], console: Console) -> dict[Path, int]:
    """Train as one stack what takes the same steps; gives the runs that diverge, and in which epoch."""
    started = time.monotonic()
    first, runs = searches[0], [search.run for search in searches]
    config, problem = first.config, first.problem
    strategy: str | Chooser = "loop" if len(runs) == 1 else "threads"  # the bytes of a loop, faster
    if len(runs) > 1 and jax.default_backend() != "cpu":
        strategy = partial(_choose_strategy, runs)
    epochs = train(
        make_loss(problem, config, augment=config.augmentation),
        train_optimizer(problem, config),
        concatenate_states([search.states.pop() for search in searches]),
        problem.train,
        epochs=config.epochs,
        batch_size=config.batch_size,
        first_epoch=first.done,
        strategy=first.strategy or strategy,
    )
    epoch = next(epochs)
    kept_at, diverged = time.monotonic(), dict[Path, int]()
    title = f"{name_runs(runs)}: train"
    total = config.epochs - first.done
    for epoch in track(epochs, title=title, total=total, console=console, describe=_describe, every=10):
        lost = [run for run, finite in zip(runs, epoch.metrics["finite"], strict=True) if not finite]
        diverged = dict.fromkeys(lost, epoch.epoch) | diverged
        if len(diverged) == len(runs):
            break
        if epoch.epoch == config.epochs or time.monotonic() - kept_at > _SECONDS_BETWEEN_STATES:
            for run, own in zip(runs, split_epoch(epoch, [1] * len(runs)), strict=True):
                if run not in diverged:
                    save_state(run / "minimum", own.epoch, own.states)
            kept_at = time.monotonic()
    seconds = (time.monotonic() - started) / len(runs)
    for run, own in zip(runs, split_epoch(epoch, [1] * len(runs)), strict=True):
        if run not in diverged:
            _keep_minimum(run, config.epochs, problem, own.states, seconds, console)
    return diverged


def _choose_strategy(runs: list[Path], update: Update, states: TrainState, data: PyTree, batches: PyTree) -> str:
    chosen, record, _ = fastest_strategy(update, states, data, batches)
    for run in runs:
        record_strategy(run, record, stage="train")
    return chosen


def _keep_minimum(
    run: Path, epochs: int, problem: Problem, states: TrainState, seconds: float, console: Console
) -> None:
    started = time.monotonic()
    metrics = {name: float(value[0]) for name, value in map_members(problem.evaluate, *states[:2]).items()}
    checksum = _save_minimum(run / "minimum", states)
    # Last: it says that the rest is there.
    write_record(run / "minimum" / _METRICS, {"epochs": epochs} | metrics | {_CHECKSUM: checksum})
    record_seconds(run, "train", seconds + time.monotonic() - started)
    console.print(f"{run}: minimum found, {describe_accuracy(metrics)}")


def with_absolute_paths[C: TaskConfig](config: C) -> C:
    """Other commands may be called from elsewhere."""
    if not config.data_dir:  # an empty one is refused where the data are loaded
        return config
    return replace(config, data_dir=str(Path(config.data_dir).expanduser().absolute()))


def _describe(epoch: Epoch) -> str:
    return f"loss {np.median(epoch.metrics['epoch_loss']):.4f}"


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

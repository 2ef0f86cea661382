"""The stage `train`: from a configuration to a minimum in the run folder."""

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
    read_config,
    read_json,
    read_section,
    record_seconds,
    record_section,
    record_strategy,
    write_json,
)
from jaxscape.app.problem import Problem, make_loss, make_problems, train_key, train_optimizer
from jaxscape.app.progress import name_runs, track
from jaxscape.app.resume import load_state, save_state
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

PyTree = Any

# Keeping a state takes a moment on a slow disk; losing this many seconds of training is no great loss.
_SECONDS_BETWEEN_STATES = 30

# What a retraining makes in the run folder, and what is made from it.
TRAJECTORIES = ("trajectories", "resume", "metrics.csv", "gram.npz", "embeddings")


_METRICS = "metrics.json"  # in the folder of the minimum; written last of all


class Minimum(NamedTuple):
    """A minimum as the run folder keeps it."""

    config: TrainConfig
    params: PyTree
    model_state: PyTree
    metrics: dict[str, float]


def find_minimum(run: Path, config: TrainConfig, *, console: Console) -> Minimum:
    """Train to a minimum, go on where an earlier call was interrupted, or read what is there.

    Raises:
        As `find_minima`.
    """
    find_minima({run: config}, console=console)
    return read_minimum(run)


def find_minima(configs: Mapping[Path, TrainConfig], *, console: Console) -> None:
    """Train to a minimum in each of several run folders, go on where an earlier call was interrupted.

    Those that take the same steps on the same data, from other seeds, are trained as one stack; others come one after
    another.

    Args:
        configs: run folders, and how the minimum of each is found.
        console: where to print.

    Raises:
        ValueError: for a configuration that cannot work, or another one than the kept results were made with.
        FloatingPointError: where training diverges, after the others are found.
        OSError: where the disk is full; the last state kept stays.
    """
    for config in configs.values():
        check_train(config)
    configs = {run: with_absolute_paths(config) for run, config in configs.items()}
    problems = make_problems(configs)
    for run, config in configs.items():
        record_section(run, "train", config, results=("minimum", *TRAJECTORIES))
    alike: dict[Any, list[_Search]] = {}
    for run, config in configs.items():
        if _finished(run / "minimum", config):
            console.print(f"{run}: the minimum is there, {config.epochs} epochs")
        else:
            search = _begin(run, config, problems[run])
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
    record_section(run, "train", config, results=("minimum", *TRAJECTORIES))
    if not _finished(run / "minimum", config):
        shutil.copytree(
            source / "minimum", run / "minimum", ignore=shutil.ignore_patterns(_METRICS), dirs_exist_ok=True
        )
        shutil.copy(source / "minimum" / _METRICS, run / "minimum")  # last: it says that the rest is there


def read_minimum(run: Path) -> Minimum:
    """The minimum of a run folder.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
    """
    from orbax.checkpoint import v1 as ocp

    config, metrics = read_accuracy(run)
    context = ocp.Context()
    if jax.process_count() > 1:  # whoever reads does so by itself
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
    with context:
        kept = jax.tree.map(np.asarray, ocp.load((run / "minimum" / "parameters").absolute()))
    return Minimum(config, kept["params"], kept["model_state"], metrics)


def read_accuracy(run: Path) -> tuple[TrainConfig, dict[str, float]]:
    """How the minimum of a run folder was found and how good it is, without its parameters.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
    """
    folder, config = run / "minimum", read_section(run, "train", TrainConfig)
    if config is None or not _finished(folder, config):
        raise FileNotFoundError(f"{run} has no finished minimum; `jaxscape train {run}` makes it")
    metrics = read_json(folder / _METRICS)
    del metrics["epochs"]
    return config, metrics


def describe_accuracy(metrics: dict[str, float]) -> str:
    """Accuracy on the training and test sets, in words."""
    return f"accuracy {metrics['train_accuracy']:.1%} in training, {metrics['test_accuracy']:.1%} on the test set"


def _finished(folder: Path, config: TrainConfig) -> bool:
    """Whether the minimum was trained to the last epoch asked for."""
    metrics = folder / _METRICS
    return metrics.exists() and read_json(metrics).get("epochs") == config.epochs


class _Search(NamedTuple):
    """The training of one run folder's minimum, as far as it is."""

    run: Path
    config: TrainConfig
    problem: Problem
    states: list[TrainState]  # one, after `done` epochs, until it trains
    done: int
    strategy: str | None  # as it began, on a GPU or TPU


def _begin(run: Path, config: TrainConfig, problem: Problem) -> _Search:
    params, model_state = problem.init(config.seed)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    keys = train_key(config)[None]
    start = init_states(stacked, train_optimizer(problem, config), keys=keys, model_state=model_state)
    done, states = load_state(run / "minimum", start) or (0, start)
    strategy = read_config(run).get("train_strategy", {}).get("chosen") if done else None
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
    _save_minimum(run / "minimum", states)
    write_json(run / "minimum" / _METRICS, {"epochs": epochs} | metrics)
    record_seconds(run, "train", seconds + time.monotonic() - started)
    console.print(f"{run}: minimum found, {describe_accuracy(metrics)}")


def with_absolute_paths[C: TaskConfig](config: C) -> C:
    """Other commands may be called from elsewhere."""
    if config.data_dir is None:
        return config
    return replace(config, data_dir=str(Path(config.data_dir).expanduser().absolute()))


def _describe(epoch: Epoch) -> str:
    return f"loss {np.median(epoch.metrics['epoch_loss']):.4f}"


def _save_minimum(folder: Path, states: TrainState) -> None:
    """The parameters and the model state alone, as an orbax checkpoint that anything can read."""
    from orbax.checkpoint import v1 as ocp

    assert num_members(states.params) == 1
    kept = {"params": states.params, "model_state": states.model_state}
    path = (folder / "parameters").absolute()
    try:
        ocp.save(path, jax.tree.map(lambda leaf: np.asarray(leaf[0]), kept), overwrite=True)
    except Exception as error:  # whatever tensorstore makes of a full disk, it ends in the system's words
        raise OSError(f"cannot write {path}: {str(error).rpartition(': ')[2]}") from error

"""The stage `train`: from a configuration to a minimum in the run folder."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from jaxscape.app.config import TrainConfig, check_train
from jaxscape.app.folder import read_json, read_section, record_seconds, record_section, write_json
from jaxscape.app.problem import Problem, make_loss, make_problem, train_key, train_optimizer
from jaxscape.app.progress import track
from jaxscape.app.resume import load_state, save_state
from jaxscape.training.members import map_members, num_members
from jaxscape.training.train import Epoch, TrainState, init_states, train

PyTree = Any

# Keeping a state takes a moment on a slow disk; losing this many seconds of training is no great loss.
_SECONDS_BETWEEN_STATES = 30

# What a retraining makes in the run folder, and what is made from it.
TRAJECTORIES = ("trajectories", "resume", "metrics.csv", "gram.npz", "embeddings")


class Minimum(NamedTuple):
    """A minimum as the run folder keeps it."""

    config: TrainConfig
    params: PyTree
    model_state: PyTree
    metrics: dict[str, float]


def find_minimum(run: Path, config: TrainConfig, *, console: Console) -> Minimum:
    """Train to a minimum, go on where an earlier call was interrupted, or read what is there.

    Raises:
        ValueError: for a configuration that cannot work, or another one than the kept results were made with.
        FloatingPointError: where training diverges.
        OSError: where the disk is full; the last state kept stays.
    """
    check_train(config)
    if config.data_dir is not None:  # other commands may be called from elsewhere
        config = replace(config, data_dir=str(Path(config.data_dir).expanduser().absolute()))
    problem = make_problem(config)
    record_section(run, "train", config, results=("minimum", *TRAJECTORIES))
    if _finished(run / "minimum", config):
        console.print(f"{run}: the minimum is there, {config.epochs} epochs")
        return read_minimum(run)
    start = _start(problem, config)
    done, states = load_state(run / "minimum", start) or (0, start)
    started = time.monotonic()
    states = _train(problem, config, states, done, run / "minimum", f"{run.name}: train", console)
    metrics = {name: float(value[0]) for name, value in map_members(problem.evaluate, *states[:2]).items()}
    _save_minimum(run / "minimum", states)
    write_json(run / "minimum" / "metrics.json", {"epochs": config.epochs} | metrics)
    record_seconds(run, "train", time.monotonic() - started)
    console.print(f"{run}: minimum found, {describe_accuracy(metrics)}")
    return read_minimum(run)


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
    metrics = read_json(folder / "metrics.json")
    del metrics["epochs"]
    return config, metrics


def describe_accuracy(metrics: dict[str, float]) -> str:
    """Accuracy on the training and test sets, in words."""
    return f"accuracy {metrics['train_accuracy']:.1%} in training, {metrics['test_accuracy']:.1%} on the test set"


def _finished(folder: Path, config: TrainConfig) -> bool:
    """Whether the minimum was trained to the last epoch asked for; its metrics are written last of all."""
    metrics = folder / "metrics.json"
    return metrics.exists() and read_json(metrics).get("epochs") == config.epochs


def _start(problem: Problem, config: TrainConfig) -> TrainState:
    params, model_state = problem.init(config.seed)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    return init_states(stacked, train_optimizer(problem, config), keys=train_key(config)[None], model_state=model_state)


def _train(
    problem: Problem, config: TrainConfig, states: TrainState, done: int, folder: Path, title: str, console: Console
) -> TrainState:
    epochs = train(
        make_loss(problem, config, augment=config.augmentation),
        train_optimizer(problem, config),
        states,
        problem.train,
        epochs=config.epochs,
        batch_size=config.batch_size,
        first_epoch=done,
    )
    next(epochs)
    kept_at = time.monotonic()
    shown = track(epochs, title=title, total=config.epochs - done, console=console, describe=_describe, every=10)
    for epoch, states, metrics in shown:
        if not metrics["finite"].all():
            raise FloatingPointError(f"training diverged in epoch {epoch}: parameters are no longer finite")
        if epoch == config.epochs or time.monotonic() - kept_at > _SECONDS_BETWEEN_STATES:
            save_state(folder, epoch, states)
            kept_at = time.monotonic()
    return states


def _describe(epoch: Epoch) -> str:
    return f"loss {epoch.metrics['epoch_loss'].mean():.4f}"


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

"""The stage `compare`: networks trained side by side, from shared initial parameters by several optimisers.

Members of one optimiser are a group with a step of its own; the groups advance in turn, and one snapshot holds them
all, so that one distance matrix does.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxscape.app.config import CompareConfig, check_compare
from jaxscape.app.folder import read_strategy, record_seconds, record_section, record_values
from jaxscape.app.lock import writing
from jaxscape.app.problem import Problem, make_loss, make_problem, train_key, train_optimizer
from jaxscape.app.progress import track
from jaxscape.app.recording import Recording, choose_strategy, describe_epoch
from jaxscape.app.train import with_absolute_paths
from jaxscape.training.train import Epoch, TrainState, init_states, train

PyTree = Any


def compare_optimizers(run: Path, config: CompareConfig, *, console: Console) -> None:
    """Train all networks, resume where an earlier call was interrupted, or find it done.

    A seed's networks begin with the same parameters, and see the same batches and augmentations.

    Raises:
        ValueError: for a configuration that cannot work, or another one than the kept trajectories were made with.
        OSError: where the disk is full (what was complete stays), or another process writes to the run folder.
    """
    config = with_absolute_paths(config)
    check_compare(config)
    problem = make_problem(config.of_one(config.optimizers[0], config.seeds[0]), eval_size=config.eval_size)
    last = config.epochs if config.steps is None else config.epochs * problem.steps_per_epoch // config.steps
    if last < 1:
        raise ValueError(f"steps must be at most those of all epochs, got {config.steps}")
    for optimizer in config.optimizers:
        train_optimizer(problem, config.of_one(optimizer, config.seeds[0]))  # refuses what does not fit the steps
    labels = [{"seed": seed, "optimizer": optimizer} for optimizer in config.optimizers for seed in config.seeds]
    with writing(run):
        record_section(run, "compare", config, results=("trajectories",))
        record_values(run, snapshots=last, steps_per_epoch=problem.steps_per_epoch)
        with Recording(run, labels, console) as recording:
            if recording.is_finished(last):
                console.print(f"{run}: the trajectories are there, {recording.store.num_epochs - 1} snapshots")
            else:
                _train_groups(recording, config, problem, last, console)


def _train_groups(recording: Recording, config: CompareConfig, problem: Problem, last: int, console: Console) -> None:
    started = time.monotonic()
    done, states = recording.resume({optimizer: _start(problem, config, optimizer) for optimizer in config.optimizers})
    asked = recording.strategy(config.strategy)
    groups = {}
    for optimizer in config.optimizers:  # the first measures, where there is something to measure
        of_one = config.of_one(optimizer, config.seeds[0])
        groups[optimizer] = train(
            make_loss(problem, of_one, augment=config.augmentation),
            train_optimizer(problem, of_one),
            states.pop(optimizer),
            problem.train,
            epochs=last,
            evaluate=problem.evaluate,
            batch_size=config.batch_size,
            steps=config.steps,
            first_epoch=done,
            strategy=asked or partial(choose_strategy, [recording.run], console),
        )
        asked = asked or read_strategy(recording.run)
    snapshots = map(partial(_together, list(groups)), zip(*groups.values(), strict=True))
    title = f"{recording.run.name}: train {len(recording.labels)} networks"
    total = last + 1 - done
    for epoch in track(snapshots, title=title, total=total, console=console, describe=describe_epoch, every=10):
        params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(each.params for each in epoch.states.values()))
        recording.keep(epoch, params, epoch.epoch * (config.steps or problem.steps_per_epoch))
    recording.finish(console)
    record_seconds(recording.run, "compare", time.monotonic() - started)


def _start(problem: Problem, config: CompareConfig, optimizer: str) -> TrainState:
    networks = [problem.init(seed) for seed in config.seeds]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for params, _ in networks))
    keys = jnp.stack([train_key(config.of_one(optimizer, seed)) for seed in config.seeds])
    transformation = train_optimizer(problem, config.of_one(optimizer, config.seeds[0]))
    return init_states(params, transformation, keys=keys, model_state=networks[0][1])


def _together(optimizers: list[str], epochs: tuple[Epoch, ...]) -> Any:
    """One epoch of all groups: their states by optimiser, their metrics one group after another."""
    states = {name: epoch.states for name, epoch in zip(optimizers, epochs, strict=True)}
    metrics = {name: np.concatenate([epoch.metrics[name] for epoch in epochs]) for name in epochs[0].metrics}
    return Epoch(epochs[0].epoch, states, metrics)  # type: ignore[arg-type]  # states of several stacks

"""The stage `compare`: networks trained side by side, from shared initial parameters by several optimisers.

Members of one optimiser are a group with a step of its own; the groups advance in turn, and one snapshot holds them
all, so that one distance matrix does.
"""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from jaxscape.problem import Problem
from jaxscape.runs.checks import check_compare
from jaxscape.runs.config import CompareSettings
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.keys import init_key, train_key
from jaxscape.runs.lock import writing
from jaxscape.runs.progress import track
from jaxscape.runs.recording import Recording, choose_strategy, describe_epoch
from jaxscape.runs.train import require_init, steps_per_epoch
from jaxscape.training.train import Epoch, TrainState, init_states, num_yielded, train

PyTree = Any


class Comparison(NamedTuple):
    """How networks are to be trained side by side: what is asked, in words, and what that stands for."""

    settings: CompareSettings
    problem: Problem
    optimizers: Mapping[str, optax.GradientTransformation]
    record: Mapping[str, Any] | None = None  # of the problem; None where the settings say what it is


def compare_optimizers(run: Path, comparison: Comparison, *, console: Console) -> None:
    """Train all networks, resume where an earlier call was interrupted, or find it done.

    A seed's networks begin with the same parameters, and see the same batches and augmentations.

    Raises:
        ValueError: for settings that cannot work, or others than the kept trajectories were made with.
        OSError: where the disk is full (what was complete stays), or another process writes to the run folder.
    """
    run, settings = RunFolder(run), comparison.settings
    check_compare(settings)
    last, steps = snapshots(comparison)
    labels = [{"seed": seed, "optimizer": optimizer} for optimizer in comparison.optimizers for seed in settings.seeds]
    with writing(run):
        run.record_problem(comparison.record)
        run.record_settings("compare", settings, results=("trajectories",))
        run.record_values(snapshots=last, steps_per_epoch=steps)
        with Recording(run, labels, console) as recording:
            if recording.is_finished(last):
                console.print(f"{run}: the trajectories are there, {recording.store.num_epochs - 1} snapshots")
            else:
                _train_groups(recording, comparison, last, steps, console)


def snapshots(comparison: Comparison) -> tuple[int, int]:
    """Return the number of the last snapshot, and the steps of one pass over the data.

    Raises:
        ValueError: where there would be none, or the data are a function.
    """
    settings = comparison.settings
    steps = steps_per_epoch(comparison.problem, settings.batch_size)
    if steps is None:
        raise ValueError("the data must be arrays for networks that are trained side by side, got batches")
    require_init(comparison.problem)
    last = settings.epochs if settings.steps is None else settings.epochs * steps // settings.steps
    if last < 1:
        raise ValueError(f"steps must be at most those of all epochs, got {settings.steps}")
    return last, steps


def _train_groups(recording: Recording, comparison: Comparison, last: int, steps: int, console: Console) -> None:
    started = time.monotonic()
    settings, problem, optimizers, _ = comparison
    done, states = recording.resume({name: _start(comparison, name) for name in optimizers})
    if done:
        recording.complete(done, _stack_params(states, optimizers))
    asked = recording.strategy(settings.strategy)
    groups = {}
    for name, optimizer in optimizers.items():  # the first measures, where there is something to measure
        groups[name] = train(
            problem.loss_fn,
            optimizer,
            states.pop(name),
            problem.data,
            epochs=last,
            evaluate=problem.evaluate,
            batch_size=settings.batch_size,
            steps=settings.steps,
            first_epoch=done,
            strategy=asked or partial(choose_strategy, [recording.run], console),
        )
        asked = asked or recording.run.strategy()
    together = map(partial(_together, list(groups)), zip(*groups.values(), strict=True))
    title = f"{recording.run.name}: train {len(recording.labels)} networks"
    total = num_yielded(last, done)
    for epoch in track(together, title=title, total=total, console=console, describe=describe_epoch, every=10):
        recording.keep(epoch, _stack_params(epoch.states, optimizers), epoch.epoch * (settings.steps or steps))
    recording.finish(console)
    recording.run.record_seconds("compare", time.monotonic() - started)


def _stack_params(states: Mapping[str, TrainState], names: Iterable[str]) -> PyTree:
    """The parameters of all groups as one stack, in the order of these names: jax sorts the keys of a dictionary."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(states[name].params for name in names))


def _start(comparison: Comparison, optimizer: str) -> TrainState:
    settings, problem, optimizers, _ = comparison
    networks = [require_init(problem)(init_key(seed)) for seed in settings.seeds]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for params, _ in networks))
    keys = jnp.stack([train_key(seed) for seed in settings.seeds])
    return init_states(params, optimizers[optimizer], keys=keys, model_state=networks[0][1])


def _together(optimizers: list[str], epochs: tuple[Epoch, ...]) -> Any:
    """One epoch of all groups: their states by optimiser, their metrics one group after another."""
    states = {name: epoch.states for name, epoch in zip(optimizers, epochs, strict=True)}
    metrics = {name: np.concatenate([epoch.metrics[name] for epoch in epochs]) for name in epochs[0].metrics}
    return Epoch(epochs[0].epoch, states, metrics)  # type: ignore[arg-type]  # states of several stacks

"""The stage `compare`: train networks side by side with several optimisers, from shared initial parameters.

The members of one optimiser form a group with a training step of its own. The groups advance in turn, and each snapshot
holds all of them, so that they share one distance matrix.
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
from jaxscape.training.train import Epoch, TrainState, init_states, train

PyTree = Any


class Comparison(NamedTuple):
    """Everything needed to train networks side by side: the settings, and the objects that they stand for."""

    settings: CompareSettings
    problem: Problem
    optimizers: Mapping[str, optax.GradientTransformation]
    record: Mapping[str, Any] | None = None  # description of the problem; None for the built-in one


def compare_optimizers(run: Path, comparison: Comparison, *, console: Console) -> None:
    """Train all networks, resume an interrupted call, or find it done.

    The networks of one seed start from the same parameters and see the same batches and augmentations.

    Raises:
        ValueError: for invalid settings, or settings that differ from those of existing trajectories.
        OSError: if the disk is full (complete snapshots remain), or another process is writing to the run folder.
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
                console.print(f"{run}: the trajectories are complete, {recording.store.num_epochs - 1} snapshots")
            else:
                _train_groups(recording, comparison, last, steps, console)


def snapshots(comparison: Comparison) -> tuple[int, int]:
    """Return the number of the last snapshot, and the steps of one pass over the data.

    Raises:
        ValueError: if there would be no snapshot, or the data are not arrays.
    """
    settings = comparison.settings
    steps = steps_per_epoch(comparison.problem, settings.batch_size)
    if steps is None:
        raise ValueError("data must be arrays to train networks side by side, got batches")
    require_init(comparison.problem)
    last = settings.epochs if settings.steps is None else settings.epochs * steps // settings.steps
    if last < 1:
        raise ValueError(f"steps must be at most the steps of all epochs, got {settings.steps}")
    return last, steps


def _train_groups(recording: Recording, comparison: Comparison, last: int, steps: int, console: Console) -> None:
    started = time.monotonic()
    settings, problem, optimizers, _ = comparison
    done, states = recording.resume({name: _start(comparison, name) for name in optimizers})
    if done:
        recording.complete(done, _stack_params(states, optimizers))
    strategy = recording.strategy(settings.strategy)
    groups = {}
    for name, optimizer in optimizers.items():  # if the strategy has to be measured, the first group measures it
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
            strategy=strategy or partial(choose_strategy, [recording.run], console),
        )
        strategy = strategy or recording.run.strategy()
    epochs = map(partial(_merge_epochs, list(groups)), zip(*groups.values(), strict=True))
    title = f"{recording.run.name}: train {len(recording.labels)} networks"
    for epoch in track(
        epochs,
        title=title,
        total=last - done,
        console=console,
        describe=describe_epoch,
        every=10,
        before=int(not done),
    ):
        recording.keep(epoch, _stack_params(epoch.states, optimizers), epoch.epoch * (settings.steps or steps))
    recording.finish(console)
    recording.run.record_seconds("compare", time.monotonic() - started)


def _stack_params(states: Mapping[str, TrainState], names: Iterable[str]) -> PyTree:
    """Return the parameters of all groups as one stack, in the order of `names`, since jax sorts dictionary keys."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(states[name].params for name in names))


def _start(comparison: Comparison, optimizer: str) -> TrainState:
    settings, problem, optimizers, _ = comparison
    networks = [require_init(problem)(init_key(seed)) for seed in settings.seeds]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for params, _ in networks))
    keys = jnp.stack([train_key(seed) for seed in settings.seeds])
    return init_states(params, optimizers[optimizer], keys=keys, model_state=networks[0][1])


def _merge_epochs(optimizers: list[str], epochs: tuple[Epoch, ...]) -> Any:
    """Merge the groups' epochs into one: states by optimiser, metrics concatenated in the order of the groups."""
    states = {name: epoch.states for name, epoch in zip(optimizers, epochs, strict=True)}
    metrics = {name: np.concatenate([epoch.metrics[name] for epoch in epochs]) for name in epochs[0].metrics}
    return Epoch(epochs[0].epoch, states, metrics)  # type: ignore[arg-type]  # states of several stacks

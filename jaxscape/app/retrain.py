"""The stage `retrain`: throw copies away from the minimum, retrain them, keep every epoch.

An epoch's metrics are on disk first, then its full state, then its snapshot counts. Whatever moment the process is
killed at, the same command goes on from the last state and ends in the same bytes.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console

from jaxscape.app.config import RetrainConfig, check_retrain
from jaxscape.app.folder import (
    read_config,
    read_csv,
    read_section,
    record_seconds,
    record_section,
    record_strategy,
    write_csv,
)
from jaxscape.app.problem import Problem, make_loss, make_problem, retrain_key, retrain_optimizer
from jaxscape.app.processes import is_first, wait_for_all
from jaxscape.app.progress import track
from jaxscape.app.resume import delete_states, load_state, save_state
from jaxscape.app.strategy import fastest_strategy
from jaxscape.app.train import Minimum, read_minimum
from jaxscape.jumps.directions import JumpGrid, jump_grid
from jaxscape.jumps.retrain import retrain
from jaxscape.training.members import Update
from jaxscape.training.train import Epoch, TrainState, init_states
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any
Columns = dict[str, np.ndarray]


def retrain_copies(run: Path, config: RetrainConfig, *, console: Console) -> TrajectoryStore:
    """Retrain all copies, go on where an earlier call was interrupted, or read what is there.

    Raises:
        FileNotFoundError: where the run has no minimum.
        ValueError: for a configuration that cannot work, or another one than the kept trajectories were made with.
        OSError: where the disk is full; what was complete stays.
    """
    check_retrain(config)
    minimum = read_minimum(run)
    of_copies = replace(minimum.config, batch_size=config.batch_size, precision=config.precision)
    problem = make_problem(of_copies, eval_size=config.eval_size)
    grid = jump_grid(minimum.params, seeds=config.seeds, step_sizes=config.step_sizes)
    record_section(run, "retrain", config, results=("trajectories",))
    store = _open_store(run, grid)
    with store:
        if store.num_epochs > config.epochs and _metrics_to(run, config.epochs, store.num_members):
            console.print(f"{run}: the trajectories are there, {store.num_epochs - 1} epochs")
        else:
            _retrain(run, config, minimum, problem, grid, store, console)
    return TrajectoryStore.open(store.path)


def diverged_members(metrics: Columns) -> dict[int, int]:
    """Members whose parameters are not finite, and the first epoch in which they are not."""
    bad = metrics["finite"] == 0
    members = np.unique(metrics["member"][bad]).astype(int)
    return {int(m): int(metrics["epoch"][bad & (metrics["member"] == m)].min()) for m in members}


def read_trajectories(run: Path) -> tuple[RetrainConfig, TrajectoryStore]:
    """The configuration and the finished trajectories of a run folder.

    Raises:
        FileNotFoundError: where they are missing or unfinished; says which command makes them.
    """
    asked = read_section(run, "retrain", RetrainConfig)
    command = f"`jaxscape retrain {run}`"
    if asked is None or not (run / "trajectories" / "store.json").exists():
        raise FileNotFoundError(f"{run} has no trajectories; {command} makes them")
    store = TrajectoryStore.open(run / "trajectories")
    if store.num_epochs <= asked.epochs or not (run / "metrics.csv").exists():
        raise FileNotFoundError(
            f"{run} has {max(store.num_epochs - 1, 0)} of {asked.epochs} epochs of retraining; {command} goes on"
        )
    return asked, store


def _open_store(run: Path, grid: JumpGrid) -> TrajectoryStore:
    path = run / "trajectories"
    found = (path / "store.json").exists()
    wait_for_all("looked for trajectories")  # before one of them makes what the others look for
    if found:
        return TrajectoryStore.open(path)
    if is_first():
        delete_states(run / "resume")  # of trajectories that were deleted
    return TrajectoryStore.create(path, grid.labels)


def _retrain(
    run: Path,
    config: RetrainConfig,
    minimum: Minimum,
    problem: Problem,
    grid: JumpGrid,
    store: TrajectoryStore,
    console: Console,
) -> None:
    started = time.monotonic()
    optimizer = retrain_optimizer(config)
    start, done, metrics = _start(run, grid, minimum, optimizer, store.num_epochs)
    epochs = retrain(
        make_loss(problem, minimum.config, augment=config.augmentation),
        optimizer,
        start,
        problem.train,
        epochs=config.epochs,
        key=retrain_key(config),
        model_state=minimum.model_state,
        evaluate=problem.evaluate,
        batch_size=config.batch_size,
        data_order=config.data_order,
        first_epoch=done,
        strategy=_kept_strategy(run, config, store.num_epochs) or partial(_choose_strategy, run, console),
    )
    for epoch in track(
        epochs,
        title=f"{run.name}: retrain {store.num_members} copies",
        total=config.epochs + 1 - done,
        console=console,
        describe=_describe,
    ):
        update = epoch.epoch * problem.steps_per_epoch
        if epoch.epoch not in metrics.get("epoch", ()):
            metrics = _add_rows(metrics, _rows(epoch, grid, update))
            write_csv(run / "metrics.csv", metrics)
        store.wait()  # a state without the snapshots before it could not be gone on from
        save_state(run / "resume", epoch.epoch, epoch.states)
        if epoch.epoch == store.num_epochs:
            store.append(epoch.epoch, epoch.states.params, update=update)
    store.wait()
    record_seconds(run, "retrain", time.monotonic() - started)
    _name_diverged(metrics, grid, console)


def _start(
    run: Path, grid: JumpGrid, minimum: Minimum, optimizer: optax.GradientTransformation, snapshots: int
) -> tuple[JumpGrid | TrainState, int, Columns]:
    """The state that an interrupted run has kept, its epoch and the metrics up to it; else the jumped copies.

    That state is one snapshot ahead of the store at most. Without it, or without its metrics (deleted, say),
    everything is computed again, and what is stored already is not stored twice.
    """
    keys = jax.random.split(jax.random.key(0), len(grid.seed))
    like = init_states(grid.params, optimizer, keys=keys, model_state=minimum.model_state)
    kept = load_state(run / "resume", like)
    if kept is None:
        return grid, 0, {}
    done, states = kept
    metrics = _metrics_to(run, done, len(grid.seed))
    return (states, done, metrics) if metrics and done <= snapshots else (grid, 0, {})


def _kept_strategy(run: Path, config: RetrainConfig, snapshots: int) -> str | None:
    """How the copies run together: as asked, or as these trajectories began; None where neither says."""
    if config.strategy != "auto":
        return config.strategy
    return read_config(run).get("strategy", {}).get("chosen") if snapshots else None


def _choose_strategy(
    run: Path, console: Console, update: Update, states: TrainState, data: PyTree, batches: PyTree
) -> str:
    """The strategy that was the fastest for such work on this machine, written in the run's record."""
    chosen, record, when = fastest_strategy(update, states, data, batches)
    times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in record["seconds_per_step"].items())
    console.print(f"{run}: strategy {chosen} (a step of a copy, {when}: {times or 'no other'})")
    record_strategy(run, record)
    return chosen


def _metrics_to(run: Path, epoch: int, members: int) -> Columns:
    """The rows of all epochs up to this one; nothing where some are missing."""
    if not (run / "metrics.csv").exists():
        return {}
    columns = read_csv(run / "metrics.csv")
    rows = columns["epoch"] <= epoch
    return {name: values[rows] for name, values in columns.items()} if rows.sum() == (epoch + 1) * members else {}


def _rows(epoch: Epoch, grid: JumpGrid, update: int) -> Columns:
    """A row a member: labels, then metrics in a fixed order (those of training are NaN at the start)."""
    members = len(grid.seed)
    blank = {name: np.full(members, np.nan) for name in ("epoch_loss", "epoch_accuracy")}
    labels = {
        "member": np.arange(members),
        "seed": grid.seed,
        "step_size": grid.step_size,
        "epoch": np.full(members, epoch.epoch),
        "update": np.full(members, update),
        "finite": epoch.metrics["finite"].astype(int),
    }
    return labels | {name: values for name, values in sorted((blank | epoch.metrics).items()) if name != "finite"}


def _add_rows(columns: Columns, rows: Columns) -> Columns:
    return {name: np.concatenate([columns[name], rows[name]]) for name in rows} if columns else rows


def _describe(epoch: Epoch) -> str:
    finite = epoch.metrics["finite"]
    lost = "" if finite.all() else f"{(~finite).sum()} diverged"
    loss = f"training loss {np.median(epoch.metrics['train_loss'][finite]):.4f}" if finite.any() else ""
    return ", ".join(filter(None, (loss, lost)))


def _name_diverged(metrics: Columns, grid: JumpGrid, console: Console) -> None:
    for member, epoch in diverged_members(metrics).items():
        name = f"member {member} (seed {grid.seed[member]}, step size {grid.step_size[member]})"
        console.print(f"{name} diverged in epoch {epoch}; it is left out of distances and pictures")

"""The stage `retrain`: throw copies away from the minimum, retrain them, keep every epoch.

The full state of an epoch is on disk before its snapshot counts, and metrics after it. Whatever moment the process
is killed at, the same command goes on from the last state and ends in the same bytes.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from rich.console import Console

from jaxscape.app.config import RetrainConfig, check_retrain, from_record
from jaxscape.app.folder import read_config, read_csv, record_seconds, record_section, write_csv
from jaxscape.app.problem import make_loss, make_problem, retrain_key, retrain_optimizer
from jaxscape.app.progress import track
from jaxscape.app.resume import load_state, save_state
from jaxscape.app.train import Minimum, read_minimum
from jaxscape.jumps.directions import JumpGrid, jump_grid
from jaxscape.jumps.retrain import retrain
from jaxscape.training.train import Epoch, TrainState, init_states
from jaxscape.trajectories.store import TrajectoryStore

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
    grid = jump_grid(minimum.params, seeds=config.seeds, step_sizes=config.step_sizes)
    record_section(run, "retrain", config, results=("trajectories",))
    store = _open_store(run, grid)
    with store:
        if store.num_epochs > config.epochs:
            console.print(f"{run}: the trajectories are there, {store.num_epochs - 1} epochs")
        else:
            _retrain(run, config, minimum, grid, store, console)
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
    config = read_config(run)
    command = f"`jaxscape retrain {run}`"
    if "retrain" not in config or not (run / "trajectories" / "store.json").exists():
        raise FileNotFoundError(f"{run} has no trajectories; {command} makes them")
    asked = from_record(RetrainConfig, config["retrain"])
    store = TrajectoryStore.open(run / "trajectories")
    if store.num_epochs <= asked.epochs:
        raise FileNotFoundError(
            f"{run} has {max(store.num_epochs - 1, 0)} of {asked.epochs} epochs of retraining; {command} goes on"
        )
    return asked, store


def _open_store(run: Path, grid: JumpGrid) -> TrajectoryStore:
    path = run / "trajectories"
    if (path / "store.json").exists():
        return TrajectoryStore.open(path)
    return TrajectoryStore.create(path, grid.labels)


def _retrain(
    run: Path, config: RetrainConfig, minimum: Minimum, grid: JumpGrid, store: TrajectoryStore, console: Console
) -> None:
    problem = make_problem(minimum.config)
    optimizer = retrain_optimizer(config)
    start, done = _start(run / "resume" / "state.npz", grid, minimum, optimizer, store.num_epochs)
    metrics = _metrics_before(run / "metrics.csv", done)
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
        strategy=config.strategy,
    )
    started = time.monotonic()
    for epoch in track(
        epochs,
        title=f"{run.name}: retrain {store.num_members} copies",
        total=config.epochs + 1 - done,
        console=console,
        describe=_describe,
    ):
        update = epoch.epoch * problem.steps_per_epoch
        save_state(run / "resume" / "state.npz", epoch.epoch, epoch.states)
        if epoch.epoch == store.num_epochs:
            store.append(epoch.epoch, epoch.states.params, update=update)
        metrics = _add_rows(metrics, _rows(epoch, grid, update))
        write_csv(run / "metrics.csv", metrics)
    store.wait()
    record_seconds(run, "retrain", time.monotonic() - started)
    _name_diverged(metrics, grid, console)


def _start(
    path: Path, grid: JumpGrid, minimum: Minimum, optimizer: optax.GradientTransformation, snapshots: int
) -> tuple[JumpGrid | TrainState, int]:
    """The jumped copies, or the state that an interrupted run has kept and its epoch.

    That state is one snapshot ahead of the store at most. Without one (deleted, say), or where it belongs to
    trajectories that were deleted, everything is computed again, and what is stored already is not stored twice.
    """
    if not path.exists():
        return grid, 0
    keys = jax.random.split(jax.random.key(0), len(grid.seed))
    like = init_states(grid.params, optimizer, keys=keys, model_state=minimum.model_state)
    done, states = load_state(path, like)
    return (states, done) if done <= snapshots else (grid, 0)


def _metrics_before(path: Path, epoch: int) -> Columns:
    """The rows of earlier epochs; the epoch itself is measured again."""
    if epoch == 0 or not path.exists():
        return {}
    columns = read_csv(path)
    return {name: values[columns["epoch"] < epoch] for name, values in columns.items()}


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
    measured = {name: values for name, values in sorted(epoch.metrics.items()) if name != "finite"}
    rest = dict(sorted((blank | measured).items()))
    return labels | rest


def _add_rows(columns: Columns, rows: Columns) -> Columns:
    return {name: np.concatenate([columns[name], rows[name]]) for name in rows} if columns else rows


def _describe(epoch: Epoch) -> str:
    loss = epoch.metrics["train_loss"]
    lost = "" if epoch.metrics["finite"].all() else f", {(~epoch.metrics['finite']).sum()} diverged"
    return f"training loss {np.nanmedian(loss):.4f}{lost}"


def _name_diverged(metrics: Columns, grid: JumpGrid, console: Console) -> None:
    for member, epoch in diverged_members(metrics).items():
        label: Sequence[object] = (grid.seed[member], grid.step_size[member])
        console.print(
            f"member {member} (seed {label[0]}, step size {label[1]}) diverged in epoch {epoch}; "
            f"it is left out of distances and pictures"
        )

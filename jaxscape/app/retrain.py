"""The stage `retrain`: throw copies away from the minimum, retrain them, keep every epoch.

An epoch's metrics are on disk first, then its full state, then its snapshot counts. Whatever moment the process is
killed at, the same command goes on from the last state and ends in the same bytes.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxscape.app.config import RetrainConfig, TrainConfig, check_retrain
from jaxscape.app.folder import (
    read_config,
    read_csv,
    read_section,
    record_seconds,
    record_section,
    record_strategy,
    write_csv,
)
from jaxscape.app.problem import Problem, make_loss, make_problems, retrain_key, retrain_optimizer
from jaxscape.app.processes import is_first, wait_for_all
from jaxscape.app.progress import track
from jaxscape.app.resume import delete_states, load_state, save_state
from jaxscape.app.strategy import fastest_strategy
from jaxscape.app.train import Minimum, read_minimum
from jaxscape.jumps.directions import JumpGrid, jump_grid
from jaxscape.jumps.retrain import start_states
from jaxscape.training.members import Update
from jaxscape.training.train import Epoch, TrainState, concatenate_states, split_epoch, train
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any
Columns = dict[str, np.ndarray]


class Task(NamedTuple):
    """The retraining of one run folder, as far as it is, and its store, opened."""

    run: Path
    config: RetrainConfig
    minimum: TrainConfig
    problem: Problem
    grid: JumpGrid  # its labels alone
    store: TrajectoryStore
    states: list[TrainState]  # one, after `done` epochs, until it trains: then nothing but the stack of all stays
    done: int
    metrics: Columns  # of the epochs up to there
    strategy: str | None  # as asked, or as its trajectories began

    @property
    def members(self) -> int:
        """How many copies it has."""
        return len(self.grid.seed)


def retrain_copies(configs: Mapping[Path, RetrainConfig], *, console: Console) -> None:
    """Retrain all copies, go on where an earlier call was interrupted, or read what is there.

    Several run folders whose copies take the same steps on the same data (minima of several seeds, say) are retrained
    as one stack; others come one after another.

    Args:
        configs: run folders, each with a minimum, and how its copies are retrained.
        console: where to print.

    Raises:
        FileNotFoundError: where a run has no minimum.
        ValueError: for a configuration that cannot work, or another one than the kept trajectories were made with.
        OSError: where the disk is full; what was complete stays.
    """
    for config in configs.values():
        check_retrain(config)
    minima = {run: read_minimum(run) for run in configs}
    problems = make_problems(
        {
            run: replace(minima[run].config, batch_size=config.batch_size, precision=config.precision)
            for run, config in configs.items()
        },
        eval_sizes={run: config.eval_size for run, config in configs.items()},
    )
    grids = {
        run: jump_grid(minima[run].params, seeds=config.seeds, step_sizes=config.step_sizes)
        for run, config in configs.items()
    }
    for run, config in configs.items():
        record_section(run, "retrain", config, results=("trajectories",))
    with ExitStack() as stores:
        alike: dict[Any, list[Task]] = {}
        for run, config in configs.items():
            store = stores.enter_context(_open_store(run, grids[run]))
            if store.num_epochs > config.epochs and _metrics_to(run, config.epochs, store.num_members):
                console.print(f"{run}: the trajectories are there, {store.num_epochs - 1} epochs")
            else:
                task = _begin(run, config, minima[run], problems[run], grids.pop(run), store)
                alike.setdefault(_step_of(task), []).append(task)
        for tasks in alike.values():
            _retrain(tasks, console)


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


def _begin(
    run: Path, config: RetrainConfig, minimum: Minimum, problem: Problem, grid: JumpGrid, store: TrajectoryStore
) -> Task:
    """The state that an interrupted run has kept, its epoch and the metrics up to it; else the jumped copies.

    That state is one snapshot ahead of the store at most. Without it, or without its metrics (deleted, say),
    everything is computed again, and what is stored already is not stored twice.
    """
    start = start_states(
        grid,
        retrain_optimizer(config),
        key=retrain_key(config),
        model_state=minimum.model_state,
        data_order=config.data_order,
    )
    done, states = load_state(run / "resume", start) or (0, start)
    metrics = _metrics_to(run, done, len(grid.seed))
    if not metrics or done > store.num_epochs:
        done, states, metrics = 0, start, {}
    strategy = _kept_strategy(run, config, store.num_epochs)
    labels = grid._replace(params=())
    return Task(run, config, minimum.config, problem, labels, store, [states], done, metrics, strategy)


def _step_of(task: Task) -> tuple[Any, ...]:
    """What the step of a task's copies follows from, so that tasks with the same one can go together."""
    config = replace(task.config, seeds=(), step_sizes=(), order_seed=0, data_order="", strategy="")
    return (id(task.problem), task.minimum.padding, config, task.done, task.strategy)


def _retrain(tasks: list[Task], console: Console) -> None:
    """The copies of all tasks, which take the same steps, as one stack."""
    started = time.monotonic()
    first, members = tasks[0], sum(task.members for task in tasks)
    config, problem = first.config, first.problem
    epochs = train(
        make_loss(problem, first.minimum, augment=config.augmentation),
        retrain_optimizer(config),
        concatenate_states([task.states.pop() for task in tasks]),
        problem.train,
        epochs=config.epochs,
        evaluate=problem.evaluate,
        batch_size=config.batch_size,
        first_epoch=first.done,
        strategy=first.strategy or partial(_choose_strategy, [task.run for task in tasks], console),
    )
    metrics = {task.run: task.metrics for task in tasks}
    for epoch in track(
        epochs,
        title=f"{', '.join(task.run.name for task in tasks)}: retrain {members} copies",
        total=config.epochs + 1 - first.done,
        console=console,
        describe=_describe,
    ):
        for task, own in zip(tasks, split_epoch(epoch, [task.members for task in tasks]), strict=True):
            metrics[task.run] = _keep(task, own, metrics[task.run], own.epoch * problem.steps_per_epoch)
    for task in tasks:
        task.store.wait()
        record_seconds(task.run, "retrain", (time.monotonic() - started) * task.members / members)
        _name_diverged(metrics[task.run], task.grid, console)


def _keep(task: Task, epoch: Epoch, metrics: Columns, update: int) -> Columns:
    """Put an epoch into the run folder; gives the metrics with its rows."""
    if epoch.epoch not in metrics.get("epoch", ()):
        metrics = _add_rows(metrics, _rows(epoch, task.grid, update))
        write_csv(task.run / "metrics.csv", metrics)
    task.store.wait()  # a state without the snapshots before it could not be gone on from
    save_state(task.run / "resume", epoch.epoch, epoch.states)
    if epoch.epoch == task.store.num_epochs:
        task.store.append(epoch.epoch, epoch.states.params, update=update)
    return metrics


def _kept_strategy(run: Path, config: RetrainConfig, snapshots: int) -> str | None:
    """How the copies run together: as asked, or as these trajectories began; None where neither says."""
    if config.strategy != "auto":
        return config.strategy
    return read_config(run).get("strategy", {}).get("chosen") if snapshots else None


def _choose_strategy(
    runs: list[Path], console: Console, update: Update, states: TrainState, data: PyTree, batches: PyTree
) -> str:
    """The strategy that was the fastest for such work on this machine, written in the runs' records."""
    chosen, record, when = fastest_strategy(update, states, data, batches)
    times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in record["seconds_per_step"].items())
    console.print(f"{runs[0]}: strategy {chosen} (a step of a copy, {when}: {times or 'no other'})")
    for run in runs:
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

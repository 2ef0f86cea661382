"""The stage `retrain`: perturb copies of the minimum, retrain them, store every epoch."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optax
from rich.console import Console

from jaxscape.jumps.directions import JumpGrid, jump_grid
from jaxscape.jumps.retrain import start_states
from jaxscape.problem import Problem
from jaxscape.runs.checks import check_retrain
from jaxscape.runs.config import RetrainSettings
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.keys import retrain_key
from jaxscape.runs.lock import writing
from jaxscape.runs.minimum import Minimum, read_minimum
from jaxscape.runs.progress import name_runs, track
from jaxscape.runs.recording import Recording, Updates, choose_strategy, describe_epoch
from jaxscape.runs.train import steps_per_epoch
from jaxscape.training.train import TrainState, concatenate_states, split_epoch, train


class Retraining(NamedTuple):
    """Everything needed to retrain copies of a minimum: the settings, and the objects that they stand for."""

    settings: RetrainSettings
    problem: Problem
    optimizer: optax.GradientTransformation
    record: Mapping[str, Any] | None = None  # description of the problem; None for the built-in one
    like: tuple[Any, Any] | None = None  # parameters and model state whose structure the minimum takes


class _Task(NamedTuple):
    """The retraining of one run folder, and its progress."""

    recording: Recording
    retraining: Retraining
    # One state, after `done` epochs. A list, so that training can take it out and no second reference keeps its memory.
    states: list[TrainState]
    done: int
    strategy: str | None  # the requested one, or the one that the trajectories began with

    @property
    def run(self) -> RunFolder:
        """The run folder."""
        return self.recording.run

    @property
    def members(self) -> int:
        """The number of copies."""
        return len(self.recording.labels)


def retrain_copies(retrainings: Mapping[Path, Retraining], *, console: Console) -> None:
    """Retrain all copies, resume an interrupted call, or find them done.

    Run folders whose copies take the same steps on the same data, such as minima of several seeds, are retrained as one
    stack; others are retrained one after another.

    Args:
        retrainings: run folders, each with a minimum, and the retraining of its copies. Retrainings that share a
            problem and settings must share an optimiser too.
        console: where to print.

    Raises:
        FileNotFoundError: if a run has no minimum.
        ValueError: for invalid settings, or settings that differ from those of existing trajectories.
        OSError: if the disk is full (complete snapshots remain), or another process is writing to a run folder.
    """
    for retraining in retrainings.values():
        check_retrain(retraining.settings)
        steps_per_epoch(retraining.problem, retraining.settings.batch_size)
    for run, retraining in retrainings.items():
        RunFolder(run).check_problem(retraining.record)
    minima = {run: read_minimum(run, like=retraining.like) for run, retraining in retrainings.items()}
    grids = {run: _grid(minima[run], *retraining[:2]) for run, retraining in retrainings.items()}
    with writing(*retrainings), ExitStack() as opened:
        for run, retraining in retrainings.items():
            RunFolder(run).record_problem(retraining.record)
            RunFolder(run).record_settings("retrain", retraining.settings, results=("trajectories",))
        stacks: dict[Any, list[_Task]] = {}
        for run, retraining in retrainings.items():
            recording = opened.enter_context(Recording(RunFolder(run), grids[run].labels, console))
            if recording.is_finished(retraining.settings.epochs):
                console.print(f"{run}: the trajectories are complete, {recording.store.num_epochs - 1} epochs")
            else:
                task = _begin(recording, retraining, minima[run], grids.pop(run))
                stacks.setdefault(_stack_key(task), []).append(task)
        for tasks in stacks.values():
            _retrain(tasks, console)


def _grid(minimum: Minimum, settings: RetrainSettings, problem: Problem) -> JumpGrid:
    return jump_grid(
        minimum.params,
        seeds=settings.seeds,
        step_sizes=settings.step_sizes,
        controls=settings.num_controls,
        filter_axis=problem.filter_axis,
        where=problem.where,
    )


def _begin(recording: Recording, retraining: Retraining, minimum: Minimum, grid: JumpGrid) -> _Task:
    settings = retraining.settings
    start = start_states(
        grid,
        retraining.optimizer,
        key=retrain_key(settings),
        model_state=minimum.model_state,
        data_order=settings.data_order,
    )
    done, states = recording.resume(start)
    if done:
        recording.complete(done, states.params)
    return _Task(recording, retraining, [states], done, recording.strategy(settings.strategy))


def _stack_key(task: _Task) -> tuple[Any, ...]:
    """Return everything that determines the training step of a task's copies: tasks with equal keys form one stack."""
    settings = replace(
        task.retraining.settings, seeds=(), step_sizes=(), controls=0, order_seed=0, data_order="", strategy=""
    )
    return (id(task.retraining.problem), settings, task.done, task.strategy)


def _retrain(tasks: list[_Task], console: Console) -> None:
    """Retrain the copies of all tasks, which take the same steps, as one stack."""
    started = time.monotonic()
    first, members = tasks[0], sum(task.members for task in tasks)
    settings, problem, optimizer, *_ = first.retraining
    updates = Updates(
        problem.data,
        steps_per_epoch(problem, settings.batch_size),
        done=first.done,
        before=first.recording.updates(first.done),
    )
    epochs = train(
        problem.loss_fn,
        optimizer,
        concatenate_states([task.states.pop() for task in tasks]),
        updates.data,
        epochs=settings.epochs,
        evaluate=problem.evaluate,
        batch_size=settings.batch_size,
        first_epoch=first.done,
        strategy=first.strategy or partial(choose_strategy, [task.run for task in tasks], console),
    )
    controls = sum(task.retraining.settings.num_controls for task in tasks)
    including = f" (incl. {controls} controls)" if controls else ""
    for epoch in track(
        epochs,
        title=f"{name_runs([task.run for task in tasks])}: retrain {members} copies{including}",
        total=settings.epochs - first.done,
        before=int(not first.done),
        console=console,
        describe=describe_epoch,
    ):
        for task, own in zip(tasks, split_epoch(epoch, [task.members for task in tasks]), strict=True):
            task.recording.keep(own, own.states.params, updates.after(own.epoch))
    for task in tasks:
        task.recording.finish(console)
        task.run.record_seconds("retrain", (time.monotonic() - started) * task.members / members)

"""The stage `retrain`: perturb copies of the minimum, retrain them, keep every epoch."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jaxscape.app.config import RetrainConfig, TrainConfig, check_retrain
from jaxscape.app.folder import record_seconds, record_section
from jaxscape.app.lock import writing
from jaxscape.app.problem import Problem, make_loss, make_problems, retrain_key, retrain_optimizer
from jaxscape.app.progress import name_runs, track
from jaxscape.app.recording import Recording, choose_strategy, describe_epoch
from jaxscape.app.train import Minimum, read_minimum
from jaxscape.jumps.directions import JumpGrid, jump_grid
from jaxscape.jumps.retrain import start_states
from jaxscape.training.train import TrainState, concatenate_states, split_epoch, train


class Task(NamedTuple):
    """The retraining of one run folder, as far as it is."""

    recording: Recording
    config: RetrainConfig
    minimum: TrainConfig
    problem: Problem
    states: list[TrainState]  # one, after `done` epochs, until it trains: then nothing but the stack of all stays
    done: int
    strategy: str | None  # as asked, or as its trajectories began

    @property
    def run(self) -> Path:
        """Its folder."""
        return self.recording.run

    @property
    def members(self) -> int:
        """How many copies it has."""
        return len(self.recording.labels)


def retrain_copies(configs: Mapping[Path, RetrainConfig], *, console: Console) -> None:
    """Retrain all copies, resume where an earlier call was interrupted, or find them done.

    Several run folders whose copies take the same steps on the same data (minima of several seeds, say) are retrained
    as one stack; others come one after another.

    Args:
        configs: run folders, each with a minimum, and how its copies are retrained.
        console: where to print.

    Raises:
        FileNotFoundError: where a run has no minimum.
        ValueError: for a configuration that cannot work, or another one than the kept trajectories were made with.
        OSError: where the disk is full (what was complete stays), or another process writes to a run folder.
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
    with writing(*configs), ExitStack() as opened:
        for run, config in configs.items():
            record_section(run, "retrain", config, results=("trajectories",))
        alike: dict[Any, list[Task]] = {}
        for run, config in configs.items():
            recording = opened.enter_context(Recording(run, grids[run].labels, console))
            if recording.is_finished(config.epochs):
                console.print(f"{run}: the trajectories are there, {recording.store.num_epochs - 1} epochs")
            else:
                task = _begin(recording, config, minima[run], problems[run], grids.pop(run))
                alike.setdefault(_step_of(task), []).append(task)
        for tasks in alike.values():
            _retrain(tasks, console)


def _begin(recording: Recording, config: RetrainConfig, minimum: Minimum, problem: Problem, grid: JumpGrid) -> Task:
    start = start_states(
        grid,
        retrain_optimizer(config),
        key=retrain_key(config),
        model_state=minimum.model_state,
        data_order=config.data_order,
    )
    done, states = recording.resume(start)
    return Task(recording, config, minimum.config, problem, [states], done, recording.strategy(config.strategy))


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
        strategy=first.strategy or partial(choose_strategy, [task.run for task in tasks], console),
    )
    for epoch in track(
        epochs,
        title=f"{name_runs([task.run for task in tasks])}: retrain {members} copies",
        total=config.epochs + 1 - first.done,
        console=console,
        describe=describe_epoch,
    ):
        for task, own in zip(tasks, split_epoch(epoch, [task.members for task in tasks]), strict=True):
            task.recording.keep(own, own.states.params, own.epoch * problem.steps_per_epoch)
    for task in tasks:
        task.recording.finish(console)
        record_seconds(task.run, "retrain", (time.monotonic() - started) * task.members / members)

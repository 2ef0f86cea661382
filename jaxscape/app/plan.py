"""The command `plan`: what a run will take, from a few measured steps, before anything of it is started."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jaxscape.app.config import RetrainConfig, TrainConfig, check_retrain, check_train
from jaxscape.app.problem import Problem, make_loss, make_problem, retrain_optimizer, train_optimizer
from jaxscape.app.resume import save_state
from jaxscape.app.strategy import fastest_strategy
from jaxscape.app.train import read_accuracy
from jaxscape.training.choice import DeviceMemory, estimate_memory, num_bytes
from jaxscape.training.members import Update, epoch_runner, map_members, num_workers
from jaxscape.training.train import TrainState, copy_states, init_states, member_update
from jaxscape.trajectories.gram import gram
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

_STEPS = 4  # of a measured turn
_TURNS = 3
_POINTS_BYTES = 2**27  # of the points whose inner products are measured


class Stage(NamedTuple):
    """What a stage takes."""

    name: str
    work: str
    seconds: float
    compile_seconds: float


class Plan(NamedTuple):
    """What a whole run takes."""

    stages: list[Stage]
    devices: int
    strategy: str  # of the copies
    memory: DeviceMemory  # of one device while copies are retrained
    device_bytes: int | None  # what a device has, where it tells
    disk: dict[str, int]  # name in the run folder -> bytes
    free_disk: int

    @property
    def seconds(self) -> float:
        """From the first command to the report."""
        return sum(stage.seconds + stage.compile_seconds for stage in self.stages)


def plan_run(
    run: Path, train: TrainConfig, retrain: RetrainConfig, *, devices: int | None = None, console: Console
) -> Plan:
    """Measure a few steps of everything that takes long and say what the whole takes. The run folder is left alone.

    Args:
        run: where the run is or will be.
        train: of the minimum; not counted where the run has one.
        retrain: of the copies.
        devices: how many of this kind share the copies; those of this process by default.
        console: where to say what is measured.

    Raises:
        ValueError: for a configuration that cannot work, or fewer than one device.
        MemoryError: where not even one copy fits on a device.
    """
    check_train(train)
    check_retrain(retrain)
    if devices is not None and devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    devices = min(devices or jax.device_count(), len(retrain.seeds) * len(retrain.step_sizes))
    stages = []
    with console.status(f"{run.name}: measuring"):
        if not _has_minimum(run):
            stages.append(_plan_training(train))
        of_copies = replace(train, batch_size=retrain.batch_size, precision=retrain.precision)
        problem = make_problem(of_copies, eval_size=retrain.eval_size)
        copies = _Copies(problem, of_copies, retrain, devices)
        with tempfile.TemporaryDirectory(dir=_existing(run)) as folder:  # on the disk that the run will be on
            stages.append(copies.plan(retrain, Path(folder)))
        stages.append(copies.plan_distances(retrain))
        memory = estimate_memory(copies.update, copies.states, problem.train, copies.rows, strategy=copies.strategy)
    state, parameters = num_bytes(copies.states) // copies.on_device, copies.num_parameters
    n = copies.members * (retrain.epochs + 1)
    disk = {
        "minimum": 2 * state,
        "trajectories": 4 * parameters * n,
        "resume": copies.members * state,
        "gram.npz": 2 * 8 * (n + 1) ** 2,
    }
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return Plan(stages, devices, copies.strategy, memory, limit, disk, shutil.disk_usage(_existing(run)).free)


def describe_plan(plan: Plan, *, console: Console) -> None:
    """Print a plan as tables."""
    table = Table(
        title=f"Time on {plan.devices} x {jax.devices()[0].device_kind}", box=SIMPLE_HEAD, title_justify="left"
    )
    for heading, justify in (("", "left"), ("work", "left"), ("run", "right"), ("compile", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for stage in plan.stages:
        table.add_row(stage.name, stage.work, _duration(stage.seconds), _duration(stage.compile_seconds))
    table.add_row("together", "", _duration(plan.seconds), "")
    console.print(table)
    memory = plan.memory
    has = "" if plan.device_bytes is None else f" of {_size(plan.device_bytes)}"
    console.print(
        f"memory of a device while copies are retrained ({plan.strategy}): {_size(memory.total)}{has}; "
        f"states {_size(memory.states)}, data {_size(memory.data)}, program {_size(memory.program)}"
    )
    parts = ", ".join(f"{name} {_size(size)}" for name, size in plan.disk.items())
    console.print(f"disk: {_size(sum(plan.disk.values()))} of {_size(plan.free_disk)} free; {parts}")
    if sum(plan.disk.values()) > plan.free_disk:
        console.print(
            "This disk has too little room. A snapshot is kept for each epoch: fewer epochs or copies take less."
        )


class _Copies:
    """The copies of one device, as they are retrained: what is measured of them."""

    def __init__(self, problem: Problem, config: TrainConfig, retrain: RetrainConfig, devices: int) -> None:
        self.problem, self.devices = problem, devices
        self.members = len(retrain.seeds) * len(retrain.step_sizes)
        self.on_device = -(-self.members // devices)
        loss_fn = make_loss(problem, config, augment=retrain.augmentation)
        self.states, self.rows = _work(problem, config, retrain_optimizer(retrain), self.on_device, retrain.batch_size)
        self.update = member_update(loss_fn, retrain_optimizer(retrain), from_arrays=True)
        self.num_parameters = sum(leaf[0].size for leaf in jax.tree.leaves(self.states.params))
        self.strategy = retrain.strategy
        if self.strategy == "auto":
            self.strategy, *_ = fastest_strategy(self.update, self.states, problem.train, self.rows)

    def plan(self, retrain: RetrainConfig, folder: Path) -> Stage:
        """An epoch is its steps, its evaluation and its state; the snapshot is written while the next one runs."""
        of_steps, compiling = _time_steps(self.update, self.strategy, self.states, self.problem, self.rows)
        networks = (self.states.params, self.states.model_state)
        workers = num_workers(self.strategy)
        evaluate: Callable[[], Any] = lambda: map_members(self.problem.evaluate, *networks, workers=workers)  # noqa: E731
        of_evaluation, compiling_evaluation = _time(evaluate)
        of_state, _ = _time(lambda: save_state(folder, 0, self.states))
        of_snapshot = self._time_snapshot(folder / "store") * self.members / self.on_device
        steps = self.problem.steps_per_epoch
        busy = steps * of_steps + of_evaluation + of_state * self.members / self.on_device
        return Stage(
            "retrain",
            f"{retrain.epochs} epochs of {steps} steps, {self.members} copies, {self.on_device} a device",
            retrain.epochs * max(busy, of_snapshot) + of_evaluation,
            compiling + compiling_evaluation,
        )

    def plan_distances(self, retrain: RetrainConfig) -> Stage:
        """Inner products of all points, from those of some columns; reading is not counted."""
        n = self.members * (retrain.epochs + 1)
        columns = min(_POINTS_BYTES // (4 * n), self.num_parameters)
        points = np.random.default_rng(0).standard_normal((n, columns), np.float32)
        seconds, compiling = _time(lambda: gram(points), turns=1)
        of_half, _ = _time(lambda: gram(points[:, : columns // 2]), turns=1)
        of_column = max(seconds - of_half, 0) / (columns - columns // 2)  # the rest goes once over the products
        return Stage(
            "distances",
            f"{n} points of {self.num_parameters} parameters",
            seconds + (self.num_parameters - columns) * of_column,
            compiling,
        )

    def _time_snapshot(self, path: Path) -> float:
        with TrajectoryStore.create(path, [{"member": member} for member in range(self.on_device)]) as store:
            epochs = iter(range(_TURNS + 1))

            def write() -> None:
                store.append(next(epochs), self.states.params)
                store.wait()

            return _time(write)[0]


def _plan_training(config: TrainConfig) -> Stage:
    problem = make_problem(config)
    optimizer = train_optimizer(problem, config)
    states, rows = _work(problem, config, optimizer, 1, config.batch_size)
    update = member_update(make_loss(problem, config, augment=config.augmentation), optimizer, from_arrays=True)
    of_steps, compiling = _time_steps(update, "loop", states, problem, rows)
    steps = problem.steps_per_epoch
    return Stage("train", f"{config.epochs} epochs of {steps} steps", config.epochs * steps * of_steps, compiling)


def _work(
    problem: Problem, config: TrainConfig, optimizer: optax.GradientTransformation, members: int, batch_size: int
) -> tuple[TrainState, np.ndarray]:
    """States of fresh networks, and rows of data for some steps."""
    params, model_state = problem.init(config.seed)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * members), params)
    states = init_states(stacked, optimizer, keys=jax.random.split(jax.random.key(0), members), model_state=model_state)
    rows = np.random.default_rng(0).integers(0, len(problem.train[1]), (members, _STEPS, batch_size))
    return states, rows.astype(np.int32)


def _time_steps(
    update: Update, strategy: str, states: TrainState, problem: Problem, rows: np.ndarray
) -> tuple[float, float]:
    """Seconds of a step of all these members, and of compiling it."""
    run, mine = epoch_runner(update, strategy=strategy), copy_states(states)

    def turn() -> None:
        nonlocal mine
        mine, _ = run(mine, problem.train, jax.numpy.asarray(rows), 1)
        jax.block_until_ready(mine)

    seconds, compiling = _time(turn)
    return seconds / _STEPS, compiling


def _time(work: Callable[[], Any], *, turns: int = _TURNS) -> tuple[float, float]:
    """The median of some turns, and how much longer the first one took, in which things are compiled."""
    times = []
    for _ in range(turns + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    usual = statistics.median(times[1:])
    return usual, max(times[0] - usual, 0.0)


def _has_minimum(run: Path) -> bool:
    try:
        read_accuracy(run)
    except FileNotFoundError:
        return False
    return True


def _existing(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def _size(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"

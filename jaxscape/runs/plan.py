"""The command `plan`: what a run will take, from a few measured steps, before anything of it is started."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jaxscape.problem import Problem
from jaxscape.runs.checks import check_compare, check_retrain, check_train
from jaxscape.runs.compare import Comparison, snapshots
from jaxscape.runs.keys import init_key
from jaxscape.runs.minimum import read_accuracy
from jaxscape.runs.path import MakeAxes
from jaxscape.runs.plan_landscape import LandscapePlan, MeasurementConfig, check_landscape, plan_landscape
from jaxscape.runs.resume import save_state
from jaxscape.runs.retrain import Retraining
from jaxscape.runs.strategy import fastest_strategy
from jaxscape.runs.timing import TURNS, Stage, time_work
from jaxscape.runs.train import Training, steps_per_epoch
from jaxscape.training.choice import DeviceMemory, estimate_memory, num_bytes
from jaxscape.training.members import Update, epoch_runner, map_members, num_members, num_workers
from jaxscape.training.train import TrainState, copy_states, init_states, member_update
from jaxscape.trajectories.gram import gram
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

_STEPS = 4  # of a measured turn
_POINTS_BYTES = 2**27  # of the points whose inner products are measured


class Plan(NamedTuple):
    """What a whole run takes."""

    stages: list[Stage]
    devices: int
    strategy: str  # of the copies
    memory: DeviceMemory  # of one device while copies are retrained
    device_bytes: int | None  # what a device has, where it tells
    disk: dict[str, int]  # name in the run folder -> bytes
    free_disk: int
    landscape: LandscapePlan = LandscapePlan([], {}, {})  # which comes after the report, and is not counted there

    @property
    def seconds(self) -> float:
        """From the first command to the report."""
        return sum(stage.seconds + stage.compile_seconds for stage in self.stages)


def plan_run(
    run: Path,
    training: Training | None,
    retraining: Retraining,
    *,
    devices: int | None = None,
    landscape: Sequence[MeasurementConfig] = (),
    axes: MakeAxes | None = None,
    console: Console,
) -> Plan:
    """Measure a few steps of everything that takes long and say what the whole takes. The run folder is left alone.

    Args:
        run: where the run is or will be.
        training: of the minimum; not counted where the run has one.
        retraining: of the copies.
        devices: how many of this kind share the copies; those of this process by default.
        landscape: measurements of the landscape to plan beside them, on the devices of this process.
        axes: of a path, as `measure_path` takes them.
        console: where to say what is measured.

    Raises:
        ValueError: for settings that cannot work, or fewer than one device.
        MemoryError: where not even one copy fits on a device.
    """
    if training is not None:
        check_train(training.settings)
    settings = retraining.settings
    check_retrain(settings)
    check_landscape(landscape)
    if devices is not None and devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    members = settings.num_copies
    devices = min(devices or jax.device_count(), members)
    stages = []
    with console.status(f"{run.name}: measuring"):
        if training is not None and not has_minimum(run):
            stages.append(_plan_training(training))
        stack = _make_stack(
            retraining.problem,
            retraining.optimizer,
            batch_size=settings.batch_size,
            members=members,
            devices=devices,
            strategy=settings.strategy,
        )
        stages.append(_plan_epochs(run, stack, settings.epochs, stack.steps_per_epoch, name="retrain", who="copies"))
        points = stack.members * (settings.epochs + 1)
        stages.append(_plan_distances(points, stack.num_parameters))
        memory = _memory(stack)
        minimum = retraining if training is None else training
        measured = plan_landscape(
            minimum.problem, landscape, settings, train_batch=minimum.settings.batch_size, axes=axes
        )
    disk = {"minimum": 2 * stack.state_bytes, **_disk([stack], points)}
    return Plan(stages, devices, stack.strategy, memory, _device_bytes(), disk, _free_disk(run), measured)


def plan_comparison(run: Path, comparison: Comparison, *, console: Console) -> Plan:
    """The same for networks that several optimisers train side by side, on the devices of this process.

    Raises:
        As `plan_run`.
    """
    settings = comparison.settings
    check_compare(settings)
    devices = min(jax.local_device_count(), len(settings.seeds))
    last, a_pass = snapshots(comparison)
    every = settings.steps or a_pass
    unit = "snapshots" if settings.steps else "epochs"
    stages, stacks = list[Stage](), list[_Stack]()
    with console.status(f"{run.name}: measuring"):
        for name, optimizer in comparison.optimizers.items():
            stack = _make_stack(
                comparison.problem,
                optimizer,
                batch_size=settings.batch_size,
                members=len(settings.seeds),
                devices=devices,
                strategy=stacks[0].strategy if stacks else settings.strategy,  # as they do: the first measures
            )
            stages.append(_plan_epochs(run, stack, last, every, name=name, who="networks", unit=unit))
            stacks.append(stack)
        points = sum(stack.members for stack in stacks) * (last + 1)
        stages.append(_plan_distances(points, stacks[0].num_parameters))
        memory = max((_memory(stack) for stack in stacks), key=lambda each: each.total)
    return Plan(stages, devices, stacks[0].strategy, memory, _device_bytes(), _disk(stacks, points), _free_disk(run))


def describe_plan(plan: Plan, *, console: Console) -> None:
    """Print a plan as tables."""
    table = _table(f"Time on {plan.devices} x {jax.devices()[0].device_kind}", plan.stages)
    table.add_row("together", "", _duration(plan.seconds), "")
    console.print(table)
    memory = plan.memory
    has = "" if plan.device_bytes is None else f" of {_size(plan.device_bytes)}"
    console.print(
        f"memory of a device while copies are retrained ({plan.strategy}): {_size(memory.total)}{has}; "
        f"states {_size(memory.states)}, data {_size(memory.data)}, program {_size(memory.program)}"
    )
    parts = _sizes(plan.disk)
    console.print(f"disk: {_size(sum(plan.disk.values()))} of {_size(plan.free_disk)} free; {parts}")
    if sum(plan.disk.values()) > plan.free_disk:
        console.print(
            "This disk has too little room. A snapshot is kept for each epoch: fewer epochs or copies take less."
        )
    _describe_landscape(plan.landscape, console)


def _describe_landscape(plan: LandscapePlan, console: Console) -> None:
    """Print what the landscape takes where it is measured, which no other stage needs."""
    if plan.stages:
        title = f"Then, where it is asked for, on {jax.local_device_count()} x {jax.devices()[0].device_kind}"
        console.print(_table(title, plan.stages))
        console.print(f"disk: {_sizes(plan.disk)}")
    for name, reason in plan.refused.items():
        console.print(f"{name} cannot be measured: {reason}")


def _table(title: str, stages: Sequence[Stage]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for heading, justify in (("", "left"), ("work", "left"), ("run", "right"), ("compile", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for stage in stages:
        table.add_row(stage.name, stage.work, _duration(stage.seconds), _duration(stage.compile_seconds))
    return table


class _Stack(NamedTuple):
    """The members of one device, as they run: what is measured of them."""

    problem: Problem
    update: Update
    states: TrainState
    rows: np.ndarray  # of data, for some steps
    strategy: str
    members: int  # on all devices
    steps_per_epoch: int

    @property
    def on_device(self) -> int:
        """How many there are here."""
        return num_members(self.states.params)

    @property
    def num_parameters(self) -> int:
        """Of one member."""
        return sum(leaf[0].size for leaf in jax.tree.leaves(self.states.params))

    @property
    def state_bytes(self) -> int:
        """Of one member."""
        return num_bytes(self.states) // self.on_device


def _make_stack(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    members: int,
    devices: int,
    strategy: str,
) -> _Stack:
    steps = steps_per_epoch(problem, batch_size)
    if steps is None or problem.init is None:
        raise ValueError("a plan needs a problem whose data are arrays, and its init: key -> (params, model_state)")
    states, rows = _work(problem, optimizer, -(-members // devices), batch_size)
    update = member_update(problem.loss_fn, optimizer, from_arrays=True)
    if strategy == "auto":
        strategy, *_ = fastest_strategy(update, states, problem.data, rows)
    return _Stack(problem, update, states, rows, strategy, members, steps)


def _plan_epochs(
    run: Path, stack: _Stack, epochs: int, steps: int, *, name: str, who: str, unit: str = "epochs"
) -> Stage:
    """An epoch is its steps, its evaluation and its state; the snapshot is written while the next one runs."""
    of_steps, compiling = _time_steps(stack.update, stack.strategy, stack.states, stack.problem, stack.rows)
    networks = (stack.states.params, stack.states.model_state)
    workers = num_workers(stack.strategy)
    of_evaluation = compiling_evaluation = 0.0
    if (evaluate := stack.problem.evaluate) is not None:
        of_evaluation, compiling_evaluation = time_work(lambda: map_members(evaluate, *networks, workers=workers))
    devices = stack.members / stack.on_device
    with tempfile.TemporaryDirectory(dir=_existing(run)) as folder:  # on the disk that the run will be on
        of_state, _ = time_work(lambda: save_state(Path(folder), 0, stack.states))
        of_snapshot = _time_snapshot(Path(folder) / "store", stack) * devices
    busy = steps * of_steps + of_evaluation + of_state * devices
    return Stage(
        name,
        f"{epochs} {unit} of {steps} steps, {stack.members} {who}, {stack.on_device} a device",
        epochs * max(busy, of_snapshot) + of_evaluation,
        compiling + compiling_evaluation,
    )


def _time_snapshot(path: Path, stack: _Stack) -> float:
    with TrajectoryStore.create(path, [{"member": member} for member in range(stack.on_device)]) as store:
        epochs = iter(range(TURNS + 1))

        def write() -> None:
            store.append(next(epochs), stack.states.params)
            store.wait()

        return time_work(write)[0]


def _plan_distances(n: int, num_parameters: int) -> Stage:
    """Inner products of all points, from those of some columns; reading is not counted."""
    columns = min(_POINTS_BYTES // (4 * n), num_parameters)
    points = np.random.default_rng(0).standard_normal((n, columns), np.float32)
    seconds, compiling = time_work(lambda: gram(points), turns=1)
    of_half, _ = time_work(lambda: gram(points[:, : columns // 2]), turns=1)
    of_column = max(seconds - of_half, 0) / (columns - columns // 2)  # the rest goes once over the products
    return Stage(
        "distances",
        f"{n} points of {num_parameters} parameters",
        seconds + (num_parameters - columns) * of_column,
        compiling,
    )


def _memory(stack: _Stack) -> DeviceMemory:
    return estimate_memory(stack.update, stack.states, stack.problem.data, stack.rows, strategy=stack.strategy)


def _device_bytes() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def _disk(stacks: list[_Stack], points: int) -> dict[str, int]:
    return {
        "trajectories": 4 * stacks[0].num_parameters * points,
        "resume": sum(stack.members * stack.state_bytes for stack in stacks),
        "gram.npz": 2 * 8 * (points + 1) ** 2,
    }


def _free_disk(run: Path) -> int:
    return shutil.disk_usage(_existing(run)).free


def _plan_training(training: Training) -> Stage:
    settings = training.settings
    stack = _make_stack(
        training.problem, training.optimizer, batch_size=settings.batch_size, members=1, devices=1, strategy="loop"
    )
    of_steps, compiling = _time_steps(stack.update, "loop", stack.states, stack.problem, stack.rows)
    work = f"{settings.epochs} epochs of {stack.steps_per_epoch} steps"
    return Stage("train", work, settings.epochs * stack.steps_per_epoch * of_steps, compiling)


def _work(
    problem: Problem, optimizer: optax.GradientTransformation, members: int, batch_size: int
) -> tuple[TrainState, np.ndarray]:
    """States of fresh networks, and rows of data for some steps."""
    assert problem.init is not None  # as checked
    params, model_state = problem.init(init_key(0))
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * members), params)
    states = init_states(stacked, optimizer, keys=jax.random.split(jax.random.key(0), members), model_state=model_state)
    rows = np.random.default_rng(0).integers(0, num_members(problem.data), (members, _STEPS, batch_size))
    return states, rows.astype(np.int32)


def _time_steps(
    update: Update, strategy: str, states: TrainState, problem: Problem, rows: np.ndarray
) -> tuple[float, float]:
    """Seconds of a step of all these members, and of compiling it."""
    run, mine = epoch_runner(update, strategy=strategy), copy_states(states)

    def turn() -> None:
        nonlocal mine
        mine, _ = run(mine, problem.data, jax.numpy.asarray(rows), 1)
        jax.block_until_ready(mine)

    seconds, compiling = time_work(turn)
    return seconds / _STEPS, compiling


def has_minimum(run: Path) -> bool:
    """Return whether a run folder has a finished minimum."""
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


def _sizes(disk: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_size(size)}" for name, size in disk.items())


def _size(size: int) -> str:
    if size < 1e6:
        return f"{size / 1e3:.3g} kB"
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"

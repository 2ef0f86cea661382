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

_STEPS = 4  # training steps per timed repetition
_POINTS_BYTES = 2**27  # size of the points whose Gram matrix is timed


class Plan(NamedTuple):
    """Estimated time, memory and disk space of a whole run."""

    stages: list[Stage]
    devices: int
    strategy: str  # execution strategy of the copies
    memory: DeviceMemory  # memory of one device during retraining
    device_bytes: int | None  # total memory of a device, if it reports it
    disk: dict[str, int]  # name in the run folder -> bytes
    free_disk: int
    landscape: LandscapePlan = LandscapePlan([], {}, {})  # measured after the report; not part of `seconds` and `disk`

    @property
    def seconds(self) -> float:
        """Seconds from the first command to the report."""
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
    """Time a few steps of each expensive stage and extrapolate to the whole run. The run folder is not changed.

    Args:
        run: the run folder, an existing or a future one.
        training: the training of the minimum; not counted if the run has a minimum.
        retraining: the retraining of the copies.
        devices: number of devices of this kind that the copies are sharded over; those of this process by default.
        landscape: measurements of the landscape to plan too, on the devices of this process.
        axes: axes for a path, see `measure_path`.
        console: where to print the progress.

    Raises:
        ValueError: for invalid settings, or fewer than one device.
        MemoryError: if not even one copy fits on a device.
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
        landscape_plan = plan_landscape(
            minimum.problem, landscape, settings, train_batch=minimum.settings.batch_size, axes=axes
        )
    disk = {"minimum": 2 * stack.state_bytes, **_disk([stack], points)}
    return Plan(stages, devices, stack.strategy, memory, _device_bytes(), disk, _free_disk(run), landscape_plan)


def plan_comparison(run: Path, comparison: Comparison, *, console: Console) -> Plan:
    """Plan the training of networks side by side with several optimisers, on the devices of this process.

    Raises:
        See `plan_run`.
    """
    settings = comparison.settings
    check_compare(settings)
    devices = min(jax.local_device_count(), len(settings.seeds))
    last, steps_per_pass = snapshots(comparison)
    every = settings.steps or steps_per_pass
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
                strategy=stacks[0].strategy
                if stacks
                else settings.strategy,  # as in the run, the first group measures it
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
    table.add_row("total", "", _duration(plan.seconds), "")
    console.print(table)
    memory = plan.memory
    has = "" if plan.device_bytes is None else f" of {_size(plan.device_bytes)}"
    console.print(
        f"memory per device during retraining ({plan.strategy}): {_size(memory.total)}{has}; "
        f"states {_size(memory.states)}, data {_size(memory.data)}, program {_size(memory.program)}"
    )
    parts = _sizes(plan.disk)
    console.print(f"disk: {_size(sum(plan.disk.values()))} of {_size(plan.free_disk)} free; {parts}")
    if sum(plan.disk.values()) > plan.free_disk:
        console.print(
            "The disk has too little free space. One snapshot is stored per epoch: fewer epochs or copies take less."
        )
    _describe_landscape(plan.landscape, console)


def _describe_landscape(plan: LandscapePlan, console: Console) -> None:
    """Print the plan of the measurements of the landscape, which are optional."""
    if plan.stages:
        title = f"Then, if requested, on {jax.local_device_count()} x {jax.devices()[0].device_kind}"
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
    """The members of one device, and what is needed to time their training steps."""

    problem: Problem
    update: Update
    states: TrainState
    rows: np.ndarray  # rows of the data for some steps, int32 [member, step, batch]
    strategy: str
    members: int  # number of members on all devices
    steps_per_epoch: int

    @property
    def on_device(self) -> int:
        """The number of members on one device."""
        return num_members(self.states.params)

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one member."""
        return sum(leaf[0].size for leaf in jax.tree.leaves(self.states.params))

    @property
    def state_bytes(self) -> int:
        """The size of the training state of one member."""
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
        raise ValueError("a plan requires a problem with arrays as data, and with init: key -> (params, model_state)")
    states, rows = _sample_work(problem, optimizer, -(-members // devices), batch_size)
    update = member_update(problem.loss_fn, optimizer, from_arrays=True)
    if strategy == "auto":
        strategy, *_ = fastest_strategy(update, states, problem.data, rows)
    return _Stack(problem, update, states, rows, strategy, members, steps)


def _plan_epochs(
    run: Path, stack: _Stack, epochs: int, steps: int, *, name: str, who: str, unit: str = "epochs"
) -> Stage:
    """Estimate some epochs: steps, evaluation and saving the state; the snapshot is written during the next epoch."""
    step_seconds, compiling = _time_steps(stack.update, stack.strategy, stack.states, stack.problem, stack.rows)
    networks = (stack.states.params, stack.states.model_state)
    workers = num_workers(stack.strategy)
    evaluation_seconds = compiling_evaluation = 0.0
    if (evaluate := stack.problem.evaluate) is not None:
        evaluation_seconds, compiling_evaluation = time_work(lambda: map_members(evaluate, *networks, workers=workers))
    devices = stack.members / stack.on_device
    with tempfile.TemporaryDirectory(dir=_existing(run)) as folder:  # on the disk of the run
        state_seconds, _ = time_work(lambda: save_state(Path(folder), 0, stack.states))
        snapshot_seconds = _time_snapshot(Path(folder) / "store", stack) * devices
    busy_seconds = steps * step_seconds + evaluation_seconds + state_seconds * devices
    return Stage(
        name,
        f"{epochs} {unit} of {steps} steps, {stack.members} {who}, {stack.on_device} per device",
        epochs * max(busy_seconds, snapshot_seconds) + evaluation_seconds,
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
    """Estimate the Gram matrix of all points from that of some columns; reading is not counted."""
    columns = min(_POINTS_BYTES // (4 * n), num_parameters)
    points = np.random.default_rng(0).standard_normal((n, columns), np.float32)
    seconds, compiling = time_work(lambda: gram(points), turns=1)
    half_seconds, _ = time_work(lambda: gram(points[:, : columns // 2]), turns=1)
    # The difference is the cost per column; the remainder is a fixed cost per entry of the matrix.
    column_seconds = max(seconds - half_seconds, 0) / (columns - columns // 2)
    return Stage(
        "distances",
        f"{n} points of {num_parameters} parameters",
        seconds + (num_parameters - columns) * column_seconds,
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
    step_seconds, compiling = _time_steps(stack.update, "loop", stack.states, stack.problem, stack.rows)
    work = f"{settings.epochs} epochs of {stack.steps_per_epoch} steps"
    return Stage("train", work, settings.epochs * stack.steps_per_epoch * step_seconds, compiling)


def _sample_work(
    problem: Problem, optimizer: optax.GradientTransformation, members: int, batch_size: int
) -> tuple[TrainState, np.ndarray]:
    """Return states of fresh networks, and rows of data for some steps."""
    assert problem.init is not None  # checked by the caller
    params, model_state = problem.init(init_key(0))
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * members), params)
    states = init_states(stacked, optimizer, keys=jax.random.split(jax.random.key(0), members), model_state=model_state)
    rows = np.random.default_rng(0).integers(0, num_members(problem.data), (members, _STEPS, batch_size))
    return states, rows.astype(np.int32)


def _time_steps(
    update: Update, strategy: str, states: TrainState, problem: Problem, rows: np.ndarray
) -> tuple[float, float]:
    """Return the seconds of one step of all these members, and the seconds of its compilation."""
    run, current = epoch_runner(update, strategy=strategy), copy_states(states)

    def turn() -> None:
        nonlocal current
        current, _ = run(current, problem.data, jax.numpy.asarray(rows), 1)
        jax.block_until_ready(current)

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
    """Return the folder, or its nearest parent that exists."""
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

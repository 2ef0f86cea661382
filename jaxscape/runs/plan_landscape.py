"""What the stages `surface`, `curvature` and `path` will take, from a few evaluations, products and training steps.

They are measured at fresh networks, which take as long as any others, and on the first examples alone: on one full
batch and one as large as the last, since each shape of a batch is a program of its own.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape.curvature.products import TOGETHER, kind_points, products
from jaxscape.curvature.spectrum import GRID, lanczos
from jaxscape.landscape.matching import match_units
from jaxscape.landscape.paths import connect_epochs
from jaxscape.landscape.points import points_evaluator
from jaxscape.problem import Problem
from jaxscape.runs.checks import check_curvature, check_path, check_surface
from jaxscape.runs.config import RetrainSettings
from jaxscape.runs.curvature import points_at_once
from jaxscape.runs.keys import init_key, path_key, probe_key
from jaxscape.runs.landscape_config import SPLITS, CurvatureConfig, MeasurementSettings, PathConfig, SurfaceConfig
from jaxscape.runs.path import MakeAxes
from jaxscape.runs.timing import TURNS, Stage, time_work
from jaxscape.runs.train import steps_per_epoch
from jaxscape.training.choice import num_bytes
from jaxscape.training.members import num_members, stack_members

PyTree = Any
type MeasurementConfig = SurfaceConfig | CurvatureConfig | PathConfig

_STEPS = 4  # of a curve's training, in a measured epoch
_LABELS = 5  # numbers beside the coordinates of a point of a trajectory: member, seed, step size, epoch, update


class LandscapePlan(NamedTuple):
    """What measurements of the landscape take."""

    stages: list[Stage]
    disk: dict[str, int]  # name in the run folder -> bytes
    refused: dict[str, str]  # stage -> why this problem has no such measurement


def check_landscape(configs: Sequence[MeasurementConfig]) -> None:
    """Refuse settings that cannot work, before any work.

    Raises:
        TypeError, ValueError: names the setting, its value and what is allowed.
    """
    for config in configs:
        match config:
            case SurfaceConfig():
                check_surface(config)
            case CurvatureConfig():
                check_curvature(config)
            case PathConfig():
                check_path(config)


def plan_landscape(
    problem: Problem,
    configs: Sequence[MeasurementConfig],
    copies: RetrainSettings,
    *,
    train_batch: int,
    axes: MakeAxes | None = None,
) -> LandscapePlan:
    """Measure a part of each measurement of the landscape, and say what the whole takes on this process's devices.

    Args:
        problem: of the minimum; with `init`, and data that are arrays.
        configs: the measurements, one a stage, as `check_landscape` passes them.
        copies: how copies are retrained, which says how many trajectories there will be.
        train_batch: examples a step of the minimum's training, which a curve is trained with by default.
        axes: of `path`, as `measure_path` takes them.
    """
    plan = LandscapePlan([], {}, {})
    for config in configs:
        try:
            match config:
                case SurfaceConfig():
                    name, (stage, disk) = "surfaces", _plan_surface(problem, config, copies)
                case CurvatureConfig():
                    name, (stage, disk) = "curvature", _plan_curvature(problem, config, copies)
                case PathConfig():
                    name, (stage, disk) = "paths", _plan_path(problem, config, train_batch, axes)
        except (ValueError, MemoryError) as error:
            plan.refused[type(config).__name__.removesuffix("Config").lower()] = str(error)
        else:
            plan.stages.append(stage)
            plan.disk[name] = disk
    return plan


def _plan_surface(problem: Problem, config: SurfaceConfig, copies: RetrainSettings) -> tuple[Stage, int]:
    along = config.seeds if config.plane == "filter" else config.axes
    points = config.points ** len(along)
    work, evaluations, numbers = f"{points} points", points, 0
    metrics, seconds, compiling = _time_point(problem, config, config.statistics)
    if config.plane == "trajectory":
        trajectories = _num_trajectories(copies)
        chosen = trajectories * len({*range(0, copies.epochs + 1, config.every), copies.epochs})
        work += f", and {chosen} of the trajectories with the plane under each"
        evaluations += 2 * chosen
        numbers = trajectories * (copies.epochs + 1) * (_LABELS + len(along) + 1) + chosen * (1 + 2 * metrics)
    disk = 8 * (points * metrics + config.points * len(along) + numbers)
    return Stage("surface", work, evaluations * seconds, compiling), disk


def _plan_curvature(problem: Problem, config: CurvatureConfig, copies: RetrainSettings) -> tuple[Stage, int]:
    points = 1 + (0 if config.at == "minimum" else _num_trajectories(copies))
    kind, together = points_at_once(config, points)
    split: Any = SPLITS[config.split]
    part, scale = _shortened(problem, config.batch_size, split)
    params, model_state = _fresh(problem)
    several = {
        "model_state": stack_members([model_state] * together),
        "strategy": f"threads:{together}" if kind == "threads" else kind,
    }
    of: Any = {"split": split, "batch_size": config.batch_size, "leaves": config.leaves or None}
    of |= several if together > 1 else {"model_state": model_state}
    at = kind_points(config.matrix, part, stack_members([params] * together) if together > 1 else params, of)
    size, key = at.layout.dimension, probe_key(config.seed)
    steps = min(config.steps, size)
    probes = max(2 * config.probes, 2)
    of_trace = size if size <= 2 * probes else 2 * probes
    in_lanczos = min(2, steps)

    def take_steps() -> None:
        """The first steps of Lanczos, on a basis of full size."""
        at.map(lambda point: lanczos(point, config.matrix, key, steps, until=(1, 1), tolerance=1e30).diagonal)

    side_by_side = 1 if jax.default_backend() == "cpu" else TOGETHER

    def multiply() -> None:
        """Products of given vectors, as eigenpairs and traces take them."""
        at.map(
            lambda point: np.asarray(
                products(point, config.matrix, jnp.ones((point.members, side_by_side, size), jnp.float32))
            )
        )

    of_steps, compiling_steps = time_work(take_steps, turns=1)
    of_products, compiling_products = time_work(multiply, turns=1)
    # An eigenpair more than asked: the lowest one.
    seconds = config.probes * steps * of_steps / in_lanczos + (config.k + 1 + of_trace) * of_products / side_by_side
    number = config.probes * steps + config.k + 1 + of_trace
    work = f"{number} products a point, {points} point{'s' if points > 1 else ''}"
    disk = 8 * points * (2 * GRID + 2 * config.k + 7)
    whole = scale * seconds * points / together
    return Stage("curvature", work, whole, compiling_steps + compiling_products), disk


def _plan_path(problem: Problem, config: PathConfig, train_batch: int, axes: MakeAxes | None) -> tuple[Stage, int]:
    """A curve's training, the ways that are evaluated, and the matching of two networks that are not alike."""
    batch_size = config.train_batch or train_batch
    steps = steps_per_epoch(problem, batch_size)
    assert steps is not None  # data are arrays, as checked
    (a, model_state), (b, state_of_b) = _fresh(problem), _fresh(problem, seed=1)
    part = replace(problem, data=_first(problem.data, _STEPS * batch_size))
    curves = connect_epochs(
        part,
        [(a, b)],
        key=path_key(config.seed),
        kind=config.kind,
        bends=config.bends,
        model_state=model_state,
        optimizer=optax.adam(config.learning_rate),
        epochs=1 + TURNS,
        batch_size=batch_size,
    )
    (start,) = next(curves)
    of_epoch, compiling = time_work(lambda: next(curves))
    metrics, of_point, compiling_point = _time_point(problem, config, "recalibrated")
    ways, matching = 2, 0.0
    if axes is not None:
        ways, started = 3, time.perf_counter()
        match_units(a, b, axes(b, state_of_b), key=path_key(config.seed), model_state=state_of_b)
        matching = time.perf_counter() - started
    training = config.epochs * steps * of_epoch / min(steps, _STEPS)
    stage = Stage(
        "path",
        f"{config.epochs} epochs of {steps} steps, {ways} x {config.points} points",
        training + ways * config.points * of_point + matching,
        compiling + compiling_point,
    )
    # The state of the training is deleted at the end.
    return stage, num_bytes(start.state) + 8 * (config.epochs + config.points * (1 + ways * metrics))


def _time_point(problem: Problem, config: MeasurementSettings, statistics: Any) -> tuple[int, float, float]:
    """The number of metrics, the seconds that a point of a surface or line takes, and those of compiling it."""
    split: Any = SPLITS[config.split]
    params, model_state = _fresh(problem)
    data, of_data = _shortened(problem, config.batch_size, "train")
    test, of_test = _shortened(data, config.batch_size, "test") if split == "test" else (data, 1.0)

    def of_one(statistics: Any) -> tuple[str, int, float, float]:
        started = time.perf_counter()
        evaluator = points_evaluator(
            test,
            [params],
            model_state=model_state,
            statistics=statistics,
            split=split,
            batch_size=config.batch_size,
            strategy=config.strategy,
        )
        setting_up = time.perf_counter() - started  # compiles the training step that tells the statistics
        number, found = evaluator.at_once, dict[str, Any]()

        def evaluate() -> None:
            for _, values in evaluator.chunks(np.ones((number, 1)), number):
                found.update(values)

        seconds, compiling = time_work(evaluate)
        return evaluator.statistics, len(found), seconds / number, setting_up + compiling

    resolved, metrics, seconds, compiling = of_one(statistics)
    of_split = {"train": of_data, "test": of_test}.get(split, 1.0 if problem.evaluate is not None else of_data)
    if resolved != "recalibrated" or of_split == of_data:
        return metrics, of_split * seconds, compiling
    # Statistics are those of the training data, and the metrics of others.
    _, _, evaluating, _ = of_one("kept")
    return metrics, of_split * evaluating + of_data * max(seconds - evaluating, 0), compiling


def _shortened(problem: Problem, batch_size: int, split: Any) -> tuple[Problem, float]:
    """A problem with one full batch and the last one of its data, and how many times more data there are."""
    data = problem.test_data if split == "test" else problem.data
    if data is None:
        raise ValueError("split 'test' needs a problem with test_data; this one has none")
    examples = num_members(data)
    number = min(examples, batch_size + examples % batch_size)
    short = _first(data, number)
    return (replace(problem, test_data=short) if split == "test" else replace(problem, data=short)), examples / number


def _first(data: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:number], data)


def _fresh(problem: Problem, *, seed: int = 0) -> tuple[PyTree, PyTree]:
    assert problem.init is not None  # as checked
    params, model_state = problem.init(init_key(seed))
    return params, model_state


def _num_trajectories(copies: RetrainSettings) -> int:
    """Those that are measured: the controls are not."""
    return copies.num_copies - copies.num_controls

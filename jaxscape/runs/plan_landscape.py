"""Time and disk space of the stages `surface`, `curvature` and `path`, estimated from a few measured operations.

Evaluations, Hessian products and training steps are timed on fresh networks, which cost the same as trained ones, and
on the first examples only: one full batch and one of the size of the last batch, since each batch shape is compiled
separately.
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
from jaxscape.landscape.planes import filter_plane
from jaxscape.landscape.points import points_evaluator
from jaxscape.problem import Problem
from jaxscape.runs.checks import check_curvature, check_path, check_surface
from jaxscape.runs.config import RetrainSettings
from jaxscape.runs.curvature import points_at_once
from jaxscape.runs.keys import init_key, path_key, probe_key
from jaxscape.runs.landscape_config import SPLITS, CurvatureConfig, MeasurementSettings, PathConfig, SurfaceConfig
from jaxscape.runs.path import MakeAxes, curve_batch
from jaxscape.runs.timing import TURNS, Stage, time_work
from jaxscape.runs.train import steps_per_epoch
from jaxscape.training.choice import num_bytes
from jaxscape.training.members import num_members, stack_members

PyTree = Any
type MeasurementConfig = SurfaceConfig | CurvatureConfig | PathConfig

_STEPS = 4  # steps of a curve's training per measured epoch
_LABELS = 5  # numbers stored with the coordinates of a trajectory's point: member, seed, step size, epoch, update


class LandscapePlan(NamedTuple):
    """Time and disk space of measurements of the landscape."""

    stages: list[Stage]
    disk: dict[str, int]  # name in the run folder -> bytes
    refused: dict[str, str]  # stage -> why it is impossible for this problem


def check_landscape(configs: Sequence[MeasurementConfig]) -> None:
    """Raise an error for invalid settings.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
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
    """Time a part of each measurement of the landscape, and extrapolate to the whole on this process's devices.

    Args:
        problem: the problem of the minimum, with `init` and with arrays as data.
        configs: the measurements, at most one per stage, which `check_landscape` has accepted.
        copies: the settings of retraining, which determine the number of trajectories.
        train_batch: batch size of the minimum's training, the default for training a curve.
        axes: axes for `path`, see `measure_path`.
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
    started = time.perf_counter()
    params, _ = _fresh(problem)
    vectors: list[PyTree] = [params] * (1 + len(along))
    if config.plane == "filter":
        plane = filter_plane(params, seeds=config.seeds, filter_axis=problem.filter_axis, where=problem.where)
        vectors = list(plane.vectors)
    setting_up = time.perf_counter() - started  # normalising the directions compiles a program per shape
    metrics, seconds, compiling = _time_point(problem, config, config.statistics, vectors)
    if config.plane == "trajectory":
        trajectories = _num_trajectories(copies)
        evaluated = trajectories * len({*range(0, copies.epochs + 1, config.every), copies.epochs})
        work += f", and {evaluated} points of trajectories with their projections"
        evaluations += 2 * evaluated
        numbers = trajectories * (copies.epochs + 1) * (_LABELS + len(along) + 1) + evaluated * (1 + 2 * metrics)
    disk = 8 * (points * metrics + config.points * len(along) + numbers)
    return Stage("surface", work, evaluations * seconds, setting_up + compiling), disk


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
    options: Any = {"split": split, "batch_size": config.batch_size, "leaves": config.leaves or None}
    options |= several if together > 1 else {"model_state": model_state}
    at = kind_points(config.matrix, part, stack_members([params] * together) if together > 1 else params, options)
    size, key = at.layout.dimension, probe_key(config.seed)
    steps = min(config.steps, size)
    probes = max(2 * config.probes, 2)
    trace_products = size if size <= 2 * probes else 2 * probes
    timed_steps = min(2, steps)

    def take_steps() -> None:
        """Run the first Lanczos steps, with a basis of full size."""
        at.map(lambda point: lanczos(point, config.matrix, key, steps, until=(1, 1), tolerance=1e30).diagonal)

    side_by_side = 1 if jax.default_backend() == "cpu" else TOGETHER

    def multiply() -> None:
        """Compute products with given vectors, as eigenpairs and traces need them."""
        at.map(
            lambda point: np.asarray(
                products(point, config.matrix, jnp.ones((point.members, side_by_side, size), jnp.float32))
            )
        )

    step_seconds, compiling_steps = time_work(take_steps, turns=1)
    product_seconds, compiling_products = time_work(multiply, turns=1)
    # One eigenpair more than requested: the lowest one.
    lanczos_seconds = config.probes * steps * step_seconds / timed_steps
    seconds = lanczos_seconds + (config.k + 1 + trace_products) * product_seconds / side_by_side
    number = config.probes * steps + config.k + 1 + trace_products
    work = f"{number} products per point, {points} point{'s' if points > 1 else ''}"
    disk = 8 * points * (2 * GRID + 2 * config.k + 7)
    whole = scale * seconds * points / together
    return Stage("curvature", work, whole, compiling_steps + compiling_products), disk


def _plan_path(problem: Problem, config: PathConfig, train_batch: int, axes: MakeAxes | None) -> tuple[Stage, int]:
    """Estimate the training of a curve, the evaluation of the paths, and the matching of two different networks."""
    batch_size = curve_batch(problem, config, train_batch)
    steps = steps_per_epoch(problem, batch_size)
    assert steps is not None  # data are arrays, as checked
    (a, model_state), (b, b_state) = _fresh(problem), _fresh(problem, seed=1)
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
    epoch_seconds, compiling = time_work(lambda: next(curves))
    metrics, point_seconds, compiling_point = _time_point(problem, config, "recalibrated", [a, b])
    ways, matching = 2, 0.0
    if axes is not None:
        ways, started = 3, time.perf_counter()
        match_units(a, b, axes(b, b_state), key=path_key(config.seed), model_state=b_state)
        matching = time.perf_counter() - started
    training = config.epochs * steps * epoch_seconds / min(steps, _STEPS)
    stage = Stage(
        "path",
        f"{config.epochs} epochs of {steps} steps, {ways} x {config.points} points",
        training + ways * config.points * point_seconds + matching,
        compiling + compiling_point,
    )
    # The state of the training is deleted at the end.
    return stage, num_bytes(start.state) + 8 * (config.epochs + config.points * (1 + ways * metrics))


def _time_point(
    problem: Problem, config: MeasurementSettings, statistics: Any, vectors: Sequence[PyTree]
) -> tuple[int, float, float]:
    """Return the number of metrics, the seconds per weighted sum of some vectors, and the compilation seconds."""
    split: Any = SPLITS[config.split]
    _, model_state = _fresh(problem)
    data, data_scale = _shortened(problem, config.batch_size, "train")
    test, test_scale = _shortened(data, config.batch_size, "test") if split == "test" else (data, 1.0)

    def time_one(statistics: Any) -> tuple[str, int, float, float]:
        started = time.perf_counter()
        evaluator = points_evaluator(
            test,
            vectors,
            model_state=model_state,
            statistics=statistics,
            split=split,
            batch_size=config.batch_size,
            strategy=config.strategy,
        )
        setting_up = time.perf_counter() - started  # compiles the training step that measures the statistics
        number, metrics = evaluator.at_once, dict[str, Any]()
        weights = np.zeros((number, len(vectors)))
        weights[:, 0] = 1  # the first vector is a network, whose losses are finite

        def evaluate() -> None:
            for _, values in evaluator.chunks(weights, number):
                metrics.update(values)

        seconds, compiling = time_work(evaluate)
        return evaluator.statistics, len(metrics), seconds / number, setting_up + compiling

    resolved, metrics, seconds, compiling = time_one(statistics)
    split_scale = {"train": data_scale, "test": test_scale}.get(
        split, 1.0 if problem.evaluate is not None else data_scale
    )
    if resolved != "recalibrated" or split_scale == data_scale:
        return metrics, split_scale * seconds, compiling
    # The statistics are measured on the training data, but the metrics on other data.
    _, _, evaluating, _ = time_one("kept")
    return metrics, split_scale * evaluating + data_scale * max(seconds - evaluating, 0), compiling


def _shortened(problem: Problem, batch_size: int, split: Any) -> tuple[Problem, float]:
    """Return the problem with one full batch and one of the size of the last, and the ratio of all data to these."""
    data = problem.test_data if split == "test" else problem.data
    if data is None:
        raise ValueError("split 'test' requires a problem with test_data; this one has none")
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
    """Return the number of trajectories that are measured, which excludes the controls."""
    return copies.num_copies - copies.num_controls

"""The stage `curvature`: eigenvalues, trace and spectral density at a minimum, and at its copies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxscape.curvature.spectrum import hessian_spectrum
from jaxscape.curvature.traces import trace
from jaxscape.landscape.chunks import fewer_at_once
from jaxscape.runs.checks import check_curvature
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import read_partial, write_partial
from jaxscape.runs.keys import probe_key
from jaxscape.runs.landscape_config import SPLITS, CurvatureConfig
from jaxscape.runs.landscape_stage import (
    Place,
    inputs_of,
    is_up_to_date,
    keeping,
    measured_loss,
    measurement_folder,
    read_place,
    read_source,
)
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.progress import progress
from jaxscape.runs.sources import Source
from jaxscape.training.members import parse_evaluation, stack_members
from jaxscape.training.statistics import recalibration

PyTree = Any

# Points per program for "vmap" without a number; fewer if these do not fit into memory. Each point needs its own basis
# of Lanczos vectors, and an interrupted measurement loses up to one stack.
AT_ONCE = 8


def measure_curvature(run: Path, config: CurvatureConfig, own: OwnProblem, *, console: Console) -> Path:
    """Measure the curvature of a run, resume an interrupted measurement, or find it done.

    The running statistics of batch norm are recalibrated at every point. The strategy measures several points together,
    and results are saved after each group of points.

    Args:
        run: a run folder with a minimum, and with finished trajectories to measure at the copies.
        config: the matrix, the points and the accuracy.
        own: the problem of the run.
        console: where to print the progress.

    Returns:
        The folder of the result. values.npz has one row per point, the minimum first: eigenvalues, residuals and lowest
        [point, k], trace and trace_error [point], grid and density [point, 1000], and the labels of the copies.

    Raises:
        FileNotFoundError: if the run has no minimum, or no finished trajectories.
        ValueError: for an invalid setting.
        OSError: if the run folder cannot be written to.
    """
    check_curvature(config)
    run = RunFolder(run)
    if not run.kind.has_minimum:
        raise ValueError(f"curvature is measured at a minimum, but {run} has none")
    place = read_place(run, own)
    source = read_source(run) if config.at != "minimum" else None
    rows = [-1, *([] if source is None else source.shown)]  # the minimum first
    loss = measured_loss(place.problem, config, place.minimum, place.model_state, statistics="recalibrated")
    inputs = inputs_of(
        config, own, loss, minimum=place.checksum, trajectories=None if source is None else run.fingerprint()
    )
    folder = measurement_folder(run.curvature, config.name, loss, inputs)
    if is_up_to_date(run, "curvature", folder, inputs, console):
        return folder
    with keeping(run, "curvature", folder, inputs, console) as keep:
        values = _measure_all(folder, inputs, config, place, rows, source, f"{run.name}: curvature", console)
        columns = {"column:member": np.array(rows)}
        if source is not None:
            labels = [source.store.labels[member] for member in rows[1:]]
            columns |= {
                f"column:{name}": np.array([0, *(label[name] for label in labels)]) for name in ("seed", "step_size")
            }
        keep(
            values | columns,
            eigenvalues=values["eigenvalues"][0],
            residuals=values["residuals"][0],
            lowest=values["lowest"][0],
            trace=float(values["trace"][0]),
            trace_error=float(values["trace_error"][0]),
            split=config.split,
            **loss.numbers(),
        )
    return folder


def points_at_once(config: CurvatureConfig, points: int) -> tuple[str, int]:
    """Return how several points are measured together, "loop", "threads" or "vmap", and how many at a time."""
    kind, number = parse_evaluation(config.strategy, jax.local_devices()[0].platform, stack=AT_ONCE)
    return kind, min(number, points)


def _measure_all(
    folder: Path,
    inputs: dict[str, Any],
    config: CurvatureConfig,
    place: Place,
    rows: Sequence[int],
    source: Source | None,
    title: str,
    console: Console,
) -> dict[str, np.ndarray]:
    """Measure the curvature at each point that an interrupted call has not measured; save after every group."""
    recalibrated = recalibration(place.problem, place.minimum, place.model_state, batch_size=config.batch_size)
    kind, size = points_at_once(config, len(rows))
    done = read_partial(folder, inputs)
    first = len(done["trace"]) if done else 0
    if first:
        console.print(f"{title}: {first} of {len(rows)} points are measured already")
    with progress(title=title, total=len(rows), console=console, first=first) as show:
        while first < len(rows):
            group = rows[first : first + size]
            # The last stack is padded, so that it runs the same program and rounds like the others.
            padded = [*group, *([group[-1]] * (size - len(group) if kind == "vmap" else 0))]
            params = [_params(config, place, row, source) for row in padded]
            states = [recalibrated(each, place.model_state) for each in params]
            try:
                measured = measure_points(config, place, params, states, strategy=kind)
            except jax.errors.JaxRuntimeError as error:
                size = fewer_at_once(error, size)
                continue
            measured = {name: values[: len(group)] for name, values in measured.items()}
            done = {name: np.concatenate([done[name], each]) if done else each for name, each in measured.items()}
            write_partial(folder, done, inputs)
            first += len(group)
            show(first, f"largest eigenvalue {done['eigenvalues'][-1][0]:.4g}")
    return done


def _params(config: CurvatureConfig, place: Place, member: int, source: Source | None) -> PyTree:
    if source is None or member < 0:
        return place.minimum
    store = source.store
    epoch = 0 if config.at == "starts" else store.num_epochs - 1
    params = store.read(epoch, member, like=place.like)
    return jax.tree.map(lambda leaf: leaf[0, 0], params)


def measure_points(
    config: CurvatureConfig,
    place: Place,
    params: Sequence[PyTree],
    model_states: Sequence[PyTree],
    *,
    strategy: str,
) -> dict[str, np.ndarray]:
    """Return the curvature of some networks as float64 arrays [point, ...] by name; `measure_curvature` lists them.

    Args:
        config: the settings of the measurement.
        place: the place, for its problem.
        params: the parameters of each network.
        model_states: the model state of each network.
        strategy: how several networks run: "loop", "threads" (all at the same time) or "vmap" (all in one program).
    """
    number = len(params)
    several = number > 1  # a stack of one would be a different program than a single network
    options: Any = {
        "model_state": stack_members(list(model_states)) if several else model_states[0],
        "split": SPLITS[config.split],
        "batch_size": config.batch_size,
        "leaves": config.leaves or None,
        "key": probe_key(config.seed),
        "kind": config.matrix,
        "strategy": (f"threads:{number}" if strategy == "threads" else strategy) if several else None,
    }
    at = stack_members(list(params)) if several else params[0]
    spectrum = hessian_spectrum(place.problem, at, k=config.k, num_steps=config.steps, probes=config.probes, **options)
    traced = trace(place.problem, at, probes=max(2 * config.probes, 2), **options)
    assert spectrum.density is not None
    results = {
        "eigenvalues": spectrum.eigenvalues,
        "residuals": spectrum.residuals,
        "lowest": spectrum.lowest.values,
        "trace": traced.value,
        "trace_error": traced.standard_error,
        "grid": spectrum.density.grid,
        "density": spectrum.density.values,
        "width": spectrum.density.width,
    }
    arrays = {name: np.asarray(values, np.float64) for name, values in results.items()}
    return arrays if several else {name: values[None] for name, values in arrays.items()}

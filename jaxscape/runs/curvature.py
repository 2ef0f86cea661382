"""The stage `curvature`: eigenvalues, trace and spectral density of the loss at a minimum, and at its copies."""

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
from jaxscape.runs.landscape_stage import Place, is_there, keeping, made_of, read_place, read_source
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.progress import progress
from jaxscape.runs.sources import Source
from jaxscape.training.members import num_workers, parse_evaluation, stack_members
from jaxscape.training.statistics import recalibration

PyTree = Any

# Points in one program where "vmap" comes without a number; fewer where these do not fit. Each holds its own basis of
# Lanczos vectors, and what an interrupted measurement loses is a stack.
AT_ONCE = 8


def measure_curvature(run: Path, config: CurvatureConfig, own: OwnProblem, *, console: Console) -> Path:
    """Measure the curvature of a run, resume an interrupted measurement, or find it done.

    Running statistics (batch norm) are measured anew at every point. Several points are measured together by the
    strategy, and what is finished is kept after each group of them.

    Args:
        run: a run folder with a minimum; with finished trajectories for that of the copies.
        config: of which matrix, where, and how exactly.
        own: the problem of the run.
        console: where to say how far it is.

    Returns:
        The folder of the result. values.npz has a row per point, the minimum first: eigenvalues, residuals and lowest
        [point, k], trace and trace_error [point], grid and density [point, 1000], and the columns of the copies.

    Raises:
        FileNotFoundError: where the run has no minimum, or no finished trajectories.
        ValueError: for a setting that cannot work.
        OSError: where the run folder cannot be written to.
    """
    check_curvature(config)
    run = RunFolder(run)
    if not run.kind.has_minimum:
        raise ValueError(f"curvature is measured at a minimum, and {run} has none")
    place = read_place(run, own)
    source = read_source(run) if config.at != "minimum" else None
    rows = [-1, *([] if source is None else source.shown)]  # the minimum first
    made = made_of(config, own, minimum=place.checksum, trajectories=None if source is None else run.fingerprint())
    folder = run.curvature / config.name
    if is_there(run, "curvature", folder, made, console):
        return folder
    with keeping(run, "curvature", folder, made, console) as keep:
        found = _points(folder, made, config, place, rows, source, f"{run.name}: curvature", console)
        columns = {"column:member": np.array(rows)}
        if source is not None:
            labels = [source.store.labels[member] for member in rows[1:]]
            columns |= {
                f"column:{name}": np.array([0, *(label[name] for label in labels)]) for name in ("seed", "step_size")
            }
        keep(
            found | columns,
            eigenvalues=found["eigenvalues"][0],
            residuals=found["residuals"][0],
            lowest=found["lowest"][0],
            trace=float(found["trace"][0]),
            trace_error=float(found["trace_error"][0]),
            statistics="recalibrated",
            split=config.split,
        )
    return folder


def points_at_once(config: CurvatureConfig, points: int) -> tuple[str, int]:
    """Return how several points are measured together, "loop", "threads" or "vmap", and how many of them."""
    kind, number = parse_evaluation(config.strategy, jax.local_devices()[0].platform)
    at_once = {"loop": 1, "threads": num_workers("threads"), "vmap": AT_ONCE}[kind]
    return kind, min(number or at_once, points)


def _points(
    folder: Path,
    made: dict[str, Any],
    config: CurvatureConfig,
    place: Place,
    rows: Sequence[int],
    source: Source | None,
    title: str,
    console: Console,
) -> dict[str, np.ndarray]:
    """The curvature at each point, what an interrupted call had among it; it is kept after every group of points."""
    again = recalibration(place.problem, place.minimum, place.model_state, batch_size=config.batch_size)
    kind, size = points_at_once(config, len(rows))
    done = read_partial(folder, made)
    first = len(done["trace"]) if done else 0
    if first:
        console.print(f"{title}: {first} of {len(rows)} points are there")
    with progress(title=title, total=len(rows), console=console, first=first) as say:
        while first < len(rows):
            group = rows[first : first + size]
            # A stack is filled up, so that the last one is the same program, and rounds as the others.
            filled = [*group, *([group[-1]] * (size - len(group) if kind == "vmap" else 0))]
            params = [_params(config, place, row, source) for row in filled]
            states = [again(each, place.model_state) for each in params]
            try:
                found = measure_points(config, place, params, states, strategy=kind)
            except jax.errors.JaxRuntimeError as error:
                size = fewer_at_once(error, size)
                continue
            found = {name: values[: len(group)] for name, values in found.items()}
            done = {name: np.concatenate([done[name], each]) if done else each for name, each in found.items()}
            write_partial(folder, done, made)
            first += len(group)
            say(first, f"largest eigenvalue {done['eigenvalues'][-1][0]:.4g}")
    return done


def _params(config: CurvatureConfig, place: Place, member: int, source: Source | None) -> PyTree:
    if source is None or member < 0:
        return place.minimum
    store = source.store
    epoch = 0 if config.at == "starts" else store.num_epochs - 1
    found = store.read(epoch, member, like=place.like)
    return jax.tree.map(lambda leaf: leaf[0, 0], found)


def measure_points(
    config: CurvatureConfig,
    place: Place,
    params: Sequence[PyTree],
    model_states: Sequence[PyTree],
    *,
    strategy: str,
) -> dict[str, np.ndarray]:
    """Return the curvature of some networks, arrays float64 [point, ...] by name; `measure_curvature` lists them.

    Args:
        config: what is measured.
        place: whose problem it is.
        params: of each network; likewise
        model_states: its model state.
        strategy: of several: "loop", "threads" (all of them at the same time) or "vmap" (all in one program).
    """
    number = len(params)
    several = number > 1  # a stack of one would be another program than that of one network
    of: Any = {
        "model_state": stack_members(list(model_states)) if several else model_states[0],
        "split": SPLITS[config.split],
        "batch_size": config.batch_size,
        "leaves": config.leaves or None,
        "key": probe_key(config.seed),
        "kind": config.matrix,
        "strategy": (f"threads:{number}" if strategy == "threads" else strategy) if several else None,
    }
    at = stack_members(list(params)) if several else params[0]
    spectrum = hessian_spectrum(place.problem, at, k=config.k, num_steps=config.steps, probes=config.probes, **of)
    traced = trace(place.problem, at, probes=max(2 * config.probes, 2), **of)
    assert spectrum.density is not None
    found = {
        "eigenvalues": spectrum.eigenvalues,
        "residuals": spectrum.residuals,
        "lowest": spectrum.lowest.values,
        "trace": traced.value,
        "trace_error": traced.standard_error,
        "grid": spectrum.density.grid,
        "density": spectrum.density.values,
        "width": spectrum.density.width,
    }
    arrays = {name: np.asarray(values, np.float64) for name, values in found.items()}
    return arrays if several else {name: values[None] for name, values in arrays.items()}

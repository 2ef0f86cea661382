"""The stage `curvature`: eigenvalues, trace and spectral density of the loss at a minimum, and at its copies."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxscape.curvature.spectrum import hessian_spectrum
from jaxscape.curvature.traces import trace
from jaxscape.runs.checks import check_curvature
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import find_kept, read_partial, write_kept, write_partial
from jaxscape.runs.keys import probe_key
from jaxscape.runs.landscape_config import SPLITS, CurvatureConfig
from jaxscape.runs.lock import writing
from jaxscape.runs.minimum import checksum, plain
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.progress import track
from jaxscape.runs.sources import Source
from jaxscape.runs.surface import Place, read_place, read_source
from jaxscape.training.statistics import recalibration

PyTree = Any


def measure_curvature(run: Path, config: CurvatureConfig, own: OwnProblem, *, console: Console) -> Path:
    """Measure the curvature of a run, resume an interrupted measurement, or find it done.

    Running statistics (batch norm) are measured anew at every point.

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
    made_of = {
        "setting": asdict(config) | {"strategy": None},
        "problem": own.record(),
        "minimum": checksum(plain(place.minimum, place.model_state)),
        "trajectories": None if source is None else run.fingerprint(),
    }
    folder = run.curvature / config.name
    if find_kept(folder, made_of) is not None:
        console.print(f"{run}: curvature {config.name} is there")
        return folder
    started = time.monotonic()
    with writing(run, wait=console):
        rows = [-1, *([] if source is None else source.shown)]  # the minimum first
        again = recalibration(place.problem, place.minimum, place.model_state, batch_size=config.batch_size)
        done = read_partial(folder, made_of)
        first = len(done["trace"]) if done else 0
        if first:
            console.print(f"{run.name}: {first} of {len(rows)} points are there")
        points = track(
            range(first, len(rows)),
            title=f"{run.name}: curvature",
            total=len(rows) - first,
            console=console,
            describe=lambda point: _describe(done, point),
        )
        # `track` passes a point on before it is measured; what it says is of the one before.
        for point in points:
            params = _params(config, place, rows[point], source)
            found = _measure(config, place, params, again(params, place.model_state))
            done = {name: np.concatenate([done[name], each]) if done else each for name, each in found.items()}
            write_partial(folder, done, made_of)
        numbers = {
            "eigenvalues": done["eigenvalues"][0],
            "residuals": done["residuals"][0],
            "lowest": done["lowest"][0],
            "trace": float(done["trace"][0]),
            "trace_error": float(done["trace_error"][0]),
            "statistics": "recalibrated",
            "split": config.split,
        }
        columns = {"column:member": np.array(rows)}
        if source is not None:
            labels = [source.store.labels[member] for member in rows[1:]]
            columns |= {
                f"column:{name}": np.array([0, *(label[name] for label in labels)]) for name in ("seed", "step_size")
            }
        write_kept(folder, done | columns, made_of, **numbers)
        run.record_seconds("curvature", time.monotonic() - started)
    return folder


def _params(config: CurvatureConfig, place: Place, member: int, source: Source | None) -> PyTree:
    if source is None or member < 0:
        return place.minimum
    store = source.store
    epoch = 0 if config.at == "starts" else store.num_epochs - 1
    found = store.read(epoch, member, like=place.like)
    return jax.tree.map(lambda leaf: leaf[0, 0], found)


def _measure(config: CurvatureConfig, place: Place, params: PyTree, model_state: PyTree) -> dict[str, np.ndarray]:
    of: Any = {
        "model_state": model_state,
        "split": SPLITS[config.split],
        "batch_size": config.batch_size,
        "leaves": config.leaves or None,
        "key": probe_key(config.seed),
        "kind": config.matrix,
    }
    spectrum = hessian_spectrum(place.problem, params, k=config.k, num_steps=config.steps, probes=config.probes, **of)
    traced = trace(place.problem, params, probes=max(2 * config.probes, 2), **of)
    assert spectrum.density is not None
    found = {
        "eigenvalues": spectrum.eigenvalues,
        "residuals": spectrum.residuals,
        "lowest": spectrum.lowest.values,
        "trace": np.asarray(traced.value),
        "trace_error": np.asarray(traced.standard_error),
        "grid": spectrum.density.grid,
        "density": spectrum.density.values,
        "width": spectrum.density.width,
    }
    return {name: np.asarray(values, np.float64)[None] for name, values in found.items()}


def _describe(done: dict[str, np.ndarray], point: int) -> str:
    return f"largest eigenvalue {done['eigenvalues'][-1][0]:.4g}" if done else ""

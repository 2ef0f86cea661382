"""The stage `surface`: the loss on a line or a plane, and a run's trajectories projected onto it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxscape.landscape.planes import Plane, filter_plane, principal_shares, random_walk_shares, trajectory_plane
from jaxscape.landscape.projections import Projection, project_on_plane, trajectory_on_plane
from jaxscape.landscape.surfaces import Surface, surface
from jaxscape.runs.checks import check_surface
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import read_partial, write_partial
from jaxscape.runs.landscape_config import SPLITS, SurfaceConfig
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
from jaxscape.runs.measure import measure, perturbed
from jaxscape.runs.null import nulls_of
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.progress import progress
from jaxscape.runs.sources import Source

SECONDS_BETWEEN_PARTS = 20  # an interruption loses at most this much of a surface

# Prefixes of the names of metrics among the arrays of a surface: on the grid, at the points of trajectories, and at the
# projections of these points onto the plane.
GRID = "grid:"
OF_POINTS, UNDER_POINTS = "points:", "under:"


def measure_surface(run: Path, config: SurfaceConfig, own: OwnProblem, *, console: Console) -> Path:
    """Evaluate the loss on a line or a plane of a run, resume an interrupted evaluation, or find it done.

    Args:
        run: a run folder with a minimum, or with finished trajectories.
        config: the plane and its resolution.
        own: the problem of the run.
        console: where to print the progress.

    Returns:
        The folder of the surface: values.npz and record.json.

    Raises:
        FileNotFoundError: if the run has no minimum, or no finished trajectories.
        ValueError: for an invalid setting.
        OSError: if the run folder cannot be written to.
    """
    check_surface(config)
    run = RunFolder(run)
    has_trajectories = config.plane == "trajectory"
    if not has_trajectories and not run.kind.has_minimum:
        raise ValueError(f"plane filter requires a minimum, but {run} has none; use --plane trajectory")
    place = read_place(run, own)
    source = read_source(run) if has_trajectories else None
    fingerprint = run.fingerprint() if has_trajectories else None
    params = place.like if place.minimum is None else place.minimum
    loss = measured_loss(place.problem, config, params, place.model_state, statistics=config.statistics)
    inputs = inputs_of(config, own, loss, minimum=place.checksum, trajectories=fingerprint)
    folder = measurement_folder(run.surfaces, config.name, loss, inputs)
    if is_up_to_date(run, "surface", folder, inputs, console):
        return folder
    # Before the lock is taken, since this may write tables.
    null_shares = _null_shares(run, console) if has_trajectories else np.zeros(0)
    with keeping(run, "surface", folder, inputs, console) as keep:
        with console.status(f"{run.name}: the plane"):
            plane, projection = _plane(config, place, source)
        x, y = _ranges(config, plane, projection)
        options: Any = {
            "model_state": place.model_state,
            "statistics": config.statistics,
            "split": SPLITS[config.split],
            "batch_size": config.batch_size,
            "strategy": config.strategy,
        }
        grid = _grid(folder, inputs, place, plane, x, y, options, f"{run.name} {config.name}", console)
        values = {"x": x, **({} if y is None else {"y": y})}
        values |= {GRID + name: each for name, each in grid.metrics.items()}
        if source is not None and projection is not None:
            values |= _trajectories(config, place, plane, projection, source, options, f"{run.name} points", console)
        keep(values, **loss.numbers() | _numbers(plane, grid, null_shares))
    return folder


def _numbers(plane: Plane, grid: Surface, null_shares: np.ndarray) -> dict[str, Any]:
    """Return the summary numbers in the record of a surface."""
    numbers: dict[str, Any] = {
        "statistics": grid.statistics,
        "split": grid.split,
        "kind": plane.kind,
        "axis_names": plane.axis_names,
        "metrics": sorted(grid.metrics),
        "lowest": {name: _extreme(np.nanmin, each) for name, each in grid.metrics.items()},
        "highest": {name: _extreme(np.nanmax, each) for name, each in grid.metrics.items()},
        "not_finite": {name: int(np.sum(~np.isfinite(each))) for name, each in grid.metrics.items()},
    }
    if plane.shares is not None:
        numbers["shares"] = plane.shares[:10]
        numbers["random_walk_shares"] = random_walk_shares(len(plane.shares) + 1)[:10]
        numbers["null_shares"] = null_shares[:10]
    return numbers


def _plane(config: SurfaceConfig, place: Place, source: Source | None) -> tuple[Plane, Projection | None]:
    if source is None:
        problem = place.problem
        plane = filter_plane(place.minimum, seeds=config.seeds, filter_axis=problem.filter_axis, where=problem.where)
        return plane, None
    members = source.shown
    plane = trajectory_plane(source.store, axes=config.axes, reference=place.minimum, members=members, like=place.like)
    return plane, project_on_plane(plane, source.store, members=members)


def _ranges(config: SurfaceConfig, plane: Plane, projection: Projection | None) -> tuple[np.ndarray, np.ndarray | None]:
    if projection is None:
        ends = np.array([[-config.reach, config.reach]] * plane.num_axes)
    else:  # the range includes the origin, which is the minimum or the mean
        lowest = np.minimum(projection.coordinates.min(axis=0), 0)
        highest = np.maximum(projection.coordinates.max(axis=0), 0)
        margin = config.reach * (highest - lowest).max()
        ends = np.stack([lowest - margin, highest + margin], axis=1)
    x, *y = (np.linspace(low, high, config.points) for low, high in ends)
    return x, y[0] if y else None


def _grid(
    folder: Path,
    inputs: dict[str, Any],
    place: Place,
    plane: Plane,
    x: np.ndarray,
    y: np.ndarray | None,
    options: Any,
    title: str,
    console: Console,
) -> Surface:
    """Evaluate the metrics on the grid, except where an interrupted call has done so already."""
    part = read_partial(folder, inputs)
    done = None
    if part:
        metrics = {name.removeprefix(GRID): part[name] for name in part if name.startswith(GRID)}
        done = Surface(x, y, metrics, part["done"], str(part["statistics"]), str(part["split"]) or None)
        console.print(f"{title}: {int(done.done.sum())} points are evaluated already")
    points = len(x) * (1 if y is None else len(y))
    first = 0 if done is None else int(done.done.sum())
    written = time.monotonic()

    def save(partial: Surface) -> None:
        nonlocal written
        show(int(partial.done.sum()), "")
        if time.monotonic() - written > SECONDS_BETWEEN_PARTS:
            grids = {GRID + name: each for name, each in partial.metrics.items()}
            names = {"statistics": np.array(partial.statistics), "split": np.array(partial.split or "")}
            write_partial(folder, grids | names | {"done": partial.done}, inputs)
            written = time.monotonic()

    with progress(title=title, total=points, console=console, every=max(1, points // 10), first=first) as show:
        return surface(place.problem, plane, x, y, done=done, on_rows=save, **options)


def _trajectories(
    config: SurfaceConfig,
    place: Place,
    plane: Plane,
    projection: Projection,
    source: Source,
    options: Any,
    title: str,
    console: Console,
) -> dict[str, np.ndarray]:
    """Project the trajectories onto the plane, and evaluate some of their points and the projections of these."""
    members = source.shown
    columns = source.columns(members)
    epochs = np.unique(columns["epoch"])
    is_evaluated = np.isin(columns["epoch"], np.append(epochs[:: config.every], epochs[-1]))
    rows = np.flatnonzero(is_evaluated)
    total = 2 * len(rows)  # each point and its projection
    with progress(title=title, total=total, console=console, every=max(1, total // 10)) as show:
        on_plane = trajectory_on_plane(
            place.problem,
            plane,
            source.store,
            rows=rows,
            members=members,
            projection=projection,
            on_rows=lambda done, total: show(done, ""),
            **options,
        )
    numbers = {name: values for name, values in columns.items() if np.asarray(values).dtype.kind in "iuf"}
    arrays: dict[str, np.ndarray] = {f"column:{name}": np.asarray(values) for name, values in numbers.items()}
    projected = on_plane.projection
    arrays |= {"coordinates": projected.coordinates, "outside": projected.outside, "rows": rows}
    arrays |= {OF_POINTS + name: values for name, values in on_plane.metrics.items()}
    return arrays | {UNDER_POINTS + name: values for name, values in on_plane.plane_metrics.items()}


def _null_shares(run: RunFolder, console: Console) -> np.ndarray:
    """Return the explained variance of each principal axis for rotated null trajectories, averaged over the draws."""
    measured = perturbed(measure(run, console=console))
    draws = nulls_of(run, measured.gram, measured.labels).draws("rotated")
    shares: np.ndarray = np.mean([principal_shares(draw) for draw in draws], axis=0)
    return shares


def _extreme(reduce: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(reduce(finite)) if finite.size else None

"""The stage `surface`: the loss on a line or a plane of a run, and its trajectories on it."""

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
from jaxscape.runs.landscape_stage import Place, is_there, keeping, made_of, read_place, read_source
from jaxscape.runs.measure import measure, perturbed
from jaxscape.runs.null import nulls_of
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.progress import progress
from jaxscape.runs.sources import Source

SECONDS_BETWEEN_PARTS = 20  # losing this much of a surface is no great loss

GRID = "grid:"  # before the names of metrics, among the arrays of a surface
OF_POINTS, UNDER_POINTS = "points:", "under:"


def measure_surface(run: Path, config: SurfaceConfig, own: OwnProblem, *, console: Console) -> Path:
    """Evaluate the loss on a line or a plane of a run, resume an interrupted evaluation, or find it done.

    Args:
        run: a run folder with a minimum, or with finished trajectories.
        config: which plane and how fine.
        own: the problem of the run.
        console: where to say how far it is.

    Returns:
        The folder of the surface: values.npz and record.json.

    Raises:
        FileNotFoundError: where the run has no minimum, or no finished trajectories.
        ValueError: for a setting that cannot work.
        OSError: where the run folder cannot be written to.
    """
    check_surface(config)
    run = RunFolder(run)
    along = config.plane == "trajectory"
    if not along and not run.kind.has_minimum:
        raise ValueError(f"plane filter needs a minimum, and {run} has none; take --plane trajectory")
    place = read_place(run, own)
    source = read_source(run) if along else None
    made = made_of(config, own, minimum=place.checksum, trajectories=run.fingerprint() if along else None)
    folder = run.surfaces / config.name
    if is_there(run, "surface", folder, made, console):
        return folder
    null_shares = _null_shares(run, console) if along else np.zeros(0)  # may write tables, and so before the lock
    with keeping(run, "surface", folder, made, console) as keep:
        with console.status(f"{run.name}: the plane"):
            plane, projection = _plane(config, place, source)
        x, y = _ranges(config, plane, projection)
        how: Any = {
            "model_state": place.model_state,
            "statistics": config.statistics,
            "split": SPLITS[config.split],
            "batch_size": config.batch_size,
            "strategy": config.strategy,
        }
        found = _grid(folder, made, place, plane, x, y, how, f"{run.name} {config.name}", console)
        values = {"x": x, **({} if y is None else {"y": y})}
        values |= {GRID + name: each for name, each in found.metrics.items()}
        if source is not None and projection is not None:
            values |= _trajectories(config, place, plane, projection, source, how, f"{run.name} points", console)
        keep(values, **_numbers(plane, found, null_shares))
    return folder


def _numbers(plane: Plane, found: Surface, null_shares: np.ndarray) -> dict[str, Any]:
    """What the record of a surface says of it."""
    numbers: dict[str, Any] = {
        "statistics": found.statistics,
        "split": found.split,
        "kind": plane.kind,
        "axis_names": plane.axis_names,
        "metrics": sorted(found.metrics),
        "lowest": {name: _extreme(np.nanmin, each) for name, each in found.metrics.items()},
        "highest": {name: _extreme(np.nanmax, each) for name, each in found.metrics.items()},
        "not_finite": {name: int(np.sum(~np.isfinite(each))) for name, each in found.metrics.items()},
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
    else:  # the origin, which is the minimum or the mean, belongs in the picture
        lowest = np.minimum(projection.coordinates.min(axis=0), 0)
        highest = np.maximum(projection.coordinates.max(axis=0), 0)
        beyond = config.reach * (highest - lowest).max()
        ends = np.stack([lowest - beyond, highest + beyond], axis=1)
    x, *y = (np.linspace(low, high, config.points) for low, high in ends)
    return x, y[0] if y else None


def _grid(
    folder: Path,
    made: dict[str, Any],
    place: Place,
    plane: Plane,
    x: np.ndarray,
    y: np.ndarray | None,
    how: Any,
    title: str,
    console: Console,
) -> Surface:
    """The metrics on the grid, those that an interrupted call had among them."""
    part = read_partial(folder, made)
    done = None
    if part:
        metrics = {name.removeprefix(GRID): part[name] for name in part if name.startswith(GRID)}
        done = Surface(x, y, metrics, part["done"], str(part["statistics"]), str(part["split"]) or None)
        console.print(f"{title}: {int(done.done.sum())} points are there")
    points = len(x) * (1 if y is None else len(y))
    first = 0 if done is None else int(done.done.sum())
    written = time.monotonic()

    def keep(found: Surface) -> None:
        nonlocal written
        say(int(found.done.sum()), "")
        if time.monotonic() - written > SECONDS_BETWEEN_PARTS:
            grids = {GRID + name: each for name, each in found.metrics.items()}
            of_kind = {"statistics": np.array(found.statistics), "split": np.array(found.split or "")}
            write_partial(folder, grids | of_kind | {"done": found.done}, made)
            written = time.monotonic()

    with progress(title=title, total=points, console=console, every=max(1, points // 10), first=first) as say:
        return surface(place.problem, plane, x, y, done=done, on_rows=keep, **how)


def _trajectories(
    config: SurfaceConfig,
    place: Place,
    plane: Plane,
    projection: Projection,
    source: Source,
    how: Any,
    title: str,
    console: Console,
) -> dict[str, np.ndarray]:
    """The points on the plane, and the metrics of some of them beside those of the plane under them."""
    members = source.shown
    columns = source.columns(members)
    epochs = np.unique(columns["epoch"])
    asked = np.isin(columns["epoch"], np.append(epochs[:: config.every], epochs[-1]))
    rows = np.flatnonzero(asked)
    total = 2 * len(rows)  # each point, and the plane under it
    with progress(title=title, total=total, console=console, every=max(1, total // 10)) as say:
        found = trajectory_on_plane(
            place.problem,
            plane,
            source.store,
            rows=rows,
            members=members,
            projection=projection,
            on_rows=lambda done, total: say(done, ""),
            **how,
        )
    numbers = {name: values for name, values in columns.items() if np.asarray(values).dtype.kind in "iuf"}
    arrays: dict[str, np.ndarray] = {f"column:{name}": np.asarray(values) for name, values in numbers.items()}
    arrays |= {"coordinates": found.projection.coordinates, "outside": found.projection.outside, "rows": rows}
    arrays |= {OF_POINTS + name: values for name, values in found.metrics.items()}
    return arrays | {UNDER_POINTS + name: values for name, values in found.plane_metrics.items()}


def _null_shares(run: RunFolder, console: Console) -> np.ndarray:
    """The shares of the variance of rotated null trajectories, the mean over some draws."""
    measured = perturbed(measure(run, console=console))
    draws = nulls_of(run, measured.gram, measured.labels).draws("rotated")
    shares: np.ndarray = np.mean([principal_shares(draw) for draw in draws], axis=0)
    return shares


def _extreme(of: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(of(finite)) if finite.size else None

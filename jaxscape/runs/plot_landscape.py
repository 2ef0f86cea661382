"""Figures of the landscape of a run: surfaces, trajectories on them, paths between minima, spectra."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.figures.landscape_panels import LinePanel, PathPanel, SpectrumPanel, SurfacePanel, TrajectoryPanel
from jaxscape.figures.landscapes import (
    contour_figure,
    line_figure,
    path_figure,
    spectrum_figure,
    surface_figure,
    trajectory_figure,
)
from jaxscape.figures.plots import save_figure
from jaxscape.landscape.options import STATISTICS
from jaxscape.runs import captions
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import Kept, kept_names, read_kept
from jaxscape.runs.landscape_config import WAYS, describe_mode
from jaxscape.runs.surface import GRID, OF_POINTS, UNDER_POINTS

_LOSSES = ("loss", "train_loss")  # the metric that is drawn: the first that exists


def plot_landscape(run: Path) -> list[Path]:
    """Draw every readable measurement of a run's landscape; return the files."""
    run = RunFolder(run)
    kinds = ((run.surfaces, plot_surface), (run.paths, plot_path), (run.curvature, plot_curvature))
    return [file for folder, draw in kinds for name in kept_names(folder) for file in draw(run, name)]


def plot_surface(run: Path, name: str) -> list[Path]:
    """Draw a surface of a run: a line, or contours, a 3-D view and the trajectories projected onto the plane.

    Raises:
        FileNotFoundError: if there is no such surface.
        ValueError: if it is damaged.
        OSError: if a figure cannot be written.
    """
    run = RunFolder(run)
    measurement = read_kept(run.surfaces / name)
    quantity, stem = _quantity(measurement), f"surface-{name}"
    note = _note(run, measurement, with_training="coordinates" in measurement.values)
    if "y" not in measurement.values:
        return save_figure(line_figure([line_panel(run, name)], quantity=quantity, note=note), run.figures / stem)
    panel = surface_panel(run, name)
    files = save_figure(contour_figure([panel], quantity=quantity, note=note), run.figures / stem)
    # The edges of the 3-D box have room for short labels only.
    short = panel._replace(labels=_short_labels(measurement), note="")
    files += save_figure(surface_figure([short], quantity=quantity, note=note), run.figures / f"{stem}-3d")
    if "coordinates" in measurement.values:
        on_plane = trajectory_figure([trajectory_panel(run, name)], quantity=quantity, note=note)
        files += save_figure(on_plane, run.figures / f"{stem}-trajectories")
    return files


def plot_path(run: Path, name: str) -> list[Path]:
    """Draw the paths from a run's minimum to another; see `plot_surface` for errors."""
    run = RunFolder(run)
    measurement = read_kept(run.paths / name)
    ways = {way: words for way, words in WAYS.items() if way in measurement.record["barriers"]}
    t = measurement.values["t"]
    straight = "matched" if "matched" in ways else "straight"
    panels = []
    for metric in measurement.record["metrics"]:
        heights = ", ".join(
            f"{words} {measurement.record['barriers'][way][metric]['height']:.3g}" for way, words in ways.items()
        )
        panels.append(
            PathPanel(
                metric.replace("_", " "),
                t,
                measurement.values[f"curve:{metric}"],
                measurement.values[f"{straight}:{metric}"],
                note=f"barrier: {heights}",
            )
        )
    ends = (run.name, Path(measurement.record["other"]).name)
    lengths = measurement.record["lengths"]
    longer = lengths["curve"] / lengths[straight]
    matched = " The units are matched first." if straight == "matched" else ""
    note = f"The curve is {longer:.3g} times as long as the straight line.{matched}\n{_note(run, measurement)}"
    return save_figure(path_figure(panels, ends=ends, note=note), run.figures / f"path-{name}")


def plot_curvature(run: Path, name: str) -> list[Path]:
    """Draw the spectra of a run, one row per point; see `plot_surface` for errors."""
    run = RunFolder(run)
    measurement = read_kept(run.curvature / name)
    panels = [spectrum_panel(run, name, point) for point in range(min(len(measurement.values["trace"]), _MAX_SPECTRA))]
    matrix = MATRICES[measurement.record["made_of"]["setting"]["matrix"]]
    mode = describe_mode(measurement.record)
    spectrum = f"Spectrum of the {_quantity(measurement)}{mode and f'; {mode}'}."
    note = "\n".join(filter(None, (spectrum, captions.data([run], with_training=False))))
    return save_figure(
        spectrum_figure(panels, quantity=f"eigenvalue of the {matrix}", note=note),
        run.figures / f"curvature-{name}",
    )


MATRICES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}
_MAX_SPECTRA = 5  # rows of a figure


def surface_panel(run: Path, name: str, metric: str | None = None) -> SurfacePanel:
    """Return a surface of a run as a panel, by default that of the loss."""
    run = RunFolder(run)
    measurement = read_kept(run.surfaces / name)
    values = measurement.values[GRID + (metric or _metric(measurement))]
    points = {"minimum" if run.kind.has_minimum else "mean": (0.0, 0.0)}
    first, second = measurement.record["axis_names"]
    return SurfacePanel(
        captions.title(run),
        measurement.values["x"],
        measurement.values["y"],
        values,
        points=points,
        labels=(first, second),
        note=captions.about(run),
    )


def line_panel(run: Path, name: str) -> LinePanel:
    """Return a one-dimensional surface as a panel."""
    run = RunFolder(run)
    measurement = read_kept(run.surfaces / name)
    metric = _metric(measurement)
    curves = {metric.replace("_", " "): measurement.values[GRID + metric]}
    return LinePanel(
        captions.title(run), measurement.values["x"], curves, ends=("minimum", "1"), note=captions.about(run)
    )


def trajectory_panel(run: Path, name: str) -> TrajectoryPanel:
    """Return the trajectories of a run, projected onto their plane, as a panel."""
    measurement = read_kept(RunFolder(run).surfaces / name)
    values, metric = measurement.values, _metric(measurement)
    return TrajectoryPanel(
        surface_panel(run, name),
        values["coordinates"],
        values["outside"],
        values["column:epoch"],
        values[OF_POINTS + metric],
        values[UNDER_POINTS + metric],
        member=values["column:member"],
        rows=values["rows"],
    )


def spectrum_panel(run: Path, name: str, point: int = 0) -> SpectrumPanel:
    """Return the spectrum at the minimum, or at a copy, as a panel."""
    run = RunFolder(run)
    measurement = read_kept(run.curvature / name)
    values = {key: each[point] for key, each in measurement.values.items()}
    title = captions.title(run)
    if point:
        at = measurement.record["made_of"]["setting"]["at"].removesuffix("s")
        title += f", {at} of the copy of seed {values['column:seed']:g}, step {values['column:step_size']:g}"
    note = (
        f"largest {values['eigenvalues'][0]:.3g}, lowest {values['lowest'][0]:.3g}; "
        f"trace {values['trace']:.3g} ± {values['trace_error']:.2g}"
    )
    eigenvalues = np.concatenate([values["eigenvalues"], values["lowest"]])
    return SpectrumPanel(title, values["grid"], values["density"], eigenvalues, note=note)


def _short_labels(measurement: Kept) -> tuple[str, str]:
    setting = measurement.record["made_of"]["setting"]
    if setting["plane"] == "filter":
        first, second = (f"seed {seed}" for seed in setting["seeds"])
    else:
        first, second = (f"axis {axis + 1}" for axis in setting["axes"])
    return first, second


def _metric(measurement: Kept) -> str:
    names = measurement.record.get("metrics", _LOSSES)
    return next((name for name in _LOSSES if name in names), names[0])


def _quantity(measurement: Kept) -> str:
    split = measurement.record["split"]
    words = {"train": "training ", "test": "test "}.get(split, "")
    return f"{words}{_metric(measurement).replace('_', ' ')}"


def _note(run: RunFolder, measurement: Kept, *, with_training: bool = False) -> str:
    """Return the note under a figure: mode, running statistics, explained variance beside surrogates, and data."""
    lines = [
        _shares(measurement.record),
        _sentence(describe_mode(measurement.record)) + STATISTICS[measurement.record["statistics"]].capitalize() + ".",
        captions.data([run], with_training=with_training),
    ]
    return "\n".join(filter(None, lines))


def _sentence(words: str) -> str:
    """Return words as a sentence, before another one; "" for no words."""
    return f"{words[0].upper()}{words[1:]}. " if words else ""


def _shares(record: dict[str, Any]) -> str:
    if "shares" not in record:
        return ""
    axes = record["made_of"]["setting"]["axes"]
    if max(axes) >= len(record["shares"]):
        return ""
    kinds = {
        "the points": "shares",
        "rotated null trajectories": "null_shares",
        "one random walk": "random_walk_shares",
    }
    shares = [f"{sum(record[name][axis] for axis in axes):.1%} for {words}" for words, name in kinds.items()]
    return f"Variance explained by the axes: {', '.join(shares)}."

"""The classical landscapes around the paper's minima: lines, planes, spectra, and paths between two good minima.

    python -m uv run python experiments/landscapes.py --scale quick

For one good, one bad and one memorization minimum (those of figure2.py), side by side: the loss along one
filter-normalised direction and on a plane of two (Li et al. 2018), on training and test data; the spectrum of the
Hessian; the copies of the good minimum on the plane of their leading principal axes, with their actual loss; and the
straight line, the line with units matched, and a trained curve between two good minima. Numbers are written to
landscapes.json.
"""

import time
from pathlib import Path
from typing import Any

from command import start
from stages import Experiment

from jaxscape.figures.landscapes import contour_figure, line_figure, spectrum_figure, surface_figure
from jaxscape.figures.plots import save_figure
from jaxscape.runs.config import PRESETS
from jaxscape.runs.curvature import measure_curvature
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import RunFolder, write_json
from jaxscape.runs.images import image_axes, image_landscape
from jaxscape.runs.kept import read_kept
from jaxscape.runs.landscape_config import CurvatureConfig, PathConfig, SurfaceConfig
from jaxscape.runs.path import measure_path
from jaxscape.runs.plot_landscape import line_panel, plot_path, plot_surface, spectrum_panel, surface_panel
from jaxscape.runs.surface import measure_surface
from jaxscape.trajectories.files import make_folder

SPLITS = ("train", "test")


def measure(experiment: Experiment, runs: dict[str, RunFolder]) -> dict[str, Any]:
    """Make all measurements that are missing, and return their settings and the name of the path's folder."""
    sizes: dict[str, Any] = {"points": 25, "line_points": 51, "steps": 60, "epochs": 50} | dict(
        experiment.scale.landscape
    )
    lines = {split: SurfaceConfig(seeds=(0,), points=sizes["line_points"], split=split) for split in SPLITS}
    planes = {split: SurfaceConfig(points=sizes["points"], split=split) for split in SPLITS}
    spectrum = CurvatureConfig(steps=sizes["steps"])
    trajectory = SurfaceConfig(plane="trajectory", points=sizes["points"])
    console = experiment.console
    for run in runs.values():
        own = image_landscape(run)
        for config in (*lines.values(), *planes.values()):
            measure_surface(run, config, own, console=console)
        measure_curvature(run, spectrum, own, console=console)
    good = runs["good"]
    own = image_landscape(good)
    measure_surface(good, trajectory, own, console=console)
    other = RunFolder(experiment.run_of("good", experiment.scale.seeds[1]))
    path = measure_path(good, other, PathConfig(epochs=sizes["epochs"]), own, axes=image_axes, console=console)
    return {"lines": lines, "planes": planes, "spectrum": spectrum, "trajectory": trajectory, "path": path.name}


def draw(folder: Path, runs: dict[str, RunFolder], settings: dict[str, Any]) -> list[Path]:
    """Draw the figures of all minima side by side, and those of the good minimum alone."""
    make_folder(folder)
    files = []
    note = "Running statistics recalibrated at each point on the training data."
    for split in SPLITS:
        quantity = "training loss" if split == "train" else "test loss"
        lines = [line_panel(run, settings["lines"][split].name) for run in runs.values()]
        files += save_figure(line_figure(lines, quantity=quantity, note=note), folder / f"line-{split}")
        planes = [surface_panel(run, settings["planes"][split].name) for run in runs.values()]
        files += save_figure(contour_figure(planes, quantity=quantity, note=note), folder / f"plane-{split}")
        short = [panel._replace(labels=("seed 0", "seed 1"), note="") for panel in planes]
        files += save_figure(surface_figure(short, quantity=quantity, note=note), folder / f"plane-{split}-3d")
    spectra = [spectrum_panel(run, settings["spectrum"].name) for run in runs.values()]
    files += save_figure(spectrum_figure(spectra, quantity="eigenvalue of the Hessian", note=note), folder / "spectrum")
    return files + plot_surface(runs["good"], settings["trajectory"].name) + plot_path(runs["good"], settings["path"])


def numbers(runs: dict[str, RunFolder], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers that the figures show."""
    minima: dict[str, Any] = {}
    for kind, run in runs.items():
        curvature = read_kept(run.curvature / settings["spectrum"].name).record
        planes = {split: read_kept(run.surfaces / settings["planes"][split].name).record for split in SPLITS}
        minima[kind] = {
            name: curvature[name] for name in ("eigenvalues", "residuals", "lowest", "trace", "trace_error")
        }
        minima[kind] |= {f"highest_{split}_loss": planes[split]["highest"]["loss"] for split in SPLITS}
    trajectory = read_kept(runs["good"].surfaces / settings["trajectory"].name)
    names = ("shares", "null_shares", "random_walk_shares")
    outside = trajectory.values["outside"]
    path = read_kept(runs["good"].paths / settings["path"]).record
    return {
        "minima": minima,
        "trajectory": {name: trajectory.record[name][:2] for name in names}
        | {"outside": [float(outside.min()), float(outside.max())]},
        "path": {"barriers": path["barriers"], "lengths": path["lengths"]},
    }


def main(experiment: Experiment) -> None:
    """Make missing runs, measure, draw, and write the numbers."""
    console, folder = experiment.console, experiment.folder
    seed, other, *_ = experiment.scale.seeds
    minima = experiment.minima(PRESETS, seeds=(seed,)) | experiment.minima(("good",), seeds=(other,))
    experiment.run(minima)
    started = time.monotonic()
    runs = {kind: RunFolder(experiment.run_of(kind, seed)) for kind in PRESETS}
    settings = measure(experiment, runs)
    measured = time.monotonic()
    figures = draw(folder / "landscapes", runs, settings)
    record = {"environment": environment(), "seconds": round(measured - started, 1), **numbers(runs, settings)}
    write_json(folder / "landscapes.json", record)
    console.print(f"Landscapes done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in (*figures, folder / "landscapes.json"):
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "landscapes")

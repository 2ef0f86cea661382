"""The stage `plot`: the pictures of one run, or of several side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxscape.figures.exact import plane_figure, polar_figure
from jaxscape.figures.panels import ExactPanel
from jaxscape.figures.plots import (
    DistancePanel,
    Panel,
    comparison_figure,
    distance_figure,
    methods_figure,
    minimum_figure,
    norm_figure,
    save_figure,
    values_figure,
)
from jaxscape.runs import captions
from jaxscape.runs.embed import repair_embeddings
from jaxscape.runs.embeddings import damaged_embeddings, embeddings, read_coordinates, read_diagnostics
from jaxscape.runs.exact import exact_panel
from jaxscape.runs.folder import COMPARED, RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.measure import group_of, measure
from jaxscape.runs.methods import CENTERS, METHODS
from jaxscape.runs.null import NULL_KIND
from jaxscape.runs.progress import make_console
from jaxscape.runs.recording import read_metrics
from jaxscape.runs.tables import read_table
from jaxscape.runs.trust import describe_trust
from jaxscape.trajectories.files import make_folder

_LEAST_LOSS = 1e-6  # what is smaller has the colour of this one
_COLUMNS = 4  # of the figure that has all methods side by side


def plot_run(run: Path, *, console: Console | None = None) -> list[Path]:
    """Draw a run: the exact views, every embedding, and its distances from the minimum; returns the files.

    Tables that are damaged are made again first.

    Args:
        run: a finished run.
        console: where to say what is made again.

    Raises:
        FileNotFoundError: where there is no embedding yet.
        OSError: where the run folder cannot be written to.
    """
    run = RunFolder(run)
    run.require_record()
    console = console or make_console()
    _repair(run, console)
    settings = embeddings(run)
    if not settings:
        raise FileNotFoundError(f"{run} has no embeddings of its trajectories; `jaxscape embed {run}` makes one")
    with writing(run.figures, wait=console):
        return _draw(run, settings)


def _draw(run: RunFolder, settings: Sequence[str]) -> list[Path]:
    files = []
    for setting in settings:
        panel = _panel(run, setting)
        if panel.embedding.shape[1] <= 3:
            note = f"{_how(run, setting)}; {panel.note}\n{captions.data([run])}"
            figure = minimum_figure(panel._replace(note=""), note=note)
            files += save_figure(figure, run.figures / setting)
            files += _plot_control([run], setting, run.figures)
    exact = _plot_exact([run], run.figures)
    return exact + files + _plot_methods(run, settings) + _plot_distances([run], run.figures)


def plot_comparison(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Draw runs side by side, as in the paper's Fig. 2, for every setting that all of them have."""
    for run in runs:
        _repair(run, make_console())
    make_folder(folder)
    files = []
    for setting in sorted(set.intersection(*(set(embeddings(run)) for run in runs))):
        note = f"{_how(runs[0], setting)}\n{captions.data(runs)}"
        panels = comparison_panels(runs, setting)
        files += save_figure(comparison_figure(panels, looks=("dark", "white", "epoch"), note=note), folder / setting)
        files += _plot_control(runs, setting, folder)
    return _plot_exact(runs, folder) + files + _plot_distances(runs, folder)


def _repair(run: Path, console: Console) -> None:
    """See that all tables that are drawn are whole."""
    if embeddings(run) or damaged_embeddings(run):
        repair_embeddings(run, console=console)
        measure(run, console=console)


def comparison_panels(runs: Sequence[Path], setting: str) -> list[Panel]:
    """An embedding of each run as a panel; where presets repeat, the panels have the names of their run folders."""
    return _told_apart(runs, [_panel(run, setting) for run in runs])


def _told_apart[P: (Panel, DistancePanel, ExactPanel)](runs: Sequence[Path], panels: list[P]) -> list[P]:
    """The panels with the names of their run folders for titles, where presets repeat."""
    kinds = [panel.title.partition("\n")[0] for panel in panels]
    if len(set(kinds)) == len(kinds):
        return panels
    rests = [panel.title.partition("\n")[2] for panel in panels]
    named = zip(panels, runs, rests, strict=True)
    return [panel._replace(title=f"{run.name}\n{rest}") for panel, run, rest in named]


def plot_losses(runs: Sequence[Path], setting: str, folder: Path) -> list[Path]:
    """Draw an embedding of each run coloured by the training loss of every snapshot, on one logarithmic scale."""
    losses = []
    for run in runs:
        columns, metrics = read_coordinates(run, setting), read_metrics(run)
        of = dict(zip(zip(metrics["member"], metrics["epoch"], strict=True), metrics["train_loss"], strict=True))
        rows = [key for key in zip(columns["member"], columns["epoch"], strict=True) if key[0] >= 0]
        losses.append(np.maximum([of[key] for key in rows], _LEAST_LOSS))
    panels = comparison_panels(runs, setting)
    note = f"{_how(runs[0], setting)}\n{captions.data(runs)}"
    figure = values_figure(panels, losses, "training loss", log=True, note=note)
    make_folder(folder)
    return save_figure(figure, folder / f"{setting}-loss")


def _plot_control(runs: Sequence[Path], setting: str, folder: Path) -> list[Path]:
    """The runs above their null trajectories, embedded with the same setting, where a setting is such a control."""
    real, null, kind = setting.partition("-null-")
    if not null or any(real not in embeddings(run) for run in runs):
        return []
    rows = [comparison_panels(runs, name) for name in (real, setting)]
    note = f"{_how(runs[0], real)}\n{captions.data(runs)}"
    figure = methods_figure(rows, left=["real", f"null, {kind}"], note=note)
    return save_figure(figure, folder / f"{real}-beside-{kind}-null")


def _plot_methods(run: RunFolder, settings: Sequence[str]) -> list[Path]:
    """All embeddings in the plane side by side, four a row, where there are several."""
    flat = [setting for setting in settings if read_diagnostics(run, setting)["setting"]["n_components"] == 2]
    if len(flat) < 2:
        return []
    panels = [_panel(run, setting)._replace(title=_how(run, setting)) for setting in flat]
    rows = [panels[start : start + _COLUMNS] for start in range(0, len(panels), _COLUMNS)]
    title = captions.title(run).replace("\n", ": ")
    return save_figure(methods_figure(rows, note=f"{title}\n{captions.data([run])}"), run.figures / "methods")


def _plot_exact(runs: Sequence[Path], folder: Path) -> list[Path]:
    """The views in which every position is exact, of copies that were perturbed."""
    if not RunFolder(runs[0]).kind.has_minimum:
        return []
    found = {run: panel for run in runs if (panel := exact_panel(run)) is not None}
    if not found:
        return []
    panels, data = _told_apart(list(found), list(found.values())), captions.data(runs)
    polar = polar_figure(panels, radius="distance from the minimum, in norms of the minimum", note=data)
    return save_figure(polar, folder / "polar") + save_figure(plane_figure(panels, note=data), folder / "plane")


def _plot_distances(runs: Sequence[Path], folder: Path) -> list[Path]:
    if not RunFolder(runs[0]).kind.has_minimum:
        return [file for run in runs for file in _plot_norms(run, folder)]
    words = f"Euclidean distance in all parameters; dashed: {NULL_KIND} null trajectories\n{captions.data(runs)}"
    panels = [panel for panel in _told_apart(runs, list(map(_distances, runs))) if len(panel.distance)]
    return save_figure(distance_figure(panels, note=words), folder / "distance") if panels else []


def _plot_norms(run: Path, folder: Path) -> list[Path]:
    columns = read_table(RunFolder(run), RunFolder(run).geometry)
    labels = _labels(run, columns, np.isfinite(columns["norm"]))
    hue = labels.pop("hue")
    panel = DistancePanel(title=captions.title(run), distance=columns["norm"], **labels)
    return save_figure(norm_figure(panel, hue=hue, note=captions.data([run])), folder / "norm")


def _panel(run: Path, setting: str) -> Panel:
    """A run's embedding as a panel, its note what the embedding found."""
    columns = read_coordinates(run, setting)
    axes = [name for name in columns if name in "xyz" or name.startswith("axis")]
    coordinates = np.stack([columns[name] for name in axes], axis=1)
    rows = columns["member"] >= 0
    diagnostics = read_diagnostics(run, setting)
    null = diagnostics["setting"].get("null")
    return Panel(
        title=f"{captions.title(run)}\nnull trajectories, {null}" if null else captions.title(run),
        embedding=coordinates[rows],
        **_labels(run, columns, rows),
        minimum=None if rows.all() else coordinates[~rows][0],
        note=_found(diagnostics),
        begin=RunFolder(run).kind.begin,
    )


def _labels(run: Path, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """What the chosen rows are, as the panels take it: the hue is the direction of a jump, or the group of a run."""
    run = RunFolder(run)
    labels: dict[str, Any] = {name: columns[name][rows] for name in ("epoch", "member")}
    kind, unit = run.kind, "epoch"
    if kind.has_minimum:
        return (
            labels | {name: columns[name][rows] for name in ("seed", "step_size")} | {"hue": "direction", "unit": unit}
        )
    group = group_of(run.settings(kind.stage))
    labels["epoch"] = columns["update"][rows]
    if kind is COMPARED:  # snapshots are numbered; where there are several an epoch, the axis is still in epochs
        labels["epoch"] = labels["epoch"] / run.number("steps_per_epoch")
    else:
        unit = "step"
    return labels | {"seed": columns[group][rows], "hue": group, "unit": unit}


def _how(run: Path, setting: str) -> str:
    """Method, distance and centring in words, and what was embedded where that is not all."""
    asked = read_diagnostics(run, setting)["setting"]
    method = METHODS[asked["method"]]
    distance = f"{asked['metric']} distance"
    if asked["metric"] == "cosine":
        distance += f" {CENTERS[asked['center']].words}"
    kernel = f", knn {asked['knn']}, decay {asked['decay']:g}" if method.has_kernel else ""
    kernel += ", cosine distance of potentials" if asked["potential"] == "cosine" else ""
    kernel += f", {asked['landmarks']} landmarks" if asked["landmarks"] else ""
    parts = [f"seed {seed}" for seed in asked["only_seeds"]] + list(asked["only_optimizers"])
    only = f"; {', '.join(parts)} alone" if parts else ""
    null = f"; null trajectories, {asked['null']}" if asked["null"] else ""
    return f"{method.words}, {distance}{kernel}{only}{null}"


def _found(diagnostics: Mapping[str, Any]) -> str:
    """What the embedding found, and what it keeps of the distances, in a few words."""
    return "; ".join(filter(None, (_of_method(diagnostics), describe_trust(diagnostics))))


def _of_method(diagnostics: Mapping[str, Any]) -> str:
    if "explained" in diagnostics:
        return f"{diagnostics['explained']:.0%} of squared distances kept"
    if "t" not in diagnostics:
        return f"stress {diagnostics['stress']:.2f}" if "stress" in diagnostics else ""
    searched = isinstance(diagnostics["setting"]["knn"], str)
    found = f"knn {diagnostics['knn']}, " if searched else ""
    found += f"t {diagnostics['t']}, stress {diagnostics['stress']:.2f}"
    if "n_connected_components" not in diagnostics:
        return found
    components = diagnostics["n_connected_components"]
    if components == 1:
        return f"{found}, 1 component"
    connecting = f"(knn {diagnostics['connecting_knn']} connects)".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{found}, {components} disconnected components {connecting}"


def _distances(run: Path) -> DistancePanel:
    """Of the copies that were thrown: a step size of 0 leaves no jump to measure with."""
    columns = read_table(RunFolder(run), RunFolder(run).geometry)
    thrown = np.isfinite(columns["distance_over_jump"])
    labels = _labels(run, columns, thrown)
    labels.pop("hue")
    return DistancePanel(
        title=captions.title(run),
        distance=columns["distance_over_jump"][thrown],
        **labels,
        null=columns["null_distance_over_jump"][thrown],
    )

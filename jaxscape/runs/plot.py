"""The stage `plot`: the figures of one run, or of several runs side by side."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxscape.figures.exact import plane_figure, polar_figure
from jaxscape.figures.layout import row_lengths
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
from jaxscape.runs.embeddings import (
    damaged_embeddings,
    describe_trust,
    embeddings,
    read_coordinates,
    read_diagnostics,
)
from jaxscape.runs.exact import exact_panel, exact_panels_of_groups, scale_free_panel
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.labels import row_labels
from jaxscape.runs.lock import writing
from jaxscape.runs.measure import measure
from jaxscape.runs.methods import CENTERS, METHODS, NULLS
from jaxscape.runs.null import NULL_KIND
from jaxscape.runs.progress import make_console
from jaxscape.runs.recorded import read_metrics, read_trajectories
from jaxscape.runs.scale_free import Filters
from jaxscape.runs.tables import read_table
from jaxscape.trajectories.files import make_folder

_SCALE_FREE = (
    "Scale-free: every filter is rescaled to the norm of the minimum's filter; weight decay alone would move nothing."
)
_LEAST_LOSS = 1e-6  # smaller losses get the colour of this one
_COLUMNS = 3  # maximum number of columns of the figure with all methods: the width of a page


def plot_run(
    run: Path, *, scale_free: bool = False, filters: Filters | None = None, console: Console | None = None
) -> list[Path]:
    """Draw a run: the exact views, every embedding, and its distances or norms; return the files.

    Damaged tables are recomputed first.

    Args:
        run: a finished run.
        scale_free: also draw the exact views of scale-free distances, which are computed if necessary.
        filters: the filters for scale-free distances, see `scale_free_table`.
        console: where to print what is recomputed.

    Raises:
        FileNotFoundError: if there are no finished trajectories or no embedding yet.
        ValueError: for scale-free distances, see `scale_free_table`.
        OSError: if the run folder cannot be written to.
    """
    run = RunFolder(run)
    run.require_record()
    console = console or make_console()
    _repair(run, console)
    settings = embeddings(run)
    if not settings:
        read_trajectories(run)  # without them, its error says what comes first
        raise FileNotFoundError(
            f"{run} has no embeddings of its trajectories; `jaxscape embed {run}` makes one, or Run.embed in Python"
        )
    panel = scale_free_panel(run, filters=filters, console=console) if scale_free else None
    with writing(run.figures, wait=console):
        files = _draw(run, settings)
        return files if panel is None else files + _plot_scale_free([run], [panel], run.figures)


def _draw(run: RunFolder, settings: Sequence[str]) -> list[Path]:
    files = []
    for setting in settings:
        panel = _panel(run, setting)
        if panel.embedding.shape[1] <= 3:
            note = _lines(
                f"{describe_embedding(run, setting)}; {panel.note}", captions.about(run), captions.data([run])
            )
            figure = minimum_figure(panel._replace(note=""), note=note)
            files += save_figure(figure, run.figures / setting)
            files += _plot_control([run], setting, run.figures)
    exact = _plot_exact([run], run.figures)
    numbers = _plot_distances([run], run.figures) + _plot_parts([run], run.figures)
    return exact + files + _plot_methods(run, settings) + numbers


def plot_comparison(runs: Sequence[Path], folder: Path, *, scale_free: bool = False) -> list[Path]:
    """Draw runs side by side, as in the paper's Fig. 2, for every embedding that all of them have.

    Args:
        runs: finished runs of one kind.
        folder: the folder of the figures.
        scale_free: also draw the exact views of scale-free distances; see `scale_free_table`.
    """
    for run in runs:
        _repair(run, make_console())
    make_folder(folder)
    files = []
    for setting in sorted(set.intersection(*(set(embeddings(run)) for run in runs))):
        note = f"{describe_embedding(runs[0], setting)}\n{captions.data(runs)}"
        panels = comparison_panels(runs, setting)
        files += save_figure(comparison_figure(panels, looks=("dark", "white", "epoch"), note=note), folder / setting)
        files += _plot_control(runs, setting, folder)
    files = _plot_exact(runs, folder) + files + _plot_distances(runs, folder) + _plot_parts(runs, folder)
    if scale_free:
        panel_by_run = {run: panel for run in runs if (panel := scale_free_panel(run)) is not None}
        files += _plot_scale_free(list(panel_by_run), list(panel_by_run.values()), folder)
    return files


def _repair(run: Path, console: Console) -> None:
    """Recompute damaged tables and embeddings before they are drawn."""
    if embeddings(run) or damaged_embeddings(run):
        repair_embeddings(run, console=console)
        measure(run, console=console)


def comparison_panels(runs: Sequence[Path], setting: str) -> list[Panel]:
    """Return an embedding of each run as a panel."""
    panels = [_panel(run, setting, title) for run, title in zip(runs, captions.titles(runs), strict=True)]
    notes = zip(map(captions.about, runs), panels, strict=True)
    return [panel._replace(note=_lines(about, panel.note)) for about, panel in notes]


def exact_panels(runs: Sequence[Path]) -> list[ExactPanel]:
    """Return the panels of the exact views for runs of one kind: one per minimum, or one per group of trajectories.

    Runs in which no trajectory moved are left out.
    """
    panel_by_run = {run: panel for run in runs if (panel := exact_panel(run)) is not None}
    panels = []
    for panel in _titled(captions.titles(list(panel_by_run)), panel_by_run.values()):
        groups = exact_panels_of_groups(panel)
        if len(panel_by_run) > 1 and len(groups) > 1:
            groups = [group._replace(title=f"{panel.title}: {group.title}") for group in groups]
        panels += groups
    return panels


def _titled[P: (DistancePanel, ExactPanel)](titles: Iterable[str], panels: Iterable[P]) -> list[P]:
    return [panel._replace(title=title) for title, panel in zip(titles, panels, strict=True)]


def plot_losses(runs: Sequence[Path], setting: str, folder: Path) -> list[Path]:
    """Draw an embedding of each run, coloured by the training loss of every snapshot on a shared logarithmic scale."""
    losses = []
    for run in runs:
        columns, metrics = read_coordinates(run, setting), read_metrics(run)
        snapshots = zip(metrics["member"], metrics["epoch"], strict=True)
        loss_by_snapshot = dict(zip(snapshots, metrics["train_loss"], strict=True))
        rows = [key for key in zip(columns["member"], columns["epoch"], strict=True) if key[0] >= 0]
        losses.append(np.maximum([loss_by_snapshot[key] for key in rows], _LEAST_LOSS))
    panels = comparison_panels(runs, setting)
    note = f"{describe_embedding(runs[0], setting)}\n{captions.data(runs)}"
    figure = values_figure(panels, losses, "training loss", log=True, note=note)
    make_folder(folder)
    return save_figure(figure, folder / f"{setting}-loss")


def _plot_control(runs: Sequence[Path], setting: str, folder: Path) -> list[Path]:
    """Draw the runs above their null trajectories in the same embedding, if `setting` is an embedding of nulls."""
    real, null, kind = setting.partition("-null-")
    if not null or any(real not in embeddings(run) for run in runs):
        return []
    rows = [comparison_panels(runs, real), [_panel(run, setting)._replace(title="") for run in runs]]
    note = f"{describe_embedding(runs[0], real)}\n{captions.data(runs)}"
    figure = methods_figure(rows, left=["real", f"null, {kind}"], note=note)
    return save_figure(figure, folder / f"{real}-beside-{kind}-null")


def _plot_methods(run: RunFolder, settings: Sequence[str]) -> list[Path]:
    """Draw all two-dimensional embeddings side by side, if there are several; the note lists their shared settings."""
    flat = [setting for setting in settings if read_diagnostics(run, setting)["setting"]["n_components"] == 2]
    if len(flat) < 2:
        return []
    parts = {setting: _parts(run, setting) for setting in flat}
    names = list(parts[flat[0]])
    common = [name for name in names if len({each[name] for each in parts.values()}) == 1]
    panels = []
    for setting, each in parts.items():
        title = _joined({name: each[name] for name in names if name not in common})
        panels.append(_panel(run, setting)._replace(title=title or "all"))
    lengths = row_lengths(len(panels), _COLUMNS)
    rows = [panels[sum(lengths[:number]) :][:length] for number, length in enumerate(lengths)]
    shared = _joined({name: parts[flat[0]][name] for name in common})
    title = ": ".join(filter(None, (captions.title(run), captions.about(run))))
    return save_figure(methods_figure(rows, note=_lines(shared, title, captions.data([run]))), run.figures / "methods")


def _plot_exact(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Draw the views in which every position is exact, for trajectories that moved."""
    panels = exact_panels(runs)
    if not panels:
        return []
    note = captions.data(runs)
    if panels[0].begin != "jump" and len(runs) == 1 and len(panels) > 1:
        note = _lines(": ".join(filter(None, (captions.title(runs[0]), captions.about(runs[0])))), note)
    return _save_exact(panels, folder, note)


def _plot_scale_free(runs: Sequence[Path], panels: list[ExactPanel], folder: Path) -> list[Path]:
    note = _lines(_SCALE_FREE, captions.data(runs))
    return _save_exact(_titled(captions.titles(runs), panels), folder, note, "-scale-free") if panels else []


def _save_exact(panels: Sequence[ExactPanel], folder: Path, note: str, ending: str = "") -> list[Path]:
    files = save_figure(polar_figure(panels, note=note), folder / f"polar{ending}")
    return files + save_figure(plane_figure(panels, note=note), folder / f"plane{ending}")


def _plot_distances(runs: Sequence[Path], folder: Path) -> list[Path]:
    if not RunFolder(runs[0]).kind.has_minimum:
        return [file for run in runs for file in _plot_norms(run, folder)]
    # Version 0.1 had only rotated nulls.
    kinds = dict.fromkeys(RunFolder(run).read_report().get("null_distance", NULL_KIND) for run in runs)
    dashed = " or ".join(NULLS[kind].words for kind in kinds)
    words = _lines("Euclidean distance in all parameters", captions.data(runs))
    panels = [panel for panel in _titled(captions.titles(runs), map(_distances, runs)) if len(panel.distance)]
    return save_figure(distance_figure(panels, dashed=dashed, note=words), folder / "distance") if panels else []


def _plot_parts(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Draw the way back along the jump due to weight decay and due to the loss, if the two can be separated.

    Weight decay has a panel only if there is any.
    """
    if not RunFolder(runs[0]).kind.has_minimum:
        return []
    parts = {"inward_decay": "weight decay", "inward_loss": "loss"}
    panels = []
    for name, words in parts.items():
        for run, title in zip(runs, captions.titles(runs), strict=True):
            panel = _part(RunFolder(run), name, f"{title}: {words}")
            panels += [] if panel is None else [panel]
    if not panels:
        return []
    exchanged = NULLS["exchange"].words
    words = (
        "The displacement of each copy is exactly the sum of two parts: that due to weight decay alone, "
        f"and the response to the gradients of the loss; dashed: {exchanged}."
    )
    quantity, note = "way back along the jump / jump", _lines(words, captions.data(runs))
    figure = distance_figure(panels, quantity=quantity, level=0, dashed=exchanged, note=note)
    return save_figure(figure, folder / "parts")


def _part(run: RunFolder, name: str, title: str) -> DistancePanel | None:
    columns = read_table(run, run.geometry)
    values = columns.get(name, np.empty(0))
    defined = np.isfinite(values)
    if not values[defined].any():
        return None
    labels = row_labels(run, columns, defined)
    labels.pop("hue")
    null = columns.get(f"null_{name}")
    return DistancePanel(title=title, distance=values[defined], **labels, null=None if null is None else null[defined])


def _plot_norms(run: Path, folder: Path) -> list[Path]:
    columns = read_table(RunFolder(run), RunFolder(run).geometry)
    labels = row_labels(run, columns, np.isfinite(columns["norm"]))
    hue, about = labels.pop("hue"), captions.about(run)
    panel = DistancePanel(title=captions.title(run), distance=columns["norm"], note=about, **labels)
    return save_figure(norm_figure(panel, hue=hue, note=captions.data([run])), folder / "norm")


def _panel(run: Path, setting: str, title: str | None = None) -> Panel:
    """Return an embedding of a run as a panel, with a note on its quality."""
    title = captions.title(run) if title is None else title
    columns = read_coordinates(run, setting)
    axes = [name for name in columns if name in "xyz" or name.startswith("axis")]
    coordinates = np.stack([columns[name] for name in axes], axis=1)
    rows = columns["member"] >= 0
    diagnostics = read_diagnostics(run, setting)
    null = diagnostics["setting"].get("null")
    component = columns.get("component")  # missing in earlier versions
    has_minimum = not rows.all()
    return Panel(
        title=f"{title}, {null} null" if null else title,
        embedding=coordinates[rows],
        **row_labels(run, columns, rows),
        minimum=coordinates[~rows][0] if has_minimum else None,
        note=_quality(diagnostics),
        begin=RunFolder(run).kind.begin,
        component=None if component is None else component[rows].astype(int),
        minimum_component=int(component[~rows][0]) if has_minimum and component is not None else None,
    )


def describe_embedding(run: Path, setting: str) -> str:
    """Describe an embedding: method, distance and center, and which trajectories it shows if not all."""
    parts = _parts(run, setting)
    rest = [parts.pop(name) for name in ("only", "null")]
    return "; ".join(filter(None, (_joined(parts), *rest)))


def _parts(run: Path, setting: str) -> dict[str, str]:
    """Return phrases that describe the settings of an embedding, by name; "" for settings that do not apply."""
    config = read_diagnostics(run, setting)["setting"]
    method = METHODS[config["method"]]
    kernel = [f"knn {config['knn']}", f"decay {config['decay']:g}"] if method.has_kernel else []
    kernel += ["cosine distance of potentials"] if config["potential"] == "cosine" else []
    kernel += [f"{config['landmarks']} landmarks"] if config["landmarks"] else []
    only = [f"seed {seed}" for seed in config["only_seeds"]] + list(config["only_optimizers"])
    return {
        "method": method.words,
        "metric": f"{config['metric']} distance",
        "center": CENTERS[config["center"]].words if config["metric"] == "cosine" else "",
        "kernel": ", ".join(kernel),
        "only": f"only {', '.join(only)}" if only else "",
        "null": f"null trajectories, {config['null']}" if config["null"] else "",
    }


def _joined(parts: Mapping[str, str]) -> str:
    """Join phrases in their order, with the center directly after its distance."""
    distance = " ".join(filter(None, (parts.get("metric"), parts.get("center"))))
    phrases = {name: distance if name in ("metric", "center") else words for name, words in parts.items()}
    return ", ".join(dict.fromkeys(filter(None, phrases.values())))


def _lines(*texts: str) -> str:
    """Join the nonempty texts, one per line."""
    return "\n".join(filter(None, texts))


def _quality(diagnostics: Mapping[str, Any]) -> str:
    """Summarise the diagnostics of an embedding's method, and its fidelity."""
    return "; ".join(filter(None, (_method_diagnostics(diagnostics), describe_trust(diagnostics))))


def _method_diagnostics(diagnostics: Mapping[str, Any]) -> str:
    if "explained" in diagnostics:
        return f"{diagnostics['explained']:.0%} of squared distances kept"
    if "t" not in diagnostics:
        return f"stress {diagnostics['stress']:.2f}" if "stress" in diagnostics else ""
    searched = isinstance(diagnostics["setting"]["knn"], str)
    summary = f"knn {diagnostics['knn']}, " if searched else ""
    summary += f"t {diagnostics['t']}, stress {diagnostics['stress']:.2f}"
    if "n_connected_components" not in diagnostics:
        return summary
    components = diagnostics["n_connected_components"]
    if components == 1:
        return f"{summary}, 1 component"
    connecting = f"(knn {diagnostics['connecting_knn']} connects)".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{summary}, {components} disconnected components {connecting}"


def _distances(run: Path) -> DistancePanel:
    """Return the distances of the perturbed copies as a panel; unperturbed copies have no jump as a unit."""
    columns = read_table(RunFolder(run), RunFolder(run).geometry)
    perturbed = np.isfinite(columns["distance_over_jump"])
    labels = row_labels(run, columns, perturbed)
    labels.pop("hue")
    return DistancePanel(
        title=captions.title(run),
        note=captions.about(run),
        distance=columns["distance_over_jump"][perturbed],
        **labels,
        null=columns["null_distance_over_jump"][perturbed],
    )

"""The stage `report`: an HTML page of one run, or of several runs side by side."""

import shlex
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from rich.console import Console

from jaxscape.embedding.fidelity import MEANINGS
from jaxscape.figures.boxes import put_in_boxes
from jaxscape.figures.exact import choose_sides, count_words, places_of
from jaxscape.figures.palette import FRAME, GREY, INK, MINIMUM, SCALE, make_palette, rounded_step_size, shade
from jaxscape.figures.panels import ExactPanel, Panel, checked_panel, rows_by_member
from jaxscape.report.data import (
    Column,
    Embedding,
    Exact,
    Fact,
    Page,
    Palette,
    Still,
    Surrogate,
    Table,
    Trajectories,
    first_rows,
)
from jaxscape.report.page import render
from jaxscape.runs import captions
from jaxscape.runs.embed import repair_embeddings
from jaxscape.runs.embeddings import embeddings, read_diagnostics
from jaxscape.runs.exact import exact_panel
from jaxscape.runs.folder import COMPARED, JOINT, STAGES, RunFolder, write_text
from jaxscape.runs.invocations import commands
from jaxscape.runs.landscapes import measurements
from jaxscape.runs.measure import STATISTICS, beside, describe_drift, group_of, groups, measure
from jaxscape.runs.methods import BESIDE, BESIDE_WITHOUT_MINIMUM, METHODS, NULLS, null_words
from jaxscape.runs.plot import comparison_panels, describe_embedding
from jaxscape.runs.recorded import read_metrics
from jaxscape.runs.sources import read_sources, run_names
from jaxscape.runs.tables import Columns, join_tables, read_table

_LABELS = ("member", "seed", "step_size", "epoch", "update", "finite", "run")
_SCALE_COLORS = 24  # enough for linear interpolation of a perceptually uniform colour scale
_WORDS = {"train": "training"}  # abbreviations in the names of metrics -> full words
_SPLIT = {"inward_loss": "inward by the loss", "inward_decay": "inward by weight decay"}  # columns of geometry.csv
_DIFFERENCES = {  # differences between an embedding and that of its surrogates
    "disparity": "Procrustes disparity from the embedding of the surrogates: 0 is identical, 1 nothing in common",
    "movement": "the same for the displacement of every point from the start of its trajectory",
}
_ABOUT = {  # the first word of a metric's name -> its meaning
    "recalibrated": "The batch-norm statistics were recomputed from the training data.",
    "epoch": "Mean over the steps of the epoch, while the parameters change.",
}


def write_page(runs: Sequence[Path], out: Path | None = None, *, console: Console) -> Path:
    """Write the page of one run, or of several runs side by side, and return its path.

    Damaged tables and embeddings are recomputed first; nothing else is computed.

    Args:
        runs: finished runs of any kind, with or without embeddings.
        out: the file; by default report.html in the run folder, or next to the first run's folder for several runs.
        console: where to print what is recomputed.

    Raises:
        FileNotFoundError: if a run has no finished trajectories.
        ValueError: for no runs, or a run that is named twice.
        OSError: if the file cannot be written.
    """
    page = read_page(runs, console=console)
    folders = [RunFolder(run) for run in runs]
    path = out or (folders[0].page if len(folders) == 1 else folders[0].absolute().parent / folders[0].page.name)
    write_text(path, render(page))
    return path


def read_page(runs: Sequence[Path], *, console: Console) -> Page:
    """Return the contents of the page of runs; arguments and errors are those of `write_page`."""
    folders = [RunFolder(run) for run in runs]
    if not folders or len({run.absolute() for run in folders}) < len(folders):
        raise ValueError(f"runs must name one or more runs, each once, got {' '.join(map(str, folders)) or 'none'}")
    for run in folders:
        run.require_record()
        measure(run, console=console)
        repair_embeddings(run, console=console)
    titles = captions.titles(folders)
    clock = _clock(folders)
    tables = [_read_rows(run, clock) for run in folders]
    palette, hues = _palette(tables)
    return Page(
        title=", ".join(titles),
        runs=[_trajectories(*each) for each in zip(folders, titles, tables, hues, strict=True)],
        palette=palette,
        hue=" or ".join(dict.fromkeys("direction" if run.kind.has_minimum else _group(run) for run in folders)),
        unit=clock,
        note=captions.data(folders),
        tables=_tables(folders, titles),
        facts=[fact for run, title in zip(folders, titles, strict=True) for fact in _facts(run, title)],
        commands=[*dict.fromkeys(line for run in folders for line in commands(run)), _own_command(folders)],
        stills=[still for run, title in zip(folders, titles, strict=True) for still in _stills(run, title)],
    )


def _stills(run: RunFolder, title: str) -> Iterator[Still]:
    """Yield a figure of each measurement of the landscape that was drawn."""
    for measurement in measurements(run):
        files = [run.figures / f"{name}.png" for name in measurement.pictures]
        if file := next((file for file in files if file.exists()), None):
            yield Still(f"{title}: {measurement.kind} {measurement.name}", file.read_bytes(), measurement.words)


class _Rows(NamedTuple):
    """The tables of a run, joined by row; the rows of a member are contiguous and in the order of time."""

    columns: Columns  # member, epoch, time, metrics and geometry
    hue: np.ndarray  # (n,) the labels that hues stand for
    step_size: np.ndarray | None  # (n,)
    metrics: frozenset[str]  # the names of the columns that are metrics of snapshots
    measured: np.ndarray  # (n,) whether distances are known, which requires finite parameters


def _read_rows(run: RunFolder, clock: str) -> _Rows:
    geometry = read_table(run, run.geometry)
    metrics = _metrics(run)
    joined: dict[tuple[int, int], dict[str, Any]] = {}
    for table in (metrics, geometry):
        for row, key in enumerate(zip(table.get("member", ()), table.get("epoch", ()), strict=True)):
            joined.setdefault((int(key[0]), int(key[1])), {}).update({name: table[name][row] for name in table})
    controls = _controls(run, joined.values())
    keys = sorted(key for key in joined if key[0] not in controls)
    names = dict.fromkeys([*metrics, *geometry])
    columns = {name: np.array([joined[key].get(name, np.nan) for key in keys]) for name in names}
    has_minimum = run.kind.has_minimum
    columns["time"] = _times(run, columns, clock)
    return _Rows(
        columns,
        hue=columns["seed" if has_minimum else _group(run)],
        step_size=rounded_step_size(columns["step_size"]) if has_minimum else None,
        metrics=frozenset(metrics) - {*geometry, *_LABELS},
        measured=np.isfinite(columns["norm"]),
    )


def _controls(run: RunFolder, rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the unperturbed copies, if others are perturbed: they only show the drift of the minimum."""
    if not run.kind.has_minimum:
        return set()
    steps = {int(row["member"]): float(row["step_size"]) for row in rows}
    unperturbed = {member for member, step in steps.items() if step == 0}
    return unperturbed if len(unperturbed) < len(steps) else set()


def _metrics(run: RunFolder) -> Columns:
    """Return the metrics of all snapshots, {} if there are none; members of joint runs are numbered consecutively."""
    _, sources = read_sources(run)
    tables, first = [], 0
    for name, source in zip(run_names([source.run for source in sources]), sources, strict=True):
        if source.run.metrics.exists():
            table = read_metrics(source.run)
            if run.kind is JOINT:  # joint runs have no controls
                shown = ~np.isin(table["member"], list(set(source.members) - set(source.shown)))
                table = {name: values[shown] for name, values in table.items()}
            member = table["member"] + first
            tables.append(
                table | {"member": member} | ({"run": np.full(len(member), name)} if len(sources) > 1 else {})
            )
        first += source.store.num_members
    if len(tables) < 2:
        return tables[0] if tables else {}
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    numbers = dict.fromkeys(name for table in tables for name in table if table[name].dtype.kind in "if")
    return join_tables(tables, dict.fromkeys([*shared, *numbers]))


def _group(run: RunFolder) -> str:
    return group_of(run.settings(run.kind.stage))


def _clock(runs: Sequence[RunFolder]) -> str:
    """Return the common unit of time of all runs; snapshots if their units differ."""
    units = {"epoch" if run.kind.has_minimum or run.kind is COMPARED else "step" for run in runs}
    return units.pop() if len(units) == 1 else "snapshot"


def _times(run: RunFolder, columns: Columns, clock: str) -> np.ndarray:
    if run.kind.has_minimum or clock == "snapshot":
        return columns["epoch"].astype(float)
    updates = columns["update"].astype(float)
    return updates / run.number("steps_per_epoch") if run.kind is COMPARED else updates


def _palette(tables: Sequence[_Rows]) -> tuple[Palette, list[list[str]]]:
    """Return the colours of all runs, and the hue label of each row of each run."""
    kinds = {table.hue.dtype.kind in "iu" for table in tables}
    hues = [table.hue if kinds == {True} else table.hue.astype(str) for table in tables]
    sizes = [table.step_size for table in tables if table.step_size is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more labels than hues; the legend shows which labels share a hue
        colors = make_palette(np.concatenate(hues), np.concatenate(sizes) if sizes else np.zeros(1), np.zeros(1))
    palette = Palette(
        hues={str(label): _colors(shade(color, [0, 0.5, 1])) for label, color in colors.directions.items()},
        step_sizes=colors.step_sizes if sizes else {},
        scale=_colors(colormaps[SCALE](np.linspace(0, 1, _SCALE_COLORS))[:, :3]),
        ink=INK,
        grey=GREY,
        frame=FRAME,
        minimum=MINIMUM,
    )
    return palette, [[str(label) for label in each.tolist()] for each in hues]


def _colors(values: np.ndarray) -> list[tuple[float, float, float]]:
    return [(red, green, blue) for red, green, blue in values.round(4).tolist()]


def _trajectories(run: RunFolder, title: str, rows: _Rows, hue: list[str]) -> Trajectories:
    firsts = first_rows(rows.columns["member"])
    panel = exact_panel(run)
    return Trajectories(
        title=title,
        member=rows.columns["member"].astype(int),
        time=rows.columns["time"],
        hue=[hue[row] for row in firsts],
        step_size=None if rows.step_size is None else rows.step_size[firsts],
        begin=run.kind.begin,
        columns=[*_losses(rows), Column("norm of the parameters", rows.columns["norm"].astype(float))],
        exact=None if panel is None else _exact(run, panel, rows),
        embeddings=[_embedding(run, setting, rows) for setting in embeddings(run)],
        note=captions.about(run),
    )


def _losses(rows: _Rows) -> list[Column]:
    """Return the metrics as columns, losses first, then the parts of the way back due to weight decay and the loss."""
    names = [
        name
        for name, values in rows.columns.items()
        if name in rows.metrics and values.dtype.kind in "if" and np.isfinite(values.astype(float)).any()
    ]

    def order(name: str) -> tuple[bool, bool, bool, bool, str]:
        return not name.endswith("loss"), "recalibrated" in name, "train" not in name, "test" not in name, name

    measured = [
        Column(_metric_words(name), rows.columns[name].astype(float), _ABOUT.get(name.partition("_")[0], ""))
        for name in sorted(names, key=order)
    ]
    split = [
        Column(label, rows.columns[name].astype(float), f"{_capital(STATISTICS[name])}.")
        for name, label in _SPLIT.items()
        if name in rows.columns and np.nan_to_num(rows.columns[name].astype(float)).any()
    ]
    return measured + split


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _metric_words(name: str) -> str:
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def _exact(run: RunFolder, panel: ExactPanel, rows: _Rows) -> Exact:
    place = _places(rows, panel)

    words = ""
    if run.kind.has_minimum:
        words, others = count_words(panel)
        words += f" ({', '.join(others)})" if others else ""
    sides = _sides(panel) if panel.begin == "jump" else {}
    firsts = first_rows(rows.columns["member"])
    return Exact(
        distance=_at(place, panel.distance),
        angle=_at(place, panel.angle),
        side=np.array([sides.get(member, 1.0) for member in rows.columns["member"][firsts].tolist()]),
        surrogates=[
            Surrogate(each.label, _at(place, each.distance), _at(place, each.angle), each.is_random)
            for each in panel.surrogates
        ],
        heading=words,
        unit=panel.length,
    )


def _sides(panel: ExactPanel) -> dict[Hashable, float]:
    """Return the side of its spoke, 1 or -1, for each trajectory, so that those of a direction cross little."""
    sides: dict[Hashable, float] = {}
    by_direction: dict[Hashable, list[tuple[Hashable, np.ndarray]]] = {}
    for member, own in rows_by_member(panel).items():
        by_direction.setdefault(panel.seed[own[0]].item(), []).append((member, own))
    for same in by_direction.values():
        same.sort(key=lambda each: float(panel.distance[each[1][0]]))
        upper = [places_of(panel.distance[own], panel.angle[own]) for _, own in same]  # the spoke to the right
        lower = [points * [1, -1] for points in upper]
        for (member, _), mirrored in zip(same, choose_sides(upper, lower), strict=True):
            sides[member] = -1.0 if mirrored else 1.0
    return sides


def _places(rows: _Rows, panel: ExactPanel | Panel) -> np.ndarray:
    """Return the index in a panel of each row of the page; -1 if the panel lacks the row.

    A panel has exactly the rows whose distances are known, in the same order, whatever its unit of time.
    """
    place = np.full(len(rows.measured), -1)
    for member, own in rows_by_member(panel).items():
        here = np.flatnonzero((rows.columns["member"] == member) & rows.measured)
        place[here[: len(own)]] = own[: len(here)]
    return place


def _embedding(run: RunFolder, setting: str, rows: _Rows) -> Embedding:
    [panel] = comparison_panels([run], setting)
    diagnostics = read_diagnostics(run, setting)
    boxes = None
    if panel.embedding.shape[1] in (2, 3):
        panel, boxes = put_in_boxes(checked_panel(panel))
    place = _places(rows, panel)
    points = _at(place, panel.embedding)[:, :3]
    minimum = None if panel.minimum is None else np.asarray(panel.minimum, float)[:3]
    if points.shape[1] == 1:
        points, minimum = np.pad(points, ((0, 0), (0, 1))), None if minimum is None else np.pad(minimum, (0, 1))
    return Embedding(
        name=setting,
        label=_tab(diagnostics["setting"], points.shape[1]),
        points=points,
        minimum=minimum,
        caption=describe_embedding(run, setting),
        is_disconnected=diagnostics.get("n_connected_components", 1) > 1,
        part=None if boxes is None else _at(place, panel.component),
        boxes=None if boxes is None else np.column_stack([boxes.corners, np.full(len(boxes.corners), boxes.side)]),
        words=trust_words(diagnostics),
    )


def _at(place: np.ndarray, values: Any) -> np.ndarray:
    """Return the values of a panel in the rows of the page; NaN for rows that the panel lacks."""
    known = np.asarray(values, float)
    return np.append(known, np.full((1, *known.shape[1:]), np.nan), axis=0)[place]


def _tab(config: Mapping[str, Any], dimensions: int) -> str:
    """Return a short name that distinguishes an embedding from the others of a run."""
    method = METHODS[config["method"]]
    words = [method.words, config["metric"]] if config["metric"] != method.metric else [method.words]
    words += [f"from the {config['center']}"] if config["metric"] == "cosine" and config["center"] != "none" else []
    words += [f"knn {config['knn']}"] if method.has_kernel else []
    words += [f"{dimensions}-D"] if dimensions > 2 else []
    words += [NULLS[config["null"]].words] if config["null"] else []
    return ", ".join([*words, *(f"seed {seed}" for seed in config["only_seeds"]), *config["only_optimizers"]])


def trust_words(diagnostics: Mapping[str, Any]) -> str:
    """Return how far an embedding can be trusted, in at most two lines; "" if nothing was measured."""
    entries = (diagnostics.get(name) for name in ("fidelity", "surrogate"))
    fidelity, surrogates = (each if isinstance(each, dict) else {} for each in entries)
    phrases = ["Degenerate"] if diagnostics.get("degenerate") else []
    if _is_number(fidelity.get("rank")):
        phrases.append(f"Distances preserved {_well(fidelity['rank'])} (rank correlation {fidelity['rank']:.2f})")
    if _is_number(fidelity.get("radius")):
        phrases.append(f"radii {_well(fidelity['radius'])} ({fidelity['radius']:.2f})")
    if _is_number(fidelity.get("inward")):
        phrases.append(f"nearer or farther correct for {fidelity['inward']:.0%}")
    if surrogates.get("same"):
        phrases.append(f"{null_words(surrogates)} draws the same")
    return f"{', '.join(phrases)}." if phrases else ""


def _well(correlation: float) -> str:
    """Grade a rank correlation by an adverb."""
    return (
        "well"
        if correlation >= 0.9
        else "roughly"
        if correlation >= 0.7
        else "partly"
        if correlation >= 0.4
        else "badly"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _tables(runs: Sequence[RunFolder], titles: Sequence[str]) -> list[Table]:
    reports = [run.read_report() for run in runs]
    tables = [_geometry_table(reports, titles), _minima_table(reports, titles), _fidelity_table(runs, titles)]
    return [table for table in tables if table is not None]


def _geometry_table(reports: Sequence[dict[str, Any]], titles: Sequence[str]) -> Table | None:
    """Return a table of each statistic beside that of the surrogates it is compared with."""
    meanings: dict[str, str] = {}
    columns: dict[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {}
    for report, title in zip(reports, titles, strict=True):
        meanings |= report.get("statistics", {})
        for group, geometry in (groups(report) or {"": report.get("geometry", {})}).items():
            name = title if not group else group if len(reports) == 1 else f"{title}, {group}"
            if "real" in geometry:
                columns[name] = geometry, BESIDE_WITHOUT_MINIMUM if group else BESIDE
    names = [name for name in meanings if any(name in geometry["real"] for geometry, _ in columns.values())]
    if not names:
        return None
    rows = []
    for name in names:
        kinds = dict.fromkeys(kind for _, of in columns.values() if (kind := of.get(name)))
        cells = [(_mean(geometry["real"].get(name)), _beside(geometry, of, name)) for geometry, of in columns.values()]
        words = " or ".join(NULLS[kind].words for kind in kinds)
        rows.append((name, *(cell for pair in cells for cell in pair), words or "none"))
    headings = ["", *(heading for name in columns for heading in (name, "surrogate")), "which surrogate"]
    drifts = [
        f"{title}: {words}." for report, title in zip(reports, titles, strict=True) if (words := describe_drift(report))
    ]
    note = (
        "Mean ± standard deviation over trajectories, and the mean of the surrogates that each statistic is compared "
        f"with. {' '.join(drifts)}"
    )
    kinds = dict.fromkeys(kind for _, of in columns.values() for name in names if (kind := of.get(name)))
    about = {NULLS[kind].words: f"preserves {NULLS[kind].keeps}; removes {NULLS[kind].removes}" for kind in kinds}
    return Table(
        "Statistics of the trajectories", headings, rows, note.strip(), {name: meanings[name] for name in names} | about
    )


def _beside(geometry: Mapping[str, Any], kinds: Mapping[str, str], name: str) -> str:
    summary = beside(geometry, kinds[name], name) if name in kinds else None
    return f"{summary['mean']:.3f}" if summary else "-"


def _mean(values: Any) -> str:
    if not isinstance(values, dict) or not values.get("n") or not _is_number(values.get("mean")):
        return "-"
    return f"{values['mean']:.3f} ± {values['std']:.3f}" if _is_number(values.get("std")) else f"{values['mean']:.3f}"


def _minima_table(reports: Sequence[dict[str, Any]], titles: Sequence[str]) -> Table | None:
    minima = {title: report["minimum"] for title, report in zip(titles, reports, strict=True) if report.get("minimum")}
    names = dict.fromkeys(name for minimum in minima.values() for name in minimum)
    rows = [(_metric_words(name), *(_short(minimum.get(name)) for minimum in minima.values())) for name in names]
    return Table("The minima" if len(minima) > 1 else "The minimum", ("", *minima), rows) if rows else None


def _fidelity_table(runs: Sequence[RunFolder], titles: Sequence[str]) -> Table | None:
    measured: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for run, title in zip(runs, titles, strict=True):
        for setting in embeddings(run):
            diagnostics = read_diagnostics(run, setting)
            fidelity, surrogate = diagnostics.get("fidelity"), diagnostics.get("surrogate")
            if isinstance(fidelity, dict):
                differences = (
                    {name: surrogate.get(name) for name in _DIFFERENCES} if isinstance(surrogate, dict) else {}
                )
                measured[setting, title, ""] = fidelity | differences
            if isinstance(surrogate, dict) and isinstance(surrogate.get("fidelity"), dict):
                measured[setting, title, f"{surrogate.get('kind')} surrogate"] = surrogate["fidelity"]
    meanings = MEANINGS | _DIFFERENCES
    names = [name for name in meanings if any(_is_number(row.get(name)) for row in measured.values())]
    if not names:
        return None
    order = sorted(measured, key=lambda each: (each[0], titles.index(each[1]), each[2]))
    rows = [
        (
            setting,
            ", ".join(filter(None, (title if len(titles) > 1 else "", kind))),
            *(_short(measured[setting, title, kind].get(name)) for name in names),
        )
        for setting, title, kind in order
    ]
    headings = ("embedding", "of", *(name.replace("_", " ") for name in names))
    return Table(
        "Fidelity of the embeddings",
        headings,
        rows,
        meanings={name.replace("_", " "): meanings[name] for name in names},
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else "-"


def _facts(run: RunFolder, title: str) -> list[Fact]:
    """Return the settings of each stage, the environment, the timings, and the trajectories that diverged."""
    record = run.read_config()
    sections = [("described", captions.describe(run))]
    sections += [(stage, record[stage]) for stage in STAGES if isinstance(record.get(stage), dict)]
    environment = record.get("environment", {})
    versions = environment.get("versions", {}) if isinstance(environment, dict) else {}
    rest = {name: value for name, value in environment.items() if name != "versions"}
    sections += [("versions and device", {**rest, **versions}), ("seconds", run.timings())]
    facts = [
        Fact(f"{title}: {name}", [(str(key), _setting(value)) for key, value in values.items()])
        for name, values in sections
        if values
    ]
    diverged = run.read_report().get("diverged") or []
    lines = [(f"trajectory {each.get('member')}", f"diverged in epoch {each.get('epoch')}") for each in diverged]
    return facts + ([Fact(f"{title}: left out of distances and pictures", lines)] if lines else [])


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _own_command(runs: Sequence[RunFolder]) -> str:
    return " ".join(map(shlex.quote, ["jaxscape", "report", *map(str, runs)]))

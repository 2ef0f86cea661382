"""The stage `report`: one run, or several side by side, as an HTML page."""

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
from jaxscape.runs.methods import BESIDE, BESIDE_WITHOUT_MINIMUM, METHODS, NULLS
from jaxscape.runs.plot import comparison_panels, describe_embedding
from jaxscape.runs.recorded import read_metrics
from jaxscape.runs.sources import read_sources, run_names
from jaxscape.runs.tables import Columns, join_tables, read_table

_LABELS = ("member", "seed", "step_size", "epoch", "update", "finite", "run")
_SCALE_COLORS = 24  # a perceptually uniform scale is nearly straight between so many
_WORDS = {"train": "training"}  # parts of the names of metrics that are told in full
_SPLIT = {"inward_loss": "inward by the loss", "inward_decay": "inward by weight decay"}  # columns of geometry.csv
_UNLIKE = {  # how an embedding differs from that of its surrogates
    "disparity": "difference from the picture of surrogates, after Procrustes: 0 is the same, 1 nothing in common",
    "movement": "the same of every point seen from the start of its trajectory",
}
_ABOUT = {  # what the first word of a metric means
    "recalibrated": "The batch statistics were computed anew from the training data.",
    "epoch": "Mean over the steps of the epoch, while the parameters moved.",
}


def write_page(runs: Sequence[Path], out: Path | None = None, *, console: Console) -> Path:
    """Write the page of one run, or of several side by side, and return its path.

    Tables and embeddings that are damaged are made again first; nothing else is computed.

    Args:
        runs: finished runs of any kind, with or without embeddings.
        out: the file; by default report.html in the run folder, of several runs beside the first one's folder.
        console: where to say what is made again.

    Raises:
        FileNotFoundError: where a run has no finished trajectories.
        ValueError: for no runs, or one that is named twice.
        OSError: where the file cannot be written.
    """
    page = read_page(runs, console=console)
    folders = [RunFolder(run) for run in runs]
    path = out or (folders[0].page if len(folders) == 1 else folders[0].absolute().parent / folders[0].page.name)
    write_text(path, render(page))
    return path


def read_page(runs: Sequence[Path], *, console: Console) -> Page:
    """Return what the page of runs shows; arguments and errors as for `write_page`."""
    folders = [RunFolder(run) for run in runs]
    if not folders or len({run.absolute() for run in folders}) < len(folders):
        raise ValueError(f"runs must be one or more, each once, got {' '.join(map(str, folders)) or 'none'}")
    for run in folders:
        run.require_record()
        measure(run, console=console)
        repair_embeddings(run, console=console)
    titles = _titles(folders)
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
    """A picture of each measurement of the landscape that was drawn."""
    for found in measurements(run):
        files = [run.figures / f"{name}.png" for name in found.pictures]
        if file := next((file for file in files if file.exists()), None):
            yield Still(f"{title}: {found.kind} {found.name}", file.read_bytes(), found.words)


class _Rows(NamedTuple):
    """All that tables say of each row: the rows of a member stand together, in the order of time."""

    columns: Columns  # member, epoch, time, and what is measured
    hue: np.ndarray  # (n,) labels of one kind
    step_size: np.ndarray | None  # (n,)
    metrics: frozenset[str]  # the names of the columns that were measured at snapshots
    measured: np.ndarray  # (n,) whether distances are known: the parameters are finite


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
    """The copies that were not perturbed, where others were: they show the drift of the minimum alone."""
    if not run.kind.has_minimum:
        return set()
    steps = {int(row["member"]): float(row["step_size"]) for row in rows}
    still = {member for member, step in steps.items() if step == 0}
    return still if len(still) < len(steps) else set()


def _metrics(run: RunFolder) -> Columns:
    """What was measured at each snapshot; {} where nothing was. Members of joint runs are counted on."""
    _, sources = read_sources(run)
    tables, first = [], 0
    for name, source in zip(run_names([source.run for source in sources]), sources, strict=True):
        if source.run.metrics.exists():
            table = read_metrics(source.run)
            if run.kind is JOINT:  # controls stand beside no other run
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
    """The unit of time of all runs: where they differ, snapshots are counted."""
    units = {"epoch" if run.kind.has_minimum or run.kind is COMPARED else "step" for run in runs}
    return units.pop() if len(units) == 1 else "snapshot"


def _times(run: RunFolder, columns: Columns, clock: str) -> np.ndarray:
    if run.kind.has_minimum or clock == "snapshot":
        return columns["epoch"].astype(float)
    updates = columns["update"].astype(float)
    return updates / run.number("steps_per_epoch") if run.kind is COMPARED else updates


def _titles(runs: Sequence[RunFolder]) -> list[str]:
    """The name of each run; those of their folders, or the paths of these, where names repeat."""
    titles = [captions.title(run) for run in runs]
    return titles if len(set(titles)) == len(titles) else run_names(list(runs))


def _palette(tables: Sequence[_Rows]) -> tuple[Palette, list[list[str]]]:
    """The colours of all runs, and the label of each row of each run."""
    kinds = {table.hue.dtype.kind in "iu" for table in tables}
    hues = [table.hue if kinds == {True} else table.hue.astype(str) for table in tables]
    sizes = [table.step_size for table in tables if table.step_size is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more labels than hues: those that share one stand in the legend
        found = make_palette(np.concatenate(hues), np.concatenate(sizes) if sizes else np.zeros(1), np.zeros(1))
    palette = Palette(
        hues={str(label): _colors(shade(color, [0, 0.5, 1])) for label, color in found.directions.items()},
        step_sizes=found.step_sizes if sizes else {},
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
    """What was measured at snapshots, losses first; then the shares of weight decay and of the loss in the way back."""
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
            Surrogate(each.label, _at(place, each.distance), _at(place, each.angle)) for each in panel.surrogates
        ],
        heading=words,
        unit=panel.length,
    )


def _sides(panel: ExactPanel) -> dict[Hashable, float]:
    """On which side of its spoke each trajectory lies: those of one direction cross as little as they can."""
    found: dict[Hashable, float] = {}
    of_direction: dict[Hashable, list[tuple[Hashable, np.ndarray]]] = {}
    for member, own in rows_by_member(panel).items():
        of_direction.setdefault(panel.seed[own[0]].item(), []).append((member, own))
    for same in of_direction.values():
        same.sort(key=lambda each: float(panel.distance[each[1][0]]))
        upper = [places_of(panel.distance[own], panel.angle[own]) for _, own in same]  # the spoke to the right
        lower = [points * [1, -1] for points in upper]
        for (member, _), mirrored in zip(same, choose_sides(upper, lower), strict=True):
            found[member] = -1.0 if mirrored else 1.0
    return found


def _places(rows: _Rows, panel: ExactPanel | Panel) -> np.ndarray:
    """The row of a panel that each row of the page is, -1 where the panel has none.

    Panels have the rows whose distances are known, in their order, whatever they count time in.
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
    """The values of a panel's rows in the rows of the page, NaN where the panel has none."""
    known = np.asarray(values, float)
    return np.append(known, np.full((1, *known.shape[1:]), np.nan), axis=0)[place]


def _tab(asked: Mapping[str, Any], dimensions: int) -> str:
    """A few words that tell an embedding from the others of a run."""
    method = METHODS[asked["method"]]
    words = [method.words, asked["metric"]] if asked["metric"] != method.metric else [method.words]
    words += [f"from the {asked['center']}"] if asked["metric"] == "cosine" and asked["center"] != "none" else []
    words += [f"knn {asked['knn']}"] if method.has_kernel else []
    words += [f"{dimensions}-D"] if dimensions > 2 else []
    words += [NULLS[asked["null"]].words] if asked["null"] else []
    return ", ".join([*words, *(f"seed {seed}" for seed in asked["only_seeds"]), *asked["only_optimizers"]])


def trust_words(diagnostics: Mapping[str, Any]) -> str:
    """Return how far an embedding can be trusted, in two lines at most; "" where nothing was measured."""
    found = (diagnostics.get(name) for name in ("fidelity", "surrogate"))
    kept, of_surrogates = (each if isinstance(each, dict) else {} for each in found)
    told = ["Degenerate"] if diagnostics.get("degenerate") else []
    if _is_number(kept.get("rank")):
        told.append(f"Distances kept {_well(kept['rank'])} (rank correlation {kept['rank']:.2f})")
    if _is_number(kept.get("radius")):
        told.append(f"radii {_well(kept['radius'])} ({kept['radius']:.2f})")
    if _is_number(kept.get("inward")):
        told.append(f"nearer or farther right for {kept['inward']:.0%}")
    if of_surrogates.get("same"):
        told.append("surrogates draw the same")
    return f"{', '.join(told)}." if told else ""


def _well(correlation: float) -> str:
    """A correlation in a word: above 0.9 a picture of it would be called right, below 0.5 wrong more than right."""
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
    found = [_geometry_table(reports, titles), _minima_table(reports, titles), _fidelity_table(runs, titles)]
    return [table for table in found if table is not None]


def _geometry_table(reports: Sequence[dict[str, Any]], titles: Sequence[str]) -> Table | None:
    """Each statistic beside that of the surrogates which answer its question."""
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
        "Mean ± standard deviation over trajectories, and the mean of the surrogates that answer the question of a "
        f"statistic. {' '.join(drifts)}"
    )
    kinds = dict.fromkeys(kind for _, of in columns.values() for name in names if (kind := of.get(name)))
    about = {NULLS[kind].words: f"keeps {NULLS[kind].keeps}; removes {NULLS[kind].removes}" for kind in kinds}
    return Table(
        "What the trajectories do", headings, rows, note.strip(), {name: meanings[name] for name in names} | about
    )


def _beside(geometry: Mapping[str, Any], kinds: Mapping[str, str], name: str) -> str:
    found = beside(geometry, kinds[name], name) if name in kinds else None
    return f"{found['mean']:.3f}" if found else "-"


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
            kept, other = diagnostics.get("fidelity"), diagnostics.get("surrogate")
            if isinstance(kept, dict):
                unlike = {name: other.get(name) for name in _UNLIKE} if isinstance(other, dict) else {}
                measured[setting, title, ""] = kept | unlike
            if isinstance(other, dict) and isinstance(other.get("fidelity"), dict):
                measured[setting, title, f"{other.get('kind')} surrogate"] = other["fidelity"]
    meanings = MEANINGS | _UNLIKE
    names = [name for name in meanings if any(_is_number(kept.get(name)) for kept in measured.values())]
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
        "What each embedding keeps of its distances",
        headings,
        rows,
        meanings={name.replace("_", " "): meanings[name] for name in names},
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else "-"


def _facts(run: RunFolder, title: str) -> list[Fact]:
    """Settings of each stage, what ran where, and who diverged."""
    record = run.read_config()
    found = [("described", captions.describe(run))]
    found += [(stage, record[stage]) for stage in STAGES if isinstance(record.get(stage), dict)]
    environment = record.get("environment", {})
    versions = environment.get("versions", {}) if isinstance(environment, dict) else {}
    rest = {name: value for name, value in environment.items() if name != "versions"}
    found += [("versions and device", {**rest, **versions}), ("seconds", run.timings())]
    facts = [
        Fact(f"{title}: {name}", [(str(key), _setting(value)) for key, value in values.items()])
        for name, values in found
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

"""The stage between training and figures: the Gram matrix, geometry compared with its nulls, and the report.

All of this is computed from the trajectories within seconds. It is recomputed whenever they have been extended, and
whenever a part of it is missing or damaged.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jaxscape.runs.arrays import load_arrays, save_arrays
from jaxscape.runs.config import CompareSettings, RetrainSettings
from jaxscape.runs.embeddings import summarize_embeddings
from jaxscape.runs.folder import JOINT, RECORDED, RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.methods import BESIDE, BESIDE_WITHOUT_MINIMUM
from jaxscape.runs.minimum import read_accuracy, read_minimum
from jaxscape.runs.null import NULL_DRAWS, NULL_KIND, Nulls, nulls_of
from jaxscape.runs.processes import check_devices
from jaxscape.runs.sources import Source, join_columns, read_sources
from jaxscape.runs.tables import Columns, check_table, write_table
from jaxscape.trajectories.drift import drift
from jaxscape.trajectories.files import to_json
from jaxscape.trajectories.geometry import Geometry, meanings, trajectory_geometry, trajectory_rows
from jaxscape.trajectories.gram import IncrementGram, gram, take_points
from jaxscape.trajectories.null import split_displacements

PyTree = Any

# Statistics of copies beyond their geometry: the drift of the minimum, and the effect of weight decay.
_EXTRA = {
    "return_drift": "1 - d(end) / jump, d the distance from the mean of the unperturbed copies at that epoch",
    "inward_decay": "way back along the jump due to weight decay / jump",
    "inward_loss": "way back along the jump due to the gradient of the loss / jump",
    "loss_cosine": "cosine between the gradient's part of the displacement and the way back",
}

# The statistics of the tables, in their order, with their meanings.
STATISTICS = meanings(has_minimum=True) | _EXTRA
COMPARED = meanings(has_minimum=False)


class Measured(NamedTuple):
    """The contents of gram.npz: the Gram matrix of a run's trajectories and the labels of its rows."""

    gram: IncrementGram
    labels: dict[str, np.ndarray]  # member, seed, step_size, epoch, update: (n,) each
    fingerprint: str  # of the trajectories
    lineage: str  # the fingerprint without the number of epochs


def measure(run: Path, *, console: Console) -> Measured:
    """Return the Gram matrix of a run's trajectories; makes gram.npz, geometry.csv and report.json complete.

    Each of these files that is missing, damaged or from other trajectories is recomputed.

    Raises:
        FileNotFoundError: if there are no finished trajectories.
        ValueError: if every member has diverged, or the trajectories are damaged.
        OSError: if the run folder cannot be written to.
    """
    run = RunFolder(run)
    settings, sources = read_sources(run)  # unfinished trajectories are rejected, even if results exist
    measured = _load(run, console)
    if not _is_current(measured, run, sources) or not _has_tables(run, console):
        with writing(run, wait=console):
            # Another process may have extended or measured the trajectories in the meantime.
            settings, sources = read_sources(run)
            silent = Console(quiet=True)  # damage has been reported already
            measured = _load(run, silent)
            if not _is_current(measured, run, sources):
                measured = _measure_trajectories(run, sources, measured, console)
            assert measured is not None
            if not _has_tables(run, silent):
                _write_tables(run, settings, sources, measured)
    complete_report(run, console=console)
    assert measured is not None
    return measured


def perturbed(measured: Measured) -> Measured:
    """Return the perturbed copies, without the controls (step size 0) if a run has both."""
    steps = measured.labels.get("step_size")
    if not measured.gram.has_reference or steps is None or not steps.any() or steps.all():
        return measured
    rows = np.flatnonzero(steps)
    labels = {name: values[rows] for name, values in measured.labels.items()}
    return measured._replace(gram=take_points(measured.gram, rows), labels=labels)


def _is_current(measured: Measured | None, run: RunFolder, sources: list[Source]) -> bool:
    """Return whether the Gram matrix is that of the current trajectories."""
    if measured is None or measured.fingerprint != run.fingerprint():
        return False
    if run.kind not in (RECORDED, JOINT):
        return True
    # The record of the settings does not change when a recorded training grows.
    return measured.gram.num_points == sum(len(source.shown) * source.store.num_epochs for source in sources)


def complete_report(run: Path, *, console: Console) -> None:
    """Add missing embeddings and timings of the run folder to report.json."""
    run = RunFolder(run)
    report = run.read_report()
    complete = report | {"embeddings": summarize_embeddings(run), "timings": run.timings()}
    if to_json(complete) != report:
        with writing(run, wait=console):
            run.write_report(complete)


def _has_tables(run: RunFolder, console: Console) -> bool:
    """Return whether geometry.csv and report.json are complete and from the current trajectories."""
    try:
        check_table(run, run.geometry)
        return run.read_report(sealed=True).get("fingerprint") == run.fingerprint()
    except FileNotFoundError:
        return False
    except ValueError as error:
        console.print(f"{error}; it is recomputed")
        return False


def _measure_trajectories(
    run: RunFolder, sources: list[Source], previous: Measured | None, console: Console
) -> Measured:
    check_devices()
    started = time.monotonic()
    if run.kind is RECORDED:
        run.record_values(snapshots=sources[0].store.num_epochs - 1)
    lineage = run.fingerprint(epochs=False)
    if previous is not None and previous.lineage != lineage:
        previous = None
    minimum = read_minimum(run).params if run.kind.has_minimum else None
    with console.status(f"{run.name}: distances"):
        products, labels = _products(sources, minimum, previous, joint=run.kind is JOINT)
    measured = Measured(products, labels, run.fingerprint(), lineage)
    _save(run, measured)
    run.record_seconds("measure", time.monotonic() - started)
    return measured


def _write_tables(run: RunFolder, settings: Any, sources: list[Source], measured: Measured) -> None:
    """Compute and write geometry.csv and report.json."""
    started = time.monotonic()
    if isinstance(settings, RetrainSettings):
        copies = perturbed(measured)
        nulls = nulls_of(run, copies.gram, copies.labels)
        numbers, columns = _copies_report(measured, copies, nulls)
        numbers = {"minimum": read_accuracy(run)[1], **numbers}
    else:
        numbers = _groups_report(run, measured, group_of(settings))
        geometry = trajectory_geometry(measured.gram)
        columns = _row_columns(measured.gram, geometry, ("norm", "chord", "movement", "turning"))
    write_table(run, run.geometry, measured.labels | columns)
    run.record_seconds("measure", time.monotonic() - started)
    null = {"kind": NULL_KIND, "draws": NULL_DRAWS}
    epochs = max(source.store.num_epochs for source in sources) - 1
    record = {"fingerprint": run.fingerprint(), "epochs": epochs, "null": null, "diverged": _diverged(sources)}
    run.write_report(numbers | record)  # last: its fingerprint marks the table as complete


def group_of(settings: Any) -> str:
    """Return the label that groups a run's trajectories."""
    return "optimizer" if isinstance(settings, CompareSettings) else settings.group


def _diverged(sources: list[Source]) -> list[dict[str, Any]]:
    return [
        source.store.labels[member] | {"member": member, "epoch": epoch}
        for source in sources
        for member, epoch in source.diverged.items()
    ]


def summarize(values: np.ndarray) -> dict[str, float]:
    """Return mean, standard deviation and number of the finite values."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return {"mean": float("nan"), "std": float("nan"), "n": 0}
    return {"mean": float(defined.mean()), "std": float(defined.std()), "n": len(defined)}


def geometry_table(reports: dict[str, dict[str, Any]]) -> Table:
    """Return a table with two columns per run: mean ± standard deviation over members, and the mean of the nulls."""
    return _table({name: report["geometry"] for name, report in reports.items()}, STATISTICS, BESIDE)


def groups_table(report: dict[str, Any]) -> Table:
    """Return the table for a run without a minimum: two columns per group, such as an optimiser."""
    return _table(groups(report), COMPARED, BESIDE_WITHOUT_MINIMUM)


def groups(report: dict[str, Any]) -> dict[str, Any]:
    """Return the geometry of each group of trajectories by its name; {} for a run around a minimum."""
    geometry = report.get("geometry", {})
    by_group = geometry.get("by_optimizer", geometry.get("by_group", {}))
    return by_group if isinstance(by_group, dict) else {}


def beside(geometry: Mapping[str, Any], kind: str, statistic: str) -> dict[str, Any] | None:
    """Return a statistic of the nulls of a kind, from the geometry of a report; None if the report has none.

    Reports of version 0.1 have only rotated nulls.
    """
    summary = geometry.get("surrogates", {NULL_KIND: geometry["null"]}).get(kind, {}).get(statistic)
    return summary if summary and summary["n"] else None


def describe_drift(report: Mapping[str, Any]) -> str:
    """Describe the drift of the minimum itself in one line; "" if a run has no unperturbed copies."""
    if "drift" not in report:
        return ""
    drifted = report["drift"]
    copies = "unperturbed copy ends" if drifted["copies"] == 1 else "unperturbed copies end"
    return (
        f"{drifted['copies']} {copies} {drifted['over_norm']:.3f} of the minimum's norm away from it, "
        f"{drifted['over_smallest_jump']:.2f} of the smallest jump"
    )


def _table(geometries: dict[str, dict[str, Any]], statistics: Iterable[str], kinds: Mapping[str, str]) -> Table:
    title = f"Geometry: mean±std over members, vs the mean of {NULL_DRAWS} null draws"
    # Without padding, so that three runs fit into 80 columns.
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for name in geometries:
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("null", justify="right", style="dim", no_wrap=True)
    reported = {name for geometry in geometries.values() for name in geometry["real"]}
    measured = [name for name in statistics if name in reported or name not in _EXTRA]
    for kind in dict.fromkeys(kinds.get(name, "") for name in measured):
        table.add_row(f"vs {kind}" if kind else "without null", style="dim italic")
        for statistic in measured:
            if kinds.get(statistic, "") == kind:
                cells = [_cells(geometry, kind, statistic) for geometry in geometries.values()]
                table.add_row(f" {statistic}", *(cell for pair in cells for cell in pair))
    return table


def _cells(geometry: Mapping[str, Any], kind: str, statistic: str) -> tuple[str, str]:
    missing = {"n": 0} if statistic in _EXTRA else None  # any other statistic is missing only in a damaged report
    real, null = geometry["real"].get(statistic, missing), beside(geometry, kind, statistic)
    real_cell = f"{real['mean']:.3f}±{real['std']:.3f}" if real["n"] else "-"
    null_cell = f"{null['mean']:.3f}" if null else "-"
    return real_cell, null_cell


def accuracy_table(reports: dict[str, dict[str, Any]]) -> Table:
    """Return a table with one row per run: the metrics of its minimum."""
    table = Table(title="Minima", box=SIMPLE_HEAD, title_justify="left")
    measured = dict.fromkeys(name for report in reports.values() for name in report["minimum"])
    shown = [name for name in measured if not name.startswith("recalibrated_")]
    shown.sort(key=lambda name: _IMAGE_METRICS.index(name) if name in _IMAGE_METRICS else len(_IMAGE_METRICS))
    for heading in ("", *(name.replace("_", " ").replace("train ", "training ") for name in shown)):
        table.add_column(heading, justify="right" if heading else "left")
    for name, report in reports.items():
        table.add_row(name, *(_number(each, report["minimum"].get(each)) for each in shown))
    return table


_IMAGE_METRICS = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:{'.3f' if name == 'test_loss' else '.4f'}}"


def _products(
    sources: list[Source], minimum: PyTree, previous: Measured | None, *, joint: bool
) -> tuple[IncrementGram, dict[str, np.ndarray]]:
    """Return the Gram matrix of the trajectories without diverged ones, and the labels of its rows."""
    if joint:
        stores, members = [source.store for source in sources], [source.shown for source in sources]
        return gram(stores, members=members), join_columns(sources)
    [source] = sources
    columns = source.columns(source.members)
    if previous is not None and _is_beginning(previous.labels, columns):
        with suppress(ValueError):  # the trajectories were recomputed, perhaps on another machine
            extended = gram(source.store, reference=minimum, members=source.members, previous=previous.gram)
            return extended, columns
    return gram(source.store, reference=minimum, members=source.members), columns


def _is_beginning(short: dict[str, np.ndarray], long: dict[str, np.ndarray]) -> bool:
    """Return whether the rows of `short` are the first rows of `long`, which lacks members that diverged since."""
    return short.keys() == long.keys() and all(
        np.array_equal(values, long[name][: len(values)]) for name, values in short.items()
    )


def _row_columns(products: IncrementGram, geometry: Geometry, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return some quantities of the geometry as columns in the order of the rows."""
    return {name: by_row(products, getattr(geometry, name)) for name in names}


def by_row(products: IncrementGram, values: np.ndarray) -> np.ndarray:
    """Return values [epoch, member] in the order of the rows; the missing end of a shorter trajectory has no rows."""
    rows = trajectory_rows(products) - int(products.has_reference)
    column = np.empty(products.num_points)
    column[rows[rows >= 0]] = values[rows >= 0]
    return column


def _over_jump(distance: np.ndarray) -> np.ndarray:
    """Return distances in units of the jump; NaN for an unperturbed copy (step size 0)."""
    return distance / np.where(distance[0] > 0, distance[0], np.nan)


def _copies_report(measured: Measured, copies: Measured, nulls: Nulls) -> tuple[dict[str, Any], Columns]:
    """Return the report's numbers for the perturbed copies, and the columns of all copies, one value per row."""
    products, geometry = measured.gram, trajectory_geometry(measured.gram)
    names = ("norm", "distance", "petal", "movement", "lateral", "turning", "falling")
    columns = _row_columns(products, geometry, names)
    columns["distance_over_jump"] = by_row(products, _over_jump(geometry.distance))
    is_perturbed = np.isin(measured.labels["member"], copies.labels["member"])

    def add(name: str, values: np.ndarray) -> None:
        """Add values [epoch, member] of the perturbed copies as a column."""
        columns[name] = np.full(len(is_perturbed), np.nan)
        columns[name][is_perturbed] = by_row(copies.gram, values)

    real = trajectory_geometry(copies.gram).summary()
    draws = {kind: [_null_summary(draw, kind, nulls) for draw in nulls.draws(kind)] for kind in _kinds(nulls, BESIDE)}
    drawn = next(nulls.draws(nulls.of_return))
    add("null_distance_over_jump", _over_jump(trajectory_geometry(drawn).distance))
    if nulls.factors is not None:
        split = split_displacements(copies.gram, nulls.factors)
        parts = {"inward_decay": split.decay, "inward_loss": split.gradient, "loss_cosine": split.cosine}
        for name, values in parts.items():
            add(name, values)
        if nulls.of_return == BESIDE["inward_loss"]:
            add("null_inward_loss", split_displacements(drawn, nulls.factors).gradient)
        real |= {name: at_end(values) for name, values in parts.items()}
    numbers: dict[str, Any] = {"null_distance": nulls.of_return}
    if not is_perturbed.all():
        unperturbed = ~is_perturbed[trajectory_rows(products)[0] - 1]
        drifted = drift(products, unperturbed)
        columns["distance_to_drifted"] = by_row(products, drifted.to_mean)
        real["return_drift"] = drifted.returned[~unperturbed]
        norm = float(geometry.norm[0, unperturbed][0])
        numbers["drift"] = {
            "copies": int(unperturbed.sum()),
            "over_norm": drifted.distance / norm,
            "over_smallest_jump": drifted.distance / float(geometry.distance[0, ~unperturbed].min()),
            "spread_over_norm": drifted.spread / norm,
        }
    steps = copies.labels["step_size"][trajectory_rows(copies.gram)[0] - 1]
    by_step_size = {f"{step:g}": _summaries(real, STATISTICS, steps == step) for step in np.unique(steps)}
    numbers["statistics"] = STATISTICS
    numbers["geometry"] = _compare_with_nulls(real, draws, STATISTICS) | {"by_step_size": by_step_size}
    return numbers, columns


def _groups_report(run: RunFolder, measured: Measured, group: str) -> dict[str, Any]:
    values, by_name = measured.labels[group], {}
    for name in dict.fromkeys(values.tolist()):
        rows = np.flatnonzero(values == name)
        labels = {each: column[rows] for each, column in measured.labels.items()}
        nulls = nulls_of(run, take_points(measured.gram, rows), labels, group=group)._replace(seed=0)
        kinds = _kinds(nulls, BESIDE_WITHOUT_MINIMUM, but=("exchange",))
        draws = {kind: [_null_summary(draw, kind, nulls) for draw in nulls.draws(kind)] for kind in kinds}
        by_name[str(name)] = _compare_with_nulls(trajectory_geometry(nulls.gram).summary(), draws, COMPARED)
    geometry = {"by_optimizer": by_name} if group == "optimizer" else {"by_group": by_name, "group": group}
    return {"statistics": COMPARED, "geometry": geometry}


def _kinds(nulls: Nulls, beside: Mapping[str, str], *, but: Sequence[str] = ()) -> list[str]:
    """Return the kinds of null trajectories that statistics are compared with, as far as the run has them."""
    return [kind for kind in dict.fromkeys((NULL_KIND, *beside.values())) if kind not in but and nulls.has(kind)]


def _null_summary(draw: IncrementGram, kind: str, nulls: Nulls) -> dict[str, np.ndarray]:
    summary = trajectory_geometry(draw).summary()
    if draw.has_reference and nulls.factors is not None and BESIDE["inward_loss"] == kind:
        split = split_displacements(draw, nulls.factors)
        summary |= {"inward_loss": at_end(split.gradient), "loss_cosine": at_end(split.cosine)}
    return summary


def at_end(values: np.ndarray) -> np.ndarray:
    """Return the last defined value [member] of values [epoch, member], which are NaN after a trajectory's end."""
    ends = len(values) - 1 - np.argmax(~np.isnan(values[::-1]), axis=0)
    return values[ends, np.arange(values.shape[1])]


def _compare_with_nulls(
    real: dict[str, np.ndarray], draws: Mapping[str, list[dict[str, np.ndarray]]], statistics: Iterable[str]
) -> dict[str, Any]:
    """Summarise the real trajectories and the nulls by kind; "null" repeats the rotated ones, as in version 0.1."""
    surrogates = {
        kind: _summaries({name: np.concatenate([draw[name] for draw in each]) for name in each[0]}, statistics)
        for kind, each in draws.items()
    }
    return {"real": _summaries(real, statistics), "null": surrogates[NULL_KIND], "surrogates": surrogates}


def _summaries(
    values: dict[str, np.ndarray], statistics: Iterable[str], chosen: np.ndarray | slice = slice(None)
) -> dict[str, dict[str, float]]:
    return {name: summarize(values[name][chosen]) for name in statistics if name in values}


def _save(run: RunFolder, measured: Measured) -> None:
    arrays = {name: np.asarray(value) for name, value in measured.gram._asdict().items()}
    labels = {f"label_{name}": values for name, values in measured.labels.items()}
    names = {"fingerprint": np.array(measured.fingerprint), "lineage": np.array(measured.lineage)}
    save_arrays(run.gram, arrays | labels | names)


def _load(run: RunFolder, console: Console) -> Measured | None:
    """Return the contents of gram.npz; None if it is missing, damaged or of an earlier version, and is recomputed."""
    try:
        arrays = load_arrays(run.gram)
    except FileNotFoundError:
        return None
    except ValueError as error:
        console.print(f"{error}; it is recomputed")
        return None
    required = {*IncrementGram._fields, "fingerprint", "lineage", "label_member", "label_epoch", "label_update"}
    if not required <= arrays.keys() | IncrementGram._field_defaults.keys():
        return None
    labels = {name.removeprefix("label_"): arrays[name] for name in arrays if name.startswith("label_")}
    # Single values come back as arrays without dimensions.
    fields: dict[str, Any] = {
        name: arrays[name] if arrays[name].ndim else arrays[name].item()
        for name in IncrementGram._fields
        if name in arrays
    }
    return Measured(IncrementGram(**fields), labels, str(arrays["fingerprint"]), str(arrays["lineage"]))

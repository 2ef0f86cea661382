"""The scale-free positions of a run's copies: a table that is made when it is asked for, and kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from jaxscape.jumps.scale_free import scale_free
from jaxscape.problem import FilterAxis
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.minimum import read_minimum
from jaxscape.runs.progress import make_console
from jaxscape.runs.sources import Source, read_sources
from jaxscape.runs.tables import Columns, read_table, write_table
from jaxscape.trajectories.files import to_json

PyTree = Any

_RECORD = "scale_free"  # in config.json: of which trajectories the table is


class Filters(NamedTuple):
    """What a filter is in the parameters of a problem of one's own."""

    axis: FilterAxis  # as `filter_normalize` takes it
    like: tuple[PyTree, PyTree] | None = None  # parameters and model state, or their shapes: whose paths `axis` knows


class ScaleFreeTable(NamedTuple):
    """Where a run's copies lie once every filter has the norm of the minimum's; one row per copy and epoch."""

    columns: Columns  # member, its labels, epoch, update, scale_free_distance, scale_free_angle (radians)
    norm: float  # of the minimum's parameters that count


def scale_free_table(run: Path, *, filters: Filters | None = None, console: Console | None = None) -> ScaleFreeTable:
    """Return the scale-free positions of a run's copies; scale_free.csv in the run folder keeps them.

    The store is read once, epoch by epoch: two snapshots are held at a time.

    Args:
        run: a finished run of copies around a minimum.
        filters: those of the run's problem; not needed for built-in problems.
        console: where to say what is done.

    Raises:
        FileNotFoundError: where there are no finished trajectories.
        ValueError: for a run without a minimum, a problem of one's own without its filters, or where the trajectories
            are damaged.
        OSError: where the run folder cannot be written to.
    """
    run, console = RunFolder(run), console or make_console(silent=True)
    if not run.kind.has_minimum:
        raise ValueError(f"scale-free distances are those from a minimum, and {run} has none")
    if filters is None:
        if "problem" in run.read_config():
            raise ValueError(
                f"scale-free distances need the filter_axis of the problem of {run}, which is no built-in one; "
                "use Run(path, problem).plot(scale_free=True)"
            )
        filters = Filters(-1)
    _, [source] = read_sources(run)
    # What a function says of each leaf is not recorded: it is the problem's, and a problem has one.
    made_of = {"fingerprint": run.fingerprint(), "filter_axis": "function" if callable(filters.axis) else filters.axis}
    made_of = dict(to_json(made_of))
    if (kept := _kept(run, made_of, console)) is not None:
        return kept
    with console.status(f"{run.name}: scale-free distances"):
        found = _computed(run, source, filters)
    with writing(run, wait=console):
        write_table(run, run.scale_free, found.columns)
        run.record_values(**{_RECORD: made_of | {"norm": found.norm}})  # last: it says that the table is there
    return found


def _kept(run: RunFolder, made_of: Mapping[str, Any], console: Console) -> ScaleFreeTable | None:
    record = run.read_config().get(_RECORD)
    if not isinstance(record, dict):
        return None
    norm = record.get("norm")
    if not isinstance(norm, float) or {name: record.get(name) for name in made_of} != made_of:
        return None
    try:
        return ScaleFreeTable(read_table(run, run.scale_free), norm)
    except FileNotFoundError:
        return None
    except ValueError as error:
        console.print(f"{error}; it is made again")
        return None


def _computed(run: RunFolder, source: Source, filters: Filters) -> ScaleFreeTable:
    store, members, minimum = source.store, source.members, read_minimum(run, like=filters.like).params
    like = None if filters.like is None else filters.like[0]

    def snapshot(epoch: int) -> object:
        return jax.tree.map(lambda leaf: leaf[0], store.read(epochs=epoch, members=members, like=like))

    starts = snapshot(0)
    found = [
        scale_free(snapshot(epoch), minimum, starts, filter_axis=filters.axis) for epoch in range(store.num_epochs)
    ]
    columns = {
        "scale_free_distance": np.concatenate([each.distance for each in found]),
        "scale_free_angle": np.concatenate([each.angle for each in found]),
    }
    return ScaleFreeTable(source.columns(source.members) | columns, found[0].norm)

"""The scale-free positions of a run's copies: a table that is computed on request, and stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxscape.lazy import jax
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.minimum import read_minimum
from jaxscape.runs.progress import make_console
from jaxscape.runs.sources import Source, read_sources
from jaxscape.runs.tables import Columns, read_table, write_table
from jaxscape.trajectories.files import to_json

if TYPE_CHECKING:
    from jaxscape.problem import FilterAxis

PyTree = Any

_RECORD = "scale_free"  # the entry of config.json that identifies the trajectories of the table


class Filters(NamedTuple):
    """The definition of filters in the parameters of the user's own problem."""

    axis: FilterAxis  # see `filter_normalize`
    like: tuple[PyTree, PyTree] | None = None  # parameters and model state, or their shapes, with the paths for `axis`


class ScaleFreeTable(NamedTuple):
    """Scale-free positions of a run's copies, one row per copy and epoch: filters have the norms of the minimum's."""

    columns: Columns  # member, its labels, epoch, update, scale_free_distance, scale_free_angle (radians)
    norm: float  # norm of those parameters of the minimum that are included


def scale_free_table(run: Path, *, filters: Filters | None = None, console: Console | None = None) -> ScaleFreeTable:
    """Return the scale-free positions of a run's copies, which are stored as scale_free.csv in the run folder.

    The store is read once, epoch by epoch, with two snapshots in memory at a time.

    Args:
        run: a finished run of copies around a minimum.
        filters: the filters of the run's problem; not needed for the built-in problem.
        console: where to print the progress.

    Raises:
        FileNotFoundError: if there are no finished trajectories.
        ValueError: for a run without a minimum, or of the user's own problem without filters; or if the trajectories
            are damaged.
        OSError: if the run folder cannot be written to.
    """
    run, console = RunFolder(run), console or make_console(silent=True)
    if not run.kind.has_minimum:
        raise ValueError(f"scale-free distances are measured from a minimum, but {run} has none")
    if filters is None:
        if "problem" in run.read_config():
            raise ValueError(
                f"scale-free distances need the filter_axis of the problem of {run}, which is not the built-in one; "
                "use Run(path, problem).plot(scale_free=True)"
            )
        filters = Filters(-1)
    _, [source] = read_sources(run)
    # A function cannot be recorded, but it belongs to the problem, which has only one.
    inputs = {"fingerprint": run.fingerprint(), "filter_axis": "function" if callable(filters.axis) else filters.axis}
    inputs = dict(to_json(inputs))
    if (stored := _read(run, inputs, console)) is not None:
        return stored
    with console.status(f"{run.name}: scale-free distances"):
        table = _compute(run, source, filters)
    with writing(run, wait=console):
        write_table(run, run.scale_free, table.columns)
        run.record_values(**{_RECORD: inputs | {"norm": table.norm}})  # last: it marks the table as complete
    return table


def _read(run: RunFolder, inputs: Mapping[str, Any], console: Console) -> ScaleFreeTable | None:
    record = run.read_config().get(_RECORD)
    if not isinstance(record, dict):
        return None
    norm = record.get("norm")
    if not isinstance(norm, float) or {name: record.get(name) for name in inputs} != inputs:
        return None
    try:
        return ScaleFreeTable(read_table(run, run.scale_free), norm)
    except FileNotFoundError:
        return None
    except ValueError as error:
        console.print(f"{error}; it is recomputed")
        return None


def _compute(run: RunFolder, source: Source, filters: Filters) -> ScaleFreeTable:
    # Imported only now, because it imports optax, which a stored table does not need.
    from jaxscape.jumps.scale_free import scale_free

    store, members, minimum = source.store, source.members, read_minimum(run, like=filters.like).params
    like = None if filters.like is None else filters.like[0]

    def snapshot(epoch: int) -> object:
        return jax.tree.map(lambda leaf: leaf[0], store.read(epochs=epoch, members=members, like=like))

    starts = snapshot(0)
    tables = [
        scale_free(snapshot(epoch), minimum, starts, filter_axis=filters.axis) for epoch in range(store.num_epochs)
    ]
    columns = {
        "scale_free_distance": np.concatenate([each.distance for each in tables]),
        "scale_free_angle": np.concatenate([each.angle for each in tables]),
    }
    return ScaleFreeTable(source.columns(source.members) | columns, tables[0].norm)

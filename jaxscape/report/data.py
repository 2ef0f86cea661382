"""The content of a page: records of arrays and texts. Texts may hold anything; they are escaped when written.

A row is a trajectory at one time. The rows of a trajectory are contiguous and sorted by time. An unknown number is NaN,
and lines have a gap there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

type Color = tuple[float, float, float]  # red, green and blue, from 0 to 1


class Column(NamedTuple):
    """A number for every row, such as a loss; it gets a curve and a colour scale."""

    label: str
    values: np.ndarray  # (n,)
    about: str = ""  # a sentence for the caption


class Surrogate(NamedTuple):
    """Surrogate trajectories with the same rows as the real ones."""

    label: str
    distance: np.ndarray  # (n,)
    angle: np.ndarray  # (n,)
    is_random: bool = True  # drawn dashed; what is computed without a draw, such as weight decay alone, is dotted


class Exact(NamedTuple):
    """Distances and angles relative to a reference: the minimum, for copies that begin with a jump.

    For any other trajectory the reference is its own first point: the distance there is 0, and the angles are those
    with its final displacement.
    """

    distance: np.ndarray  # (n,)
    angle: np.ndarray  # (n,) to the spoke, radians from 0 to pi
    side: np.ndarray  # (trajectories,) 1 or -1: the side of its spoke on which a trajectory is drawn
    surrogates: Sequence[Surrogate] = ()
    heading: str = ""  # a line above the panels, such as how many end nearer
    unit: str = ""  # name of the unit of the distances


class Embedding(NamedTuple):
    """Coordinates of the rows."""

    name: str  # of the setting; embeddings with the same name are shown side by side
    label: str  # of its tab
    points: np.ndarray  # (n, 2) or (n, 3)
    minimum: np.ndarray | None = None  # (2,) or (3,)
    caption: str = ""  # what was embedded, and how
    is_disconnected: bool = False  # whether it has components whose arrangement is arbitrary
    part: np.ndarray | None = None  # (n,) the index of each row's box, if components have boxes of their own
    boxes: np.ndarray | None = None  # (boxes, 3): left edge, lower edge and side of each
    words: str = ""  # how reliable it is


class Trajectories(NamedTuple):
    """The trajectories of a run."""

    title: str
    member: np.ndarray  # (n,) the trajectory of each row
    time: np.ndarray  # (n,) epochs or steps
    hue: Sequence[str]  # (trajectories,) the label that gives the colour: a direction, an optimiser
    step_size: np.ndarray | None = None  # (trajectories,) of the jump with which it begins
    begin: Literal["jump", "initial", "first"] = "jump"  # or initial parameters, or the first recorded ones
    columns: Sequence[Column] = ()
    exact: Exact | None = None
    embeddings: Sequence[Embedding] = ()
    note: str = ""  # a line below the title


class Palette(NamedTuple):
    """The colours of a page."""

    hues: Mapping[str, Sequence[Color]]  # per label, from the start of a trajectory to its end
    step_sizes: Mapping[float, Color]  # ascending
    scale: Sequence[Color]  # for numbers, from the smallest to the largest
    ink: str  # CSS colours, here and below
    grey: str
    frame: str
    minimum: str


class Table(NamedTuple):
    """A table of numbers: every row has one cell per column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    meanings: Mapping[str, str] = {}  # explanations of the names in it


class Fact(NamedTuple):
    """Settings, versions or commands: a heading, and lines with a name and a value."""

    title: str
    lines: Sequence[tuple[str, str]]


class Still(NamedTuple):
    """A static picture, which the script does not change."""

    title: str
    png: bytes
    words: str = ""


class Page(NamedTuple):
    """A page of one run, or of several side by side."""

    title: str
    runs: Sequence[Trajectories]
    palette: Palette
    hue: str = "direction"  # what the hues stand for
    unit: str = "epoch"  # of time
    note: str = ""
    tables: Sequence[Table] = ()
    facts: Sequence[Fact] = ()
    commands: Sequence[str] = ()
    stills: Sequence[Still] = ()


def check_page(page: Page) -> None:
    """Raise a ValueError for no runs, columns with wrong lengths, or rows that are not in order."""
    if not page.runs:
        raise ValueError("runs is empty; give one or more")
    for number, run in enumerate(page.runs):
        _check_run(f"runs[{number}]", run, page.palette)
    for table in page.tables:
        if wrong := [row for row in table.rows if len(row) != len(table.columns)]:
            raise ValueError(f"table {table.title!r} has {len(table.columns)} columns, and a row {wrong[0]!r}")
    for still in page.stills:
        if not still.png.startswith(b"\x89PNG"):
            raise ValueError(f"still {still.title!r} must be a PNG picture, got {still.png[:8]!r}")


def first_rows(member: np.ndarray) -> np.ndarray:
    """Return the first row of each trajectory, ascending: int (trajectories,)."""
    return np.concatenate([[0], np.flatnonzero(np.diff(member)) + 1]) if len(member) else np.zeros(0, int)


def _check_run(name: str, run: Trajectories, palette: Palette) -> None:
    count = len(run.member)
    if not count:
        raise ValueError(f"{name} has no rows")
    firsts = first_rows(run.member)
    if len(np.unique(run.member)) != len(firsts):
        raise ValueError(f"{name}.member: the rows of a trajectory must be contiguous")
    starts = np.isin(np.arange(count), firsts)
    _require(f"{name}.time", run.time, (count,))
    if not np.all(np.isfinite(run.time)) or np.any((np.diff(run.time) <= 0) & ~starts[1:]):
        raise ValueError(f"{name}.time must be finite, and ascend within each trajectory")
    if len(run.hue) != len(firsts):
        raise ValueError(f"{name}.hue must have a label for each of {len(firsts)} trajectories, got {len(run.hue)}")
    if unknown := sorted(set(run.hue) - palette.hues.keys()):
        raise ValueError(f"{name}.hue: the palette has no {unknown[0]!r}")
    if run.step_size is not None:
        _require(f"{name}.step_size", run.step_size, (len(firsts),))
        if unknown := sorted(set(np.asarray(run.step_size).tolist()) - palette.step_sizes.keys()):
            raise ValueError(f"{name}.step_size: the palette has no {unknown[0]:g}")
    for column in run.columns:
        _require(f"{name}: column {column.label!r}", column.values, (count,))
    for embedding in run.embeddings:
        dimensions = np.shape(embedding.points)[-1]
        if dimensions not in (2, 3):
            raise ValueError(f"{name}: embedding {embedding.name!r} must have 2 or 3 dimensions, got {dimensions}")
        _require(f"{name}: embedding {embedding.name!r}", embedding.points, (count, dimensions))
        part, boxes = embedding.part, embedding.boxes
        if (part is None) != (boxes is None) or (part is not None and dimensions != 2):
            raise ValueError(f"{name}: embedding {embedding.name!r} must have part and boxes, in 2-D, or neither")
        if part is not None and boxes is not None:
            _require(f"{name}: part of embedding {embedding.name!r}", part, (count,))
            _require(f"{name}: boxes of embedding {embedding.name!r}", boxes, (len(boxes), 3))
        if embedding.minimum is not None:
            _require(f"{name}: the minimum in embedding {embedding.name!r}", embedding.minimum, (dimensions,))
    if run.exact is not None:
        _require(f"{name}.exact.side", run.exact.side, (len(firsts),))
        exact = Surrogate("exact", run.exact.distance, run.exact.angle)
        for each in (exact, *run.exact.surrogates):
            _require(f"{name}: distance of {each.label!r}", each.distance, (count,))
            _require(f"{name}: angle of {each.label!r}", each.angle, (count,))


def _require(name: str, values: Any, shape: tuple[int, ...]) -> None:
    if np.shape(values) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {np.shape(values)}")

"""Rendering of a page: one HTML file that needs nothing else, and no network.

Jinja2 fills `template.html`; the style and the JavaScript modules are written into the page. A Content-Security-Policy
tells the browser to load nothing and to run only this script, whatever the labels hold.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jaxscape.report.data import Color, Embedding, Exact, Page, Palette, Trajectories, check_page, first_rows
from jaxscape.report.pack import Packed, Positions, pack, well_formed

ROOM = Path(__file__).parent

# The modules, each after its imports.
MODULES = ("numbers", "geometry", "scales", "colors", "painters", "scenes", "state", "page")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?function |class |const )", re.MULTILINE)

_WORDS = {
    "polar": "Every position is exact: the radius is the distance from the minimum, the angle to its spoke is that "
    "between displacement and jump. Inside its dotted arc a trajectory is nearer than it started. Spokes are evenly "
    "spaced; the side of the spoke has no meaning, and distances between trajectories are not shown.",
    "plane": "Every position is exact, in units of the jump: along the jump to the right, across it upwards. The "
    "minimum is at 0, every start at 1. Arcs have equal distances from the minimum; the bold one goes through the "
    "starts, and inside it is nearer.",
    "polar initial": "Every position is exact: the radius is the distance from the initial point, the angle to its "
    "spoke is that between the displacement so far and the final one. Each trajectory has a spoke, on which it ends; "
    "the side of the spoke has no meaning, and distances between trajectories are not shown.",
    "plane initial": "Every position is exact, in units of the final displacement: along it to the right, across it "
    "upwards. Every trajectory starts at 0 and ends at 1. Arcs have equal distances from the initial point.",
}


class Panel(NamedTuple):
    """A picture of a run: its index in the data, a line above it and one below it."""

    run: int
    title: str
    heading: str = ""
    words: str = ""
    embedding: int | None = None  # its index among those of the run


class View(NamedTuple):
    """A tab: pictures of one kind side by side, one panel for each run that has it."""

    kind: str  # polar, plane, embedding or curve
    label: str
    caption: str
    panels: list[Panel]
    column: str = ""  # for a curve; "" means the distance
    dimensions: int = 2

    @property
    def is_curve(self) -> bool:
        """Return whether the horizontal axis is time."""
        return self.kind == "curve"


class _Shown(NamedTuple):
    """The script's data of a panel."""

    run: int
    embedding: int | None


class _View(NamedTuple):
    """The script's data of a tab; the texts of its panels are in the HTML."""

    kind: str
    label: str
    column: str
    panels: list[_Shown]


class _Drawn(NamedTuple):
    """The script's data of an embedding, without its texts."""

    axes: list[Positions]  # 2 or 3
    minimum: list[float] | None
    is_disconnected: bool
    part: np.ndarray | None
    boxes: list[list[float]] | None


class _Column(NamedTuple):
    """The script's data of a column."""

    label: str
    values: np.ndarray


class _Surrogate(NamedTuple):
    """The script's data of surrogates, which are drawn and not shown as text."""

    label: str
    distance: Positions
    angle: Positions
    is_random: bool


class _Exact(NamedTuple):
    """The script's data of exact views."""

    distance: np.ndarray
    angle: np.ndarray
    side: np.ndarray
    surrogates: list[_Surrogate]
    unit: str


class _Run(NamedTuple):
    """The script's data of a run."""

    title: str
    first: np.ndarray  # the first row of each trajectory, then the number of rows
    member: np.ndarray  # (trajectories,)
    times: list[float]  # unique, ascending
    place: np.ndarray  # (n,) index of each row's time in `times`
    hue: list[str]
    step_size: np.ndarray | None
    begin: str
    columns: list[_Column]
    exact: _Exact | None
    embeddings: list[_Drawn]


class _Data(NamedTuple):
    """The script's data."""

    hue: str
    unit: str
    palette: Palette
    views: list[_View]
    runs: list[_Run]


def render(page: Page) -> str:
    """Return the text of an HTML file; equal pages give equal texts.

    Raises:
        ValueError: as `jaxscape.report.data.check_page`.
    """
    packed, body = page_parts(page)
    script = javascript() + "\nstart(document);\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return well_formed(
        _environment()
        .get_template("template.html")
        .render(
            page=page,
            body=body,
            style=Markup(stylesheet()),
            data=Markup(packed.text),
            numbers=packed.numbers,
            script=Markup(script),
            digest=digest,
        )
    )


def page_parts(page: Page) -> tuple[Packed, Markup]:
    """Return the data of a page for its script, and the HTML that the script works on.

    Raises:
        ValueError: as `jaxscape.report.data.check_page`.
    """
    check_page(page)
    views = page_views(page)
    data = _Data(page.hue, page.unit, page.palette, list(map(_of_view, views)), list(map(_of_run, page.runs)))
    color = {hue: css_color(colors[len(colors) // 2]) for hue, colors in page.palette.hues.items()}
    sizes = {f"{size:g}": css_color(each) for size, each in page.palette.step_sizes.items()}
    surrogates = dict.fromkeys(
        each.label for run in page.runs if run.exact is not None for each in run.exact.surrogates
    )
    columns = dict.fromkeys(each.label for run in page.runs for each in run.columns)
    body = _environment().get_template("body.html")
    html = body.render(
        encoded=lambda png: base64.b64encode(png).decode(),
        page=page,
        views=views,
        hues=color,
        step_sizes=sizes,
        surrogates=list(surrogates),
        columns=list(columns),
    )
    return pack(data), Markup("\n".join(line.strip() for line in well_formed(html).split("\n") if line.strip()))


def page_views(page: Page) -> list[View]:
    """Return the tabs of a page: exact views, embeddings, and curves over time."""
    views: list[View] = []
    for jumps, exact_of in _by_beginning(page):
        for kind, label in (("polar", "Polar"), ("plane", "Along and across")):
            panels = [_panel(page, number, exact.heading) for number, exact in exact_of.items()]
            views.append(View(kind, label, _WORDS[kind if jumps else f"{kind} initial"], panels))
    return views + _embedding_views(page) + _curve_views(page)


def _by_beginning(page: Page) -> Iterator[tuple[bool, dict[int, Exact]]]:
    """Yield the exact views of the runs that begin with jumps, and those of the others, by the index of the run."""
    for jumps in (True, False):
        exact_of = {
            number: run.exact
            for number, run in enumerate(page.runs)
            if run.exact is not None and (run.begin == "jump") == jumps
        }
        if exact_of:
            yield jumps, exact_of


def _panel(page: Page, number: int, heading: str = "", words: str = "", embedding: int | None = None) -> Panel:
    run = page.runs[number]
    return Panel(number, run.title, "; ".join(filter(None, (run.note, heading))), words, embedding)


def _embedding_views(page: Page) -> list[View]:
    views: list[View] = []
    for name in dict.fromkeys(each.name for run in page.runs for each in run.embeddings):
        panels, embeddings = [], []
        for number, run in enumerate(page.runs):
            for place, each in enumerate(run.embeddings):
                if each.name == name:
                    embeddings.append(each)
                    panels.append(_panel(page, number, each.caption, each.words, place))
        dimensions = max(np.shape(each.points)[1] for each in embeddings)
        about = "Positions are fitted: an embedding distorts distances to fit them into the picture. "
        if dimensions == 3:
            about += "Drag, or use the arrow keys, to turn it; + and - zoom. "
        if any(each.boxes is not None for each in embeddings):
            about += (
                "Disconnected components have boxes of their own, at one scale; their relative positions mean nothing."
            )
        views.append(View("embedding", embeddings[0].label, about.strip(), panels, dimensions=dimensions))
    return views


def _curve_views(page: Page) -> list[View]:
    views: list[View] = []
    for jumps, exact_of in _by_beginning(page):
        about = "in units of the jump: 1 is the start, below 1 is nearer" if jumps else "from the initial point"
        panels = [Panel(number, page.runs[number].title) for number in exact_of]
        views.append(
            View(
                "curve",
                "Distance",
                f"Distance {'from the minimum, ' if jumps else ''}{about}. Dashed and dotted: surrogates.",
                panels,
            )
        )
    for name in dict.fromkeys(column.label for run in page.runs for column in run.columns):
        has = {n: column for n, run in enumerate(page.runs) for column in run.columns if column.label == name}
        panels = [Panel(number, page.runs[number].title) for number in has]
        about = next(iter(has.values())).about
        views.append(View("curve", _capital(name), f"{_capital(name)} by {page.unit}. {about}".strip(), panels, name))
    return views


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def css_color(color: Color) -> str:
    """Return a colour as CSS, #rrggbb."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in color)


def _of_view(view: View) -> _View:
    panels = [_Shown(panel.run, panel.embedding) for panel in view.panels]
    return _View(view.kind, view.label, view.column, panels)


def _of_run(run: Trajectories) -> _Run:
    firsts = first_rows(run.member)
    times, place = np.unique(np.asarray(run.time), return_inverse=True)
    return _Run(
        title=run.title,
        first=np.append(firsts, len(run.member)),
        member=np.asarray(run.member)[firsts],
        times=times.tolist(),
        place=place.astype(np.float32) if len(times) < 2**16 else place,
        hue=list(run.hue),
        step_size=None if run.step_size is None else np.asarray(run.step_size),
        begin=run.begin,
        columns=[_Column(column.label, np.asarray(column.values, float)) for column in run.columns],
        exact=None if run.exact is None else _of_exact(run.exact),
        embeddings=list(map(_drawn, run.embeddings)),
    )


def _of_exact(exact: Exact) -> _Exact:
    surrogates = [
        _Surrogate(each.label, Positions(np.asarray(each.distance)), Positions(np.asarray(each.angle)), each.is_random)
        for each in exact.surrogates
    ]
    return _Exact(np.asarray(exact.distance), np.asarray(exact.angle), np.asarray(exact.side), surrogates, exact.unit)


def _drawn(embedding: Embedding) -> _Drawn:
    axes = [Positions(values) for values in np.asarray(embedding.points, float).T]
    minimum = None if embedding.minimum is None else np.asarray(embedding.minimum, float).tolist()
    part = None if embedding.part is None else np.nan_to_num(embedding.part, nan=-1).astype(int)
    boxes = None if embedding.boxes is None else np.asarray(embedding.boxes, float).tolist()
    return _Drawn(axes, minimum, embedding.is_disconnected, part, boxes)


@cache
def javascript() -> str:
    """Return all modules as one script, without comments and indentation.

    Imports are removed, because the imported names are defined above them.

    Raises:
        ValueError: for a module that imports one that is not above it.
    """
    written: list[str] = []
    for name in MODULES:
        text = (ROOM / "js" / f"{name}.js").read_text(encoding="utf-8")
        if unknown := [each for each in _IMPORT.findall(text) if each not in MODULES[: len(written)]]:
            raise ValueError(f"js/{name}.js imports {', '.join(unknown)}, which MODULES does not list before it")
        text = _EXPORT.sub("", _IMPORT.sub("", text))
        written.append(
            "\n".join(line.strip() for line in text.splitlines() if line and not line.lstrip().startswith("//"))
        )
    return "\n".join(written)


@cache
def stylesheet() -> str:
    """Return the style of a page."""
    return (ROOM / "style.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(ROOM),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

"""The style that every figure is drawn and saved in: matplotlib's defaults, whatever the user's settings are.

A figure takes its settings when its parts are made and again when it is written, so both happen in here.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def _import_matplotlib() -> None:
    """Import matplotlib, which refuses to be imported where MPLBACKEND names a backend that it does not know.

    No figure here needs a backend; one that is known is set, as matplotlib does it, for whoever needs one.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


_import_matplotlib()
import matplotlib  # noqa: E402

# What the house style changes in matplotlib's defaults; sizes and colours are in `layout` and `palette`.
HOUSE: dict[Any, Any] = {
    "font.size": 7.0,  # no text is smaller, whoever writes it
    "axes.titlesize": 7.5,
    "legend.fontsize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "svg.hashsalt": "jaxscape",  # SVG elements have random ids unless they are salted
    "pdf.fonttype": 42,  # letters, not outlines: text in a PDF can be searched and edited
}


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in the house style, whatever matplotlibrc, style or rcParams there are; the caller's come back afterwards.

    Also a decorator of functions: `@own_style()`.
    """
    with matplotlib.rc_context():
        ffmpeg = matplotlib.rcParams["animation.ffmpeg_path"]  # where a program lies is no matter of style
        matplotlib.rcdefaults()
        matplotlib.rcParams["animation.ffmpeg_path"] = ffmpeg
        matplotlib.rcParams.update(HOUSE)
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a new file, which takes the place of `path` when it is whole. Missing folders are made.

    Raises:
        OSError: says which file could not be written, and why; the old one stays as it was.
    """
    # As `trajectories.files` names its own; whoever clears up after a killed process finds this one too.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink()

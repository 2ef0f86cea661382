"""The style in which every figure is drawn and saved: matplotlib's defaults, independent of the user's settings.

A figure reads settings when its parts are made and again when it is written, so both happen within the style.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def _import_matplotlib() -> None:
    """Import matplotlib, whose import fails if MPLBACKEND names a backend that it does not know.

    No figure here needs a backend; a known one is set, as matplotlib does it, for other code.
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

# Changes to matplotlib's defaults; sizes and colours are in `layout` and `palette`.
HOUSE: dict[Any, Any] = {
    "font.size": 7.0,  # the smallest text
    "axes.titlesize": 7.5,
    "legend.fontsize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "svg.hashsalt": "jaxscape",  # SVG elements have random ids unless they are salted
    "pdf.fonttype": 42,  # text, not outlines: it can be searched and edited
}


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in jaxscape's style, whatever matplotlibrc, style or rcParams are set; restore the caller's afterwards.

    Also a decorator of functions: `@own_style()`.
    """
    with matplotlib.rc_context():
        ffmpeg = matplotlib.rcParams["animation.ffmpeg_path"]  # the path of a program is not a matter of style
        matplotlib.rcdefaults()
        matplotlib.rcParams["animation.ffmpeg_path"] = ffmpeg
        matplotlib.rcParams.update(HOUSE)
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file, which replaces `path` when it is complete. Missing folders are created.

    Raises:
        OSError: if the file cannot be written; the message names it and the reason, and the old one is kept.
    """
    # Named like those of `trajectories.files`, so that cleaning up after a killed process finds this one too.
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

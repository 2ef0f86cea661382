"""The same data give the same bytes whatever matplotlib's settings are, and the settings stay the caller's."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from petals import petals

from jaxscape.figures import film, plots
from jaxscape.figures.style import own_style

SETTINGS = {
    "LaTeX": {"text.usetex": True},
    "another format": {"savefig.format": "pdf"},
    "layout": {"figure.autolayout": True, "figure.constrained_layout.use": False},
    "constrained layout": {"figure.constrained_layout.use": True},
    "tight box": {"savefig.bbox": "tight", "savefig.pad_inches": 1.0},
    "text in SVG": {"svg.fonttype": "none", "svg.hashsalt": "mine", "svg.id": "mine"},
    "axes": {"axes.grid": True, "axes.facecolor": "red", "axes.linewidth": 5.0, "axes.spines.top": False},
    "font": {"font.family": "monospace", "font.size": 30.0, "font.weight": "bold", "axes.titleweight": "bold"},
    "resolution": {"figure.dpi": 300.0, "savefig.dpi": 50.0, "figure.figsize": (20.0, 2.0)},
    "colours": {"savefig.facecolor": "black", "figure.facecolor": "black", "image.cmap": "gray"},
    "transparent": {"savefig.transparent": True},
    "marks": {"lines.marker": "x", "lines.linewidth": 9.0, "scatter.marker": "s", "lines.antialiased": False},
    "legend": {"legend.frameon": True, "legend.numpoints": 3, "legend.scatterpoints": 3, "legend.fontsize": 30},
    "ticks": {
        "xtick.direction": "in",
        "xtick.minor.visible": True,
        "ytick.labelsize": 30,
        "axes.formatter.limits": [0, 0],
    },
    "paths": {"path.simplify": False, "path.sketch": (1, 100, 2), "agg.path.chunksize": 100},
    "margins": {"axes.xmargin": 0.5, "axes.autolimit_mode": "round_numbers", "axes3d.grid": False},
}
# All of them in one figure; each alone is among the slow tests.
SETTINGS = {"all": {name: value for chosen in SETTINGS.values() for name, value in chosen.items()}} | SETTINGS
SETTINGS |= {
    "dark_background": "dark_background",
    "ggplot": "ggplot",
    "grayscale": "grayscale",
    "Solarize_Light2": "Solarize_Light2",
}


def panel(**options):
    return plots.Panel("good", **petals(seeds=1, **options), note="a note")


def distances():
    rows = petals(seeds=1)
    del rows["embedding"]
    return plots.DistancePanel("good", 1 + rows["epoch"] * 0.01, **rows)


FIGURES = {
    "comparison": lambda: plots.comparison_figure([panel()], looks=["dark", "epoch"], note="a note"),
    "in space": lambda: plots.methods_figure([[panel(dimensions=3)]]),
    "values": lambda: plots.values_figure([panel()], [np.geomspace(1, 1000, 36)], "loss", log=True),
    "distance": lambda: plots.distance_figure([distances()]),
    "norm": lambda: plots.norm_figure(distances(), hue="optimizer"),
}


def saved(figure, folder):
    return [path.read_bytes() for path in plots.save_figure(FIGURES[figure](), folder / "figure")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the bytes of each figure with matplotlib's defaults."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        return {figure: saved(figure, tmp_path_factory.mktemp("expected")) for figure in FIGURES}


@pytest.fixture
def settings(request):
    """Set a user's settings for a test."""
    with matplotlib.rc_context():
        chosen = SETTINGS[request.param]
        matplotlib.style.use(chosen) if isinstance(chosen, str) else matplotlib.rcParams.update(chosen)
        yield dict(matplotlib.rcParams)


@pytest.mark.parametrize(
    "settings",
    [
        name if name in ("all", "LaTeX", "dark_background") else pytest.param(name, marks=pytest.mark.slow)
        for name in SETTINGS
    ],
    indirect=True,
)
def test_settings_change_no_byte_and_are_not_changed(settings, expected, tmp_path):
    """Compare all settings on the figure with the most parts."""
    assert saved("comparison", tmp_path) == expected["comparison"]
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("settings", ["LaTeX", pytest.param("dark_background", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("figure", [name for name in FIGURES if name != "comparison"])
@pytest.mark.usefixtures("settings")
def test_every_figure_has_its_own_settings(figure, expected, tmp_path):
    assert saved(figure, tmp_path) == expected[figure]


@pytest.mark.parametrize("settings", ["all", pytest.param("dark_background", marks=pytest.mark.slow)], indirect=True)
def test_settings_change_no_byte_of_a_film(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(film.FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    options = {"seconds": 0.1, "hold": 0.1, "dpi": 40, "max_frames": 2}
    (gif,) = film.save_film([panel()], tmp_path / "mine", **options)
    assert dict(matplotlib.rcParams) == settings
    with own_style():
        assert film.save_film([panel()], tmp_path / "plain", **options)[0].read_bytes() == gif.read_bytes()


def test_settings_are_restored_after_an_error():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError, match="panels is empty"):
        plots.comparison_figure([])
    assert dict(matplotlib.rcParams) == before


PROGRAM = """
import sys
from jaxscape.figures.plots import distance_figure, save_figure, DistancePanel
labels = {name: [0, 0, 0] for name in ("seed", "step_size", "member")}
save_figure(distance_figure([DistancePanel("run", [1, 2, 3], epoch=[0, 1, 2], **labels)]), sys.argv[1])
"""


@pytest.mark.parametrize(
    ("backend", "matplotlibrc"),
    [
        ("missing", "text.usetex: True\nbackend: svg\naxes.grid: True"),
        pytest.param("agg", "text.usetex: True\nbackend: svg\naxes.grid: True", marks=pytest.mark.slow),
        pytest.param("missing", "", marks=pytest.mark.slow),
    ],
)
def test_a_process_with_settings_writes_the_same_bytes(tmp_path, backend, matplotlibrc):
    """The settings come from MPLBACKEND and from a matplotlibrc in the working directory."""
    (tmp_path / "matplotlibrc").write_text(matplotlibrc)
    namespace = {}
    exec(PROGRAM.replace("sys.argv[1]", repr(str(tmp_path / "expected"))), namespace)
    subprocess.run(
        [sys.executable, "-c", PROGRAM, "actual"], check=True, cwd=tmp_path, env=os.environ | {"MPLBACKEND": backend}
    )
    for ending in ("png", "svg", "pdf"):
        assert (tmp_path / f"actual.{ending}").read_bytes() == (tmp_path / f"expected.{ending}").read_bytes()


@pytest.mark.parametrize(
    "name", [r"$\nothing$", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a$b$c", "one $"))]
)
def test_the_name_of_a_run_is_not_parsed_as_a_formula(tmp_path, name):
    named = panel()._replace(title=name, note=name)
    figures = [
        plots.minimum_figure(named, note=name),
        plots.methods_figure([[named]], left=[name], note=name),
        plots.norm_figure(distances()._replace(title=name, seed=np.full(36, name)), hue=name, note=name),
    ]
    for number, figure in enumerate(figures):
        _, svg, _ = plots.save_figure(figure, tmp_path / str(number))
        assert svg.read_text().count(f"<!-- {name} -->") >= 1


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, ending):
    """Check that every file goes through one write: matplotlib's PDF writer would hide the error of a full disk."""
    for name in ("png", "svg", "pdf"):
        (tmp_path / f"figure.{name}").write_text("old")
    write = Path.write_bytes

    def full(self, data):
        if f".{ending}." not in self.name:
            return write(self, data)
        self.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=rf"^cannot write .*figure\.{ending}: No space left on device$"):
        plots.save_figure(FIGURES["distance"](), tmp_path / "figure")
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.svg", "figure.pdf"}
    assert (tmp_path / f"figure.{ending}").read_text() == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(("ends", "written"), [(0, True), (1, False)])
def test_a_failing_ffmpeg_leaves_no_partial_film(tmp_path, ends, written):
    """ffmpeg is looked up where the user's settings say."""
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncat > "$last"\nexit {ends}\n')
    program.chmod(0o755)
    with matplotlib.rc_context({"animation.ffmpeg_path": str(program)}):
        if written:
            _, mp4 = film.save_film([panel()], tmp_path / "out" / "film", max_frames=2, dpi=30)
            assert mp4.stat().st_size > 0
        else:
            with pytest.raises(
                OSError, match=r"^cannot write .*film\.mp4: ffmpeg ended with code 1; can it write H\.264\?$"
            ):
                film.save_film([panel()], tmp_path / "out" / "film", max_frames=2, dpi=30)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"film.gif"} | ({"film.mp4"} if written else set())

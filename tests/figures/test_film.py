"""Films: the content of frames, and of the files."""

import numpy as np
import pytest
from matplotlib.animation import FFMpegWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from petals import EPOCHS, STEP_SIZES, petals
from PIL import Image

from jaxscape.figures import film, plots
from jaxscape.figures.palette import POINT_SIZE
from jaxscape.figures.panels import ExactPanel, Surrogate

SMALL = {"seconds": 1.0, "hold": 0.5, "dpi": 40}


def panel(epochs=None, **options):
    rows = petals(seeds=2, **options)
    if epochs is not None:
        selected = np.isin(rows["epoch"], epochs)
        rows = {name: column[selected] for name, column in rows.items()}
    return plots.Panel("good", **rows)


def exact_panel():
    rows = petals(seeds=2)
    del rows["embedding"]
    progress = rows["epoch"] / EPOCHS
    surrogate = Surrogate("decay alone", rows["step_size"] * (1 - 0.1 * progress), 0.05 * progress)
    distance = rows["step_size"] * (1 - 0.2 * progress)
    return ExactPanel("good", distance, 0.3 * progress, **rows, surrogates=[surrogate])


@pytest.fixture
def without_ffmpeg(monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))


def made(*panels, look="dark", max_frames=100):
    return film._make_film(panels, look, max_frames=max_frames, note="")


def pixels(fig):
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_frame_shows_the_points_and_lines_up_to_its_epoch(dimensions):
    given = panel(dimensions=dimensions)
    moved = made(given)
    (drawn,) = moved.drawn
    for epoch in (5, 0, EPOCHS):
        film._show(moved, epoch)
        shown = given.epoch[drawn.rows] <= epoch
        np.testing.assert_array_equal(drawn.points.get_sizes() > 0, shown)
        for member, line in drawn.lines.items():
            rows = np.flatnonzero((given.member == member) & (given.epoch <= epoch))
            rows = rows[np.argsort(given.epoch[rows])]
            places = line.get_data() if dimensions == 2 else line.get_data_3d()
            np.testing.assert_array_equal(np.transpose(places), given.embedding[rows])
    assert moved.clock.get_text() == f"epoch {EPOCHS} of {EPOCHS}"


def test_the_newest_points_are_larger_except_under_a_diamond():
    given = panel()
    moved = made(given)
    (drawn,) = moved.drawn
    film._show(moved, 3)
    newest = given.epoch[drawn.rows] == 3
    assert set(drawn.points.get_sizes()[newest]) == {film.NEWEST_SIZE}
    assert set(drawn.points.get_sizes()[~newest]) == {0, POINT_SIZE}
    film._show(moved, 0)
    assert set(drawn.points.get_sizes()) == {0, POINT_SIZE}


@pytest.mark.parametrize(
    ("look", "dimensions"),
    [
        pytest.param(look, dimensions, marks=() if (number == 0) == (dimensions == 2) else pytest.mark.slow)
        for number, look in enumerate(plots.LOOKS)
        for dimensions in (2, 3)
    ],
)
def test_the_last_frame_is_the_still_picture_to_the_pixel(look, dimensions):
    still, moved = (made(panel(dimensions=dimensions), look=look) for _ in range(2))
    still.clock.set_text(f"epoch {EPOCHS} of {EPOCHS}")
    film._show(moved, 3)
    assert not np.array_equal(pixels(moved.fig), pixels(still.fig))
    film._show(moved, EPOCHS)
    np.testing.assert_array_equal(pixels(moved.fig), pixels(still.fig))


def test_a_frame_of_the_polar_view_shows_the_curves_up_to_its_epoch():
    moved = made(exact_panel())
    assert len(moved.curves) == 2 * 2 * len(STEP_SIZES)  # real ones and surrogates
    for epoch in (5, 0, EPOCHS):
        film._show(moved, epoch)
        assert moved.clock.get_text() == f"epoch {epoch} of {EPOCHS}"
        for curve in moved.curves:
            if curve.shades is None:
                np.testing.assert_array_equal(curve.line.get_xydata(), curve.places[: epoch + 1])
            else:
                assert len(curve.line.get_segments()) == epoch
                np.testing.assert_allclose(curve.end.get_facecolor()[0, :3], curve.shades[epoch])
            np.testing.assert_array_equal(curve.end.get_offsets(), curve.places[[epoch]])


def test_the_last_frame_of_the_polar_view_is_the_still_picture_to_the_pixel():
    still, moved = made(exact_panel()), made(exact_panel())
    still.clock.set_text(f"epoch {EPOCHS} of {EPOCHS}")
    film._show(moved, 3)
    assert not np.array_equal(pixels(moved.fig), pixels(still.fig))
    film._show(moved, EPOCHS)
    np.testing.assert_array_equal(pixels(moved.fig), pixels(still.fig))


@pytest.mark.slow
@pytest.mark.usefixtures("without_ffmpeg")
def test_a_film_of_the_polar_view_has_the_same_bytes_every_time(tmp_path):
    one, other = (film.save_film([exact_panel()], tmp_path / name, **SMALL)[0] for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    with Image.open(one) as picture:
        assert picture.n_frames == EPOCHS + 1


def test_a_film_has_one_kind_of_panels():
    with pytest.raises(ValueError, match="give panels of one kind"):
        made(panel(), exact_panel())


def test_the_clock_counts_in_the_unit_of_the_panels():
    moved = made(panel()._replace(unit="step"))
    film._show(moved, 3)
    assert moved.clock.get_text() == f"step 3 of {EPOCHS}"


def test_axes_and_starts_are_those_of_all_epochs_from_the_first_frame():
    moved = made(panel())
    ax = moved.fig.axes[0]
    limits, starts = (ax.get_xlim(), ax.get_ylim()), moved.drawn[0].starts.get_offsets().copy()
    film._show(moved, 0)
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    np.testing.assert_array_equal(moved.drawn[0].starts.get_offsets(), starts)


def test_frames_are_the_epochs_of_all_panels():
    np.testing.assert_array_equal(made(panel([0, 2, 4]), panel([0, 3, 4])).epochs, [0, 2, 3, 4])


@pytest.mark.parametrize(("most", "epochs"), [(9, range(9)), (5, [0, 2, 4, 6, 8]), (4, [0, 3, 6, 8]), (2, [0, 8])])
def test_with_many_epochs_every_kth_and_the_last_are_shown(most, epochs):
    np.testing.assert_array_equal(made(panel(), max_frames=most).epochs, epochs)


@pytest.mark.usefixtures("without_ffmpeg")
def test_without_ffmpeg_a_looping_gif_of_the_requested_length_is_written(tmp_path):
    (gif,) = film.save_film([panel()], tmp_path / "new" / "folder" / "film", **SMALL)
    assert gif == tmp_path / "new" / "folder" / "film.gif"
    with Image.open(gif) as picture:
        assert picture.info["loop"] == 0
        durations = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            durations.append(picture.info["duration"])
    assert len(durations) == EPOCHS + 1
    assert sum(durations) == 1500
    assert durations[-1] == 500


@pytest.mark.usefixtures("without_ffmpeg")
def test_the_same_panels_give_the_same_bytes(tmp_path):
    one, other = (film.save_film([panel()], tmp_path / name, **SMALL)[0].read_bytes() for name in "ab")
    assert one == other


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="there is no ffmpeg")
def test_with_ffmpeg_an_mp4_is_written_too(tmp_path):
    gif, mp4 = film.save_film([panel()], tmp_path / "film", **SMALL)
    assert (gif.suffix, mp4.suffix) == (".gif", ".mp4")
    assert mp4.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "seconds is 0; allowed are 0.1 to 600"),
        ({"hold": -1}, "hold is -1; allowed are"),
        ({"dpi": 1}, "dpi is 1; allowed are 30 to 600"),
        ({"max_frames": 1}, "max_frames is 1; allowed are 2 to 1000"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"look": "black"}, r"look is 'black'; choose one of \['dark', 'white', 'epoch'\]"),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        film.save_film([panel()], tmp_path / "folder" / "film", **options)
    assert not (tmp_path / "folder").exists()


def test_a_film_of_no_panels_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="panels is empty"):
        film.save_film([], tmp_path / "film")

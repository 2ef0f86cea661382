import itertools

import pytest
from matplotlib.figure import Figure

from jaxscape.figures.layout import GAP, add_strip, from_top, row_lengths, settle_layout, wrapped

TEXT = "PHATE, cosine distance of the parameter vectors, knn 5, decay 40, from the digits"


@pytest.mark.parametrize("inches", [1.0, 2.0, 5.0])
def test_wrapped_lines_fit_the_width_when_drawn(inches):
    fig = Figure(dpi=720)
    drawn = [fig.text(0, 0, line, fontsize=7) for line in wrapped(TEXT, inches, 7).split("\n")]
    widths = [line.get_window_extent().width / fig.dpi for line in drawn]
    assert max(widths) < 1.02 * inches
    for line, following in itertools.pairwise(drawn):
        line.set_text(f"{line.get_text()} {following.get_text().split(' ')[0]}")
        assert line.get_window_extent().width / fig.dpi > 0.98 * inches


def test_wrapping_loses_no_word_and_keeps_line_breaks_and_no_break_spaces():
    assert wrapped(TEXT, 1, 7).split() == TEXT.split()
    assert wrapped("good\n\nbad", 5, 7) == "good\n\nbad"
    assert wrapped("knn\N{NO-BREAK SPACE}5 connects", 0.1, 7) == "knn\N{NO-BREAK SPACE}5\nconnects"


def test_excess_lines_end_in_an_ellipsis():
    whole = wrapped(TEXT, 1, 7).splitlines()
    assert wrapped(TEXT, 1, 7, most=len(whole)).splitlines() == whole
    assert wrapped(TEXT, 1, 7, most=3).splitlines() == [*whole[:2], f"{whole[2]} \N{HORIZONTAL ELLIPSIS}"]


@pytest.mark.parametrize("most", [2, 3, 4])
@pytest.mark.parametrize("count", range(1, 20))
def test_rows_of_panels_are_as_equal_as_possible(count, most):
    lengths = row_lengths(count, most)
    assert sum(lengths) == count
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
    assert len(lengths) == -(-count // most)
    if count > 1 and most > 2:
        assert min(lengths) > 1


@pytest.mark.parametrize("layout", [None, "constrained", "compressed", "tight"])
def test_a_strip_lengthens_any_figure_and_does_not_move_its_axes(layout):
    fig = Figure(figsize=(4, 2), layout=layout)
    axes = fig.subplots(1, 2)
    settle_layout(fig)
    before = [ax.get_position().transformed(fig.transFigure + from_top(fig).inverted()) for ax in axes]
    edge = add_strip(fig, fig.text(0, 0, "a note"))
    after = [ax.get_position().transformed(fig.transFigure + from_top(fig).inverted()) for ax in axes]
    assert edge == -2
    assert fig.get_figheight() > 2 + GAP
    for one, other in zip(before, after, strict=True):
        assert one.extents == pytest.approx(other.extents)

"""Trajectories with a known shape, and helpers that measure figures, for the tests of this room."""

import numpy as np
from matplotlib.text import Text

SEEDS, STEP_SIZES, EPOCHS = 5, (0.25, 0.5, 0.75, 1.0), 8


def petals(seeds=SEEDS, dimensions=2):
    """Return rows of copies that go straight back to the minimum from `seeds` directions, in a shuffled order."""
    seed, step, epoch = (
        a.ravel() for a in np.meshgrid(range(seeds), range(len(STEP_SIZES)), range(EPOCHS + 1), indexing="ij")
    )
    step_size = np.asarray(STEP_SIZES)[step]
    radius, angle = step_size * (1 - epoch / (EPOCHS + 1)), 2 * np.pi * seed / seeds
    embedding = np.stack([radius * np.cos(angle), radius * np.sin(angle), radius], 1)[:, :dimensions]
    rows = {"seed": seed, "step_size": step_size, "epoch": epoch, "member": seed * len(STEP_SIZES) + step}
    shuffle = np.random.default_rng(0).permutation(len(seed))
    return {"embedding": embedding[shuffle], **{name: column[shuffle] for name, column in rows.items()}}


def linear(rgb):
    rgb = np.asarray(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    return linear(rgb) @ [0.2126, 0.7152, 0.0722]  # of sRGB, IEC 61966-2-1


def written(fig):
    """Return every visible text of a figure after layout, including tick labels, letters and colour bars."""
    fig.draw_without_rendering()
    ticks = {id(label) for ax in fig.axes for axis in axes_of(ax) for label in axis.get_ticklabels(which="both")}
    shown = {id(text) for ax in fig.axes for axis in axes_of(ax) for text in visible_ticks(axis)}
    visible = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in visible if id(text) not in ticks or id(text) in shown]


def axes_of(ax):
    every = [ax, *ax.child_axes]
    return [axis for each in every for axis in ([each.xaxis, each.yaxis] if each.name != "3d" else [])]


def visible_ticks(axis):
    """Return the tick labels that lie within the axis and are drawn."""
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks() + axis.get_minor_ticks():
        if low <= tick.get_loc() <= high:
            yield from (label for label in (tick.label1, tick.label2) if label.get_visible() and label.get_text())

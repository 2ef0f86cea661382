"""The page: one HTML file in which trajectories can be explored; numbers and labels in, text out.

`data` says what a page shows, `pack` puts numbers and labels into a page, `page` makes the file, `notebook` shows the
same in a notebook. What draws is JavaScript, in `js/`: modules without a build step, which also run under node.
"""

from jaxscape.report.data import Column, Embedding, Exact, Fact, Page, Palette, Still, Surrogate, Table, Trajectories
from jaxscape.report.notebook import widget
from jaxscape.report.page import render

__all__ = [
    "Column",
    "Embedding",
    "Exact",
    "Fact",
    "Page",
    "Palette",
    "Still",
    "Surrogate",
    "Table",
    "Trajectories",
    "render",
    "widget",
]

"""The interactive page: one HTML file to explore trajectories in; numbers and labels in, text out.

`data` defines the content of a page, `pack` encodes numbers and labels, `page` renders the file, `notebook` shows the
same in a notebook. The drawing is JavaScript, in `js/`: modules without a build step, which also run under node.
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

"""Figures from coordinates and row labels; the public names are in `plots`, `exact`, `landscapes` and `film`.

`palette` defines the colours, `panels` the data of a panel, `drawing` draws one, `layout` places everything, `legend`
draws the legend and the note, `plots` builds whole figures, and `style` holds the settings in which they are drawn and
saved.
"""

from jaxscape.figures import style  # noqa: F401  # imports matplotlib, before any other module of this room does

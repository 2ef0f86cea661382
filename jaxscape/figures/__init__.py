"""From coordinates and row labels to pictures: the last room of the journey; `plots` holds its public names.

`palette` says what the colours stand for, `panels` what a panel shows, `drawing` draws one, `layout` gives
everything its place, `legend` writes the foot, `plots` makes whole figures of them, and `style` is what all of them
are drawn and saved in.
"""

from jaxscape.figures import style  # noqa: F401  # it imports matplotlib, before any other module here does

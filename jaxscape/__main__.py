"""`python -m jaxscape` is the program `jaxscape`."""

from jaxscape.app.program import command

command()

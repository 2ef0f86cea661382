"""`python -m jaxscape` is the program `jaxscape`."""

from jaxscape.cli.program import command

command()

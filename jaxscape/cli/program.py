"""The entry point `jaxscape`: every failure from here on, even during imports, is reported in one line."""

import gc
import sys
import warnings
from importlib.metadata import version

from jaxscape.cli.errors import exit_at_once_when_interrupted, report_errors_in_one_line, show_warning_in_one_line
from jaxscape.xla_cpu.memory import restart_with_kept_memory


def command() -> None:
    """Run the command line of this process; the entry point `jaxscape`."""
    try:
        with report_errors_in_one_line("jaxscape"):
            if sys.argv[1:] == ["--version"]:  # answered without the imports of any command
                print(f"jaxscape {version('jaxscape-phate')}")
                return
            if not _only_reads(sys.argv[1:]):
                restart_with_kept_memory()
            if _is_brief(sys.argv[1:]):
                gc.set_threshold(_NEW_OBJECTS)
            warnings.showwarning = show_warning_in_one_line
            from jaxscape.cli.main import main

            main()
    finally:
        exit_at_once_when_interrupted()


# Number of new containers after which cyclic garbage is looked for. Python's default is 700. Imports and figures make
# millions of objects, few of them garbage: the search took 0.4 to 0.8 of the 6 seconds of `plot`.
_NEW_OBJECTS = 50_000


def _is_brief(arguments: list[str]) -> bool:
    """Return whether a command takes seconds and holds no large arrays, so that garbage may wait."""
    return arguments[:1] == ["plot"] or _only_reads(arguments)


def _only_reads(arguments: list[str]) -> bool:
    """Return whether a command only reads or prints help, so that restarting Python would double its time."""
    return arguments[:1] == ["info"] or not {"-h", "--help"}.isdisjoint(arguments)

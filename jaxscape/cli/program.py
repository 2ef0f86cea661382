"""The program `jaxscape`: whatever happens from here on ends in a line, the imports of everything else included."""

import sys
import warnings
from importlib.metadata import version

from jaxscape.cli.errors import end_at_once_when_interrupted, failing_in_a_line, warn_in_a_line
from jaxscape.xla_cpu.memory import restart_with_kept_memory


def command() -> None:
    """Run the command line of this process; the entry point `jaxscape`."""
    try:
        with failing_in_a_line("jaxscape"):
            if sys.argv[1:] == ["--version"]:  # answered without the imports of any command
                print(f"jaxscape {version('jaxscape-phate')}")
                return
            if not _only_reads(sys.argv[1:]):
                restart_with_kept_memory()
            warnings.showwarning = warn_in_a_line
            from jaxscape.cli.main import main

            main()
    finally:
        end_at_once_when_interrupted()


def _only_reads(arguments: list[str]) -> bool:
    """Return whether a command line trains and draws nothing: a second start would take as long as its work."""
    return arguments[:1] == ["info"] or not {"-h", "--help"}.isdisjoint(arguments)

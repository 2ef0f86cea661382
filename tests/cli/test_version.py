"""`jaxscape --version` prints the version of the distribution."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from jaxscape.cli.commands import Settings, read


def test_the_program_prints_its_version():
    done = subprocess.run([sys.executable, "-m", "jaxscape", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"jaxscape {version('jaxscape-phate')}\n"


def test_the_version_is_printed_without_the_imports_of_a_command():
    program = "import sys; sys.argv[1:] = ['--version']; from jaxscape.cli.program import command; command()"
    program += "; print({'jax', 'numpy', 'tyro', 'jaxscape.cli.main'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["set()"]


def test_the_help_names_the_option(capsys):
    with pytest.raises(SystemExit) as end:
        read(["--help"], Settings.for_images())
    assert end.value.code == 0
    assert "--version" in capsys.readouterr().out

"""A process is restarted with the same command line, or continues unchanged."""

import os
import subprocess
import sys

import pytest

from jaxscape.xla_cpu import memory

PROGRAM = "import sys\nfrom jaxscape.xla_cpu.memory import restart_with_kept_memory\n"
PROGRAM += "restart_with_kept_memory()\nimport os\nprint(sys.argv[1:], 'GLIBC_TUNABLES' in os.environ)\n"
ODD = ["", "a b", "--x=\n", "'\"$*", "\udcff", "-c"]
GPU = "jax_plugins/xla_cuda13"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")


def call(command, *, platforms="cpu", path="", **options):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"JAX_PLATFORMS": platforms, "PYTHONPATH": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, **options).stdout


def test_every_argument_is_passed_on():
    assert call([sys.executable, "-X", "utf8", "-c", PROGRAM, *ODD]) == f"{ODD} True\n"


def test_a_program_read_from_a_pipe_continues():
    assert call([sys.executable, "-", "a"], input=PROGRAM) == "['a'] False\n"


@pytest.mark.parametrize(
    ("platforms", "plugin", "restarted"),
    [
        ("", None, True),
        ("", GPU, False),
        ("", "libtpu", False),
        ("cpu", GPU, True),
        ("cpu,cuda", None, True),
        ("cuda,cpu", None, False),
        ("tpu", None, False),
    ],
)
def test_only_a_process_that_computes_on_a_cpu_is_restarted(tmp_path, platforms, plugin, restarted):
    # The settings made compilation for a GPU take 4.6 times as long.
    if plugin is not None:
        (tmp_path / plugin).mkdir(parents=True)
    printed = call([sys.executable, "-c", PROGRAM], platforms=platforms, path=tmp_path)
    assert printed == f"[] {restarted}\n"


@pytest.mark.parametrize("attribute", ["executable", "orig_argv"])
def test_without_a_command_line_nothing_is_restarted(monkeypatch, attribute):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, attribute, type(getattr(sys, attribute))())
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
    memory.restart_with_kept_memory()


def test_a_process_that_cannot_be_restarted_continues(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    calls = []

    def too_long(*arguments):
        calls.append(arguments)
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(os, "execve", too_long)
    memory.restart_with_kept_memory()
    assert len(calls) == 1

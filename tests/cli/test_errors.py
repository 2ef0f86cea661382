"""Every failure of a command ends in one line on stderr and an exit code; a bug leaves its traceback in a file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxscape.cli import errors
from jaxscape.cli import main as cli
from jaxscape.cli.errors import report_errors_in_one_line
from jaxscape.runs import processes

INTERRUPTS = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.argv = ["jaxscape", {command!r}, "nothing"]
from jaxscape.cli.program import command
command()
"""


@pytest.fixture(autouse=True)
def logs(tmp_path, monkeypatch):
    """Redirect the logs of these tests to a temporary folder, and return it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxscape" / "errors"


@pytest.fixture
def ends(capsys):
    """Return a function that gives the exit code and the stderr of work that raises an exception."""

    def end(error):
        with pytest.raises(SystemExit) as ended, report_errors_in_one_line("jaxscape"):
            raise error
        out, err = capsys.readouterr()
        assert out == ""
        return ended.value.code, err

    return end


class EmptyMessage(Exception):
    def __str__(self):
        return ""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("knn must be at least 1, got 0"), "knn must be at least 1, got 0"),
        (ValueError(), "ValueError"),
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 8 GiB"), "out of memory: Unable to allocate 8 GiB"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "cannot access a/b: No such file or directory"),
        (PermissionError(13, "Permission denied", Path("x")), "cannot access x: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("cannot write x: No space left on device"), "cannot write x: No space left on device"),
        (ImportError("the phate package is not installed"), "the phate package is not installed"),
        (ModuleNotFoundError("No module named 'flax'", name="flax"), "No module named 'flax'; install jaxscape again"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory on the device; fewer copies"),
        (ValueError("a\x1b[31m \0b \udcff"), r"a\x1b[31m \x00b \udcff"),
    ],
)
def test_an_error_that_the_user_can_correct_is_one_line_without_a_log(ends, logs, error, text):
    code, err = ends(error)
    assert code == 1
    assert err.startswith(f"jaxscape: {text}")
    assert err.count("\n") == 1
    assert not logs.exists()


@pytest.mark.parametrize(
    "error",
    [AssertionError(), KeyError("seed"), TypeError("a\nb"), RecursionError("deep"), RuntimeError("x"), EmptyMessage()],
    ids=repr,
)
def test_a_bug_is_reported_in_one_line_and_its_traceback_in_a_file(ends, logs, error):
    code, err = ends(error)
    (log,) = logs.iterdir()
    assert code == 1
    assert err.startswith(f"jaxscape: this is a bug in jaxscape: {type(error).__name__}: ")
    assert f"the traceback is in {log}" in err
    assert err.count("\n") == 1
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "in end\n    raise error" in text
    assert f"jax {jax.__version__}" in text
    assert f"command: {sys.argv[0]!r}" in text


def test_only_the_first_line_of_a_message_is_shown_and_all_are_logged(ends, logs):
    code, err = ends(ValueError("the first\nthe second"))
    (log,) = logs.iterdir()
    assert (code, err) == (1, f"jaxscape: the first (the traceback is in {log})\n")
    assert "the second" in log.read_text()


def test_the_line_says_if_no_log_can_be_written(ends, monkeypatch):
    def fails():
        raise RuntimeError

    monkeypatch.setattr(errors, "_cache_folder", fails)
    monkeypatch.setattr(errors, "_temporary_folder", lambda: Path("/nonexistent"))
    assert ends(KeyError("seed"))[1].endswith("; the traceback could not be written to a file; please report it\n")


def test_an_interrupt_has_the_exit_code_that_shells_use(ends):
    before = signal.getsignal(signal.SIGINT)
    code, err = ends(KeyboardInterrupt())
    assert (code, err) == (130, "jaxscape: interrupted; the same command resumes from the last kept epoch\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_is_ignored_while_the_first_is_reported(capsys, monkeypatch):
    def interrupted_give_up(message, *, code):
        signal.raise_signal(signal.SIGINT)
        processes.give_up(message, code=code)

    monkeypatch.setattr(errors, "give_up", interrupted_give_up)
    with pytest.raises(SystemExit) as ended, report_errors_in_one_line("jaxscape"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("info", "numpy"),
        ("info", "tyro"),
        ("info", "jaxscape.cli.main"),
        ("info", "jaxscape.cli.info"),
        ("train", "jax"),
    ],
)
def test_an_interrupt_during_an_import_is_reported_in_one_line(tmp_path, command, module):
    code = INTERRUPTS.format(command=command, module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "jaxscape: interrupted; the same command resumes from the last kept epoch\n"


@pytest.mark.slow
def test_after_a_command_an_interrupt_ends_the_process_at_once():
    code = "import signal\nfrom jaxscape.cli.program import command\nimport sys; sys.argv = ['jaxscape', 'info', 'x']\n"
    code += "try: command()\nfinally: signal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_warning_is_one_line():
    code = "import sys, warnings\nfrom jaxscape.cli import main\nfrom jaxscape.cli.program import command\n"
    code += "main.parse = lambda words: warnings.warn('a\\nb c') or main.Line(None, frozenset(), None)\n"
    code += "sys.argv = ['jaxscape', 'info', 'x']\n"
    code += "main._run = lambda *_: None\ncommand()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "jaxscape: warning: a b c\n")


@pytest.mark.slow
def test_a_missing_device_is_reported_in_one_line(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    command = [sys.executable, "-m", "jaxscape", "train", tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("jaxscape: jax finds no device of JAX_PLATFORMS=cuda")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


# Command lines.

RUN = "no-such-run"
VALUES = ("nan", "-1", "1e400", "x", "9" * 25, "\udcff", "--")
OPTIONS = {
    "train": ("preset", "dataset", "depth", "learning-rate", "decay-epochs", "padding", "epochs", "precision", "seed"),
    "retrain": ("seeds", "seed-list", "step-sizes", "epochs", "optimizer", "data-order", "strategy", "coordinator"),
    "compare": ("optimizers", "seeds", "steps", "eval-size"),
    "plan": ("devices", "seeds", "train.epochs", "retrain.step-sizes"),
    "embed": ("method", "knn", "decay", "t", "n-components", "only-seeds", "null"),
    "plot": (),
    "info": (),
    "demo": ("seed",),
}
ODD = [
    ["train", ""],
    ["info", "a\0b"],
    ["train", RUN, "--data-dir="],
    ["train", RUN, "--epochs"],
    ["train", "--", "--seed"],
    ["retrain"],
    ["retrain", RUN, "--seeds", "2", "--seed-list", "1"],
    ["retrain", RUN, RUN],
    ["info", "x" * 5000],
    ["info", "/dev/null"],
    ["info", "a/" * 3000],
    ["plot", "\udcff\udcfe"],
    ["embed", RUN, "--no-such-option"],
    ["plan", RUN, "--train.preset", "good", "--train.preset", "x"],
]
LINES = [
    [command, RUN, f"--{name}={value}"] for command, names in OPTIONS.items() for name in names for value in VALUES
]


@pytest.fixture
def refuse_long_commands(monkeypatch, tmp_path):
    """Refuse the commands that would take minutes, since the errors tested here occur before any work."""

    def refuse(line, *_):
        if type(line.command).__name__ in ("Demo", "Train", "Compare", "Plan"):
            raise ValueError("this would have worked")
        return run(line, *_)

    run = cli._run
    monkeypatch.setattr(cli, "_run", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", OPTIONS)
def test_no_command_line_ends_in_a_traceback(jaxscape, refuse_long_commands, logs, command):
    lines = [line for line in LINES + ODD if line[:1] == [command]]
    for line in lines:
        outcome = jaxscape(*line)
        assert outcome.code in (1, 2), line
        assert "bug" not in outcome.err, line
        assert outcome.code == 2 or len(outcome.err.splitlines()) == 1, line
    assert not logs.exists()
    assert not (refuse_long_commands / RUN).exists()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["train", ""], "argument 2 is empty ('')"),
        (["info", ""], "argument 2 is empty ('')"),
        (["train", RUN, "--data-dir", ""], "argument 4 is empty ('')"),
        (["train", RUN, "--data-dir="], "argument 3 is empty ('--data-dir=')"),
        (["info", "a\0b"], r"argument 2 contains a NUL character: 'a\x00b'"),
        (["retrain"], "retrain needs RUN"),
    ],
)
def test_invalid_arguments_are_usage_errors(jaxscape, refuse_long_commands, line, text):
    outcome = jaxscape(*line)
    assert outcome.code == 2
    assert outcome.err.startswith(f"jaxscape: {text}")
    assert len(outcome.err.splitlines()) == 1
    assert list(refuse_long_commands.iterdir()) == []


@pytest.mark.parametrize("seeds", [0, -1, 1_000_001, 10**9, 10**30])
@pytest.mark.parametrize("command", ["retrain", "compare", "plan"])
def test_the_number_of_seeds_is_checked_before_they_are_listed(jaxscape, tmp_path, command, seeds):
    outcome = jaxscape(command, tmp_path / "run", f"--seeds={seeds}")
    assert (outcome.code, outcome.err) == (1, f"jaxscape: seeds must be from 1 to 1000000, got {seeds}")
    assert not (tmp_path / "run").exists()


def test_padding_is_at_most_the_side_of_the_images(train, tmp_path):
    outcome = train(tmp_path / "run", "--padding", 999999999)
    assert (outcome.code, outcome.err) == (
        1,
        "jaxscape: padding must be at most the side of the images, 8, got 999999999",
    )

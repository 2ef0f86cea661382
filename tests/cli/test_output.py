"""Output never ends a command: encodings that lack characters, closed pipes, full disks."""

import errno
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from rich.table import Table

from jaxscape.cli.errors import report_errors_in_one_line
from jaxscape.cli.output import surviving_output
from jaxscape.runs.progress import make_console, track

TEXT = "mean±std \udcff ─│┌ é • …"
ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "cp932", "koi8-r", "utf-8", "utf-8-sig", "utf-16")


def encoded(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="\n")


def printed(stream):
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)


def print_all():
    """Print in every way that a command does."""
    print(TEXT)
    console = make_console()
    table = Table(title=TEXT)
    table.add_column("±")
    table.add_row("0.5±0.1")
    console.print(TEXT, table)
    list(track("ab", title="±", total=2, console=console, describe=str))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_output_can_be_printed_in_every_encoding(encoding):
    stream = encoded(encoding)
    with redirect_stdout(stream), report_errors_in_one_line("jaxscape"):
        print_all()
    assert "mean" in printed(stream)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("ascii", r"mean+-std \udcff -|+ \xe9 * ..."),
        ("cp1252", r"mean±std \udcff -|+ é • …"),
        ("cp437", r"mean±std \udcff ─│┌ é * ..."),
        ("utf-8", r"mean±std \udcff ─│┌ é • …"),
    ],
)
def test_characters_that_an_encoding_lacks_are_printed_in_ascii(encoding, text):
    stream = encoded(encoding)
    with redirect_stdout(stream), surviving_output():
        print(TEXT)
    assert printed(stream) == text + "\n"


def test_a_stream_keeps_its_own_error_handler():
    stream = encoded("utf-8", "surrogateescape")
    with redirect_stdout(stream), surviving_output():
        print("\udcff")
    assert stream.buffer.getvalue() == b"\xff\n"


class Failing(io.StringIO):
    """A stream that fails after the first write: its reader closed it, or its disk is full."""

    def __init__(self, number):
        super().__init__()
        self.number, self.writes = number, 0

    def write(self, text):
        self.writes += 1
        if self.writes > 1:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


def test_a_closed_pipe_does_not_end_the_work(capsys):
    stream, done = Failing(errno.EPIPE), []
    with redirect_stdout(stream), report_errors_in_one_line("jaxscape"):
        for number in range(5):
            print(number)
            done.append(number)
    assert done == list(range(5))
    assert stream.writes == 2  # nothing is written after an error
    assert capsys.readouterr().err == ""


def count(done, error=None):
    with redirect_stdout(Failing(errno.ENOSPC)), report_errors_in_one_line("jaxscape"):
        for number in range(5):
            print(number)
            done.append(number)
        if error is not None:
            raise error


def test_a_full_disk_is_reported_after_the_work_is_done(capsys):
    done = []
    with pytest.raises(SystemExit) as ended:
        count(done)
    assert (done, ended.value.code) == (list(range(5)), 1)
    expected = "jaxscape: the work is done, but what it printed could not be written: No space left on device\n"
    assert capsys.readouterr().err == expected


def test_an_error_of_the_work_takes_precedence_over_one_of_its_output(capsys):
    with pytest.raises(SystemExit):
        count([], ValueError("the work failed"))
    assert capsys.readouterr().err == "jaxscape: the work failed\n"


def test_closed_streams_are_not_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with report_errors_in_one_line("jaxscape"):
        print_all()
    with pytest.raises(SystemExit) as ended, report_errors_in_one_line("jaxscape"):
        raise ValueError("unheard")
    assert ended.value.code == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ("PYTHONIOENCODING=ascii", "", 0),
        ("PYTHONIOENCODING=cp1252", "", 0),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0", "", 0),
        ("", "| head -1", 0),
        ("", "2>&1 | true", 0),
        ("", ">&-", 0),
        ("", "2>&-", 0),
        ("", "> /dev/full", 1),
    ],
)
def test_info_in_a_shell(finished, before, after, code):
    """The exit code is that of `info`, not that of its reader."""
    command = f'set -o pipefail; {before} "$0" -m jaxscape info "$1" {after}'
    done = subprocess.run(["bash", "-c", command, sys.executable, finished], capture_output=True)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == code


def test_without_a_terminal_a_table_row_is_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    table = Table()
    for text in ("a" * 60, "b" * 60):
        table.add_column(text)
    table.add_row("c" * 60, "d" * 60)
    with redirect_stdout(io.StringIO()) as out:
        make_console().print(table)
    assert any("c" * 60 in line and "d" * 60 in line for line in out.getvalue().splitlines())

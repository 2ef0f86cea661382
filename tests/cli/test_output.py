"""What is printed never ends a command: encodings without its characters, readers that leave, disks that are full."""

import errno
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from rich.table import Table

from jaxscape.cli.errors import failing_in_a_line
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
    """Everything that a command prints with."""
    print(TEXT)
    console = make_console()
    table = Table(title=TEXT)
    table.add_column("±")
    table.add_row("0.5±0.1")
    console.print(TEXT, table)
    list(track("ab", title="±", total=2, console=console, describe=str))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_takes_all_that_is_printed(encoding):
    stream = encoded(encoding)
    with redirect_stdout(stream), failing_in_a_line("jaxscape"):
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
def test_what_an_encoding_lacks_is_in_ascii(encoding, text):
    stream = encoded(encoding)
    with redirect_stdout(stream), surviving_output():
        print(TEXT)
    assert printed(stream) == text + "\n"


def test_the_errors_that_a_stream_allows_are_its_own():
    stream = encoded("utf-8", "surrogateescape")
    with redirect_stdout(stream), surviving_output():
        print("\udcff")
    assert stream.buffer.getvalue() == b"\xff\n"


class Failing(io.StringIO):
    """A stream whose reader or disk is gone after the first line."""

    def __init__(self, number):
        super().__init__()
        self.number, self.asked = number, 0

    def write(self, text):
        self.asked += 1
        if self.asked > 1:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


def test_a_reader_that_leaves_does_not_end_the_work(capsys):
    stream, done = Failing(errno.EPIPE), []
    with redirect_stdout(stream), failing_in_a_line("jaxscape"):
        for number in range(5):
            print(number)
            done.append(number)
    assert done == list(range(5))
    assert stream.asked == 2  # nothing is tried after an error
    assert capsys.readouterr().err == ""


def count(done, error=None):
    with redirect_stdout(Failing(errno.ENOSPC)), failing_in_a_line("jaxscape"):
        for number in range(5):
            print(number)
            done.append(number)
        if error is not None:
            raise error


def test_a_full_disk_is_told_when_the_work_is_done(capsys):
    done = []
    with pytest.raises(SystemExit) as ended:
        count(done)
    assert (done, ended.value.code) == (list(range(5)), 1)
    expected = "jaxscape: the work is done, but what it printed could not be written: No space left on device\n"
    assert capsys.readouterr().err == expected


def test_the_error_of_the_work_comes_before_that_of_its_output(capsys):
    with pytest.raises(SystemExit):
        count([], ValueError("the work failed"))
    assert capsys.readouterr().err == "jaxscape: the work failed\n"


def test_closed_streams_are_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with failing_in_a_line("jaxscape"):
        print_all()
    with pytest.raises(SystemExit) as ended, failing_in_a_line("jaxscape"):
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
    """The code is that of `info`, not that of its reader."""
    command = f'set -o pipefail; {before} "$0" -m jaxscape info "$1" {after}'
    done = subprocess.run(["bash", "-c", command, sys.executable, finished], capture_output=True)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == code


def test_a_row_of_a_table_is_a_line_where_no_window_bounds_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    table = Table()
    for text in ("a" * 60, "b" * 60):
        table.add_column(text)
    table.add_row("c" * 60, "d" * 60)
    with redirect_stdout(io.StringIO()) as out:
        make_console().print(table)
    assert any("c" * 60 in line and "d" * 60 in line for line in out.getvalue().splitlines())

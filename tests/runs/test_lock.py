"""The lock on a run folder: one writer at a time, the name of the holder, and the release when it is killed."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from unittest import mock

import pytest

from jaxscape.runs.lock import LOCK, RunInUseError, writing
from jaxscape.runs.progress import make_console

HOLD = """
import sys
from pathlib import Path
from jaxscape.runs.lock import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
# The same without jaxscape, whose imports take seconds.
HOLD_BY_HAND = """
import fcntl, json, os, socket, sys
from pathlib import Path
Path(sys.argv[1]).mkdir(exist_ok=True)
with open(Path(sys.argv[1]) / ".lock", "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": "today", "command": "-c"}, file)
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(request, tmp_path):
    """Start another process that holds the lock of a run folder until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", getattr(request, "param", HOLD_BY_HAND), tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()


def test_a_lock_leaves_nothing_behind(tmp_path):
    with writing(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "run"):
        raise KeyboardInterrupt
    with writing(tmp_path / "run"):
        pass


@pytest.mark.parametrize("other", [HOLD], indirect=True)
def test_the_holder_is_named_by_process_and_host(tmp_path, other):
    words = (
        f"run is in use: process {other.pid} on {re.escape(socket.gethostname())} has been writing to it since .*, `-c"
    )
    with pytest.raises(RunInUseError, match=words), writing(tmp_path / "run"):
        pass
    assert isinstance(RunInUseError(), OSError)  # the command line prints these in a line


def test_writers_are_refused_in_one_line_and_readers_are_not(jaxscape, run, other):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != LOCK}
    for command in ("train", "retrain"):
        outcome = jaxscape(command, run)
        assert outcome.code == 1
        assert f"process {other.pid} on " in outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != LOCK} == before
    for command in (["info"], ["embed", "--knn", 3]):
        assert jaxscape(command[0], run, *command[1:]).code == 0


@pytest.mark.slow
def test_a_run_that_is_being_written_is_drawn(jaxscape, run, other):
    assert jaxscape("plot", run).code == 0


def test_a_killed_holder_releases_the_lock_and_its_file_is_reused(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with writing(tmp_path / "run"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "run" / LOCK).read_text()
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_waiting_process_continues_when_the_holder_ends(tmp_path, other, capsys):
    told = []
    console = make_console()

    def hear(text):
        told.append(text)
        other.stdin.close()  # then the other process ends

    with mock.patch.object(console, "print", hear), writing(tmp_path / "run", wait=console):
        assert other.wait() == 0
    assert len(told) == 1
    assert f"process {other.pid}" in told[0]
    assert told[0].endswith("waiting for it to end")


def test_locks_of_several_folders_are_held_together_or_not_at_all(tmp_path, other):
    with pytest.raises(RunInUseError), writing(tmp_path / "a", tmp_path / "run", tmp_path / "z"):
        pass
    with writing(tmp_path / "a", tmp_path / "z"):  # the first was released again
        pass


def test_a_lock_on_another_host_may_be_stale_and_the_message_says_what_to_do(tmp_path, other):
    (tmp_path / "run" / LOCK).write_text('{"pid": 7, "host": "node12", "since": "today", "command": "jaxscape x"}')
    with pytest.raises(RunInUseError, match=r"process 7 on node12 .* delete .*run/\.lock"), writing(tmp_path / "run"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}"])
def test_an_unreadable_holder_is_called_another_process(tmp_path, other, content):
    (tmp_path / "run" / LOCK).write_text(content)
    with pytest.raises(RunInUseError, match="another process has just begun to write"), writing(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_warned_about(tmp_path):
    none = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    with (
        mock.patch("fcntl.flock", side_effect=none),
        pytest.warns(UserWarning, match="does not support locks"),
        writing(tmp_path / "run"),
    ):
        pass


def test_a_lock_file_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="cannot write"), writing(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_unfinished_files_of_killed_processes_are_deleted(tmp_path):
    left = [tmp_path / "run" / name for name in ("", "minimum", "resume", "trajectories", "embeddings/x")]
    for folder in left:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".a.0123456789abcdef.tmp").touch()
    with writing(tmp_path / "run"):
        pass
    assert not list(tmp_path.rglob("*.tmp"))

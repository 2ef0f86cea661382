"""Short runs of the fault campaigns, and tests of the shim; run with `pytest -m slow tests/faults`, or run.py."""

import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import damage
import inputs
import kills
import pytest
import run as command
import shim
import writers
from cases import Cases, differences
from figures import Figures
from server import HANG, Outcome, Server

HERE = Path(__file__).parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shim.why_not() is not None, reason=str(shim.why_not()))]

# mkdir, open, write, fsync, rename: five operations.
_WORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
import shim
library, root, at, kind, log = sys.argv[2:]
shim.arm(library, {"root": root, "at": int(at), "kind": kind, "log": log})
open(os.path.dirname(root) + "/elsewhere", "w").close()
os.mkdir(root + "/folder")
file = os.open(root + "/folder/a", os.O_WRONLY | os.O_CREAT)
os.write(file, b"12345678")
os.fsync(file)
os.rename(root + "/folder/a", root + "/folder/b")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def work(library, tmp_path):
    """Do the work above with a fault; gives the exit code, the files that are there and the operations seen."""
    root, log = tmp_path / "root", tmp_path / "log"
    root.mkdir()

    def run(at, kind):
        arguments = [str(each) for each in (HERE, library, root, at, kind, log)]
        done = subprocess.run(
            [sys.executable, "-S", "-c", _WORK, *arguments],
            env={"LD_PRELOAD": str(library)},
            stderr=subprocess.PIPE,
            text=True,
        )
        files = {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        return done, files, [line.split() for line in log.read_text().splitlines()]

    return run


def test_operations_below_the_root_are_counted_and_those_elsewhere_are_not(work):
    done, files, seen = work(0, "none")
    assert done.returncode == 0
    assert files == {"b": b"12345678"}
    names = [name for _, name, _ in seen]
    assert names == ["mkdir", "open", "write", "fsync", "rename"]


@pytest.mark.parametrize(
    ("at", "kind", "left"),
    [
        (2, "before", {}),
        (2, "after", {"a": b""}),
        (3, "before", {"a": b""}),
        (3, "middle", {"a": b"1234"}),
        (3, "after", {"a": b"12345678"}),
        (5, "before", {"a": b"12345678"}),
        (5, "after", {"b": b"12345678"}),
    ],
)
def test_a_process_is_killed_at_an_operation(work, at, kind, left):
    done, files, seen = work(at, kind)
    assert done.returncode == -signal.SIGKILL
    assert files == left
    assert len(seen) == at


@pytest.mark.parametrize(("at", "left"), [(1, {}), (2, {}), (3, {"a": b""}), (5, {"b": b"12345678"})])
def test_the_disk_is_full_from_an_operation_on(work, at, left):
    done, files, _ = work(at, "full")
    assert files == left
    assert ("No space left on device" in done.stderr) == (at < 5)


@pytest.mark.parametrize(
    ("code", "err", "broken"),
    [
        (0, "", False),
        (0, "Traceback (most recent call last):\n", True),
        (1, "jaxscape: run has no minimum\n", False),
        (1, "", True),
        (1, "jaxscape: run\nhas no minimum\n", True),
        (1, "jaxscape: this is a bug\nTraceback (most recent call last):\n", True),
        (-signal.SIGSEGV, "", True),
        (HANG, "", True),
    ],
)
def test_a_command_is_broken_unless_it_succeeds_or_fails_with_one_line(code, err, broken):
    assert Outcome(code, "", err).broken == broken


@pytest.fixture(scope="module")
def trained(tmp_path_factory, library, pytestconfig):
    """Yield cases with a trained minimum, and a fork server."""
    scratch = tmp_path_factory.mktemp("faults")
    cases = Cases(scratch)
    with Server(library, scratch / "server0", pytestconfig.cache.mkdir("compiled")) as server:
        cases.make(server, ["train"])
        yield cases, server


@pytest.fixture
def figures():
    """Yield figures, and check at the end of the test that they have no failure."""
    results = Figures()
    yield results
    assert results.failures == []


def test_folders_have_equal_digests_only_if_they_are_equal(trained):
    cases, server = trained
    run = cases.fresh("train")
    assert differences(cases.digest(server, run), cases.digests["train"]) == []
    record = run / "minimum" / "minimum.json"
    for path in [record] if record.exists() else run.glob("minimum/*.json"):
        path.write_text("{}")
    assert differences(cases.digest(server, run), cases.digests["train"]) == ["minimum"]
    cases.done(run)


def test_interrupted_training_ends_in_the_same_bytes(trained, figures):
    kills.run_chain(*trained, figures, "train", [(60, "full"), (30, "before"), (5, "middle")])
    assert figures.counts["kills", "train: same bytes"] == 1


def test_one_of_two_writers_is_rejected(trained, figures):
    writers.race(*trained, figures, ("train", "train"), 0.0, None)
    assert figures.counts["writers", "train and train: same bytes"] == 1


@pytest.mark.parametrize("kind", ["emptied", "nested", "wrong type, unsigned"])
def test_a_damaged_record_is_named(trained, figures, kind):
    cases, server = trained
    damage.prepare(cases, server, "train")
    damage.try_damage(cases, server, figures, "config.json", kind, "info", 0, "train")


@pytest.mark.parametrize(
    ("name", "words"),
    [("train", ["RUN", "--epochs", "-1"]), ("retrain", ["RUN", "--seeds", "0"]), ("embed", ["FILE"]), ("info", ["\0"])],
)
def test_an_invalid_command_line_is_rejected_in_one_line(trained, figures, name, words):
    cases, server = trained
    stages = {"embed": None, "info": None}
    inputs.try_line(cases, server, figures, name, words, base=stages.get(name, inputs.BASES[name]))


def test_short_campaigns_have_no_failures(tmp_path, figures, pytestconfig):
    # The references, which both need, are made before the time counts; their programs are those of `trained` and
    # tests/runs.
    options = Namespace(scratch=tmp_path, compiled=pytestconfig.cache.mkdir("compiled"), seed=0, minutes=0.7)
    options.only = ["kills", "writers"]
    options.workers = min(2, os.cpu_count() or 1)
    command.run_campaigns(options, figures)

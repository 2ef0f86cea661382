"""Two real processes at one run folder, over loopback, started as SLURM does."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxscape import TrajectoryStore
from jaxscape.runs.processes import Cluster, join
from jaxscape.runs.tables import read_csv

pytestmark = pytest.mark.slow

BIND = "JAX_COORDINATOR_BIND_ADDRESS"
PROGRAM = "from jaxscape.cli.main import main; main()"
LAST = 6
# Three copies are padded to four, and each process has the whole stack at the end of an epoch.
COPIES = {
    "even": ("--seeds", "2", "--step-sizes", "0.5", "1", "--epochs", str(LAST)),
    "odd": ("--seeds", "3", "--step-sizes", "1", "--epochs", "2"),
}


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(run, *options):
    """Start two processes of `jaxscape retrain RUN --distributed`."""
    port, processes = free_port(), []
    for number in range(2):
        slurm = {"JOB_ID": 1, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": number, "LOCALID": number}
        environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
        environment |= {"JAX_COORDINATOR_PORT": str(port), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", PROGRAM, "retrain", "--distributed", "--strategy", "loop", run, *options]
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
    return processes


def end_well(processes):
    """Return the output of the first process, after both have succeeded and the other one has printed nothing."""
    (out, error), (other, _) = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], error
    assert "retrain" not in other
    return out


def read_parameters(run):
    store = TrajectoryStore.open(run / "trajectories")
    return dict(zip(store.leaf_names, leaves(store.read()), strict=True))


def leaves(tree):
    return [leaf for part in tree.values() for leaf in (leaves(part) if isinstance(part, dict) else [part])]


def assert_close(found, expected, *, epochs):
    """Compare the parameters of the first epochs to 1e-5 of each array's size."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape
        size = np.abs(values).max(initial=1e-30)
        np.testing.assert_allclose(found[name][:epochs], values[:epochs], atol=1e-5 * size, err_msg=name)


def assert_same_tables(found, expected):
    for table in ("metrics.csv", "geometry.csv"):
        tables = read_csv(found / table), read_csv(expected / table)
        assert list(tables[0]) == list(tables[1])
        for column, values in tables[1].items():
            np.testing.assert_allclose(tables[0][column], values, rtol=1e-2, atol=1e-3, err_msg=column)


@pytest.fixture(scope="module")
def make(kept_minimum, tmp_path_factory):
    """Return a new run folder with a minimum."""
    return lambda: shutil.copytree(kept_minimum, tmp_path_factory.mktemp("processes") / "run")


@pytest.fixture(scope="module")
def alone(make, jaxscape):
    """A run of a single process for each kind of copies."""
    runs = {kind: make() for kind in COPIES}
    for kind, run in runs.items():
        outcome = jaxscape("retrain", run, "--strategy", "loop", *COPIES[kind])
        assert outcome.code == 0, outcome.err
    return runs


@pytest.fixture(scope="module")
def together(make):
    """A run of two processes for each kind of copies."""
    runs = {kind: make() for kind in COPIES}
    for kind, run in runs.items():
        assert "return" in end_well(start(run, *COPIES[kind]))
    return runs


@pytest.mark.parametrize("kind", COPIES)
def test_two_processes_give_the_run_of_one(alone, together, kind):
    """The parameters after ten updates are the same, and every file that one process makes exists."""
    assert_close(read_parameters(together[kind]), read_parameters(alone[kind]), epochs=6)
    assert_same_tables(together[kind], alone[kind])
    assert {path.name for path in together[kind].iterdir()} == {path.name for path in alone[kind].iterdir()}


def test_each_process_writes_its_own_members(together):
    store = TrajectoryStore.open(together["even"] / "trajectories")
    parts = [(store.path / "2" / "state").glob(f"ocdbt.process_{part}/**/*") for part in range(2)]
    written = [sum(path.stat().st_size for path in files) for files in parts]
    assert min(written) > 0.9 * max(written)
    assert sum(written) > 0.9 * 4 * store.num_members * store.num_parameters


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_costs_at_most_one_epoch(make, together, alone, jaxscape, killed):
    run = make()
    processes = start(run, *COPIES["even"])
    while not (run / "trajectories" / "2").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    processes[killed].send_signal(signal.SIGKILL)
    errors = [process.communicate(timeout=120)[1] for process in processes]  # the other process ends by itself too
    assert all(process.returncode != 0 for process in processes)
    # If the coordinator survives, it reports the loss: with our message, or with its own if that is faster.
    assert killed == 0 or "jaxscape: " in errors[0] or "coordination" in errors[0]
    reached = TrajectoryStore.open(run / "trajectories").num_epochs - 1
    assert reached < LAST
    by_one = shutil.copytree(run, run.with_name("by one"))
    # Two processes resume to the bytes of an uninterrupted run.
    assert first_epoch(end_well(start(run, *COPIES["even"]))) >= reached - 1
    expected = read_parameters(together["even"])
    for name, values in read_parameters(run).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert (run / "metrics.csv").read_bytes() == (together["even"] / "metrics.csv").read_bytes()
    # A single process can resume too.
    outcome = jaxscape("retrain", by_one, "--strategy", "loop", *COPIES["even"])
    assert outcome.code == 0, outcome.err
    assert first_epoch(outcome.out) >= reached - 1
    assert [path.name for path in (by_one / "resume").iterdir()] == [f"state-{LAST}-0-of-1.npz"]
    assert_close(read_parameters(by_one), read_parameters(alone["even"]), epochs=6)


def first_epoch(printed):
    """Return the epoch that a retraining has resumed from, by its progress: 1/4 is the first of epochs 3 to 6."""
    return LAST + 1 - int(printed.split("controls): 1/")[1].split(",")[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--coordinator", "localhost:1"), "must be given together, got localhost:1, None and None"),
        (("--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"), "from 0 to 1, got 2"),
        (("--coordinator", "localhost:1", "--num-processes", "0", "--process-id", "0"), "at least 1, got 0"),
        (("--coordinator", "localhost", "--num-processes", "1", "--process-id", "0"), "HOST:PORT, got 'localhost'"),
        (("--coordinator", "localhost:x", "--num-processes", "1", "--process-id", "0"), "HOST:PORT, got 'localhost:x'"),
    ],
)
def test_processes_that_cannot_connect_get_an_error(jaxscape, kept_minimum, options, message):
    outcome = jaxscape("retrain", kept_minimum, *options)
    assert outcome.code == 1
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(("environment", "address"), [({}, "127.0.0.1:1"), ({BIND: "[::]:2"}, "[::]:2")])
def test_the_coordinator_listens_at_the_given_address(monkeypatch, environment, address):
    asked = []
    monkeypatch.delenv(BIND, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *named, **options: asked.append((named, options)))
    join(Cluster(coordinator="127.0.0.1:1", num_processes=1, process_id=0))
    assert asked == [(("127.0.0.1:1", 1, 0), {"coordinator_bind_address": address})]


def test_without_a_cluster_there_are_no_other_processes(kept_minimum):
    command = [sys.executable, "-c", PROGRAM, "retrain", kept_minimum, "--distributed"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("jaxscape: no other processes were found")
    assert "--coordinator HOST:PORT" in done.stderr


def test_copies_of_two_minima_are_sharded_over_two_processes(make, alone):
    """Two stores are written concurrently."""
    run, other = make(), make()
    printed = end_well(start(run, other, *COPIES["even"]))
    assert "retrain 12 copies" in printed
    for found in (run, other):  # both have the same minimum
        assert_close(read_parameters(found), read_parameters(alone["even"]), epochs=6)
        assert_same_tables(found, alone["even"])

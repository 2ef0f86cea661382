"""Members sharded over devices: a process with eight simulated devices, and two processes, beside one device."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import two_processes
from eight_devices import CASES, MEMBERS

from jaxscape.training.devices import member_mesh

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "eight_devices.py"
SHARED = [(network, name) for network, cases in CASES.items() for name in cases if name != "alone"]
LIKE_ALONE = [case for case in SHARED if not case[1].startswith("batches")]  # the others have other batches


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Return the results of all runs on one and on several devices: {"network: case/what": array}."""
    path = tmp_path_factory.mktemp("devices") / "arrays.npz"
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(path) as opened:
        return dict(opened)


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    """Return the results of the first of two processes: {"case/alone or together/what": array}."""
    path = tmp_path_factory.mktemp("processes") / "arrays.npz"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    commands = [[sys.executable, two_processes.__file__, number, port, path] for number in "01"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    with np.load(path) as opened:
        return dict(opened)


def of(arrays, network, name):
    start = f"{network}: {name}/"
    return {key.removeprefix(start): values for key, values in arrays.items() if key.startswith(start)}


@pytest.mark.parametrize(("network", "name"), LIKE_ALONE)
def test_members_equal_those_on_one_device(arrays, network, name):
    """Compare parameters, statistics and optimiser states after ten updates, to 1e-5 of each array's size."""
    expected, shared = of(arrays, network, "alone"), of(arrays, network, name)
    assert expected.keys() == shared.keys()
    states = [key for key in expected if key.startswith("states")]
    assert len(states) > 5
    for key in states:
        assert shared[key].shape[0] == MEMBERS
        size = np.abs(expected[key]).max(initial=1e-30)
        np.testing.assert_allclose(shared[key] / size, expected[key] / size, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(("network", "name"), LIKE_ALONE)
def test_metrics_equal_those_on_one_device_in_the_order_of_the_members(arrays, network, name):
    expected, shared = of(arrays, network, "alone"), of(arrays, network, name)
    metrics = [key for key in expected if "/" in key]
    assert len(metrics) == {"residual": 3 * 5 + 2 * 2, "dense": 3 * 3 + 2}[network]
    for key in metrics:
        assert shared[key].shape == (MEMBERS,)
        assert len(set(shared[key])) == MEMBERS or "accuracy" in key or "finite" in key or key == "mean/0"
        np.testing.assert_allclose(shared[key], expected[key], rtol=1e-4, atol=1e-6, err_msg=key)


def test_a_data_function_gives_batches_only_for_real_members(arrays):
    """Five members on two devices are padded to six; the sixth gets the batches of the fifth."""
    assert np.isfinite(of(arrays, "dense", "batches of one's own on 2")["epoch_loss/2"]).all()


@pytest.mark.parametrize("name", ["batches of a loader on 3", "batches of a loader on 2, by epoch"])
def test_the_batches_of_a_loader_are_replicated_to_every_device(arrays, name):
    expected, shared = of(arrays, "dense", "batches of a loader"), of(arrays, "dense", name)
    for key in expected.keys() - {"devices"}:
        np.testing.assert_allclose(shared[key], expected[key], rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(("network", "name"), SHARED)
def test_devices_that_would_idle_are_not_used(arrays, network, name):
    """Five members on eight devices use five; on three, two rounds of three."""
    assert arrays[f"{network}: {name}/devices"] == min(CASES[network][name][0], MEMBERS)


def test_a_single_device_needs_no_mesh_unless_it_is_given():
    assert member_mesh(20) is None
    assert member_mesh(20, jax.devices()).size == 1
    with pytest.raises(ValueError, match="at least one device"):
        member_mesh(20, [])


@pytest.mark.parametrize("name", two_processes.CASES)
def test_two_processes_see_all_metrics_and_hold_their_own_members(of_two_processes, name):
    """Compare the results after ten updates on two times two devices, with five members padded to eight."""
    members = two_processes.CASES[name][0]
    alone, together = (
        {
            key.removeprefix(f"{name}/{where}/"): value
            for key, value in of_two_processes.items()
            if key.startswith(f"{name}/{where}/")
        }
        for where in ("alone", "together")
    )
    assert alone.keys() == together.keys()
    for key, expected in alone.items():
        if not key.startswith("params"):
            assert together[key].shape == (members,)
            np.testing.assert_allclose(together[key], expected, rtol=1e-4, atol=1e-6, err_msg=key)
        else:  # the members of the first process, with padding
            rows = min(-(-members // 4) * 2, members)
            assert len(together[key]) == -(-members // 4) * 2
            np.testing.assert_allclose(together[key][:rows], expected[:rows], atol=1e-5 * np.abs(expected).max())


def test_devices_must_belong_to_this_process_or_to_all():
    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    with pytest.raises(ValueError, match=r"must be those of this process, 0, .* got devices of the processes \[1\]"):
        member_mesh(20, [Device(1)])

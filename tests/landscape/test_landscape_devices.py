"""Points sharded over several devices, simulated ones in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "three_devices.py"


@pytest.mark.slow
def test_devices_share_the_points_out(tmp_path):
    file = tmp_path / "found.npz"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found = dict(np.load(file))
    np.testing.assert_array_equal(found["threads on 2"], found["one"])
    np.testing.assert_allclose(found["vmap:2 on 3"], found["one"], rtol=1e-5)
    np.testing.assert_array_equal(found["ends"], found["one"][[0, -1]])

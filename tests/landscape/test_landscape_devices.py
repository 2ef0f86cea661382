"""Points are distributed over several devices, which are simulated in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "three_devices.py"


@pytest.mark.slow
def test_points_distributed_over_devices_have_the_same_metrics(tmp_path):
    file = tmp_path / "metrics.npz"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    metrics = dict(np.load(file))
    np.testing.assert_array_equal(metrics["threads on 2"], metrics["one"])
    np.testing.assert_allclose(metrics["vmap:2 on 3"], metrics["one"], rtol=1e-5)
    np.testing.assert_array_equal(metrics["ends"], metrics["one"][[0, -1]])

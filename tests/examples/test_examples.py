"""The examples are killed once, resumed, and end in the same bytes; at a tiny size."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))

pytestmark = pytest.mark.slow


def start(example, run, cache):
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}  # the strategy is measured once
    command = [sys.executable, str(example), str(run), "2"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed


def results(run):
    kept = ["metrics.csv", "geometry.csv"]
    kept += [str(path.relative_to(run)) for path in [*run.glob("embeddings/*/coordinates.csv"), *run.glob("figures/*")]]
    with np.load(run / "gram.npz") as arrays:
        # On a busy machine each run measures which strategy is the fastest, and may choose another one. The results
        # are the same, but the fingerprints name the strategy.
        gram = {name: arrays[name].tobytes() for name in arrays if name not in ("fingerprint", "lineage")}
    return gram | {name: (run / name).read_bytes() for name in kept}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_that_is_killed_and_resumed_ends_in_the_same_bytes(example, tmp_path):
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    finish(start(example, whole, tmp_path / "cache"))
    assert (whole / "figures" / "phate-cosine-none-knn5-beside-rotated-null.png").exists()
    process = start(example, killed, tmp_path / "cache")
    while not (killed / "trajectories" / "1").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(start(example, killed, tmp_path / "cache"))
    assert results(killed) == results(whole)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example):
    lines = [line for line in example.read_text().splitlines() if line.strip() and not line.startswith('"""')]
    assert len(lines) <= 25

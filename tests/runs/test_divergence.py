"""Members whose parameters become infinite or NaN: jumps of 1e20 filter norms, whose batch statistics overflow."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxscape.runs.tables import read_csv
from jaxscape.trajectories.store import TrajectoryStore

pytestmark = pytest.mark.slow

FAR = 1e20


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, kept_minimum, jaxscape, retrain):
    """A run in which every second member diverges, and the output of its commands."""
    run = shutil.copytree(kept_minimum, tmp_path_factory.mktemp("diverged") / "run")
    commands = [
        retrain(run, "--step-sizes", 0.5, FAR, "--controls", 0),
        jaxscape("embed", run, "--knn", 3),
        jaxscape("plot", run),
    ]
    return run, commands


def test_commands_succeed(outcomes):
    for outcome in outcomes[1]:
        assert (outcome.code, outcome.err) == (0, "")


def test_diverged_members_are_printed_with_seed_and_step_size(outcomes):
    told = [line for line in outcomes[1][0].out.splitlines() if line.startswith("member ")]
    assert told == [
        f"member {member} (seed {seed}, step size 1e+20) diverged in epoch 1; it is left out of distances and pictures"
        for member, seed in ((1, 0), (3, 1))
    ]
    assert "2 diverged" in outcomes[1][0].out


def test_diverged_members_are_in_the_report(outcomes):
    report = json.loads((outcomes[0] / "report.json").read_text())
    assert report["diverged"] == [
        {"seed": seed, "step_size": FAR, "member": member, "epoch": 1} for member, seed in ((1, 0), (3, 1))
    ]
    assert list(report["geometry"]["by_step_size"]) == ["0.5"]
    assert report["geometry"]["real"]["return"]["n"] == 2


def test_the_store_and_the_metrics_contain_diverged_members(outcomes):
    metrics = read_csv(outcomes[0] / "metrics.csv")
    np.testing.assert_array_equal(metrics["finite"], [1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0])
    assert TrajectoryStore.open(outcomes[0] / "trajectories").num_members == 4


def test_distances_coordinates_and_geometry_exclude_diverged_members(outcomes):
    with np.load(outcomes[0] / "gram.npz") as kept:
        assert kept["label_member"].tolist() == [0, 2] * 3
        assert np.isfinite(kept["products"]).all()
    for table in ("geometry.csv", "embeddings/phate-cosine-none-knn3/coordinates.csv"):
        columns = read_csv(outcomes[0] / table)
        assert columns["member"].tolist() == [0, 2] * 3
        assert columns["step_size"].tolist() == [0.5] * 6


def test_the_other_members_are_unaffected(outcomes, finished):
    beside = TrajectoryStore.open(outcomes[0] / "trajectories").read(members=[0, 2])
    alone = TrajectoryStore.open(finished / "trajectories").read(members=[0, 2])
    jax.tree.map(np.testing.assert_array_equal, beside, alone)


def test_if_all_members_diverge_the_command_fails_and_says_so(retrain, jaxscape, with_minimum):
    words = f"jaxscape: all 2 members of {with_minimum} have diverged; a smaller learning rate may help"
    assert retrain(with_minimum, "--step-sizes", FAR)[::2] == (1, words)
    assert jaxscape("embed", with_minimum)[::2] == (1, words)


def test_a_training_that_diverges_gives_no_minimum(train, retrain, tmp_path):
    outcome = train(tmp_path / "run", "--learning-rate", 1e30)
    assert outcome.code == 1
    assert outcome.err == (
        f"jaxscape: training diverged: parameters are not finite in {tmp_path / 'run'} from epoch 1 on"
    )
    assert "has no finished minimum" in retrain(tmp_path / "run").err

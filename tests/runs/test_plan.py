"""The output of `jaxscape plan`, which starts nothing."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from rich.console import Console

from jaxscape.runs import plan as plan_room
from jaxscape.runs.config import CompareConfig, RetrainConfig
from jaxscape.runs.images import image_comparison, image_plan
from jaxscape.runs.minimum import read_accuracy
from jaxscape.runs.plan import plan_comparison, plan_run

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def planned(kept_minimum):
    """The plan for 22 copies of the tiny network."""
    config = read_accuracy(kept_minimum)[0]
    retrain = RetrainConfig(batch_size=20, epochs=5, strategy="loop", eval_size=20)
    return plan_run(kept_minimum, *image_plan(config, retrain), console=QUIET)


def test_the_whole_run_is_planned_before_anything_exists(jaxscape, images, tmp_path):
    options = [f"--train.{name}={value}" for name, value in {"dataset": "mnist", "data-dir": images}.items()]
    options += [
        "--train.data-unchecked",
        "--train.protocol=digits",
        "--train.train-size=40",
        "--train.batch-size=20",
        "--train.epochs=3",
    ]
    outcome = jaxscape("plan", tmp_path / "run", *options, "--seeds", 2, "--retrain.epochs", 7)
    assert outcome.code == 0, outcome.err
    assert re.search(r"train +3 epochs of 2 steps", outcome.out)
    # Settings that depend on the minimum depend on the planned one: its batches of 20.
    assert re.search(r"retrain +7 epochs of 2 steps, 10 copies, 10 per device", outcome.out)
    assert re.search(r"distances +80 points of 77\d\d\d parameters", outcome.out)
    assert "memory per device" in outcome.out
    assert "too little free space" not in outcome.out
    assert not list(tmp_path.iterdir())


def test_an_existing_minimum_is_not_planned_too_little_disk_space_is_reported_and_nothing_changed(
    jaxscape, kept_minimum
):
    before = contents(kept_minimum)
    usage = SimpleNamespace(free=10_000_000)
    with mock.patch.object(shutil, "disk_usage", return_value=usage):
        options = ["--devices", 3, "--retrain.strategy", "loop", "--retrain.epochs", 12]
        outcome = jaxscape("plan", kept_minimum, *options)
    assert outcome.code == 0, outcome.err
    assert "of 10 MB free" in outcome.out
    assert "too little free space" in outcome.out
    assert " train " not in outcome.out
    assert "on 3 x cpu" in outcome.out
    assert re.search(r"12 epochs of 2 steps, 22 copies, 8 per device", outcome.out)
    assert contents(kept_minimum) == before


def test_more_epochs_take_more_and_more_devices_take_less(kept_minimum, planned):
    config = read_accuracy(kept_minimum)[0]
    longer = RetrainConfig(batch_size=20, epochs=12, strategy="loop", eval_size=20)
    found = plan_run(kept_minimum, *image_plan(config, longer), devices=22, console=QUIET)
    assert found.devices == 22
    assert found.disk["trajectories"] == planned.disk["trajectories"] / 6 * 13
    assert found.disk["resume"] == planned.disk["resume"]
    assert found.memory.states * 22 == planned.memory.states


def test_the_planned_disk_space_is_the_used_disk_space(finished, planned):
    """The finished run has six copies and two epochs, the planned one 22 copies and five epochs."""
    taken = {
        name: sum(path.stat().st_size for path in (finished / name).rglob("*") if path.is_file())
        for name in ("trajectories", "resume", "minimum")
    }
    assert planned.disk["trajectories"] == pytest.approx(taken["trajectories"] * 22 * 6 / (6 * 3), rel=0.1)
    assert planned.disk["resume"] == pytest.approx(taken["resume"] * 22 / 6, rel=0.1)
    assert planned.disk["minimum"] == pytest.approx(taken["minimum"], rel=0.5)


def test_networks_side_by_side_are_planned_by_optimizer(images, tmp_path):
    config = CompareConfig(
        dataset="mnist",
        data_dir=str(images),
        data_unchecked=True,
        train_size=40,
        batch_size=20,
        epochs=7,
        eval_size=20,
        seeds=(0, 1),
        optimizers=("sgd", "adam"),
        strategy="loop",
    )
    plan = plan_comparison(tmp_path / "run", image_comparison(config), console=QUIET)
    assert [stage.name for stage in plan.stages] == ["sgd", "adam", "distances"]
    assert plan.stages[0].work == "7 epochs of 2 steps, 2 networks, 2 per device"
    assert plan.seconds > 0
    networks, parameters = 4, int(re.search(r"of (\d+) parameters", plan.stages[2].work)[1])
    assert plan.disk["trajectories"] == 4 * parameters * networks * 8
    # Adam stores two moments per parameter, sgd none.
    assert 2 * 4 * (1 + 3) * parameters < plan.disk["resume"] < 1.1 * 2 * 4 * (1 + 3) * parameters
    assert not list(tmp_path.iterdir())
    often = plan_comparison(tmp_path / "run", image_comparison(replace(config, steps=1)), console=QUIET)
    assert often.stages[0].work == "14 snapshots of 1 steps, 2 networks, 2 per device"
    with pytest.raises(ValueError, match="unknown optimizer 'lion'"):
        image_comparison(replace(config, optimizers=("lion",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", "0"), "devices must be at least 1, got 0"),
        (("--retrain.epochs", "0"), "epochs must be at least 1, got 0"),
        (("--train.dataset", "letters"), "unknown dataset 'letters'"),
        (("--seeds", "0"), "seeds must be from 1 to 1000000, got 0"),
    ],
)
def test_invalid_runs_cannot_be_planned(jaxscape, tmp_path, options, message):
    outcome = jaxscape("plan", tmp_path / "run", *options)
    assert outcome.code == 1
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123456, "0.0123 s"), (99.4, "99.4 s"), (150, "2.5 min"), (7200, "2 h"), (360000, "100 h")],
)
def test_durations_are_written_in_units_that_people_use(seconds, words):
    assert plan_room._duration(seconds) == words


def test_for_a_missing_run_folder_the_nearest_parent_is_used(tmp_path):
    assert plan_room._existing(tmp_path / "a" / "b") == tmp_path
    assert plan_room._existing(Path("nowhere")) == Path.cwd()

"""Where options come from: the command line, the run folder that it names, or a preset."""

import json

import pytest

from jaxscape.cli.parse import parse as parse_line
from jaxscape.cli.parse import seeds_of
from jaxscape.runs.config import RetrainConfig, TrainConfig, retrain_preset, train_preset


def parse(*arguments):
    return parse_line([str(argument) for argument in arguments])


@pytest.fixture
def recorded(tmp_path):
    """Writes a run's record, with or without trajectories."""

    def write(*, trajectories=False, **sections):
        (tmp_path / "config.json").write_text(json.dumps({name: vars(config) for name, config in sections.items()}))
        if trajectories:
            (tmp_path / "trajectories").mkdir()
        return tmp_path

    return write


@pytest.mark.parametrize("preset", ["good", "bad", "memorization"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_a_new_run_has_the_defaults_of_its_preset(tmp_path, preset, dataset):
    command = parse("train", tmp_path / "run", f"--preset={preset}", "--dataset", dataset)
    assert command.config == train_preset(preset, dataset=dataset)


def test_of_an_option_that_is_given_twice_the_last_one_counts(tmp_path):
    command = parse("train", tmp_path / "run", "--preset=good", "--preset", "memorization")
    assert command.config == train_preset("memorization")


def test_a_run_may_stand_after_its_options(recorded):
    run = recorded(train=TrainConfig(depth=16, epochs=7))
    expected = TrainConfig(depth=16, epochs=9)
    assert parse("train", run, "--epochs", 9).config == expected
    assert parse("train", "--epochs", 9, run).config == expected


def test_the_settings_of_a_run_are_its_defaults(recorded):
    made = TrainConfig(preset="bad", dataset="mnist", decay_epochs=(3, 5), train_size=50)
    assert parse("train", recorded(train=made)).config == made


def test_another_preset_brings_all_of_its_settings(recorded):
    run = recorded(train=train_preset("good"))
    assert parse("train", run, "--preset", "memorization").config == train_preset("memorization")


@pytest.mark.parametrize("preset", ["good", "bad"])
def test_retraining_follows_from_the_minimum(recorded, preset):
    minimum = train_preset(preset, seed=3)
    run = recorded(train=minimum)
    assert parse("retrain", run).config == retrain_preset(minimum)
    assert parse("retrain", "--epochs", 9, run).config.weight_decay == minimum.weight_decay


def test_kept_trajectories_bring_their_own_settings(recorded):
    made = RetrainConfig(epochs=7, learning_rate=0.3, step_sizes=(2.0,))
    run = recorded(train=train_preset("good"), retrain=made, trajectories=True)
    assert parse("retrain", run).config == made


def test_settings_of_deleted_trajectories_are_forgotten(recorded):
    run = recorded(train=train_preset("good"), retrain=RetrainConfig(epochs=7))
    assert parse("retrain", run).config == retrain_preset(train_preset("good"))


@pytest.mark.parametrize(
    ("options", "seeds"), [((), (0, 1, 2, 3, 4)), (("--seeds", 3), (0, 1, 2)), (("--seed-list", 3, 8), (3, 8))]
)
def test_seeds_are_counted_or_listed(tmp_path, options, seeds):
    command = parse("retrain", tmp_path, *options)
    assert seeds_of(command, command.config) == seeds

"""Options come from the command line, from the run folder that it names, or from a preset."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jaxscape.cli import parse as parsing
from jaxscape.cli.commands import Own, read
from jaxscape.cli.parse import parse as parse_line
from jaxscape.cli.parse import retrain_settings, settings_of, train_settings
from jaxscape.runs.config import RetrainConfig, RetrainSettings, TrainConfig, retrain_preset, train_preset


def parse(*arguments):
    return parse_line([str(argument) for argument in arguments])


def train(*arguments):
    (settings,) = train_settings(parse("train", *arguments)).values()
    return settings


def retrain(*arguments):
    (settings,) = retrain_settings(parse("retrain", *arguments)).values()
    return settings


@pytest.fixture
def write_record(tmp_path):
    """Return a function that writes a run's record, with or without trajectories."""

    def write(*, trajectories=False, **sections):
        (tmp_path / "config.json").write_text(json.dumps({name: vars(config) for name, config in sections.items()}))
        if trajectories:
            (tmp_path / "trajectories").mkdir()
        return tmp_path

    return write


@pytest.mark.parametrize("preset", ["good", "bad", "memorization"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_a_new_run_has_the_defaults_of_its_preset(tmp_path, preset, dataset):
    recorded = train(tmp_path / "run", f"--preset={preset}", "--dataset", dataset)
    assert recorded == train_preset(preset, dataset=dataset)


def test_the_last_value_of_a_repeated_option_counts(tmp_path):
    recorded = train(tmp_path / "run", "--preset=good", "--preset", "memorization")
    assert recorded == train_preset("memorization")


def test_a_run_may_follow_its_options(write_record):
    run = write_record(train=TrainConfig(depth=16, epochs=7))
    expected = TrainConfig(depth=16, epochs=9)
    assert train(run, "--epochs", 9) == expected
    assert train("--epochs", 9, run) == expected


def test_recorded_settings_are_the_defaults_of_a_run(write_record):
    recorded = TrainConfig(preset="bad", dataset="mnist", decay_epochs=(3, 5), train_size=50)
    assert train(write_record(train=recorded)) == recorded


def test_another_preset_replaces_all_settings(write_record):
    run = write_record(train=train_preset("good"))
    assert train(run, "--preset", "memorization") == train_preset("memorization")


@pytest.mark.parametrize("preset", ["good", "bad"])
def test_retraining_defaults_follow_from_the_minimum(write_record, preset):
    minimum = train_preset(preset, seed=3)
    run = write_record(train=minimum)
    assert retrain(run) == retrain_preset(minimum)
    assert retrain("--epochs", 9, run).weight_decay == minimum.weight_decay


def test_existing_trajectories_keep_their_settings(write_record):
    recorded = RetrainConfig(epochs=7, learning_rate=0.3, step_sizes=(2.0,))
    run = write_record(train=train_preset("good"), retrain=recorded, trajectories=True)
    assert retrain(run) == recorded


def test_settings_of_deleted_trajectories_are_ignored(write_record):
    run = write_record(train=train_preset("good"), retrain=RetrainConfig(epochs=7))
    assert retrain(run) == retrain_preset(train_preset("good"))


@pytest.mark.parametrize(
    ("options", "seeds"), [((), (0, 1, 2, 3, 4)), (("--seeds", 3), (0, 1, 2)), (("--seed-list", 3, 8), (3, 8))]
)
def test_seeds_are_counted_or_listed(tmp_path, options, seeds):
    assert retrain(tmp_path, *options).seeds == seeds


def test_given_options_apply_to_every_run_and_other_settings_are_each_runs_own(tmp_path, write_record):
    run = write_record(train=TrainConfig(depth=16, epochs=7, seed=4))
    settings = train_settings(parse("train", run, tmp_path / "new", "--epochs", 9, "--augmentation", "crop"))
    assert settings[run] == TrainConfig(depth=16, epochs=9, seed=4, augmentation="crop")
    assert settings[tmp_path / "new"] == replace(train_preset("good"), epochs=9, seed=1, augmentation="crop")


def test_the_retraining_of_a_plan_follows_from_its_minimum(tmp_path):
    line = parse("plan", tmp_path / "run", "--train.preset", "good", "--train.batch-size=7", "--retrain.epochs", 3)
    settings = settings_of(line, tmp_path / "run")
    assert settings.train == replace(train_preset("good"), batch_size=7)
    assert settings.retrain == replace(retrain_preset(settings.train), epochs=3)


def test_arguments_after_two_dashes_are_runs(write_record, tmp_path, monkeypatch):
    monkeypatch.chdir(write_record(train=TrainConfig(epochs=7)))
    assert parse("train", "--epochs", 9, "--", "--seed").given == {"epochs"}
    assert list(train_settings(parse("train", "--", "--seed"))) == [Path("--seed")]


def test_flags_can_be_set_and_unset(write_record):
    run = write_record(train=TrainConfig(data_unchecked=True))
    assert train(run).data_unchecked
    assert not train(run, "--no-data-unchecked").data_unchecked
    assert train(run, "--data_unchecked").data_unchecked


def test_a_command_line_is_parsed_once_and_help_shows_the_settings_of_the_run(write_record, monkeypatch, capsys):
    run = write_record(train=TrainConfig(epochs=1234))
    lines = []
    monkeypatch.setattr(parsing, "read", lambda *line: lines.append(line) or read(*line))
    parse("train", run)
    assert len(lines) == 1
    with pytest.raises(SystemExit):
        parse("train", run, "--help")
    assert "1234" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--help",), ("retrain", "--help"), ("plot", "RUN", "--help")], ids=" ".join)
def test_help_that_depends_on_no_run_is_parsed_once(words, monkeypatch, capsys):
    lines = []
    monkeypatch.setattr(parsing, "read", lambda *line: lines.append(line) or read(*line))
    with pytest.raises(SystemExit):
        parse(*words)
    assert len(lines) == 1
    assert "usage: jaxscape" in capsys.readouterr().out


OWN = {"source": "mine:make", "arguments": {"width": 8}, "describe": {}, "version": "", "parameters": {}}


def own_run(folder, **problem):
    folder.mkdir()
    recorded = {"epochs": 7, "batch_size": 5, "seed": 2, "given": None}
    (folder / "config.json").write_text(json.dumps({"problem": OWN | problem, "train": recorded}))
    return folder


def test_the_record_of_a_run_names_its_problem(tmp_path):
    run = own_run(tmp_path / "run")
    line = parse("retrain", run, "--epochs", 3)
    assert line.own == Own("mine:make", ("width=8",))
    assert settings_of(line, run).retrain == RetrainSettings(epochs=3, batch_size=5, order_seed=2)
    assert settings_of(parse("plan", run, "--train.batch-size", 6), run).retrain.batch_size == 6
    assert parse("retrain", run, "--problem-args", "width=9").own == Own("mine:make", ("width=9",))


@pytest.mark.parametrize(
    ("command", "option"), [("train", "--depth"), ("plan", "--train.depth"), ("compare", "--widen-factor")]
)
def test_a_users_own_problem_has_no_image_settings(tmp_path, capsys, command, option):
    run = own_run(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        settings_of(parse(command, run, option, 3), run)
    assert ended.value.code == 2
    assert f"jaxscape: {option}: the run folder holds a problem of your own" in capsys.readouterr().err


def test_the_runs_of_one_command_must_share_one_problem(tmp_path):
    first, second = own_run(tmp_path / "first"), own_run(tmp_path / "second", arguments={"width": 9})
    for other in (second, tmp_path / "new"):
        with pytest.raises(ValueError, match=f"must share one problem; {other} and {first} have different ones"):
            parse("train", first, other)
    assert parse("train", first, tmp_path / "new", "--problem", "mine:make", "--problem-args", "width=8").own

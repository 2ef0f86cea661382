"""The command line of the experiments, and the settings that follow from a scale."""

from pathlib import Path

import claims_runs
import optimizers_runs
import paperlike
import pytest
import valley
from command import parse_changes, parse_command
from rich.console import Console
from scales import SCALES
from stages import Experiment

from jaxscape.runs.checks import check_compare, check_retrain, check_train

QUIET = Console(quiet=True)


def experiment(*words, scale="quick"):
    return Experiment("test", SCALES[scale], Path("runs"), parse_changes(words), QUIET)


def test_settings_are_parsed_as_python_literals():
    words = ["train.epochs=3", "train.train_size=None", "train.augmentation=crop", "train.decay_epochs=1,2"]
    words += [
        "retrain.step_sizes=0.5",
        "retrain.learning_rate=1",
        "embed.knn=connect",
        "scale.seeds=(7, 8)",
        "scale.learning_rates=0.1",
    ]
    assert parse_changes(words) == {
        "train": {"epochs": 3, "train_size": None, "augmentation": "crop", "decay_epochs": (1, 2)},
        "retrain": {"step_sizes": (0.5,), "learning_rate": 1},
        "embed": {"knn": "connect"},
        "scale": {"seeds": (7, 8), "learning_rates": (0.1,)},
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs=3", r"--set takes STAGE.SETTING=VALUE with a stage of train, .*, got 'epochs=3'"),
        ("train.epochs", r"got 'train.epochs'"),
        ("plot.epochs=3", r"got 'plot.epochs=3'"),
        ("train.epochs=few", r"train.epochs must be int, got 'few'"),
        ("retrain.learning_rate=None", r"retrain.learning_rate must be float, got 'None'"),
        ("train.epoch=3", r"unknown setting 'epoch' of train; known: .*epochs"),
    ],
)
def test_invalid_settings_are_rejected(word, message):
    with pytest.raises(ValueError, match=message):
        parse_changes([word])


def test_changes_apply_to_every_run_and_embedding():
    changed = experiment("train.epochs=3", "retrain.learning_rate=0.3", "embed.knn=9")
    minima = changed.minima(("good", "bad")) | changed.harder_minima(("good",))
    assert {config.epochs for config in minima.values()} == {3}
    assert {changed.retraining(config).learning_rate for config in minima.values()} == {0.3}
    assert [setting.name for setting in (*changed.settings, changed.control)] == [
        "phate-cosine-none-knn9",
        "phate-cosine-mean-knn9",
        "phate-cosine-none-knn9-null-rotated",
    ]


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_has_minima_of_every_kind_and_a_harder_data_set(scale):
    here = experiment(scale=scale)
    minima, harder = here.minima(("good", "bad", "memorization")), here.harder_minima(("good", "bad"))
    assert len(minima) == 3 * len(here.scale.seeds)
    assert {config.dataset for config in harder.values()} == {here.scale.harder}
    assert len(here.scale.harder_seeds) >= (2 if scale == "smoke" else 3)
    assert set(here.scale.sweep_seeds) <= set(here.scale.seeds)
    for run, config in minima.items():
        assert run.name == f"{config.preset}-{config.seed}"
        assert here.retraining(config).weight_decay == config.weight_decay
    assert all(config.augmentation.endswith("+rotate+color") for config in harder.values() if config.preset == "good")


def test_the_scale_and_its_folder_come_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["figure2.py", "--scale", "real", "--set", "scale.seeds=5,6"])
    experiment_of_line = parse_command("", "figure2")
    assert experiment_of_line.folder == Path("runs/real")
    assert experiment_of_line.scale.seeds == (5, 6)
    monkeypatch.setattr("sys.argv", ["figure2.py", "--scale", "huge"])
    with pytest.raises(SystemExit):
        parse_command("", "figure2")
    assert "invalid choice: 'huge'" in capsys.readouterr().err


def test_the_plan_can_be_skipped(monkeypatch, capsys, tmp_path):
    words = ["figure2", "--scale", "smoke", "--folder", str(tmp_path), "--no-plan"]
    monkeypatch.setattr("sys.argv", words)
    experiment = parse_command("", "figure2")
    experiment.plan(experiment.minima(["good"]), {})  # would raise a KeyError, since no retraining is given
    experiment.plan_comparison(tmp_path / "optimizers")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("scale", SCALES)
def test_the_minima_of_every_scale_are_valid(scale):
    of_scale = experiment(scale=scale)
    for module in (claims_runs, paperlike, valley):
        minima = module.plan_minima(of_scale)
        for config in minima.values():
            check_train(config)
        for _, config in module.plan_runs(of_scale, minima).values():
            check_retrain(config)
    for part in optimizers_runs.parts(of_scale, 30):
        check_compare(part.config)


def test_comparisons_read_the_files_of_the_trainings():
    changed = experiment("train.data_dir=/data", "train.data_unchecked=True", "train.epochs=3", scale="real")
    for config in (changed.comparison(), *(part.config for part in optimizers_runs.parts(changed, seed=30))):
        assert (config.data_dir, config.data_unchecked) == ("/data", True)
        assert config.epochs != 3
    assert experiment("train.data_dir=/data", "compare.data_dir=/other").comparison().data_dir == "/other"

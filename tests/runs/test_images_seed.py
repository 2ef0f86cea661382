"""Training images that are drawn by seed, from the command line to the stages that need them."""

import json

import numpy as np

from jaxscape.runs.config import RetrainConfig, TrainConfig, compare_preset, from_record
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.images import image_landscape, image_retrainings, image_trainings
from jaxscape.tasks.images import ImageTask, image_problem

TINY = ("--epochs", 1, "--train-size", 30, "--batch-size", 15)


def test_every_stage_uses_the_images_that_the_seed_draws(jaxscape, tmp_path):
    run = tmp_path / "run"
    assert jaxscape("train", run, *TINY, "--images-seed", 4).code == 0
    assert json.loads((run / "config.json").read_text())["train"]["images_seed"] == 4
    expected = image_problem(ImageTask(train_size=30, images_seed=4)).data[0]
    retraining = image_retrainings({run: RetrainConfig(batch_size=15)})[run]
    for problem in (image_landscape(run).problem, retraining.problem):
        np.testing.assert_array_equal(problem.data[0], expected)


def test_another_draw_is_refused_in_a_run_with_results(jaxscape, tmp_path):
    run = tmp_path / "run"
    assert jaxscape("train", run, *TINY, "--images-seed", 4).code == 0
    refused = jaxscape("train", run, *TINY, "--images-seed", 5)
    assert refused.code == 1
    assert "images_seed is 4, requested 5" in refused.err


def test_minima_with_other_images_do_not_share_a_problem(tmp_path):
    configs = {
        tmp_path / f"{images_seed}-{seed}": TrainConfig(
            train_size=30, batch_size=10, images_seed=images_seed, seed=seed
        )
        for images_seed, seed in ((1, 0), (1, 1), (2, 0))
    }
    one, same, other = (training.problem for training in image_trainings(configs).values())
    assert one is same
    assert one is not other


def test_networks_that_are_compared_are_trained_on_the_draw():
    config = from_record(type(compare_preset()), {"train_size": 30, "images_seed": 4})
    assert config.of_one("sgd", 0).images_seed == 4


def test_a_record_without_the_setting_means_the_first_images():
    assert from_record(TrainConfig, {"train_size": 30}).images_seed is None


def test_a_fingerprint_has_the_draw_but_not_its_absence(tmp_path):
    def fingerprint(name, **settings):
        run = RunFolder(tmp_path / name)
        run.record_values(train={"train_size": 30} | settings, retrain={})
        return run.fingerprint()

    older = fingerprint("older")
    assert fingerprint("none", images_seed=None) == older
    assert len({older, fingerprint("three", images_seed=3), fingerprint("four", images_seed=4)}) == 3

"""Data that are not the original ones: refused without the option, and read from records that are older than it."""

from dataclasses import asdict

import pytest

from jaxscape.runs.config import CompareConfig, TrainConfig, from_record
from jaxscape.tasks.images import ImageTask, image_problem


def test_made_up_images_are_refused_without_the_option_and_leave_no_folder(jaxscape, images, tmp_path):
    outcome = jaxscape("train", tmp_path / "run", "--dataset", "mnist", "--data-dir", images)
    assert outcome.code == 1
    assert outcome.err.startswith(f"jaxscape: {images}/train-images-idx3-ubyte is not the original file of mnist: ")
    assert "--data-unchecked" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_same_folder_is_checked_again_for_another_minimum(images):
    task = ImageTask(dataset="mnist", data_dir=str(images), data_unchecked=True)
    assert len(image_problem(task).data[1]) == 60
    with pytest.raises(ValueError, match="is not the original file"):
        image_problem(ImageTask(dataset="mnist", data_dir=str(images)))


@pytest.mark.parametrize("config", [TrainConfig(), CompareConfig()])
def test_a_record_older_than_the_option_reads_as_checked(config):
    record = asdict(config)
    del record["data_unchecked"]
    assert from_record(type(config), record) == config

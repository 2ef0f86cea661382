"""The draw of training images in the built-in problem."""

import jax
import numpy as np
import pytest

from jaxscape.tasks.images import ImageTask, describe_images, image_problem


def test_seeds_draw_different_images_and_the_same_seed_the_same():
    first, same, other, none = (
        image_problem(ImageTask(train_size=30, images_seed=seed)).data[0] for seed in (1, 1, 2, None)
    )
    np.testing.assert_array_equal(first, same)
    for different in (other, none):
        assert not np.array_equal(first, different)


def test_the_draw_does_not_touch_the_test_images():
    drawn, first = (image_problem(ImageTask(train_size=30, images_seed=seed)) for seed in (1, None))
    jax.tree.map(np.testing.assert_array_equal, drawn.test_data, first.test_data)


def test_a_draw_of_all_images_is_rejected():
    with pytest.raises(ValueError, match="images_seed 3 needs train_size"):
        image_problem(ImageTask(images_seed=3))


def test_the_caption_names_the_draw():
    drawn = describe_images(ImageTask(train_size=30, images_seed=4))
    assert drawn["data"] == "digits (30 training images, drawn with seed 4)"
    assert describe_images(ImageTask(train_size=30))["data"] == "digits (30 training images)"

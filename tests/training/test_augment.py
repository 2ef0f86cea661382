"""Augmentations against the windows and mirror images that they may give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape.training.augment import augmentation, compose, random_crop, random_flip

KEY = jax.random.key(0)
# One image without symmetries, not square, in two channels; no pixel is black.
IMAGE = np.arange(1, 25, dtype=np.uint8).reshape(3, 4, 2)


def copies(image, count):
    return jnp.asarray(np.repeat(image[np.newaxis], count, axis=0))


def windows(image, padding):
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    offsets = range(2 * padding + 1)
    return [padded[down : down + height, right : right + width] for down in offsets for right in offsets]


@pytest.mark.parametrize("padding", [1, 2])
def test_crops_are_the_windows_of_the_padded_image_and_all_of_them_equally_often(padding):
    allowed = {window.tobytes(): 0 for window in windows(IMAGE, padding)}
    for crop in np.asarray(random_crop(KEY, copies(IMAGE, 2000), padding=padding)):
        allowed[crop.tobytes()] += 1
    expected = 2000 / (2 * padding + 1) ** 2
    np.testing.assert_allclose(list(allowed.values()), expected, rtol=0, atol=5 * np.sqrt(expected))


def test_the_images_of_a_batch_get_different_crops():
    images = copies(IMAGE, 20)
    assert len({crop.tobytes() for crop in np.asarray(random_crop(KEY, images))}) > 5


def test_a_crop_without_padding_is_the_identity():
    np.testing.assert_array_equal(random_crop(KEY, copies(IMAGE, 3), padding=0), copies(IMAGE, 3))


def test_flips_are_the_identity_or_the_mirror_image_half_of_the_time_each():
    flipped = np.asarray(random_flip(KEY, copies(IMAGE, 1000)))
    same, mirrored = ((flipped == image).all(axis=(1, 2, 3)) for image in (IMAGE, IMAGE[:, ::-1]))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["crop", "crop+flip"])
def test_size_and_dtype_stay_and_the_key_alone_decides(name, dtype):
    images = copies(IMAGE, 20).astype(dtype)
    augment = augmentation(name, padding=1)
    augmented = augment(KEY, images)
    assert (augmented.shape, augmented.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(augmented, augment(KEY, images))
    assert not np.array_equal(augmented, augment(jax.random.key(1), images))


def test_crop_and_flip_draw_independently():
    augmented = np.asarray(augmentation("crop+flip", padding=1)(KEY, copies(IMAGE, 4000)))
    seen = {image.tobytes() for image in augmented}
    assert seen == {w.tobytes() for window in windows(IMAGE, 1) for w in (window, window[:, ::-1])}
    assert len(seen) == 18


def test_compose_applies_from_left_to_right_with_a_key_each():
    keys = []

    def add(key, images):
        keys.append(key)
        return images + 1

    def double(key, images):
        keys.append(key)
        return images * 2

    np.testing.assert_array_equal(compose(add, double)(KEY, jnp.array([1.0])), [4.0])
    assert keys[0] != keys[1]


def test_none_is_no_function():
    assert augmentation("none") is None


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown augmentation 'rotate'; known: none, crop, crop\+flip"):
        augmentation("rotate")


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be at least 0 pixels, got -1"):
        augmentation("crop", padding=-1)

"""Augmentations against all possible crops and mirror images, SciPy's rotations and Matplotlib's HSV."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from matplotlib.colors import rgb_to_hsv

from jaxscape.tasks.augment import (
    augmentation,
    compose,
    random_color,
    random_crop,
    random_flip,
    random_rotate,
    rotate,
)

KEY = jax.random.key(0)
# One image without symmetries, not square, with two channels; no pixel is black.
IMAGE = np.arange(1, 25, dtype=np.uint8).reshape(3, 4, 2)
# Colours far enough from black, white and gray that the default changes keep them inside 0 to 255.
PHOTOGRAPH = np.random.default_rng(0).uniform([110, 80, 60], [140, 110, 90], (5, 6, 3)).astype(np.float32)
UNCHANGED = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}


def copies(image, count):
    return jnp.asarray(np.repeat(image[np.newaxis], count, axis=0))


def assert_uniform(draws, low, high):
    assert scipy.stats.kstest(draws, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3


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


# Rotations


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("angle", [0, 12.5, -45, 90, 160])
def test_a_rotation_is_that_of_scipy(angle, dtype):
    images = np.random.default_rng(1).integers(1, 256, (2, 6, 9, 3)).astype(dtype)
    expected = scipy.ndimage.rotate(
        images.astype(float), angle, axes=(1, 2), reshape=False, order=1, mode="grid-constant"
    )
    rotated = rotate(jnp.asarray(images), jnp.full(2, float(angle)))
    assert rotated.dtype == dtype
    np.testing.assert_allclose(rotated, expected, rtol=0, atol=0.501 if dtype == "uint8" else 1e-3)


def test_a_quarter_turn_is_counter_clockwise():
    square = np.random.default_rng(2).integers(0, 256, (1, 7, 7, 2), dtype=np.uint8)
    np.testing.assert_array_equal(rotate(jnp.asarray(square), jnp.array([90.0])), np.rot90(square, axes=(1, 2)))


def test_every_image_is_rotated_by_its_own_angle_uniform_to_45_degrees():
    # In the interior, a linear image stays linear, and its slopes give the angle.
    columns = np.broadcast_to(np.arange(5, dtype=np.float32)[:, np.newaxis], (5, 5, 1))
    turned = np.asarray(random_rotate(KEY, copies(columns, 2000)))[..., 0]
    right, down = turned[:, 2, 3] - turned[:, 2, 2], turned[:, 3, 2] - turned[:, 2, 2]
    np.testing.assert_allclose(right**2 + down**2, 1, rtol=1e-4)
    assert_uniform(np.rad2deg(np.arctan2(-down, right)), -45, 45)


def test_a_rotation_by_at_most_0_degrees_is_the_identity():
    np.testing.assert_array_equal(random_rotate(KEY, copies(IMAGE, 3), degrees=0), copies(IMAGE, 3))


# Colours


def test_brightness_is_a_factor_uniform_from_0_6_to_1_4():
    changed = random_color(KEY, copies(PHOTOGRAPH, 2000), **UNCHANGED | {"brightness": 0.4})
    factors = np.asarray(changed) / PHOTOGRAPH
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1, :1], factors.shape), rtol=1e-4)
    assert_uniform(factors[:, 0, 0, 0], 0.6, 1.4)


def test_contrast_is_a_factor_uniform_from_0_6_to_1_4_of_the_distance_from_the_mean():
    changed = np.asarray(random_color(KEY, copies(PHOTOGRAPH, 2000), **UNCHANGED | {"contrast": 0.4}))
    mean = PHOTOGRAPH.mean(axis=(0, 1))
    factors = (changed[:, 0, 0, 0] - mean[0]) / (PHOTOGRAPH[0, 0, 0] - mean[0])
    expected = mean + factors[:, np.newaxis, np.newaxis, np.newaxis] * (PHOTOGRAPH - mean)
    np.testing.assert_allclose(changed, expected, rtol=1e-4)
    assert_uniform(factors, 0.6, 1.4)


def test_saturation_is_a_factor_uniform_from_0_6_to_1_4_and_hue_and_value_stay():
    changed = random_color(KEY, copies(PHOTOGRAPH, 2000), **UNCHANGED | {"saturation": 0.4})
    factors = rgb_to_hsv(np.asarray(changed) / 255) / rgb_to_hsv(PHOTOGRAPH / 255)
    np.testing.assert_allclose(factors[..., [0, 2]], 1, rtol=1e-3)
    np.testing.assert_allclose(factors[..., 1], np.broadcast_to(factors[:, :1, :1, 1], (2000, 5, 6)), rtol=1e-3)
    assert_uniform(factors[:, 0, 0, 1], 0.6, 1.4)


def test_hue_moves_by_up_to_a_tenth_of_the_circle_and_saturation_and_value_stay():
    changed = random_color(KEY, copies(PHOTOGRAPH, 2000), **UNCHANGED | {"hue": 0.1})
    moves = rgb_to_hsv(np.asarray(changed) / 255) - rgb_to_hsv(PHOTOGRAPH / 255)
    np.testing.assert_allclose(moves[..., 1:], 0, atol=1e-4)
    hues = (moves[..., 0] + 0.5) % 1 - 0.5
    np.testing.assert_allclose(hues, np.broadcast_to(hues[:, :1, :1], hues.shape), atol=1e-4)
    assert_uniform(hues[:, 0, 0], -0.1, 0.1)


def test_the_four_changes_of_an_image_are_drawn_independently():
    def change(**amount):
        return np.asarray(random_color(KEY, copies(PHOTOGRAPH, 2000), **UNCHANGED | amount))[:, 0, 0]

    shifts = rgb_to_hsv(change(hue=0.1) / 255)[:, 0] - rgb_to_hsv(PHOTOGRAPH[0, 0] / 255)[0]
    # One value of the pixel depends linearly on each of the other three draws.
    draws = [change(brightness=0.4)[:, 0], change(contrast=0.4)[:, 0], change(saturation=0.4)[:, 2]]
    correlations = np.corrcoef([*draws, (shifts + 0.5) % 1])
    assert np.abs(correlations[np.triu_indices(4, 1)]).max() < 4 / np.sqrt(2000)


def test_with_zero_amounts_colours_do_not_change():
    images = np.random.default_rng(3).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(random_color(KEY, jnp.asarray(images), **UNCHANGED), images)


def test_saturation_and_hue_leave_gray_images_alone_whether_in_one_channel_or_three():
    gray = np.random.default_rng(4).integers(0, 256, (20, 5, 6, 1), dtype=np.uint8)
    only_gray = {"saturation": 0, "hue": 0}
    one, three = (jnp.asarray(gray.repeat(channels, axis=-1)) for channels in (1, 3))
    np.testing.assert_array_equal(random_color(KEY, one), random_color(KEY, one, **only_gray))
    np.testing.assert_allclose(random_color(KEY, three).astype(int), random_color(KEY, one).repeat(3, -1), atol=1)


@pytest.mark.parametrize("name", ["rotate", "color"])
def test_values_stay_from_0_to_255_and_whole_numbers_are_the_nearest(name):
    # Only black and white: a value that is not clipped, or wraps around from 256 to 0, is visible.
    images = jnp.asarray(np.random.default_rng(5).choice([0, 255], (200, 4, 4, 3)), jnp.uint8)
    whole = np.asarray(augmentation(name)(KEY, images))
    exact = np.asarray(augmentation(name)(KEY, images.astype(jnp.float32)))
    assert exact.min() >= 0
    assert exact.max() <= 255 * (1 + 1e-6)
    np.testing.assert_allclose(whole.astype(float), exact, rtol=0, atol=0.501)


# Names


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["crop", "flip", "rotate", "color", "crop+flip+rotate+color"])
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


def test_parts_apply_in_the_given_order_each_with_a_key_for_its_position():
    images = copies(PHOTOGRAPH, 10)
    first, second = jax.random.fold_in(KEY, 0), jax.random.fold_in(KEY, 1)
    for name, expected in {
        "crop": random_crop(KEY, images, padding=2),
        "crop+flip": random_flip(second, random_crop(first, images, padding=2)),
        "flip+crop": random_crop(second, random_flip(first, images), padding=2),
        "color+rotate": random_rotate(second, random_color(first, images)),
    }.items():
        np.testing.assert_array_equal(augmentation(name, padding=2)(KEY, images), expected, err_msg=name)


def test_under_vmap_members_and_steps_draw_as_they_do_alone():
    augment = augmentation("crop+flip+rotate+color")
    images = jnp.asarray(np.random.default_rng(6).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8))
    keys = jax.random.split(KEY, (3, 2))  # [step, member]

    @jax.jit
    def train(keys):
        return jax.lax.scan(lambda _, keys: (None, jax.vmap(augment, in_axes=(0, None))(keys, images)), None, keys)[1]

    alone = [[augment(key, images) for key in members] for members in keys]
    # Compiled together, rounding differs.
    np.testing.assert_allclose(train(keys).astype(int), np.array(alone), rtol=0, atol=1)


def test_none_gives_no_function():
    assert augmentation("none") is None


@pytest.mark.parametrize("name", ["spin", "", "crop+", "crop+spin", "crop+crop", "none+crop", "crop+flip+crop"])
def test_unknown_and_repeated_parts_are_rejected_with_the_known_ones(name):
    with pytest.raises(ValueError, match="none, or some of crop, flip, rotate, color joined by") as caught:
        augmentation(name)
    assert str(caught.value).endswith(f"got {name!r}")


def test_negative_padding_is_rejected():
    with pytest.raises(ValueError, match="padding must be at least 0 pixels, got -1"):
        augmentation("crop", padding=-1)

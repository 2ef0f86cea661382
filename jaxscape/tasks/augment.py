"""Data augmentation, one batch at a time and on the device, inside the compiled training step.

An augmentation is a function `(key, images) -> images` of uint8 or float images (batch, H, W, C). It is called inside
`loss_fn`, with a separate key for every step of every member.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxscape.arguments import whole_number

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def random_crop(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """Pad each image with `padding` black pixels on every side, and crop it to its own size at a random position."""
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Flip each image horizontally with probability one half."""
    flipped = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def rotate(images: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotate each image about its centre: bilinear, black outside, integer images rounded.

    Args:
        images: (batch, H, W, C).
        angles: (batch,) in degrees, counter-clockwise.
    """
    height, width = images.shape[1:3]
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    rows, columns = jnp.mgrid[:height, :width]
    down, right = rows - middle_row, columns - middle_column

    def turn(image: jax.Array, angle: jax.Array) -> jax.Array:
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        source = (cosine * down + sine * right + middle_row, cosine * right - sine * down + middle_column)
        # dm_pix.rotate also interpolates between channels, which takes 40 times as long on a CPU.
        plane = partial(map_coordinates, coordinates=source, order=1, mode="constant")
        return jax.vmap(plane, in_axes=-1, out_axes=-1)(image)

    return _as_dtype(jax.vmap(turn)(images.astype(jnp.float32), jnp.deg2rad(angles)), images.dtype)


def random_rotate(key: jax.Array, images: jax.Array, *, degrees: float = 45) -> jax.Array:
    """Rotate each image by a random angle, uniform from -degrees to degrees (see `rotate`)."""
    return rotate(images, jax.random.uniform(key, images.shape[:1], minval=-degrees, maxval=degrees))


def random_color(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
) -> jax.Array:
    """Change each image's brightness, contrast, saturation and hue, in this order, by random amounts.

    The paper names the four without amounts; the defaults are those of torchvision's ColorJitter in MoCo v2 (Chen et
    al. 2020, https://arxiv.org/abs/2003.04297). Saturation and hue are those of HSV; images without 3 channels keep
    them.

    Args:
        key: a PRNG key.
        images: (batch, H, W, C) with values from 0 to 255, as in the result.
        brightness: all values are multiplied by a factor uniform from 1 - brightness to 1 + brightness.
        contrast: so are the differences between the values and the mean of their channel.
        saturation: so is the saturation.
        hue: the hue is shifted by a fraction of the full circle, uniform from -hue to hue.
    """
    import dm_pix as pix

    def change(image: jax.Array, amounts: jax.Array) -> jax.Array:
        image = jnp.clip(image * (1 + brightness * amounts[0]), 0, 1)
        image = jnp.clip(pix.adjust_contrast(image, 1 + contrast * amounts[1]), 0, 1)
        if image.shape[-1] != 3:
            return image
        image = pix.adjust_saturation(image, 1 + saturation * amounts[2])
        return jnp.clip(pix.adjust_hue(image, hue * amounts[3]), 0, 1)

    amounts = jax.random.uniform(key, (images.shape[0], 4), minval=-1, maxval=1)
    return _as_dtype(255 * jax.vmap(change)(images.astype(jnp.float32) / 255, amounts), images.dtype)


def compose(*augmentations: Augmentation) -> Augmentation:
    """Return the composition of augmentations, applied in order, each with its own key."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        for position, augmentation in enumerate(augmentations):
            images = augmentation(jax.random.fold_in(key, position), images)
        return images

    return augment


def augmentation(name: str, *, padding: int = 4) -> Augmentation | None:
    """Return an augmentation by name: None for "none", or parts joined by "+", applied in the order given.

    The parts are crop, flip, rotate and color: "crop", "crop+flip", "crop+flip+rotate+color". Flips suit photographs
    and clothes. They do not suit digits, and they change the class of a pair of images.

    Raises:
        TypeError: for a padding that is not a whole number.
        ValueError: for an unknown or repeated part (the message lists the known ones) or a negative padding.
    """
    if whole_number("padding", padding) < 0:
        raise ValueError(f"padding must be at least 0 pixels, got {padding}")
    if name == "none":
        return None
    known: dict[str, Augmentation] = {
        "crop": partial(random_crop, padding=padding),
        "flip": random_flip,
        "rotate": random_rotate,
        "color": random_color,
    }
    parts = str(name).split("+")
    if not known.keys() >= set(parts) or len(set(parts)) < len(parts):
        raise ValueError(
            f"augmentation must be none, or some of {', '.join(known)} joined by +, each at most once, got {name!r}"
        )
    augmentations = [known[part] for part in parts]
    return compose(*augmentations) if len(parts) > 1 else augmentations[0]


def _as_dtype(values: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return (jnp.round(values) if jnp.issubdtype(dtype, jnp.integer) else values).astype(dtype)

"""Data augmentation, a batch at a time and on the device, inside the compiled training step.

An augmentation is a function `(key, images) -> images` over uint8 or float images (batch, H, W, C); it is called
inside `loss_fn`, with a key of its own for every step of every member.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]

AUGMENTATIONS = ("none", "crop", "crop+flip")


def random_crop(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """Pad each image by `padding` black pixels and cut its own size out again at a random place."""
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability one half."""
    flipped = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def compose(*augmentations: Augmentation) -> Augmentation:
    """The augmentations one after the other, each with its own key."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        for position, augmentation in enumerate(augmentations):
            images = augmentation(jax.random.fold_in(key, position), images)
        return images

    return augment


def augmentation(name: str, *, padding: int = 4) -> Augmentation | None:
    """The augmentation of that name: "none" (gives None), "crop", or "crop+flip".

    A flip belongs to photographs and clothes; it makes no sense for digits.

    Raises:
        ValueError: for an unknown name (lists the known ones) or a negative padding.
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0 pixels, got {padding}")
    crop = partial(random_crop, padding=padding)
    known = {"none": None, "crop": crop, "crop+flip": compose(crop, random_flip)}
    if name not in known:
        raise ValueError(f"unknown augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}")
    return known[name]

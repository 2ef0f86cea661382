"""The one seam between a framework and the rest: two functions over pytrees.

    loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))
    evaluate(params, model_state) -> metrics

Everything after this file sees only these. Here they are made from a Flax Linen module that classifies images; a
user with another framework or another loss writes them by hand. `model_state` is whatever the model carries besides
its parameters (here Flax's collections, such as {"batch_stats": ...}); `metrics` is a dict of scalars.
"""

import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape.training import cpu
from jaxscape.training.augment import Augmentation

PyTree = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, tuple[PyTree, Metrics]]]
Evaluate = Callable[[PyTree, PyTree], Metrics]
Preprocess = Callable[[jax.Array], jax.Array]


def standardization(images: np.ndarray) -> Preprocess:
    """A function from uint8 images to float32 ones with mean 0 and deviation 1 a channel over `images`.

    Args:
        images: uint8 (n, H, W, C), the training images.
    """
    mean = images.mean(axis=(0, 1, 2), keepdims=True, dtype=np.float64)
    # A constant channel has deviation 0 and carries nothing: leave it at 0.
    deviation = np.maximum(images.std(axis=(0, 1, 2), keepdims=True, dtype=np.float64), 1e-6)
    shift, scale = np.float32(mean), np.float32(1 / deviation)
    return lambda batch: (batch.astype(jnp.float32) - shift) * scale


def flax_loss(
    module: nn.Module, *, preprocess: Preprocess | None = None, augment: Augmentation | None = None
) -> LossFn:
    """The training loss of an image classifier: mean cross-entropy of a batch `(images, labels)`.

    Args:
        module: called as `module(images, train=True)`, gives logits.
        preprocess: applied to the images after augmentation (see `standardization`).
        augment: `(key, images) -> images`, called with the step's key.

    Returns:
        `loss_fn`, whose metrics are "loss" and "accuracy" of the batch.
    """

    def loss_fn(
        params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        images, labels = batch
        if augment is not None:
            images = augment(key, images)
        if preprocess is not None:
            images = preprocess(images)
        variables = {"params": params, **model_state}
        logits, model_state = module.apply(variables, images, train=True, mutable=list(model_state))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(axis=-1) == labels).mean()
        return loss, (model_state, {"loss": loss, "accuracy": accuracy})

    return loss_fn


def flax_evaluate(
    module: nn.Module,
    *,
    train: tuple[jax.Array, jax.Array],
    test: tuple[jax.Array, jax.Array],
    preprocess: Preprocess | None = None,
    recalibration: nn.Module | None = None,
    batch_size: int = 1000,
) -> Evaluate:
    """Loss and accuracy of an image classifier on whole training and test sets, without augmentation.

    Args:
        module: called as `module(images, train=False)`, gives logits.
        train: images (n, H, W, C) and integer labels (n,).
        test: the same.
        preprocess: as in `flax_loss`.
        recalibration: the same module with a batch norm that keeps the last batch alone (for `WideResNet`,
            `module.clone(norm_momentum=0.0)`). Given, the losses and accuracies are recorded a second time with
            statistics measured anew on the training set, as names that begin with "recalibrated_".
        batch_size: images a call; recalibrated statistics are the mean over such batches, weighted by their sizes.

    Returns:
        `evaluate`, with the metrics train_loss, train_accuracy, test_loss, test_accuracy and, where asked for,
        recalibrated_train_loss and so on. Sums are taken batch by batch, in order.

    Raises:
        ValueError: for a batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    prepare = preprocess if preprocess is not None else lambda images: images
    batches = {"train": _batches(train, batch_size), "test": _batches(test, batch_size)}
    sizes = np.array([len(labels) for _, labels in batches["train"]])
    shares = [float(share) for share in sizes / sizes.sum()]

    @cpu.jit
    def totals(params: PyTree, model_state: PyTree, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits: Any = module.apply({"params": params, **model_state}, prepare(images), train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.stack([losses.sum(), (logits.argmax(axis=-1) == labels).sum()])

    @cpu.jit
    def statistics(params: PyTree, model_state: PyTree, images: jax.Array) -> PyTree:
        assert recalibration is not None
        variables = {"params": params, **model_state}
        return recalibration.apply(variables, prepare(images), train=True, mutable=list(model_state))[1]

    def measure(params: PyTree, model_state: PyTree, prefix: str) -> Metrics:
        metrics: Metrics = {}
        for split, parts in batches.items():
            count = sum(len(labels) for _, labels in parts)
            loss, accuracy = sum(totals(params, model_state, *part) for part in parts) / count
            metrics |= {f"{prefix}{split}_loss": loss, f"{prefix}{split}_accuracy": accuracy}
        return metrics

    def evaluate(params: PyTree, model_state: PyTree) -> Metrics:
        metrics = measure(params, model_state, "")
        if recalibration is not None:
            parts = [statistics(params, model_state, images) for images, _ in batches["train"]]
            mean = jax.tree.map(lambda *leaves: sum(map(operator.mul, shares, leaves)), *parts)
            metrics |= measure(params, mean, "recalibrated_")
        return metrics

    return evaluate


def _batches(data: tuple[jax.Array, jax.Array], batch_size: int) -> list[tuple[jax.Array, jax.Array]]:
    images, labels = map(jnp.asarray, data)  # on the device once, not once a call
    starts = range(0, len(labels), batch_size)
    return [(images[start : start + batch_size], labels[start : start + batch_size]) for start in starts]

"""Loss and evaluation of an image classifier, from a Flax Linen module."""

import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape.arguments import count
from jaxscape.problem import Evaluate, LossFn, Metrics, Predict
from jaxscape.tasks.augment import Augmentation
from jaxscape.xla_cpu import compiler

PyTree = Any
Preprocess = Callable[[jax.Array], jax.Array]


def standardization(images: np.ndarray) -> Preprocess:
    """Return a function from uint8 images to float32 ones with mean 0 and standard deviation 1 per channel.

    Args:
        images: uint8 (n, H, W, C), the training images, which give the mean and the standard deviation.

    Raises:
        ValueError: for a wrong number of dimensions, or no images.
    """
    if np.ndim(images) != 4 or not np.size(images):
        raise ValueError(f"images must be one or more images (n, H, W, C), got shape {np.shape(images)}")
    mean = images.mean(axis=(0, 1, 2), keepdims=True, dtype=np.float64)
    # A constant channel has deviation 0 and carries no information: it becomes 0.
    deviation = np.maximum(images.std(axis=(0, 1, 2), keepdims=True, dtype=np.float64), 1e-6)
    shift, scale = np.float32(mean), np.float32(1 / deviation)
    return lambda batch: (batch.astype(jnp.float32) - shift) * scale


# Folded into a step's key for dropout; augmentation uses the step's key itself, and `compose` folds small numbers.
_DROPOUT = 0xD20


def dropout_key(key: jax.Array) -> jax.Array:
    """Return the dropout key that belongs to the key of a step."""
    return jax.random.fold_in(key, _DROPOUT)


def flax_loss(
    module: nn.Module, *, preprocess: Preprocess | None = None, augment: Augmentation | None = None
) -> LossFn:
    """Return the training loss of an image classifier: the mean cross-entropy of a batch `(images, labels)`.

    Args:
        module: called as `module(images, train=True)`, returns logits. Its stream "dropout" gets a key derived from the
            step's key. For a module with other arguments, give `flax_problem` a loss that calls it.
        preprocess: applied to the images after augmentation (see `standardization`).
        augment: `(key, images) -> images`, called with the step's key.

    Returns:
        `loss_fn`, whose metrics are "loss" and "accuracy" of the batch. Its `check_data` rejects labels that are not
        integers from 0 to the number of logits - 1; `train` calls it.

    Raises:
        TypeError: from `loss_fn`, while it is traced, for a batch that is not a pair or labels that are not integers.
        ValueError: likewise for labels or logits of the wrong shape.
    """

    def logits_of(params: PyTree, model_state: PyTree, images: jax.Array, key: jax.Array) -> tuple[jax.Array, PyTree]:
        if augment is not None:
            images = augment(key, images)
        if preprocess is not None:
            images = preprocess(images)
        variables = {"params": params, **model_state}
        rngs = {"dropout": dropout_key(key)}  # unused by a module without dropout
        return module.apply(variables, images, train=True, mutable=list(model_state), rngs=rngs)

    def loss_fn(
        params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        images, labels = _pair("batch", batch)
        _check_labels("batch", images, labels, axes=1)
        logits, model_state = logits_of(params, model_state, images, key)
        _check_logits(logits, len(images))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(axis=-1) == labels).mean()
        return loss, (model_state, {"loss": loss, "accuracy": accuracy})

    def check_data(params: PyTree, model_state: PyTree, data: PyTree) -> None:
        images, labels = _pair("data", data)
        axes = min(np.ndim(labels), 3)  # [example], or [member, step, batch]
        _check_labels("data", images, labels, axes=axes)
        image = jax.ShapeDtypeStruct((1, *np.shape(images)[axes:]), images.dtype)
        logits, _ = jax.eval_shape(logits_of, params, model_state, image, jax.eval_shape(jax.random.key, 0))
        _check_range("data", *_range(labels), logits.shape[-1])

    loss_fn.check_data = check_data  # type: ignore[attr-defined]
    return loss_fn


def flax_predict(module: nn.Module, *, preprocess: Preprocess | None = None) -> Predict:
    """Return a function that gives the logits of a batch `(images, labels)`, `module(images, train=False)`."""

    def predict(params: PyTree, model_state: PyTree, batch: PyTree) -> jax.Array:
        images = batch[0] if preprocess is None else preprocess(batch[0])
        logits: Any = module.apply({"params": params, **model_state}, images, train=False)
        return logits

    return predict


def classification_score(logits: jax.Array, batch: PyTree) -> Metrics:
    """Return each image's cross-entropy, "loss", and whether it is classified correctly, "accuracy", 0 or 1.

    Raises:
        TypeError: while it is traced, for a batch that is not a pair or labels that are not integers.
        ValueError: likewise for labels or logits of the wrong shape.
    """
    images, labels = _pair("batch", batch)
    _check_labels("batch", images, labels, axes=1)
    _check_logits(logits, len(images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {"loss": losses, "accuracy": (logits.argmax(axis=-1) == labels).astype(losses.dtype)}


def flax_evaluate(
    module: nn.Module,
    *,
    train: tuple[jax.Array, jax.Array],
    test: tuple[jax.Array, jax.Array],
    preprocess: Preprocess | None = None,
    recalibration: nn.Module | None = None,
    batch_size: int = 1000,
) -> Evaluate:
    """Return `evaluate` of an image classifier: loss and accuracy on whole training and test sets, not augmented.

    Args:
        module: called as `module(images, train=False)`, returns logits.
        train: images (n, H, W, C) and integer labels (n,).
        test: likewise.
        preprocess: as in `flax_loss`.
        recalibration: the same module with a batch norm that keeps only the last batch (for `WideResNet`,
            `module.clone(norm_momentum=0.0)`). If given, losses and accuracies are also recorded with running
            statistics recalibrated on the training set, under names that begin with "recalibrated_".
        batch_size: images per call; recalibrated statistics are the mean over such batches, weighted by their sizes.

    Returns:
        `evaluate`, with the metrics train_loss, train_accuracy, test_loss, test_accuracy and, with recalibration,
        recalibrated_train_loss and so on. Sums are taken batch by batch, in order.

    Raises:
        TypeError: for a set that is not a pair, or labels that are not integers.
        ValueError: for a batch_size below 1, an empty set, labels of the wrong shape or below 0; from `evaluate`, while
            it is traced, for labels beyond the number of logits.
    """
    batch_size = count("batch_size", batch_size)
    ranges = {"train": _check_set("train", train), "test": _check_set("test", test)}
    prepare = preprocess if preprocess is not None else lambda images: images
    predict = flax_predict(module, preprocess=preprocess)
    batches = {"train": _batches(train, batch_size), "test": _batches(test, batch_size)}
    sizes = np.array([len(labels) for _, labels in batches["train"]])
    shares = [float(share) for share in sizes / sizes.sum()]

    @compiler.jit
    def totals(params: PyTree, model_state: PyTree, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = predict(params, model_state, (images, labels))
        scores = classification_score(logits, (images, labels))
        for name, (lowest, highest) in ranges.items():  # Python numbers, checked while tracing
            _check_range(name, lowest, highest, logits.shape[-1])
        return jnp.stack([scores["loss"].sum(), scores["accuracy"].sum()])

    @compiler.jit
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


def _pair(name: str, data: PyTree) -> tuple[Any, Any]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{name} must be a pair (images, labels), got a {type(data).__name__}")
    return data[0], data[1]


def _check_labels(name: str, images: Any, labels: Any, *, axes: int) -> None:
    """Check that labels are integers, one per image; both have `axes` leading axes before those of an image."""
    dtype, shape = jnp.result_type(labels), np.shape(labels)
    words = f"{name} must hold one integer label for each image"
    if np.shape(images)[:axes] != shape:
        hint = "; give one-hot labels as labels.argmax(axis=-1)" if len(shape) > 1 and shape[-1] > 1 else ""
        raise ValueError(f"{words}, got labels of shape {shape} for images of shape {np.shape(images)}{hint}")
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{words}, got labels of {dtype}")


def _check_logits(logits: Any, batch: int) -> None:
    if logits.ndim != 2 or len(logits) != batch:
        raise ValueError(f"module must give logits (batch, classes) for {batch} images, got shape {logits.shape}")


def _check_range(name: str, lowest: int, highest: int, classes: int) -> None:
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"{name} must have labels from 0 to {classes - 1}, because the module gives {classes} logits; "
            f"got labels from {lowest} to {highest}"
        )


def _range(labels: Any) -> tuple[int, int]:
    return int(np.min(np.asarray(labels))), int(np.max(np.asarray(labels)))


def _check_set(name: str, data: Any) -> tuple[int, int]:
    """Return the smallest and the largest label of a set, after checking the set."""
    images, labels = _pair(name, data)
    _check_labels(name, images, labels, axes=1)
    if not len(labels):
        raise ValueError(f"{name} must hold at least one image, got none")
    lowest, highest = _range(labels)
    if lowest < 0:
        raise ValueError(f"{name} must have labels of at least 0, got labels from {lowest} to {highest}")
    return lowest, highest


def _batches(data: tuple[jax.Array, jax.Array], batch_size: int) -> list[tuple[jax.Array, jax.Array]]:
    images, labels = map(jnp.asarray, data)  # to the device once, not in every call
    starts = range(0, len(labels), batch_size)
    return [(images[start : start + batch_size], labels[start : start + batch_size]) for start in starts]

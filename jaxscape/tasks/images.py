"""The paper's problem: a wide residual network that classifies the images of a data set."""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp

from jaxscape.problem import Problem, PyTree
from jaxscape.tasks.augment import augmentation
from jaxscape.tasks.classification import (
    classification_score,
    flax_evaluate,
    flax_loss,
    flax_predict,
    standardization,
)
from jaxscape.tasks.data import Dataset, corrupt_labels, load_dataset, take_training
from jaxscape.tasks.models import WideResNet


@dataclass(frozen=True)
class ImageTask:
    """Settings of an image classification problem; equal settings mean the same problem."""

    dataset: str = "digits"
    data_dir: str | None = None
    data_unchecked: bool = False
    train_size: int | None = None  # the same number of images of each class; None takes all
    images_seed: int | None = None  # seed that draws the training images; None takes the first of each class
    label_noise: float = 0.0  # fraction of the training labels that are random
    label_seed: int | None = None  # seed of the random labels; required if there are any
    depth: int = 10
    widen_factor: int = 1
    precision: str = "float32"  # dtype of the activations
    augmentation: str = "none"
    padding: int = 4  # pixels, for an augmentation that crops
    eval_size: int | None = None  # `evaluate` uses only this many training and test images, the first ones


def image_problem(task: ImageTask) -> Problem:
    """Load the data and set up the network.

    `data` is a pair of images, uint8 (n, H, W, C), and labels, int32 (n,), on the device. Images are standardized with
    the statistics of the whole training set, for training and evaluation. `evaluate` computes in the dtype of the
    parameters, whatever the precision.

    Raises:
        ValueError: for settings that do not fit the data.
        OSError: if the data cannot be read.
    """
    if task.images_seed is not None and task.train_size is None:
        raise ValueError(f"images_seed {task.images_seed} needs train_size, since all images leave nothing to draw")
    data = _dataset(task.dataset, task.data_dir, task.data_unchecked)
    if task.train_size is not None:
        data = take_training(data, task.train_size, _images_key(task.images_seed))
    side = min(data.train_images.shape[1:3])
    if task.padding > side:  # a crop could move beyond the image and show nothing of it
        raise ValueError(f"padding must be at most the side of the images, {side}, got {task.padding}")
    labels = data.train_labels
    if task.label_noise:
        if task.label_seed is None:
            raise ValueError("random labels need label_seed, got None")
        key = jax.random.fold_in(jax.random.key(task.label_seed), _LABELS)
        labels = corrupt_labels(key, labels, num_classes=data.num_classes, fraction=task.label_noise)
    # None means the dtype of the parameters: float32, or float64 if curvature is measured in it.
    dtype = None if task.precision == "float32" else jnp.dtype(task.precision)
    module = WideResNet(task.depth, task.widen_factor, data.num_classes, dtype=dtype)
    measured = module.clone(dtype=None)
    train = (jnp.asarray(data.train_images), jnp.asarray(labels))
    test = (jnp.asarray(data.test_images), jnp.asarray(data.test_labels))
    preprocess = standardization(data.train_images)
    image = jnp.zeros((1, *data.train_images.shape[1:]))

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables = dict(module.init(key, image))
        return variables.pop("params"), variables

    return Problem(
        flax_loss(module, preprocess=preprocess, augment=augmentation(task.augmentation, padding=task.padding)),
        train,
        init=init,
        evaluate=flax_evaluate(
            measured,
            train=(train[0][: task.eval_size], train[1][: task.eval_size]),
            test=(test[0][: task.eval_size], test[1][: task.eval_size]),
            preprocess=preprocess,
            recalibration=measured.clone(norm_momentum=0.0),
        ),
        describe=describe_images(task),
        predict=flax_predict(measured, preprocess=preprocess),
        score=classification_score,
        test_data=test,
    )


def describe_images(task: ImageTask) -> dict[str, str]:
    """Return data and model as captions for `Problem.describe`; loads nothing."""
    drawn = "" if task.images_seed is None else f", drawn with seed {task.images_seed}"
    part = f" ({task.train_size} training images{drawn})" if task.train_size else ""
    return {"data": f"{task.dataset}{part}", "model": f"WRN-{task.depth}-{task.widen_factor}"}


# Folded into a seed's key, one number for each purpose; `jaxscape.runs.keys` has the others.
_LABELS, _IMAGES = 2, 7


def _images_key(seed: int | None) -> jax.Array | None:
    """Return the key that draws the training images of a seed; None takes the first of each class."""
    return None if seed is None else jax.random.fold_in(jax.random.key(seed), _IMAGES)


@cache
def _dataset(name: str, data_dir: str | None, unchecked: bool) -> Dataset:
    return load_dataset(name, data_dir=data_dir, unchecked=unchecked)

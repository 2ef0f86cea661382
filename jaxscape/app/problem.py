"""From a configuration to what training needs: data, network, loss, evaluation, optimiser."""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxscape.app.config import RetrainConfig, TrainConfig
from jaxscape.training.augment import augmentation
from jaxscape.training.data import Dataset, corrupt_labels, load_dataset, take_training
from jaxscape.training.models import WideResNet
from jaxscape.training.objective import Evaluate, LossFn, Preprocess, flax_evaluate, flax_loss, standardization
from jaxscape.training.optimizers import make_optimizer, step_decay

PyTree = Any

# Streams of a configuration's seed. Jump directions come from keys of their own, `jax.random.key(seed)`.
_INIT, _LABELS, _TRAIN, _RETRAIN = 1, 2, 3, 4


class Problem(NamedTuple):
    """What a network is trained and measured on."""

    module: WideResNet
    train: tuple[jax.Array, jax.Array]  # uint8 (n, H, W, C) and int32 (n,), on the device
    test: tuple[jax.Array, jax.Array]
    preprocess: Preprocess  # of the whole training set, for training and evaluation alike
    evaluate: Evaluate  # in float32, whatever the module's precision
    steps_per_epoch: int

    def init(self, seed: int) -> tuple[PyTree, PyTree]:
        """Fresh parameters and model state."""
        variables = dict(self.module.init(stream(seed, _INIT), jnp.zeros((1, *self.train[0].shape[1:]))))
        return variables.pop("params"), variables


def make_problem(config: TrainConfig, *, eval_size: int | None = None) -> Problem:
    """Load the data and set up the network of a minimum; random labels follow from the seed.

    Args:
        config: of the minimum.
        eval_size: let `evaluate` see the first that many training and test images alone.

    Raises:
        ValueError: for a configuration that does not fit the data.
    """
    data = _dataset(config.dataset, config.data_dir, config.data_unchecked)
    if config.train_size is not None:
        data = take_training(data, config.train_size)
    if config.batch_size > len(data.train_labels):
        raise ValueError(
            f"batch_size must be at most the number of training images, {len(data.train_labels)}, "
            f"got {config.batch_size}"
        )
    side = min(data.train_images.shape[1:3])
    if config.padding > side:  # a crop may move as far as that, and would show nothing of an image
        raise ValueError(f"padding must be at most the side of the images, {side}, got {config.padding}")
    labels = corrupt_labels(
        stream(config.seed, _LABELS), data.train_labels, num_classes=data.num_classes, fraction=config.label_noise
    )
    module = WideResNet(config.depth, config.widen_factor, data.num_classes, dtype=jnp.dtype(config.precision))
    measured = module.clone(dtype=jnp.float32)
    train = (jnp.asarray(data.train_images), jnp.asarray(labels))
    test = (jnp.asarray(data.test_images), jnp.asarray(data.test_labels))
    preprocess = standardization(data.train_images)
    evaluate = flax_evaluate(
        measured,
        train=(train[0][:eval_size], train[1][:eval_size]),
        test=(test[0][:eval_size], test[1][:eval_size]),
        preprocess=preprocess,
        recalibration=measured.clone(norm_momentum=0.0),
    )
    return Problem(module, train, test, preprocess, evaluate, len(labels) // config.batch_size)


def make_problems[K](
    configs: Mapping[K, TrainConfig], *, eval_sizes: Mapping[K, int] | None = None
) -> dict[K, Problem]:
    """The problem of each of several minima; one object for those that are the same but for their seed.

    Args:
        configs: of the minima.
        eval_sizes: `eval_size` of each, as for `make_problem`.

    Raises:
        ValueError: as `make_problem`.
    """
    made: dict[tuple[Any, ...], Problem] = {}
    problems = {}
    for name, config in configs.items():
        eval_size = None if eval_sizes is None else eval_sizes[name]
        labels = (config.label_noise, config.seed if config.label_noise else None)  # random ones follow from the seed
        source = (config.dataset, config.data_dir, config.data_unchecked)
        data = (*source, config.train_size, *labels, config.batch_size, eval_size)
        same = (*data, config.depth, config.widen_factor, config.precision)
        if same not in made:
            made[same] = make_problem(config, eval_size=eval_size)
        problems[name] = made[same]
    return problems


def make_loss(problem: Problem, config: TrainConfig, *, augment: str) -> LossFn:
    """The training loss with an augmentation of that name."""
    function = augmentation(augment, padding=config.padding)
    return flax_loss(problem.module, preprocess=problem.preprocess, augment=function)


def train_optimizer(problem: Problem, config: TrainConfig) -> optax.GradientTransformation:
    """The minimum's optimiser, its learning rate decaying by epochs."""
    schedule = step_decay(config.learning_rate, config.decay_epochs, steps_per_epoch=problem.steps_per_epoch)
    return make_optimizer(config.optimizer, schedule, weight_decay=config.weight_decay)


def retrain_optimizer(config: RetrainConfig) -> optax.GradientTransformation:
    """The copies' optimiser, its learning rate constant."""
    return make_optimizer(config.optimizer, config.learning_rate, weight_decay=config.weight_decay)


def train_key(config: TrainConfig) -> jax.Array:
    """Of the batch order and augmentation on the way to the minimum."""
    return stream(config.seed, _TRAIN)


def retrain_key(config: RetrainConfig) -> jax.Array:
    """Of the batch order and augmentation of the copies."""
    return stream(config.order_seed, _RETRAIN)


def stream(seed: int, purpose: int) -> jax.Array:
    """A key for one purpose of a seed."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


@cache
def _dataset(name: str, data_dir: str | None, unchecked: bool) -> Dataset:
    return load_dataset(name, data_dir=data_dir, unchecked=unchecked)

"""The designs of generalization.py: which networks are trained, on which data, and with which hyperparameters.

A study trains one network per cell of a full factorial design and per seed. Every network has its own draw of training
images. Networks whose arrays have the same shapes form a group, and are trained as one stack although their images,
labels, augmentation, learning rate and weight decay differ: these are part of each member's state, not of the program.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape import (
    Problem,
    TrainState,
    WideResNet,
    concatenate_states,
    corrupt_labels,
    init_states,
    load_dataset,
    take_training,
)
from jaxscape.tasks.augment import random_crop
from jaxscape.tasks.classification import standardization
from jaxscape.tasks.data import Dataset
from jaxscape.xla_cpu import compiler

PyTree = Any

MOMENTUM = 0.9
PROBE_IMAGES = 128  # training images on which the loss of perturbed copies is measured


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one training. A study varies some of them; the others keep these values."""

    learning_rate: float = 0.05
    batch_size: int = 32
    weight_decay: float = 0.0
    crops: bool = False
    images: int = 500
    label_noise: float = 0.0
    width: int = 1
    depth: int = 10

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return what determines the shapes of a training's arrays: trainings of one shape are trained as a stack."""
        return self.batch_size, self.images, self.width, self.depth


@dataclass(frozen=True)
class Probe:
    """How copies of every minimum are perturbed and retrained: without weight decay and augmentation."""

    learning_rate: float = 0.05
    batch_size: int = 64
    updates: int = 200
    every: int = 5  # updates between two recorded points
    directions: int = 3
    step_sizes: tuple[float, ...] = (0.5, 1.0)
    controls: int = 2

    @property
    def num_copies(self) -> int:
        """Return the number of copies of a minimum."""
        return self.directions * len(self.step_sizes) + self.controls


@dataclass(frozen=True)
class Study:
    """A factorial design, and when a training ends."""

    dataset: str
    factors: Mapping[str, tuple[Any, ...]]  # name of a field of Recipe -> its levels
    seeds: tuple[int, ...]  # the first ones choose, the last one confirms
    pooled: bool = False  # means over 2x2 pixels
    padding: int = 1  # largest shift of a crop, in pixels
    target_loss: float = 0.01  # mean cross-entropy on training images (not augmented) at which a training ends
    most_updates: int = 10_000  # a training that has not reached the target by then is a miss
    check_every: int = 20  # updates between two evaluations of that loss
    check_images: int = 500  # at most so many training images are used for it
    probe: Probe = Probe()
    second_probe: Probe = Probe(learning_rate=0.02)  # of the fragility audit
    baseline_images: int = 250  # training images on which sharpness and curvature are measured
    test_images: int = 10_000
    fixed: Mapping[str, Any] = field(default_factory=dict)  # values of Recipe other than its defaults


STUDIES = {
    # For tests: the values are too small for any result.
    "smoke": Study(
        dataset="digits",
        factors={"crops": (False, True)},
        seeds=(0, 1),
        target_loss=0.5,
        most_updates=40,
        check_every=10,
        probe=Probe(batch_size=20, updates=6, every=2, directions=2),
        second_probe=Probe(learning_rate=0.02, batch_size=20, updates=6, every=2, directions=2),
        baseline_images=20,
        test_images=50,
        fixed={"images": 40, "batch_size": 20},
    ),
    "fashion": Study(
        dataset="fashion_mnist",
        pooled=True,
        padding=2,
        factors={
            "learning_rate": (0.03, 0.1),
            "batch_size": (32, 128),
            "weight_decay": (0.0, 1e-3),
            "crops": (False, True),
            "images": (500, 2000),
            "label_noise": (0.0, 0.2),
        },
        seeds=(0, 1),
    ),
    # In the manner of Jiang et al. (2019), with the number of images in place of the width, for its cost.
    "digits": Study(
        dataset="digits",
        factors={
            "learning_rate": (0.02, 0.05, 0.1),
            "batch_size": (16, 32, 64),
            "weight_decay": (0.0, 3e-4, 1e-3),
            "images": (100, 200, 400),
            "depth": (10, 16, 22),
        },
        seeds=(0,),
        test_images=797,  # all
        # 10 to 38 epochs of these images; 200 updates, as elsewhere, would take more than three hours of two cores.
        probe=Probe(batch_size=32, updates=120, every=3),
        second_probe=Probe(learning_rate=0.02, batch_size=32, updates=120, every=3),
        baseline_images=100,
    ),
    "cifar10": Study(
        dataset="cifar10",
        padding=4,
        factors={
            "learning_rate": (0.02, 0.05, 0.1),
            "batch_size": (32, 64, 128),
            "weight_decay": (0.0, 3e-4, 1e-3),
            "images": (5_000, 10_000, 20_000),
            "label_noise": (0.0, 0.1, 0.2),
            "width": (1, 2, 4),
            "depth": (10, 16, 28),
        },
        seeds=(0,),
        most_updates=100_000,
        check_every=500,
        probe=Probe(batch_size=128, updates=1000, every=25),
        second_probe=Probe(learning_rate=0.02, batch_size=128, updates=1000, every=25),
        baseline_images=1000,
    ),
}


class Cell(NamedTuple):
    """One network of a study."""

    number: int  # of the cell and seed, counted through the study; determines all random numbers
    levels: Mapping[str, int]  # factor -> index of its level
    recipe: Recipe
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the network's files."""
        return f"{'-'.join(str(level) for level in self.levels.values())}-seed-{self.seed}"


def cells(study: Study) -> list[Cell]:
    """Return all networks of a study, seed by seed.

    Raises:
        ValueError: if a factor is not a field of `Recipe`, or has one level only.
    """
    known = {each.name for each in fields(Recipe)}
    for name, levels in study.factors.items():
        if name not in known or len(set(levels)) < 2:
            raise ValueError(f"factor must be a field of Recipe with several levels, got {name!r} with {levels}")
    grid = list(product(*(range(len(levels)) for levels in study.factors.values())))
    found = []
    for number, (seed, indices) in enumerate(product(study.seeds, grid)):
        levels = dict(zip(study.factors, indices, strict=True))
        varied = {name: study.factors[name][level] for name, level in levels.items()}
        found.append(Cell(number, levels, Recipe(**{**study.fixed, **varied}), seed))
    return found


def load(study: Study, data_dir: str | None) -> Dataset:
    """Return the data set of a study, with pooled images if it asks for them, and its first test images."""
    data = load_dataset(study.dataset, data_dir=data_dir)
    images = {name: getattr(data, name) for name in ("train_images", "test_images")}
    if study.pooled:
        images = {name: pool(values) for name, values in images.items()}
    data = data._replace(**images)
    return data._replace(
        test_images=data.test_images[: study.test_images], test_labels=data.test_labels[: study.test_images]
    )


def pool(images: np.ndarray) -> np.ndarray:
    """Return means over 2x2 pixels, rounded: uint8 (n, H, W, C) to (n, H / 2, W / 2, C)."""
    number, height, width, channels = images.shape
    blocks = images.reshape(number, height // 2, 2, width // 2, 2, channels)
    return np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def key_of(cell: Cell, purpose: str) -> jax.Array:
    """Return the PRNG key of a network for one purpose."""
    purposes = ("images", "labels", "init", "train", "probe", "surrogates", "random")
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(2021), cell.number), purposes.index(purpose))


def draw_images(cell: Cell, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images and labels of a network: its own draw, balanced over the classes, labels with noise.

    Returns:
        uint8 (n, H, W, C) and int32 (n,), in the order of the data set.
    """
    drawn = take_training(data, cell.recipe.images, key_of(cell, "images"))
    labels = corrupt_labels(
        key_of(cell, "labels"), drawn.train_labels, num_classes=data.num_classes, fraction=cell.recipe.label_noise
    )
    return drawn.train_images, np.asarray(labels, np.int32)


class Network(NamedTuple):
    """The functions of a group of networks; each member's images and labels are part of its model state.

    A model state is {"batch_stats": running statistics, "images": uint8 (n, H, W, C), "labels": int32 (n,), "crops":
    whether the images are cropped}; the data are the rows 0 to n - 1.
    """

    problem: Problem
    evaluate: Any  # (params, model_state) -> {"loss", "accuracy"} on the first of the member's own images
    evaluate_all: Any  # (params, model_state) -> {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    perturbed_loss: Any  # (params, model_state) -> {"loss"}: with the statistics of the batch, on the first images


def network(study: Study, recipe: Recipe, data: Dataset) -> Network:
    """Return the functions of the networks with one shape."""
    module = WideResNet(recipe.depth, recipe.width, data.num_classes)
    standardize = standardization(data.train_images)
    padding = study.padding
    size = np.gcd(len(data.test_labels), 1000)  # parts of one size
    test = jnp.asarray(data.test_images), jnp.asarray(data.test_labels)
    test_parts = [tuple(each[first : first + size] for each in test) for first in range(0, len(test[0]), size)]

    def logits(params: PyTree, state: PyTree, images: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": state["batch_stats"]}
        return module.apply(variables, standardize(images), train=False)

    def loss_fn(params: PyTree, state: PyTree, rows: jax.Array, key: jax.Array) -> Any:
        images, labels = state["images"][rows], state["labels"][rows]
        images = _crop(key, images, padding, state["crops"])
        variables = {"params": params, "batch_stats": state["batch_stats"]}
        outputs, changed = module.apply(variables, standardize(images), train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()
        return loss, ({**state, **changed}, {"loss": loss})

    def predict(params: PyTree, state: PyTree, rows: jax.Array) -> PyTree:
        return logits(params, state, state["images"][rows]), state["labels"][rows]

    def score(outputs: PyTree, rows: jax.Array) -> dict[str, jax.Array]:
        values, labels = outputs
        losses = optax.softmax_cross_entropy_with_integer_labels(values, labels)
        return {"loss": losses, "accuracy": (values.argmax(axis=-1) == labels).astype(losses.dtype)}

    @compiler.jit
    def means(params: PyTree, state: PyTree, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        scores = score((logits(params, state, images), labels), labels)
        return {name: values.mean() for name, values in scores.items()}

    @compiler.jit
    def training_loss(params: PyTree, state: PyTree, rows: jax.Array) -> jax.Array:
        return loss_fn(params, {**state, "crops": jnp.asarray(False)}, rows, jax.random.key(0))[0]

    def evaluate(params: PyTree, state: PyTree) -> dict[str, jax.Array]:
        first = min(study.check_images, recipe.images)
        return means(params, state, state["images"][:first], state["labels"][:first])

    def evaluate_all(params: PyTree, state: PyTree) -> dict[str, jax.Array]:
        own = means(params, state, state["images"], state["labels"])
        parts = [means(params, state, *part) for part in test_parts]
        test = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        return {f"train_{name}": own[name] for name in own} | {f"test_{name}": test[name] for name in test}

    def perturbed_loss(params: PyTree, state: PyTree) -> dict[str, jax.Array]:
        return {"loss": training_loss(params, state, jnp.arange(min(PROBE_IMAGES, recipe.images)))}

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables = module.init(key, standardize(jnp.asarray(data.train_images[:1])), train=True)
        return variables["params"], {"batch_stats": variables["batch_stats"]}

    problem = Problem(loss_fn, np.arange(recipe.images), init=init, predict=predict, score=score)
    return Network(problem, evaluate, evaluate_all, perturbed_loss)


def _crop(key: jax.Array, images: jax.Array, padding: int, crops: jax.Array) -> jax.Array:
    """Shift each image by up to `padding` pixels if `crops`, with black pixels from outside; else leave it."""
    return jnp.where(crops, random_crop(key, images, padding=padding), images)


def initial_state(cell: Cell, net: Network, data: Dataset) -> tuple[PyTree, PyTree]:
    """Return the initial parameters and the model state of a network, with its own images."""
    params, state = net.problem.init(key_of(cell, "init"))
    images, labels = draw_images(cell, data)
    own = {"images": jnp.asarray(images), "labels": jnp.asarray(labels), "crops": jnp.asarray(cell.recipe.crops)}
    return params, state | own


def training_optimizer() -> optax.GradientTransformation:
    """Return SGD with momentum and coupled weight decay, whose hyperparameters are part of each member's state."""

    def make(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=MOMENTUM))

    return optax.inject_hyperparams(make)(learning_rate=0.0, weight_decay=0.0)


def training_states(cell_list: list[Cell], net: Network, data: Dataset) -> TrainState:
    """Return the states of several networks of one shape before their first step, as one stack."""
    optimizer, states = training_optimizer(), []
    for cell in cell_list:
        params, model_state = initial_state(cell, net, data)
        stack = jax.tree.map(lambda leaf: leaf[None], params)
        state = init_states(stack, optimizer, keys=key_of(cell, "train")[None], model_state=model_state)
        own = {"learning_rate": cell.recipe.learning_rate, "weight_decay": cell.recipe.weight_decay}
        hyperparams = {name: jnp.full_like(state.opt_state.hyperparams[name], value) for name, value in own.items()}
        states.append(state._replace(opt_state=state.opt_state._replace(hyperparams=hyperparams)))
    return concatenate_states(states)

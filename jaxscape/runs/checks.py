"""Validation of the settings of a stage, before any work.

Other rooms are imported inside the checks that need them, so that `--help` does not wait for jax.
"""

import math
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxscape.runs.config import (
    PRECISIONS,
    PRESETS,
    PROTOCOLS,
    CompareConfig,
    CompareSettings,
    EmbedConfig,
    RetrainConfig,
    RetrainSettings,
    TrainConfig,
    TrainSettings,
    check_name,
)
from jaxscape.runs.landscape_config import CurvatureConfig, MeasurementSettings, PathConfig, SurfaceConfig
from jaxscape.runs.methods import CENTERS, KNNS, METHODS, NULLS

# Beyond what any machine can hold, but still within the integers of XLA.
_MAX_DEPTH, _MAX_WIDEN_FACTOR = 10_000, 1_000


def check_train(settings: TrainSettings) -> None:
    """Raise an error for invalid settings.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
    """
    _check_at_least("epochs", settings.epochs, 1)
    _check_at_least("batch_size", settings.batch_size, 1)
    _check_seed("seed", settings.seed)
    if isinstance(settings, TrainConfig):
        _check_images(settings)


def check_compare(settings: CompareSettings) -> None:
    """Raise an error for invalid settings.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
    """
    _check_distinct("optimizers", settings.optimizers)
    _check_distinct("seeds", settings.seeds)
    for seed in settings.seeds:
        _check_seed("seeds", seed)
    _check_at_least("epochs", settings.epochs, 1)
    _check_at_least("batch_size", settings.batch_size, 1)
    if settings.steps is not None:
        _check_at_least("steps", settings.steps, 1)
    _check_strategy(settings.strategy)
    if isinstance(settings, CompareConfig):
        for optimizer in settings.optimizers:
            _check_images(settings.of_one(optimizer, settings.seeds[0]))
        _check_at_least("eval_size", settings.eval_size, 1)


def check_surface(settings: SurfaceConfig) -> None:
    """Raise an error for invalid settings.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
    """
    _check_measurement(settings)
    chosen = "seeds" if settings.plane == "filter" else "axes"
    _check_distinct(chosen, getattr(settings, chosen))
    if len(getattr(settings, chosen)) > 2:
        raise ValueError(f"{chosen} must be one (a line) or two (a plane), got {getattr(settings, chosen)}")
    for seed in settings.seeds:
        _check_seed("seeds", seed)
    for axis in settings.axes:
        _check_at_least("axes", axis, 0)
    _check_at_least("points", settings.points, 2)
    _check_at_least("every", settings.every, 1)
    if not (0 < settings.reach < math.inf) and not (settings.plane == "trajectory" and settings.reach == 0):
        raise ValueError(f"extent must be a finite number above 0, got {settings.extent}")


def check_path(settings: PathConfig) -> None:
    """Raise an error for invalid settings.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
    """
    _check_measurement(settings)
    _check_at_least("bends", settings.bends, 1)
    _check_at_least("epochs", settings.epochs, 1)
    if settings.train_batch is not None:
        _check_at_least("train_batch", settings.train_batch, 1)
    _check_at_least("points", settings.points, 3)
    _check_seed("seed", settings.seed)
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a finite number above 0, got {settings.learning_rate}")


def check_curvature(settings: CurvatureConfig) -> None:
    """Raise an error for invalid settings.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
    """
    _check_measurement(settings)
    if settings.split == "evaluate":
        raise ValueError("split must be train or test, since curvature is that of the loss; got 'evaluate'")
    _check_at_least("k", settings.k, 1)
    _check_at_least("steps", settings.steps, settings.k)
    _check_at_least("probes", settings.probes, 1)
    _check_seed("seed", settings.seed)


def _check_measurement(settings: MeasurementSettings) -> None:
    for each in fields(settings):
        if get_origin(kind := get_type_hints(type(settings))[each.name]) is Literal:
            check_name(each.name, getattr(settings, each.name), get_args(kind))
    _check_at_least("batch_size", settings.batch_size, 1)
    if settings.strategy is not None:
        from jaxscape.training.members import EVALUATIONS, parse_strategy

        parse_strategy(settings.strategy, EVALUATIONS)


def check_retrain(settings: RetrainSettings) -> None:
    """Raise an error for invalid settings.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
    """
    from jaxscape.jumps.directions import checked_grid
    from jaxscape.jumps.retrain import DATA_ORDERS

    checked_grid(settings.seeds, settings.step_sizes)
    _check_at_least("controls", settings.controls, 0)
    check_name("data_order", settings.data_order, DATA_ORDERS)
    _check_strategy(settings.strategy)
    _check_at_least("epochs", settings.epochs, 1)
    _check_at_least("batch_size", settings.batch_size, 1)
    _check_seed("order_seed", settings.order_seed)
    if isinstance(settings, RetrainConfig):
        from jaxscape.tasks.augment import augmentation
        from jaxscape.training.optimizers import make_optimizer

        augmentation(settings.augmentation)
        check_name("precision", settings.precision, PRECISIONS)
        _check_at_least("eval_size", settings.eval_size, 1)
        make_optimizer(settings.optimizer, settings.learning_rate, weight_decay=settings.weight_decay)


def _check_images(config: TrainConfig) -> None:
    from jaxscape.tasks.augment import augmentation
    from jaxscape.tasks.data import DATASETS
    from jaxscape.training.optimizers import make_optimizer, step_decay

    check_name("preset", config.preset, PRESETS)
    check_name("protocol", config.protocol, PROTOCOLS)
    check_name("dataset", config.dataset, DATASETS)
    augmentation(config.augmentation)
    check_name("precision", config.precision, PRECISIONS)
    _check_at_least("padding", config.padding, 0)
    if not 10 <= config.depth <= _MAX_DEPTH or (config.depth - 4) % 6:
        raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, ... up to {_MAX_DEPTH}), got {config.depth}")
    if not 1 <= config.widen_factor <= _MAX_WIDEN_FACTOR:
        raise ValueError(f"widen_factor must be from 1 to {_MAX_WIDEN_FACTOR}, got {config.widen_factor}")
    if config.train_size is not None:
        _check_at_least("train_size", config.train_size, 1)
    if config.images_seed is not None:
        _check_seed("images_seed", config.images_seed)
        if config.train_size is None:
            raise ValueError(
                f"images_seed draws train_size images, but train_size is None (all images); got {config.images_seed}"
            )
    if not 0 <= config.label_noise <= 1:
        raise ValueError(f"label_noise must be from 0 to 1, got {config.label_noise}")
    make_optimizer(config.optimizer, config.learning_rate, weight_decay=config.weight_decay)
    step_decay(config.learning_rate, config.decay_epochs, steps_per_epoch=1)


def check_embed(config: EmbedConfig) -> None:
    """Raise an error for an invalid configuration.

    Raises:
        TypeError, ValueError: names the invalid setting, its value and what is allowed.
    """
    check_name("method", config.method, tuple(METHODS))
    check_name("metric", config.distance, ("cosine", "euclidean"))
    check_name("center", config.center, tuple(CENTERS))
    check_name("potential", config.potential, ("euclidean", "cosine"))
    if config.knn not in KNNS:
        if isinstance(config.knn, str):
            raise ValueError(f"knn must be a whole number, {' or '.join(KNNS)}, got {config.knn!r:.100}")
        _check_at_least("knn", config.knn, 1)
    if config.null is not None:
        check_name("null", config.null, tuple(NULLS))
    _check_at_least("n_components", config.n_components, 2)
    if config.t is not None:
        _check_at_least("t", config.t, 1)
    if config.method != "phate" and not (config.potential == "euclidean" and config.landmarks is None):
        raise ValueError(f"potential and landmarks require method phate, got method {config.method}")
    kernel = config.knn, config.decay, config.t
    if not METHODS[config.method].has_kernel and kernel != (EmbedConfig.knn, EmbedConfig.decay, EmbedConfig.t):
        raise ValueError(f"knn, decay and t require method phate, got method {config.method}")
    if config.method == "phate-package" and config.knn in KNNS:
        raise ValueError(f"knn {config.knn} requires method phate, got method phate-package")
    if METHODS[config.method].is_exact and config.distance != "euclidean":
        raise ValueError(f"method {config.method} requires metric euclidean, got {config.distance}")
    if config.include_minimum and config.center == "minimum" and config.distance == "cosine":
        raise ValueError(
            "include_minimum requires a center other than minimum: the minimum has no direction from itself"
        )


def _check_distinct(name: str, values: tuple[Any, ...]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} must name one or more, each once, got {' '.join(map(str, values)) or 'none'}")


def _check_strategy(name: str) -> None:
    from jaxscape.training.members import parse_strategy

    if name != "auto":
        parse_strategy(name)


def _check_seed(name: str, value: int) -> None:
    _check_whole(name, value)
    if not 0 <= value < 2**32:
        raise ValueError(f"{name} must be from 0 to 2**32 - 1, got {value}")


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r:.100}")


def _check_at_least(name: str, value: int, least: int) -> None:
    _check_whole(name, value)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")

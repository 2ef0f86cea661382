"""The built-in problem: from configurations to the problems and optimisers that the stages take.

Only this module knows the networks of the paper; the stages take any `jaxscape.Problem`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from warnings import warn

import optax

from jaxscape.problem import Problem, PyTree
from jaxscape.runs.checks import check_compare, check_retrain, check_train
from jaxscape.runs.compare import Comparison
from jaxscape.runs.config import CompareConfig, RetrainConfig, TaskConfig, TrainConfig
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.minimum import read_accuracy
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.retrain import Retraining
from jaxscape.runs.train import Training, steps_per_epoch
from jaxscape.tasks.images import ImageTask, image_problem
from jaxscape.tasks.models import wide_resnet_axes
from jaxscape.training.optimizers import make_optimizer, step_decay


def image_training(config: TrainConfig) -> Training:
    """Return the training of one configuration's minimum; see `image_trainings`."""
    [training] = image_trainings({Path(): config}).values()
    return training


def image_trainings(configs: Mapping[Path, TrainConfig]) -> dict[Path, Training]:
    """Return the training of each run folder's minimum; loads the data.

    Configurations that differ only in their seed share a problem, so that their minima can be trained together.

    Raises:
        ValueError: for an invalid configuration.
        OSError: if the data cannot be read.
    """
    for config in configs.values():
        check_train(config)
    configs = {run: _with_absolute_paths(config) for run, config in configs.items()}
    problems = _problems({run: image_task(config) for run, config in configs.items()})
    return {run: Training(config, problems[run], _optimizer(problems[run], config)) for run, config in configs.items()}


def image_retrainings(configs: Mapping[Path, RetrainConfig]) -> dict[Path, Retraining]:
    """Return the retraining of each run folder's copies; loads the data.

    Raises:
        FileNotFoundError: if a run has no minimum.
        ValueError: for an invalid configuration.
        OSError: if the data cannot be read.
    """
    for config in configs.values():
        check_retrain(config)
    problems = _problems({run: retraining_task(_minimum(run), config) for run, config in configs.items()})
    return {run: Retraining(config, problems[run], retrain_optimizer(config)) for run, config in configs.items()}


def image_plan(train: TrainConfig, retrain: RetrainConfig) -> tuple[Training, Retraining]:
    """Return the training of a minimum that need not exist yet, and the retraining of its copies; loads the data.

    Raises:
        ValueError: for an invalid configuration.
        OSError: if the data cannot be read.
    """
    check_retrain(retrain)
    training = image_training(train)
    problem = image_problem(retraining_task(_with_absolute_paths(train), retrain))
    return training, Retraining(retrain, problem, retrain_optimizer(retrain))


def image_comparison(config: CompareConfig) -> Comparison:
    """Return the training of networks side by side; loads the data.

    Raises:
        ValueError: for an invalid configuration.
        OSError: if the data cannot be read.
    """
    config = _with_absolute_paths(config)
    check_compare(config)
    configs = {name: config.of_one(name, config.seeds[0]) for name in config.optimizers}
    first, *_ = configs.values()
    problem = image_problem(image_task(first, eval_size=config.eval_size))
    return Comparison(config, problem, {name: _optimizer(problem, each) for name, each in configs.items()})


def image_landscape(run: Path) -> OwnProblem:
    """Return the built-in problem of a run folder, to measure its landscape; loads the data.

    Raises:
        FileNotFoundError: if the run has neither a minimum nor networks that were trained side by side.
        ValueError: for a run of the user's own problem.
        OSError: if the data cannot be read.
    """
    run = RunFolder(run)
    settings = run.settings(run.kind.stage)
    if isinstance(settings, CompareConfig):
        return OwnProblem(image_problem(image_task(settings.of_one(settings.optimizers[0], settings.seeds[0]))))
    if not run.kind.has_minimum:
        raise ValueError(f"{run} belongs to a problem of your own; name it with --problem")
    return OwnProblem(image_problem(image_task(_minimum(run))))


def warn_if_data_differ(run: Path, other: Path) -> None:
    """Warn if the minima of two runs were trained on different data: losses between them are those on the first run's.

    Raises:
        FileNotFoundError: if one of them has no minimum.
        ValueError: if one of them belongs to the user's own problem.
    """
    first, second = (image_task(_minimum(each)) for each in (run, other))
    names = ("dataset", "train_size", "images_seed", "label_noise", "label_seed")
    differ = [name for name in names if getattr(first, name) != getattr(second, name)]
    if differ:
        values = ", ".join(f"{name} {getattr(second, name)} instead of {getattr(first, name)}" for name in differ)
        warn(
            f"{other} was trained on other data than {run} ({values}); all losses are on the data of {run}",
            stacklevel=2,
        )


def image_axes(params: PyTree, model_state: PyTree) -> dict[str, tuple[str | None, ...]]:
    """Return the axes of the built-in network that each permutation of channels acts on, for `match_units`."""
    return wide_resnet_axes(params, model_state)


def image_task(config: TrainConfig, *, eval_size: int | None = None) -> ImageTask:
    """Return the task of a minimum's network."""
    return ImageTask(
        dataset=config.dataset,
        data_dir=config.data_dir,
        data_unchecked=config.data_unchecked,
        train_size=config.train_size,
        images_seed=config.images_seed,
        label_noise=config.label_noise,
        label_seed=config.seed if config.label_noise else None,
        depth=config.depth,
        widen_factor=config.widen_factor,
        precision=config.precision,
        augmentation=config.augmentation,
        padding=config.padding,
        eval_size=eval_size,
    )


def retraining_task(minimum: TrainConfig, config: RetrainConfig) -> ImageTask:
    """Return the task of a minimum's copies: that of the minimum, with the precision and augmentation of retraining."""
    task = image_task(minimum, eval_size=config.eval_size)
    return replace(task, precision=config.precision, augmentation=config.augmentation)


def retrain_optimizer(config: RetrainConfig) -> optax.GradientTransformation:
    """Return the optimiser of the copies, with a constant learning rate."""
    return make_optimizer(config.optimizer, config.learning_rate, weight_decay=config.weight_decay)


def _minimum(run: Path) -> TrainConfig:
    """Return the configuration of a run folder's minimum.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it belongs to the user's own problem.
    """
    config, _ = read_accuracy(run)
    if not isinstance(config, TrainConfig):
        raise ValueError(f"the minimum in {run} belongs to a problem of your own; name it with --problem")
    return config


def _optimizer(problem: Problem, config: TrainConfig) -> optax.GradientTransformation:
    """Return the optimiser of the minimum, whose learning rate decays by epochs."""
    steps = steps_per_epoch(problem, config.batch_size)
    assert steps is not None  # images are arrays
    schedule = step_decay(config.learning_rate, config.decay_epochs, steps_per_epoch=steps)
    return make_optimizer(config.optimizer, schedule, weight_decay=config.weight_decay)


def _problems(tasks: Mapping[Path, ImageTask]) -> dict[Path, Problem]:
    """Return the problem of each task; equal tasks share one object."""
    problems = {task: image_problem(task) for task in dict.fromkeys(tasks.values())}
    return {run: problems[task] for run, task in tasks.items()}


def _with_absolute_paths[C: TaskConfig](config: C) -> C:
    """Make the data folder absolute, since later commands may run in another working directory."""
    if not config.data_dir:  # an empty path is rejected when the data are loaded
        return config
    return replace(config, data_dir=str(Path(config.data_dir).expanduser().absolute()))

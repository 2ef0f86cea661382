"""The built-in problem as the stages take it: from configurations to problems and optimisers.

The only file here that knows what the networks of the paper are; the other stages take any `jaxscape.Problem`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

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
    """Return how the minimum of one configuration is found; see `image_trainings`."""
    [training] = image_trainings({Path(): config}).values()
    return training


def image_trainings(configs: Mapping[Path, TrainConfig]) -> dict[Path, Training]:
    """Return how the minimum of each run folder is found; loads the data.

    Configurations that differ in their seed alone share a problem, so that their minima can be found together.

    Raises:
        ValueError: for a configuration that cannot work.
        OSError: where the data cannot be read.
    """
    for config in configs.values():
        check_train(config)
    configs = {run: _with_absolute_paths(config) for run, config in configs.items()}
    problems = _problems({run: image_task(config) for run, config in configs.items()})
    return {run: Training(config, problems[run], _optimizer(problems[run], config)) for run, config in configs.items()}


def image_retrainings(configs: Mapping[Path, RetrainConfig]) -> dict[Path, Retraining]:
    """Return how the copies of each run folder's minimum are retrained; loads the data.

    Raises:
        FileNotFoundError: where a run has no minimum.
        ValueError: for a configuration that cannot work.
        OSError: where the data cannot be read.
    """
    for config in configs.values():
        check_retrain(config)
    problems = _problems({run: retraining_task(_minimum(run), config) for run, config in configs.items()})
    return {run: Retraining(config, problems[run], retrain_optimizer(config)) for run, config in configs.items()}


def image_plan(train: TrainConfig, retrain: RetrainConfig) -> tuple[Training, Retraining]:
    """Return how a minimum that need not be there would be found, and its copies retrained; loads the data.

    Raises:
        ValueError: for a configuration that cannot work.
        OSError: where the data cannot be read.
    """
    check_retrain(retrain)
    training = image_training(train)
    problem = image_problem(retraining_task(_with_absolute_paths(train), retrain))
    return training, Retraining(retrain, problem, retrain_optimizer(retrain))


def image_comparison(config: CompareConfig) -> Comparison:
    """Return how networks are trained side by side; loads the data.

    Raises:
        ValueError: for a configuration that cannot work.
        OSError: where the data cannot be read.
    """
    config = _with_absolute_paths(config)
    check_compare(config)
    of_one = {name: config.of_one(name, config.seeds[0]) for name in config.optimizers}
    first, *_ = of_one.values()
    problem = image_problem(image_task(first, eval_size=config.eval_size))
    return Comparison(config, problem, {name: _optimizer(problem, one) for name, one in of_one.items()})


def image_landscape(run: Path) -> OwnProblem:
    """Return the built-in problem of a run folder, whose landscape is to be measured; loads the data.

    Raises:
        FileNotFoundError: where the run has no minimum, and no networks side by side.
        ValueError: for a run of a problem of one's own.
        OSError: where the data cannot be read.
    """
    run = RunFolder(run)
    settings = run.settings(run.kind.stage)
    if isinstance(settings, CompareConfig):
        return OwnProblem(image_problem(image_task(settings.of_one(settings.optimizers[0], settings.seeds[0]))))
    if not run.kind.has_minimum:
        raise ValueError(f"{run} is that of a problem of your own; name it with --problem")
    return OwnProblem(image_problem(image_task(_minimum(run))))


def image_axes(params: PyTree, model_state: PyTree) -> dict[str, tuple[str | None, ...]]:
    """Return which order of channels acts on which axis of the built-in network, as `match_units` takes it."""
    return wide_resnet_axes(params, model_state)


def image_task(config: TrainConfig, *, eval_size: int | None = None) -> ImageTask:
    """Return what the network of a minimum learns."""
    return ImageTask(
        dataset=config.dataset,
        data_dir=config.data_dir,
        data_unchecked=config.data_unchecked,
        train_size=config.train_size,
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
    """Return what the copies of a minimum learn: the same, as far as the retraining does not say otherwise."""
    task = image_task(minimum, eval_size=config.eval_size)
    return replace(task, precision=config.precision, augmentation=config.augmentation)


def retrain_optimizer(config: RetrainConfig) -> optax.GradientTransformation:
    """Return the copies' optimiser, its learning rate constant."""
    return make_optimizer(config.optimizer, config.learning_rate, weight_decay=config.weight_decay)


def _minimum(run: Path) -> TrainConfig:
    """How the minimum of a run folder was found.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is that of another problem.
    """
    found, _ = read_accuracy(run)
    if not isinstance(found, TrainConfig):
        raise ValueError(f"the minimum in {run} is that of a problem of your own; name it with --problem")
    return found


def _optimizer(problem: Problem, config: TrainConfig) -> optax.GradientTransformation:
    """The minimum's optimiser, its learning rate decaying by epochs."""
    steps = steps_per_epoch(problem, config.batch_size)
    assert steps is not None  # images are arrays
    schedule = step_decay(config.learning_rate, config.decay_epochs, steps_per_epoch=steps)
    return make_optimizer(config.optimizer, schedule, weight_decay=config.weight_decay)


def _problems(tasks: Mapping[Path, ImageTask]) -> dict[Path, Problem]:
    """The problem of each task; one object for those that are equal."""
    made = {task: image_problem(task) for task in dict.fromkeys(tasks.values())}
    return {run: made[task] for run, task in tasks.items()}


def _with_absolute_paths[C: TaskConfig](config: C) -> C:
    """Other commands may be called from elsewhere."""
    if not config.data_dir:  # an empty one is refused where the data are loaded
        return config
    return replace(config, data_dir=str(Path(config.data_dir).expanduser().absolute()))

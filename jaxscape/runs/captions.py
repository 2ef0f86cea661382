"""Captions of figures: the networks of a run, the accuracy of its minimum, and how its copies were retrained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxscape.runs.config import (
    CompareConfig,
    CompareSettings,
    JointSettings,
    RecordSettings,
    RetrainConfig,
    RetrainSettings,
    TrainConfig,
)
from jaxscape.runs.folder import JOINT, RunFolder
from jaxscape.runs.minimum import describe_accuracy, read_accuracy
from jaxscape.runs.sources import run_names
from jaxscape.tasks.description import describe_images

_PERCENT = "\N{NO-BREAK SPACE}%"


def title(run: Path) -> str:
    """Return the title of a figure of a run."""
    run = RunFolder(run)
    settings = run.settings(run.kind.stage)
    if isinstance(settings, JointSettings):
        return f"{len(settings.runs)} runs"
    if isinstance(settings, CompareSettings):
        return f"{len(settings.seeds)} initial parameters"
    if isinstance(settings, RecordSettings):
        return str(describe(run).get("name", run.name))
    minimum_settings, _ = read_accuracy(run)
    if isinstance(minimum_settings, TrainConfig):
        return str(minimum_settings.preset)
    return str(describe(run).get("name", run.name))


def titles(runs: Sequence[Path]) -> list[str]:
    """Return the titles of runs in one figure; if titles repeat, the folder names, and if these repeat, the paths."""
    found = [title(run) for run in runs]
    return found if len(set(found)) == len(found) else run_names([RunFolder(run) for run in runs])


def about(run: Path) -> str:
    """Return the accuracy of a run's minimum, or the optimisers of its networks, as a caption; "" for other runs."""
    run = RunFolder(run)
    settings = run.settings(run.kind.stage)
    if isinstance(settings, CompareSettings):
        return f"trained by {', '.join(settings.optimizers)}"
    if not run.kind.has_minimum:
        return ""
    _, metrics = read_accuracy(run)
    if {"train_accuracy", "test_accuracy"} <= metrics.keys():
        training, test = (100 * metrics[f"{part}_accuracy"] for part in ("train", "test"))
        return f"{training:.1f}{_PERCENT} training, {test:.1f}{_PERCENT} test accuracy"
    return describe_accuracy(metrics)


def data(runs: Sequence[Path], *, with_training: bool = True) -> str:
    """Return the data, network and training of runs as a caption, as far as the runs agree on them.

    Args:
        runs: the run folders.
        with_training: whether the picture shows their trajectories, so that their training belongs to it.
    """
    folders = [RunFolder(run) for run in runs]
    described = [describe(run) for run in folders]
    names = [name for name in dict.fromkeys(name for each in described for name in each) if name != "name"]
    words = [_word(name, [each[name] for each in described if name in each]) for name in _first(names)]
    training = _training([run.settings(run.kind.stage) for run in folders]) if with_training else ""
    return "; ".join(filter(None, (", ".join(words), training)))


def describe(run: RunFolder) -> dict[str, Any]:
    """Return the description of a run's networks: name of a property -> its value."""
    if run.kind is JOINT:
        runs = [RunFolder(each) for each in run.settings(JOINT.stage).runs]
        return {"data": data(runs)}
    problem = run.read_config().get("problem")
    if problem is not None:
        return dict(problem.get("describe", {}))
    settings = run.settings(run.kind.before[0] if run.kind.before else run.kind.stage)
    if isinstance(settings, CompareConfig):
        settings = settings.of_one(settings.optimizers[0], settings.seeds[0])
    if settings is None:
        return {}
    return describe_images(settings)  # the record has no description of the built-in problem


def _first(names: Sequence[str]) -> list[str]:
    """Return the names with "data" and "model" first, which are shown without their names."""
    return sorted(names, key=lambda name: _UNNAMED.index(name) if name in _UNNAMED else len(_UNNAMED))


_UNNAMED = ("data", "model")


def _word(name: str, values: Sequence[Any]) -> str:
    distinct = list(dict.fromkeys(map(str, values)))
    if name == "data":
        return " and ".join(distinct)
    return distinct[0] if name in _UNNAMED else f"{name.replace('_', ' ')} {' or '.join(distinct)}"


def _training(settings: Sequence[Any]) -> str:
    first = settings[0]
    if len(set(map(type, settings))) > 1:
        return ""
    if isinstance(first, CompareSettings):
        rate = f" from learning rate {first.learning_rate:g}" if isinstance(first, CompareConfig) else ""
        return f"{first.epochs} epochs{rate}"
    if not isinstance(first, RetrainSettings):
        return ""
    words = f"retrained {_either(settings, 'epochs')} epochs"
    if not isinstance(first, RetrainConfig):
        return words
    return (
        f"{words} with {first.optimizer}, learning rate {_either(settings, 'learning_rate')}, "
        f"weight decay {_either(settings, 'weight_decay')}"
    )


def _either(settings: Sequence[Any], name: str) -> str:
    return " or ".join(dict.fromkeys(f"{getattr(each, name):g}" for each in settings))

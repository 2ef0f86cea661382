"""What the experiments share: their scales, their command line, their plan, and the way from minima to pictures.

    --scale smoke   seconds, for tests: nothing can be seen in it
    --scale quick   the digits of scikit-learn, minutes on 2 cores
    --scale real    Fashion-MNIST (a part of it: a patient CPU; a GPU takes all with --set train.train_size=None)
    --scale paper   CIFAR-10 and CIFAR-100, WRN-28-2, the paper's protocol

Every setting of a stage can be overridden: --set train.epochs=100 retrain.learning_rate=0.01 compare.steps=4
"""

import argparse
import ast
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxscape.app.config import (
    CompareConfig,
    EmbedConfig,
    RetrainConfig,
    TrainConfig,
    compare_preset,
    retrain_preset,
    train_preset,
)
from jaxscape.app.embed import embed_trajectories
from jaxscape.app.measure import measure
from jaxscape.app.plan import plan_run
from jaxscape.app.progress import make_console
from jaxscape.app.recording import read_trajectories
from jaxscape.app.retrain import retrain_copies
from jaxscape.app.train import find_minima, read_accuracy

# The paper's formula, and what its authors' code computes: cosines between directions from the mean.
SETTINGS = (EmbedConfig(center="none"), EmbedConfig(center="mean"))
CONTROL = EmbedConfig(center="none", null="rotated")


@dataclass(frozen=True)
class Scale:
    """Data sets, sizes and seeds of a scale; what is not named is the preset's."""

    dataset: str
    harder: str  # the second data set of Fig. 5
    seeds: tuple[int, ...]  # of the minima: independent ones, none of them used when the protocol was chosen
    train: Mapping[str, Any] = field(default_factory=dict)
    retrain: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)
    harder_seeds: tuple[int, ...] = (10, 11, 12)
    harder_train: Mapping[str, Any] = field(default_factory=dict)
    harder_retrain: Mapping[str, Any] = field(default_factory=dict)


_FEW = {"seeds": (0, 1), "step_sizes": (0.5, 1.0)}
_TINY = {"train_size": 50, "batch_size": 25, "epochs": 3, "decay_epochs": (2,)}
SCALES = {
    "smoke": Scale(
        dataset="digits",
        harder="digits+pairs",
        seeds=(10, 11),
        train=_TINY,
        retrain={"epochs": 3, "eval_size": 50, **_FEW},
        compare=_TINY | {"seeds": (10, 11), "eval_size": 50},
        harder_seeds=(10, 11),
        harder_train=_TINY | {"train_size": 100},
        harder_retrain={"epochs": 3, "eval_size": 50, **_FEW},
    ),
    "quick": Scale(
        dataset="digits",
        harder="digits+pairs",
        seeds=(10, 11, 12, 13, 14),
        compare={"seeds": (10, 11, 12, 13, 14)},
        # Four pairs of each of the 100 classes; three directions and 30 epochs in place of five and 50.
        harder_train={"train_size": 400},
        harder_retrain={"seeds": (0, 1, 2), "epochs": 30},
    ),
    "real": Scale(
        dataset="fashion_mnist",
        harder="fashion_mnist+pairs",
        seeds=(10, 11, 12),
        train={"protocol": "digits", "train_size": 1000, "batch_size": 50, "epochs": 200, "decay_epochs": (150,)},
        retrain={"epochs": 30, "learning_rate": 0.05, "eval_size": 500},
        compare={
            "seeds": (10, 11, 12, 13, 14),
            "train_size": 1000,
            "batch_size": 50,
            "epochs": 60,
            "decay_epochs": (45,),
            "eval_size": 500,
        },
        harder_train={"train_size": 1000},
        harder_retrain={"seeds": (0, 1, 2)},
    ),
    "paper": Scale(dataset="cifar10", harder="cifar100", seeds=(10, 11, 12), compare={"seeds": (10, 11, 12, 13, 14)}),
}


@dataclass(frozen=True)
class Experiment:
    """A scale with the folder of its runs and what the command line changes; its methods are the stages."""

    name: str
    scale: Scale
    folder: Path
    changes: Mapping[str, Mapping[str, Any]]  # stage -> setting -> value
    console: Console

    def minima(self, kinds: Sequence[str], *, seeds: Iterable[int] | None = None) -> dict[Path, TrainConfig]:
        """Run folders of independent minima of each kind, and how each is found."""
        found = {}
        for kind in kinds:
            for seed in self.scale.seeds if seeds is None else seeds:
                made = self._train(kind, self.scale.dataset, seed, self.scale.train)
                found[self.folder / f"{kind}-{seed}"] = made
        return found

    def harder_minima(self, kinds: Sequence[str]) -> dict[Path, TrainConfig]:
        """The same of the harder data set; good ones are augmented by rotations and changes of colour too."""
        found = {}
        for kind in kinds:
            for seed in self.scale.harder_seeds:
                made = self._train(kind, self.scale.harder, seed, {**self.scale.train, **self.scale.harder_train})
                if kind == "good":
                    made = replace(made, augmentation=f"{made.augmentation}+rotate+color")
                found[self.folder / f"harder-{kind}-{seed}"] = made
        return found

    def retraining(self, config: TrainConfig, **settings: Any) -> RetrainConfig:
        """How the copies of a minimum are retrained."""
        harder = self.scale.harder_retrain if config.dataset == self.scale.harder else {}
        made = {**self.scale.retrain, **harder, **settings, **self.changes.get("retrain", {})}
        return replace(retrain_preset(config), **made)

    def comparison(self) -> CompareConfig:
        """How networks are trained side by side."""
        protocol = self.scale.train.get("protocol")
        made = {**self.scale.compare, **self.changes.get("compare", {})}
        return replace(compare_preset(protocol=protocol, dataset=self.scale.dataset), **made)

    def run(self, minima: Mapping[Path, TrainConfig], *, pictures: Iterable[Path] = ()) -> None:
        """From nothing to the numbers of every run, and to the embeddings of some; what is there is not made again."""
        started = time.monotonic()
        retraining = {run: self.retraining(config) for run, config in minima.items()}
        self.plan(minima, retraining)
        find_minima(minima, console=self.console)
        retrain_copies(retraining, console=self.console)
        for run in minima:
            measure(run, console=self.console)
        for run in pictures:
            for setting in (*SETTINGS, CONTROL):
                embed_trajectories(run, setting, console=self.console)
        self.console.print(f"Runs done in {(time.monotonic() - started) / 60:.1f} min.")

    def plan(self, minima: Mapping[Path, TrainConfig], retraining: Mapping[Path, RetrainConfig]) -> None:
        """Print what is still to do and what it will take, from a few measured steps of each kind of work."""
        seconds, disk, counts = 0.0, 0, {"minima": 0, "retrainings": 0}
        known: dict[Any, Any] = {}
        for run, config in minima.items():
            without, unmade = not _has_minimum(run), not _has_trajectories(run)
            counts["minima"] += without
            counts["retrainings"] += unmade
            if not unmade:
                continue
            kind = (replace(config, seed=0), replace(retraining[run], order_seed=0), without)
            if kind not in known:
                known[kind] = plan_run(run, config, retraining[run], console=self.console)
            seconds += known[kind].seconds
            disk += sum(known[kind].disk.values())
        self.console.print(
            f"{self.name}: {counts['minima']} minima to find, {counts['retrainings']} retrainings; about "
            f"{seconds / 60:.1f} min and {disk / 1e9:.2f} GB in {self.folder}. The same command goes on where it stops."
        )

    def _train(self, kind: str, dataset: str, seed: int, settings: Mapping[str, Any]) -> TrainConfig:
        protocol = settings.get("protocol")
        made = {**settings, **self.changes.get("train", {})}
        return replace(train_preset(kind, protocol=protocol, dataset=dataset, seed=seed), **made)


def parse_command(description: str, name: str) -> Experiment:
    """The experiment that the command line asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="quick", help="see experiments/common.py")
    parser.add_argument("--folder", type=Path, help="of the runs; runs/SCALE by default, shared by the experiments")
    parser.add_argument("--set", nargs="*", default=[], metavar="STAGE.SETTING=VALUE", help="train, retrain, compare")
    options = parser.parse_args()
    try:
        changes = parse_changes(options.set)
    except ValueError as error:
        parser.error(str(error))
    folder = options.folder or Path("runs") / options.scale
    return Experiment(name, SCALES[options.scale], folder, changes, make_console())


def parse_changes(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Settings by stage from words such as "train.epochs=100".

    Raises:
        ValueError: for another form, an unknown stage or setting (lists the known ones).
    """
    stages = {"train": TrainConfig, "retrain": RetrainConfig, "compare": CompareConfig}
    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        stage, dot, setting = name.partition(".")
        if not (equals and dot) or stage not in stages:
            raise ValueError(f"--set takes STAGE.SETTING=VALUE with a stage of {', '.join(stages)}, got {word!r}")
        known = [each.name for each in fields(stages[stage])]
        if setting not in known:
            raise ValueError(f"unknown setting {setting!r} of {stage}; known: {', '.join(known)}")
        changes.setdefault(stage, {})[setting] = _value(value)
    return changes


def _value(word: str) -> Any:
    """A number, None or a tuple as Python writes it; else the word itself."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _has_minimum(run: Path) -> bool:
    try:
        read_accuracy(run)
    except FileNotFoundError:
        return False
    return True


def _has_trajectories(run: Path) -> bool:
    try:
        read_trajectories(run)
    except FileNotFoundError:
        return False
    return True

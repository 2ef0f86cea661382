"""What the experiments share: their scales, their command line, their plan, and the way from minima to pictures.

    --scale smoke   seconds, for tests: nothing can be seen in it
    --scale quick   the digits of scikit-learn, minutes on 2 cores
    --scale real    Fashion-MNIST (a part of it: a patient CPU; a GPU takes all with --set train.train_size=None)
    --scale fashion Fashion-MNIST padded to 32x32, WRN-28-2, the paper's protocol, for a GPU without CIFAR
    --scale paper   CIFAR-10 and CIFAR-100, WRN-28-2, the paper's protocol

Every setting of a stage, and of the scale, can be overridden:

    --set train.epochs=100 retrain.learning_rate=0.01 compare.steps=4 embed.knn=10 scale.seeds=10,11,12
"""

import argparse
import ast
import statistics
import sys
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxscape import Run
from jaxscape.cli.main import run_script
from jaxscape.runs.config import (
    CompareConfig,
    EmbedConfig,
    RetrainConfig,
    TrainConfig,
    compare_preset,
    retrain_preset,
    train_preset,
)
from jaxscape.runs.environment import environment
from jaxscape.runs.images import image_comparison, image_plan, image_retrainings, image_trainings
from jaxscape.runs.plan import Plan, has_minimum, plan_comparison, plan_run
from jaxscape.runs.progress import make_console
from jaxscape.runs.recorded import read_trajectories
from jaxscape.runs.retrain import retrain_copies
from jaxscape.runs.train import copy_minimum, find_minima

Again = dict[Path, tuple[Path, RetrainConfig]]  # run folder -> the folder of its minimum, how its copies are retrained
Record = dict[str, Any]


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
    sweep_seeds: tuple[int, ...] = (10, 11, 12)
    sweep_retrain: Mapping[str, Any] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = (0.1, 0.01, 0.001)  # of the sweep
    noises: tuple[float, ...] = (0.0, 0.3, 1.0, 2.0, 4.0, 6.0)  # of the trees of Fig. 1
    trees: int = 10  # of each noise
    tree_points: int = 60  # on each branch
    landscape: Mapping[str, Any] = field(default_factory=dict)  # points, line_points, steps and epochs of landscapes.py


_FEW = {"seeds": (0, 1), "step_sizes": (0.5, 1.0), "epochs": 3, "eval_size": 50, "strategy": "loop"}
_TINY = {"train_size": 50, "batch_size": 25, "epochs": 3, "decay_epochs": (2,)}
SCALES = {
    "smoke": Scale(
        dataset="digits",
        harder="digits+pairs",
        seeds=(10, 11),
        train=_TINY,
        retrain=_FEW,
        compare=_TINY | {"seeds": (10, 11), "eval_size": 50, "strategy": "loop"},
        landscape={"points": 3, "line_points": 3, "steps": 6, "epochs": 1},
        harder_seeds=(10, 11),
        harder_train=_TINY | {"train_size": 100, "batch_size": 50},  # one of each class
        harder_retrain=_FEW,
        sweep_seeds=(10, 11),
        learning_rates=(0.1,),
        noises=(1.0,),
        trees=1,
        tree_points=10,
    ),
    "quick": Scale(
        dataset="digits",
        harder="digits+pairs",
        seeds=(10, 11, 12, 13, 14),
        compare={"seeds": (10, 11, 12, 13, 14)},
        # Four pairs of each of the 100 classes; three directions and 30 epochs in place of five and 50.
        harder_train={"train_size": 400},
        harder_retrain={"seeds": (0, 1, 2), "epochs": 30},
        # Two of the four step sizes and 30 of 50 epochs in 54 runs; the ablation of weight decay is whole.
        sweep_retrain={"step_sizes": (0.5, 1.0), "epochs": 30},
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
        sweep_retrain={"step_sizes": (0.5, 1.0), "epochs": 20},
    ),
    "fashion": Scale(
        dataset="fashion_mnist+padded",
        harder="fashion_mnist+pairs",
        seeds=(10, 11, 12),
        compare={"seeds": (10, 11, 12, 13, 14)},
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
    with_plan: bool = True

    @property
    def settings(self) -> tuple[EmbedConfig, ...]:
        """The paper's formula, and what its authors' code computes: cosines between directions from the mean."""
        return self.embedding(center="none"), self.embedding(center="mean")

    @property
    def control(self) -> EmbedConfig:
        """Null trajectories by the paper's formula."""
        return self.embedding(center="none", null="rotated")

    def embedding(self, **settings: Any) -> EmbedConfig:
        """An embedding by PHATE with these settings, and what the command line changes of the others."""
        return EmbedConfig(**{"method": "phate", **self.changes.get("embed", {}), **settings})

    def run_of(self, kind: str, seed: int) -> Path:
        """The folder of a minimum of the first data set."""
        return self.folder / f"{kind}-{seed}"

    def open(self, run: Path) -> Run:
        """A run folder, which prints where the experiment does."""
        return Run(run, console=self.console)

    def minima(self, kinds: Sequence[str], *, seeds: Iterable[int] | None = None) -> dict[Path, TrainConfig]:
        """Run folders of independent minima of each kind, and how each is found."""
        return {
            self.run_of(kind, seed): self._train(kind, self.scale.dataset, seed, self.scale.train)
            for kind in kinds
            for seed in (self.scale.seeds if seeds is None else seeds)
        }

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

    def run(
        self,
        minima: Mapping[Path, TrainConfig],
        *,
        pictures: Iterable[Path] = (),
        again: Again | None = None,
        more_seconds: float = 0.0,
    ) -> None:
        """From nothing to the numbers of every run, and to the embeddings of some; what is there is not made again.

        Args:
            minima: run folders, and how the minimum of each is found.
            pictures: those to embed.
            again: run folders that get the minimum of one of the others, and retrain its copies in another way.
            more_seconds: what the script does with the runs, for the plan.
        """
        started = time.monotonic()
        again = again or {}
        configs = {**minima, **{run: minima[source] for run, (source, _) in again.items()}}
        retraining = {run: self.retraining(config) for run, config in minima.items()}
        retraining |= {run: config for run, (_, config) in again.items()}
        self.plan(configs, retraining, found=again, more_seconds=more_seconds)
        find_minima(image_trainings(minima), console=self.console)
        for run, (source, _) in again.items():
            copy_minimum(source, run)
        alike: dict[Any, dict[Path, RetrainConfig]] = {}
        for run, config in retraining.items():  # the states of all copies at once would be too many
            key = replace(configs[run], seed=0), replace(config, order_seed=0, data_order="member")
            alike.setdefault(key, {})[run] = config
        for group in alike.values():
            retrain_copies(image_retrainings(group), console=self.console)
        for run in retraining:
            self.open(run).measured()
        for run in pictures:
            for setting in (*self.settings, self.control):
                self.open(run).embed(**vars(setting))
        self.console.print(f"Runs done in {(time.monotonic() - started) / 60:.1f} min.")

    def plan(
        self,
        minima: Mapping[Path, TrainConfig],
        retraining: Mapping[Path, RetrainConfig],
        *,
        found: Container[Path] = (),
        more_seconds: float = 0.0,
    ) -> None:
        """Print what is still to do and what it will take, from a few measured steps of each kind of work.

        Args:
            minima: run folders, and how the minimum of each is found.
            retraining: the same folders, and how its copies are retrained.
            found: those whose minimum is the one of another.
            more_seconds: what comes after, of which no folder tells whether it is done.
        """
        if not self.with_plan:
            return
        seconds, disk, counts = more_seconds, 0, {"minima": 0, "retrainings": 0}
        known: dict[Any, Plan] = {}
        for run, config in minima.items():
            without, unmade = run not in found and not has_minimum(run), not _has_trajectories(run)
            counts["minima"] += without
            counts["retrainings"] += unmade
            if not unmade:
                continue
            # A step of another learning rate, weight decay or batch order takes as long.
            alike = replace(retraining[run], order_seed=0, learning_rate=1.0, weight_decay=1.0, data_order="member")
            kind = (replace(config, seed=0), alike, without)
            if kind not in known:
                known[kind] = plan_run(run, *image_plan(config, retraining[run]), console=self.console)
            stages = [stage for stage in known[kind].stages if without or stage.name != "train"]
            seconds += sum(stage.seconds + stage.compile_seconds for stage in stages)
            disk += sum(known[kind].disk.values())
        self._print_plan(f"{counts['minima']} minima to find, {counts['retrainings']} retrainings", seconds, disk)

    def plan_comparison(self, run: Path) -> None:
        """The same for networks that are trained side by side."""
        if not self.with_plan:
            return
        config, seconds, disk = self.comparison(), 0.0, 0
        networks = len(config.seeds) * len(config.optimizers)
        if _has_trajectories(run):
            networks = 0
        else:
            plan = plan_comparison(run, image_comparison(config), console=self.console)
            seconds, disk = plan.seconds, sum(plan.disk.values())
        self._print_plan(f"{networks} networks to train", seconds, disk)

    def _print_plan(self, work: str, seconds: float, disk: int) -> None:
        self.console.print(
            f"{self.name}: {work}; about {seconds / 60:.1f} min and {disk / 1e9:.2f} GB in {self.folder}. "
            "The same command goes on where it stops."
        )

    def _train(self, kind: str, dataset: str, seed: int, settings: Mapping[str, Any]) -> TrainConfig:
        protocol = settings.get("protocol")
        made = {**settings, **self.changes.get("train", {})}
        return replace(train_preset(kind, protocol=protocol, dataset=dataset, seed=seed), **made)


def provenance() -> str:
    """What wrote a page: command, commit, device."""
    record = environment()
    command = " ".join(["python", *sys.argv])
    return f"Written by `{command}`, never by hand; commit {record['commit']}, {record['device']}."


def select(records: Iterable[Record], **asked: Any) -> list[Record]:
    """Those that have these values."""
    return [record for record in records if all(record[name] == value for name, value in asked.items())]


def mean_and_spread(records: list[Record], name: str, digits: int = 2) -> str:
    """A value over minima, in words."""
    values = [record[name] for record in records]
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def start(main: Callable[[Experiment], None], description: str, name: str) -> None:
    """Run an experiment as its command line asks for it."""
    run_script(name, lambda: main(parse_command(description, name)))


def parse_command(description: str, name: str) -> Experiment:
    """The experiment that the command line asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="quick", help="see experiments/common.py")
    parser.add_argument("--folder", type=Path, help="of the runs; runs/SCALE by default, shared by the experiments")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="STAGE.SETTING=VALUE",
        help="any setting of train, retrain, compare, embed or scale",
    )
    parser.add_argument(
        "--no-plan", action="store_true", help="begin at once: on a GPU what the plan measures takes minutes to compile"
    )
    options = parser.parse_args()
    try:
        changes = parse_changes(options.set)
    except ValueError as error:
        parser.error(str(error))
    folder = options.folder or Path("runs") / options.scale
    scale = replace(SCALES[options.scale], **changes.get("scale", {}))
    return Experiment(name, scale, folder, changes, make_console(), with_plan=not options.no_plan)


def parse_changes(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Settings by stage from words such as "train.epochs=100".

    Raises:
        ValueError: for another form, an unknown stage or setting (lists the known ones), or no number where one is
            needed.
    """
    stages = {
        "train": TrainConfig,
        "retrain": RetrainConfig,
        "compare": CompareConfig,
        "embed": EmbedConfig,
        "scale": Scale,
    }
    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        stage, dot, setting = name.partition(".")
        if not (equals and dot) or stage not in stages:
            raise ValueError(f"--set takes STAGE.SETTING=VALUE with a stage of {', '.join(stages)}, got {word!r}")
        kinds = {each.name: each.type for each in fields(stages[stage])}
        if setting not in kinds:
            raise ValueError(f"unknown setting {setting!r} of {stage}; known: {', '.join(kinds)}")
        found = _value(value)
        if kinds[setting] in (int, float) and not isinstance(found, int | kinds[setting]):  # type: ignore[operator]
            raise ValueError(f"{name} must be {kinds[setting].__name__}, got {value!r}")  # type: ignore[union-attr]
        several = "tuple[" in str(kinds[setting]) and not isinstance(found, tuple)
        changes.setdefault(stage, {})[setting] = (found,) if several else found
    return changes


def _value(word: str) -> Any:
    """A number, None or a tuple as Python writes it; else the word itself."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _has_trajectories(run: Path) -> bool:
    try:
        read_trajectories(run)
    except FileNotFoundError:
        return False
    return True

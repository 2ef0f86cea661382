"""Code shared by the experiments: scales, command line, plan, and the steps from minima to figures.

    --scale smoke   seconds; only for tests
    --scale quick   the digits of scikit-learn; minutes on 2 cores
    --scale real    a subset of Fashion-MNIST; hours on a CPU. For all of it, on a GPU: --set train.train_size=None
    --scale fashion Fashion-MNIST padded to 32x32, WRN-28-2, the paper's protocol; for a GPU without CIFAR
    --scale paper   CIFAR-10 and CIFAR-100, WRN-28-2, the paper's protocol

Every setting of a stage and of the scale can be overridden:

    --set train.epochs=100 retrain.learning_rate=0.01 compare.steps=4 embed.knn=10 scale.seeds=10,11,12
"""

import argparse
import ast
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
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
from jaxscape.runs.folder import write_json
from jaxscape.runs.images import image_comparison, image_plan, image_retrainings, image_trainings
from jaxscape.runs.plan import Plan, has_minimum, plan_comparison, plan_run
from jaxscape.runs.progress import make_console
from jaxscape.runs.recorded import read_trajectories
from jaxscape.runs.retrain import retrain_copies
from jaxscape.runs.train import copy_minimum, find_minima

# run folder -> the run folder whose minimum it copies, and the settings of its retraining
Again = dict[Path, tuple[Path, RetrainConfig]]
Record = dict[str, Any]

ROOT = Path(__file__).parents[1]  # of the repository


@dataclass(frozen=True)
class Scale:
    """Data sets, sizes and seeds of a scale; other settings are those of the preset."""

    dataset: str
    harder: str  # the second data set, for Fig. 5
    seeds: tuple[int, ...]  # of independent minima; none of them was used when the protocol was chosen
    train: Mapping[str, Any] = field(default_factory=dict)
    retrain: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, Any] = field(default_factory=dict)
    harder_seeds: tuple[int, ...] = (10, 11, 12)
    harder_train: Mapping[str, Any] = field(default_factory=dict)
    harder_retrain: Mapping[str, Any] = field(default_factory=dict)
    sweep_seeds: tuple[int, ...] = (10, 11, 12)
    sweep_retrain: Mapping[str, Any] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = (0.1, 0.01, 0.001)  # of the sweep
    valley_seeds: tuple[int, ...] = (20, 21, 22, 23, 24)  # of minima with training images of their own
    valley_directions: int = 3  # jump directions of each of these minima
    valley_retrain: Mapping[str, Any] = field(default_factory=lambda: {"step_sizes": (0.5, 1.0)})
    claims_seeds: tuple[int, ...] = (60, 61, 62, 63, 64)  # of the minima that decide the claims; used for nothing else
    claims_directions: int = 3  # jump directions of each of these minima
    claims_retrain: Mapping[str, Any] = field(default_factory=dict)
    path_seeds: tuple[int, ...] = (30, 31, 32, 33, 34)  # of optimizers.py, each with training images of its own
    path_compare: Mapping[str, Any] = field(default_factory=dict)  # settings of its runs, beside those of `compare`
    path_loss: float = 0.5  # training loss at which its optimisers are compared
    paperlike_seed: int = 70  # of the two minima of paperlike.py
    paperlike_directions: int = 5
    paperlike_train: Mapping[str, Any] = field(default_factory=dict)
    paperlike_retrain: Mapping[str, Any] = field(
        default_factory=lambda: {"step_sizes": (0.5, 1.0), "epochs": 50, "learning_rate": 0.1}
    )
    noises: tuple[float, ...] = (0.0, 0.3, 1.0, 2.0, 4.0, 6.0)  # noise levels of the trees of Fig. 1
    trees: int = 10  # number of trees per noise level
    tree_points: int = 60  # points per branch
    map_seeds: tuple[int, ...] = tuple(range(100, 110))  # of the trees of embedding_map.py
    map_points: tuple[int, ...] = (20, 10, 40)  # points per branch of these trees; claims are decided with the first
    # Other shapes of these trees: branches, points per branch, dimension.
    map_shapes: tuple[tuple[int, int, int], ...] = ((10, 20, 30), (10, 20, 300), (4, 50, 100), (20, 10, 100))
    landscape: Mapping[str, Any] = field(default_factory=dict)  # points, line_points, steps, epochs for landscapes.py


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
        harder_train=_TINY | {"train_size": 100, "batch_size": 50},  # one example per class
        harder_retrain=_FEW,
        sweep_seeds=(10, 11),
        learning_rates=(0.1,),
        valley_seeds=(20, 21),
        valley_directions=2,
        claims_seeds=(10, 11),
        claims_directions=2,
        claims_retrain={"step_sizes": (0.25, 1.0)},
        paperlike_directions=2,
        paperlike_retrain={"learning_rate": 0.1},
        path_seeds=(30, 31),
        path_compare={"train_size": 50},
        path_loss=20.0,  # after 6 updates nothing has been learned
        noises=(1.0,),
        trees=1,
        tree_points=10,
        map_seeds=(0, 1),
        map_points=(6,),
        map_shapes=(),
    ),
    "quick": Scale(
        dataset="digits",
        harder="digits+pairs",
        seeds=(10, 11, 12, 13, 14),
        claims_seeds=tuple(range(50, 60)),
        compare={"seeds": (10, 11, 12, 13, 14)},
        # Four pairs for each of the 100 classes; three directions and 30 epochs instead of five and 50.
        harder_train={"train_size": 400},
        harder_retrain={"seeds": (0, 1, 2), "epochs": 30},
        # Two of four step sizes and 30 of 50 epochs in 54 runs; the ablation of weight decay is not reduced.
        sweep_retrain={"step_sizes": (0.5, 1.0), "epochs": 30},
        # Every update is recorded: 10 GB would be needed for the 100 epochs of `compare`.
        path_compare={"epochs": 25, "decay_epochs": ()},
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
        # 39 updates an epoch: with ten times the paper's weight decay, the exponent of the decay is the paper's.
        paperlike_train={"train_size": 5000, "batch_size": 128, "epochs": 100, "decay_epochs": (75,)},
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
    """A scale, the folder of its runs and the changes of the command line; its methods are the stages."""

    name: str
    scale: Scale
    folder: Path
    changes: Mapping[str, Mapping[str, Any]]  # stage -> setting -> value
    console: Console
    with_plan: bool = True
    scale_name: str = "custom"
    publish: bool = False  # whether to write the results into docs/ and benchmarks/results/, too

    @property
    def settings(self) -> tuple[EmbedConfig, ...]:
        """Embeddings by the paper's formula, and by its authors' code: cosines between displacements from the mean."""
        return self.embedding(center="none"), self.embedding(center="mean")

    @property
    def control(self) -> EmbedConfig:
        """The embedding of null trajectories by the paper's formula."""
        return self.embedding(center="none", null="rotated")

    def embedding(self, **settings: Any) -> EmbedConfig:
        """Return an embedding by PHATE with these settings; other settings may be changed by the command line."""
        return EmbedConfig(**{"method": "phate", **self.changes.get("embed", {}), **settings})

    def run_of(self, kind: str, seed: int) -> Path:
        """Return the folder of a minimum of the first data set."""
        return self.folder / f"{kind}-{seed}"

    def open(self, run: Path) -> Run:
        """Open a run folder that prints to the console of the experiment."""
        return Run(run, console=self.console)

    def minima(
        self, kinds: Sequence[str], *, seeds: Iterable[int] | None = None, **settings: Any
    ) -> dict[Path, TrainConfig]:
        """Return the run folders of independent minima of each kind, with their training settings."""
        return {
            self.run_of(kind, seed): self._train(kind, self.scale.dataset, seed, {**self.scale.train, **settings})
            for kind in kinds
            for seed in (self.scale.seeds if seeds is None else seeds)
        }

    def harder_minima(self, kinds: Sequence[str]) -> dict[Path, TrainConfig]:
        """Return the minima of the harder data set; good ones are also augmented by rotations and colour changes."""
        minima = {}
        for kind in kinds:
            for seed in self.scale.harder_seeds:
                config = self._train(kind, self.scale.harder, seed, {**self.scale.train, **self.scale.harder_train})
                if kind == "good":
                    config = replace(config, augmentation=f"{config.augmentation}+rotate+color")
                minima[self.folder / f"harder-{kind}-{seed}"] = config
        return minima

    def retraining(self, config: TrainConfig, **settings: Any) -> RetrainConfig:
        """Return the settings with which the copies of a minimum are retrained."""
        harder = self.scale.harder_retrain if config.dataset == self.scale.harder else {}
        changed = {**self.scale.retrain, **harder, **settings, **self.changes.get("retrain", {})}
        return replace(retrain_preset(config), **changed)

    def comparison(self) -> CompareConfig:
        """Return the settings of the comparison of optimisers."""
        protocol = self.scale.train.get("protocol")
        changed = {**self.scale.compare, **self.changes.get("compare", {})}
        return replace(compare_preset(protocol=protocol, dataset=self.scale.dataset), **changed)

    def run(
        self,
        minima: Mapping[Path, TrainConfig],
        *,
        pictures: Iterable[Path] = (),
        again: Again | None = None,
        retrain_minima: bool = True,
        more_seconds: float = 0.0,
    ) -> None:
        """Train, retrain and measure all runs, and embed some of them; existing results are kept.

        Args:
            minima: run folders with the training settings of their minima.
            pictures: the run folders to embed.
            again: further run folders that copy the minimum of one of these and retrain it with other settings.
            retrain_minima: whether the copies of the minima are retrained in their own run folders, too.
            more_seconds: time that the script needs afterwards, for the plan.
        """
        started = time.monotonic()
        again = again or {}
        configs = {**minima, **{run: minima[source] for run, (source, _) in again.items()}}
        retraining = {run: self.retraining(config) for run, config in minima.items() if retrain_minima}
        retraining |= {run: config for run, (_, config) in again.items()}
        self.plan(configs, retraining, copied=again, more_seconds=more_seconds)
        find_minima(image_trainings(minima), console=self.console)
        for run, (source, _) in again.items():
            copy_minimum(source, run)
        groups: dict[Any, dict[Path, RetrainConfig]] = {}
        for (
            run,
            config,
        ) in retraining.items():  # runs with equal settings together; all at once would need too much memory
            key = replace(configs[run], seed=0), replace(config, order_seed=0, data_order="member")
            groups.setdefault(key, {})[run] = config
        for group in groups.values():
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
        copied: Container[Path] = (),
        more_seconds: float = 0.0,
    ) -> None:
        """Print the remaining work and an estimate of its time and disk space, from a few measured steps of each kind.

        Args:
            minima: run folders with the training settings of their minima.
            retraining: those folders whose copies are retrained, with the settings of their retraining.
            copied: the folders whose minimum is copied from another folder.
            more_seconds: time needed after the runs, whether or not that work is already done.
        """
        if not self.with_plan:
            return
        seconds, disk, counts = more_seconds, 0, {"minima": 0, "retrainings": 0}
        known: dict[Any, Plan] = {}
        for run, config in minima.items():
            needs_minimum = run not in copied and not has_minimum(run)
            needs_retraining = run in retraining and not _has_trajectories(run)
            counts["minima"] += needs_minimum
            counts["retrainings"] += needs_retraining
            if not needs_minimum and not needs_retraining:
                continue
            settings = retraining.get(run) or self.retraining(config)
            kind = (_timed(config), _timed(settings), needs_minimum)
            if kind not in known:
                known[kind] = plan_run(run, *image_plan(config, settings), console=self.console)
            for stage in known[kind].stages:
                if needs_minimum if stage.name == "train" else needs_retraining:
                    seconds += stage.seconds + stage.compile_seconds
            disk += sum(size for name, size in known[kind].disk.items() if needs_retraining or name == "minimum")
        self._print_plan(f"{counts['minima']} minima to find, {counts['retrainings']} retrainings", seconds, disk)

    def plan_comparison(self, run: Path) -> None:
        """Print the plan of a comparison of optimisers."""
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
            "If it is interrupted, the same command resumes it."
        )

    def _train(self, kind: str, dataset: str, seed: int, settings: Mapping[str, Any]) -> TrainConfig:
        protocol = settings.get("protocol")
        changed = {**settings, **self.changes.get("train", {})}
        return replace(train_preset(kind, protocol=protocol, dataset=dataset, seed=seed), **changed)


def with_own_images[C: (TrainConfig, CompareConfig)](config: C, seed: int) -> C:
    """Return the settings with training images drawn by a seed; of all images there is nothing to draw."""
    return config if config.train_size is None else replace(config, images_seed=seed)


def about_runs(minimum: TrainConfig, config: RetrainConfig) -> Record:
    """Return what the record of an experiment says of its command, its machine, and the settings of its runs."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "dataset": minimum.dataset,
        "train_size": minimum.train_size,
        "copies": config.num_copies - config.num_controls,
        "controls": config.num_controls,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
    }


def rounded(value: Any) -> Any:
    """Return numbers with six significant digits; NaN is None, as in the file."""
    numbers = np.asarray(value, float)
    if numbers.ndim:
        return [rounded(each) for each in numbers]
    return float(f"{numbers:.6g}") if np.isfinite(numbers) else None


def publish(name: str, record: Record, figures: Mapping[str, Iterable[Path]]) -> None:
    """Write numbers into benchmarks/results/, and the PNG among the files of each figure into docs/."""
    write_json(ROOT / "benchmarks" / "results" / f"{name}.json", record)
    for figure, files in figures.items():
        shutil.copy(next(path for path in files if path.suffix == ".png"), ROOT / "docs" / f"{figure}.png")


def provenance() -> str:
    """Return a sentence that names the command, commit and device that generated a page."""
    record = environment()
    command = " ".join(["python", *sys.argv])
    return f"Generated by `{command}`, not written by hand; commit {record['commit']}, {record['device']}."


def select(records: Iterable[Record], **values: Any) -> list[Record]:
    """Return the records that have these values."""
    return [record for record in records if all(record[name] == value for name, value in values.items())]


def mean_and_spread(records: list[Record], name: str, digits: int = 2) -> str:
    """Return the mean and standard deviation of a value over minima, as text."""
    values = [record[name] for record in records]
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def start(main: Callable[[Experiment], None], description: str, name: str) -> None:
    """Run an experiment with the settings of its command line."""
    run_script(name, lambda: main(parse_command(description, name)))


def parse_command(description: str, name: str) -> Experiment:
    """Parse the command line of an experiment."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="quick", help="see experiments/common.py")
    parser.add_argument(
        "--folder", type=Path, help="folder of the runs, shared by the experiments; runs/SCALE by default"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="STAGE.SETTING=VALUE",
        help="any setting of train, retrain, compare, embed or scale",
    )
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="start without a plan, whose measurements take minutes to compile on a GPU",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="also write page, figure and numbers into docs/ and benchmarks/results/",
    )
    options = parser.parse_args()
    try:
        changes = parse_changes(options.set)
    except ValueError as error:
        parser.error(str(error))
    folder = options.folder or Path("runs") / options.scale
    scale = replace(SCALES[options.scale], **changes.get("scale", {}))
    return Experiment(
        name,
        scale,
        folder,
        changes,
        make_console(),
        with_plan=not options.no_plan,
        scale_name=options.scale,
        publish=options.publish,
    )


def parse_changes(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Parse words such as "train.epochs=100" into settings by stage.

    Raises:
        ValueError: for another form, an unknown stage or setting (lists the known ones), or a value that is not a
            number if one is needed.
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
        parsed = _value(value)
        if kinds[setting] in (int, float) and not isinstance(parsed, int | kinds[setting]):  # type: ignore[operator]
            raise ValueError(f"{name} must be {kinds[setting].__name__}, got {value!r}")  # type: ignore[union-attr]
        needs_tuple = "tuple[" in str(kinds[setting]) and not isinstance(parsed, tuple)
        changes.setdefault(stage, {})[setting] = (parsed,) if needs_tuple else parsed
    return changes


def _value(word: str) -> Any:
    """Return a Python literal (a number, None or a tuple), or else the word itself."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _timed[C: (TrainConfig, RetrainConfig)](config: C) -> C:
    """Return the settings without those on which the time of a step does not depend."""
    if isinstance(config, TrainConfig):
        return replace(config, seed=0, images_seed=None)
    seeds = tuple(range(len(config.seeds)))
    return replace(config, seeds=seeds, order_seed=0, learning_rate=1.0, weight_decay=1.0, data_order="member")


def _has_trajectories(run: Path) -> bool:
    try:
        read_trajectories(run)
    except FileNotFoundError:
        return False
    return True

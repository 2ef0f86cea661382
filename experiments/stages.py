"""The stages of an experiment, from minima to figures, with a plan and settings that follow from its scale."""

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from scales import Scale

from jaxscape import Run
from jaxscape.runs.config import (
    CompareConfig,
    EmbedConfig,
    RetrainConfig,
    TrainConfig,
    compare_preset,
    retrain_preset,
    train_preset,
)
from jaxscape.runs.images import image_comparison, image_plan, image_retrainings, image_trainings
from jaxscape.runs.plan import Plan, has_minimum, plan_comparison, plan_run
from jaxscape.runs.recorded import read_trajectories
from jaxscape.runs.retrain import retrain_copies
from jaxscape.runs.train import copy_minimum, find_minima

# run folder -> the run folder whose minimum it copies, and the settings of its retraining
Again = dict[Path, tuple[Path, RetrainConfig]]

_FILES = ("data_dir", "data_unchecked")  # settings of the files of a data set


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
        """Return the settings of the comparison of optimisers; its files are those of the trainings."""
        protocol = self.scale.train.get("protocol")
        files = {name: value for name, value in self.changes.get("train", {}).items() if name in _FILES}
        changed = {**self.scale.compare, **files, **self.changes.get("compare", {})}
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

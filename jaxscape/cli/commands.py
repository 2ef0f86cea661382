"""The commands and their options: records, from which tyro makes the command line.

A command's options are the fields of its stage's settings. A command of a problem of the user's own (`--problem`) has
the settings of any problem, the others have those of the built-in one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, Union

import tyro

from jaxscape.runs.config import (
    CompareConfig,
    CompareSettings,
    EmbedConfig,
    RetrainConfig,
    RetrainSettings,
    TrainConfig,
    TrainSettings,
)
from jaxscape.runs.landscape_config import CurvatureConfig, PathConfig, SurfaceConfig
from jaxscape.runs.processes import Cluster

SeveralRuns = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
OneRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class Demo:
    """The main job on real digits, in minutes: three minima, 20 retrained copies each, pictures and numbers."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("jaxscape-demo")
    """Where the three run folders and the figures go."""
    seed: int = 0
    """Of the minima and of the retraining."""


@dataclass(frozen=True)
class Own:
    """What the networks learn, instead of images."""

    problem: str | None = None
    """A problem of your own: package.module:function, which gives a jaxscape.Problem. With it the settings of images
    do not exist; `--problem NAME --help` lists those that do. A run folder remembers it."""
    problem_args: tuple[str, ...] = ()
    """Arguments of that function: key=value."""


@dataclass(frozen=True)
class Train:
    """Train a network to a minimum."""

    runs: SeveralRuns
    """The run folder: a new one, or one to go on with. Several are trained together: they differ in their seed alone,
    which counts on from --seed."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class TrainOwn(Train):
    """Train a network of a problem of your own to a minimum."""

    config: tyro.conf.OmitArgPrefixes[TrainSettings] = field(default_factory=TrainSettings)  # type: ignore[assignment]


@dataclass(frozen=True)
class Retrain:
    """Perturb copies of the minimum, retrain them all, and measure where they go."""

    runs: SeveralRuns
    """A run folder with a minimum, or several: copies that take the same steps are retrained all together."""
    seeds: int | None = None
    """Jump along that many directions, with the seeds 0, 1, ...; 5 by default."""
    seed_list: tuple[int, ...] | None = None
    """Jump along the directions of these seeds instead."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[RetrainConfig] = field(default_factory=RetrainConfig)
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = field(default_factory=Cluster)


@dataclass(frozen=True)
class RetrainOwn(Retrain):
    """Perturb copies of the minimum of a problem of your own, retrain them all, and measure where they go."""

    config: tyro.conf.OmitArgPrefixes[RetrainSettings] = field(default_factory=RetrainSettings)  # type: ignore[assignment]


@dataclass(frozen=True)
class Compare:
    """Train networks side by side, by several optimisers from shared initial parameters, and keep their paths."""

    run: OneRun
    """The run folder: a new one, or one to go on with."""
    seeds: int | None = None
    """That many initial parameters, with the seeds 0, 1, ...; 5 by default."""
    seed_list: tuple[int, ...] | None = None
    """Initial parameters of these seeds instead."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[CompareConfig] = field(default_factory=CompareConfig)


@dataclass(frozen=True)
class CompareOwn(Compare):
    """Train networks of a problem of your own side by side, by several of its optimisers."""

    config: tyro.conf.OmitArgPrefixes[CompareSettings] = field(default_factory=CompareSettings)  # type: ignore[assignment]


@dataclass(frozen=True)
class Plan:
    """Say what a run will take, in time, device memory and disk, from a few measured steps; nothing is started."""

    run: OneRun
    """The run folder; it need not be there."""
    devices: int | None = None
    """Plan for that many devices of this kind, instead of those of this machine."""
    seeds: int | None = None
    """As in `retrain`."""
    seed_list: tuple[int, ...] | None = None
    """As in `retrain`."""
    landscape: tuple[Literal["surface", "curvature", "path"], ...] = ("surface", "curvature")
    """Measurements of the landscape to plan too, those after the retraining; none without a name. A path takes as long
    to any minimum of the same network."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    train: TrainConfig = field(default_factory=TrainConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)
    path: PathConfig = field(default_factory=PathConfig)


@dataclass(frozen=True)
class PlanOwn(Plan):
    """Say what a run of a problem of your own will take, from a few measured steps; nothing is started."""

    train: TrainSettings = field(default_factory=TrainSettings)  # type: ignore[assignment]
    retrain: RetrainSettings = field(default_factory=RetrainSettings)  # type: ignore[assignment]


@dataclass(frozen=True)
class Import:
    """Take in a finished training of your own: its parameters, checkpoint by checkpoint."""

    run: OneRun
    """The run folder: a new one, or one to go on with."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Checkpoints: orbax folders, .npz, .safetensors, PyTorch's .pt and .pth, or folders that hold any of these. The
    last integer in a name is the number of the step. Several trainings are told apart as NAME=SOURCE: each becomes the
    run RUN/NAME, and RUN joins them."""
    label: tuple[str, ...] = ()
    """What the training is: seed=0 optimizer=adam, say."""
    describe: tuple[str, ...] = ()
    """What captions say of it: model=GPT-2 data=OpenWebText, say."""
    key: str | None = None
    """Where the parameters stand in each file: model, state/params."""
    include: tuple[str, ...] = ()
    """Patterns of the arrays to read; all by default."""
    exclude: tuple[str, ...] = ()
    """Patterns of arrays to leave out."""


@dataclass(frozen=True)
class Embed:
    """Embed the trajectories of a run, or of several together; each setting is kept beside the others."""

    runs: SeveralRuns
    """A run folder with finished trajectories, or several with --into."""
    into: Path | None = None
    """The run folder of several runs together: one distance matrix, one picture."""
    group: str = "run"
    """With --into: the label that gives the colours: run, or one that the members have, such as optimizer."""
    plot: bool = False
    """Draw it too, as `jaxscape plot` does."""
    config: tyro.conf.OmitArgPrefixes[EmbedConfig] = field(default_factory=EmbedConfig)


@dataclass(frozen=True)
class Surface:
    """Evaluate the loss on a plane or a line of a run, and draw it."""

    run: OneRun
    """A run folder with a minimum, or with finished trajectories."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[SurfaceConfig] = field(default_factory=SurfaceConfig)


@dataclass(frozen=True)
class PathCommand:
    """Measure the straight line between two minima, train a curve of low loss, and draw both."""

    run: OneRun
    """A run folder with a minimum, which keeps the result."""
    other: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OTHER")]
    """Another one, of a network with the same parameters."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[PathConfig] = field(default_factory=PathConfig)


@dataclass(frozen=True)
class Curvature:
    """Measure the largest eigenvalues, the trace and the spectrum of the loss at a minimum, and draw it."""

    run: OneRun
    """A run folder with a minimum."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[CurvatureConfig] = field(default_factory=CurvatureConfig)


@dataclass(frozen=True)
class Plot:
    """Draw a run: views in which every position is exact, every embedding, and its distances from the minimum."""

    run: OneRun
    """A run folder with embeddings."""
    scale_free: bool = False
    """Draw the exact views of scale-free distances too: every filter rescaled to the norm of the minimum's."""


@dataclass(frozen=True)
class Report:
    """Write a page to explore one run, or several side by side: one HTML file, which needs no network."""

    runs: SeveralRuns
    """A run folder with finished trajectories, or several."""
    out: Path | None = None
    """The file; by default report.html in the run folder, of several runs beside the folder of the first one."""


@dataclass(frozen=True)
class Info:
    """Say what a run folder holds."""

    run: OneRun
    """A run folder."""


class Settings(NamedTuple):
    """The settings of every stage: those that options begin with, or what a line asks of a run."""

    train: TrainSettings
    retrain: RetrainSettings
    compare: CompareSettings
    own: Own = Own()

    @classmethod
    def of_any(cls, own: Own) -> Self:
        """Return those of any problem."""
        return cls(TrainSettings(), RetrainSettings(), CompareSettings(), own)

    @classmethod
    def of_images(cls) -> Self:
        """Return those of the built-in problem."""
        return cls(TrainConfig(), RetrainConfig(), CompareConfig())

    @property
    def is_own(self) -> bool:
        """Whether they are those of a problem of the user's own."""
        return not isinstance(self.train, TrainConfig)


def read(arguments: list[str], defaults: Settings) -> Any:
    """Read a command line, with these defaults.

    Raises:
        SystemExit: for `--help`, and for what is no command line.
    """
    train, retrain, compare, own = defaults
    kinds: list[Any] = (
        [TrainOwn, RetrainOwn, CompareOwn, PlanOwn] if defaults.is_own else [Train, Retrain, Compare, Plan]
    )
    make_train, make_retrain, make_compare, make_plan = kinds
    commands: list[Any] = [
        Demo(),
        make_plan(run=tyro.MISSING, own=own, train=train, retrain=retrain),
        make_train(runs=tyro.MISSING, own=own, config=train),
        make_retrain(runs=tyro.MISSING, own=own, config=retrain),
        make_compare(run=tyro.MISSING, own=own, config=compare),
        Import(run=tyro.MISSING, sources=tyro.MISSING),
        Embed(runs=tyro.MISSING),
        Surface(run=tyro.MISSING),
        PathCommand(run=tyro.MISSING, other=tyro.MISSING),
        Curvature(run=tyro.MISSING),
        Plot(run=tyro.MISSING),
        Report(runs=tyro.MISSING),
        Info(run=tyro.MISSING),
    ]
    annotated = [
        Annotated[type(default), tyro.conf.subcommand(name_of(default), default=default)] for default in commands
    ]
    command: Any = Union[tuple(annotated)]  # noqa: UP007  # made at run time
    return tyro.cli(
        command,
        args=arguments,
        prog="jaxscape",
        description=(
            "Loss landscapes as training meets them: jump away from a minimum, retrain, look where copies go. "
            "`jaxscape --version` prints the version."
        ),
    )


def name_of(command: Any) -> str:
    """Return the word that a command begins with."""
    return type(command).__name__.removesuffix("Own").removesuffix("Command").lower()

"""The commands and their options, as records from which tyro builds the command line.

The options of a command are the fields of its stage's settings. With `--problem` a command has the settings that every
problem has; without it, it has the settings of the built-in problem.
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
    """Run the whole experiment on real digits in minutes: three minima, 20 retrained copies each, figures, numbers."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("jaxscape-demo")
    """Folder for the three run folders and the figures."""
    seed: int = 0
    """Seed of the minima and of the retraining."""


@dataclass(frozen=True)
class Own:
    """A problem of the user's own, in place of the built-in image classification."""

    problem: str | None = None
    """A problem of your own, as package.module:function; the function returns a jaxscape.Problem. The settings of image
    classification are then not available; `--problem NAME --help` lists those that are. The run folder records it."""
    problem_args: tuple[str, ...] = ()
    """Arguments of that function, as key=value."""


@dataclass(frozen=True)
class Train:
    """Train a network to a minimum."""

    runs: SeveralRuns
    """The run folder: a new one, or one to resume. Several are trained together and differ only in their seeds, which
    count up from --seed."""
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
    """A run folder with a minimum, or several; copies that take the same number of steps are retrained together."""
    seeds: int | None = None
    """Number of directions to jump along, with the seeds 0, 1, ...; 5 by default."""
    seed_list: tuple[int, ...] | None = None
    """Seeds of the directions to jump along, instead of --seeds."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[RetrainConfig] = field(default_factory=RetrainConfig)
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = field(default_factory=Cluster)


@dataclass(frozen=True)
class RetrainOwn(Retrain):
    """Perturb copies of the minimum of a problem of your own, retrain them all, and measure where they go."""

    config: tyro.conf.OmitArgPrefixes[RetrainSettings] = field(default_factory=RetrainSettings)  # type: ignore[assignment]


@dataclass(frozen=True)
class Compare:
    """Train networks with several optimisers from shared initial parameters, and record their trajectories."""

    run: OneRun
    """The run folder: a new one, or one to resume."""
    seeds: int | None = None
    """Number of initial parameters, with the seeds 0, 1, ...; 5 by default."""
    seed_list: tuple[int, ...] | None = None
    """Seeds of the initial parameters, instead of --seeds."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[CompareConfig] = field(default_factory=CompareConfig)


@dataclass(frozen=True)
class CompareOwn(Compare):
    """Train networks of a problem of your own with several of its optimisers, and record their trajectories."""

    config: tyro.conf.OmitArgPrefixes[CompareSettings] = field(default_factory=CompareSettings)  # type: ignore[assignment]


@dataclass(frozen=True)
class Plan:
    """Estimate the time, device memory and disk space of a run from a few measured steps; the run is not started."""

    run: OneRun
    """The run folder; it need not exist."""
    devices: int | None = None
    """Number of devices of this kind to plan for, instead of those of this machine."""
    seeds: int | None = None
    """Number of directions; see `retrain`."""
    seed_list: tuple[int, ...] | None = None
    """Seeds of the directions; see `retrain`."""
    landscape: tuple[Literal["surface", "curvature", "path"], ...] = ("surface", "curvature")
    """Measurements of the landscape to plan as well, after the retraining; without a name, none. A path takes equally
    long to every minimum of the same network."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    train: TrainConfig = field(default_factory=TrainConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)
    path: PathConfig = field(default_factory=PathConfig)


@dataclass(frozen=True)
class PlanOwn(Plan):
    """Estimate what a run of a problem of your own takes, from a few measured steps; the run is not started."""

    train: TrainSettings = field(default_factory=TrainSettings)  # type: ignore[assignment]
    retrain: RetrainSettings = field(default_factory=RetrainSettings)  # type: ignore[assignment]


@dataclass(frozen=True)
class Import:
    """Import the checkpoints of a finished training of your own."""

    run: OneRun
    """The run folder: a new one, or one to resume."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Checkpoints: orbax folders, .npz, .safetensors, PyTorch's .pt and .pth, or folders that contain any of these. The
    last integer in a name is the step. Several trainings are given as NAME=SOURCE: each becomes the run RUN/NAME, and
    RUN joins them."""
    label: tuple[str, ...] = ()
    """Labels of the training, such as seed=0 optimizer=adam."""
    describe: tuple[str, ...] = ()
    """Descriptions of the training for captions, such as model=GPT-2 data=OpenWebText."""
    key: str | None = None
    """Path of the parameters within each file, such as model or state/params."""
    include: tuple[str, ...] = ()
    """Patterns of the arrays to read; all by default."""
    exclude: tuple[str, ...] = ()
    """Patterns of arrays to leave out."""


@dataclass(frozen=True)
class Embed:
    """Embed the trajectories of a run, or of several runs together; the result of each setting is kept."""

    runs: SeveralRuns
    """A run folder with finished trajectories, or several with --into."""
    into: Path | None = None
    """Run folder that joins several runs: one distance matrix, one picture."""
    group: str = "run"
    """With --into: the label that determines the colours, which is run or a label of the members such as optimizer."""
    plot: bool = False
    """Draw the result too, like `jaxscape plot`."""
    config: tyro.conf.OmitArgPrefixes[EmbedConfig] = field(default_factory=EmbedConfig)


@dataclass(frozen=True)
class Surface:
    """Evaluate the loss on a plane or a line through a run, and draw it."""

    run: OneRun
    """A run folder with a minimum, or with finished trajectories."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[SurfaceConfig] = field(default_factory=SurfaceConfig)


@dataclass(frozen=True)
class PathCommand:
    """Measure the straight line between two minima, train a curve of low loss, and draw both."""

    run: OneRun
    """A run folder with a minimum, to which the result is written."""
    other: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OTHER")]
    """Another run folder with a minimum, of a network with the same parameter shapes."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[PathConfig] = field(default_factory=PathConfig)


@dataclass(frozen=True)
class Curvature:
    """Compute the largest eigenvalues, the trace and the spectral density of the Hessian at a minimum, and draw it."""

    run: OneRun
    """A run folder with a minimum."""
    own: tyro.conf.OmitArgPrefixes[Own] = field(default_factory=Own)
    config: tyro.conf.OmitArgPrefixes[CurvatureConfig] = field(default_factory=CurvatureConfig)


@dataclass(frozen=True)
class Plot:
    """Draw a run: the views with exact positions, every embedding, and the distances from the minimum."""

    run: OneRun
    """A run folder with embeddings."""
    scale_free: bool = False
    """Draw the exact views of the scale-free distances too, with every filter rescaled to the minimum's norm."""


@dataclass(frozen=True)
class Report:
    """Write an interactive page about one run, or several side by side: one HTML file that works offline."""

    runs: SeveralRuns
    """A run folder with finished trajectories, or several."""
    out: Path | None = None
    """The file to write; by default report.html in the run folder, or next to the first run folder for several runs."""


@dataclass(frozen=True)
class Info:
    """Show what a run folder contains."""

    run: OneRun
    """A run folder."""


class Settings(NamedTuple):
    """The settings of every stage: the defaults of the options, or the settings that a command line gives a run."""

    train: TrainSettings
    retrain: RetrainSettings
    compare: CompareSettings
    own: Own = Own()

    @classmethod
    def for_any_problem(cls, own: Own) -> Self:
        """Return the default settings that every problem has."""
        return cls(TrainSettings(), RetrainSettings(), CompareSettings(), own)

    @classmethod
    def for_images(cls) -> Self:
        """Return the default settings of the built-in problem."""
        return cls(TrainConfig(), RetrainConfig(), CompareConfig())

    @property
    def is_own(self) -> bool:
        """Return whether these are the settings of a problem of the user's own."""
        return not isinstance(self.train, TrainConfig)


def read(arguments: list[str], defaults: Settings) -> Any:
    """Parse a command line with these defaults.

    Raises:
        SystemExit: for `--help`, or if the command line is invalid.
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
    command: Any = Union[tuple(annotated)]  # noqa: UP007  # built at run time
    return tyro.cli(
        command,
        args=arguments,
        prog="jaxscape",
        description=(
            "Loss landscapes as training meets them: perturb a minimum, retrain the copies, see where they go. "
            "`jaxscape --version` prints the version."
        ),
    )


def name_of(command: Any) -> str:
    """Return the name of a command as it is written on the command line."""
    return type(command).__name__.removesuffix("Own").removesuffix("Command").lower()

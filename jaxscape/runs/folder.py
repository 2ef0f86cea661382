"""A run folder: the paths of its files, and the records of settings and results.

config.json     sections "train", "retrain", "compare" or "record" (settings of these stages), "problem" (description of
                the user's own problem), "strategy" (execution strategy of the copies; "train_strategy": that of minima
                trained together on a GPU), "snapshots" (their number after the first, if it does not follow from the
                settings), "steps_per_epoch", "timings" (seconds per stage, summed over all calls) and "environment"
                (versions, device, commit)
checksums.json  checksums of the tables (`jaxscape.runs.tables`)
minimum/  trajectories/  resume/  metrics.csv  gram.npz  geometry.csv  embeddings/  report.json  report.html  figures/
surfaces/  paths/  curvature/   measurements of the landscape, one folder each (`jaxscape.runs.kept`)
scale_free.csv  only if requested; the entry "scale_free" of config.json identifies the trajectories that it is from
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxscape.runs.checks import check_compare, check_retrain, check_train
from jaxscape.runs.config import (
    CompareConfig,
    CompareSettings,
    JointSettings,
    MinimumSettings,
    RecordSettings,
    RetrainConfig,
    RetrainSettings,
    TrainConfig,
    from_record,
)
from jaxscape.runs.environment import environment
from jaxscape.runs.processes import is_first
from jaxscape.trajectories.files import is_sealed, read_record, replacing, to_json, write_record

# Stage -> classes of its settings: for the user's own problem, and for the built-in one.
STAGES: dict[str, tuple[type, type]] = {
    "train": (MinimumSettings, TrainConfig),
    "retrain": (RetrainSettings, RetrainConfig),
    "compare": (CompareSettings, CompareConfig),
    "record": (RecordSettings, RecordSettings),
    "joint": (JointSettings, JointSettings),
}

_CHECKS: dict[str, Callable[[Any], None]] = {
    "train": check_train,
    "retrain": check_retrain,
    "compare": check_compare,
}

# Settings that older versions did not have, with the values that reproduce what those versions did.
_BEFORE: dict[str, dict[str, Any]] = {
    "train": {"images_seed": None},
    "retrain": {"controls": 0},
    "compare": {"images_seed": None},
}

# Settings that locate and check the data files: they do not change the results.
_DATA_LOCATION = ("data_dir", "data_unchecked")


class Kind(NamedTuple):
    """A kind of run, by the stage that makes its trajectories."""

    stage: str  # the stage that makes the trajectories: a command, and a section of config.json
    before: tuple[str, ...]  # the stages that it requires
    unit: str  # name of the snapshots, in messages
    has_minimum: bool  # whether the trajectories start around a minimum
    begin: Literal["jump", "initial", "first"]  # the first point of a trajectory


RETRAINED = Kind("retrain", ("train",), "epochs of retraining", has_minimum=True, begin="jump")
COMPARED = Kind("compare", (), "snapshots", has_minimum=False, begin="initial")
RECORDED = Kind("record", (), "steps", has_minimum=False, begin="first")
JOINT = Kind("joint", (), "runs", has_minimum=False, begin="first")


class RunFolder(Path):
    """The path of a run folder, with the paths and records inside it."""

    def with_segments(self, *segments: Any) -> Path:  # type: ignore[override]  # paths inside a run folder are plain paths
        """Return joined paths as a plain path, not a `RunFolder`."""
        return Path(*segments)

    @property
    def config(self) -> Path:
        """The record of the settings."""
        return self / "config.json"

    @property
    def checksums(self) -> Path:
        """The checksums of the tables."""
        return self / "checksums.json"

    @property
    def minimum(self) -> Path:
        """The folder of the minimum and its training states."""
        return self / "minimum"

    @property
    def parameters(self) -> Path:
        """The checkpoint of the minimum's parameters."""
        return self.minimum / "parameters"

    @property
    def accuracy(self) -> Path:
        """The metrics of the minimum; written last, so that their presence marks it as complete."""
        return self.minimum / "metrics.json"

    @property
    def trajectories(self) -> Path:
        """The trajectory store."""
        return self / "trajectories"

    @property
    def index(self) -> Path:
        """The index of the store: its labels and arrays; it exists if the store does."""
        return self.trajectories / "store.json"  # `INDEX` is defined in a module that imports jax; this one must not

    @property
    def resume(self) -> Path:
        """The folder of the newest training state."""
        return self / "resume"

    @property
    def metrics(self) -> Path:
        """The table of metrics: one row per member and epoch."""
        return self / "metrics.csv"

    @property
    def gram(self) -> Path:
        """The Gram matrix: inner products of the increments."""
        return self / "gram.npz"

    @property
    def geometry(self) -> Path:
        """The table of distances and angles: one row per member and epoch."""
        return self / "geometry.csv"

    @property
    def scale_free(self) -> Path:
        """The table of scale-free distances and angles, one row per member and epoch.

        Before they are measured, every filter is rescaled to the norm of the minimum's filter.
        """
        return self / "scale_free.csv"

    @property
    def embeddings(self) -> Path:
        """The embeddings, one folder per combination of settings."""
        return self / "embeddings"

    @property
    def surfaces(self) -> Path:
        """The loss along lines and planes, one folder per combination of settings."""
        return self / "surfaces"

    @property
    def paths(self) -> Path:
        """The paths to other minima, one folder each."""
        return self / "paths"

    @property
    def curvature(self) -> Path:
        """The spectra, one folder per combination of settings."""
        return self / "curvature"

    @property
    def report(self) -> Path:
        """The statistics of the run."""
        return self / "report.json"

    @property
    def page(self) -> Path:
        """The HTML page of the run."""
        return self / "report.html"

    @property
    def figures(self) -> Path:
        """The figures."""
        return self / "figures"

    def read_config(self) -> dict[str, Any]:
        """Read the record of the settings; {} if there is none yet.

        Raises:
            ValueError: if the file is damaged.
        """
        return read_record(self.config) if self.config.exists() else {}

    def settings(self, stage: str) -> Any:
        """Read the settings of a stage; None if the record has none.

        Settings that an earlier version did not have get the values that reproduce what it did.

        Raises:
            ValueError: if the record is damaged, or was written by a later version.
        """
        record = self.read_config()
        if stage not in record:
            return None
        for_own, built_in = STAGES[stage]
        cls, entries = for_own if "problem" in record else built_in, record[stage]
        if isinstance(entries, dict):
            names = {field.name for field in fields(cls)}
            entries = {name: value for name, value in _BEFORE.get(stage, {}).items() if name in names} | entries
        try:
            settings: Any = from_record(cls, entries)
            # Settings in a sealed record were checked before they were written; edited ones may be invalid.
            if stage in _CHECKS and not getattr(settings, "given", None) and not is_sealed(self.config):
                _CHECKS[stage](settings)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.config}, section {stage!r}: {error}") from None
        return settings

    @property
    def kind(self) -> Kind:
        """The kind of the run."""
        record = self.read_config()
        return next((kind for kind in (COMPARED, RECORDED, JOINT) if kind.stage in record), RETRAINED)

    @property
    def command(self) -> str:
        """The command that makes the run's trajectories, in words."""
        kind = self.kind
        if kind is RECORDED:
            return f"the training that is recorded in {self}"
        if kind is JOINT:
            runs = self.settings(kind.stage).runs
            return f"`jaxscape embed {' '.join(runs)} --into {self}`"
        return f"`jaxscape {kind.stage} {self}`"

    def require_record(self) -> None:
        """Raise an error if the folder holds results but no record of how they were made.

        Raises:
            FileNotFoundError: names the record.
        """
        results = [path.name for path in (self.minimum, self.trajectories, self.embeddings) if path.exists()]
        if results and not self.config.exists():
            raise FileNotFoundError(
                f"{self.config} is missing, which records how {', '.join(results)} in {self} were made; restore it, "
                "or choose another run folder"
            )

    def number(self, name: str) -> int:
        """Read a positive integer from the record.

        Raises:
            ValueError: if it is missing or invalid.
        """
        value = self.read_config().get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{self.config} is damaged: {name} must be a whole number of at least 1, got {value!r}")
        return value

    def strategy(self, *, stage: str = "retrain") -> str | None:
        """Read the execution strategy of a stage; None if none was chosen yet.

        Raises:
            ValueError: if the record is damaged.
        """
        name = _strategy_section(stage)
        record = self.read_config().get(name, {})
        if not isinstance(record, dict) or not isinstance(record.get("chosen", ""), str):
            raise ValueError(
                f'{self.config}, section {name!r}: must hold the name of a strategy as "chosen", got {record!r}'
            )
        return record.get("chosen")

    def timings(self) -> dict[str, float]:
        """Read the seconds that each stage has taken; {} if none are recorded."""
        timings = self.read_config().get("timings")
        return timings if isinstance(timings, dict) else {}

    def record_settings(self, stage: str, settings: Any, *, results: Sequence[str]) -> None:
        """Write the settings of a stage; raise an error if existing results were made with other settings.

        More epochs extend a stage, unless later results already depend on its end.

        Args:
            stage: "train", "retrain" or "compare".
            settings: the settings of the stage.
            results: names in the run folder: the results of this stage, then those that depend on them.

        Raises:
            ValueError: names the settings that differ and what to delete to start over.
        """
        record, recorded = self.read_config(), self.settings(stage)
        existing = [str(self / result) for result in results if (self / result).exists()]
        remedy = _remedy(existing)
        if recorded is None and existing:
            raise ValueError(
                f"{self} holds results, but its {self.config.name} does not say how they were made. {remedy}"
            )
        if recorded is not None and existing:
            before, requested = (json.loads(json.dumps(asdict(each))) for each in (recorded, settings))
            extends = len(existing) == 1 and requested.get("epochs", 0) >= before.get("epochs", 0)
            may_differ = {*_DATA_LOCATION} | ({"epochs"} if extends else set())
            differing = [key for key in requested if requested[key] != before.get(key) and key not in may_differ]
            if differing:
                changes = "; ".join(
                    "the given minimum is another one"
                    if key == "given" and before.get(key) and requested[key]
                    else f"{key} is {before.get(key)!r}, requested {requested[key]!r}"
                    for key in differing
                )
                raise ValueError(f"{self} holds results of another configuration: {changes}. {remedy}")
        if recorded != settings or not existing:  # existing results keep the versions that they were made with
            _write(self.config, record | {stage: asdict(settings), "environment": environment()})

    def check_problem(self, problem: Mapping[str, Any] | None) -> None:
        """Raise an error if existing results are of another problem.

        Args:
            problem: "describe", "version" and "parameters" (name -> dtype and shape), which must be the same at every
                call, and the origin of the problem; None for the built-in one, which the settings define.

        Raises:
            ValueError: names what differs.
        """
        results = [path for path in (self.minimum, self.trajectories) if path.exists()]
        if not results:
            return
        remedy = _remedy(map(str, results))
        recorded, own, built_in = self.read_config().get("problem"), "a problem of your own", "the built-in problem"
        if recorded is None and problem is not None:
            raise ValueError(f"{self} holds results of {built_in}, not of {own}. {remedy}")
        if recorded is not None and problem is None:
            raise ValueError(f"{self} holds results of {own}, not of {built_in}. {remedy}")
        before, requested = recorded or {}, json.loads(json.dumps(problem)) or {}
        differing = [name for name in _IDENTITY if before.get(name) != requested.get(name)]
        if differing:
            changes = "; ".join(_change(name, before.get(name), requested.get(name)) for name in differing)
            raise ValueError(f"{self} holds results of another problem: {changes}. {remedy}")

    def record_problem(self, problem: Mapping[str, Any] | None) -> None:
        """Write the description of the problem, in the form that `check_problem` takes.

        Raises:
            ValueError: if existing results are of another problem.
        """
        self.check_problem(problem)
        record, plain = self.read_config(), json.loads(json.dumps(problem))
        before = record.pop("problem", None)
        if before != plain:
            _write(self.config, record if plain is None else record | {"problem": plain})

    def record_values(self, **values: Any) -> None:
        """Add entries to the record, or replace them."""
        record = self.read_config()
        if record | values != record:
            _write(self.config, record | values)

    def record_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has taken, summed over all calls."""
        timings = self.timings()
        self.record_values(timings=timings | {stage: round(timings.get(stage, 0.0) + seconds, 3)})

    def record_strategy(self, strategy: Mapping[str, Any], *, stage: str = "retrain") -> None:
        """Write the execution strategy of a stage ("chosen"), and the measurements behind it."""
        self.record_values(**{_strategy_section(stage): strategy})

    def fingerprint(self, *, epochs: bool = True) -> str:
        """Return a hash of everything that determines the trajectories; results made from them store it.

        Args:
            epochs: whether to include the number of epochs; without it, extended trajectories keep their fingerprint.
        """
        record, kind = self.read_config(), self.kind
        settings: list[Any] = []
        if kind is JOINT:
            settings = [RunFolder(run).fingerprint(epochs=epochs) for run in self.settings(kind.stage).runs]
        for stage in (*kind.before, kind.stage):
            recorded = self.settings(stage)
            entries = {} if recorded is None else asdict(recorded)
            entries = {name: value for name, value in entries.items() if name not in _DATA_LOCATION}
            # Older versions hashed the same trajectories without the settings that they did not have.
            entries = {
                name: each for name, each in entries.items() if (name, each) not in _BEFORE.get(stage, {}).items()
            }
            settings.append(entries | {"data_dir": None})
        if not epochs:
            settings[-1].pop("epochs", None)
        if kind is RECORDED and epochs:
            settings.append(record.get("snapshots"))
        if "problem" in record:
            settings.insert(0, {name: record["problem"].get(name) for name in _IDENTITY})
        settings.append(self.strategy())
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def read_report(self, *, sealed: bool = False) -> dict[str, Any]:
        """Read the statistics; {} if there are none yet.

        Args:
            sealed: whether to require a checksum, which reports of earlier versions do not have.

        Raises:
            ValueError: if the file is damaged.
        """
        return read_record(self.report, sealed=sealed) if self.report.exists() else {}

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace the statistics."""
        _write(self.report, report)


# The entries that identify a problem of the user's own.
_IDENTITY = ("describe", "version", "parameters")


def _change(name: str, before: Any, now: Any) -> str:
    """Describe the entries in which two values differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{name} is {before!r}, requested {now!r}"
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    changes = ", ".join(f"{key} is {before.get(key)!r}, requested {now.get(key)!r}" for key in keys[:5])
    return f"in {name}, {changes}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _remedy(results: Iterable[str]) -> str:
    return f"Choose another run folder, or start over by deleting {', '.join(results)}."


def _strategy_section(stage: str) -> str:
    return "strategy" if stage == "retrain" else f"{stage}_strategy"


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a record. In a run with several processes, only the first one writes it."""
    if is_first():
        write_record(path, record)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file that jaxscape itself does not read back: it has no checksum, and NaN becomes null."""
    write_text(path, json.dumps(to_json(value), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically. In a run with several processes, only the first one writes it."""
    if is_first():
        with replacing(path) as file:
            file.write(text.encode())

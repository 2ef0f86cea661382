"""A run folder: where everything stands in it, and the records of what was asked and found.

config.json     sections "train", "retrain", "compare" or "record" (what was asked), "problem" (what the networks learn,
                where that is the user's own), "strategy" (how the copies ran together; "train_strategy": minima that
                were trained together on a GPU), "snapshots" (how many there are after the first, where that does not
                follow from the settings), "steps_per_epoch", "timings" (seconds by stage, over all calls) and
                "environment" (versions, device, commit)
checksums.json  what proves the tables whole (`jaxscape.runs.tables`)
minimum/  trajectories/  resume/  metrics.csv  gram.npz  geometry.csv  embeddings/  report.json  report.html  figures/
surfaces/  paths/  curvature/   measurements of the landscape, a folder each (`jaxscape.runs.kept`)
scale_free.csv  where it was asked for; the entry "scale_free" of config.json says of which trajectories it is
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
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

# The settings of each stage: of any problem, and of the built-in one.
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

# What older versions did, where a setting that they did not know now has another default.
_BEFORE: dict[str, dict[str, Any]] = {"retrain": {"controls": 0}}

# Settings that say where the data lie and how they are checked: they do not change what is computed.
_WHERE = ("data_dir", "data_unchecked")


class Kind(NamedTuple):
    """What the trajectories of a run folder are."""

    stage: str  # the one that makes them: a command, and a section of config.json
    before: tuple[str, ...]  # stages that it needs
    unit: str  # what is counted, in words
    has_minimum: bool  # around which the trajectories lie
    begin: Literal["jump", "initial", "first"]  # what a trajectory begins with


RETRAINED = Kind("retrain", ("train",), "epochs of retraining", has_minimum=True, begin="jump")
COMPARED = Kind("compare", (), "snapshots", has_minimum=False, begin="initial")
RECORDED = Kind("record", (), "steps", has_minimum=False, begin="first")
JOINT = Kind("joint", (), "runs", has_minimum=False, begin="first")


class RunFolder(Path):
    """The path of a run folder, with the paths and records in it."""

    def with_segments(self, *segments: Any) -> Path:  # type: ignore[override]  # what is in a run folder is none
        """Join paths to a path."""
        return Path(*segments)

    @property
    def config(self) -> Path:
        """What was asked."""
        return self / "config.json"

    @property
    def checksums(self) -> Path:
        """What proves the tables whole."""
        return self / "checksums.json"

    @property
    def minimum(self) -> Path:
        """The folder of the minimum and its training states."""
        return self / "minimum"

    @property
    def parameters(self) -> Path:
        """The minimum itself."""
        return self.minimum / "parameters"

    @property
    def accuracy(self) -> Path:
        """What was measured of the minimum; written last of all."""
        return self.minimum / "metrics.json"

    @property
    def trajectories(self) -> Path:
        """The store."""
        return self / "trajectories"

    @property
    def index(self) -> Path:
        """The labels of the store, and the arrays in it; there once the store is."""
        return self.trajectories / "store.json"  # `INDEX` of a module that imports jax, which this one does without

    @property
    def resume(self) -> Path:
        """The newest state of what is trained."""
        return self / "resume"

    @property
    def metrics(self) -> Path:
        """A row per member and epoch: losses and whatever else is measured."""
        return self / "metrics.csv"

    @property
    def gram(self) -> Path:
        """The inner products of the increments."""
        return self / "gram.npz"

    @property
    def geometry(self) -> Path:
        """A row per member and epoch: distances and angles."""
        return self / "geometry.csv"

    @property
    def scale_free(self) -> Path:
        """A row per member and epoch: distances and angles once every filter has the norm of the minimum's."""
        return self / "scale_free.csv"

    @property
    def embeddings(self) -> Path:
        """A folder per setting."""
        return self / "embeddings"

    @property
    def surfaces(self) -> Path:
        """The landscape along lines and planes, a folder per setting."""
        return self / "surfaces"

    @property
    def paths(self) -> Path:
        """Ways to other minima, a folder each."""
        return self / "paths"

    @property
    def curvature(self) -> Path:
        """Spectra, a folder per setting."""
        return self / "curvature"

    @property
    def report(self) -> Path:
        """The numbers."""
        return self / "report.json"

    @property
    def page(self) -> Path:
        """The page that shows it."""
        return self / "report.html"

    @property
    def figures(self) -> Path:
        """The pictures."""
        return self / "figures"

    def read_config(self) -> dict[str, Any]:
        """Read the record of what was asked; {} where there is none yet.

        Raises:
            ValueError: where the file is damaged.
        """
        return read_record(self.config) if self.config.exists() else {}

    def settings(self, stage: str) -> Any:
        """Read what a stage was asked to do; None where the record does not say.

        Settings that an earlier version did not know have the value that stands for what it did.

        Raises:
            ValueError: where the record is damaged, or was written by a later version.
        """
        record = self.read_config()
        if stage not in record:
            return None
        of_any, built_in = STAGES[stage]
        asked = record[stage]
        if isinstance(asked, dict):
            asked = _BEFORE.get(stage, {}) | asked
        try:
            found: Any = from_record(of_any if "problem" in record else built_in, asked)
            # What is sealed was checked before it was written; what was edited is not, and may not work.
            if stage in _CHECKS and not getattr(found, "given", None) and not is_sealed(self.config):
                _CHECKS[stage](found)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.config}, section {stage!r}: {error}") from None
        return found

    @property
    def kind(self) -> Kind:
        """What its trajectories are, or will be."""
        record = self.read_config()
        return next((kind for kind in (COMPARED, RECORDED, JOINT) if kind.stage in record), RETRAINED)

    @property
    def command(self) -> str:
        """The command that makes its trajectories."""
        kind = self.kind
        if kind is RECORDED:
            return f"the training that is recorded in {self}"
        if kind is JOINT:
            runs = self.settings(kind.stage).runs
            return f"`jaxscape embed {' '.join(runs)} --into {self}`"
        return f"`jaxscape {kind.stage} {self}`"

    def require_record(self) -> None:
        """Refuse a folder that holds results without the record of how they were made.

        Raises:
            FileNotFoundError: names the record.
        """
        results = [path.name for path in (self.minimum, self.trajectories, self.embeddings) if path.exists()]
        if results and not self.config.exists():
            raise FileNotFoundError(
                f"{self.config} is missing, which says how {', '.join(results)} in {self} were made; restore it, or "
                "choose another run folder"
            )

    def number(self, name: str) -> int:
        """Read a whole number from the record.

        Raises:
            ValueError: where it has none.
        """
        value = self.read_config().get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{self.config} is damaged: {name} must be a whole number of at least 1, got {value!r}")
        return value

    def strategy(self, *, stage: str = "retrain") -> str | None:
        """Read how the members of a stage run together; None where nothing was chosen yet.

        Raises:
            ValueError: where the record is damaged.
        """
        name = _strategy_section(stage)
        record = self.read_config().get(name, {})
        if not isinstance(record, dict) or not isinstance(record.get("chosen", ""), str):
            raise ValueError(
                f'{self.config}, section {name!r}: must hold the name of a strategy as "chosen", got {record!r}'
            )
        return record.get("chosen")

    def timings(self) -> dict[str, float]:
        """Read the seconds that each stage has taken; {} where none is recorded."""
        timings = self.read_config().get("timings")
        return timings if isinstance(timings, dict) else {}

    def record_settings(self, stage: str, settings: Any, *, results: Sequence[str]) -> None:
        """Write what a stage was asked to do; refuse where kept results were made otherwise.

        More epochs extend a stage, unless something was already made from its end.

        Args:
            stage: "train", "retrain" or "compare".
            settings: of the stage.
            results: names in the run folder: what this stage makes, then what is made from it.

        Raises:
            ValueError: names the settings that differ and what to delete to start anew.
        """
        record, made = self.read_config(), self.settings(stage)
        kept = [str(self / result) for result in results if (self / result).exists()]
        anew = f"Choose another run folder, or start anew by deleting {', '.join(kept)}."
        if made is None and kept:
            raise ValueError(
                f"{self} holds results, but its {self.config.name} does not say how they were made. {anew}"
            )
        if made is not None and kept:
            before, asked = (json.loads(json.dumps(asdict(each))) for each in (made, settings))
            extends = len(kept) == 1 and asked.get("epochs", 0) >= before.get("epochs", 0)
            free = {*_WHERE} | ({"epochs"} if extends else set())
            differing = [key for key in asked if asked[key] != before.get(key) and key not in free]
            if differing:
                changes = "; ".join(f"{key} is {before.get(key)!r}, asked for {asked[key]!r}" for key in differing)
                raise ValueError(f"{self} holds results of another configuration: {changes}. {anew}")
        if made != settings or not kept:  # results keep the versions that they were made with
            _write(self.config, record | {stage: asdict(settings), "environment": environment()})

    def check_problem(self, problem: Mapping[str, Any] | None) -> None:
        """Refuse another problem than kept results are of.

        Args:
            problem: "describe", "version" and "parameters" (name -> dtype and shape), which must be the same at every
                call, and where the problem came from; None for the built-in one, of which the settings say all.

        Raises:
            ValueError: names what differs.
        """
        results = [path for path in (self.minimum, self.trajectories) if path.exists()]
        if not results:
            return
        anew = f"Choose another run folder, or start anew by deleting {', '.join(map(str, results))}."
        made, own, built_in = self.read_config().get("problem"), "one of your own", "the built-in problem"
        if made is None and problem is not None:
            raise ValueError(f"{self} holds results of {built_in}, not of {own}. {anew}")
        if made is not None and problem is None:
            raise ValueError(f"{self} holds results of {own}, not of {built_in}. {anew}")
        before, asked = made or {}, json.loads(json.dumps(problem)) or {}
        differing = [name for name in _SAME if before.get(name) != asked.get(name)]
        if differing:
            changes = "; ".join(_change(name, before.get(name), asked.get(name)) for name in differing)
            raise ValueError(f"{self} holds results of another problem: {changes}. {anew}")

    def record_problem(self, problem: Mapping[str, Any] | None) -> None:
        """Write what the networks learn, as `check_problem` takes it.

        Raises:
            ValueError: where kept results are of another problem.
        """
        self.check_problem(problem)
        record, plain = self.read_config(), json.loads(json.dumps(problem))
        before = record.pop("problem", None)
        if before != plain:
            _write(self.config, record if plain is None else record | {"problem": plain})

    def record_values(self, **values: Any) -> None:
        """Put entries into the record, beside those that it has."""
        record = self.read_config()
        if record | values != record:
            _write(self.config, record | values)

    def record_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has taken, over all its calls."""
        timings = self.timings()
        self.record_values(timings=timings | {stage: round(timings.get(stage, 0.0) + seconds, 3)})

    def record_strategy(self, strategy: Mapping[str, Any], *, stage: str = "retrain") -> None:
        """Write how the members of a stage run together ("chosen"), and what was measured."""
        self.record_values(**{_strategy_section(stage): strategy})

    def fingerprint(self, *, epochs: bool = True) -> str:
        """Name what the trajectories follow from; what is made from them carries the name.

        Args:
            epochs: count the number of epochs of retraining; without, the name stays when trajectories are extended.
        """
        record, kind = self.read_config(), self.kind
        settings: list[Any] = []
        if kind is JOINT:
            settings = [RunFolder(run).fingerprint(epochs=epochs) for run in self.settings(kind.stage).runs]
        for stage in (*kind.before, kind.stage):
            asked = self.settings(stage)
            made = {} if asked is None else {name: value for name, value in asdict(asked).items() if name not in _WHERE}
            # Older versions named the same trajectories without the settings that they did not know.
            made = {name: value for name, value in made.items() if (name, value) not in _BEFORE.get(stage, {}).items()}
            settings.append(made | {"data_dir": None})
        if not epochs:
            settings[-1].pop("epochs", None)
        if kind is RECORDED and epochs:
            settings.append(record.get("snapshots"))
        if "problem" in record:
            settings.insert(0, {name: record["problem"].get(name) for name in _SAME})
        settings.append(self.strategy())
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def read_report(self, *, sealed: bool = False) -> dict[str, Any]:
        """Read the numbers; {} where there are none yet.

        Args:
            sealed: whether the report must prove itself by a checksum, as those of earlier versions do not.

        Raises:
            ValueError: where the file is damaged.
        """
        return read_record(self.report, sealed=sealed) if self.report.exists() else {}

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace the numbers."""
        _write(self.report, report)


# What tells one problem of the user's from another.
_SAME = ("describe", "version", "parameters")


def _change(name: str, before: Any, now: Any) -> str:
    """The entries in which two values differ, in words."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{name} is {before!r}, asked for {now!r}"
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    found = ", ".join(f"{key} is {before.get(key)!r}, asked for {now.get(key)!r}" for key in keys[:5])
    return f"in {name}, {found}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _strategy_section(stage: str) -> str:
    return "strategy" if stage == "retrain" else f"{stage}_strategy"


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a record. Of several processes the first one alone writes it."""
    if is_first():
        write_record(path, record)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file that is for readers alone, and has no checksum; NaN becomes null."""
    write_text(path, json.dumps(to_json(value), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole. Of several processes the first one alone writes it."""
    if is_first():
        with replacing(path) as file:
            file.write(text.encode())

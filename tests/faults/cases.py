"""The tiny run folder into which faults are injected: its stages, their products, and the comparison of two folders."""

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # run.py is a script, which pytest's paths do not help
from tiny_images import write_images


class Stage(NamedTuple):
    """A command, and the stage that must precede it."""

    name: str
    argv: tuple[str, ...]  # RUN stands for the run folder
    after: str | None
    products: tuple[str, ...]  # patterns of the files for which it is responsible when it reports success


_RETRAIN = ("--seeds", "2", "--step-sizes", "0.5", "1", "--strategy", "loop")
_COMPARE = ("--batch-size", "20", "--epochs", "2", "--steps", "4", "--seeds", "2", "--strategy", "loop")
_COMPARE += ("--optimizers", "sgd", "adam")
_TASK = ("--dataset", "mnist", "--data-dir", "IMAGES", "--data-unchecked", "--protocol", "digits", "--train-size", "40")

STAGES = {
    stage.name: stage
    for stage in (
        Stage("train", ("train", "RUN", *_TASK, "--batch-size", "20", "--epochs", "2"), None, ()),
        Stage("retrain", ("retrain", "RUN", *_RETRAIN, "--epochs", "2"), "train", ("*.csv", "report.json")),
        Stage("extend", ("retrain", "RUN", *_RETRAIN, "--epochs", "3"), "retrain", ("*.csv", "report.json")),
        Stage("embed", ("embed", "RUN", "--knn", "3"), "retrain", ("embeddings/*-knn3/*", "report.json")),
        Stage(
            "null",
            ("embed", "RUN", "--knn", "3", "--null", "rotated"),
            "embed",
            ("embeddings/*-rotated/*", "report.json"),
        ),
        Stage("plot", ("plot", "RUN"), "null", ("figures/*",)),
        Stage(
            "compare",
            ("compare", "RUN", *_TASK, *_COMPARE),
            None,
            ("*.csv", "report.json"),
        ),
    )
}
JOURNEY = ("train", "retrain", "embed", "null", "plot")

# Entries of records that differ between two runs, such as times and places.
_PASSING = {"timings", "environment", "sha256", "strategy", "train_strategy", "commit", "seconds", "data_dir"}


def argv(stage: str, run: Path, images: Path) -> tuple[str, ...]:
    """Return the command line of a stage on a run folder."""
    return tuple({"RUN": str(run), "IMAGES": str(images)}.get(word, word) for word in STAGES[stage].argv)


class Cases:
    """Reference run folders after each stage, made without faults, and a working folder."""

    def __init__(self, scratch: Path):
        """Use `scratch` as the folder of everything."""
        self.scratch = scratch
        self.images = write_images(scratch / "images")
        self.outputs: dict[str, str] = {}
        self.digests: dict[str, dict[str, str]] = {}
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._count = 0

    def make(self, server: Any, stages: Iterable[str]) -> None:
        """Make the references of some stages, and of the stages that they need."""
        for stage in stages:
            before = STAGES[stage].after
            if stage in self.digests:
                continue
            if before is not None:
                self.make(server, [before])
            run = self.begin(stage)
            [outcome] = server.run(self.command(stage, run))
            if outcome.code != 0:
                raise RuntimeError(f"{stage} fails without a fault, code {outcome.code}: {outcome.err}")
            self.digests[stage] = self.digest(server, run)
            self.outputs[stage] = outcome.out
            shutil.move(run, self.reference(stage))

    def reference(self, stage: str) -> Path:
        """Return the reference run folder after a stage, which is never changed."""
        folder = self.scratch / "references" / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "run"

    def begin(self, stage: str) -> Path:
        """Return a fresh run folder from which a stage can start."""
        before = STAGES[stage].after
        return self.fresh(before)

    def fresh(self, stage: str | None) -> Path:
        """Return a copy of the reference run folder after a stage, or an empty one for None."""
        with self._lock:
            self._count += 1
            folder = self.scratch / "work" / str(self._count)
        folder.mkdir(parents=True)
        run = folder / "run"
        if stage is not None:
            shutil.copytree(self.reference(stage), run)
        return run

    def done(self, run: Path) -> None:
        """Delete a folder that `fresh` made."""
        shutil.rmtree(run.parent, ignore_errors=True)

    def command(self, stage: str, run: Path, **more: Any) -> Any:
        """Return a stage as a command of the fork server."""
        from server import Command

        return Command(argv(stage, run, self.images), folder=str(run.parent), **more)

    def digest(self, server: Any, run: Path) -> dict[str, str]:
        """Return a hash of each part of a run folder; equal folders have equal digests."""
        from server import Command

        [outcome] = server.run(Command((), digest=str(run)))
        if outcome.code != 0:
            raise RuntimeError(f"digest of {run}, code {outcome.code}: {outcome.err}")
        digests: dict[str, str] = json.loads(outcome.out.splitlines()[-1])
        return digests


def differences(actual: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return the names of the entries that differ between two digests."""
    return sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))


def leftovers(run: Path) -> list[str]:
    """Return the temporary files in a run folder."""
    names = (str(path.relative_to(run)) for path in run.rglob("*"))
    return sorted(name for name in names if name.endswith(".tmp") or "orbax-checkpoint-tmp" in name)


def digest(run: Path) -> dict[str, str]:
    """Return a hash of the content of each file: parameters and arrays by value, records without times.

    For files that cannot be read it is "unreadable" and the type of the error. Temporary files, the lock and resume
    states are left out.
    """
    hashes = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        top = name.split(os.sep)[0]
        if path.is_dir() or top in ("minimum", "trajectories", "resume", ".lock", "checksums.json"):
            continue
        if not path.name.endswith(".tmp"):
            hashes[name] = _safely(_hash_file, path)
    if (run / "minimum").exists():
        hashes["minimum"] = _safely(_hash_minimum, run)
    if (run / "trajectories").exists():
        hashes["trajectories"] = _safely(_hash_trajectories, run / "trajectories")
    return hashes


def _safely(hash_it: Any, path: Path) -> str:
    try:
        return str(hash_it(path))
    except Exception as error:
        return f"unreadable: {type(error).__name__}"


def _hash_file(path: Path) -> str:
    if path.suffix == ".json":
        return _hash([json.dumps(_lasting(json.loads(path.read_text())), sort_keys=True).encode()])
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return _hash_tree(dict(arrays))
    return _hash([path.read_bytes()])


def _lasting(value: Any) -> Any:
    """Return a record without the entries that differ between runs."""
    if isinstance(value, dict):
        return {name: _lasting(entry) for name, entry in value.items() if name not in _PASSING}
    return [_lasting(entry) for entry in value] if isinstance(value, list) else value


def _hash_minimum(run: Path) -> str:
    from orbax.checkpoint import v1 as ocp

    record = json.loads(next((run / "minimum").glob("*.json")).read_text())
    return _hash_tree(ocp.load(run / "minimum" / "parameters")) + json.dumps(_lasting(record), sort_keys=True)


def _hash_trajectories(folder: Path) -> str:
    from jaxscape.trajectories.store import TrajectoryStore

    with TrajectoryStore.open(folder) as store:
        return _hash_tree(store.read()) + f" {store.num_epochs} {store.labels}"


def _hash_tree(tree: Any) -> str:
    import jax

    leaves = [
        (jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return _hash(
        part for name, leaf in leaves for part in (f"{name} {leaf.dtype} {leaf.shape}".encode(), leaf.tobytes())
    )


def _hash(parts: Iterable[bytes]) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()[:16]

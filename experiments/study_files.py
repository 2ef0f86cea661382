"""The files of a study: trained networks and their records in a run folder, and the committed numbers by network."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from study import Cell, Network, Study, initial_state

from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json
from jaxscape.tasks.data import Dataset
from jaxscape.trajectories.files import replacing

PyTree = Any


def minimum_file(folder: Path, cell: Cell) -> Path:
    """Return the file of a trained network."""
    return folder / "minima" / f"{cell.name}.npz"


def record_file(folder: Path, cell: Cell) -> Path:
    """Return the file of a network's measures."""
    return folder / "measures" / f"{cell.name}.json"


def results_file(results: Path, name: str) -> Path:
    """Return the file of the numbers by network of a study."""
    return results / f"{name}.json"


def scores_file(results: Path, name: str) -> Path:
    """Return the file of the scores of a study's measures."""
    return results / f"{name}-scores.json"


def repetition_file(results: Path, name: str) -> Path:
    """Return the file that says how far repeated networks of a study are from the committed ones."""
    return results / f"{name}-repeat.json"


def to_train(folder: Path, cell: Cell) -> bool:
    """Return whether a network has neither been trained nor measured yet; a record needs no parameters."""
    return not (minimum_file(folder, cell).exists() or record_file(folder, cell).exists())


def write_minimum(folder: Path, cell: Cell, params: PyTree, state: PyTree, record: dict[str, Any]) -> None:
    """Write the parameters, the model state and the record of a trained network."""
    leaves = jax.tree.leaves((params, state["batch_stats"]))
    with replacing(minimum_file(folder, cell)) as file:
        np.savez(file, *(np.asarray(leaf) for leaf in leaves), record=json.dumps(record))


def read_minimum(folder: Path, cell: Cell, net: Network, data: Dataset) -> tuple[PyTree, PyTree, dict[str, Any]]:
    """Return the parameters, the model state and the record of a trained network."""
    params, state = initial_state(cell, net, data)
    form = jax.tree.structure((params, state["batch_stats"]))
    with np.load(minimum_file(folder, cell)) as file:
        leaves = [jax.numpy.asarray(file[f"arr_{number}"]) for number in range(form.num_leaves)]
        record = json.loads(str(file["record"]))
    params, statistics = jax.tree.unflatten(form, leaves)
    return params, {**state, "batch_stats": statistics}, record


def read_records(folder: Path, cell_list: Iterable[Cell]) -> list[dict[str, Any]]:
    """Return the records of the measured networks among some."""
    return [json.loads(path.read_text()) for cell in cell_list if (path := record_file(folder, cell)).exists()]


def write_results(file: Path, study: Study, folder: Path, cell_list: Sequence[Cell]) -> None:
    """Write the records of the networks measured so far, with the design that they are from."""
    about = {"about": environment(), "command": sys.argv[1:], "design": design(study)}
    write_json(file, about | {"networks": read_records(folder, cell_list)})


def restore_records(file: Path, study: Study, folder: Path, cell_list: Sequence[Cell]) -> None:
    """Store the records of a results file in a folder that lacks them.

    Raises:
        ValueError: if the file is from another design.
    """
    if not file.exists():
        return
    results = json.loads(file.read_text())
    if results["design"] != design(study):
        raise ValueError(f"{file} is from another design than the study has now; move it away to start anew")
    known = {_identity(record): record for record in results["networks"]}
    for cell in cell_list:
        record = known.get((tuple(cell.levels.values()), cell.seed))
        if record is not None and not record_file(folder, cell).exists():
            write_json(record_file(folder, cell), record)


def design(study: Study) -> dict[str, Any]:
    """Return a study as JSON has it."""
    return json.loads(json.dumps(asdict(study)))


def _identity(record: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    return tuple(record["cell"].values()), record["seed"]


def write_repetition(file: Path, folder: Path, cell_list: Iterable[Cell], committed: Path) -> dict[str, Any]:
    """Compare the records of repeated networks with the committed ones; write what is found, and return it."""
    networks = json.loads(committed.read_text())["networks"]
    about = {"about": environment(), "command": sys.argv[1:]}
    found = about | compare(read_records(folder, cell_list), networks)
    write_json(file, found)
    return found


def compare(records: Sequence[dict[str, Any]], committed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many repeated networks have the committed numbers, and the largest relative difference."""
    known = {_identity(record): record for record in committed}
    largest, equal = 0.0, 0
    for record in records:
        one, other = (
            {name: value for name, value in _numbers(each) if not name.endswith("seconds")}
            for each in (record, known[_identity(record)])
        )
        apart = max(abs(one[name] - other[name]) / max(abs(other[name]), 1e-12) for name in one)
        largest = max(largest, apart)
        equal += one == other
    return {"networks": len(records), "same": equal, "largest_difference": largest}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a record with the path to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name}/{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _numbers(item, f"{name}/{number}")
    elif isinstance(value, int | float):
        yield name, float(value)

"""The results of a study: the scores of its measures, which take minutes to compute and are kept beside its numbers."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from study import STUDIES, Study, cells
from study_files import repetition_file, results_file, scores_file
from study_further import Further, further
from study_scores import STATISTICS, Confirmation, Scores, Table, audit, confirm, score, table

from jaxscape import adjusted_tau, granulated_tau
from jaxscape.runs.folder import write_json

Numbers = dict[str, Any]


class Result(NamedTuple):
    """The numbers of one study."""

    study: Study
    record: Mapping[str, Any]  # what the runs wrote
    data: Table  # the networks that reached the target
    scores: dict[str, Scores]
    further: dict[str, Further]
    confirmation: Confirmation | None
    audits: dict[str, dict[str, float]]  # granulated tau by statistic and variation of the probe
    adjusted_audits: dict[str, dict[str, float]]  # rank correlation given the hyperparameters, likewise
    all_scores: dict[str, float]  # granulated tau with the networks that did not reach the target
    repeated: Mapping[str, Any] | None  # how far repeated networks are from the record


def score_study(name: str, folder: Path) -> Path:
    """Score the numbers by network of a study, and write the scores beside them; return the file.

    Raises:
        ValueError: if the study has not run to its end.
    """
    study, file = STUDIES[name], results_file(folder, name)
    networks = json.loads(file.read_text())["networks"]
    if len(networks) < len(cells(study)):
        raise ValueError(f"{name} has {len(networks)} of {len(cells(study))} networks: run it to its end first")
    every = table(networks)
    data = every.rows(every.reached)
    scores, confirmation = score(data, test_images=study.test_images), confirm(data)
    found = {
        "sha256": _digest(file),
        "scores": {measure: each._asdict() for measure, each in scores.items()},
        "further": {measure: each._asdict() for measure, each in further(data, scores).items()},
        "confirmation": None if confirmation is None else confirmation._asdict(),
        "audits": audit(networks, every.reached),
        "adjusted_audits": audit(networks, every.reached, adjusted_tau),
        "all_scores": {
            each: granulated_tau(every.measures[each], every.gap, every.factors).value for each in STATISTICS
        },
    }
    write_json(scores_file(folder, name), _without_nan(found))
    return scores_file(folder, name)


def read_result(name: str, folder: Path) -> Result:
    """Return the numbers and scores of a study.

    Raises:
        FileNotFoundError: if it has not been scored.
        ValueError: if its scores are of other numbers.
    """
    file, scored = results_file(folder, name), scores_file(folder, name)
    if not scored.exists():
        raise FileNotFoundError(f"{name} has no scores: --study {name} --score computes them")
    found = json.loads(scored.read_text())
    if found["sha256"] != _digest(file):
        raise ValueError(f"{scored} has the scores of other numbers than {file}: --study {name} --score computes them")
    record = json.loads(file.read_text())
    every, repeated = table(record["networks"]), repetition_file(folder, name)
    confirmation = found["confirmation"]
    return Result(
        study=STUDIES[name],
        record=record,
        data=every.rows(every.reached),
        scores={measure: Scores(**each) for measure, each in found["scores"].items()},
        further={measure: Further(**each) for measure, each in found["further"].items()},
        confirmation=None if confirmation is None else Confirmation(**confirmation),
        audits=found["audits"],
        adjusted_audits=found["adjusted_audits"],
        all_scores=found["all_scores"],
        repeated=json.loads(repeated.read_text()) if repeated.exists() else None,
    )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _without_nan(value: Any) -> Any:
    """Return nested values with None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value

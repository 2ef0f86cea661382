"""The stage `embed`: coordinates from the inner products, a folder a setting."""

import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxscape.embedding.baselines import pca, phate_package, random_plane, tsne, umap
from jaxscape.embedding.fidelity import fidelity
from jaxscape.embedding.mds import mds, normalized_stress
from jaxscape.embedding.phate import phate
from jaxscape.runs.checks import check_embed
from jaxscape.runs.config import EmbedConfig
from jaxscape.runs.embeddings import (
    COORDINATES,
    DIAGNOSTICS,
    damaged_embeddings,
    embedding_folder,
    embeddings,
    read_setting,
)
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.measure import Measured, complete_report, group_of, measure, perturbed
from jaxscape.runs.methods import CENTERS, METHODS
from jaxscape.runs.null import nulls_of
from jaxscape.runs.tables import write_table
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.files import write_record
from jaxscape.trajectories.gram import Gram, take_points

MOST_RANKED = 8_000  # points: four matrices of 64 million numbers, 2 GB


def embed_trajectories(run: Path, config: EmbedConfig, *, console: Console) -> Path:
    """Embed a finished run with one setting, or find it done; returns the setting's folder.

    Raises:
        FileNotFoundError: where there are no finished trajectories.
        ValueError: for a setting that cannot work.
        OSError: where the run folder cannot be written to.
    """
    check_embed(config)
    run = RunFolder(run)
    asks = config.include_minimum or (config.center == "minimum" and config.distance == "cosine")
    if asks and run.read_config() and not run.kind.has_minimum:
        raise ValueError(f"center minimum and include_minimum need a minimum, and {run} has none")
    measured = _chosen(perturbed(measure(run, console=console)), config)
    folder = embedding_folder(run, config.name)
    if config.name in embeddings(run):
        console.print(f"{run}: {config.name} is there")
        return folder
    if reason := damaged_embeddings(run).get(config.name):
        console.print(f"{reason}; it is made again")
    started = time.monotonic()
    with console.status(f"{run.name}: {config.name}"):
        shown = measured.gram
        with_minimum = _with_minimum(measured, config)
        if config.null is not None:
            shown = nulls_of(run, shown, measured.labels, group=_group(run)).draw(config.null, jax.random.key(0))
        distances = pairwise_distances(
            shown,
            metric=config.distance,
            center=CENTERS[config.center].argument,
            include_reference=with_minimum,
        )
        embedding, diagnostics = _embed(distances, config)
        diagnostics["fidelity"] = _fidelity(shown, distances, embedding, measured.labels)
    axes = "xyz" if config.n_components <= 3 else [f"axis{i}_" for i in range(config.n_components)]
    coordinates = {axes[i]: embedding[:, i] for i in range(config.n_components)}
    setting = vars(config) | {"metric": config.distance}
    with writing(run, wait=console):
        write_table(run, folder / COORDINATES, _labels(measured, with_minimum) | coordinates)
        # Last: it says that the coordinates are there.
        write_record(folder / DIAGNOSTICS, {"fingerprint": measured.fingerprint, "setting": setting, **diagnostics})
        run.record_seconds("embed", time.monotonic() - started)
    complete_report(run, console=console)
    for note in diagnostics.get("warnings", ()):
        console.print(f"{run}, {config.name}: {note}")
    return folder


def repair_embeddings(run: Path, *, console: Console) -> None:
    """Make damaged embeddings of a finished run again, and say so."""
    settings = {name: read_setting(run, name) for name in damaged_embeddings(run)}
    for name, config in settings.items():
        if config is None:
            console.print(f"{run}: {name} is damaged and its setting is lost; `jaxscape embed {run}` makes it again")
        else:
            embed_trajectories(run, config, console=console)


def _chosen(measured: Measured, config: EmbedConfig) -> Measured:
    """The trajectories that are asked for; distances from the mean are then from theirs."""
    rows = np.ones(measured.gram.num_points, bool)
    for name, asked in (("seed", config.only_seeds), ("optimizer", config.only_optimizers)):
        known = np.unique(measured.labels[name]).tolist() if name in measured.labels else []
        if asked and set(asked) - set(known):
            raise ValueError(f"only_{name}s must be some of {known}, got {' '.join(map(str, asked))}")
        if asked:
            rows &= np.isin(measured.labels[name], asked)
    if rows.all():
        return measured
    if not rows.any():
        raise ValueError(f"no trajectory has seed {config.only_seeds} and optimizer {config.only_optimizers}")
    labels = {name: values[rows] for name, values in measured.labels.items()}
    return measured._replace(gram=take_points(measured.gram, np.flatnonzero(rows)), labels=labels)


def _embed(distances: np.ndarray, config: EmbedConfig) -> tuple[np.ndarray, dict[str, Any]]:
    """Coordinates and what is to be known of them."""
    t = "auto" if config.t is None else config.t
    size = {"n_components": config.n_components}
    if config.method == "phate":
        return _phate(distances, config, t)
    if config.method == "phate-package":
        assert isinstance(config.knn, int)  # as checked
        stages = phate_package(distances, knn=config.knn, decay=config.decay, t=t, **size)
        stress = normalized_stress(stages.potential_distances, stages.embedding)
        return stages.embedding, {"t": stages.t, "stress": stress}
    if config.method == "mds":
        layout = mds(distances, **size)
        notes = [] if layout.converged else [f"metric MDS had not converged after {layout.iterations} steps"]
        return layout.embedding, {"stress": layout.stress, "iterations": layout.iterations, "warnings": notes}
    if config.method == "random":
        result = random_plane(distances, key=jax.random.key(0), **size)
    else:
        result = {"pca": pca, "tsne": tsne, "umap": umap}[config.method](distances, **size)
    return result.embedding, {} if result.explained is None else {"explained": result.explained}


def _phate(distances: np.ndarray, config: EmbedConfig, t: int | str) -> tuple[np.ndarray, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are in the result, and told from there
        found = phate(
            distances,
            n_components=config.n_components,
            knn=config.knn,
            decay=config.decay,
            t=t,
            potential_metric=config.potential,
            landmarks=config.landmarks,
        )
    return found.embedding, {
        "t": found.t,
        "knn": found.knn,
        "stress": found.stress,
        "n_connected_components": found.n_connected_components,
        "connecting_knn": found.connecting_knn,
        "iterations": found.iterations,
        "entropy": found.entropy,
        "warnings": found.warnings,
    }


def _fidelity(
    shown: Gram, distances: np.ndarray, embedding: np.ndarray, labels: dict[str, np.ndarray]
) -> dict[str, float]:
    """What the picture keeps of the distances that it was drawn from.

    {} for more points than there is memory for the ranks of all pairs.
    """
    first = len(distances) - shown.num_points  # 1 where the minimum is a row
    if not 3 <= shown.num_points <= MOST_RANKED:
        return {}
    radius = None
    if shown.has_reference:
        radius = pairwise_distances(shown, metric="euclidean", include_reference=True)[0, 1:]
    return fidelity(
        distances[first:, first:],
        embedding[first:],
        trajectory=labels["member"],
        order=labels["update"],
        radius=radius,
        center=embedding[0] if first else None,
    )._asdict()


def _group(run: RunFolder) -> str:
    """The label of those that exchange, where nothing was thrown."""
    return "" if run.kind.has_minimum else group_of(run.settings(run.kind.stage))


def _with_minimum(measured: Measured, config: EmbedConfig) -> bool:
    """Whether the minimum is a row: where it was asked for, or the method has it and it can be seen from elsewhere."""
    from_minimum = config.distance == "cosine" and config.center == "minimum"
    of_method = METHODS[config.method].has_minimum and measured.gram.has_reference and not from_minimum
    return config.include_minimum or of_method


def _labels(measured: Measured, with_minimum: bool) -> dict[str, np.ndarray]:
    """Row labels; the minimum, where it is a row, comes first and has member -1."""
    if not with_minimum:
        return measured.labels
    blank = {"member": -1, "seed": -1, "step_size": 0.0, "epoch": 0, "update": 0}
    return {name: np.concatenate([[blank[name]], values]) for name, values in measured.labels.items()}

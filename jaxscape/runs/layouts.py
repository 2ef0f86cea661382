"""Embeddings: the distances of a configuration, and the coordinates that its method computes."""

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxscape.embedding.baselines import pca, phate_package, random_plane, tsne, umap
from jaxscape.embedding.mds import mds, normalized_stress
from jaxscape.embedding.measures import degeneracy, describe_degeneracy
from jaxscape.embedding.phate import phate
from jaxscape.runs.config import EmbedConfig
from jaxscape.runs.methods import CENTERS, METHODS
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.gram import IncrementGram


class Picture(NamedTuple):
    """An embedding of trajectories; if it has one more row than points, the first row is the minimum."""

    gram: IncrementGram  # the embedded trajectories, n points
    distances: np.ndarray  # float64, square: (n, n), or (n + 1, n + 1) with the minimum
    embedding: np.ndarray  # float64 (n or n + 1, k)
    diagnostics: dict[str, Any]  # numbers and warnings about the embedding
    columns: dict[str, np.ndarray]  # values per row: for PHATE, the connected component

    @property
    def first(self) -> int:
        """The first row of the trajectories: 1 if the minimum is a row, else 0."""
        return len(self.distances) - self.gram.num_points


def has_minimum(gram: IncrementGram, config: EmbedConfig) -> bool:
    """Return whether the minimum is a row: if it is requested, or the method embeds it and it is not the center."""
    from_minimum = config.distance == "cosine" and config.center == "minimum"
    return config.include_minimum or (METHODS[config.method].has_minimum and gram.has_reference and not from_minimum)


def draw(gram: IncrementGram, config: EmbedConfig) -> Picture:
    """Embed trajectories with a configuration.

    Raises:
        ValueError: for an invalid setting, such as a knn that is too large.
    """
    distances = pairwise_distances(
        gram,
        metric=config.distance,
        center=CENTERS[config.center].argument,
        include_reference=has_minimum(gram, config),
    )
    return lay_out(gram, distances, config)


def lay_out(gram: IncrementGram, distances: np.ndarray, config: EmbedConfig) -> Picture:
    """Embed trajectories from their distances."""
    embedding, diagnostics, columns = _coordinates(distances, config)
    collapsed = degeneracy(distances, embedding) if len(distances) >= 3 else ""
    notes = [note for note in diagnostics.get("warnings", ()) if not note.startswith(describe_degeneracy(""))]
    notes += [describe_degeneracy(collapsed)] if collapsed else []
    return Picture(gram, distances, embedding, diagnostics | {"degenerate": collapsed, "warnings": notes}, columns)


def _coordinates(
    distances: np.ndarray, config: EmbedConfig
) -> tuple[np.ndarray, dict[str, Any], dict[str, np.ndarray]]:
    t = "auto" if config.t is None else config.t
    size = {"n_components": config.n_components}
    if config.method == "phate":
        return _phate(distances, config, t)
    if config.method == "phate-package":
        assert isinstance(config.knn, int)  # as checked
        stages = phate_package(distances, knn=config.knn, decay=config.decay, t=t, **size)
        stress = normalized_stress(stages.potential_distances, stages.embedding)
        return stages.embedding, {"t": stages.t, "stress": stress}, {}
    if config.method == "mds":
        layout = mds(distances, **size)
        notes = [] if layout.converged else [f"metric MDS did not converge in {layout.iterations} steps"]
        return layout.embedding, {"stress": layout.stress, "iterations": layout.iterations, "warnings": notes}, {}
    if config.method == "random":
        result = random_plane(distances, key=jax.random.key(0), **size)
    else:
        result = {"pca": pca, "tsne": tsne, "umap": umap}[config.method](distances, **size)
    return result.embedding, {} if result.explained is None else {"explained": result.explained}, {}


def _phate(
    distances: np.ndarray, config: EmbedConfig, t: int | str
) -> tuple[np.ndarray, dict[str, Any], dict[str, np.ndarray]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the result contains them, and they are reported from there
        result = phate(
            distances,
            n_components=config.n_components,
            knn=config.knn,
            decay=config.decay,
            t=t,
            potential_metric=config.potential,
            landmarks=config.landmarks,
        )
    tried = {} if result.tried is None else {"tried": [trial._asdict() for trial in result.tried]}
    diagnostics = {
        "t": result.t,
        "knn": result.knn,
        "stress": result.stress,
        "n_connected_components": result.n_connected_components,
        "connecting_knn": result.connecting_knn,
        "iterations": result.iterations,
        "entropy": result.entropy,
        "warnings": result.warnings,
    }
    return result.embedding, diagnostics | tried, {"component": result.component}

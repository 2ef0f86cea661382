"""How far an embedding can be trusted: its fidelity, a comparison with its surrogates, alternatives if it collapsed."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from jaxscape.embedding.fidelity import fidelity, paths
from jaxscape.embedding.measures import procrustes_disparity, rank_correlation
from jaxscape.runs.config import EmbedConfig
from jaxscape.runs.layouts import Picture, draw, lay_out
from jaxscape.runs.methods import METHODS
from jaxscape.runs.null import NULL_KIND
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.gram import IncrementGram

MOST_RANKED = 8_000  # points for which fidelity is measured: four matrices of 64 million numbers, 2 GB
MOST_COMPARED = 2_500  # points for which surrogates are embedded: twice the time of the embedding again, minutes

DRAWS = 2  # number of surrogates that are embedded

# Up to these differences two embeddings look the same to a reader; docs/embedding.md has the measurements.
MAX_DISPARITY = 0.1  # Procrustes disparity, 0 to 1, of points and of displacements
MAX_INWARD_DIFFERENCE = 0.2  # difference between the fractions of trajectories that end nearer to the centre

type Labels = Mapping[str, np.ndarray]


class _Difference(NamedTuple):
    """Differences between two embeddings of the same trajectories; 0 is no difference."""

    disparity: float  # Procrustes disparity of all points
    movement: float  # the same for the displacement of every point from the start of its trajectory
    inward: float  # difference between the fractions of trajectories that end nearer to the centre than they began


def picture_fidelity(picture: Picture, labels: Labels) -> dict[str, float]:
    """Return the fidelity of an embedding to its distances.

    The result is {} for fewer than three points, and for more points than memory allows to rank all pairs of.
    """
    first, shown = picture.first, picture.gram
    if not 3 <= shown.num_points <= MOST_RANKED:
        return {}
    radius = None
    if shown.has_reference:
        radius = pairwise_distances(shown, metric="euclidean", include_reference=True)[0, 1:]
    return fidelity(
        picture.distances[first:, first:],
        picture.embedding[first:],
        trajectory=labels["member"],
        order=labels["update"],
        radius=radius,
        center=picture.embedding[0] if first else None,
    )._asdict()


def compare_with_surrogates(
    picture: Picture, config: EmbedConfig, labels: Labels, draws: Iterable[IncrementGram]
) -> dict[str, Any]:
    """Return the differences between an embedding and those of its surrogates with the same settings.

    Args:
        picture: the embedding of the real trajectories.
        config: its settings; surrogates use the knn that "auto" has chosen.
        labels: labels of its points: member and update.
        draws: draws of the rotated surrogates, as in the tables of the run; the first two are embedded.

    Returns:
        A dict of: kind and draws (number) of the surrogates; fidelity of the first surrogate's embedding; disparity,
        movement and inward, each the mean difference from the draws; between_draws, the same between the draws;
        inward_shares of the real trajectories and of the surrogates; same, whether the embeddings look the same. If
        nothing was compared, kind and skipped, the reason.
    """
    result: dict[str, Any] = {"kind": NULL_KIND}
    if reason := _reason_to_skip(picture, config, labels):
        return result | {"skipped": reason}
    if config.knn == "auto" and "knn" in picture.diagnostics:
        config = replace(config, knn=picture.diagnostics["knn"])
    try:
        drawn = [draw(null, config) for null in islice(draws, DRAWS)]
    except ValueError as error:  # diffusion may merge all points of a surrogate even if not the real ones
        return result | {"skipped": f"the surrogates cannot be embedded: {error}"}
    difference = _mean([_difference(picture, each, labels) for each in drawn])
    between = _mean([_difference(one, each, labels) for i, one in enumerate(drawn) for each in drawn[:i]])
    margins = _Difference(MAX_DISPARITY, MAX_DISPARITY, MAX_INWARD_DIFFERENCE)
    return result | {
        "draws": DRAWS,
        "fidelity": picture_fidelity(drawn[0], labels),
        **difference._asdict(),
        "between_draws": between._asdict(),
        "inward_shares": [_inward(picture, labels), float(np.mean([_inward(each, labels) for each in drawn]))],
        "same": all(one <= max(most, other) for one, other, most in zip(difference, between, margins, strict=True)),
    }


def _reason_to_skip(picture: Picture, config: EmbedConfig, labels: Labels) -> str:
    """Return why an embedding is not compared with those of its surrogates; "" if it is."""
    points = picture.gram.num_points
    if not picture.gram.has_reference and len(np.unique(labels["member"])) == 1:
        return "a rotated surrogate of a single trajectory has its shape"
    if config.null is not None:
        return "these are surrogates themselves"
    if METHODS[config.method].is_slow:
        return f"{METHODS[config.method].words} would take three times as long"
    if points < 3:
        return f"{points} points are too few"
    return f"{points} points are more than {MOST_COMPARED}" if points > MOST_COMPARED else ""


def _mean(pairs: list[_Difference]) -> _Difference:
    return _Difference(*(float(np.mean(values)) for values in zip(*pairs, strict=True)))


def _difference(one: Picture, other: Picture, labels: Labels) -> _Difference:
    return _Difference(
        procrustes_disparity(one.embedding, other.embedding),
        procrustes_disparity(_displacements(one, labels), _displacements(other, labels)),
        abs(_inward(one, labels) - _inward(other, labels)),
    )


def _displacements(picture: Picture, labels: Labels) -> np.ndarray:
    """Return the displacement of every point from the start of its trajectory."""
    points = picture.embedding[picture.first :]
    displacements = np.empty_like(points)
    for rows in paths(labels["member"], labels["update"]):
        displacements[rows] = points[rows] - points[rows[0]]
    return displacements


def _inward(picture: Picture, labels: Labels) -> float:
    """Return the fraction of trajectories drawn to end nearer to the centre (minimum or mean) than they began."""
    points = picture.embedding[picture.first :]
    center = picture.embedding[0] if picture.first else points.mean(axis=0)
    radius = np.linalg.norm(points - center, axis=1)
    return float(np.mean([radius[rows[-1]] < radius[rows[0]] for rows in paths(labels["member"], labels["update"])]))


def alternative(picture: Picture, config: EmbedConfig) -> str:
    """Suggest options for a degenerate embedding: those that best preserve the order of the same distances.

    The result is "" if no alternative is better, or there are too many points to try any.
    """
    if not 3 <= len(picture.distances) <= MOST_COMPARED:
        return ""
    best, best_rank = None, -np.inf
    for candidate in _alternatives(config):
        try:
            result = lay_out(picture.gram, picture.distances, candidate)
        except ValueError:  # diffusion merged all points
            continue
        rank = rank_correlation(result.distances, result.embedding)
        if not result.diagnostics["degenerate"] and rank > best_rank:
            best, best_rank = candidate, rank
    if best is None:
        return ""
    return (
        f"for the same distances, `{_options(best)}` preserves the most (rank correlation of all distances "
        f"{best_rank:.2f})"
    )


def _alternatives(config: EmbedConfig) -> list[EmbedConfig]:
    plain = {"potential": "euclidean", "landmarks": None, "t": None, "decay": 40.0, "metric": config.distance}
    changes: list[dict[str, Any]] = [{"method": "mds", "knn": 5}]
    changes += [{"method": "phate", "knn": knn} for knn in ("auto", 5)]
    candidates = [replace(config, **plain | each) for each in changes]
    return [each for each in candidates if each.name != config.name]


def _options(config: EmbedConfig) -> str:
    """Return the command-line options of a configuration."""
    default, words = EmbedConfig(method=config.method), ["--method", config.method]
    for field in fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name) or (field.name == "metric" and config.distance == default.distance):
            continue
        values = [] if value is True else value if isinstance(value, tuple) else [value]
        words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def tried_table(diagnostics: Mapping[str, Any]) -> Table | None:
    """Return a table with one row per tried knn; None if knn was not "auto"."""
    tried = diagnostics.get("tried")
    if not tried:
        return None
    table = Table(title="knn auto: values tried", box=SIMPLE_HEAD, title_justify="left")
    for name in ("knn", "components", "t", "rank correlation"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in tried:
        chosen = "chosen" if each["knn"] == diagnostics["knn"] else ""
        notes = filter(None, (chosen, "degenerate" if each["degenerate"] else ""))
        numbers = each["knn"], each["n_connected_components"], each["t"]
        table.add_row(*map(str, numbers), f"{each['rank']:.3f}", ", ".join(notes))
    return table

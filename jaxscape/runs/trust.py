"""How far an embedding can be trusted: its fidelity, the picture of its surrogates, what to draw where it collapsed."""

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

MOST_RANKED = 8_000  # points: four matrices of 64 million numbers, 2 GB
MOST_COMPARED = 2_500  # points whose surrogates are embedded too: twice more the time of the picture, which is minutes

DRAWS = 2  # of the surrogates

# Up to these differences a reader sees the same picture; see docs/embedding.md for what was measured.
ALIKE = 0.1  # disparity, 0 to 1, of the pictures and of the movements in them
ALIKE_SHARE = 0.2  # of the trajectories: how many more are drawn inward in one than in the other

type Labels = Mapping[str, np.ndarray]


class _Unlike(NamedTuple):
    """How two pictures of the same trajectories differ; 0 is not at all."""

    disparity: float  # after Procrustes, of all points
    movement: float  # the same of every point seen from the start of its trajectory
    inward: float  # of the shares of trajectories that end nearer to the centre than they began


def picture_fidelity(picture: Picture, labels: Labels) -> dict[str, float]:
    """Return what a picture keeps of the distances that it was drawn from.

    {} for more points than there is memory for the ranks of all pairs, and for fewer than three.
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


def beside_surrogates(
    picture: Picture, config: EmbedConfig, labels: Labels, draws: Iterable[IncrementGram]
) -> dict[str, Any]:
    """Return how the picture differs from those of its surrogates, by the same setting.

    Args:
        picture: of the real trajectories.
        config: how it was made; the surrogates take the knn that "auto" has found.
        labels: of its points: member and update.
        draws: of the surrogates, rotated ones, as in the tables of the run; the first two are drawn.

    Returns:
        kind and draws of the surrogates; fidelity of the first one's picture; disparity, movement and inward, each the
        mean difference from the draws, and the same between_draws; inward_shares of the picture and of its surrogates;
        same, whether they draw the same picture. Where nothing was compared, kind and skipped, the reason.
    """
    kept = {"kind": NULL_KIND}
    if reason := _not_compared(picture, config):
        return kept | {"skipped": reason}
    if config.knn == "auto" and "knn" in picture.diagnostics:
        config = replace(config, knn=picture.diagnostics["knn"])
    try:
        drawn = [draw(null, config) for null in islice(draws, DRAWS)]
    except ValueError as error:  # diffusion can make all points of a surrogate alike where it does not of the real ones
        return kept | {"skipped": f"the surrogates cannot be drawn: {error}"}
    found = _mean([_unlike(picture, each, labels) for each in drawn])
    between = _mean([_unlike(one, each, labels) for i, one in enumerate(drawn) for each in drawn[:i]])
    margins = _Unlike(ALIKE, ALIKE, ALIKE_SHARE)
    return kept | {
        "draws": DRAWS,
        "fidelity": picture_fidelity(drawn[0], labels),
        **found._asdict(),
        "between_draws": between._asdict(),
        "inward_shares": [_inward(picture, labels), float(np.mean([_inward(each, labels) for each in drawn]))],
        "same": all(one <= max(most, other) for one, other, most in zip(found, between, margins, strict=True)),
    }


def _not_compared(picture: Picture, config: EmbedConfig) -> str:
    """Why a picture is not held against its surrogates', "" where it is."""
    points = picture.gram.num_points
    if config.null is not None:
        return "these are surrogates themselves"
    if METHODS[config.method].is_slow:
        return f"{METHODS[config.method].words} would take three times as long"
    if points < 3:
        return f"{points} points are too few"
    return f"{points} points are more than {MOST_COMPARED}" if points > MOST_COMPARED else ""


def _mean(pairs: list[_Unlike]) -> _Unlike:
    return _Unlike(*(float(np.mean(values)) for values in zip(*pairs, strict=True)))


def _unlike(one: Picture, other: Picture, labels: Labels) -> _Unlike:
    return _Unlike(
        procrustes_disparity(one.embedding, other.embedding),
        procrustes_disparity(_movements(one, labels), _movements(other, labels)),
        abs(_inward(one, labels) - _inward(other, labels)),
    )


def _movements(picture: Picture, labels: Labels) -> np.ndarray:
    """Every point seen from the start of its trajectory."""
    points = picture.embedding[picture.first :]
    moved = np.empty_like(points)
    for rows in paths(labels["member"], labels["update"]):
        moved[rows] = points[rows] - points[rows[0]]
    return moved


def _inward(picture: Picture, labels: Labels) -> float:
    """The share of trajectories drawn as ending nearer to the centre, the minimum or the mean, than they began."""
    points = picture.embedding[picture.first :]
    center = picture.embedding[0] if picture.first else points.mean(axis=0)
    radius = np.linalg.norm(points - center, axis=1)
    return float(np.mean([radius[rows[-1]] < radius[rows[0]] for rows in paths(labels["member"], labels["update"])]))


def alternative(picture: Picture, config: EmbedConfig) -> str:
    """Return what to type instead of a degenerate picture: of the same distances, what keeps their order best.

    "" where nothing else shows more, or the points are too many to try.
    """
    if not 3 <= len(picture.distances) <= MOST_COMPARED:
        return ""
    best, best_rank = None, -np.inf
    for asked in _alternatives(config):
        try:
            found = lay_out(picture.gram, picture.distances, asked)
        except ValueError:  # diffusion made all points alike
            continue
        rank = rank_correlation(found.distances, found.embedding)
        if not found.diagnostics["degenerate"] and rank > best_rank:
            best, best_rank = asked, rank
    if best is None:
        return ""
    return f"of the same distances `{_options(best)}` draws most (rank correlation of all distances {best_rank:.2f})"


def _alternatives(config: EmbedConfig) -> list[EmbedConfig]:
    plain = {"potential": "euclidean", "landmarks": None, "t": None, "decay": 40.0, "metric": config.distance}
    asked: list[dict[str, Any]] = [{"method": "mds", "knn": 5}]
    asked += [{"method": "phate", "knn": knn} for knn in ("auto", 5)]
    found = [replace(config, **plain | each) for each in asked]
    return [each for each in found if each.name != config.name]


def _options(config: EmbedConfig) -> str:
    """The options that ask for a setting."""
    default, words = EmbedConfig(method=config.method), ["--method", config.method]
    for field in fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name) or (field.name == "metric" and config.distance == default.distance):
            continue
        values = [] if value is True else value if isinstance(value, tuple) else [value]
        words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def tried_table(diagnostics: Mapping[str, Any]) -> Table | None:
    """One row per knn that was tried, where knn was "auto"."""
    tried = diagnostics.get("tried")
    if not tried:
        return None
    table = Table(title="knn auto: what was tried", box=SIMPLE_HEAD, title_justify="left")
    for name in ("knn", "components", "t", "rank correlation"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in tried:
        chosen = "chosen" if each["knn"] == diagnostics["knn"] else ""
        notes = filter(None, (chosen, "degenerate" if each["degenerate"] else ""))
        numbers = each["knn"], each["n_connected_components"], each["t"]
        table.add_row(*map(str, numbers), f"{each['rank']:.3f}", ", ".join(notes))
    return table

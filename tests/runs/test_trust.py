"""Diagnostics of an embedding: the comparison with its surrogates, its collapse, and its choice of knn."""

import warnings
from itertools import islice

import jax
import numpy as np
import pytest

from jaxscape.embedding.fidelity import fidelity
from jaxscape.embedding.mds import mds
from jaxscape.embedding.measures import procrustes_disparity, rank_correlation
from jaxscape.embedding.phate import KNN_WORDS, phate
from jaxscape.runs import embeddings, trust
from jaxscape.runs.config import EmbedConfig
from jaxscape.runs.embeddings import read_coordinates, read_diagnostics, read_setting
from jaxscape.runs.layouts import draw
from jaxscape.runs.measure import measure, perturbed
from jaxscape.runs.methods import KNNS
from jaxscape.runs.null import Nulls, nulls_of
from jaxscape.runs.progress import make_console
from jaxscape.runs.run import Run
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.files import write_record
from jaxscape.trajectories.gram import gram
from jaxscape.trajectories.null import null_trajectories

MEMBERS, EPOCHS, SIZE = 3, 15, 400  # three directions have a unique arrangement in the plane, more have several
LABELS = {"member": np.tile(np.arange(MEMBERS), EPOCHS), "update": np.repeat(np.arange(EPOCHS), MEMBERS)}
SILENT = make_console(silent=True)


def pulled_back(*, pull, wander=0.02, seed=0):
    """Return copies perturbed away from a minimum, each finally pulled back by this fraction of its jump."""
    generator = np.random.default_rng(seed)
    minimum = generator.standard_normal(SIZE) / np.sqrt(SIZE)
    starts = generator.standard_normal((1, MEMBERS, SIZE)) / np.sqrt(SIZE)
    steps = wander * generator.standard_normal((EPOCHS, MEMBERS, SIZE)) / np.sqrt(SIZE)
    steps[0] = 0
    points = minimum + starts * (1 - pull * np.linspace(0, 1, EPOCHS))[:, None, None] + np.cumsum(steps, axis=0)
    parents = np.arange(MEMBERS * EPOCHS) - MEMBERS
    return gram(points.reshape(-1, SIZE), reference=minimum, parents=np.maximum(parents, -1))


def compared(picture, config):
    """Compare the embedding with those of its surrogates."""
    draws = Nulls(picture.gram, np.zeros(picture.gram.num_points), None, seed=0).draws()
    return trust.compare_with_surrogates(picture, config, LABELS, draws)


@pytest.mark.parametrize("seed", [5, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (6, 7))])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_surrogate_is_drawn_as_its_own_surrogates_are(metric, seed):
    config, real = EmbedConfig(metric=metric), null_trajectories(pulled_back(pull=0.5), key=jax.random.key(seed))
    found = compared(draw(real, config), config)
    assert found["same"] is True
    assert found["disparity"] <= max(0.1, found["between_draws"]["disparity"])
    assert found["inward"] == 0


def test_copies_that_return_are_drawn_unlike_their_surrogates():
    config = EmbedConfig()
    found = compared(draw(pulled_back(pull=0.5), config), config)
    assert found["same"] is False
    assert found["inward_shares"] == [1, 0]
    assert found["inward"] == 1
    assert found["between_draws"]["inward"] == 0


def test_the_surrogates_are_those_of_the_run_and_the_numbers_those_of_the_public_functions(jaxscape, run):
    assert jaxscape("embed", run).code == 0
    kept = read_diagnostics(run, "mds-euclidean")["surrogate"]
    measured = perturbed(measure(run, console=SILENT))
    grams = [measured.gram, *islice(nulls_of(run, measured.gram, measured.labels).draws(), 2)]
    distances = [pairwise_distances(each, metric="euclidean", include_reference=True) for each in grams]
    pictures = [mds(each).embedding for each in distances]
    real, *drawn = pictures
    assert kept["kind"] == "rotated"
    assert kept["disparity"] == pytest.approx(np.mean([procrustes_disparity(real, each) for each in drawn]))
    assert kept["between_draws"]["disparity"] == pytest.approx(procrustes_disparity(*drawn))
    member, update = measured.labels["member"], measured.labels["update"]
    starts = {number: np.flatnonzero((member == number) & (update == 0))[0] for number in member}
    first = [starts[number] for number in member]
    moved = [each[1:] - each[1:][first] for each in pictures]
    assert kept["movement"] == pytest.approx(np.mean([procrustes_disparity(moved[0], each) for each in moved[1:]]))
    expected = fidelity(
        distances[1][1:, 1:],
        drawn[0][1:],
        trajectory=member,
        order=update,
        radius=distances[1][0, 1:],
        center=drawn[0][0],
    )
    assert kept["fidelity"] == pytest.approx(expected._asdict(), nan_ok=True)
    report = Run(run, quiet=True).report()["embeddings"]["mds-euclidean"]
    assert report["surrogate"] == kept
    said = jaxscape("info", run).out
    assert "  rotated null: disparity 0.00, movements 0.59; their fidelity: stress" in said


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (EmbedConfig(null="rotated"), "these are surrogates themselves"),
        (EmbedConfig(method="tsne"), "t-SNE would take three times as long"),
        (EmbedConfig(method="umap"), "UMAP would take three times as long"),
    ],
)
def test_embeddings_that_are_not_compared_have_a_reason(config, reason):
    picture = draw(pulled_back(pull=0.5), EmbedConfig())
    assert compared(picture, config) == {"kind": "rotated", "skipped": reason}


def test_too_many_points_are_not_compared(monkeypatch):
    picture = draw(pulled_back(pull=0.5), EmbedConfig())
    monkeypatch.setattr(trust, "MOST_COMPARED", 40)
    found = compared(picture, EmbedConfig())
    assert found["skipped"] == "45 points are more than 40"
    assert trust.alternative(picture, EmbedConfig()) == ""


def test_surrogates_that_cannot_be_embedded_are_not_an_error(monkeypatch):
    picture = draw(pulled_back(pull=0.5), EmbedConfig())
    config = EmbedConfig(method="phate", knn=20, t=10**6)
    found = compared(picture, config)
    assert found["skipped"].startswith("the surrogates cannot be embedded: t=1000000 is too large")


def test_the_caption_describes_the_surrogates():
    numbers = {
        "fidelity": {"rank": 0.93, "radius": 0.87},
        "surrogate": {"kind": "rotated", "disparity": 0.004, "movement": 0.72},
    }
    said = embeddings.describe_trust(numbers)
    assert said == ("rank correlation: distances 0.93, radii 0.87; rotated null: disparity 0.00, movements 0.72")
    numbers["surrogate"]["same"] = True
    assert "rotated null draws the same: disparity 0.00" in embeddings.describe_trust(numbers)
    assert embeddings.describe_trust({"degenerate": "all points lie on a line"}) == "degenerate"
    assert embeddings.describe_trust({"fidelity": None, "surrogate": {"kind": "rotated", "skipped": "why"}}) == ""
    assert embeddings.describe_trust({}) == ""  # a record of version 0.1


@pytest.fixture(scope="module")
def two_starts(tmp_path_factory):
    """Trajectories from two starts by two optimisers each, whose embedding with knn connect collapses to a line."""
    size, snapshots, generator = 2000, 21, np.random.default_rng(0)
    labels, networks = [], []
    for seed in (0, 1):
        start = generator.standard_normal(size) / np.sqrt(size)
        for optimizer, speed in (("sgd", 0.3), ("adam", 3.0)):
            drift, walk = generator.standard_normal(size), generator.standard_normal((snapshots, size))
            time = np.linspace(0, 1, snapshots)[:, None]
            networks.append(start + time * (speed * drift + 0.05 * np.cumsum(walk, axis=0)) / np.sqrt(size))
            labels.append({"seed": seed, "optimizer": optimizer})
    path = tmp_path_factory.mktemp("recorded") / "run"
    with Run(path, quiet=True) as run:
        for step in range(snapshots):
            run.record(step, [{"w": each[step].astype(np.float32)} for each in networks], labels=labels)
    return path


def test_a_collapsed_embedding_warns_and_suggests_the_best_alternative(jaxscape, two_starts):
    outcome = jaxscape("embed", two_starts, "--knn", "connect", "--plot")
    assert outcome.code == 0, outcome.err
    setting = "phate-cosine-none-knnconnect"
    found = read_diagnostics(two_starts, setting)
    assert found["knn"] == 42
    assert found["degenerate"].startswith("all points lie on a line: axis 2")
    said, instead = found["warnings"]
    assert said == f"the picture is degenerate: {found['degenerate']}"
    words = " ".join(outcome.out.split())
    assert said in words
    assert instead in words
    distances = pairwise_distances(measure(two_starts, console=SILENT).gram)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        others = {
            "--method mds --metric cosine": mds(distances).embedding,
            "--method phate --metric cosine --knn auto": phate(distances, knn="auto").embedding,
            "--method phate": phate(distances, knn=5).embedding,
        }
    ranks = {name: rank_correlation(distances, each) for name, each in others.items()}
    best = max(ranks, key=ranks.get)
    assert instead == (
        f"for the same distances, `{best}` preserves the most (rank correlation of all distances {ranks[best]:.2f})"
    )
    assert "degenerate; rank" in (two_starts / "figures" / f"{setting}.svg").read_text()
    assert "degenerate: all points lie on a line" in " ".join(jaxscape("info", two_starts).out.split())
    outcome = jaxscape("embed", two_starts, *best.split())
    assert outcome.code == 0, outcome.err
    assert "degenerate" not in outcome.out


@pytest.mark.slow
def test_knn_auto_prints_the_values_tried(jaxscape, two_starts):
    outcome = jaxscape("embed", two_starts, "--knn", "auto", "--plot")
    assert outcome.code == 0, outcome.err
    found = read_diagnostics(two_starts, "phate-cosine-none-knnauto")
    assert found["setting"]["knn"] == "auto"
    assert [each["knn"] for each in found["tried"]] == [5, 10, 15, 20, 30, 40, 42, 63]
    assert found["knn"] == next(each["knn"] for each in found["tried"] if not each["degenerate"])
    lines = [line.split() for line in outcome.out.splitlines()]
    (chosen,) = (line for line in lines if line[-1:] == ["chosen"])
    assert int(chosen[0]) == found["knn"]
    assert sum("degenerate" in line for line in lines) == sum(bool(each["degenerate"]) for each in found["tried"])
    caption = (two_starts / "figures" / "phate-cosine-none-knnauto.svg").read_text()
    assert f"knn {found['knn']}, t {found['t']}" in caption
    assert read_setting(two_starts, "phate-cosine-none-knnauto").knn == "auto"


def test_the_component_of_each_point_is_stored(two_starts, jaxscape):
    assert jaxscape("embed", two_starts, "--knn", 5).code == 0
    found, columns = (
        read_diagnostics(two_starts, "phate-cosine-none-knn5"),
        read_coordinates(two_starts, "phate-cosine-none-knn5"),
    )
    assert found["n_connected_components"] == 2
    np.testing.assert_array_equal(columns["component"], columns["seed"])  # numbered by the first row of each
    assert jaxscape("embed", two_starts).code == 0
    assert "component" not in read_coordinates(two_starts, "mds-euclidean")


def test_the_named_values_of_knn_are_those_of_phate():
    assert KNNS == KNN_WORDS


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "mds-euclidean"),
        ({"metric": "cosine"}, "mds-cosine-none"),
        ({"knn": 5}, "phate-cosine-none-knn5"),
        ({"center": "mean"}, "phate-cosine-mean-knn5"),
        ({"decay": 30.0}, "phate-cosine-none-knn5-decay30"),
        ({"t": 3, "null": "rotated"}, "phate-cosine-none-knn5-t3-null-rotated"),
        ({"method": "mds", "metric": "cosine", "center": "mean"}, "mds-cosine-mean"),
    ],
)
def test_without_a_method_a_setting_of_phate_selects_it(settings, name, two_starts, jaxscape):
    assert Run(two_starts, quiet=True).embed(**settings).name == name
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    outcome = jaxscape("embed", two_starts, *options)
    assert outcome.code == 0, outcome.err
    assert f"{name} is up to date" in outcome.out


def test_a_setting_that_earlier_versions_accepted_and_ignored_is_read(run, jaxscape):
    assert jaxscape("embed", run, "--method", "pca").code == 0
    record = read_diagnostics(run, "pca-euclidean")
    record.pop("sha256", None)
    record["setting"]["knn"] = 7
    coordinates = run / "embeddings" / "pca-euclidean" / "coordinates.csv"
    before = coordinates.read_bytes()
    write_record(run / "embeddings" / "pca-euclidean" / "diagnostics.json", record)
    coordinates.write_bytes(before[:50])
    outcome = jaxscape("plot", run)
    assert outcome.code == 0, outcome.err
    assert coordinates.read_bytes() == before

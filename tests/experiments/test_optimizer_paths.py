"""The analysis of the experiment on optimisers, on synthetic trajectories and numbers."""

import math

import numpy as np
import optimizers
import pytest
from claims_rules import decide
from optimizers import CLAIMS
from optimizers_page import answers, page
from optimizers_runs import RECORDED, Moved, Network, cosine, numbers, relative_distance, seed_values, smoothed, walk
from records import committed_scales

from jaxscape import gram, trajectory_geometry
from jaxscape.generalization.verdicts import DOES_NOT_HOLD, HOLDS, SURROGATE

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(9, 30)).astype(np.float32).cumsum(axis=0)


def network(points, reached=None):
    count = len(points)
    return Network(walk([points], 2), np.linspace(2, 0, count), np.arange(count), {}, reached)


def test_lengths_and_angles_are_those_of_the_geometry():
    found = walk([POINTS[:, :11], POINTS[:, 11:]], every=2)
    geometry = trajectory_geometry(gram(POINTS, parents=np.arange(-1, 8)))
    np.testing.assert_allclose(found["length"], geometry.movement[1:, 0], rtol=1e-6)
    np.testing.assert_allclose(found["turning"], geometry.turning[2:, 0], rtol=1e-6)
    np.testing.assert_allclose(found["chord"], geometry.chord[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found["norm"], geometry.norm[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found["coarse"], np.linalg.norm(np.diff(POINTS[::2], axis=0), axis=1), rtol=1e-6)
    assert found["angle"][-1] < 1e-6


def test_numbers_stop_where_they_are_told():
    whole, part = network(POINTS), network(POINTS[:5])
    for name in ("path", "chord", "tortuosity", "turning", "norm", "walk_chord", "walk_norm"):
        assert numbers(whole, 4)[name] == pytest.approx(numbers(part, 4)[name])


def test_a_random_walk_in_many_dimensions_has_the_surrogates_distance():
    steps = np.random.default_rng(1).normal(size=(40, 20_000)) * np.linspace(1, 3, 40)[:, None]
    points = np.concatenate([np.zeros((1, 20_000)), steps.cumsum(axis=0)])
    found = numbers(network(points), 40)
    assert found["walk_chord"] == pytest.approx(found["chord"], rel=0.02)
    assert found["turning"] == pytest.approx(math.pi / 2, abs=0.01)


def test_the_training_loss_is_the_mean_of_the_last_ones():
    losses = np.array([np.nan, 4.0, 2.0, 0.0, 1.0])
    np.testing.assert_array_equal(smoothed(losses, 2), [np.inf, np.inf, 3.0, 1.0, 0.5])


def test_relative_distance_is_0_for_equal_and_1_for_orthogonal_displacements():
    a, b = Moved(np.zeros(2), np.array([3.0, 0.0])), Moved(np.ones(2), np.array([0.0, 4.0]))
    assert (relative_distance(a, a), relative_distance(a, b)) == (0, 1)
    assert (cosine(a, a), cosine(a, b)) == (1, 0)


def test_values_of_a_seed_follow_from_its_networks():
    seeds = [
        {
            name: Moved(rng.normal(size=50), 1.0 * scale * rng.normal(size=50))
            for name, scale in (("sgd", 1), ("momentum", 2), ("adam", 10), ("sgd_effective", 2), ("momentum_order", 2))
        }
        for rng in map(np.random.default_rng, range(3))
    ]
    by = {name: numbers(network(POINTS * scale), 8) for name, scale in zip(RECORDED, (1, 2, 30, 4), strict=True)}
    found = seed_values(seeds[0], seeds[1:], by)
    assert found["path"] == pytest.approx(math.log(2))
    assert found["path_effective"] == pytest.approx(math.log(0.5))
    assert found["tortuosity"] == pytest.approx(0)
    assert found["adam_norm"] == pytest.approx(math.log(15))
    assert found["cosine"] == cosine(seeds[0]["momentum"], seeds[0]["sgd"])
    assert found["own"] <= found["similar"]
    assert {value.split()[0] for claim in CLAIMS for value in (claim.value, *claim.surrogates.values())} <= found.keys()


def test_claims_are_decided_beside_their_surrogates():
    names = {value for claim in CLAIMS for value in (claim.value, *claim.surrogates.values())}
    values = {name: [0.0, 1e-4, -1e-4, 2e-4, -2e-4] for name in names}
    values["tortuosity epochs"] = [-0.5, -0.51, -0.49, -0.5, -0.5]
    values["adam_far epochs"] = [2.0, 2.01, 1.99, 2.0, 2.0]
    values["adam_far_walk epochs"] = [2.5, 2.51, 2.49, 2.5, 2.52]
    records = optimizers.claim_records(values)
    verdicts = {each.record["text"]: each.verdict for each in decide(records)}
    assert verdicts["Momentum takes a straighter path than SGD."] == HOLDS
    assert verdicts["Adam ends further from the start than SGD and momentum."] == SURROGATE
    assert verdicts["Momentum takes a shorter path than SGD."] == DOES_NOT_HOLD


def test_claims_at_a_loss_that_was_not_reached_are_left_out():
    names = {value for claim in CLAIMS for value in (claim.value, *claim.surrogates.values())}
    records = optimizers.claim_records({name: [0.0, 1.0] for name in names if name.endswith("epochs")})
    assert len(records) == sum(claim.value.endswith("epochs") for claim in CLAIMS) < len(CLAIMS)


def test_the_page_says_how_many_seeds_reached_the_loss_and_where_the_referee_found_otherwise():
    scales = committed_scales("optimizers")
    quick, real = (" ".join(answers(scales[name])) for name in ("quick", "real"))
    assert "sgd 0 of 5, momentum 5 of 5, adam 0 of 5, sgd effective 4 of 5" in real
    assert "adam 5 of 5" in quick
    assert "at equal loss 2.6, here 0.88, on the other side of 1;" in quick
    assert "at equal loss 2.6, here not reached;" in real
    assert "(-0.040 [-0.051, -0.029], margin 0.05)" in page(scales)


def test_scales_are_decided_alone_and_stand_side_by_side():
    scales = committed_scales("optimizers")
    record = scales["quick"]
    lost = {"SGD and momentum from one seed travel in similar directions."}
    other = record | {"dataset": "other", "claims": [each for each in record["claims"] if each["text"] not in lost]}
    text = page({"quick": record, "other": other})
    assert text.startswith(page({"quick": record}).partition("## Scale")[0])
    between = text.partition("## Side by side")[2].partition("## Scale")[0]
    rows = [line.split(" | ") for line in between.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [claim.text for claim in CLAIMS]
    assert [row[0].removeprefix("| ") for row in rows if row[2] == "not decided |"] == [*lost]
    assert "not decided" not in "".join(row[1] for row in rows)
    for name in ("quick", "other"):
        assert f"![L2 norm by update](optimizers-{name}-norm.png)" in text

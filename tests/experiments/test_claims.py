"""The decision rule of the claims, on synthetic numbers."""

import claims
import numpy as np
import pytest
from claims import Claim, judge, markdown, mean_interval
from common import SCALES
from run_statistics import Runs
from scipy import stats

VALUES = (0.1, 0.2, 0.3, 0.4, 0.5)  # mean 0.3, interval 0.104 to 0.496


def test_the_interval_is_students_t_interval():
    values = np.random.default_rng(0).normal(2, 3, 7)
    expected = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(mean_interval(values), expected)


@pytest.mark.parametrize(
    ("threshold", "above", "verdict"),
    [
        (0.0, True, "holds"),
        (0.2, True, "unclear"),
        (0.6, True, "does not hold"),
        (0.6, False, "holds"),
        (0.4, False, "unclear"),
        (0.0, False, "does not hold"),
    ],
)
def test_a_claim_holds_where_the_whole_interval_lies_beyond_its_threshold(threshold, above, verdict):
    assert judge(VALUES, None, above=above, threshold=threshold).verdict == verdict


@pytest.mark.parametrize(("shift", "verdict"), [(-0.5, "holds"), (0.5, "does not hold"), (0.0, "unclear")])
def test_and_the_difference_from_the_null_beyond_0(shift, verdict):
    noise = np.array([0.01, -0.01, 0.02, -0.02, 0.0])
    assert judge(VALUES, VALUES + noise + shift, above=True, threshold=0).verdict == verdict
    mirrored = -np.array(VALUES)
    assert judge(mirrored, mirrored - noise - shift, above=False, threshold=0).verdict == verdict


def test_what_is_the_same_everywhere_is_decided():
    assert judge([1.0, 1.0, 1.0], None, above=True, threshold=0.99).verdict == "holds"
    assert judge([1.0, 1.0, 1.0], None, above=True, threshold=1.0).verdict == "unclear"


def test_one_minimum_is_no_spread():
    with pytest.raises(ValueError, match="at least two independent values, got 1"):
        judge([1.0], None, above=True, threshold=0)


def test_the_page_says_of_each_claim_what_was_found_or_that_it_was_not_run():
    claim = Claim("1", "It is large.", "size", lambda runs, seed: (0, None), True, 0.25)
    verdict = judge(VALUES, np.zeros(5), above=True, threshold=0.25)
    page = markdown({"quick": {claim: verdict}, "real": {claim: None}}, {"quick": "digits", "real": "clothes"})
    assert "| 1 | It is large. | size | > 0.25 | 0.300 ± 0.158 (5) | 0.104 to 0.496 | 0.000 | **unclear** |" in page
    assert "| 1 | It is large. | size | > 0.25 |  |  |  | not run |" in page
    assert "0 holds, 0 does not hold, 1 unclear." in page


def test_claims_without_runs_are_not_decided(tmp_path):
    runs = Runs(tmp_path, *[(0, 1)] * 4)
    assert {claims.decide(runs, claim) for claim in claims.CLAIMS} == {None}


def test_every_claim_is_decided_on_at_least_three_independent_minima():
    for name, scale in SCALES.items():
        if name != "smoke":
            assert min(map(len, (scale.seeds, scale.harder_seeds, scale.compare["seeds"]))) >= 3


def test_claims_are_decided_on_seeds_that_were_not_used_to_choose_the_protocol():
    for scale in SCALES.values():
        seeds = {*scale.seeds, *scale.harder_seeds, *scale.compare["seeds"]}
        assert not seeds & set(range(10))

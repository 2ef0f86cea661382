"""The rule for claims: every region of it, agreement of intervals and p-values, and error rates as claimed."""

import re

import numpy as np
import pytest
from scipy import stats

from jaxscape.generalization.inference import holm
from jaxscape.generalization.verdicts import (
    DOES_NOT_HOLD,
    HOLDS,
    SURROGATE,
    UNCLEAR,
    holm_verdicts,
    judge_claim,
    judge_intervals,
)

ABOVE, ACROSS, BELOW = (0.1, 0.3), (-0.1, 0.3), (-0.3, -0.1)
# Intervals of a difference from a surrogate, beside a margin of 0.05.
MORE, MORE_OR_LITTLE_MORE = (0.06, 0.2), (0.01, 0.2)
LITTLE_MORE, SAME, LESS = (0.01, 0.04), (-0.02, 0.03), (-0.3, -0.1)
LESS_OR_SAME, ANYTHING = (-0.2, 0.02), (-0.02, 0.2)


@pytest.mark.parametrize(
    ("value", "differences", "verdict"),
    [
        (ABOVE, [], HOLDS),
        (ACROSS, [], UNCLEAR),
        (BELOW, [], DOES_NOT_HOLD),
        (ABOVE, [MORE], HOLDS),
        (ABOVE, [MORE_OR_LITTLE_MORE], HOLDS),
        (ABOVE, [LITTLE_MORE], SURROGATE),  # more, but by less than matters
        (ABOVE, [SAME], SURROGATE),
        (ABOVE, [LESS], SURROGATE),
        (ABOVE, [LESS_OR_SAME], SURROGATE),
        (ABOVE, [ANYTHING], UNCLEAR),
        (ABOVE, [MORE, MORE], HOLDS),
        (ABOVE, [MORE, SAME], SURROGATE),
        (ABOVE, [MORE, ANYTHING], UNCLEAR),
        (ABOVE, [ANYTHING, SAME], SURROGATE),
        (ACROSS, [MORE], UNCLEAR),
        (ACROSS, [SAME], UNCLEAR),
        (BELOW, [MORE], DOES_NOT_HOLD),
        (BELOW, [SAME], DOES_NOT_HOLD),
        ((0, 0.2), [MORE], UNCLEAR),  # an interval that ends at a bound does not pass it
        ((-0.2, 0), [], UNCLEAR),
        (ABOVE, [(0, 0.2)], UNCLEAR),
        (ABOVE, [(-0.02, 0.05)], UNCLEAR),
        (ABOVE, [(0.01, 0.05)], HOLDS),
    ],
)
@pytest.mark.parametrize("above", [True, False])
def test_every_region_has_its_verdict_in_both_directions(value, differences, verdict, above):
    def turned(interval, by=0.0):
        return (interval[0] + by, interval[1] + by) if above else (by - interval[1], by - interval[0])

    named = {f"surrogate {number}": turned(each) for number, each in enumerate(differences)}
    assert judge_intervals(turned(value), named, threshold=0, margin=0.05, above=above) == verdict
    assert judge_intervals(turned(value, 2), named, threshold=2, margin=0.05, above=above) == verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ((-0.01, 0.01), DOES_NOT_HOLD),
        ((0.005, 0.01), DOES_NOT_HOLD),
        ((-0.3, 0.015), DOES_NOT_HOLD),
        ((0.005, 0.03), HOLDS),
        ((-0.01, 0.03), UNCLEAR),
        ((-0.01, 0.02), UNCLEAR),
    ],
)
def test_so_near_to_the_threshold_that_it_does_not_matter_is_no_support(value, verdict):
    assert judge_intervals(value, threshold=0, threshold_margin=0.02) == verdict


def test_samples_are_judged_by_their_students_intervals():
    rng = np.random.default_rng(0)
    values, surrogate = rng.normal(1.0, 0.2, 10), rng.normal(0.2, 0.2, 10)
    found = judge_claim(values, {"decay": surrogate}, threshold=0.5, margin=0.1, level=0.9)
    for interval, sample in ((found.value, values), (found.differences["decay"], values - surrogate)):
        oracle = stats.ttest_1samp(sample, 0).confidence_interval(0.9)
        assert (interval.low, interval.high) == pytest.approx((oracle.low, oracle.high))
    assert (found.verdict, found.as_much) == (HOLDS, ())
    tests = [(values, 0.5, "greater"), (values - surrogate, 0, "greater"), (values - surrogate, 0.1, "less")]
    beyond, more, within = (stats.ttest_1samp(x, at, alternative=side).pvalue for x, at, side in tests)
    expected = {HOLDS: max(beyond, more), SURROGATE: max(beyond, within)}
    expected[DOES_NOT_HOLD] = stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    assert found.p_values == pytest.approx(expected)
    assert found.p_value == pytest.approx(2 * expected[HOLDS])


def test_the_mirror_image_of_a_claim_has_the_same_verdict_and_p_values():
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.3, 1.0):
        values, surrogate = rng.normal(shift, 0.3, 8), rng.normal(0, 0.3, 8)
        options = {"margin": 0.2, "threshold_margin": 0.05}
        plain = judge_claim(values, {"s": surrogate}, threshold=0.1, **options)
        mirror = judge_claim(-values, {"s": -surrogate}, threshold=-0.1, above=False, **options)
        assert plain.verdict == mirror.verdict
        assert plain.p_values == pytest.approx(mirror.p_values)
        assert plain.as_much == mirror.as_much


def test_which_surrogates_do_as_much_is_said():
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95])
    noise = np.array([0.01, -0.01, 0.02, 0.0, -0.02])
    surrogates = {"decay": values + noise, "exchange": noise, "rotated": 2 * values}
    found = judge_claim(values, surrogates, threshold=0, margin=0.1)
    assert (found.verdict, found.as_much) == (SURROGATE, ("decay", "rotated"))


def test_with_one_surrogate_intervals_and_p_values_agree():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(200):
        values = rng.normal(rng.choice([-0.2, 0.0, 0.5]), 0.3, 8)
        surrogate = values + rng.normal(rng.choice([-0.5, 0.0, 0.3]), rng.choice([0.05, 0.4]), 8)
        found = judge_claim(values, {"s": surrogate}, threshold=0, margin=0.1, threshold_margin=0.05)
        assert (found.verdict == UNCLEAR) == (2 * min(found.p_values.values()) >= 0.05)
        if found.verdict != UNCLEAR:
            assert found.p_value == 2 * found.p_values[found.verdict] < 0.05
        seen.add(found.verdict)
    assert seen == {HOLDS, SURROGATE, DOES_NOT_HOLD, UNCLEAR}


# (mean of the value, of the value minus each surrogate), the verdicts that are wrong, and the bound on their rate; the
# threshold is 0, the margin 0.5, the threshold's margin 0.2, the standard deviation 1 and the level 90 %.
EDGES = [
    ((0.0, [9.0]), {HOLDS, SURROGATE}, 0.05),
    ((9.0, [0.0]), {HOLDS}, 0.05),
    ((9.0, [0.5]), {SURROGATE}, 0.05),
    ((0.2, [9.0]), {DOES_NOT_HOLD}, 0.05),
    ((9.0, [0.0, 9.0, 9.0]), {HOLDS}, 0.05),
    ((9.0, [0.0, 0.0, 0.0]), {HOLDS}, 0.05),
    ((9.0, [0.5, 0.5, 0.5]), {SURROGATE}, 0.15),
    ((0.2, [0.5]), {DOES_NOT_HOLD, SURROGATE}, 0.1),
]


@pytest.mark.parametrize(("truth", "wrong", "bound"), EDGES)
def test_wrong_verdicts_are_as_rare_as_claimed(truth, wrong, bound):
    rng, trials = np.random.default_rng(4), 200
    value, differences = truth
    count = 0
    for _ in range(trials):
        values = value + rng.normal(size=10)
        surrogates = {str(number): values - (each + rng.normal(size=10)) for number, each in enumerate(differences)}
        found = judge_claim(values, surrogates, threshold=0, margin=0.5, threshold_margin=0.2, level=0.9)
        count += found.verdict in wrong
    assert count / trials < bound + 3 * np.sqrt(bound * (1 - bound) / trials)


def test_the_bound_is_reached_where_only_one_thing_can_go_wrong():
    rng = np.random.default_rng(5)
    samples = [rng.normal(size=(2, 10)) for _ in range(500)]
    held = [
        judge_claim(9 + x, {"s": 9 + x - y}, threshold=0, margin=0.1, level=0.9).verdict == HOLDS for x, y in samples
    ]
    assert np.mean(held) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 500))


def test_holm_makes_weak_verdicts_of_a_family_unclear():
    rng = np.random.default_rng(6)
    strong = [judge_claim(5 + rng.normal(size=10), threshold=0) for _ in range(3)]
    weak = next(
        found
        for found in (judge_claim(0.6 + rng.normal(size=10), threshold=0) for _ in range(100))
        if found.verdict == HOLDS and found.p_value > 0.03
    )
    nothing = [judge_claim(rng.normal(size=10), threshold=0) for _ in range(2)]
    nothing = [each for each in nothing if each.verdict == UNCLEAR] or [judge_claim([-1, 1], threshold=0)]
    family = [*strong, weak, *nothing]
    assert holm_verdicts([weak]) == [HOLDS]
    assert holm_verdicts(family) == [HOLDS] * 3 + [UNCLEAR] * (1 + len(nothing))
    adjusted = holm([each.p_value for each in family])
    assert [each != UNCLEAR for each in holm_verdicts(family)] == (adjusted <= 0.05).tolist()


def test_holm_keeps_the_probability_of_any_wrong_verdict_in_a_family():
    rng, trials, wrong = np.random.default_rng(7), 120, 0
    for _ in range(trials):
        # Nothing of any surrogate or value is there: every verdict but "unclear" is wrong, save "does not hold".
        family = [judge_claim(rng.normal(size=8), threshold=0) for _ in range(6)]
        wrong += any(each in (HOLDS, DOES_NOT_HOLD) for each in holm_verdicts(family))
    assert wrong / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: judge_claim([1.0], threshold=0), "values must have at least 2 values, got 1"),
        (lambda: judge_claim([1.0, np.nan], threshold=0), "values must be finite, but 1 of 2"),
        (lambda: judge_claim([1, 2], {"s": [1, 2]}, threshold=0), "margin must be given with surrogates"),
        (
            lambda: judge_claim([1, 2], {"s": [1, 2, 3]}, threshold=0, margin=1),
            "surrogates['s'] must have one value per",
        ),
        (lambda: judge_claim([1, 2], {"s": [1, np.nan]}, threshold=0, margin=1), "surrogates['s'] must be finite"),
        (lambda: judge_claim([1, 2], threshold=0, margin=-1), "margin must be above 0, got -1"),
        (lambda: judge_claim([1, 2], threshold=np.nan), "threshold must be a finite number, got nan"),
        (lambda: judge_claim([1, 2], threshold=0, threshold_margin=-1), "threshold_margin must be at least 0, got -1"),
        (lambda: judge_intervals((1, 0), threshold=0), "value must be a lower and an upper end, got 1.0 and 0.0"),
        (
            lambda: judge_intervals((0, 1), {"s": (np.nan, 1)}, threshold=0, margin=1),
            "differences['s'] must be a lower and",
        ),
        (lambda: holm_verdicts([]), "verdicts must hold at least one verdict, got none"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()

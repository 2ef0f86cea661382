"""The rules of the claims, their records and the page, on synthetic numbers."""

import json
from pathlib import Path

import claims
import claims_page
import numpy as np
import pytest
import records
from claims_list import BOTH, CHECKS, CLAIMS, ELSEWHERE, FORMER, FURTHER, NO_SURROGATE, PAPERS, REFEREE, Term
from claims_rules import (
    decide,
    inside_margin,
    judge_record,
    number,
    over_seeds,
    percentiles,
    record_of,
    records_of,
    run_checks,
)
from claims_runs import plan_minima, plan_runs
from rich.console import Console
from scales import SCALES
from stages import Experiment

from jaxscape.generalization.verdicts import DOES_NOT_HOLD, HOLDS, SURROGATE, UNCLEAR
from jaxscape.runs.methods import CENTERS

STEPS = [0.25, 1.0] * 2
NAMES = ("return", "outward", "monotone", "petal", "lateral", "cosine")
ALONE = ("return_to_drifted", "return_of_directions", "end_beyond_controls", "path")
PICTURES = tuple(f"{name}_{center}" for name in ("silhouette", "trend") for center in CENTERS)


def cell(kind, protocols, seed, value=0.0, surrogate=0.0):
    """Return a minimum whose numbers are all equal to a value, and those of its surrogates to another one."""
    noise = 1e-4 * ((7 * seed) % 5)
    pictures = dict.fromkeys(PICTURES, value + noise) if kind == "good" and "paper" in protocols else {}
    values = {name: [value + noise] * 4 for name in (*NAMES, *ALONE)} | {"step_size": STEPS} | pictures
    values |= dict.fromkeys(("minimum_train_accuracy", "minimum_test_accuracy", "train_accuracy"), value + noise)
    surrogates = {name: {each: [surrogate] * 4 for each in NAMES} for name in ("exchange", "rotated", "decay")}
    surrogates["rotated"] |= dict.fromkeys(pictures, surrogate)
    return {"kind": kind, "protocols": protocols, "seed": seed, "values": values, "surrogates": surrogates}


def cells_of(value=lambda kind, protocol: 0.0, surrogate=0.0, seeds=range(50, 55)):
    """Return the minima of some seeds."""
    made = []
    for seed in seeds:
        for protocol in ("paper", "common"):
            made.append(cell("good", [protocol], seed, value("good", protocol), surrogate))
        for kind in ("bad", "memorization"):
            made.append(cell(kind, ["paper", "common"], seed, value(kind, "paper"), surrogate))
    return made


def claim_of(text, protocol):
    (found,) = [claim for claim in CLAIMS if claim.text == text and claim.protocol == protocol]
    return found


def record(values, surrogates=None, **changes):
    about = {"source": "5.1", "text": "It is.", "statistic": "size", "threshold": 0.0, "margin": 0.01, "above": True}
    return about | {"family": "one", "values": values, "surrogates": surrogates or {}} | changes


NOISE = np.array([-2, -1, 0, 1, 2]) * 1e-4


@pytest.mark.parametrize(
    ("values", "surrogates", "verdict"),
    [
        (0.05 + NOISE, {"exchange": 0 * NOISE, "decay": 0 * NOISE}, HOLDS),
        (0.05 + NOISE, {"exchange": 0 * NOISE, "decay": 0.048 + 0 * NOISE}, SURROGATE),
        (0.05 + NOISE, {"exchange": 0.2 + 0 * NOISE}, SURROGATE),
        (0.005 + NOISE, {}, DOES_NOT_HOLD),  # within the margin of the threshold
        (-0.05 + NOISE, {}, DOES_NOT_HOLD),
        (0.005 + 200 * NOISE, {}, UNCLEAR),
    ],
)
def test_a_record_gets_one_of_four_verdicts(values, surrogates, verdict):
    assert judge_record(record(values, surrogates)).verdict == verdict


def test_a_threshold_that_is_the_margin_has_no_margin_of_its_own():
    values = 0.015 + NOISE
    assert judge_record(record(values, threshold=0.01)).verdict == DOES_NOT_HOLD
    assert judge_record(record(values, threshold=0.01, threshold_margin=0.0)).verdict == HOLDS
    assert judge_record(record(values, margin=None, threshold=0.01)).verdict == HOLDS


def test_a_record_without_a_key_is_refused():
    made = record(NOISE)
    del made["margin"], made["above"]
    with pytest.raises(ValueError, match=r"'It is.' has no above, margin"):
        judge_record(made)


def test_verdicts_are_corrected_within_their_family():
    values = 0.03 + 100 * NOISE
    alone = decide([record(values)])[0]
    assert alone.verdict == HOLDS
    others = [record(NOISE * 300 + 0.01)] * 9
    assert 0.05 / 10 < alone.p < 0.05
    assert decide([record(values), *others])[0].verdict == UNCLEAR
    apart = decide([record(values), *(each | {"family": "two"} for each in others)])[0]
    assert (apart.verdict, apart.p) == (HOLDS, alone.p)


def test_claims_that_were_not_run_have_no_verdict_and_do_not_count_in_the_family():
    missing = record(None)
    del missing["values"]
    decided = decide([missing, record(0.05 + NOISE)])
    assert [each.verdict for each in decided] == [None, HOLDS]
    assert decided[1].p == decide([record(0.05 + NOISE)])[0].p


def test_values_are_means_over_copies_and_differences_within_a_seed():
    made = cells_of(lambda kind, protocol: {"good": 0.3, "bad": 0.1, "memorization": 0.0}[kind])
    claim = claim_of("Copies of good minima return further than those of bad ones.", "common")
    np.testing.assert_allclose(over_seeds(claim.terms, made), 0.2)  # the noise of a seed is shared
    one = made[0] | {"values": made[0]["values"] | {"return": [1.0, 2.0, 3.0, 5.0]}}
    assert number(one, Term("good", "paper", "return")) == 2.75
    assert number(one, Term("good", "paper", "return", 1.0)) == 3.5


def test_every_claim_is_decided_if_all_runs_are_there():
    decided = decide(records_of(cells_of()))
    assert all(each.verdict for each in decided)
    assert all(each.values for each in run_checks(cells_of()))


def test_claims_without_their_runs_step_size_or_finite_numbers_are_not_run():
    made = cells_of()
    lateral = claim_of("Memorization: more lateral movement at large steps than around good minima.", "paper")
    assert "values" in record_of(lateral, made)
    for part in (
        [each for each in made if each["kind"] != "memorization"],
        [each | {"values": each["values"] | {"step_size": [0.5] * 4}} for each in made],
        [each | {"values": each["values"] | {"lateral": [None] * 4}} for each in made],
        [each for each in made if each["seed"] == 50],  # one minimum has no spread
    ):
        assert "values" not in record_of(lateral, part)


def test_weight_decay_that_does_as_much_is_named():
    made = cells_of(lambda kind, protocol: 0.08, surrogate=0.0)
    for each in made:
        each["surrogates"]["decay"]["return"] = [0.078] * 4
    text = "Good: copies move closer to the minimum."
    decided = {each.record["retraining"]: each for each in decide(records_of(made)) if each.record["text"] == text}
    assert (decided["paper"].verdict, decided["paper"].found.as_much) == (SURROGATE, ("decay",))
    assert decided["common"].verdict == HOLDS
    assert "decay" not in decided["common"].found.differences


def test_claims_that_no_return_can_beat_or_lose_are_not_compared_with_rotated():
    for claim in CLAIMS:
        names = {term.name for term in claim.terms}
        assert "rotated" not in claim.surrogates or not names & {"return", "petal", "monotone", "lateral", "cosine"}
        assert "decay" not in claim.surrogates or claim.protocol == "paper"
        assert claim.margin > 0
        assert claim.threshold in (0.0, 0.5, claim.margin)
        assert claim.threshold_margin == (0.0 if claim.threshold == claim.margin else claim.margin)


def test_a_claim_of_minima_whose_protocols_coincide_counts_once():
    shared = [claim for claim in CLAIMS if {term.kind for term in claim.terms} <= {"bad", "memorization"}]
    assert shared
    assert {claim.protocol for claim in shared} == {BOTH}
    assert len({(claim.text, claim.protocol) for claim in CLAIMS}) == len(CLAIMS)


def test_checks_say_how_many_minima_pass():
    made = cells_of(lambda kind, protocol: 0.995)
    made[0]["values"]["minimum_train_accuracy"] = 0.9
    found = {each.check.text: each for each in run_checks(made)}
    assert found["Good minima fit their training data."].passed == 4
    assert found["Bad minima fit their training data."].passed == 5
    assert next(each for text, each in found.items() if text.startswith("Memorization learns")).passed == 0
    assert len(found) == len(CHECKS)


def test_percentiles_pool_the_copies_of_all_minima():
    made = cells_of(seeds=(50, 51))
    for shift, each in enumerate(one for one in made if one["protocols"] == ["common"]):
        each["values"]["return"] = [shift, shift + 2, None, shift + 4]
    found = percentiles(made, Term("good", "common", "return"))
    np.testing.assert_allclose(found, np.percentile([0, 1, 2, 3, 4, 5], (10, 50, 90)))
    assert percentiles(made, Term("good", "common", "return_to_drifted"), "decay") is None


def test_every_former_claim_has_a_fate_and_a_reason():
    assert len(FORMER) == 44
    assert {each.fate for each in FORMER} == {"kept", "check", "replaced", "dropped"}
    assert all(each.what for each in FORMER)
    assert sum(len(texts) for _, _, texts in ELSEWHERE.values()) == 13


def section(**changes):
    about = {"command": "python claims.py", "environment": {"commit": "abc", "device": "cpu"}, "dataset": "digits"}
    sizes = {"train_size": 100, "copies": 12, "controls": 2, "epochs": 50, "learning_rate": 0.05}
    return about | sizes | {"cells": cells_of()} | changes


def test_the_page_has_a_row_for_each_claim_and_counts_checks_apart():
    made = section(cells=cells_of(lambda kind, protocol: 0.08 if kind == "good" else 0.0))
    text = claims.page({"quick": made}, {})
    rows = [line for line in text.splitlines() if line.startswith(("| 5.1 |", "| not in the paper |"))]
    assert len(rows) == len(CLAIMS)
    assert not [row for row in rows if "not run" in row]
    for family in (PAPERS, FURTHER):
        heading = f"### {family[0].upper()}{family[1:]} (quick)"
        counted, _, on_claims = text.split(heading)[1].split("\n")[2].partition(". ")
        numbers = [int(part.split(": ")[1]) for part in counted.split("; ")]
        chosen = [claim for claim in CLAIMS if claim.family == family]
        assert sum(numbers) == len(chosen)
        different = len({claim.text for claim in chosen})
        twice = len(chosen) - different
        assert on_claims.startswith(f"These {len(chosen)} verdicts are on {different} claims, {twice} of which")
    assert text.count("| not run |") == 13
    assert "nan" not in text.replace("nance", "")
    assert "harder one" in claims.page({"real": made}, {})
    assert "harder one" not in text


def test_the_page_names_the_claims_without_surrogate_and_says_why():
    text = claims.page({"quick": section()}, {})
    without = [claim for claim in CLAIMS if not claim.surrogates]
    assert {term.name for claim in without for term in claim.terms} == NO_SURROGATE.keys()
    reasons = [line for line in text.splitlines() if line.startswith('- "')]
    for claim in without:
        (name,) = {term.name for term in claim.terms}
        assert any(claim.text.rstrip(".") in line and line.endswith(f"{NO_SURROGATE[name]}.") for line in reasons)
    rows = [line for line in text.splitlines() if line.startswith(("| 5.1 |", "| not in the paper |"))]
    assert sum("| no surrogate |" in row for row in rows) == len(without)
    assert text.count("(no surrogate) |") == len({claim.text for claim in without})


def test_the_page_names_failed_checks_and_the_verdicts_that_use_these_copies():
    made = section(cells=cells_of(lambda kind, protocol: 0.995))
    for each in made["cells"]:
        if each["kind"] == "good" and each["protocols"] == ["paper"]:
            each["values"]["train_accuracy"] = 0.9
    text = claims.page({"quick": made, "real": section(cells=cells_of(lambda kind, protocol: 0.995))}, {})
    paper = sum(claim.protocol == "paper" for claim in CLAIMS)
    failed = (
        "Retrained copies fit the training data again: good, paper protocol (training accuracy after the last epoch, "
    )
    failed += (
        f"mean over copies: 0 of 5 minima pass, 0.900 to 0.900; {paper} of {len(CLAIMS)} verdicts use these copies)"
    )
    by_scale = [
        line for line in text.splitlines() if line.startswith(("- quick (digits). Checks", "- real (digits). Ch"))
    ]
    assert [failed in line for line in by_scale] == [True, False]


def test_the_page_shows_contrasts_by_step_size_and_names_claims_that_these_would_turn():
    made = section(cells=cells_of(lambda kind, protocol: 0.08 if kind == "good" else 0.0))
    for each in made["cells"]:
        if each["kind"] == "good" and each["protocols"] == ["paper"]:
            each["values"]["return"] = [-0.1, 0.3] * 2
    part = claims.page({"quick": made}, {}).partition("### By step size (quick)")[2].partition("###")[0]
    noise = 1e-4 * np.mean([7 * seed % 5 for seed in range(50, 55)])
    row = next(line for line in part.splitlines() if line.startswith("| return | paper |"))
    shown = [float(cell.split(" [")[0]) for cell in row.split(" | ")[2:]]
    np.testing.assert_allclose(shown, [-0.1 - noise, 0.3 - noise, 0.1 - noise], atol=6e-4)
    turned = part.partition("threshold for: ")[2].partition("\n")[0]
    assert '"Copies of good minima return further than those of bad ones" (paper)' in turned
    assert "(common)" not in turned


def test_verdicts_that_hold_with_a_mean_within_the_margin_are_named():
    within = record(0.048 + 20 * NOISE, margin=0.05, text="It is small.")
    beyond = record(0.1 + NOISE, margin=0.05, text="It is large.")
    at_margin = record(0.015 + NOISE, threshold=0.01, threshold_margin=0.0, text="It has no margin.")
    decided = decide([within, beyond, at_margin])
    assert [each.verdict for each in decided] == [HOLDS] * 3
    (_, text) = inside_margin(decided)
    assert '"It is small" (0.048 [' in text
    assert "large" not in text
    assert "no margin" not in text
    assert inside_margin(decided[1:]) == []


def test_numbers_in_answers_are_taken_from_the_records():
    scales, elsewhere = claims.read_committed()
    found = claims_page.results(scales, elsewhere)
    answers = {point: answer.format_map(found) for point, answer in REFEREE}
    assert "wins in 3 of 48 cells and loses in 20" in answers[next(point for point in answers if "count-like" in point)]
    assert "wins in 0 of 48 cells" in answers[next(point for point in answers if "t = 100" in point)]
    assert (found["left_large"], found["left_small"]) == ("14 %", "98 %")
    assert (found["unclear_pictures"], found["pictures"]) == ("6", "12")
    assert "(not run)" not in "".join(answers.values())


@pytest.mark.parametrize(("commit", "shown"), [("abc", "abc"), ("abc-dirty", "abc-dirty (with uncommitted changes")])
def test_a_commit_with_uncommitted_changes_is_explained(commit, shown):
    text = claims.page({"quick": section(environment={"commit": commit, "device": "cpu"})}, {})
    assert f"; commit {shown}" in text
    assert ("uncommitted" in text) == commit.endswith("-dirty")


def test_records_of_other_scripts_are_judged_by_the_same_rules():
    given = record([0.5, 0.6, 0.55], source="5.2", text="Momentum is shorter.", family="optimizers", margin=0.05)
    check = record([0.99, 1.0], text="All converge.", family="checks")
    text = claims.page({"quick": section()}, {"optimizers": {"claims": [given, check]}})
    shown = next(line for line in text.splitlines() if "Momentum is shorter." in line)
    assert shown.startswith("| 5.2 | Momentum is shorter. |  | size | > 0 | 0.550 [0.426, 0.674] (3) |")
    assert shown.endswith(f"**{HOLDS}** |")
    assert "| All converge. | size | > 0 | 0.990 | 1.000 |" in text
    assert text.count("| not run |") == 5  # of the embeddings


def test_the_seeds_that_decide_were_used_for_nothing_else():
    quick, real = SCALES["quick"], SCALES["real"]
    assert len(quick.claims_seeds) >= 10
    assert len(real.claims_seeds) >= 5
    used = {*range(30), 100, 101, 102}
    for scale in SCALES.values():
        used |= {*scale.seeds, *scale.harder_seeds, *scale.sweep_seeds, *scale.valley_seeds}
    assert not used & {*quick.claims_seeds, *real.claims_seeds}
    assert not {*quick.claims_seeds} & {*real.claims_seeds}


def planned(scale):
    experiment = Experiment("claims", SCALES[scale], Path("runs"), {}, Console(quiet=True))
    minima = plan_minima(experiment)
    return minima, plan_runs(experiment, minima)


@pytest.mark.parametrize(("scale", "seeds"), [("quick", 10), ("real", 5)])
def test_each_seed_has_images_directions_and_orders_of_its_own(scale, seeds):
    minima, again = planned(scale)
    assert (len(minima), len(again)) == (3 * seeds, 4 * seeds)
    owners = {}
    for source, config in again.values():
        seed = minima[source].seed
        assert minima[source].images_seed == config.order_seed == seed
        assert config.step_sizes == (0.25, 0.5, 0.75, 1.0)
        assert config.num_copies == 14
        owners.setdefault(config.seeds, set()).add(seed)
    assert all(len(each) == 1 for each in owners.values())
    assert len({direction for each in owners for direction in each}) == 3 * seeds


def test_only_good_minima_are_retrained_by_two_protocols():
    minima, again = planned("quick")
    ways = {}
    for run, (source, config) in again.items():
        key = minima[source].preset, run.name.rpartition("-")[2]
        ways.setdefault(key, set()).add((config.weight_decay, config.augmentation))
    assert ways == {
        ("good", "paper"): {(1e-3, "crop")},
        ("good", "common"): {(0.0, "none")},
        ("bad", "paper"): {(0.0, "none")},
        ("memorization", "paper"): {(0.0, "none")},
    }


def test_the_page_needs_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(claims, "PAGE", tmp_path / "claims.md")
    with pytest.raises(SystemExit, match=r"claims.json does not exist; make it with"):
        claims.write_page()
    (tmp_path / "claims.json").write_text(json.dumps({"scales": {"quick": section()}}))
    claims.write_page()
    assert (tmp_path / "claims.md").read_text() == claims.page({"quick": section()}, {})

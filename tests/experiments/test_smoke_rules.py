"""Run every experiment that decides by rules once, from training to verdicts, at the smallest scale."""

import json

import claims
import jax
import numpy as np
import optimizers
import pytest
import valley
import valley_analysis
import valley_page
from claims_rules import decide, records_of
from optimizers_page import page
from optimizers_runs import OPTIMIZERS

from jaxscape import Run, TrajectoryStore, trajectory_geometry
from jaxscape.generalization.verdicts import VERDICTS
from jaxscape.runs.folder import RunFolder

pytestmark = pytest.mark.slow


def test_both_kinds_of_minimum_are_retrained_in_all_four_ways(run):
    folder, _ = run(valley)
    record = json.loads((folder / "valley.json").read_text())
    table = {name: valley_analysis.table_of(record, name) for name in (*valley_analysis.RESPONSES, "train_loss")}
    assert all(np.isfinite(values).all() for values in table.values())
    report = RunFolder(folder / "valley" / "good-20-decay-crops").read_report()["geometry"]["real"]
    for name, reported in (
        ("return", "return"),
        ("return_to_drifted", "return_drift"),
        ("decay_part", "inward_decay"),
        ("gradient_part", "inward_loss"),
    ):
        np.testing.assert_allclose(table[name][0, 1, 1, 1], report[reported]["mean"], rtol=1e-5)
    assert (table["decay_part"][:, :, 0] == 0).all()
    # 6 updates of the 3 epochs: momentum has not reached its limit, and copies shrink by less than at it.
    assert (table["decay_part"][:, :, 1] > 0).all()
    assert (table["decay_part"][:, :, 1] < 6 * 0.05 * 1e-3 / (1 - 0.9)).all()
    np.testing.assert_allclose(
        sum(table[name] for name in ("decay_part", "gradient_part", "sideways_part")), table["return"], atol=1e-5
    )
    assert (table["sideways_part"] <= 1e-6).all()
    assert (folder / "valley.md").read_text() == valley_page.page(record)
    assert {path.suffix for path in (folder / "valley" / "figures").iterdir()} >= {".png", ".svg", ".pdf"}
    images = {
        RunFolder(folder / "valley" / f"good-{seed}-decay-crops").settings("train").images_seed for seed in (20, 21)
    }
    assert images == {20, 21}


def test_every_claim_is_decided_from_fresh_minima(run):
    folder, out = run(claims)
    record = json.loads((folder / "claims.json").read_text())["scales"]["custom"]
    both = "paper", "common"
    by_kind = {(each["kind"], *each["protocols"]): each for each in record["cells"]}
    assert by_kind.keys() == {("good", "paper"), ("good", "common"), ("bad", *both), ("memorization", *both)}
    decided = decide(records_of(record["cells"]))
    assert all(each.verdict in VERDICTS for each in decided)
    text = (folder / "claims.md").read_text()
    _, elsewhere = claims.read_committed()
    assert text == claims.page({"custom": record}, elsewhere)
    assert text in out
    report = RunFolder(folder / "claims" / "good-10-paper").read_report()["geometry"]
    numbers = record["cells"][0]
    assert (numbers["kind"], numbers["seed"], numbers["protocols"]) == ("good", 10, ["paper"])
    for name, reported in (("return", "return"), ("lateral", "lateral"), ("cosine", "loss_cosine")):
        np.testing.assert_allclose(np.mean(numbers["values"][name]), report["real"][reported]["mean"], rtol=1e-4)
        beside = report["surrogates"]["exchange"][reported]["mean"]
        np.testing.assert_allclose(np.mean(numbers["surrogates"]["exchange"][name]), beside, rtol=1e-4)
    still = by_kind["good", "common"]["surrogates"]["decay"]
    assert set(still["return"]) == {0}
    images = {RunFolder(folder / "claims" / f"bad-{seed}-paper").settings("train").images_seed for seed in (10, 11)}
    assert images == {10, 11}


def test_claims_on_optimizers_are_decided_from_every_update(run):
    folder, _ = run(optimizers)
    scales = json.loads((folder / "optimizers.json").read_text())["scales"]
    (record,) = scales.values()
    assert [each["text"] for each in record["claims"]] == [claim.text for claim in optimizers.CLAIMS]
    assert len(record["networks"]) == 2 * 5
    networks = {each["network"]: each["epochs"] for each in record["networks"] if each["seed"] == 31}
    assert {name: each["updates"] for name, each in networks.items()} == dict.fromkeys(networks, 6)
    geometry = trajectory_geometry(Run(folder / "optimizer-paths" / "seed-31", quiet=True).measured().gram)
    for member, name in enumerate(OPTIMIZERS):
        found = networks[name]
        np.testing.assert_allclose(found["norm"], geometry.norm[-1, member], rtol=1e-5)
        np.testing.assert_allclose(found["chord"], geometry.chord[-1, member], rtol=1e-5)
        np.testing.assert_allclose(found["path"], np.nansum(geometry.movement[:, member]), rtol=1e-5)
        np.testing.assert_allclose(found["turning"], np.nanmean(geometry.turning[:, member]), rtol=1e-5)
    starts = [RunFolder(folder / "optimizer-paths" / f"seed-31{part}") for part in ("", "-effective", "-order")]
    first = [TrajectoryStore.open(each.trajectories).read(epochs=0, members=0) for each in starts]
    for other in first[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, first[0])
    assert {each.settings("compare").images_seed for each in starts} == {31}
    assert (folder / "optimizer-paths.md").read_text() == page(scales)

"""The study of generalisation: its designs, the stack of networks with their own data, and the statistics and rules."""

import json
from dataclasses import replace

import generalization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study
import study_files
import study_further
import study_measures as measures
import study_page
import study_results
import study_scores as scores
from study import STUDIES, Cell, Recipe, cells

from jaxscape import adjusted_tau, gram, init_states, load_dataset, make_optimizer, train

SMOKE = STUDIES["smoke"]


@pytest.fixture(scope="module")
def data():
    return study.load(SMOKE, None)


@pytest.mark.parametrize(
    ("name", "networks", "shapes"), [("fashion", 128, 4), ("digits", 243, 27), ("cifar10", 2187, 81)]
)
def test_a_study_has_every_cell_once(name, networks, shapes):
    found = cells(STUDIES[name])
    assert len({cell.name for cell in found}) == len({cell.number for cell in found}) == networks
    assert len({cell.recipe.shape for cell in found}) == shapes


def test_a_factor_must_be_known_and_vary():
    with pytest.raises(ValueError, match="factor must be a field of Recipe with several levels, got 'colour'"):
        cells(replace(SMOKE, factors={"colour": (1, 2)}))
    with pytest.raises(ValueError, match="several levels"):
        cells(replace(SMOKE, factors={"width": (1, 1)}))


def test_pooling_takes_means_of_four_pixels():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    assert study.pool(images)[0, :, :, 0].tolist() == [[2, 4], [10, 12]]  # 2.5, 4.5, ... rounded to even


def test_every_network_has_images_and_labels_of_its_own(data):
    recipe = Recipe(images=50, label_noise=0.4)
    images, labels = study.draw_images(Cell(0, {}, recipe, 0), data)
    others, _ = study.draw_images(Cell(1, {}, recipe, 0), data)
    clean = study.draw_images(Cell(0, {}, replace(recipe, label_noise=0.0), 0), data)
    assert np.array_equal(images, clean[0])
    assert not np.array_equal(images, others)
    assert np.bincount(clean[1], minlength=10).tolist() == [5] * 10
    assert 10 <= (labels != clean[1]).sum() <= 20  # 20 of 50 are redrawn, a tenth of them as they were


def test_a_stack_with_hyperparameters_of_its_own_trains_like_separate_networks(data):
    """Learning rate, weight decay and images are part of the state; the network is that of one fixed optimiser."""
    recipes = [
        Recipe(images=40, batch_size=20, learning_rate=0.03, weight_decay=1e-2),
        Recipe(images=40, batch_size=20, learning_rate=0.1),
    ]
    each = [Cell(number, {}, recipe, 0) for number, recipe in enumerate(recipes)]
    net = study.network(SMOKE, recipes[0], data)
    options = {"epochs": 2, "batch_size": 20}
    states = study.training_states(each, net, data)
    *_, stacked = train(net.problem.loss_fn, study.training_optimizer(), states, net.problem.data, **options)
    for place, cell in enumerate(each):
        params, state = study.initial_state(cell, net, data)
        optimizer = make_optimizer("momentum", cell.recipe.learning_rate, weight_decay=cell.recipe.weight_decay)
        keys = study.key_of(cell, "train")[None]
        alone = init_states(jax.tree.map(lambda leaf: leaf[None], params), optimizer, keys=keys, model_state=state)
        *_, last = train(net.problem.loss_fn, optimizer, alone, net.problem.data, **options)
        for one, other in zip(jax.tree.leaves(stacked.states.params), jax.tree.leaves(last.states.params), strict=True):
            assert np.allclose(one[place], other[0], rtol=1e-5, atol=1e-6)


def test_images_are_cropped_only_if_the_network_says_so():
    images = jnp.arange(2 * 5 * 5, dtype=jnp.uint8).reshape(2, 5, 5, 1)
    assert np.array_equal(study._crop(jax.random.key(0), images, 2, jnp.asarray(False)), images)
    moved = study._crop(jax.random.key(0), images, 2, jnp.asarray(True))
    assert moved.shape == images.shape
    assert not np.array_equal(moved, images)


@pytest.fixture(scope="module")
def copies():
    """Two copies on two directions and two unperturbed ones, with points of 30 dimensions."""
    generator = np.random.default_rng(0)
    minimum = generator.standard_normal(30)
    starts = np.concatenate([generator.standard_normal((4, 30)), np.zeros((2, 30))])
    points = minimum + starts + np.cumsum(0.3 * generator.standard_normal((5, 6, 30)), axis=0)
    points[0] = minimum + starts
    parents = np.arange(30) - 6
    products = gram(points.reshape(30, 30), reference=minimum, parents=np.where(parents < 0, -1, parents))
    step_size = np.array([0.5, 1, 0.5, 1, 0, 0])
    losses = np.linspace([8.0] * 6, [0.0] * 6, 5)
    trajectories = measures.Trajectories(
        products,
        losses,
        np.arange(5) * 10,
        step_size,
        np.array([0, 0, 1, 1, 0, 1]),
        np.linspace([2.0] * 6, [1.0] * 6, 5),
    )
    return points - minimum, trajectories


def test_the_statistics_are_those_of_explicit_vectors(copies):
    points, trajectories = copies
    found = measures.trajectory_measures(trajectories, jax.random.key(0))
    drift = points[-1, 4:].mean(axis=0)
    start, end = points[0, :4], points[-1, :4]
    moved = start - end + drift
    length = np.linalg.norm(start, axis=1)
    assert np.allclose(found["inward"], (moved * start).sum(axis=1) / length**2)
    cosine = measures._towards_minimum(trajectories.gram, trajectories.step_size == 0)[1]
    assert np.allclose(cosine, (moved * start).sum(axis=1) / length / np.linalg.norm(moved, axis=1))
    assert np.allclose(found["return_drifted"], 1 - np.linalg.norm(end - drift, axis=1) / length)
    assert np.allclose(found["return_directions"], 0.5)
    apart = [np.linalg.norm(each[:, None] - each, axis=2).sum(axis=1) for each in (end, start)]
    assert np.allclose(found["end_spread"], apart[0] / apart[1])
    assert np.allclose(found["halving"], 20)


def test_halving_is_interpolated_and_ends_with_the_probe():
    losses = np.array([[4.0, 4.0, 4.0], [3.0, 1.0, 4.0], [1.0, 1.0, 3.0]])
    assert np.allclose(measures._halving(losses, np.array([0, 10, 20])), [15, 20 / 3, 20])


def test_shortened_trajectories_are_those_of_a_shorter_probe(copies):
    points, trajectories = copies
    short = measures.shortened(trajectories, 3)
    again = gram(points[:3].reshape(18, 30), reference=np.zeros(30), parents=np.concatenate([[-1] * 6, np.arange(12)]))
    assert short.updates.tolist() == [0, 10, 20]
    # The reference is another one, so that only what does not depend on it is the same.
    assert np.allclose(short.gram.products[1:, 1:], again.products[1:, 1:], atol=1e-9)


def networks(*, seeds=(0, 1)):
    """Return records in which `inward` orders the gap within cells, and `travel` knows the label noise alone."""
    generator = np.random.default_rng(0)
    records = []
    for cell in cells(replace(STUDIES["fashion"], seeds=seeds)):
        quality, noise = generator.standard_normal(2)
        gap = 0.2 + 0.1 * cell.levels["label_noise"] + 0.02 * quality + 0.002 * noise
        values = dict.fromkeys(scores.STATISTICS, None)
        for name in values:
            values[name] = (generator.standard_normal() + 0.1 * generator.standard_normal(6)).tolist()
        values["inward"] = [-quality] * 6
        values["travel"] = [cell.levels["label_noise"] + 0.05 * generator.standard_normal()] * 6
        probe = {"step_size": [0.5, 1] * 3, "direction": [0, 0, 1, 1, 2, 2], "loss_rise": [float(noise)] * 6}
        probe |= {"statistics": values, "half": values}
        random = generator.standard_normal(20)
        names = [*scores.BASELINES, *scores.CONTROLS]
        minimum = {"train_loss": float(random[19]), "updates": int(1000 + 100 * random[18]), "reached": True}
        minimum |= {"train_accuracy": 1.0, "test_accuracy": 1 - gap}
        records.append(
            {
                "cell": dict(cell.levels),
                "seed": cell.seed,
                "minimum": minimum,
                "baselines": dict(zip(names, random.tolist(), strict=False)),
                "probes": {"first": probe, "second": probe},
            }
        )
    return records


@pytest.fixture(scope="module")
def scored():
    data = scores.table(networks())
    found = scores.score(data, test_images=10_000, draws=20, permutations=199)
    return data, found, study_further.further(data, found, draws=20, permutations=199)


def test_a_measure_of_the_gap_predicts_it_and_one_of_a_factor_does_not(scored):
    _, found, _ = scored
    assert found["inward"].verdict == "adds"
    assert found["travel"].verdict == "artefact"
    assert found["inward"].adjusted > found["inward"].sufficient > 0
    assert found["travel"].adjusted < found["travel"].sufficient < 0.5
    assert found["travel"].tau > 0.3
    assert all(found[name].verdict in ("no", "artefact") for name in scores.STATISTICS if name != "inward")


def test_further_scores_tell_a_measure_of_the_gap_from_one_of_a_factor(scored):
    _, found, more = scored
    assert more["inward"].meets
    assert more["inward"].meets_uncorrected
    assert not more["travel"].meets_uncorrected
    assert more["inward"].within > 0.5 > abs(more["travel"].within)
    assert more["inward"].within_pairs == 64  # two seeds in each cell
    assert more["inward"].within_p == 1 / 200
    assert more["inward"].second_order > 0.5
    low, high = more["inward"].without_cell
    assert low <= found["inward"].granulated <= high
    assert more["inward"].beside_rise_interval[0] > 0
    # Of the statistics the corrected p-values are those that decide; those of each group are never smaller.
    assert [more[name].p_corrected for name in scores.STATISTICS] == [found[name].p_value for name in scores.STATISTICS]
    assert all(more[name].p_corrected >= found[name].p_uncorrected for name in scores.DIRECTIONS)


def test_with_one_seed_no_pair_differs_in_the_seed_alone():
    data = scores.table(networks(seeds=(0,)))
    found = scores.score(data, test_images=10_000, draws=3, permutations=9)
    more = study_further.further(data, found, draws=3, permutations=9)["inward"]
    assert more.within_pairs == 0
    assert np.isnan([more.within, more.within_p]).all()


@pytest.mark.slow  # by default `test_a_measure_of_the_gap_predicts_it...` decides by the other rules
def test_a_measure_that_is_wrong_along_a_hyperparameter_does_not_predict():
    records = networks()
    for record in records:
        statistics = record["probes"]["first"]["statistics"]
        # Smaller values are expected with larger gaps; label noise makes both larger.
        statistics["inward"] = [value + 5 * record["cell"]["label_noise"] for value in statistics["inward"]]
    found = scores.score(scores.table(records), test_images=10_000, draws=40, permutations=99)
    assert found["inward"].reversed_along == ("label_noise",)
    assert found["inward"].verdict not in ("predicts", "adds")


def test_one_seed_chooses_and_the_other_confirms():
    found = scores.confirm(scores.table(networks()), permutations=199)
    assert found.name == "inward"
    assert found.p_value < 0.05
    assert scores.confirm(scores.table(networks(seeds=(0,)))) is None


def test_the_audit_names_fragile_statistics():
    records = networks()
    for record in records:
        other = {**record["probes"]["first"], "statistics": dict(record["probes"]["first"]["statistics"])}
        other["statistics"]["inward"] = [-value for value in other["statistics"]["inward"]]
        record["probes"]["second"] = other
    found = scores.audit(records, np.ones(len(records), bool))
    assert scores.is_fragile(found["inward"])
    adjusted = scores.audit(records, np.ones(len(records), bool), adjusted_tau)
    assert adjusted["inward"]["another learning rate"] == pytest.approx(-adjusted["inward"]["as designed"])
    assert adjusted.keys() == found.keys()
    assert not scores.is_fragile({"as designed": 0.3, "half the updates": 0.1})


@pytest.mark.slow
def test_the_page_has_a_row_for_every_measure(monkeypatch, tmp_path):
    about = {"about": {"device": "a device", "commit": "a commit"}, "networks": networks()}
    (tmp_path / "fashion.json").write_text(json.dumps(about))
    monkeypatch.setattr(
        study_results, "score", lambda data, **options: scores.score(data, draws=10, permutations=19, **options)
    )
    monkeypatch.setattr(
        study_results, "further", lambda *given: study_further.further(*given, draws=10, permutations=19)
    )
    monkeypatch.setattr(study_results, "confirm", lambda data: scores.confirm(data, permutations=19))
    page = ["generalization.py", "--study", "fashion", "--results", str(tmp_path), "--page", str(tmp_path / "page.md")]
    monkeypatch.setattr("sys.argv", page)
    with pytest.raises(FileNotFoundError, match="fashion has no scores: --study fashion --score computes them"):
        generalization.main()
    monkeypatch.setattr("sys.argv", [*page, "--score"])
    generalization.main()
    text = (tmp_path / "page.md").read_text()
    for name in scores.DIRECTIONS:
        assert f"| `{name}` |" in text
    assert (tmp_path / "page.png").exists()
    assert (tmp_path / "page-fashion.png").exists()
    (tmp_path / "fashion.json").write_text(json.dumps(about | {"other": 1}))
    with pytest.raises(ValueError, match="has the scores of other numbers"):
        study_results.read_result("fashion", tmp_path)


def test_repeated_networks_are_compared_number_by_number():
    records = networks()[:3]
    other = json.loads(json.dumps(records))
    other[1]["probes"]["first"]["loss_rise"][0] *= 1.01
    found = study_files.compare(other, records)
    assert (found["networks"], found["same"]) == (3, 2)
    assert found["largest_difference"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (("adds", "adds"), "**Yes.** On both data sets, `inward`"),
        (("adds", "predicts"), "**Yes, but nothing that is not known otherwise.** On both data sets, `inward`"),
        (("adds", "artefact"), "**No.** No statistic of retrained copies predicts the gap on both data sets, by the"),
        (("artefact", "artefact"), "**No.** No statistic of retrained copies predicts the gap on either data set"),
    ],
)
def test_the_plain_answer_follows_from_the_verdicts_on_both_data_sets(scored, verdicts, words):
    data, found, more = scored
    of_one = {name: scores_of._replace(verdict="no") for name, scores_of in found.items()}
    results = {
        name: study_results.Result(
            SMOKE,
            {},
            data,
            of_one | {"inward": of_one["inward"]._replace(verdict=verdict)},
            more,
            None,
            {},
            {},
            {},
            None,
        )
        for name, verdict in zip(("fashion", "digits"), verdicts, strict=True)
    }
    lines = study_page.answer(results)
    assert any(line.startswith(words) for line in lines)
    statistics, baselines = (
        next(line for line in lines if line.startswith(f"- **{name}, on both data sets:**"))
        for name in ("Statistics", "Baselines")
    )
    adding = "`inward`" if verdicts == ("adds", "adds") else "none"
    assert f"; add to the best baseline: {adding};" in statistics
    assert "meet the conditions of a prediction: none;" in baselines


def test_digits_have_as_many_test_images_as_the_study_says():
    assert len(load_dataset("digits").test_labels) == STUDIES["digits"].test_images


@pytest.mark.slow  # the parts are tested above
def test_a_study_runs_resumes_and_repeats_its_numbers(tmp_path, monkeypatch, capsys):
    command = ["generalization.py", "--study", "smoke", "--folder", str(tmp_path / "runs"), "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    generalization.main()
    written = (tmp_path / "smoke.json").read_text()
    records = json.loads(written)["networks"]
    assert [record["seed"] for record in records] == [0] * 2 + [1] * 2
    assert set(scores.table(records).measures) == set(scores.DIRECTIONS)
    assert all(np.isfinite(values).all() for values in scores.table(records).measures.values())
    one_less = json.loads(written) | {"networks": records[1:]}
    (tmp_path / "smoke.json").write_text(json.dumps(one_less))
    with pytest.raises(ValueError, match="smoke has 3 of 4 networks"):
        study_results.score_study("smoke", tmp_path)
    study_files.record_file(tmp_path / "runs", cells(SMOKE)[0]).unlink()
    monkeypatch.setattr("sys.argv", [*command, "--plan"])
    generalization.main()
    assert "0 networks to train" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", command)
    generalization.main()
    assert json.loads((tmp_path / "smoke.json").read_text())["networks"] == records
    monkeypatch.setattr("sys.argv", [*command, "--repeat", "2"])
    generalization.main()
    assert "2 of 2 repeated networks have the same numbers" in capsys.readouterr().out
    repeated = json.loads((tmp_path / "smoke-repeat.json").read_text())
    assert (repeated["networks"], repeated["same"], repeated["largest_difference"]) == (2, 2, 0)
    # In another checkout, the committed numbers are enough; those of another design are refused.
    monkeypatch.setattr("sys.argv", [*command[:4], str(tmp_path / "elsewhere"), *command[5:], "--plan"])
    generalization.main()
    assert "0 networks to train" in capsys.readouterr().out
    (tmp_path / "smoke.json").write_text(written.replace('"target_loss": 0.5', '"target_loss": 0.4', 1))
    with pytest.raises(ValueError, match="another design"):
        generalization.main()

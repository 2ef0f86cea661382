"""The contents of a run folder after train, retrain, embed and plot, compared with numbers from its parameters."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import jaxscape as js
from jaxscape.runs import plot
from jaxscape.runs.exact import scale_free_panel
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.scale_free import scale_free_table
from jaxscape.runs.tables import read_csv

MEMBERS, EPOCHS, STEPS = 6, 2, 2  # of the fixture; epochs are counted from 0, steps are per epoch
SETTING = "phate-cosine-none-knn3"
LABELS = {
    "member": np.tile(np.arange(MEMBERS), EPOCHS + 1),
    "seed": np.tile([0, 0, 1, 1, 0, 1], EPOCHS + 1),
    "step_size": np.tile([0.5, 1.0, 0.5, 1.0, 0, 0], EPOCHS + 1),
    "epoch": np.repeat(np.arange(EPOCHS + 1), MEMBERS),
    "update": np.repeat(STEPS * np.arange(EPOCHS + 1), MEMBERS),
}
PERTURBED = LABELS["step_size"] > 0  # the others are controls, which are not embedded


@pytest.fixture(scope="module")
def store(finished):
    return js.TrajectoryStore.open(finished / "trajectories")


@pytest.fixture(scope="module")
def minimum(finished):
    """Parameters and model state, read with orbax alone."""
    return jax.tree.map(np.asarray, ocp.load((finished / "minimum" / "parameters").absolute()))


@pytest.fixture(scope="module")
def rows(store):
    """float64 (n, P), all snapshots epoch by epoch."""
    return np.concatenate(list(store.blocks(10**6)), axis=1).astype(np.float64)


@pytest.fixture(scope="module")
def report(finished):
    return json.loads((finished / "report.json").read_text())


def test_the_folder_holds_the_documented_files_and_nothing_unfinished(finished):
    found = {path.name for path in finished.iterdir()}
    assert found == {
        *("config.json", "minimum", "trajectories", "resume", "metrics.csv", "gram.npz", "geometry.csv"),
        *("embeddings", "report.json", "figures", "checksums.json"),
    }
    assert not [path for path in finished.rglob("*") if "tmp" in path.name]


def test_the_record_holds_the_settings_and_the_environment(finished, images):
    record = json.loads((finished / "config.json").read_text())
    assert record["train"]["data_dir"] == str(images)
    assert (record["train"]["epochs"], record["train"]["train_size"]) == (2, 40)
    assert record["retrain"]["seeds"] == [0, 1]
    assert record["retrain"]["strategy"] == "auto"
    assert record["strategy"]["chosen"] in ("loop", "threads")
    assert record["strategy"]["chosen"] in record["strategy"]["seconds_per_step"]
    assert record["environment"]["versions"]["jax"] == jax.__version__
    assert "cpu" in record["environment"]["device"]


def test_settings_are_read_without_importing_jax(finished):
    code = (
        "import sys; from jaxscape.runs.folder import RunFolder; assert 'jax' not in sys.modules, 'imported'; "
        "run = RunFolder(sys.argv[1]); assert run.settings('train') and run.settings('retrain'); "
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, finished], check=True)


def test_copies_are_retrained_like_their_minimum(finished):
    record = json.loads((finished / "config.json").read_text())
    for setting in ("weight_decay", "augmentation", "batch_size"):
        assert record["retrain"][setting] == record["train"][setting]
    assert record["train"]["weight_decay"] > 0


def test_the_loss_of_the_minimum_is_that_of_the_stored_parameters(finished, images, minimum):
    data = js.take_training(js.load_dataset("mnist", data_dir=images, unchecked=True), 40)
    mean, deviation = data.train_images.mean(), data.train_images.std()
    logits = js.WideResNet(10, 1, 10).apply(
        {"params": minimum["params"], **minimum["model_state"]}, (data.test_images - mean) / deviation
    )
    metrics = json.loads((finished / "minimum" / "metrics.json").read_text())
    expected = -jax.nn.log_softmax(logits)[np.arange(20), data.test_labels].mean()
    np.testing.assert_allclose(metrics["test_loss"], expected, rtol=1e-5)


def test_metrics_have_one_row_per_member_and_epoch(finished):
    metrics = read_csv(finished / "metrics.csv")
    for name, expected in LABELS.items():
        np.testing.assert_array_equal(metrics[name], expected)
    for part in ("train", "test", "recalibrated_train", "recalibrated_test"):
        assert np.isfinite(metrics[f"{part}_loss"]).all()
        assert np.all((metrics[f"{part}_accuracy"] >= 0) & (metrics[f"{part}_accuracy"] <= 1))
    np.testing.assert_array_equal(np.isnan(metrics["epoch_loss"]), metrics["epoch"] == 0)


@pytest.mark.slow
def test_updates_are_counted_in_the_batches_of_the_copies(retrain, with_minimum):
    assert retrain(with_minimum, "--seeds", 1, "--batch-size", 10).code == 0
    assert js.TrajectoryStore.open(with_minimum / "trajectories").updates == [0, 4, 8]


def test_the_first_snapshot_is_the_jump(store, minimum):
    jumped = js.jump_grid(minimum["params"], seeds=[0, 1], step_sizes=[0.5, 1.0], controls=2).params
    jax.tree.map(lambda kept, made: np.testing.assert_array_equal(kept[0], made), store.read(epochs=0), jumped)


def test_the_row_labels_of_the_gram_matrix_are_those_of_the_trajectories(finished, store):
    with np.load(finished / "gram.npz") as kept:
        for name, expected in LABELS.items():
            np.testing.assert_array_equal(kept[f"label_{name}"], expected)
        assert kept["products"].shape == (19, 19)  # the minimum first
        assert kept["dimension"] == store.num_parameters


def test_geometry_has_norms_and_distances_of_every_row(finished, rows, minimum):
    geometry = read_csv(finished / "geometry.csv")
    center = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(minimum["params"])]).astype(np.float64)
    for name, expected in LABELS.items():
        np.testing.assert_array_equal(geometry[name], expected)
    np.testing.assert_allclose(geometry["norm"], np.linalg.norm(rows, axis=1), rtol=1e-12)
    np.testing.assert_allclose(geometry["distance"], np.linalg.norm(rows - center, axis=1), rtol=1e-10)


def test_coordinates_have_one_row_per_member_and_epoch_and_diagnostics(finished):
    columns = read_csv(finished / "embeddings" / SETTING / "coordinates.csv")
    diagnostics = json.loads((finished / "embeddings" / SETTING / "diagnostics.json").read_text())
    assert list(columns) == [*LABELS, "component", "x", "y"]
    for name, expected in LABELS.items():
        np.testing.assert_array_equal(columns[name], expected[PERTURBED])
    assert diagnostics["setting"]["knn"] == 3
    assert diagnostics["n_connected_components"] >= 1


def test_coordinates_are_the_public_embedding_of_the_public_distances(finished, store):
    columns = read_csv(finished / "embeddings" / SETTING / "coordinates.csv")
    with pytest.warns(UserWarning, match="disconnected components"):
        expected = js.phate(js.pairwise_distances(js.gram(store, members=range(4))), knn=3)
    # The sign of an axis and the last digits of the Gram matrix (here without the minimum) may differ.
    scale = np.abs(expected.embedding).max()
    np.testing.assert_allclose(
        np.abs(np.stack([columns["x"], columns["y"]], axis=1)), np.abs(expected.embedding), atol=1e-3 * scale
    )


def test_pictures_come_as_png_svg_and_pdf(finished):
    for name in (SETTING, "distance"):
        assert (finished / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")
        assert "<svg" in (finished / "figures" / f"{name}.svg").read_text()
        assert (finished / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_report_holds_the_geometry_that_the_public_functions_give(finished, report, store, minimum):
    perturbed = js.gram(store, reference=minimum["params"], members=range(4))
    summary = js.trajectory_geometry(perturbed).summary()
    every = js.gram(store, reference=minimum["params"])
    summary["return_drift"] = js.drift(every, np.arange(MEMBERS) >= 4).returned[:4]
    asked = RunFolder(finished).settings("retrain")
    optimizer = js.make_optimizer(asked.optimizer, asked.learning_rate, weight_decay=asked.weight_decay)
    split = js.split_displacements(perturbed, js.decay_factors(optimizer, 4)[LABELS["update"][PERTURBED]])
    summary |= {"inward_decay": split.decay[-1], "inward_loss": split.gradient[-1], "loss_cosine": split.cosine[-1]}
    assert (split.decay[-1] > 0).all()
    assert report["geometry"]["real"].keys() == summary.keys()
    for statistic, found in report["geometry"]["real"].items():
        expected = [summary[statistic].mean(), summary[statistic].std()]
        np.testing.assert_allclose([found["mean"], found["std"]], expected, rtol=1e-9, atol=1e-12)
        assert found["n"] == 4


def test_the_report_has_the_drift_of_the_minimum_itself(finished, report, rows, minimum):
    center = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(minimum["params"])]).astype(np.float64)
    ends = rows[-2:]
    np.testing.assert_array_equal(rows[:MEMBERS][4:], np.stack([center, center]))
    drift, norm = np.linalg.norm(ends.mean(axis=0) - center), np.linalg.norm(center)
    found = report["drift"]
    assert found["copies"] == 2
    np.testing.assert_allclose(found["over_norm"], drift / norm, rtol=1e-9)
    jumps = np.linalg.norm(rows[:4] - center, axis=1)
    np.testing.assert_allclose(found["over_smallest_jump"], drift / jumps.min(), rtol=1e-9)
    spread = np.linalg.norm(ends[0] - ends[1]) / 2
    np.testing.assert_allclose(found["spread_over_norm"], spread / norm, rtol=1e-9)
    geometry = read_csv(finished / "geometry.csv")
    by_epoch = rows.reshape(EPOCHS + 1, MEMBERS, -1)
    to_mean = np.linalg.norm(by_epoch - by_epoch[:, 4:].mean(axis=1)[:, None], axis=2).ravel()
    np.testing.assert_allclose(geometry["distance_to_drifted"], to_mean, rtol=1e-9, atol=1e-8)
    for name in ("inward_decay", "inward_loss", "loss_cosine", "null_distance_over_jump"):
        assert np.isnan(geometry[name][~PERTURBED]).all()
    assert np.isfinite(geometry["inward_loss"][PERTURBED]).all()


def test_the_report_has_nulls_of_each_kind(report):
    surrogates = report["geometry"]["surrogates"]
    assert surrogates.keys() == {"rotated", "exchange", "random", "decay"}
    assert surrogates["rotated"] == report["geometry"]["null"]
    draws = report["null"]["draws"]
    assert {kind: found["path"]["n"] // 4 for kind, found in surrogates.items()} == {
        **dict.fromkeys(("rotated", "exchange", "random"), draws),
        "decay": 1,
    }
    assert surrogates["decay"]["norm_change"]["mean"] < 0


def test_rotated_trajectories_in_the_report_are_as_long_as_the_real_ones(report):
    real, null = (report["geometry"][kind]["path"] for kind in ("real", "null"))
    np.testing.assert_allclose(null["mean"], real["mean"], rtol=1e-9)
    assert null["n"] == report["null"]["draws"] * 4


def test_the_report_has_the_minimum_the_embedding_and_the_time_of_every_stage(finished, report):
    metrics = json.loads((finished / "minimum" / "metrics.json").read_text())
    assert metrics.items() >= (report["minimum"] | {"epochs": 2}).items()
    assert list(report["embeddings"]) == [SETTING]
    assert report["timings"].keys() == {"train", "retrain", "measure", "embed"}
    assert report["diverged"] == []


def test_info_prints_the_stages_and_the_numbers(jaxscape, finished, report):
    outcome = jaxscape("info", finished)
    assert outcome.code == 0
    stages = f"stages done: train, retrain (2 of 2 epochs), distances and geometry, embed {SETTING}, plot (5 figures)"
    assert stages in outcome.out
    assert f"{report['geometry']['real']['end_spread']['mean']:.3f}" in outcome.out


def test_the_minimum_can_be_embedded_too(jaxscape, run):
    outcome = jaxscape("embed", run, "--method", "pca", "--include-minimum")
    assert outcome.code == 0, outcome.err
    columns = read_csv(run / "embeddings" / "pca-euclidean-with-minimum" / "coordinates.csv")
    assert columns["member"].tolist() == [-1, *LABELS["member"][PERTURBED]]
    places = np.stack([columns["x"], columns["y"]], axis=1)
    from_minimum = np.linalg.norm(places[1:] - places[0], axis=1)
    # Projected distances never exceed the original ones, and a plane preserves most of two directions.
    real = read_csv(run / "geometry.csv")["distance"][PERTURBED]
    assert np.all(from_minimum <= real * (1 + 1e-9))
    assert from_minimum.max() > 0.5 * real.max()


@pytest.mark.slow
def test_every_method_is_embedded_and_all_are_drawn_side_by_side(jaxscape, run):
    settings = {
        "tsne": ["tsne-cosine-none"],
        "umap": ["umap-cosine-none"],
        "random": ["random-euclidean"],
        "phate-package": ["phate-package-cosine-none-knn3", "--knn", 3],
        "phate": ["phate-cosine-none-knnconnect", "--knn", "connect"],
    }
    for method, (setting, *options) in settings.items():
        outcome = jaxscape("embed", run, "--method", method, *options)
        assert outcome.code == 0, outcome.err
        columns = read_csv(run / "embeddings" / setting / "coordinates.csv")
        assert np.isfinite([columns["x"], columns["y"]]).all()
    diagnostics = json.loads((run / "embeddings" / setting / "diagnostics.json").read_text())
    assert diagnostics["n_connected_components"] == 1
    assert diagnostics["setting"]["knn"] == "connect"
    assert diagnostics["knn"] == diagnostics["connecting_knn"]
    assert jaxscape("plot", run).code == 0
    assert {"methods.png", "methods.svg"} <= {file.name for file in (run / "figures").iterdir()}


def test_landmarks_and_cosines_of_potentials_have_separate_names(jaxscape, run):
    outcome = jaxscape("embed", run, "--knn", 3, "--landmarks", 8, "--potential", "cosine")
    assert outcome.code == 0, outcome.err
    columns = read_csv(run / "embeddings" / f"{SETTING}-potential-cosine-landmarks8" / "coordinates.csv")
    assert len(columns["x"]) == 12


@pytest.mark.slow
def test_three_dimensions_are_drawn(jaxscape, run):
    outcome = jaxscape("embed", run, "--knn", 3, "--n-components", 3)
    assert outcome.code == 0, outcome.err
    assert jaxscape("plot", run).code == 0
    assert (run / "figures" / f"{SETTING}-3d.png").exists()


def test_metric_mds_has_the_minimum_and_preserves_the_distances_best(jaxscape, run):
    for method in ("mds", "pca"):
        outcome = jaxscape("embed", run, "--method", method)
        assert outcome.code == 0, outcome.err

    def drawn(method):
        columns = read_csv(run / "embeddings" / f"{method}-euclidean" / "coordinates.csv")
        places = np.stack([columns["x"], columns["y"]], axis=1)
        return columns["member"], np.linalg.norm(places[:, None] - places[None], axis=2)

    def stress(wanted, found):
        scale = (wanted * found).sum() / (found**2).sum()
        return np.sqrt(((wanted - scale * found) ** 2).sum() / (wanted**2).sum())

    measured = js.Run(run, quiet=True).measured()
    distances = js.pairwise_distances(measured.gram, metric="euclidean", include_reference=True)
    record = json.loads((run / "embeddings" / "mds-euclidean" / "diagnostics.json").read_text())
    member, of_mds = drawn("mds")
    assert member.tolist() == [-1, *LABELS["member"][PERTURBED]]
    assert record["stress"] == pytest.approx(stress(distances, of_mds), rel=1e-6)
    _, of_pca = drawn("pca")
    assert stress(distances[1:, 1:], of_mds[1:, 1:]) < stress(distances[1:, 1:], of_pca)


@pytest.mark.slow
def test_metric_mds_is_drawn(jaxscape, run):
    assert jaxscape("embed", run, "--method", "mds").code == 0
    outcome = jaxscape("plot", run)
    assert outcome.code == 0, outcome.err
    assert (run / "figures" / "mds-euclidean.png").exists()


@pytest.mark.slow
def test_the_exact_views_are_drawn_first(jaxscape, run):
    outcome = jaxscape("plot", run)
    assert outcome.code == 0, outcome.err
    expected = [f"{name}.{ending}" for name in ("polar", "plane") for ending in ("png", "svg", "pdf")]
    assert [Path(line).name for line in outcome.out.splitlines()[:6]] == expected
    assert (run / "figures" / "polar.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_unperturbed_copy_has_no_distance_in_jumps_and_is_drawn(jaxscape, retrain, with_minimum):
    for outcome in (
        retrain(with_minimum, "--seeds", 1, "--step-sizes", 0, 1),
        jaxscape("embed", with_minimum, "--knn", 1),
        jaxscape("plot", with_minimum),
    ):
        assert (outcome.code, outcome.err) == (0, "")
    geometry = read_csv(with_minimum / "geometry.csv")
    np.testing.assert_array_equal(np.isnan(geometry["distance_over_jump"]), geometry["step_size"] == 0)
    assert (with_minimum / "figures" / "distance.png").exists()


@pytest.mark.slow
def test_bfloat16_activations_leave_snapshots_and_measurements_in_float32(retrain, finished, with_minimum, rows):
    outcome = retrain(with_minimum, "--precision", "bfloat16")
    assert outcome.code == 0, outcome.err
    store = js.TrajectoryStore.open(with_minimum / "trajectories")
    assert {leaf.dtype for leaf in jax.tree.leaves(store.read())} == {np.dtype(np.float32)}
    rounded = next(store.blocks(10**8))
    np.testing.assert_array_equal(rounded[:MEMBERS], rows[:MEMBERS])  # the perturbed starts
    ends = slice(-MEMBERS, None)
    moved = np.linalg.norm(rows[ends] - rows[:MEMBERS], axis=1)
    apart = np.linalg.norm(rounded[ends] - rows[ends], axis=1)
    assert ((apart > 0) & (apart < 0.3 * moved)).all(), apart / moved
    measured = [read_csv(folder / "metrics.csv") for folder in (with_minimum, finished)]
    for name in ("train_loss", "test_accuracy", "recalibrated_test_loss"):
        np.testing.assert_array_equal(*(columns[name][:MEMBERS] for columns in measured))


@pytest.mark.slow
def test_scale_free_views_are_drawn_on_request_and_their_table_is_stored(jaxscape, run, store, minimum):
    assert jaxscape("plot", run).code == 0
    assert not (run / "scale_free.csv").exists()
    assert not list((run / "figures").glob("*scale-free*"))
    outcome = jaxscape("plot", run, "--scale-free")
    assert outcome.code == 0, outcome.err
    drawn = [Path(line).name for line in outcome.out.splitlines() if line.endswith("scale-free.png")]
    assert drawn == ["polar-scale-free.png", "plane-scale-free.png"]
    table = read_csv(run / "scale_free.csv")
    for name, expected in LABELS.items():
        np.testing.assert_array_equal(table[name], expected)
    snapshots = [jax.tree.map(lambda leaf: leaf[0], store.read(epochs=epoch)) for epoch in range(EPOCHS + 1)]
    found = [js.scale_free(each, minimum["params"], snapshots[0]) for each in snapshots]
    np.testing.assert_array_equal(table["scale_free_distance"], np.concatenate([each.distance for each in found]))
    np.testing.assert_array_equal(table["scale_free_angle"], np.concatenate([each.angle for each in found]))
    panel = scale_free_panel(run)
    np.testing.assert_allclose(panel.distance, table["scale_free_distance"][PERTURBED] / found[0].norm)
    assert panel.begin == "jump"


@pytest.mark.slow
def test_a_stored_scale_free_table_is_read_and_a_damaged_one_recomputed(jaxscape, run):
    first = scale_free_table(run)
    with mock.patch("jaxscape.runs.scale_free._compute", side_effect=AssertionError):
        kept = scale_free_table(run)
    for name, values in first.columns.items():
        np.testing.assert_array_equal(kept.columns[name], values)
    assert kept.norm == first.norm
    whole = (run / "scale_free.csv").read_bytes()
    (run / "scale_free.csv").write_bytes(whole[:100])
    outcome = jaxscape("plot", run, "--scale-free")
    assert "it is recomputed" in outcome.out.replace("\n", " ")
    assert (run / "scale_free.csv").read_bytes() == whole


def test_figures_show_the_components_of_the_graph_which_earlier_embeddings_lack(jaxscape, finished, run):
    panel = plot._panel(finished, SETTING)
    columns = read_csv(finished / "embeddings" / SETTING / "coordinates.csv")
    np.testing.assert_array_equal(panel.component, columns["component"])
    assert panel.minimum_component is None
    outcome = jaxscape("embed", run, "--method", "phate", "--knn", 3, "--include-minimum")
    assert outcome.code == 0, outcome.err
    columns = read_csv(run / "embeddings" / f"{SETTING}-with-minimum" / "coordinates.csv")
    panel = plot._panel(run, f"{SETTING}-with-minimum")
    assert panel.minimum_component == columns["component"][columns["member"] == -1].item()
    np.testing.assert_array_equal(panel.component, columns["component"][columns["member"] >= 0])
    without = {name: values for name, values in columns.items() if name != "component"}
    with mock.patch.object(plot, "read_coordinates", return_value=without):
        assert plot._panel(run, f"{SETTING}-with-minimum").component is None


@pytest.mark.slow
def test_the_parts_of_displacements_of_runs_with_equal_titles_are_told_apart(finished, tmp_path):
    again = shutil.copytree(finished, tmp_path / "again")
    plot.plot_comparison([finished, again], tmp_path / "figures")
    drawn = (tmp_path / "figures" / "parts.svg").read_text()
    for name in (finished.name, "again"):
        for part in ("weight decay", "loss"):
            assert f"<!-- {name}: {part} -->" in drawn


@pytest.mark.slow
def test_the_parts_of_displacements_are_drawn(finished, jaxscape, retrain, with_minimum):
    drawn = (finished / "figures" / "parts.svg").read_text()
    assert "run: weight decay" in drawn or "good: weight decay" in drawn
    assert ": loss" in drawn
    assert retrain(with_minimum, "--optimizer", "adam").code == 0  # its weight decay passes through the moments
    assert jaxscape("embed", with_minimum, "--plot").code == 0
    assert not (with_minimum / "figures" / "parts.png").exists()
    report = json.loads((with_minimum / "report.json").read_text())
    assert "inward_loss" not in report["geometry"]["real"]
    assert set(report["geometry"]["surrogates"]) == {"rotated", "exchange", "random"}


@pytest.mark.slow
def test_a_null_with_weight_decay_is_refused_if_the_decay_is_unknown(jaxscape, retrain, with_minimum):
    assert retrain(with_minimum, "--optimizer", "adam").code == 0
    outcome = jaxscape("embed", with_minimum, "--null", "decay")
    assert outcome.code == 1
    assert "null decay needs a weight decay that shrinks all parameters by the same factor" in outcome.err

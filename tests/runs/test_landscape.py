"""Stages of the landscape: surface, path and curvature of a run folder; resumed, done, damaged and refused."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
import tiny_runs

import jaxscape as js
from jaxscape.landscape.planes import plane_weights
from jaxscape.runs import curvature, images, landscape_stage, path, surface
from jaxscape.runs.config import train_preset
from jaxscape.runs.curvature import measure_curvature
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.images import image_axes, image_landscape
from jaxscape.runs.kept import kept_names, read_kept
from jaxscape.runs.landscape_config import CurvatureConfig, PathConfig, SurfaceConfig
from jaxscape.runs.minimum import read_minimum
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.path import measure_path
from jaxscape.runs.progress import make_console
from jaxscape.runs.surface import measure_surface
from jaxscape.training.objective import mean_metrics, objective
from jaxscape.training.statistics import recalibration
from jaxscape.xla_cpu import compiler

QUIET = make_console(silent=True)
GRID = SurfaceConfig(points=3)
ON_TRAJECTORY = SurfaceConfig(plane="trajectory", points=3, every=2)


@pytest.fixture(scope="module")
def own(finished):
    return image_landscape(finished)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, finished, own):
    """A run with two surfaces and a spectrum. Tests do not change it."""
    run = RunFolder(shutil.copytree(finished, tmp_path_factory.mktemp("measured") / "run"))
    for config in (GRID, ON_TRAJECTORY):
        measure_surface(run, config, own, console=QUIET)
    return run


def loss_at(own, params, model_state, split="train"):
    over = objective(own.problem, split=split)
    again = recalibration(own.problem, params, model_state)(params, model_state)
    return float(mean_metrics(compiler.jit(over.metrics), over, params, again)["loss"])


def test_a_surface_agrees_with_the_loss_of_networks_built_by_hand(measured, own):
    kept, minimum = read_kept(measured.surfaces / GRID.name), read_minimum(measured)
    values = kept.values["grid:loss"]
    np.testing.assert_array_equal(kept.values["x"], [-1, 0, 1])
    np.testing.assert_allclose(values[1, 1], loss_at(own, minimum.params, minimum.model_state), rtol=1e-5)
    directions = [
        js.filter_normalize(js.random_direction(jax.random.key(seed), minimum.params), minimum.params)
        for seed in (0, 1)
    ]
    corner = jax.tree.map(lambda w, d, e: w + d - e, minimum.params, *directions)
    np.testing.assert_allclose(values[0, 2], loss_at(own, corner, minimum.model_state), rtol=1e-4)
    assert kept.record["statistics"] == "recalibrated"
    assert kept.record["not_finite"] == {"accuracy": 0, "loss": 0}
    assert not (measured.surfaces / GRID.name / "partial.npz").exists()


def test_projected_trajectories_agree_with_dense_arithmetic(measured, own):
    kept = read_kept(measured.surfaces / ON_TRAJECTORY.name)
    store, minimum = js.TrajectoryStore.open(measured.trajectories), read_minimum(measured)
    members = [member for member, label in enumerate(store.labels) if label["step_size"]]
    points = np.concatenate(list(store.blocks(10**6, members=members)), axis=1).astype(float)
    start = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(minimum.params)]).astype(float)
    centred = points - points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    shares = sizes**2 / (sizes**2).sum()
    np.testing.assert_allclose(kept.record["shares"], shares[:10], atol=1e-6)
    expected = np.abs((points - start) @ axes[:2].T)
    np.testing.assert_allclose(np.abs(kept.values["coordinates"]), expected, rtol=1e-3, atol=1e-4)
    away = ((points - start) ** 2).sum(axis=1)
    np.testing.assert_allclose(kept.values["outside"], np.sqrt(1 - (expected**2).sum(axis=1) / away), atol=1e-3)
    rows = kept.values["rows"]
    assert np.unique(kept.values["column:epoch"][rows]).tolist() == [0, 2]
    first = jax.tree.map(lambda leaf: leaf[0, 0], store.read(0, members[0]))
    np.testing.assert_allclose(kept.values["points:loss"][0], loss_at(own, first, minimum.model_state), rtol=1e-4)
    assert 0 < sum(kept.record["null_shares"][:2]) < 1
    x, y = kept.values["x"], kept.values["y"]
    assert x[0] < kept.values["coordinates"][:, 0].min() < kept.values["coordinates"][:, 0].max() < x[-1]
    assert y[0] < 0 < y[-1]


def test_existing_measurements_are_not_repeated(measured, own, monkeypatch):
    monkeypatch.setattr(surface, "surface", None)
    measure_surface(measured, GRID, own, console=QUIET)
    assert kept_names(measured.surfaces) == sorted([GRID.name, ON_TRAJECTORY.name])


def test_the_strategy_changes_no_name_and_no_result(tmp_path, finished, measured, own):
    run = shutil.copytree(finished, tmp_path / "run")
    folder = measure_surface(run, SurfaceConfig(points=3, strategy="loop"), own, console=QUIET)
    assert folder.name == GRID.name
    assert (folder / "values.npz").read_bytes() == (measured.surfaces / GRID.name / "values.npz").read_bytes()


class Killed(Exception):
    pass


def killed_after(number, function):
    """Wrap a function so that it works this many times, and then raises an error like a killed process."""
    calls = iter(range(number))

    def call(*args, **kwargs):
        if next(calls, None) is None:
            raise Killed
        return function(*args, **kwargs)

    return call


def test_an_interrupted_surface_resumes_to_the_same_bytes(tmp_path, finished, measured, own, monkeypatch):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.setattr(surface, "SECONDS_BETWEEN_PARTS", -1)
    with monkeypatch.context() as patch:
        patch.setattr(surface, "write_partial", killed_after(3, surface.write_partial))
        with pytest.raises(Killed):
            measure_surface(run, GRID, own, console=QUIET)
    folder = run.surfaces / GRID.name
    assert [path.name for path in folder.iterdir()] == ["partial.npz"]
    evaluated = []
    evaluate = surface.surface
    monkeypatch.setattr(
        surface, "surface", lambda *args, **how: evaluated.append(how["done"]) or evaluate(*args, **how)
    )
    measure_surface(run, GRID, own, console=QUIET)
    assert 1 <= evaluated[0].done.sum() < 9
    assert (folder / "values.npz").read_bytes() == (measured.surfaces / GRID.name / "values.npz").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["record.json", "values.npz"]


@pytest.mark.parametrize("name", ["values.npz", "record.json"])
def test_a_damaged_surface_is_named_and_recomputed(jaxscape, tmp_path, measured, own, name):
    run = RunFolder(shutil.copytree(measured, tmp_path / "run"))
    file = run.surfaces / GRID.name / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert f"{file}" in jaxscape("info", run).out
    measure_surface(run, GRID, own, console=QUIET)
    assert file.read_bytes() == whole


def test_another_minimum_has_another_surface(tmp_path, measured, own, monkeypatch):
    run = RunFolder(shutil.copytree(measured, tmp_path / "run"))
    monkeypatch.setattr(landscape_stage, "checksum", lambda tree: "another")
    monkeypatch.setattr(surface, "surface", killed_after(0, surface.surface))
    with pytest.raises(Killed):
        measure_surface(run, GRID, own, console=QUIET)


@pytest.mark.slow
def test_curvature_is_that_of_the_loss_and_resumes_to_the_same_bytes(tmp_path, finished, own, monkeypatch):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    config = CurvatureConfig(k=2, steps=6, probes=1, at="starts")
    with pytest.warns(UserWarning, match="num_steps"):
        folder = measure_curvature(run, config, own, console=QUIET)
    kept = read_kept(folder)
    assert kept.values["column:member"].tolist() == [-1, 0, 1, 2, 3]
    assert kept.values["eigenvalues"].shape == (5, 2)
    minimum = read_minimum(run)
    again = recalibration(own.problem, minimum.params, minimum.model_state)(minimum.params, minimum.model_state)
    with pytest.warns(UserWarning, match="num_steps"):
        found = js.hessian_spectrum(
            own.problem, minimum.params, model_state=again, k=2, num_steps=6, probes=1, key=curvature.probe_key(0)
        )
    np.testing.assert_array_equal(kept.values["eigenvalues"][0], found.eigenvalues)
    other = RunFolder(shutil.copytree(finished, tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(curvature, "write_partial", killed_after(2, curvature.write_partial))
        with pytest.raises(Killed), pytest.warns(UserWarning, match="num_steps"):
            measure_curvature(other, config, own, console=QUIET)
    with pytest.warns(UserWarning, match="num_steps"):
        measure_curvature(other, config, own, console=QUIET)
    for name in ("values.npz", "record.json"):
        assert (other.curvature / config.name / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_a_path_between_minima_resumes_to_the_same_bytes(tmp_path, finished, train, own, monkeypatch):
    runs = [RunFolder(shutil.copytree(finished, tmp_path / name)) for name in ("run", "again")]
    other = tmp_path / "other"
    assert train(other, "--seed", 1).code == 0
    config = PathConfig(epochs=3, points=3)
    folder = measure_path(runs[0], other, config, own, axes=image_axes, console=QUIET)
    kept = read_kept(folder)
    ends = [read_minimum(run) for run in (runs[0], other)]
    for way in ("straight", "matched", "curve"):
        found = kept.values[f"{way}:loss"]
        np.testing.assert_allclose(found[0], loss_at(own, ends[0].params, ends[0].model_state), rtol=1e-4)
        np.testing.assert_allclose(found[-1], loss_at(own, ends[1].params, ends[1].model_state), rtol=1e-4)
    assert kept.record["lengths"]["matched"] <= kept.record["lengths"]["straight"]
    assert len(kept.values["losses"]) == 3
    monkeypatch.setattr(path, "SECONDS_BETWEEN_STATES", -1)
    with monkeypatch.context() as patch:
        patch.setattr(path, "save_state", killed_after(2, path.save_state))
        with pytest.raises(Killed):
            measure_path(runs[1], other, config, own, axes=image_axes, console=QUIET)
    measure_path(runs[1], other, config, own, axes=image_axes, console=QUIET)
    found = RunFolder(runs[1]).paths / path.path_name(other, config)
    assert (found / "values.npz").read_bytes() == (folder / "values.npz").read_bytes()


@pytest.mark.slow
def test_commands_measure_and_draw(jaxscape, run):
    for words, pictures in (
        (("surface", run, "--points", 3), ["surface-filter-seed0+1-3-train", "surface-filter-seed0+1-3-train-3d"]),
        (("surface", run, "--points", 5, "--seeds", 2), ["surface-filter-seed2-5-train"]),
        (
            ("surface", run, "--plane", "trajectory", "--points", 3, "--every", 2),
            ["surface-trajectory-axis0+1-3-train-every2-trajectories"],
        ),
        (
            ("curvature", run, "--k", 1, "--steps", 30, "--probes", 1),
            ["curvature-hessian-minimum-train-k1-steps30-probes1"],
        ),
    ):
        outcome = jaxscape(*words)
        assert outcome.code == 0, outcome.err
        for name in pictures:
            for ending in ("png", "svg", "pdf"):
                assert (run / "figures" / f"{name}.{ending}").stat().st_size > 1000
    assert jaxscape("report", run).code == 0
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    said = jaxscape("info", run).out
    assert "surface filter-seed0+1-3-train" in said
    assert "curvature hessian-minimum-train-k1-steps30-probes1" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("surface", "--points", 1), "points must be at least 2, got 1"),
        (("surface", "--seeds", 0, 1, 2), "seeds must be one (a line) or two (a plane), got (0, 1, 2)"),
        (("surface", "--seeds", 1, 1), "seeds"),
        (("surface", "--extent", 0), "extent must be a finite number above 0, got 0.0"),
        (("surface", "--every", 0), "every must be at least 1, got 0"),
        (("surface", "--strategy", "fast"), "unknown strategy 'fast'; known: loop, threads, vmap"),
        (("surface", "--plane", "trajectory", "--axes", 0, 99), "axes must be one or two distinct numbers"),
        (("curvature", "--strategy", "grad_vmap"), "unknown strategy 'grad_vmap'; known: loop, threads, vmap"),
        (("curvature", "--k", 0), "k must be at least 1, got 0"),
        (("curvature", "--k", 5, "--steps", 4), "steps must be at least 5, got 4"),
        (("curvature", "--split", "evaluate"), "split must be train or test"),
        (("curvature", "--leaves", "nothing*"), "nothing*"),
    ],
)
def test_bad_input_is_refused_in_one_line(jaxscape, measured, words, message):
    command, *rest = words
    outcome = jaxscape(command, measured, *rest)
    assert outcome.code in (1, 2)
    assert message in outcome.err.splitlines()[-1]


def test_a_run_without_a_minimum_has_no_filter_plane(jaxscape, tiny):
    outcome = jaxscape("surface", tiny["compared"].folder, "--problem", "tiny_runs:problem")
    assert outcome.code == 1
    assert "plane filter requires a minimum" in outcome.err


def tiny_run(tiny, name, path):
    return js.Run(shutil.copytree(tiny[name].folder, path), tiny_runs.problem(), quiet=True)


def test_measurements_of_an_own_problem_agree_with_its_formula(tiny, tmp_path):
    """With rows of the identity as data, the loss is the mean squared distance of the parameters from 1."""
    run = tiny_run(tiny, "retrained", tmp_path / "run")
    w = np.asarray(run.minimum().params["w"], float)
    line = read_kept(run.surface(seeds=[3], points=5, extent=0.5))
    direction = js.filter_normalize(js.random_direction(jax.random.key(3), {"w": w}), {"w": w})["w"]
    expected = [np.mean((w + x * np.asarray(direction) - 1) ** 2) for x in line.values["x"]]
    np.testing.assert_allclose(line.values["grid:loss"], expected, rtol=1e-5)
    assert line.record["statistics"] == "none"
    of_test = read_kept(run.surface(seeds=[3], points=5, extent=0.5, split="evaluate"))
    np.testing.assert_allclose(of_test.values["grid:test_loss"], 2 * np.array(expected), rtol=1e-5)
    found = read_kept(run.curvature(k=2, steps=12, probes=2)).record  # the Hessian is 2/12 times the identity
    np.testing.assert_allclose(found["eigenvalues"], [1 / 6, 1 / 6], rtol=1e-5)
    np.testing.assert_allclose(found["trace"], 2, rtol=1e-5)
    assert {path.suffix for path in run.folder.figures.glob("curvature-*")} == {".png", ".svg", ".pdf"}


@pytest.mark.parametrize("name", ["compared", pytest.param("recorded", marks=pytest.mark.slow)])
def test_trajectories_without_a_minimum_have_a_plane_through_their_mean(tiny, tmp_path, name):
    run = tiny_run(tiny, name, tmp_path / "run")
    kept = read_kept(run.surface(plane="trajectory", points=3, every=1))
    points = np.concatenate(list(run.store().blocks(10**6)), axis=1).astype(float)
    axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][:2]
    expected = (points - points.mean(axis=0)) @ axes.T if name == "compared" else (points - points[-1]) @ axes.T
    np.testing.assert_allclose(np.abs(kept.values["coordinates"]), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(kept.values["points:loss"], ((points - 1) ** 2).mean(axis=1), rtol=1e-5)


def test_a_path_on_a_convex_loss_has_no_barrier(tiny, tmp_path):
    run, other = (tiny_run(tiny, "retrained", tmp_path / name) for name in ("run", "other"))
    shutil.rmtree(other.folder)
    other.train(optax.sgd(0.05), epochs=3, batch_size=2, seed=1)
    kept = read_kept(run.path(other.folder, epochs=5, points=5, bends=2, kind="polygon"))
    assert "matched:loss" not in kept.values
    assert kept.record["barriers"]["straight"]["loss"]["height"] == 0
    a, b = (np.asarray(each.minimum().params["w"], float) for each in (run, other))
    np.testing.assert_allclose(kept.values["straight:loss"][2], np.mean(((a + b) / 2 - 1) ** 2), rtol=1e-5)
    np.testing.assert_allclose(kept.record["lengths"]["straight"], np.linalg.norm(a - b), rtol=1e-6)


def test_stacks_of_copies_have_the_curvature_of_each_and_resume_to_the_same_bytes(tiny, tmp_path, monkeypatch):
    config = CurvatureConfig(k=2, steps=12, probes=1, at="ends", strategy="vmap:2")
    runs = [tiny_run(tiny, "retrained", tmp_path / name) for name in ("run", "loop", "killed")]
    own = OwnProblem(tiny_runs.problem())
    together = measure_curvature(runs[0].folder, config, own, console=QUIET)
    one_by_one = measure_curvature(runs[1].folder, replace(config, strategy="loop"), own, console=QUIET)
    found, expected = read_kept(together).values, read_kept(one_by_one).values
    assert found["column:member"].tolist() == [-1, 0, 1, 2, 3]
    assert found.keys() == expected.keys()
    for name in ("eigenvalues", "lowest", "trace", "grid", "column:seed", "column:step_size"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    stacks = []
    spectrum = curvature.hessian_spectrum

    def counted(problem, params, **how):
        stacks.append((params["w"].shape, how["strategy"]))
        return spectrum(problem, params, **how)

    monkeypatch.setattr(curvature, "hessian_spectrum", counted)
    with monkeypatch.context() as patch:
        patch.setattr(curvature, "write_partial", killed_after(2, curvature.write_partial))
        with pytest.raises(Killed):
            measure_curvature(runs[2].folder, config, own, console=QUIET)
    folder = measure_curvature(runs[2].folder, config, own, console=QUIET)
    # The third stack was not saved and is measured again: its only point, padded by a copy of it.
    assert stacks == 4 * [((2, 4, 3), "vmap")]
    for name in ("values.npz", "record.json"):
        assert (folder / name).read_bytes() == (together / name).read_bytes()


@pytest.mark.slow
def test_copies_side_by_side_have_the_curvature_of_each(tiny, tmp_path):
    one, other = (
        read_kept(tiny_run(tiny, "retrained", tmp_path / name).curvature(k=1, steps=12, at="ends", strategy=strategy))
        for name, strategy in (("one", "loop"), ("other", "threads:3"))
    )
    assert one.values.keys() == other.values.keys()
    for name in ("eigenvalues", "lowest", "trace", "column:member"):
        np.testing.assert_allclose(one.values[name], other.values[name], rtol=1e-6)


def test_stacks_that_do_not_fit_are_halved(tiny, tmp_path, monkeypatch):
    run = tiny_run(tiny, "retrained", tmp_path / "run")
    sizes, spectrum = [], curvature.hessian_spectrum

    def small_device(problem, params, **how):
        sizes.append(len(params["w"]) if how["strategy"] else 1)
        if sizes[-1] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return spectrum(problem, params, **how)

    monkeypatch.setattr(curvature, "hessian_spectrum", small_device)
    with pytest.warns(RuntimeWarning, match="4 points at once do not fit into the device's memory; continuing with 2"):
        folder = run.curvature(k=1, steps=12, probes=1, at="starts", strategy="vmap:4")
    assert sizes == [4, 2, 2, 2]
    assert len(read_kept(folder).values["trace"]) == 5


def test_settings_of_python_are_checked(tiny, tmp_path):
    run = tiny_run(tiny, "retrained", tmp_path / "run")
    with pytest.raises(TypeError, match=r"^unknown setting size; known: split, batch_size"):
        run.surface(size=3)
    with pytest.raises(ValueError, match="unknown plane 'pca'; known: filter, trajectory"):
        run.surface(plane="pca")
    with pytest.raises(ValueError, match="needs the problem"):
        js.Run(run.folder, quiet=True).curvature()


def test_paths_need_two_networks_of_the_same_shape(jaxscape, measured, tiny):
    assert "no finished minimum" in jaxscape("path", measured, measured.parent / "nothing").err
    assert jaxscape("path", measured, tiny["retrained"].folder).code == 1
    assert "must be different networks, but they are equal" in jaxscape("path", measured, measured).err


def test_weights_of_a_plane_are_those_of_its_origin_at_zero(measured):
    plane = js.filter_plane(read_minimum(measured).params)
    np.testing.assert_array_equal(plane_weights(plane, np.zeros((1, 2))), [[1, 0, 0]])
    assert json.loads((measured.surfaces / GRID.name / "record.json").read_text())["kind"] == "directions"


def test_a_path_between_minima_of_different_data_warns(tmp_path, monkeypatch, recwarn):
    # Two memorization minima of different seeds have different random labels.
    good, first, second = (tmp_path / name for name in ("good", "first", "second"))
    configs = {good: train_preset("good", seed=1)} | {
        run: train_preset("memorization", seed=seed) for seed, run in enumerate((first, second))
    }
    monkeypatch.setattr(images, "_minimum", configs.get)
    for other in (first, second):
        with pytest.warns(
            UserWarning, match=rf"{other.name} was trained on other data than .* \(label_noise 1.0 instead"
        ):
            images.warn_if_data_differ(good, other)
    with pytest.warns(UserWarning, match=r"\(label_seed 1 instead of 0\); all losses are on the data of .*first"):
        images.warn_if_data_differ(first, second)
    configs[second] = replace(train_preset("good", seed=1), images_seed=5)
    with pytest.warns(UserWarning, match=r"\(images_seed 5 instead of None\)"):
        images.warn_if_data_differ(good, second)
    configs[second] = train_preset("good", seed=2)
    images.warn_if_data_differ(good, second)
    assert not recwarn

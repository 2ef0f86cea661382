"""The mode in which a landscape was measured: in the record, the folder's name, the caption, and what it is made of."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxscape as js
from jaxscape.runs import plot_landscape
from jaxscape.runs.kept import read_kept
from jaxscape.runs.landscapes import measurements
from jaxscape.trajectories.files import read_record, write_record

X = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
PARAMS = {"w": np.linspace(-1, 1, 3, dtype=np.float32)[:, None]}


def loss_fn(params, model_state, batch, key):
    """Linear regression with dropout of the inputs."""
    kept = jax.random.bernoulli(key, 0.5, batch.shape)
    return jnp.mean((jnp.where(kept, 2 * batch, 0) @ params["w"] - 1) ** 2), (model_state, {})


def plain_loss(params, model_state, batch, key):
    return jnp.mean((batch @ params["w"] - 1) ** 2), (model_state, {})


EVALUATED = {
    "predict": lambda params, model_state, batch: (batch @ params["w"])[:, 0],
    "score": lambda outputs, batch: {"loss": (outputs - 1) ** 2},
}


def run_of(folder, loss=loss_fn, **functions):
    run = js.Run(folder, js.Problem(loss, X, optimizer=optax.sgd(0.1), **functions), quiet=True)
    run.set_minimum(PARAMS)
    return run


def curvature(run):
    return run.curvature(k=1, steps=3, probes=1)


def in_training_mode(measure):
    with pytest.warns(UserWarning, match="training mode with one fixed PRNG key"):
        return measure()


def drop_objective(folder, **changes):
    """Turn a record into one of version 0.1, which had neither mode nor objective."""
    record = read_record(folder / "record.json")
    del record["made_of"]["objective"], record["mode"], record["fixed_key"]
    write_record(folder / "record.json", record | changes)


@pytest.fixture
def notes(monkeypatch):
    """The notes under the figures that are drawn."""
    notes = []
    for name in ("spectrum_figure", "line_figure", "path_figure"):
        draw = getattr(plot_landscape, name)

        def drawn(*panels, draw=draw, note, **rest):
            notes.append(note)
            return draw(*panels, note=note, **rest)

        monkeypatch.setattr(plot_landscape, name, drawn)
    return notes


def test_training_mode_is_warned_of_and_stands_in_record_name_caption_and_info(tmp_path, notes):
    run = run_of(tmp_path / "run")
    other = js.Run(tmp_path / "third", run.problem, quiet=True)
    other.set_minimum({"w": PARAMS["w"][::-1].copy()})
    for measure in (
        lambda: curvature(run),
        lambda: run.surface(seeds=(0,), points=3),
        lambda: run.path(tmp_path / "third", epochs=1, points=3),
    ):
        folder = in_training_mode(measure)
        assert folder.name.endswith("-training-mode")
        record = read_kept(folder).record
        assert (record["mode"], record["fixed_key"]) == ("train", True)
        assert "raining mode, one draw of dropout and augmentation" in notes[-1]
    assert [
        each.words.endswith("training mode, one draw of dropout and augmentation") for each in measurements(run.folder)
    ] == [True] * 3


def test_a_measurement_in_training_mode_is_not_up_to_date_in_evaluation_mode(tmp_path, notes):
    drawn = in_training_mode(lambda: curvature(run_of(tmp_path / "run")))
    evaluated = curvature(run_of(tmp_path / "run", **EVALUATED))
    assert evaluated.name == "hessian-minimum-train-k1-steps3-probes1"
    assert read_kept(evaluated).record["mode"] == "evaluate"
    assert notes[-1].startswith("Spectrum of the training loss; evaluation mode.")
    exact = np.linalg.eigvalsh(2 * X.T.astype(float) @ X / len(X))[-1]
    assert read_kept(evaluated).record["eigenvalues"][0] == pytest.approx(exact, rel=1e-4)
    assert read_kept(drawn).record["eigenvalues"][0] != pytest.approx(exact, rel=0.01)


def test_a_loss_without_random_numbers_needs_no_warning_but_is_measured_again_by_predict_and_score(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = curvature(run_of(tmp_path / "run", plain_loss))
    assert (read_kept(plain).record["mode"], read_kept(plain).record["fixed_key"]) == ("train", False)
    assert curvature(run_of(tmp_path / "run", plain_loss, **EVALUATED)) == plain
    assert read_kept(plain).record["mode"] == "evaluate"


def test_a_measurement_of_fewer_data_is_not_up_to_date(tmp_path):
    folder = curvature(run_of(tmp_path / "run", **EVALUATED))
    first = (folder / "values.npz").read_bytes()
    problem = js.Problem(loss_fn, X[:8], optimizer=optax.sgd(0.1), **EVALUATED)
    run = js.Run(tmp_path / "run", problem, quiet=True)
    run.set_minimum(PARAMS)
    assert curvature(run) == folder
    assert (folder / "values.npz").read_bytes() != first


@pytest.mark.parametrize("functions", [{}, EVALUATED], ids=["training", "evaluation"])
def test_a_measurement_of_version_0_1_is_found_and_its_mode_is_said_to_be_unknown(tmp_path, functions, capsys):
    run = run_of(tmp_path / "run", **functions)
    folder = curvature(run) if functions else in_training_mode(lambda: curvature(run))
    drop_objective(folder)
    older = folder.rename(folder.with_name(folder.name.removesuffix("-training-mode")))
    before = (older / "record.json").read_bytes()
    again = js.Run(tmp_path / "run", run.problem)
    again.set_minimum(PARAMS)
    assert curvature(again) == older
    assert (older / "record.json").read_bytes() == before
    said = " ".join(capsys.readouterr().out.split())
    assert "is up to date; it does not say in which mode: delete" in said
    assert [each.name for each in measurements(run.folder)] == [older.name]


def test_a_measurement_of_version_0_1_with_batch_statistics_is_stale_in_evaluation_mode(tmp_path):
    folder = curvature(run_of(tmp_path / "run", **EVALUATED))
    drop_objective(folder, statistics="batch")
    curvature(run_of(tmp_path / "run", **EVALUATED))
    assert read_kept(folder).record["statistics"] == "none"


def test_functions_of_the_package_warn_too():
    problem = js.Problem(loss_fn, X)
    in_training_mode(lambda: js.trace(problem, PARAMS, probes=2))
    in_training_mode(lambda: js.line(problem, PARAMS, {"w": -PARAMS["w"]}, t=[0.0, 1.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        js.trace(problem, PARAMS, probes=2, mode="train")  # asked for

"""What is said to those who use the package for the first time: about arguments, files and progress."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxscape as js
from jaxscape.runs.imports import import_run
from jaxscape.runs.progress import make_console

X = np.ones((8, 3), np.float32)
ARRAYS = {"params.w": X, "opt.mu.w": X}


class Dropout(nnx.Module):
    def __init__(self):
        self.layer, self.dropout = nnx.Linear(3, 1, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.dropout(self.layer(x))


def mean_square(model, batch, key):
    return (model(batch) ** 2).mean()


def plain_loss(params, model_state, batch, key):
    return jnp.mean((batch @ params["w"] - 1) ** 2), (model_state, {})


def test_retraining_without_a_minimum_names_the_calls_that_make_one(tmp_path):
    problem = js.Problem(plain_loss, X, optimizer=optax.sgd(0.1), init=lambda key: ({"w": X[:3]}, {}))
    with pytest.raises(FileNotFoundError, match=r"or Run\.train or Run\.set_minimum in Python$"):
        js.Run(tmp_path / "run", problem, quiet=True).retrain(epochs=1, batch_size=4)


def test_a_folder_without_checkpoints_says_which_formats_are_read(tmp_path):
    (tmp_path / "step1.pkl").touch()
    with pytest.raises(
        ValueError, match=r"holds no checkpoints; allowed: orbax folders, and files \.npz, \.safetensors"
    ):
        js.import_checkpoints(tmp_path)


def test_the_import_prints_the_names_and_doubts_the_moments_of_an_optimiser(tmp_path, capsys):
    for step in range(2):
        np.savez(tmp_path / f"step{step}.npz", **ARRAYS, rng=np.zeros(2, np.uint32))
    with pytest.raises(ValueError, match=r"include='params\.\*' chooses the names that begin with it"):
        js.import_checkpoints(tmp_path, key="params")
    sources = sorted(tmp_path.glob("*.npz"))
    import_run(tmp_path / "all", sources, console=make_console())
    said = capsys.readouterr().out
    assert "parameters: params/w, opt/mu/w\n" in said
    assert "warning: opt/mu/w may be no parameters; --include and --exclude choose among the arrays" in said
    assert "left out: rng" in said
    import_run(tmp_path / "chosen", sources, include=["params.*"], console=make_console())
    said = capsys.readouterr().out
    assert "parameters: params/w\n" in said
    assert "warning" not in said


def test_a_loss_of_another_signature_is_told_what_its_arguments_are(tmp_path):
    def loss(model, x, y):
        return (model(x) - y).mean()

    problem = js.nnx_problem(nnx.Linear(3, 1, rngs=nnx.Rngs(0)), (X, X), loss=loss, optimizer=optax.sgd(0.1))
    with pytest.raises(Exception) as caught:  # noqa: PT011, whatever the model raises for a tuple
        js.Run(tmp_path / "run", problem, quiet=True).train(epochs=1, batch_size=4)
    arguments = "The batch is a single argument, (float32[4, 3], float32[4, 3]); the last argument is a PRNG key."
    assert any(arguments in note for note in caught.value.__notes__)


def test_a_model_in_evaluation_mode_is_warned_of():
    model = Dropout()
    js.nnx_problem(model, X, loss=mean_square)
    model.eval()
    with pytest.warns(UserWarning, match=r"model is in evaluation mode.*call model\.train\(\)"):
        js.nnx_problem(model, X, loss=mean_square)


def test_a_problem_is_shown_with_the_shapes_of_its_data():
    problem = js.Problem(plain_loss, {"x": X, "y": np.zeros(8)}, optimizer=optax.sgd(0.1), test_data=X[:2])
    shown = repr(problem)
    assert shown.startswith("Problem(data={'x': float32[8, 3], 'y': float")
    assert "test_data=float32[2, 3]" in shown
    assert shown.endswith("given=optimizer)")
    assert "[1., 1., 1.]" not in shown


def test_progress_counts_epochs_of_training_and_names_the_controls(tmp_path, capsys):
    run = js.Run(tmp_path / "run", js.Problem(plain_loss, X, optimizer=optax.sgd(0.01)))
    run.set_minimum({"w": X[:3]})
    run.retrain(seeds=1, step_sizes=(0.5,), controls=2, epochs=2, batch_size=4, strategy="loop")
    said = capsys.readouterr().out
    assert "run: retrain 3 copies (incl. 2 controls): 1/2" in said
    assert "run: retrain 3 copies (incl. 2 controls): 2/2" in said
    assert "/3," not in said


def test_a_single_recorded_training_is_not_said_to_be_drawn_like_its_surrogates(tmp_path):
    generator = np.random.default_rng(0)
    for members in (1, 2):
        with js.Run(tmp_path / f"{members}", quiet=True) as run:
            for step in range(6):
                params = {"w": generator.standard_normal((members, 5)).astype(np.float32)}
                run.record(
                    step, params if members > 1 else {"w": params["w"][0]}, labels=[{"seed": i} for i in range(members)]
                )
        run.embed(method="mds")
        [entry] = run.report()["embeddings"].values()
        assert ("same" in entry["surrogate"]) == (members > 1)

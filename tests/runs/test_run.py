"""`Run` with the user's own problem: it resumes, extends, refuses another problem, and draws."""

import shutil
from dataclasses import dataclass
from io import StringIO
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxscape.problem import Problem
from jaxscape.runs import captions, recording
from jaxscape.runs.exact import exact_panel
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.run import Run
from jaxscape.runs.scale_free import Filters, scale_free_table
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.gram import gram

DATA = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
RETRAIN = {"seeds": 2, "step_sizes": (0.5, 1.0), "epochs": 3, "batch_size": 8, "strategy": "loop"}


class Layer(NamedTuple):
    """Parameters in an order that no dictionary of jax has: `weight` before `bias`."""

    weight: jax.Array
    bias: jax.Array


def init(key):
    return [Layer(jax.random.normal(key, (4, 3)), jnp.ones(3)), Layer(jnp.full((3, 1), 0.5), jnp.zeros(1))], {}


def loss_fn(params, model_state, batch, key):
    hidden = jnp.tanh(batch @ params[0].weight + params[0].bias[None])
    loss = jnp.mean((hidden @ params[1].weight + params[1].bias[None] - batch[:, :1]) ** 2)
    return loss, (model_state, {"loss": loss})


def evaluate(params, model_state):
    return {"train_loss": loss_fn(params, model_state, jnp.asarray(DATA), None)[0]}


def problem(**changes):
    settings = {"init": init, "evaluate": evaluate, "optimizer": optax.adam(0.05), "describe": {"model": "MLP 4-3-1"}}
    return Problem(loss_fn, DATA, **settings | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("own") / "run", problem(), quiet=True)
    run.train(epochs=3, batch_size=8)
    run.retrain(**RETRAIN)
    run.embed(knn=3)
    run.embed(knn=3, null="rotated")
    run.plot()
    return run


def results(run):
    """Return the bytes of all files that a run reproduces exactly."""
    store = run.store()
    parameters = jax.tree.map(np.ndarray.tobytes, store.read())
    names = ("metrics.csv", "geometry.csv", "gram.npz")
    return parameters, {name: (run.folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_scale_free_views_need_the_problem_which_defines_the_filters(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    with pytest.raises(ValueError, match=r"scale-free distances need the filter_axis of the problem of .*run"):
        Run(folder, quiet=True).plot(scale_free=True)
    asked = []

    def of_path(path):
        asked.append(path)
        return -1

    names = {path.name for path in Run(folder, problem(filter_axis=of_path), quiet=True).plot(scale_free=True)}
    paths = {path for path, _ in jax.tree_util.tree_leaves_with_path(init(jax.random.key(0))[0])}
    assert set(asked) <= paths  # those of the problem's own containers
    assert asked
    assert {"polar-scale-free.png", "plane-scale-free.pdf"} <= names
    last = scale_free_table(folder, filters=Filters(-1)).columns["scale_free_distance"]
    other = scale_free_table(folder, filters=Filters(0)).columns[
        "scale_free_distance"
    ]  # the stored table is from other filters
    assert not np.allclose(last, other)


def test_all_results_are_made(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert {"minimum", "trajectories", "metrics.csv", "geometry.csv", "report.json", "figures", "embeddings"} <= names
    assert (finished.folder / "figures" / "phate-cosine-none-knn3-beside-rotated-null.png").exists()
    assert set(finished.report()["geometry"]) == {"real", "null", "surrogates", "by_step_size"}


def test_the_same_calls_again_change_nothing(finished):
    before = results(finished)
    run = Run(finished.folder, problem(), quiet=True)
    run.train(epochs=3, batch_size=8)
    run.retrain(**RETRAIN)
    assert results(run) == before


@dataclass
class Init:
    """An init function that counts its calls. It has no hash, so that jax cannot cache its trace."""

    calls: int = 0

    def __call__(self, key):
        self.calls += 1
        return init(key)


def test_init_is_traced_once(tmp_path):
    counted = Init()
    run = Run(tmp_path / "run", problem(init=counted), quiet=True)
    run.train(epochs=1, batch_size=8)
    run.retrain(**RETRAIN | {"epochs": 1})
    assert counted.calls == 2  # the structure of the parameters, then the parameters themselves


def test_reading_needs_no_problem(finished):
    run = Run(finished.folder, quiet=True)
    assert run.report() == finished.report()
    assert run.measured().gram.num_points == 16
    with pytest.raises(ValueError, match="needs the problem"):
        run.retrain(**RETRAIN)


def test_captions_say_what_is_not_known_of_an_own_optimizer_and_leave_out_a_training_that_is_not_shown(finished):
    panel = exact_panel(finished.folder)
    assert panel.note.endswith("effect of weight decay alone unknown")
    assert captions.data([finished.folder]) == "MLP 4-3-1; retrained 3 epochs"
    assert captions.data([finished.folder], with_training=False) == "MLP 4-3-1"


@pytest.mark.slow
def test_drawing_needs_no_problem(finished):
    assert Run(finished.folder, quiet=True).plot()


def test_the_minimum_has_the_structure_of_the_parameters(finished):
    found = finished.minimum()
    assert isinstance(found.params[0], Layer)
    assert found.params[0].weight.shape == (4, 3)
    assert found.params[0].bias.shape == (3,)
    np.testing.assert_allclose(found.metrics["train_loss"], evaluate(found.params, {})["train_loss"], rtol=1e-6)


def test_distances_are_those_of_the_parameters(finished):
    store = finished.store()
    rows = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in jax.tree.leaves(store.read())]
    exact = np.concatenate([row.reshape(len(row), -1) for row in rows], axis=1).astype(np.longdouble)
    expected = np.sqrt(((exact[:, None] - exact[None]) ** 2).sum(-1)).astype(np.float64)
    np.testing.assert_allclose(pairwise_distances(gram(store), metric="euclidean"), expected, rtol=1e-12, atol=1e-13)


def test_measured_gives_the_trajectories_around_the_minimum(finished):
    measured = finished.measured()
    expected = gram(finished.store(), reference=finished.minimum().params, members=range(4))
    for metric, center in (("euclidean", None), ("cosine", "reference")):
        distances = (pairwise_distances(each, metric=metric, center=center) for each in (measured.gram, expected))
        np.testing.assert_allclose(*distances, rtol=1e-10, atol=1e-15)  # sums over fewer columns, in another order
    assert measured.labels.keys() == {"member", "seed", "step_size", "epoch", "update"}
    np.testing.assert_array_equal(measured.labels["epoch"], np.repeat(range(4), 4))
    for name in ("member", "epoch", "update", "seed"):
        assert measured.labels[name].dtype == np.int64
    assert {values.shape for values in measured.labels.values()} == {(16,)}


def test_a_missing_gram_matrix_is_recomputed(finished):
    before = finished.folder.gram.read_bytes()
    finished.folder.gram.unlink()
    assert Run(finished.folder, quiet=True).measured(controls=True).gram.num_points == 24
    assert finished.folder.gram.read_bytes() == before


def test_output_goes_to_the_console_unless_quiet(finished, capsys):
    out = StringIO()
    for quiet in (False, True):
        run = Run(finished.folder, problem(), quiet=quiet, console=Console(file=out, soft_wrap=True))
        run.retrain(**RETRAIN)
        run.embed(knn=3)
    assert out.getvalue().count("the trajectories are complete, 3 epochs") == 1
    assert out.getvalue().count("phate-cosine-none-knn3 is up to date") == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("moment", ["write_table", "save_state"])
def test_a_stopped_run_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch, moment):
    def calls():
        run = Run(tmp_path / "run", problem(), quiet=True)
        run.train(epochs=3, batch_size=8)
        run.retrain(**RETRAIN)
        return run

    real, count = getattr(recording, moment), 0

    def stop(*arguments):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(recording, moment, stop)
    with pytest.raises(KeyboardInterrupt):
        calls()
    monkeypatch.undo()
    assert results(calls()) == results(finished)


def test_more_epochs_extend(finished, tmp_path):
    run = Run(tmp_path / "run", problem(), quiet=True)
    run.train(epochs=3, batch_size=8)
    run.retrain(**RETRAIN | {"epochs": 2})
    run.retrain(**RETRAIN)
    parameters, files = results(run)
    assert parameters == results(finished)[0]
    assert files["metrics.csv"] == results(finished)[1]["metrics.csv"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"describe": {"model": "another"}}, "in describe, model is 'MLP 4-3-1', requested 'another'"),
        ({"version": "2"}, "version is '', requested '2'"),
        (
            {
                "init": lambda key: (
                    [Layer(jnp.zeros((4, 5)), jnp.zeros(5)), Layer(jnp.zeros((5, 1)), jnp.zeros(1))],
                    {},
                )
            },
            "in parameters, 0/weight is 'float32 (4, 3)', requested 'float32 (4, 5)'",
        ),
    ],
)
def test_another_problem_is_refused(finished, changes, words):
    before = results(finished)
    with pytest.raises(ValueError, match="holds results of another problem") as caught:
        Run(finished.folder, problem(**changes), quiet=True).retrain(**RETRAIN)
    assert words in str(caught.value)
    assert results(finished) == before


def test_the_built_in_problem_and_an_own_problem_do_not_mix(finished, jaxscape, kept_minimum):
    outcome = jaxscape("train", finished.folder)
    assert outcome.code == 1
    assert "its record does not name its problem; give --problem" in outcome.err
    with pytest.raises(ValueError, match="holds results of the built-in problem, not of a problem of your own"):
        Run(kept_minimum, problem(), quiet=True).retrain(**RETRAIN)


def test_a_given_minimum_is_retrained(tmp_path):
    params, _ = init(jax.random.key(3))
    run = Run(tmp_path / "run", problem(init=None), quiet=True)
    with pytest.raises(ValueError, match="the parameters are not known"):
        run.retrain(**RETRAIN)
    run.set_minimum(params)
    run.set_minimum(params)
    run.retrain(**RETRAIN)
    found = run.minimum()
    assert found.settings.epochs == 0
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    with pytest.raises(ValueError, match="holds results of another configuration: the given minimum is another one"):
        run.set_minimum(jax.tree.map(lambda leaf: leaf + 1, params))
    with pytest.raises(ValueError, match="holds results of another configuration: epochs is 0, requested 3"):
        Run(run.folder, problem(), quiet=True).train(epochs=3, batch_size=8)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("compared") / "run", problem(), quiet=True)
    optimizers = {"adam": optax.adam(0.05), "slow": optax.sgd(0.01)}
    run.compare(optimizers, seeds=(3, 4), epochs=2, batch_size=8, strategy="loop")
    run.embed(knn=3)
    return run


def test_networks_are_compared(compared):
    assert set(compared.report()["geometry"]["by_optimizer"]) == {"adam", "slow"}
    assert [label["optimizer"] for label in compared.store().labels] == ["adam", "adam", "slow", "slow"]


@pytest.mark.slow
def test_compared_networks_are_drawn(compared):
    assert compared.plot()


def test_batches_of_a_function_are_counted_as_updates(tmp_path):
    def batches(epoch, keys):
        steps = 2 if epoch == 1 else 3
        return jnp.asarray(DATA)[: 8 * steps].reshape(1, steps, 8, 4).repeat(len(keys), axis=0)

    own = Problem(loss_fn, batches, init=init, optimizer=optax.sgd(0.1))
    for epochs in (2, 3):  # it resumes
        run = Run(tmp_path / "run", own, quiet=True)
        run.set_minimum(init(jax.random.key(0))[0])
        run.retrain(**RETRAIN | {"epochs": epochs})
    assert run.store().updates == [0, 2, 5, 8]


@pytest.mark.slow
def test_bfloat16_parameters_resume(tmp_path):
    def small(key):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init(key)[0]), {}

    for epochs in (1, 2):
        run = Run(tmp_path / "run", problem(init=small, optimizer=optax.sgd(0.1, momentum=0.9)), quiet=True)
        run.train(epochs=2, batch_size=8)
        run.retrain(**RETRAIN | {"epochs": epochs})
    once = Run(tmp_path / "once", problem(init=small, optimizer=optax.sgd(0.1, momentum=0.9)), quiet=True)
    once.train(epochs=2, batch_size=8)
    once.retrain(**RETRAIN | {"epochs": 2})
    assert results(run)[0] == results(once)[0]
    assert once.store().read()["0"]["weight"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda run: run.train(epochs=0), ValueError, "epochs must be at least 1, got 0"),
        (lambda run: run.train(epochs=1, batch_size=41), ValueError, "batch_size must be at most"),
        (lambda run: run.retrain(epochs=1, batch_size=8), FileNotFoundError, "has no finished minimum"),
        (lambda run: run.embed(), FileNotFoundError, "has no trajectories"),
        (lambda run: run.measured(), FileNotFoundError, "has no trajectories"),
        (lambda run: run.embed(neighbours=3), TypeError, "unknown setting neighbours; known: method"),
        (lambda run: run.set_minimum({"w": jnp.array([jnp.nan])}), ValueError, "NaN"),
        (lambda run: run.compare({}, epochs=1), ValueError, "optimizers must name one or more"),
    ],
)
def test_invalid_calls_are_refused_and_leave_nothing(tmp_path, call, error, words):
    with pytest.raises(error, match=words):
        call(Run(tmp_path / "run", problem(), quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_malformed_loss_is_refused_before_anything_is_written(tmp_path):
    own = Problem(lambda params, state, batch, key: jnp.float32(0), DATA, init=init, optimizer=optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"loss_fn must be loss_fn\(params, model_state, batch, key\)"):
        Run(tmp_path / "run", own, quiet=True).train(epochs=1, batch_size=8)
    assert not (tmp_path / "run").exists()


def test_the_fingerprint_depends_on_the_problem(finished, tmp_path):
    record = finished.folder.read_config()["problem"]
    assert record["describe"] == {"model": "MLP 4-3-1"}
    other = RunFolder(tmp_path / "run")
    other.record_problem(record | {"version": "2"})
    assert other.fingerprint() != finished.folder.fingerprint()

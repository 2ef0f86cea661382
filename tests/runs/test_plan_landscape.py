"""The plan of the landscape by `jaxscape plan`: the counted work is the work that is done."""

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

from jaxscape import Problem
from jaxscape.curvature import products
from jaxscape.landscape import points
from jaxscape.runs import plan_landscape as plan_room
from jaxscape.runs.curvature import measure_curvature
from jaxscape.runs.kept import read_kept
from jaxscape.runs.landscape_config import CurvatureConfig, PathConfig, SurfaceConfig
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.path import measure_path
from jaxscape.runs.plan_landscape import plan_landscape
from jaxscape.runs.progress import make_console
from jaxscape.runs.surface import measure_surface

QUIET = make_console(silent=True)


def planned(config, *, problem=None, copies=None, **how):
    """Return the only stage of a plan, its bytes on disk, and the numbers in the description of its work."""
    plan = plan_landscape(problem or tiny_runs.problem(), [config], copies, train_batch=2, **how)
    assert not plan.refused
    [stage], [disk] = plan.stages, plan.disk.values()
    return stage, disk, [int(number) for number in re.findall(r"\d+", stage.work)]


@pytest.fixture
def run(tiny):
    """Four copies of a network with 12 parameters, after 0 to 3 epochs. Tests do not change it."""
    return tiny["retrained"].folder


@pytest.fixture
def copies(run):
    return run.settings("retrain")


@pytest.fixture
def one_second(monkeypatch):
    """Make every timing one second, and every compilation two."""

    def time_work(work, *, turns=1):
        work()
        return 1.0, 2.0

    monkeypatch.setattr(plan_room, "time_work", time_work)


def num_bytes(folder):
    """Return the bytes of the arrays, without the headers of the file."""
    return sum(values.nbytes for values in read_kept(folder).values.values())


@pytest.fixture
def copied(tmp_path, run):
    return type(run)(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize("at", ["minimum", "ends"])
def test_the_products_of_a_spectrum_are_counted(monkeypatch, copied, copies, at):
    config = CurvatureConfig(k=2, steps=7, probes=2, at=at, strategy="loop")
    _, disk, (each, number) = planned(config, copies=copies)
    made = []
    product = products.product
    monkeypatch.setattr(products, "product", lambda *args: made.append(1) or product(*args))
    monkeypatch.setattr("jaxscape.curvature.spectrum.product", lambda *args: made.append(1) or product(*args))
    folder = measure_curvature(copied, config, OwnProblem(tiny_runs.problem()), console=QUIET)
    assert number == (1 if at == "minimum" else 5)
    assert len(made) == each * number
    assert disk == pytest.approx(num_bytes(folder), rel=0.01)


@pytest.mark.parametrize("config", [SurfaceConfig(points=20), SurfaceConfig(plane="trajectory", points=9, every=2)])
def test_the_points_of_a_surface_are_counted(monkeypatch, copied, copies, one_second, config):
    config = replace(config, strategy="loop")
    stage, disk, _ = planned(config, copies=copies)
    evaluated = []
    run = points.mean_metrics
    monkeypatch.setattr(points, "mean_metrics", lambda *args: evaluated.append(1) or run(*args))
    folder = measure_surface(copied, config, OwnProblem(tiny_runs.problem()), console=QUIET)
    assert len(evaluated) == stage.seconds
    assert disk == pytest.approx(num_bytes(folder), rel=0.1)


def test_the_steps_and_points_of_a_path_are_counted(tmp_path, copied, copies, one_second):
    other = tiny_runs.Run(tmp_path / "other", tiny_runs.problem(), quiet=True)
    other.train(tiny_runs.optax.sgd(0.05), epochs=1, batch_size=2, seed=1)
    config = PathConfig(epochs=6, points=5, strategy="loop")
    stage, disk, (epochs, steps, ways, along) = planned(config, copies=copies)
    assert (epochs, steps, ways, along) == (6, 2, 2, 5)  # four examples, two per batch
    assert stage.seconds == 6 + 2 * 5
    assert stage.compile_seconds >= 2 + 2
    folder = measure_path(copied, other.folder, config, OwnProblem(tiny_runs.problem()), console=QUIET)
    arrays = read_kept(folder).values
    assert (len(arrays["losses"]), len(arrays["curve:loss"])) == (epochs, along)
    assert disk > num_bytes(folder)  # which lacks the state of the training


def test_a_curve_of_few_examples_is_planned_with_all_of_them_in_a_batch(copies, one_second):
    """The stage does the same; a larger batch that was requested is refused by both."""
    plan = plan_landscape(tiny_runs.problem(), [PathConfig(epochs=6)], copies, train_batch=1000)
    assert plan.stages[0].work.startswith("6 epochs of 1 steps")
    plan = plan_landscape(tiny_runs.problem(), [PathConfig(train_batch=1000)], copies, train_batch=2)
    assert "train_batch must be at most the number of training examples, 4, got 1000" in plan.refused["path"]


def test_normalising_the_directions_of_a_surface_counts_as_compilation(monkeypatch, copies, one_second):
    clock = [0.0]
    make = plan_room.filter_plane

    def slow(*args, **options):
        clock[0] += 5
        return make(*args, **options)

    monkeypatch.setattr(plan_room, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(plan_room, "filter_plane", slow)
    stage, *_ = planned(SurfaceConfig(points=3, strategy="loop"), copies=copies)
    assert stage.compile_seconds == 5 + 2


def classifier(examples, **more):
    """Return a linear model of random numbers with a running mean of its outputs, which training updates."""
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(examples, 3)).astype(np.float32), np.ones(examples, np.float32)

    def loss_fn(params, model_state, batch, key):
        outputs = batch[0] @ params[:, 0]
        return jnp.mean((outputs - batch[1]) ** 2), ({"mean": 0.9 * model_state["mean"] + 0.1 * outputs.mean()}, {})

    return Problem(
        loss_fn,
        (inputs, targets),
        init=lambda key: (jax.random.normal(key, (3, 1)), {"mean": jnp.zeros(())}),
        predict=lambda params, model_state, batch: batch[0] @ params[:, 0] - model_state["mean"],
        score=lambda outputs, batch: {"loss": (outputs - batch[1]) ** 2},
        **more,
    )


def test_more_data_take_longer_though_few_are_measured(copies, one_second):
    """With batches of 100, one of 100 and one of 30 are timed, both for 130 examples and for 1,030."""
    config = SurfaceConfig(points=3, batch_size=100, strategy="loop")
    few, *_ = planned(config, problem=classifier(130), copies=copies)
    many, *_ = planned(config, problem=classifier(1030), copies=copies)
    assert few.seconds == 9
    assert many.seconds == pytest.approx(9 * 1030 / 130)
    spectrum = CurvatureConfig(k=1, steps=3, probes=1, batch_size=100)
    few, *_ = planned(spectrum, problem=classifier(130), copies=copies)
    many, *_ = planned(spectrum, problem=classifier(1030), copies=copies)
    assert many.seconds == pytest.approx(few.seconds * 1030 / 130)


def test_test_losses_use_statistics_of_the_training_data(copies, monkeypatch):
    """For one batch of each data set, a point takes 5 seconds with statistics and 2 seconds without."""
    seconds = iter([5.0, 2.0])
    monkeypatch.setattr(plan_room, "time_work", lambda work, turns=1: (work(), (next(seconds), 0.0))[1])
    problem = classifier(400, test_data=classifier(200).data)
    config = SurfaceConfig(split="test", batch_size=100, points=3, seeds=(0,), strategy="loop")
    stage, *_ = planned(config, problem=problem, copies=copies)
    assert stage.seconds == pytest.approx(3 * (2 * 2.0 + 4 * 3.0))


def test_a_measurement_that_the_problem_cannot_have_is_named(copies):
    problem = classifier(20)
    broken = replace(
        problem, loss_fn=lambda params, state, batch, key: (params.sum(), ({"mean": 3 * state["mean"]}, {}))
    )
    configs = [SurfaceConfig(), CurvatureConfig(split="test")]
    plan = plan_landscape(broken, configs, copies, train_batch=2)
    assert not plan.stages
    assert "not a moving average" in plan.refused["surface"]
    assert "requires a problem with test_data" in plan.refused["curvature"]


def test_the_command_plans_the_requested_measurements(jaxscape, tmp_path):
    words = ("plan", tmp_path / "run", "--problem", "tiny_runs:problem_to_train", "--retrain.epochs", 2)
    words += ("--train.batch-size", 2, "--retrain.batch-size", 2)
    outcome = jaxscape(*words, "--surface.points", 9, "--curvature.k", 1)
    assert outcome.code == 0, outcome.err
    assert re.search(r"surface +81 points", outcome.out)
    assert re.search(r"curvature +\d+ products per point, 1 point ", outcome.out)
    assert "path" not in outcome.out
    only = jaxscape(*words, "--landscape", "path", "--path.epochs", 7)
    assert re.search(r"path +7 epochs of 2 steps, 2 x 31 points", only.out)
    assert "curvature" not in only.out
    assert "if requested" not in jaxscape(*words, "--landscape").out
    assert "points must be at least 2, got 1" in jaxscape(*words, "--surface.points", 1).err
    assert not list(tmp_path.iterdir())

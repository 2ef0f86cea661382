"""Evaluation of many points: strategies, running statistics, data sets and invalid arguments."""

import dataclasses

import jax
import numpy as np
import pytest
from known_landscapes import (
    TEST_INPUTS,
    TEST_TARGETS,
    batch_norm,
    batch_norm_loss,
    batch_norm_params,
    measured_statistics,
    quadratic,
    quadratic_loss,
    quadratic_params,
)

from jaxscape import Problem, evaluate_networks, evaluate_points
from jaxscape.landscape import points
from jaxscape.landscape.points import points_evaluator

WEIGHTS = np.stack([np.ones(7), np.linspace(-1, 1, 7)], axis=1)


def collected(chunks):
    rows, metrics = zip(*chunks, strict=True)
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(sum(map(len, rows))))
    return {name: np.concatenate([each[name] for each in metrics]) for name in metrics[0]}


def batch_norm_values(strategy, weights=WEIGHTS, **options):
    vectors = [batch_norm_params(0), batch_norm_params(1)]
    options = {"model_state": measured_statistics(vectors[0]), "batch_size": 4, **options}
    return collected(evaluate_points(batch_norm(), vectors, weights, strategy=strategy, **options))


def test_points_of_a_quadratic_form_have_the_closed_form_loss():
    vectors = [quadratic_params(0), quadratic_params(1)]
    metrics = collected(evaluate_points(quadratic(), vectors, WEIGHTS))
    points = [jax.tree.map(lambda a, b, w=w: w[0] * a + w[1] * b, *vectors) for w in WEIGHTS]
    np.testing.assert_allclose(metrics["loss"], [quadratic_loss(point) for point in points], rtol=1e-5)
    assert metrics["loss"].dtype == np.float64
    np.testing.assert_array_equal(metrics["accuracy"], -metrics["loss"])


def test_loop_and_threads_are_bitwise_equal_and_vmap_differs_by_rounding():
    loop, threads = batch_norm_values("loop"), batch_norm_values("threads:3")
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(loop[name], threads[name])
        for strategy in ("vmap", "vmap:3"):  # with seven points the last stack is padded
            np.testing.assert_allclose(batch_norm_values(strategy)[name], loop[name], rtol=1e-5)


@pytest.mark.parametrize("strategy", ["loop", "threads:2"])
def test_each_point_is_evaluated_independently(strategy):
    whole = batch_norm_values(strategy)["loss"]
    np.testing.assert_array_equal(batch_norm_values(strategy, WEIGHTS[4:])["loss"], whole[4:])


@pytest.mark.parametrize("strategy", ["loop", "threads:2", "vmap:3"])
def test_a_point_that_is_not_finite_does_not_affect_the_others(strategy):
    weights = WEIGHTS.copy()
    weights[2], weights[3] = (1e30, 1e30), (3e38, -3e38)
    metrics = collected(
        evaluate_points(quadratic(), [quadratic_params(0), quadratic_params(1)], weights, strategy=strategy)
    )
    others = np.delete(np.arange(7), [2, 3])
    assert not np.isfinite(metrics["loss"][[2, 3]]).any()
    expected = collected(evaluate_points(quadratic(), [quadratic_params(0), quadratic_params(1)], WEIGHTS))
    np.testing.assert_allclose(metrics["loss"][others], expected["loss"][others], rtol=1e-5)


def test_statistics_are_recalibrated_interpolated_or_kept():
    ends = [batch_norm_params(0), batch_norm_params(1)]
    states = [measured_statistics(end) for end in ends]
    weights = np.array([[1, 0], [0.5, 0.5], [0, 1]])
    middle = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    between = jax.tree.map(lambda a, b: (a + b) / 2, *states)
    expected = {
        "recalibrated": [(ends[0], states[0]), (middle, measured_statistics(middle)), (ends[1], states[1])],
        "interpolated": [(ends[0], states[0]), (middle, between), (ends[1], states[1])],
        "kept": [(ends[0], states[0]), (middle, states[0]), (ends[1], states[0])],
    }
    for statistics, of_points in expected.items():
        for strategy in ("loop", "vmap:2"):
            chunks = evaluate_points(
                batch_norm(), ends, weights, model_states=states, statistics=statistics, strategy=strategy
            )
            losses = [batch_norm_loss(*point) for point in of_points]
            np.testing.assert_allclose(collected(chunks)["loss"], losses, rtol=1e-5, err_msg=statistics)
    # The three must differ in the middle for this test to be meaningful.
    assert len({round(batch_norm_loss(*of_points[1]), 3) for of_points in expected.values()}) == 3


def test_the_test_data_can_be_selected():
    params = batch_norm_params(2)
    (chunk,) = evaluate_points(
        batch_norm(), [params], [[1]], model_state=measured_statistics(params), split="test", metrics=["loss"]
    )
    state = measured_statistics(params)
    assert list(chunk[1]) == ["loss"]
    assert chunk[1]["loss"][0] == pytest.approx(batch_norm_loss(params, state, TEST_INPUTS, TEST_TARGETS), rel=1e-5)


def test_a_problem_without_predict_is_evaluated_with_the_training_loss():
    problem, params = batch_norm(), batch_norm_params(0)
    bare = Problem(problem.loss_fn, problem.data)
    shifted = {name: value + 5 for name, value in measured_statistics(params).items()}
    evaluator = points_evaluator(bare, [params], model_state=shifted)
    assert (evaluator.statistics, evaluator.names) == ("batch", ("loss",))
    (chunk,) = evaluator.chunks(np.ones((1, 1)), 1)
    assert chunk[1]["loss"][0] == pytest.approx(batch_norm_loss(params, measured_statistics(params)), rel=1e-5)


def test_a_model_without_running_statistics_has_statistics_none():
    assert points_evaluator(quadratic(), [quadratic_params(0)], statistics="recalibrated").statistics == "none"


def test_arbitrary_networks_can_be_evaluated():
    networks = [batch_norm_params(seed) for seed in range(5)]
    state = measured_statistics(networks[0])
    expected = [batch_norm_loss(each, measured_statistics(each)) for each in networks]
    for strategy in ("loop", "threads:2", "vmap:2"):
        chunks = evaluate_networks(batch_norm(), networks.__getitem__, 5, model_state=state, strategy=strategy)
        np.testing.assert_allclose(collected(chunks)["loss"], expected, rtol=1e-5)


def test_an_evaluate_in_numpy_is_supported():
    def evaluate(params, model_state):
        return {"loss": np.float64(np.asarray(params["bias"]).sum())}

    problem, params = quadratic(), quadratic_params(0)
    problem = Problem(problem.loss_fn, problem.data, evaluate=evaluate)
    metrics = collected(evaluate_points(problem, [params], [[1], [2]], strategy="threads:2"))
    np.testing.assert_allclose(metrics["loss"], [params["bias"].sum(), 2 * params["bias"].sum()], rtol=1e-6)
    with pytest.raises(ValueError, match="unknown metric 'accuracy'; known: loss"):
        list(evaluate_points(problem, [params], [[1]], metrics=["accuracy"], strategy="loop"))


def test_an_evaluation_that_cannot_be_traced_is_not_vmapped_by_default(monkeypatch):
    monkeypatch.setattr(points, "points_at_once", lambda strategy, devices: ("vmap", 4))  # as on a GPU
    problem, params = quadratic(), quadratic_params(0)
    bare = Problem(
        problem.loss_fn, problem.data, evaluate=lambda params, state: {"sum": np.asarray(params["bias"]).sum()}
    )
    metrics = collected(evaluate_points(bare, [params], [[1], [2]]))
    np.testing.assert_allclose(metrics["sum"], [params["bias"].sum(), 2 * params["bias"].sum()], rtol=1e-6)
    with pytest.raises(jax.errors.TracerArrayConversionError):
        list(evaluate_points(bare, [params], [[1], [2]], strategy="vmap"))


def test_programs_are_compiled_once_per_problem():
    problem = batch_norm()
    traced = []

    def predict(params, model_state, batch):
        traced.append(batch)
        return problem.predict(params, model_state, batch)

    counted = dataclasses.replace(problem, predict=predict)
    params = batch_norm_params(0)

    def traces(split):
        evaluator = points_evaluator(counted, [params], model_state=measured_statistics(params), split=split)
        before = len(traced)
        list(evaluator.chunks(np.ones((3, 1)), 3))
        return len(traced) - before

    assert traces("train") > 0
    assert traces("train") == 0
    assert traces("test") > 0  # the number of examples differs
    assert traces("test") == 0


def test_float64_parameters_are_evaluated_in_float64_in_x64_mode():
    vectors = [jax.tree.map(np.float64, quadratic_params(seed)) for seed in (0, 1)]
    points = [jax.tree.map(lambda a, b, w=w: w[0] * a + w[1] * b, *vectors) for w in WEIGHTS]
    with jax.enable_x64(True):
        for strategy in ("loop", "threads:2", "vmap"):
            metrics = collected(evaluate_points(quadratic(), vectors, WEIGHTS, strategy=strategy))
            np.testing.assert_allclose(metrics["loss"], [quadratic_loss(point) for point in points], rtol=1e-13)


def test_stacks_are_halved_if_they_do_not_fit_into_memory(monkeypatch):
    expected = batch_norm_values("vmap:2", statistics="kept")["loss"]
    whole, sizes = jax.vmap, []

    def vmap(function):
        def run(stack):
            sizes.append(len(jax.tree.leaves(stack)[0]))
            if sizes[-1] > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
            return whole(function)(stack)

        return run

    monkeypatch.setattr(jax, "vmap", vmap)
    with pytest.warns(RuntimeWarning) as warned:
        metrics = batch_norm_values("vmap:6", statistics="kept")
    ends = ["6 points at once do not fit into the device's memory; continuing with 3", "3 points at once"]
    assert [str(each.message)[: len(end)] for each, end in zip(warned, ends, strict=True)] == ends
    assert sizes == [6, 3, 2, 2, 2, 2]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def test_a_single_point_that_does_not_fit_is_a_memory_error(monkeypatch):
    def no_room(stack):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")

    monkeypatch.setattr(jax, "vmap", lambda function: no_room)
    with pytest.warns(RuntimeWarning), pytest.raises(MemoryError, match="one point does not fit into the device's mem"):
        batch_norm_values("vmap:2", statistics="kept")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": "new"}, "statistics must be one of recalibrated, interpolated, kept, got 'new'"),
        ({"statistics": "interpolated"}, "needs model_states, one for each corner"),
        ({"model_states": [{}]}, "one for each of the 2 corners, got 1"),
        ({"model_states": [{}, {}], "model_state": {}}, "either model_state or model_states .*, not both"),
        ({"model_states": [{}, {"mean": np.ones(2)}]}, "the same structure and shapes"),
        ({"strategy": "vmap_grad"}, "unknown strategy 'vmap_grad'; known: loop, threads, vmap"),
        ({"strategy": "loop:2"}, "unknown strategy 'loop:2'"),
        ({"strategy": "vmap:0"}, "the number of members at once must be a whole number of at least 1, got 'vmap:0'"),
        ({"metrics": ["error"]}, "unknown metric 'error'; known: accuracy, loss"),
        ({"split": "test"}, "split 'test' needs mode 'evaluate'"),
        ({"split": "all"}, "split must be one of train, test"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_invalid_options_are_rejected_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_points(quadratic(), [quadratic_params(0), quadratic_params(1)], WEIGHTS, **options)


@pytest.mark.parametrize(
    ("vectors", "weights", "message"),
    [
        ([quadratic_params(0)], WEIGHTS, r"weights must be finite numbers \(points, 1\), got shape \(7, 2\)"),
        ([quadratic_params(0)], [[np.nan]], "weights must be finite"),
        ([], WEIGHTS[:, :0], "vectors must be one pytree or more"),
        ([quadratic_params(0), {"bias": np.ones(2)}], WEIGHTS, r"same structure, but \['kernel'\] differ"),
        ([{"w": np.ones(2)}, {"w": np.ones(3)}], WEIGHTS, r"same shapes, got \(3,\) and \(2,\) at \['w'\]"),
        ([{"w": np.array([1, np.inf])}], WEIGHTS[:, :1], r"vectors\[0\] must be finite"),
    ],
)
def test_invalid_vectors_and_weights_are_rejected_before_any_work(vectors, weights, message):
    with pytest.raises(ValueError, match=message):
        evaluate_points(quadratic(), vectors, weights)


def test_a_misspelt_option_is_rejected():
    with pytest.raises(TypeError, match="statistic"):
        points_evaluator(quadratic(), [quadratic_params(0)], statistic="kept")

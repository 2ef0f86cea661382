"""Lines, barriers and surfaces: comparison with closed forms, resumption, and invalid arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_landscapes import (
    HESSIAN,
    batch_norm,
    batch_norm_loss,
    batch_norm_params,
    flatten,
    measured_statistics,
    quadratic,
    quadratic_loss,
    quadratic_params,
)

from jaxscape import (
    Problem,
    barrier,
    equinox_problem,
    filter_plane,
    line,
    line_barrier,
    plane,
    plane_point,
    surface,
)

A, B, C, D = (quadratic_params(seed) for seed in range(4))
X, Y = np.linspace(-1, 2, 4), np.linspace(0, 1.5, 3)


def test_a_line_has_the_closed_form_loss_at_its_points():
    result = line(quadratic(), A, B, t=np.linspace(-0.5, 1.5, 9))
    points = [jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, A, B) for t in result.t]
    np.testing.assert_allclose(result.metrics["loss"], [quadratic_loss(point) for point in points], rtol=1e-5)
    assert result.length == pytest.approx(np.linalg.norm(flatten(B) - flatten(A)), rel=1e-12)
    assert (result.statistics, result.split) == ("none", None)


def test_the_barrier_of_a_quadratic_form_follows_from_its_curvature():
    # Along a line the loss is a parabola, whose rise above its chord is -(t - t^2) (b - a) H (b - a) / 2.
    flat = flatten(B) - flatten(A)
    curvature = flat @ HESSIAN @ flat
    assert barrier(quadratic(), A, B).height == 0
    drop = barrier(quadratic(), A, B, metric="accuracy", larger_is_better=False)
    assert (drop.height, drop.t) == (pytest.approx(curvature / 8, rel=1e-4), 0.5)
    # An accuracy is better when it is larger, so that its barrier is a drop, and here there is none.
    assert barrier(quadratic(), A, B, metric="accuracy").height == 0
    whole = line(quadratic(), A, B, t=[-1, 0, 0.5, 1, 1.5])
    assert line_barrier(whole, metric="loss", larger_is_better=True).height == pytest.approx(curvature / 8, rel=1e-4)


def test_a_nan_loss_gives_a_nan_height():
    problem = quadratic()

    def evaluate(params, model_state):
        loss = problem.evaluate(params, model_state)["loss"]
        middle = jnp.abs(params["bias"][0] - (A["bias"][0] + B["bias"][0]) / 2) < 1e-3
        return {"loss": jnp.where(middle, jnp.nan, loss)}

    result = barrier(Problem(problem.loss_fn, problem.data, evaluate=evaluate), A, B, t=np.linspace(0, 1, 5))
    assert np.isnan(result.height)
    assert result.t == 0.5
    np.testing.assert_array_equal(np.isnan(result.line.metrics["loss"]), [False, False, True, False, False])


def test_the_ends_of_a_line_have_their_own_losses_unless_statistics_are_kept():
    ends = [batch_norm_params(0), batch_norm_params(1)]
    states = [measured_statistics(end) for end in ends]
    own = [batch_norm_loss(*each) for each in zip(ends, states, strict=True)]
    for statistics in ("recalibrated", "interpolated"):
        result = line(batch_norm(), *ends, t=[0, 1], model_states=states, statistics=statistics)
        np.testing.assert_allclose(result.metrics["loss"], own, rtol=1e-5)
        assert (result.statistics, result.split) == (statistics, "train")
    kept = line(batch_norm(), *ends, t=[0, 1], model_states=states, statistics="kept")
    np.testing.assert_allclose(kept.metrics["loss"], [own[0], batch_norm_loss(ends[1], states[0])], rtol=1e-5)


@pytest.mark.parametrize("through", [plane(A, B, C), plane(A, B, C, D), filter_plane(A)], ids=lambda each: each.kind)
def test_a_surface_has_the_closed_form_losses_of_its_points(through):
    result = surface(quadratic(), through, X, Y)
    expected = [[quadratic_loss(plane_point(through, (x, y))) for x in X] for y in Y]
    np.testing.assert_allclose(result.metrics["loss"], expected, rtol=1e-4, atol=1e-5)
    assert result.metrics["loss"].shape == (3, 4)
    assert result.done.all()


def test_a_surface_on_a_line_has_one_axis():
    result = surface(quadratic(), filter_plane(A, seeds=(1,)), X)
    assert result.y is None
    assert result.metrics["accuracy"].shape == (4,)


def test_a_stopped_surface_can_be_resumed():
    class Stop(Exception):
        pass

    partial = []

    def stop_in_the_middle(so_far):
        partial.append(so_far)
        if so_far.done.sum() >= 5:
            raise Stop

    through = plane(A, B, C)
    whole = surface(quadratic(), through, X, Y, strategy="loop")
    with pytest.raises(Stop):
        surface(quadratic(), through, X, Y, on_rows=stop_in_the_middle, strategy="loop")
    part = partial[-1]
    assert part.done.sum() == 5
    assert np.isnan(part.metrics["loss"][~part.done]).all()
    evaluated = []
    again = surface(quadratic(), through, X, Y, done=part, on_rows=evaluated.append, strategy="loop")
    assert len(evaluated) == whole.done.size - 5
    for name, values in whole.metrics.items():
        np.testing.assert_array_equal(again.metrics[name], values)
    # Evaluated points are not evaluated again, even if they are NaN.
    part.metrics["loss"][0, 0] = np.nan
    assert np.isnan(surface(quadratic(), through, X, Y, done=part).metrics["loss"][0, 0])
    assert part.done.sum() == 5
    surface(quadratic(), through, X, Y, done=whole, on_rows=evaluated.append)
    assert len(evaluated) == whole.done.size - 5


def test_an_equinox_model_has_a_surface():
    inputs = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    targets = inputs.sum(axis=1)
    model = eqx.nn.MLP(3, "scalar", 4, 1, key=jax.random.key(0))

    def loss(model, batch, key):
        return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)

    problem = equinox_problem(
        model,
        (inputs, targets),
        loss=loss,
        predict=lambda model, batch: jax.vmap(model)(batch[0]),
        score=lambda outputs, batch: {"loss": (outputs - batch[1]) ** 2},
        test_data=(inputs[:2], targets[:2]),
    )
    params, state = problem.init(jax.random.key(0))
    through = filter_plane(params, filter_axis=problem.filter_axis)
    for split, rows in (("train", slice(None)), ("test", slice(2))):
        result = surface(problem, through, X, Y, model_state=state, split=split)
        displaced = problem.loss_fn.merge(plane_point(through, (X[1], Y[2])), state)
        expected = loss(displaced, (inputs[rows], targets[rows]), None)
        assert result.metrics["loss"][2, 1] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": [0]}, r"x must be 2 or more numbers, got shape \(1,\)"),
        ({"x": [0, 0]}, "x must be increasing finite numbers"),
        ({"y": [0, np.nan]}, "y must be increasing finite numbers"),
        ({"y": "ab"}, "y must be numbers, got 'ab'"),
        ({"y": None}, "y must be given on a plane"),
        ({"plane": plane(A, B)}, "y must be None on a line"),
        ({"metrics": ["error"]}, "unknown metric 'error'; known: accuracy, loss"),
        ({"statistics": "new"}, "statistics must be one of"),
        ({"plane": filter_plane(A), "statistics": "interpolated"}, "a plane along directions has none at its corners"),
    ],
)
def test_invalid_grids_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        surface(**{"problem": quadratic(), "plane": plane(A, B, C), "x": X, "y": Y, **arguments})


def test_an_argument_that_is_not_a_plane_is_rejected():
    with pytest.raises(TypeError, match="plane must be a Plane, such as from plane or filter_plane, got dict"):
        surface(quadratic(), A, X, Y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X + 1}, "same grid, but its x differs"),
        ({"y": None}, "same grid, but its y differs"),
        ({"statistics": "kept"}, "done has statistics 'kept', but 'none' is requested"),
        ({"split": "train"}, "done has split 'train', but None is requested"),
        ({"metrics": {"loss": np.zeros((3, 4))}}, "done has the metrics loss, but accuracy, loss are requested"),
        ({"done": np.ones((4, 3), bool)}, r"done must have arrays of shape \(3, 4\)"),
    ],
)
def test_resuming_a_different_surface_is_rejected(change, message):
    through = plane(A, B, C)
    part = surface(quadratic(), through, X, Y)
    with pytest.raises(ValueError, match=message):
        surface(quadratic(), through, X, Y, done=part._replace(**change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": [0, 0.5]}, "t must go from 0 to 1, got 0.0 to 0.5"),
        ({"metric": "error"}, "unknown metric 'error'; known: accuracy, loss"),
    ],
)
def test_invalid_arguments_of_a_barrier_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        barrier(quadratic(), A, B, **arguments)
    with pytest.raises(ValueError, match="points at t = 0 and t = 1"):
        line_barrier(line(quadratic(), A, B, t=[-0.5, 0.5, 1.5]))


def test_the_default_metric_of_a_barrier_is_loss_or_train_loss():
    problem = quadratic()

    def evaluate(params, model_state):
        return {"train_loss": problem.evaluate(params, model_state)["accuracy"]}

    result = barrier(Problem(problem.loss_fn, problem.data, evaluate=evaluate), A, B)
    flat = flatten(B) - flatten(A)
    assert (result.metric, result.height) == ("train_loss", pytest.approx(flat @ HESSIAN @ flat / 8, rel=1e-4))

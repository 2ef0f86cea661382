"""Parameters in a framework's own classes: module, state and pure dict give what the problem's own form gives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxscape as js
from jaxscape.curvature.products import hvp

X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)


class Model(nnx.Module):
    """Eleven layers: as strings their indices have another order than as numbers."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(11)])
        self.norm, self.dropout = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.dropout(self.norm(x))


def problem_of(model):
    return js.nnx_problem(
        model,
        X,
        loss=lambda model, batch, key: (model(batch) ** 2).mean(),
        predict=lambda model, batch: model(batch),
        score=lambda outputs, batch: {"loss": ((outputs - 1) ** 2).mean(axis=1)},
    )


def state_of(model):
    return nnx.state(model, nnx.Param)


FORMS = {
    "module": lambda model: model,
    "state": state_of,
    "whole state": nnx.state,
    "pure dict": lambda model: nnx.to_pure_dict(state_of(model)),
    "strings": lambda model: problem_of(model).init(jax.random.key(0))[0],
}


@pytest.fixture(scope="module")
def problem():
    return problem_of(Model(0))


@pytest.fixture(scope="module")
def trained():
    """Another network of this class, whose statistics are not the initial ones."""
    model = Model(1)
    model(X)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_a_minimum_and_a_record_are_those_of_the_problems_own_form(tmp_path, problem, trained, form):
    params, model_state = problem_of(trained).init(jax.random.key(0))
    given = FORMS[form](trained)
    run = js.Run(tmp_path / "run", problem, quiet=True)
    run.set_minimum(given, None if form in ("module", "whole state") else nnx.state(trained, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, run.minimum().params, params)
    jax.tree.map(np.testing.assert_array_equal, run.minimum().model_state, model_state)
    with js.Run(tmp_path / "recorded", problem, quiet=True) as recorded:
        recorded.record(0, given)
    stored = recorded.store().read(0, 0, like=params)
    jax.tree.map(lambda found, leaf: np.testing.assert_array_equal(found[0, 0], leaf), stored, params)


@pytest.mark.parametrize("form", FORMS)
def test_a_product_is_that_of_the_problems_own_form(problem, trained, form):
    params, model_state = problem_of(trained).init(jax.random.key(0))
    ones = jax.tree.map(jnp.ones_like, params)
    expected = hvp(problem, params, ones, model_state=model_state)
    given = None if form in ("module", "whole state") else nnx.state(trained, nnx.BatchStat)
    found = hvp(problem, FORMS[form](trained), ones, model_state=given)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_line_between_states_is_that_between_dicts(problem, trained):
    own, other = (problem_of(each).init(jax.random.key(0))[0] for each in (Model(0), trained))
    state = nnx.state(trained, nnx.BatchStat)
    options = {"t": [0.0, 0.5, 1.0], "statistics": "kept", "split": "train"}
    expected = js.line(problem, own, other, model_state=problem_of(trained).init(None)[1], **options)
    found = js.line(problem, state_of(Model(0)), state_of(trained), model_state=state, **options)
    np.testing.assert_array_equal(found.metrics["loss"], expected.metrics["loss"])


def test_a_line_between_modules_has_their_states(problem, trained):
    networks = [problem_of(each).init(None) for each in (Model(0), trained)]
    options = {"t": [0.0, 0.5, 1.0], "statistics": "interpolated", "split": "train"}
    (own, state), (other, other_state) = networks
    expected = js.line(problem, own, other, model_states=[state, other_state], **options)
    found = js.line(problem, Model(0), trained, **options)
    np.testing.assert_array_equal(found.metrics["loss"], expected.metrics["loss"])


def test_a_curve_between_modules_is_that_between_dicts(problem, trained):
    (own, state), (other, _) = (problem_of(each).init(None) for each in (Model(0), trained))
    options = {"key": jax.random.key(0), "epochs": 1, "batch_size": 4}
    expected = js.connect(problem, own, other, model_state=state, start=[own], **options)
    found = js.connect(problem, Model(0), trained, start=[Model(0)], **options)
    jax.tree.map(np.testing.assert_array_equal, found.points, expected.points)


def test_equinox_models_span_lines_curves_planes_and_jumps():
    class Net(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __init__(self, seed):
            self.linear = eqx.nn.Linear(3, 3, key=jax.random.key(seed))
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.linear(x), state)

    def outputs(model, state, batch):
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch, state)

    def loss(model, state, batch, key):
        values, state = outputs(model, state, batch)
        return ((values - 1) ** 2).mean(), state

    (a, state), (b, _) = (eqx.nn.make_with_state(Net)(seed) for seed in (0, 1))
    kept = state  # a state of Equinox can be used once
    problem = js.equinox_problem(
        a,
        X,
        loss=loss,
        state=state,
        predict=lambda model, state, batch: outputs(model, state, batch)[0],
        score=lambda values, batch: {"loss": ((values - 1) ** 2).mean(axis=1)},
    )
    own, other = (problem.split_model(model, kept) for model in (a, b))
    jax.tree.map(np.testing.assert_array_equal, own, problem.init(None))
    options = {"t": [0.0, 0.5, 1.0], "split": "train"}
    expected = js.barrier(problem, own[0], other[0], model_state=own[1], **options)
    found = js.barrier(problem, a, b, model_state=kept, **options)
    np.testing.assert_array_equal(found.line.metrics["loss"], expected.line.metrics["loss"])
    path = js.connect(problem, a, b, model_state=kept, key=jax.random.key(0), epochs=1, batch_size=4)
    assert jax.tree.structure(path.a) == jax.tree.structure(own[0])
    plane = js.filter_plane(eqx.filter(a, eqx.is_inexact_array), filter_axis=0)
    surface = js.surface(problem, plane, [-1.0, 0.0], [0.0, 1.0], model_state=kept, split="train", statistics="kept")
    at_network = js.line(problem, own[0], other[0], t=[0, 1], model_state=own[1], split="train", statistics="kept")
    np.testing.assert_allclose(surface.metrics["loss"][0, 1], at_network.metrics["loss"][0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"problem\.split_model\(model\) do: linear/weight is absent"):
        jax.eval_shape(problem.loss_fn, eqx.filter(a, eqx.is_inexact_array), own[1], X, jax.random.key(0))


def test_several_networks_are_recorded_from_their_modules(tmp_path, problem):
    models = [Model(0), Model(1)]
    with js.Run(tmp_path / "run", problem, quiet=True) as run:
        run.record(0, models, labels=[{"seed": 0}, {"seed": 1}])
    expected = problem_of(models[1]).init(None)[0]
    stored = run.store().read(0, 1, like=expected)
    jax.tree.map(lambda found, leaf: np.testing.assert_array_equal(found[0, 0], leaf), stored, expected)


def test_a_missing_array_is_named(problem, trained):
    params = nnx.to_pure_dict(state_of(trained))
    del params["layers"][3]["bias"]
    with pytest.raises(ValueError, match=r"arrays that init makes, .*: layers/3/bias is absent"):
        js.trace(problem, params, model_state=nnx.state(trained, nnx.BatchStat), probes=2)


def test_without_its_problem_a_module_is_refused_with_the_advice_of_its_framework(tmp_path, trained):
    with pytest.raises(TypeError, match=r"or flax\.nnx\.state\(model, flax\.nnx\.Param\) does$"):
        js.Run(tmp_path / "run", quiet=True).record(0, trained)
    model = eqx.nn.MLP(3, 3, 3, 1, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"or equinox\.partition\(model, equinox\.is_inexact_array\) does$"):
        js.trace(js.Problem(lambda params, state, batch, key: (0.0, (state, {})), X), model)


def test_an_equinox_model_is_a_minimum(tmp_path):
    first, trained = (eqx.nn.MLP(3, 3, 3, 1, key=jax.random.key(seed)) for seed in (0, 1))
    problem = js.equinox_problem(first, X, loss=lambda model, batch, key: (jax.vmap(model)(batch) ** 2).mean())
    run = js.Run(tmp_path / "run", problem, quiet=True)
    run.set_minimum(trained)
    stored = jax.tree.leaves(problem.loss_fn.merge(run.minimum().params, {}))
    for found, leaf in zip(stored, jax.tree.leaves(trained), strict=True):
        assert found is leaf or np.array_equal(found, leaf)

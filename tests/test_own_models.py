"""The landscape and the curvature of models of a user's own: an NNX and an Equinox convolution with batch norm.

The numbers are those of the same network in Flax Linen with the same weights, which no adapter and no room of ours has
touched: `logits_of` and `statistics_of`.
"""

from functools import cache, partial
from types import SimpleNamespace

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxscape as js
from jaxscape.runs.kept import read_kept
from jaxscape.tasks.classification import classification_score

GENERATOR = np.random.default_rng(0)
CHANNELS, CLASSES = 4, 3
X = GENERATOR.standard_normal((24, 5, 5, 1)).astype(np.float32)
Y = GENERATOR.integers(0, CLASSES, 24).astype(np.int32)
TRAIN, TEST = (X[:16], Y[:16]), (X[16:], Y[16:])


class Nnx(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.conv, self.norm = nnx.Conv(1, CHANNELS, (3, 3), rngs=rngs), nnx.BatchNorm(CHANNELS, rngs=rngs)
        self.head = nnx.Linear(CHANNELS, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.norm(self.conv(x))).mean(axis=(1, 2)))


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, seed):
        first, last = jax.random.split(jax.random.key(seed))
        self.conv = eqx.nn.Conv2d(1, CHANNELS, 3, padding="SAME", key=first)
        self.norm = eqx.nn.BatchNorm(CHANNELS, "batch", mode="batch")
        self.head = eqx.nn.Linear(CHANNELS, CLASSES, key=last)

    def __call__(self, x, state):
        x, state = self.norm(self.conv(jnp.moveaxis(x, -1, 0)), state)
        return self.head(jnp.tanh(x).mean(axis=(1, 2))), state


class Linen(nn.Module):
    """The oracle; momentum 0 leaves the statistics of the last batch."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train, momentum=0.0, name="norm")(nn.Conv(CHANNELS, (3, 3), name="conv")(x))
        return nn.Dense(CLASSES, name="head")(jnp.tanh(x).mean(axis=(1, 2)))


def mean_loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def nnx_own(seed):
    model = Nnx(seed)
    model.train()
    return js.nnx_problem(
        model,
        TRAIN,
        loss=lambda model, batch, key: mean_loss(model(batch[0]), batch[1]),
        predict=lambda model, batch: model(batch[0]),
        score=classification_score,
        test_data=TEST,
        optimizer=optax.adam(0.05),
    )


def equinox_own(seed):
    model, state = eqx.nn.make_with_state(Equinox)(seed)

    def apply(model, state, images):
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(images, state)

    def loss(model, state, batch, key):
        logits, state = apply(model, state, batch[0])
        return mean_loss(logits, batch[1]), state

    return js.equinox_problem(
        model,
        TRAIN,
        loss=loss,
        state=state,
        predict=lambda model, state, batch: apply(model, state, batch[0])[0],
        score=classification_score,
        test_data=TEST,
        optimizer=optax.adam(0.05),
    )


def linen_of_nnx(params):
    return params


def linen_of_equinox(params):
    conv, norm, head = params["conv"], params["norm"], params["head"]
    return {
        "conv": {"kernel": conv["weight"].transpose(2, 3, 1, 0), "bias": conv["bias"].reshape(-1)},
        "norm": {"scale": norm["weight"], "bias": norm["bias"]},
        "head": {"kernel": head["weight"].T, "bias": head["bias"]},
    }


# The output axis of weights and which axes a permutation of the channels acts on, as the user of each framework says.
FRAMEWORKS = {
    "nnx": SimpleNamespace(
        problem=nnx_own,
        linen=linen_of_nnx,
        output_axis=-1,
        axes={
            "conv/kernel": (None, None, None, "channels"),
            "conv/bias": ("channels",),
            "norm/*": ("channels",),
            "head/kernel": ("channels", None),
        },
    ),
    "equinox": SimpleNamespace(
        problem=equinox_own,
        linen=linen_of_equinox,
        output_axis=0,
        axes={
            "conv/weight": ("channels", None, None, None),
            "conv/bias": ("channels", None, None),
            "norm/weight": ("channels",),
            "norm/bias": ("channels",),
            "head/weight": (None, "channels"),
        },
    ),
}


@jax.jit
def statistics_of(params, images=X[:16]):
    """The mean and variance of each channel over the training images, as Linen measures them in one batch."""
    start = {"norm": {"mean": jnp.zeros(CHANNELS), "var": jnp.ones(CHANNELS)}}
    _, new = Linen().apply({"params": params, "batch_stats": start}, images, train=True, mutable=["batch_stats"])
    return new["batch_stats"]


@jax.jit
def logits_of(params, statistics, images):
    return Linen().apply({"params": params, "batch_stats": statistics}, images)


def loss_of(params, statistics=None, data=TRAIN):
    """The loss of Linen's network, by default with recalibrated statistics."""
    statistics = statistics_of(params) if statistics is None else statistics
    return float(mean_loss(logits_of(params, statistics, data[0]), data[1]))


def mixed(weights, trees):
    def of_leaf(*leaves):
        return sum(np.float32(weight) * np.asarray(leaf) for weight, leaf in zip(weights, leaves, strict=True))

    return jax.tree.map(of_leaf, *trees)


@cache
def own(name):
    """A problem, two trained networks, statistics that they had after different numbers of steps, and snapshots."""
    framework = FRAMEWORKS[name]
    problem = framework.problem(0)
    starts = [framework.problem(seed).init(jax.random.key(0)) for seed in (0, 1)]
    states = js.init_states(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(start[0] for start in starts)),
        problem.optimizer,
        keys=jax.random.split(jax.random.key(1), 2),
        model_state=starts[0][1],
    )
    snapshots = []
    for last in js.train(problem.loss_fn, problem.optimizer, states, problem.data, epochs=4, batch_size=4):
        snapshots.append(jax.tree.map(np.array, (last.states.params, last.states.model_state)))
    ends = [
        jax.tree.map(lambda leaf, member=member: leaf[member], (snapshots[-1][0], snapshots[epoch][1]))
        for member, epoch in ((0, -1), (1, 1))
    ]
    return SimpleNamespace(
        problem=problem,
        linen=framework.linen,
        output_axis=framework.output_axis,
        axes=framework.axes,
        ends=[end[0] for end in ends],
        states=[end[1] for end in ends],
        snapshots=[jax.tree.map(lambda leaf: leaf[0], params) for params, _ in snapshots],
        statistics=partial(running_statistics, problem),
    )


def running_statistics(problem, params, model_state):
    """The mean and variance in a model state as the framework itself reads them: from what its batch norm gives.

    An affine map is known from two points: with scale 1 and bias 0 the channels are (x - mean) / sqrt(var + epsilon).
    """
    if "norm" in model_state:
        return {"norm": model_state["norm"]}
    model, state = problem.loss_fn.merge(params, model_state)
    norm = eqx.nn.inference_mode(eqx.tree_at(lambda n: (n.weight, n.bias), model.norm, (jnp.ones(4), jnp.zeros(4))))
    low, high = (norm(jnp.full((CHANNELS, 1, 1), value, jnp.float32), state)[0].reshape(-1) for value in (0.0, 1.0))
    factor = np.float64(high) - np.float64(low)
    return {"norm": {"mean": jnp.float32(-low / factor), "var": jnp.float32(1 / factor**2 - 1e-5)}}


each_framework = pytest.mark.parametrize("name", FRAMEWORKS)


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        ("nnx", "recalibrated"),
        ("nnx", "kept"),
        ("equinox", "interpolated"),
        pytest.param("nnx", "interpolated", marks=pytest.mark.slow),
        pytest.param("equinox", "recalibrated", marks=pytest.mark.slow),
        pytest.param("equinox", "kept", marks=pytest.mark.slow),
    ],
)
def test_lines_and_barriers_have_the_losses_of_linen(name, statistics):
    it = own(name)
    t = np.linspace(0, 1, 5)
    points = [mixed((1 - s, s), it.ends) for s in t]
    of_ends = [it.statistics(*end) for end in zip(it.ends, it.states, strict=True)]
    behind = {
        "recalibrated": [None] * len(t),
        "interpolated": [mixed((1 - s, s), of_ends) for s in t],
        "kept": [of_ends[0]] * len(t),
    }
    expected = np.array(
        [loss_of(it.linen(point), each, TEST) for point, each in zip(points, behind[statistics], strict=True)]
    )
    how = {"model_states": it.states, "statistics": statistics, "split": "test"}
    found = js.line(it.problem, *it.ends, t=t, **how)
    assert found.statistics == statistics
    np.testing.assert_allclose(found.metrics["loss"], expected, rtol=1e-4)
    height = (expected - ((1 - t) * expected[0] + t * expected[-1])).max()
    barrier = js.barrier(it.problem, *it.ends, t=t, metric="loss", **how)
    np.testing.assert_allclose(barrier.height, height, rtol=1e-3, atol=1e-5)


def filters(leaf, output_axis):
    """The norm of each filter of a weight array, with the shape of the array; None of biases and scales."""
    if leaf.squeeze().ndim < 2:
        return None
    rows = np.moveaxis(np.float64(leaf), output_axis, 0)
    norms = np.linalg.norm(rows.reshape(len(rows), -1), axis=1).reshape(-1, *[1] * (leaf.ndim - 1))
    return np.moveaxis(np.broadcast_to(norms, rows.shape), 0, output_axis)


@each_framework
def test_a_surface_along_filter_normalised_directions_has_the_losses_of_linen(name):
    it = own(name)
    params = it.ends[0]

    def direction(seed):
        drawn = js.random_direction(jax.random.key(seed), params)

        def of_leaf(leaf, noise):
            norms = filters(leaf, it.output_axis)
            if norms is None:
                return np.zeros_like(leaf)
            return np.float32(np.float64(noise) * norms / filters(np.asarray(noise), it.output_axis))

        return jax.tree.map(of_leaf, params, drawn)

    axes = [direction(seed) for seed in (0, 1)]
    plane = js.filter_plane(params, filter_axis=it.problem.filter_axis)
    x, y = np.array([-0.5, 0.5]), np.array([0.0, 1.0, 2.0])
    found = js.surface(it.problem, plane, x, y, model_state=it.states[0])
    expected = [[loss_of(it.linen(mixed((1, u, v), [params, *axes]))) for u in x] for v in y]
    np.testing.assert_allclose(found.metrics["loss"], expected, rtol=1e-4)


@each_framework
def test_a_trajectory_on_its_plane_is_that_of_a_singular_value_decomposition(name):
    it = own(name)
    rows = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(each)]) for each in it.snapshots])
    centred = np.float64(rows) - np.float64(rows).mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    plane = js.trajectory_plane(it.snapshots, origin="mean", like=it.ends[0])
    np.testing.assert_allclose(plane.shares[:2], values[:2] ** 2 / (values**2).sum(), rtol=1e-6)
    shadow = js.trajectory_on_plane(it.problem, plane, it.snapshots, model_state=it.states[0])
    np.testing.assert_allclose(np.abs(shadow.projection.coordinates), np.abs(centred @ axes[:2].T), atol=1e-5)
    feet = rows.mean(axis=0) + centred @ axes[:2].T @ axes[:2]
    unravel = jax.flatten_util.ravel_pytree(it.ends[0])[1]
    above = [loss_of(it.linen(point)) for point in it.snapshots]
    below = [loss_of(it.linen(unravel(np.float32(foot)))) for foot in feet]
    np.testing.assert_allclose(shadow.metrics["loss"], above, rtol=1e-4)
    np.testing.assert_allclose(shadow.plane_metrics["loss"], below, rtol=1e-4)


@each_framework
def test_a_curve_has_the_losses_of_linen_and_lowers_them(name):
    it = own(name)
    how = {"key": jax.random.key(3), "model_state": it.states[0], "batch_size": 16, "optimizer": optax.adam(0.03)}
    curve = js.connect(it.problem, *it.ends, epochs=40, **how)
    profile = js.path_profile(it.problem, curve, t=[0, 0.25, 0.5, 1], metric="loss")
    points = [mixed(((1 - t) ** 2, 2 * t * (1 - t), t**2), curve.points) for t in (0, 0.25, 0.5, 1)]
    expected = [loss_of(it.linen(point)) for point in points]
    np.testing.assert_allclose(profile.curve.line.metrics["loss"], expected, rtol=1e-4)
    straight = [loss_of(it.linen(mixed((1 - t, t), it.ends))) for t in (0, 0.25, 0.5, 1)]
    np.testing.assert_allclose(profile.straight.line.metrics["loss"], straight, rtol=1e-4)
    assert expected[2] < straight[2]
    for end, t in zip(it.ends, (0, 1), strict=True):
        jax.tree.map(np.testing.assert_array_equal, curve.params_at(t), end)


@each_framework
def test_channels_in_another_order_are_matched_with_the_users_own_axes(name):
    it = own(name)
    a, order = it.ends[0], np.array([2, 0, 3, 1])
    flat, treedef = jax.tree_util.tree_flatten_with_path(a)
    moved = []
    for path, leaf in flat:
        *_, layer, kind = (key.key for key in path)
        axis = {"conv": it.output_axis, "head": 0 if name == "nnx" else 1}.get(layer, 0)
        axis = 0 if kind == "bias" else axis
        moved.append(leaf if (layer, kind) == ("head", "bias") else np.take(leaf, order, axis=axis))
    b = jax.tree.unflatten(treedef, moved)
    same = logits_of(it.linen(b), statistics_of(it.linen(b)), TEST[0])
    expected = logits_of(it.linen(a), statistics_of(it.linen(a)), TEST[0])
    np.testing.assert_allclose(same, expected, atol=1e-5)
    found = js.match_units(a, b, it.axes, key=jax.random.key(0))
    np.testing.assert_array_equal(found.permutations["channels"], np.argsort(order))
    assert found.squared_distance == 0 < found.squared_distance_before


def in_linen(it, params):
    """Linen's parameters as one vector."""
    return jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, it.linen(params)))


@cache
def dense(name, recalibrated=False):
    """Of the first network in float64: the loss as a function of Linen's vector, its Hessian, Gauss-Newton matrix."""
    it = own(name)
    params = it.linen(it.ends[0])
    statistics = statistics_of(params) if recalibrated else it.statistics(it.ends[0], it.states[0])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.float64(leaf)), (it.linen(it.ends[0]), statistics, TRAIN[0]))
        flat, unravel = jax.flatten_util.ravel_pytree(wide[0])

        def outputs(vector):
            return Linen().apply({"params": unravel(vector), "batch_stats": wide[1]}, wide[2])

        def loss(vector):
            return mean_loss(outputs(vector), TRAIN[1])

        loss = jax.jit(loss)
        jacobian, chances = np.asarray(jax.jit(jax.jacobian(outputs))(flat)), np.asarray(jax.nn.softmax(outputs(flat)))
        bent = np.stack([np.diag(each) - np.outer(each, each) for each in chances])
        return SimpleNamespace(
            flat=np.asarray(flat),
            loss=loss,
            gradient=np.asarray(jax.jit(jax.grad(loss))(flat)),
            hessian=np.asarray(jax.jit(jax.hessian(loss))(flat)),
            gauss_newton=np.einsum("nip,nij,njq->pq", jacobian, bent, jacobian) / len(chances),
            logits=np.asarray(outputs(flat)),
        )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nnx", "hessian"),
        ("equinox", "gauss_newton"),
        pytest.param("nnx", "gauss_newton", marks=pytest.mark.slow),
        pytest.param("equinox", "hessian", marks=pytest.mark.slow),
    ],
)
def test_products_are_those_of_dense_matrices(name, kind):
    it, exact = own(name), dense(name)
    generator = np.random.default_rng(1)
    vector = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), it.ends[0])
    expected = getattr(exact, kind) @ np.float64(in_linen(it, vector)[0])
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-6)):  # the statistics of Equinox are read in float32
        operator = getattr(js, kind)(it.problem, it.ends[0], model_state=it.states[0], batch_size=7, dtype=dtype)
        found = in_linen(it, jax.tree.map(np.float32, operator.matvec(vector)))[0]
        assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)
    if kind == "hessian":
        once = js.hvp(it.problem, it.ends[0], vector, model_state=it.states[0])
        assert np.linalg.norm(in_linen(it, once)[0] - expected) < 1e-4 * np.linalg.norm(expected)


@each_framework
def test_eigenvalues_and_traces_are_those_of_the_dense_hessian(name):
    it, exact = own(name), dense(name)
    of = {"model_state": it.states[0]}
    values = np.linalg.eigvalsh(exact.hessian)[::-1]
    found = js.hessian_spectrum(it.problem, it.ends[0], k=2, lowest=1, num_steps=len(values), **of)
    np.testing.assert_allclose(found.eigenvalues, values[:2], rtol=1e-4)
    np.testing.assert_allclose(found.lowest.values, values[-1:], rtol=1e-3, atol=1e-5)
    # As many products as there are parameters give the trace itself.
    trace = js.trace(it.problem, it.ends[0], probes=len(values), **of)
    np.testing.assert_allclose(trace.value, np.trace(exact.hessian), rtol=1e-4)


@each_framework
def test_sharpness_is_its_formula_on_the_dense_loss(name):
    it, exact = own(name), dense(name)
    of = {"model_state": it.states[0]}

    def scales(leaf):
        norms = filters(leaf, it.output_axis)
        return np.float32(np.abs(leaf) if norms is None else norms)

    of_filters = np.float64(in_linen(it, jax.tree.map(scales, it.ends[0]))[0])
    with jax.enable_x64(True):
        for kind, scale in (("worst_case", np.ones_like(exact.flat)), ("worst_case_filter", of_filters)):
            along = scale * exact.gradient
            moved = exact.flat + 0.1 * scale * along / np.linalg.norm(along)
            rise = float(exact.loss(moved) - exact.loss(exact.flat))
            with jax.enable_x64(False):
                found = js.sharpness(it.problem, it.ends[0], kind=kind, radius=0.1, steps=1, **of)
            np.testing.assert_allclose(found.value, rise, rtol=1e-3, err_msg=kind)
    top = js.sharpness(it.problem, it.ends[0], kind="top_eigenvalue", steps=len(exact.flat), **of)
    np.testing.assert_allclose(top.value, np.linalg.eigvalsh(exact.hessian)[-1], rtol=1e-4)


@each_framework
def test_margins_are_those_of_the_logits_of_linen(name):
    it, exact = own(name), dense(name)
    right = exact.logits[np.arange(16), TRAIN[1]]
    others = np.where(np.eye(CLASSES)[TRAIN[1]] == 1, -np.inf, exact.logits).max(axis=1)
    found = js.margins(it.problem, it.ends[0], model_state=it.states[0], batch_size=5)
    np.testing.assert_allclose(found.values, right - others, atol=1e-4)
    np.testing.assert_allclose(found.percentile_10, np.percentile(right - others, 10), atol=1e-4)


@pytest.mark.slow
@each_framework
def test_a_run_of_an_own_model_has_a_surface_a_path_and_a_curvature(name, tmp_path):
    it, exact = own(name), dense(name, recalibrated=True)
    runs = [js.Run(tmp_path / end, it.problem, quiet=True) for end in ("a", "b")]
    for run, params, state in zip(runs, it.ends, it.states, strict=True):
        run.set_minimum(params, state)
    line = read_kept(runs[0].surface(seeds=[0], points=3, extent=0.5))
    np.testing.assert_allclose(line.values["grid:loss"][1], loss_of(it.linen(it.ends[0])), rtol=1e-4)
    path = read_kept(runs[0].path(runs[1].folder, axes=lambda params, state: it.axes, epochs=2, points=3))
    middle = loss_of(it.linen(mixed((0.5, 0.5), it.ends)))
    np.testing.assert_allclose(path.values["straight:loss"][1], middle, rtol=1e-4)
    matched = js.match_units(*it.ends, it.axes, key=jax.random.key(0)).params
    middle = loss_of(it.linen(mixed((0.5, 0.5), [it.ends[0], matched])))
    np.testing.assert_allclose(path.values["matched:loss"][1], middle, rtol=1e-4)
    found = read_kept(runs[0].curvature(k=2, steps=len(exact.flat), probes=2)).record
    np.testing.assert_allclose(found["eigenvalues"], np.linalg.eigvalsh(exact.hessian)[::-1][:2], rtol=1e-4)
    for kind in ("surface", "path", "curvature"):
        assert {file.suffix for file in runs[0].folder.figures.glob(f"{kind}-*")} == {".png", ".svg", ".pdf"}

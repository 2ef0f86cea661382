"""The wide residual network against numbers recorded from PyTorch, its convolution against XLA's."""

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxscape.tasks.models import WideResNet

RECORDED = json.loads((Path(__file__).parents[1] / "oracles" / "pytorch.json").read_text())
KEY = jax.random.key(0)


def wave(shape, frequency):
    return np.sin(frequency * (np.arange(np.prod(shape), dtype=np.float64) + 1) ** 2).reshape(shape)


def our_path(name):
    return tuple(re.sub(r"(group\d)/(block\d)", r"\1_\2", name).split("/"))


def formula_tree(listed):
    """Return the tensors of `record_pytorch.py` as a float32 tree under our names."""
    tree = {}
    for position, entry in enumerate(listed):
        path, shape = our_path(entry["name"]), entry["shape"]
        values = wave(shape, np.sqrt(position + 2))
        if path[-1] == "kernel":
            values = 2 * values / np.sqrt(np.prod(shape[:-1]))
        else:
            values = {"scale": 1 + 0.1 * values, "var": 1 + 0.5 * values}.get(path[-1], 0.1 * values)
        tree[path] = values.astype(np.float32)
    return unflatten_dict(tree)


def assert_close(ours, theirs):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6 * np.abs(theirs).max())


@pytest.fixture(scope="module", params=RECORDED["wide_resnet"], ids=lambda record: str(record["image_shape"]))
def passes(request):
    """Return a recorded network, and ours with the same parameters: one evaluation and one training pass."""
    record = request.param
    model = WideResNet(record["depth"], record["widen_factor"], record["num_classes"])
    params, batch_stats = formula_tree(record["parameters"]), formula_tree(record["statistics"])
    images = wave(record["image_shape"], np.sqrt(3)).astype(np.float32)
    labels = np.array(record["labels"])

    def train_loss(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, state = model.apply(variables, images, train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits, state["batch_stats"])

    @jax.jit
    def both(params):
        eval_logits = model.apply({"params": params, "batch_stats": batch_stats}, images)
        return eval_logits, jax.value_and_grad(train_loss, has_aux=True)(params)

    eval_logits, ((loss, (train_logits, moved)), gradient) = both(params)
    ours = {
        "eval_logits": eval_logits,
        "train_logits": train_logits,
        "train_loss": loss,
        "gradient": flatten_dict(gradient),
        "statistics": flatten_dict(batch_stats),
        "statistics_after": flatten_dict(moved),
    }
    return record, ours


@pytest.mark.parametrize("output", ["eval_logits", "train_logits", "train_loss"])
def test_outputs_are_those_of_pytorch(passes, output):
    record, ours = passes
    assert_close(ours[output], record[output])


def test_gradient_norms_are_those_of_pytorch(passes):
    record, ours = passes
    assert {our_path(name) for name in record["gradient_norms"]} == set(ours["gradient"])
    for name, norm in record["gradient_norms"].items():
        assert_close(np.linalg.norm(ours["gradient"][our_path(name)].ravel()), norm)


def test_running_statistics_update_as_in_pytorch_except_for_the_unbiased_variance(passes):
    record, ours = passes
    for name, after in record["statistics_after"].items():
        mean, var = our_path(f"{name}/mean"), our_path(f"{name}/var")
        assert_close(ours["statistics_after"][mean], after["mean"])
        previous, count = 0.9 * ours["statistics"][var], after["count"]
        assert_close(ours["statistics_after"][var], previous + (after["var"] - previous) * (count - 1) / count)


def test_names_and_shapes_are_those_recorded(passes):
    record, _ = passes
    model = WideResNet(record["depth"], record["widen_factor"], record["num_classes"])
    ours = jax.eval_shape(model.init, KEY, jnp.zeros(record["image_shape"]))
    for collection, listed in (("params", record["parameters"]), ("batch_stats", record["statistics"])):
        shapes = {path: list(leaf.shape) for path, leaf in flatten_dict(ours[collection]).items()}
        assert shapes == {our_path(entry["name"]): entry["shape"] for entry in listed}


@pytest.mark.parametrize("record", RECORDED["parameter_counts"], ids=lambda record: str(record["count"]))
def test_parameter_counts_are_those_of_pytorch(record):
    model = WideResNet(record["depth"], record["widen_factor"], record["num_classes"])
    images = jnp.zeros((1, 32, 32, record["channels"]))
    params = jax.eval_shape(model.init, KEY, images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == record["count"]


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (2, 5, 7, 4), (1, 33, 32, 3), (4, 28, 28, 1)])
def test_images_may_have_any_size_and_number_of_channels(shape):
    logits, _ = jax.eval_shape(WideResNet(10, 1, 7).init_with_output, KEY, jnp.zeros(shape))
    assert logits.shape == (shape[0], 7)


def test_bfloat16_activations_leave_parameters_statistics_and_logits_in_float32():
    model = WideResNet(10, 1, 10, dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(model.init_with_output, KEY, jnp.zeros((2, 8, 8, 1)))
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, variables))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("depth", [27, 4, -2, 0])
def test_depths_other_than_6n_plus_4_are_rejected(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 \(10, 16, 22, 28, ...\), got {depth}"):
        WideResNet(depth, 1, 10)


@pytest.mark.parametrize(("widen_factor", "num_classes", "name"), [(0, 10, "widen_factor"), (1, 0, "num_classes")])
def test_a_network_without_channels_or_classes_is_rejected(widen_factor, num_classes, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        WideResNet(10, widen_factor, num_classes)


@pytest.fixture(scope="module")
def initial():
    # This generator compiles in a third of the default's time.
    return jax.jit(WideResNet(10, 1, 10).init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 4, 4, 3)))


def test_convolutions_start_normal_with_variance_2_over_the_fan_out(initial):
    for path, kernel in flatten_dict(initial["params"]).items():
        if np.ndim(kernel) == 4:
            height, width, _, features = kernel.shape
            standardized = np.asarray(kernel) / np.sqrt(2 / (height * width * features))
            assert abs(standardized.std() - 1) < 5 / np.sqrt(2 * kernel.size), path
            assert abs(standardized.mean()) < 5 / np.sqrt(kernel.size), path
            # A truncated normal, Flax's default, would stop at 2 / 0.88 deviations.
            assert kernel.size < 1000 or np.abs(standardized).max() > 2.4, path


def test_the_head_starts_uniform_within_1_over_the_root_of_its_fan_in(initial):
    kernel = np.asarray(initial["params"]["head"]["kernel"])
    bound = 1 / np.sqrt(len(kernel))
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert abs(kernel.std() - bound / np.sqrt(3)) < 5 * bound / np.sqrt(3 * kernel.size)


def test_batch_norm_starts_as_the_identity(initial):
    start = {"scale": 1, "bias": 0, "mean": 0, "var": 1}
    for path, leaf in (flatten_dict(initial["params"]) | flatten_dict(initial["batch_stats"])).items():
        if path[-1] in start and path[-2] != "head":
            np.testing.assert_array_equal(leaf, start[path[-1]], err_msg=str(path))


def test_without_momentum_the_running_statistics_are_the_batchs_own(initial):
    model = WideResNet(10, 1, 10, norm_momentum=0.0)
    images = jax.random.normal(KEY, (5, 4, 4, 3))
    forward = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    train_logits, measured = forward(initial, images)
    other = {**initial, "batch_stats": jax.tree.map(lambda leaf: leaf + 3, initial["batch_stats"])}
    _, again = forward(other, images)
    jax.tree.map(np.testing.assert_array_equal, measured, again)
    # In evaluation, the network with these statistics gives what training gave.
    eval_logits = jax.jit(WideResNet(10, 1, 10).apply)({"params": initial["params"], **measured}, images)
    np.testing.assert_allclose(eval_logits, train_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": "10"}, "depth must be a whole number, got '10'"),
        ({"depth": 10.0}, "depth must be a whole number, got 10.0"),
        ({"widen_factor": 1.5}, "widen_factor must be a whole number, got 1.5"),
        ({"num_classes": None}, "num_classes must be a whole number, got None"),
        ({"norm_momentum": "0.9"}, "norm_momentum must be a number, got '0.9'"),
    ],
)
def test_settings_of_the_wrong_type_are_rejected(arguments, message):
    with pytest.raises(TypeError, match=message):
        WideResNet(**{"depth": 10, "widen_factor": 1, "num_classes": 10} | arguments)


@pytest.mark.parametrize("norm_momentum", [-0.1, 1.1, float("nan")])
def test_a_momentum_outside_0_to_1_is_rejected(norm_momentum):
    with pytest.raises(ValueError, match=f"norm_momentum must be between 0 and 1, got {norm_momentum}"):
        WideResNet(10, 1, 10, norm_momentum=norm_momentum)


def test_one_image_without_a_batch_is_rejected():
    # Flax's convolution accepts it, and the mean over the pixels would be over a row and the channels.
    with pytest.raises(ValueError, match=r"images must have the shape \(batch, H, W, C\), got \(8, 8, 1\)"):
        jax.eval_shape(WideResNet(10, 1, 10).init, KEY, jnp.zeros((8, 8, 1)))


def test_the_variance_in_two_passes_does_not_cancel():
    # With a mean of 1,000 deviations, E[x^2] - E[x]^2 has no correct digit in float32.
    images = 1000 + np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype(np.float32)

    def variance(fast):
        module = WideResNet(10, 1, 10, norm_momentum=0.0, fast_variance=fast)
        variables = module.init(KEY, images)
        variables["params"]["stem"]["kernel"] = jnp.zeros((3, 3, 1, 16)).at[1, 1].set(1.0)  # passes images through
        _, state = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return state["batch_stats"]["group1_block1"]["norm1"]["var"]

    exact = np.full(16, images.var(dtype=np.float64))
    np.testing.assert_allclose(variance(fast=False), exact, rtol=1e-5)
    assert abs(variance(fast=True) / exact - 1).max() > 1e-3

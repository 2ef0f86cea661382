"""Losses and metrics against PyTorch's cross-entropy and hand computations with NumPy."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

from jaxscape.tasks.classification import dropout_key, flax_evaluate, flax_loss, standardization
from jaxscape.training.train import init_states, train

KEY = jax.random.key(0)


class Identity(nn.Module):
    """A module whose logits are the images."""

    @nn.compact
    def __call__(self, images, *, train=False):
        return images + self.param("bias", nn.initializers.zeros, images.shape[-1:])[np.newaxis]


class Rows(nn.Module):
    """A module for which every row of an image is a row of logits."""

    @nn.compact
    def __call__(self, images, *, train=False):
        return images + self.param("bias", nn.initializers.zeros, (3,))[np.newaxis, np.newaxis]


class Normalized(nn.Module):
    """A module whose logits are the images after batch norm."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, images, *, train=False):
        norm = nn.BatchNorm(not train, momentum=self.momentum, use_bias=False, use_scale=False, epsilon=0.0)
        return self.param("scale", nn.initializers.ones, (1, 1)) * norm(images)


SCALE = {"scale": jnp.ones((1, 1))}
UNMEASURED = {"batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}}


def cross_entropies(logits, labels):
    logits = np.asarray(logits, np.float64)
    return logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]


def example_set(seed, count, classes=3):
    generator = np.random.default_rng(seed)
    logits = generator.normal(1.0, 2.0, (count, classes)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(generator.integers(classes, size=count))


def test_the_loss_is_the_mean_cross_entropy_of_pytorch():
    record = json.loads((Path(__file__).parents[1] / "oracles" / "pytorch.json").read_text())["cross_entropy"]
    batch = jnp.array(record["logits"]), jnp.array(record["labels"])
    loss, (_, metrics) = jax.jit(flax_loss(Identity()))({"bias": jnp.zeros(4)}, {}, batch, KEY)
    np.testing.assert_allclose(loss, record["mean"], rtol=1e-6)
    assert metrics["loss"] == loss


def test_the_accuracy_is_the_share_of_largest_logits_at_the_label():
    logits = jnp.array([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [0.0, 1.0]])
    _, (_, metrics) = jax.jit(flax_loss(Identity()))({"bias": jnp.zeros(2)}, {}, (logits, jnp.array([0, 1, 1, 1])), KEY)
    assert metrics["accuracy"] == 0.75


def test_images_are_augmented_with_the_steps_key_and_then_preprocessed():
    loss_fn = flax_loss(
        Identity(),
        augment=lambda key, images: images + jax.random.bits(key, dtype=jnp.uint8),
        preprocess=lambda images: images.astype(jnp.float32) / 255,
    )
    images, labels = jnp.array([[3, 0], [1, 2]], jnp.uint8), jnp.array([0, 1])
    loss, _ = jax.jit(loss_fn)({"bias": jnp.zeros(2)}, {}, (images, labels), KEY)
    moved = np.asarray(images) + np.asarray(jax.random.bits(KEY, dtype=jnp.uint8))
    np.testing.assert_allclose(loss, cross_entropies(moved / 255, labels).mean(), rtol=1e-6)


def test_training_normalises_by_the_batch_and_returns_its_running_statistics():
    images, labels = example_set(0, 5)
    loss, (model_state, _) = jax.jit(flax_loss(Normalized()))(SCALE, UNMEASURED, (images, labels), KEY)
    x = np.asarray(images, np.float64)
    normalized = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(loss, cross_entropies(normalized, labels).mean(), rtol=1e-5)
    statistics = model_state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * x.var(axis=0), rtol=1e-5)


class Dropped(nn.Module):
    """A module whose logits are the images after dropout."""

    @nn.compact
    def __call__(self, images, *, train=False):
        bias = self.param("bias", nn.initializers.zeros, (3,))[np.newaxis]
        return bias + nn.Dropout(0.5, deterministic=not train)(images)


def test_dropout_has_its_own_stream_derived_from_the_steps_key():
    images, labels = jnp.ones((64, 3)), jnp.zeros(64, int)
    seen = []

    def augment(key, images):
        seen.append(key)
        return images

    def loss(key):
        return jax.jit(flax_loss(Dropped(), augment=augment))({"bias": jnp.zeros(3)}, {}, (images, labels), key)[0]

    expected = Dropped().apply(
        {"params": {"bias": jnp.zeros(3)}}, images, train=True, rngs={"dropout": dropout_key(KEY)}
    )
    np.testing.assert_allclose(loss(KEY), cross_entropies(expected, labels).mean(), rtol=1e-6)
    assert loss(KEY) == loss(KEY) != loss(jax.random.key(1))
    streams = [KEY, *(jax.random.fold_in(KEY, position) for position in range(4)), dropout_key(KEY)]
    assert len({np.asarray(jax.random.key_data(key)).tobytes() for key in streams}) == len(streams)


def test_a_module_without_dropout_is_the_same_program_as_without_its_stream():
    images, labels = example_set(0, 4)

    def without(params, model_state, batch, key):
        variables = {"params": params, **model_state}
        logits, model_state = Normalized().apply(variables, batch[0], train=True, mutable=list(model_state))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
        accuracy = (logits.argmax(axis=-1) == batch[1]).mean()
        return loss, (model_state, {"loss": loss, "accuracy": accuracy})

    def program(function):
        def named(*arguments):
            return function(*arguments)

        return jax.jit(named).lower(SCALE, UNMEASURED, (images, labels), KEY).as_text()

    assert program(flax_loss(Normalized())) == program(without)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 99])
def test_evaluation_is_that_of_the_whole_sets_whatever_the_batch_size(batch_size):
    sets = {"train": example_set(0, 10), "test": example_set(1, 7)}
    evaluate = flax_evaluate(Identity(), train=sets["train"], test=sets["test"], batch_size=batch_size)
    metrics = evaluate({"bias": jnp.zeros(3)}, {})
    expected = {}
    for split, (logits, labels) in sets.items():
        expected[f"{split}_loss"] = cross_entropies(logits, labels).mean()
        expected[f"{split}_accuracy"] = (np.argmax(logits, axis=1) == labels).mean()
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)


def test_evaluation_preprocesses_and_takes_numpy_arrays():
    images, labels = np.array([[200, 0], [10, 20]], np.uint8), np.array([0, 0])
    evaluate = flax_evaluate(
        Identity(), train=(images, labels), test=(images, labels), preprocess=lambda batch: batch / 255
    )
    metrics = evaluate({"bias": jnp.zeros(2)}, {})
    np.testing.assert_allclose(metrics["test_loss"], cross_entropies(images / 255, labels).mean(), rtol=1e-6)
    assert metrics["test_accuracy"] == 0.5


def test_on_a_training_set_of_one_batch_the_recalibrated_loss_is_the_training_loss():
    train, test = example_set(0, 8), example_set(1, 5)
    evaluate = flax_evaluate(Normalized(), train=train, test=test, recalibration=Normalized(momentum=0.0))
    metrics = evaluate(SCALE, UNMEASURED)
    loss, (_, training) = jax.jit(flax_loss(Normalized()))(SCALE, UNMEASURED, train, KEY)
    np.testing.assert_allclose(metrics["recalibrated_train_loss"], loss, rtol=1e-6)
    assert metrics["recalibrated_train_accuracy"] == training["accuracy"]
    assert abs(metrics["train_loss"] - loss) > 0.1  # the running statistics give another loss


def test_recalibrated_statistics_are_means_over_batches_weighted_by_size():
    train, test = example_set(0, 9), example_set(1, 5)
    evaluate = flax_evaluate(Normalized(), train=train, test=test, recalibration=Normalized(momentum=0.0), batch_size=7)
    metrics = evaluate(SCALE, UNMEASURED)
    x = np.asarray(train[0], np.float64)
    mean, var = x.mean(axis=0), (7 * x[:7].var(axis=0) + 2 * x[7:].var(axis=0)) / 9
    losses = cross_entropies((np.asarray(test[0], np.float64) - mean) / np.sqrt(var), test[1])
    np.testing.assert_allclose(metrics["recalibrated_test_loss"], losses.mean(), rtol=1e-5)


def test_evaluation_with_a_batch_size_of_zero_is_rejected():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        flax_evaluate(Identity(), train=example_set(0, 2), test=example_set(0, 2), batch_size=0)


# Labels.


BIAS = {"bias": jnp.zeros(3)}
PAIR = (np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0]))

# Each is the message for labels beside four images and three logits.
BAD_LABELS = [
    (
        np.array([1, 2, 3, 1]),
        ValueError,
        "labels from 0 to 2, because the module gives 3 logits; got labels from 1 to 3",
    ),
    (np.array([0, 1, 2, 255], np.uint8), ValueError, "got labels from 0 to 255"),
    (np.array([0, 1, -1, 2]), ValueError, "got labels from -1 to 2"),
    (np.eye(4, 3, dtype=np.int32), ValueError, r"shape \(4, 3\) for .* one-hot labels as labels.argmax\(axis=-1\)"),
    (np.zeros((4, 1), np.int32), ValueError, r"got labels of shape \(4, 1\) for images of shape \(4, 3\)"),
    (np.zeros(3, np.int32), ValueError, r"got labels of shape \(3,\) for images of shape \(4, 3\)"),
    (np.int32(0), ValueError, r"got labels of shape \(\) for images of shape \(4, 3\)"),
    (np.zeros(4, np.float32), TypeError, "must hold one integer label for each image, got labels of float32"),
    (np.zeros(4, bool), TypeError, "got labels of bool"),
]


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS)
def test_labels_that_do_not_fit_the_logits_are_rejected_by_evaluation(labels, error, message):
    with pytest.raises(error, match=message):
        flax_evaluate(Identity(), train=PAIR, test=(PAIR[0], labels))(BIAS, {})


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS)
def test_labels_that_do_not_fit_the_logits_are_rejected_by_training(labels, error, message):
    if labels.shape[:1] != (4,):
        message = "must share their leading axis"
    with pytest.raises(error, match=message):
        start_training((PAIR[0], labels))


@pytest.mark.parametrize(("labels", "error", "message"), [bad for bad in BAD_LABELS if bad[0].ndim])
def test_labels_that_do_not_fit_the_logits_are_rejected_in_batches_of_a_function(labels, error, message):
    # [member, step, batch, ...] with one member and one step.
    batch = (PAIR[0][None, None], labels[None, None])
    if labels.shape != (4,):
        message = r"got labels of shape \(1, 1.*\) for images of shape \(1, 1, 4, 3\)"
    with pytest.raises(error, match=message):
        start_training(lambda epoch, keys: batch)


def test_labels_of_a_later_epochs_batches_are_checked_too():
    run = start_training(lambda epoch, keys: (PAIR[0][None, None], PAIR[1][None, None] + epoch - 1))
    assert [next(run).epoch for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="got labels from 1 to 3"):
        next(run)


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS[3:])
def test_a_loss_called_directly_rejects_labels_of_a_wrong_shape_or_dtype(labels, error, message):
    with pytest.raises(error, match=message):
        jax.jit(flax_loss(Identity()))(BIAS, {}, (PAIR[0], labels), KEY)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_integer_labels_of_every_width_from_0_to_the_last_class_train(dtype):
    *_, last = start_training((PAIR[0], PAIR[1].astype(dtype)))
    assert np.isfinite(last.metrics["epoch_loss"]).all()


@pytest.mark.parametrize("data", [PAIR[0], (*PAIR, PAIR[1]), {"images": PAIR[0], "labels": PAIR[1]}])
def test_data_that_is_not_a_pair_is_rejected(data):
    with pytest.raises(TypeError, match=r"must be a pair \(images, labels\), got a"):
        start_training(data)
    with pytest.raises(TypeError, match=r"train must be a pair \(images, labels\), got a"):
        flax_evaluate(Identity(), train=data, test=PAIR)


def test_an_empty_set_is_rejected():
    with pytest.raises(ValueError, match="test must hold at least one image, got none"):
        flax_evaluate(Identity(), train=PAIR, test=(PAIR[0][:0], PAIR[1][:0]))


def test_a_module_without_one_row_of_logits_per_image_is_rejected():
    images = np.zeros((4, 2, 3), np.float32)
    with pytest.raises(
        ValueError, match=r"module must give logits \(batch, classes\) for 4 images, got shape \(4, 2, 3"
    ):
        flax_loss(Rows())({"bias": jnp.zeros(3)}, {}, (images, PAIR[1]), KEY)


def start_training(data):
    params = {"bias": jnp.zeros((1, 3))}
    states = init_states(params, optax.sgd(0.1), keys=jax.random.split(KEY, 1))
    return train(flax_loss(Identity()), optax.sgd(0.1), states, data, epochs=2, batch_size=4)


def test_standardized_training_images_have_mean_0_and_deviation_1_per_channel():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 2), dtype=np.uint8)
    images[..., 1] //= 8
    standardized = np.asarray(standardization(images)(jnp.asarray(images)))
    assert standardized.dtype == np.float32
    np.testing.assert_allclose(standardized.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standardized.std(axis=(0, 1, 2)), 1, rtol=1e-5)


def test_a_constant_channel_is_standardized_to_zero():
    images = np.full((2, 3, 3, 1), 255, np.uint8)
    assert not np.asarray(standardization(images)(jnp.asarray(images))).any()


@pytest.mark.parametrize("shape", [(4, 8, 8), (0, 8, 8, 1), (4,)])
def test_standardization_needs_images(shape):
    with pytest.raises(ValueError, match=r"images must be one or more images \(n, H, W, C\), got shape"):
        standardization(np.zeros(shape, np.uint8))


def test_standardization_applies_the_training_statistics_to_other_images():
    train = np.array([10, 30], np.uint8).reshape(2, 1, 1, 1)
    other = np.array([50], np.uint8).reshape(1, 1, 1, 1)
    np.testing.assert_allclose(standardization(train)(jnp.asarray(other)).ravel(), [3.0], rtol=1e-6)

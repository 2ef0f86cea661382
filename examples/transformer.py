"""A small causal transformer on the characters of this file: python transformer.py RUN [EPOCHS]."""

import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import optax

from jaxscape import Run, flax_problem

text = jnp.array(list(Path(__file__).read_bytes()))
windows = text[jnp.arange(len(text) - 33)[:, None] + jnp.arange(33)[None]]


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(128, 32)(tokens) + nn.Embed(32, 32)(jnp.arange(32))[None]
        x += nn.SelfAttention(num_heads=4)(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
        return nn.Dense(128)(x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x)))))


def loss(model, batch, key):
    return optax.softmax_cross_entropy_with_integer_labels(model(batch[:, :-1]), batch[:, 1:]).mean()


run = Run(sys.argv[1], flax_problem(Transformer(), windows, loss=loss, optimizer=optax.adam(1e-3)))
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
run.train(epochs=epochs, batch_size=64)
run.retrain(epochs=epochs, batch_size=64, seeds=3)
run.embed(knn=5)
run.embed(knn=5, null="rotated")
print(run.plot(), run.report()["geometry"]["real"]["return"])

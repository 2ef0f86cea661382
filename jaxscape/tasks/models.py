"""The wide residual network of the paper, in Flax Linen.

Zagoruyko & Komodakis (2016), pre-activation blocks without dropout. Batch norm and initialisation follow the PyTorch
networks of the paper, so that `WideResNet(28, 2, 10)` has exactly 1,467,610 parameters on 32x32x3 images.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxscape.arguments import count, number, whole_number

# PyTorch's initial values: He normal over the fan-out for convolutions, U(-1, 1) / sqrt(fan_in) for the head.
_CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_HEAD_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


# "SAME" would pad strided convolutions on one side only; PyTorch pads both by one.
_conv3x3 = partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding=1,
    use_bias=False,
    kernel_init=_CONV_INIT,
)
_conv1x1 = partial(nn.Conv, kernel_size=(1, 1), padding=0, use_bias=False, kernel_init=_CONV_INIT)


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus a shortcut, which is a strided 1x1 convolution if the shape changes."""

    channels: int
    stride: int
    norm: Callable[..., nn.Module]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, H, W, C) to (batch, H / stride, W / stride, channels)."""
        activated = nn.relu(self.norm(name="norm1")(x))
        h = _conv3x3(self.channels, strides=self.stride, dtype=self.dtype, name="conv1")(activated)
        h = nn.relu(self.norm(name="norm2")(h))
        h = _conv3x3(self.channels, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] == self.channels and self.stride == 1:
            return x + h
        return h + _conv1x1(self.channels, strides=self.stride, dtype=self.dtype, name="shortcut")(activated)


class WideResNet(nn.Module):
    """Wide residual network WRN-depth-widen_factor, for images of any size and number of channels.

    Args:
        depth: 6 n + 4 for n >= 1 blocks per group (10, 16, 22, 28, ...).
        widen_factor: multiplies the channels 16, 32, 64 of the three groups.
        num_classes: number of logits.
        norm_momentum: fraction of the old running statistics kept in a step; 0.9 is PyTorch's momentum 0.1. With 0.0
            they are the statistics of the last batch, which is used for recalibration. The running variance is the
            biased one (PyTorch keeps the unbiased one; this affects evaluation only).
        dtype: dtype of the activations; parameters, statistics and logits stay float32. None computes in the wider
            dtype of images and parameters, which may then be float64.
        fast_variance: compute the variance of a batch in one pass, E[x^2] - E[x]^2, as Flax does by default; if False
            in two passes, E[(x - E[x])^2], which rounds less (benchmarks/batch_norm.py).

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for a depth that is not 6 n + 4, a widen_factor or num_classes below 1, a norm_momentum outside 0 to
            1, or, when the module is called, images that do not have four dimensions.

    Reference:
        Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016.
    """

    depth: int
    widen_factor: int
    num_classes: int
    norm_momentum: float = 0.9
    dtype: Any = jnp.float32
    fast_variance: bool = True

    def __post_init__(self) -> None:
        if whole_number("depth", self.depth) < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, ...), got {self.depth}")
        for name in ("widen_factor", "num_classes"):
            count(name, getattr(self, name))
        if not 0 <= number("norm_momentum", self.norm_momentum) <= 1:
            raise ValueError(f"norm_momentum must be between 0 and 1, got {self.norm_momentum}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Map float images (batch, H, W, C) to logits (batch, num_classes).

        `train=True` normalises with the batch statistics and updates the collection "batch_stats".
        """
        if images.ndim != 4:  # Flax would take (H, W, C) as a single image, and the mean over the wrong axes
            raise ValueError(f"images must have the shape (batch, H, W, C), got {images.shape}")
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=1e-5,
            dtype=self.dtype,
            use_fast_variance=self.fast_variance,
        )
        x = _conv3x3(16, dtype=self.dtype, name="stem")(images)
        for group, width in enumerate((16, 32, 64), start=1):
            for block in range(1, (self.depth - 4) // 6 + 1):
                stride = 2 if group > 1 and block == 1 else 1
                name = f"group{group}_block{block}"
                x = WideBlock(width * self.widen_factor, stride, norm, self.dtype, name=name)(x)
        x = nn.relu(norm(name="norm")(x)).mean(axis=(1, 2))
        head = nn.Dense(self.num_classes, kernel_init=_HEAD_INIT, dtype=self.dtype, name="head")
        logits = head(x)
        return logits if self.dtype is None else logits.astype(jnp.float32)


def wide_resnet_axes(params: Any, model_state: Any = None) -> dict[str, tuple[str | None, ...]]:
    """Return which permutation of channels acts on which axis of a `WideResNet`, as `jaxscape.match_units` takes it.

    The channels between the two convolutions of a block have their own permutation. Those of the residual stream share
    one from each shortcut convolution (or the stem) to the next, because a block adds its output to the stream channel
    by channel.

    Args:
        params: parameters of a `WideResNet` of any depth and width.
        model_state: its model state, to include the running statistics.

    Returns:
        For each array by name, such as "group1_block1/conv1/kernel", the name of a permutation or None for each axis.

    Raises:
        ValueError: for parameters of another network.
    """
    if not isinstance(params, Mapping) or not {"stem", "group1_block1", "norm", "head"} <= params.keys():
        raise ValueError("params must be those of a WideResNet, with the entries stem, group1_block1, ..., norm, head")
    axes: dict[str, tuple[str | None, ...]] = {"stem/kernel": (None, None, None, "stem")}
    norms: dict[str, str] = {}
    stream = "stem"
    blocks = (f"group{group}_block{block}" for group in (1, 2, 3) for block in range(1, len(params)))
    for block in filter(params.__contains__, blocks):
        norms |= {f"{block}/norm1": stream, f"{block}/norm2": block}
        axes[f"{block}/conv1/kernel"] = (None, None, stream, block)
        if "shortcut" in params[block]:
            axes[f"{block}/shortcut/kernel"] = (None, None, stream, f"{block}/shortcut")
            stream = f"{block}/shortcut"
        axes[f"{block}/conv2/kernel"] = (None, None, block, stream)
    norms["norm"] = stream
    axes["head/kernel"] = (stream, None)
    for norm, channels in norms.items():
        axes |= {f"{norm}/{name}": (channels,) for name in ("scale", "bias")}
        if model_state:
            axes |= {f"batch_stats/{norm}/{name}": (channels,) for name in ("mean", "var")}
    return axes

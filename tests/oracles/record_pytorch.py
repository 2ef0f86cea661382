"""Record what PyTorch computes, as an oracle for the optimisers, the WideResNet and the loss of `training/`.

PyTorch is no dependency of the project: run this in an environment of its own, from the repository's root.

    python3.11 -m venv /tmp/torchenv
    /tmp/torchenv/bin/pip install torch==2.13.0 numpy        (the CPU build is enough)
    /tmp/torchenv/bin/python tests/oracles/record_pytorch.py

It writes `pytorch.json` beside itself and prints the parameter counts. All is float64 on one thread, and the
numbers read back exactly. Every input is a formula that the JAX side computes as well, in float64; indices
and positions count from 0, and flat indices are row-major.

optimizers
    16 numbers with indices i: "kernel" (3, 4) is i = 0..11, "bias" (4,) is i = 12..15. They start at cos(i).
    Update s = 0..19 takes the gradient 0.5 * parameter + sin(s + i), to which PyTorch adds weight decay.
    Recorded are the parameters after 1, 5 and 20 updates. Milestones 8 and 14 mean that updates 0..7 use
    lr 0.1, updates 8..13 use 0.01 and updates 14..19 use 0.001.

parameter_counts
    Trainable numbers of some networks; 1,467,610 is the paper's WResNet28-2.

wide_resnet
    Zagoruyko and Komodakis 2016, pre-activation, no dropout; BN eps 1e-5. Every 3x3 convolution pads one
    pixel on each side, ALSO with stride 2 (Flax's "SAME" would pad even images only below and to the right).
    A tensor is named like "group1/block1/conv1/kernel". "parameters" and "statistics" (BN's running mean and
    var) list the names with their shapes in Flax's layout: HWIO for a convolution, (in, out) for the head.
    With wave(i, c) = sin(c * (i + 1)**2) at the flat index i of that layout, the tensor at position j of its
    list has c = sqrt(j + 2) and holds
        kernel       2 * wave / sqrt(fan_in), where fan_in is the product of all axes but the last
        scale        1 + 0.1 * wave
        bias, mean   0.1 * wave
        var          1 + 0.5 * wave
    (without the square every kernel would have rank 2, and the logits too).
    Images are wave(i, sqrt(3)) in NHWC; the label of image b is (3 * b + 1) % 10.
    Recorded are the logits with the running statistics (eval), then one pass in train mode: logits, mean
    cross-entropy, the norm of each parameter's gradient, and the running statistics of two BN layers after.
    These move a tenth of the way (momentum 0.1) to the batch's mean and its UNBIASED variance, which is
    n / (n - 1) times Flax's; n is "count".

cross_entropy
    The loss of each row of logits, and the mean. The second row overflows a naive exponential.
"""

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}, None),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, None),
    "adam": (torch.optim.Adam, {}, None),
    "momentum_multistep": (torch.optim.SGD, {"momentum": 0.9}, [8, 14]),
}
LEARNING_RATE = 0.1
WEIGHT_DECAYS = (0.0, 1e-2)
RECORDED_UPDATES = (1, 5, 20)

COUNTED_NETWORKS = ((28, 2, 10, 3), (10, 1, 10, 1), (16, 1, 100, 3))  # depth, widen_factor, classes, channels
IMAGE_SHAPES = ((6, 8, 8, 1), (6, 12, 12, 3))  # NHWC
RECORDED_NORMS = {"group2/block1/norm1": 1, "norm": 4}  # and how much smaller than the image its input is


def optimizer_path(name: str, weight_decay: float) -> dict:
    optimizer_class, options, milestones = OPTIMIZERS[name]
    index = torch.arange(16.0)
    indices = {"kernel": index[:12].reshape(3, 4), "bias": index[12:]}
    params = {leaf: nn.Parameter(torch.cos(i)) for leaf, i in indices.items()}
    optimizer = optimizer_class(params.values(), lr=LEARNING_RATE, weight_decay=weight_decay, **options)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones or [], gamma=0.1)

    after = {}
    for update in range(max(RECORDED_UPDATES)):
        for leaf, param in params.items():
            param.grad = 0.5 * param.detach() + torch.sin(update + indices[leaf])
        optimizer.step()
        scheduler.step()
        if update + 1 in RECORDED_UPDATES:
            after[update + 1] = {leaf: param.tolist() for leaf, param in params.items()}
    return {
        "optimizer": name,
        "learning_rate": LEARNING_RATE,
        "weight_decay": weight_decay,
        "milestones": milestones,
        "after": after,
    }


class Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        activated = functional.relu(self.norm1(inputs))
        residual = self.conv2(functional.relu(self.norm2(self.conv1(activated))))
        return residual + (inputs if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    def __init__(self, depth: int, widen_factor: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        width = 16
        for group in (1, 2, 3):
            blocks = nn.Sequential()
            for block in range(1, (depth - 4) // 6 + 1):
                stride = 2 if group > 1 and block == 1 else 1
                width_out = 16 * widen_factor * 2 ** (group - 1)
                blocks.add_module(f"block{block}", Block(width, width_out, stride))
                width = width_out
            self.add_module(f"group{group}", blocks)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.group3(self.group2(self.group1(self.stem(images))))
        return self.head(functional.relu(self.norm(features)).mean(dim=(2, 3)))


def named_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """In the order of the forward pass (a block's shortcut last), under the names of the JAX side."""
    for name, param in model.named_parameters():
        path, leaf = name.replace(".", "/").rsplit("/", 1)
        is_norm = path.rsplit("/", 1)[-1].startswith("norm")
        yield f"{path}/{leaf if leaf == 'bias' else 'scale' if is_norm else 'kernel'}", param


def named_statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            path = name.replace(".", "/")
            yield f"{path}/mean", module.running_mean
            yield f"{path}/var", module.running_var


def in_flax_layout(tensor: Tensor) -> Tensor:
    """A view of PyTorch's OIHW as HWIO, of (out, in) as (in, out)."""
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 1, 0)
    return tensor.T if tensor.ndim == 2 else tensor


def wave(shape: torch.Size, frequency: float) -> Tensor:
    index = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(frequency * (index + 1) ** 2).reshape(shape))


@torch.no_grad()
def fill(named_tensors: Iterator[tuple[str, Tensor]]) -> list:
    """Write the formulas of the module's docstring into the tensors, and return names and shapes."""
    listed = []
    for position, (name, tensor) in enumerate(named_tensors):
        view = in_flax_layout(tensor)
        values = wave(view.shape, np.sqrt(position + 2))
        kind = name.rsplit("/", 1)[-1]
        if kind == "kernel":
            values = 2 * values / np.sqrt(np.prod(view.shape[:-1]))
        else:
            values = {"scale": 1 + 0.1 * values, "var": 1 + 0.5 * values}.get(kind, 0.1 * values)
        view.copy_(values)
        listed.append({"name": name, "shape": list(view.shape)})
    return listed


def network_pass(image_shape: tuple[int, int, int, int]) -> dict:
    depth, widen_factor, num_classes = 10, 1, 10
    model = WideResNet(depth, widen_factor, num_classes, channels=image_shape[-1])
    parameters, statistics = fill(named_parameters(model)), fill(named_statistics(model))
    images = wave(torch.Size(image_shape), np.sqrt(3)).permute(0, 3, 1, 2)
    labels = (3 * torch.arange(image_shape[0]) + 1) % 10

    eval_logits = model.eval()(images)
    train_logits = model.train()(images)
    train_loss = functional.cross_entropy(train_logits, labels)
    train_loss.backward()
    moved = dict(named_statistics(model))
    batch, height, width, _ = image_shape
    return {
        "depth": depth,
        "widen_factor": widen_factor,
        "num_classes": num_classes,
        "image_shape": image_shape,
        "labels": labels.tolist(),
        "parameters": parameters,
        "statistics": statistics,
        "eval_logits": eval_logits.tolist(),
        "train_logits": train_logits.tolist(),
        "train_loss": train_loss.item(),
        "gradient_norms": {name: param.grad.norm().item() for name, param in named_parameters(model)},
        "statistics_after": {
            name: {
                "count": batch * (height // shrink) * (width // shrink),
                "mean": moved[f"{name}/mean"].tolist(),
                "var": moved[f"{name}/var"].tolist(),
            }
            for name, shrink in RECORDED_NORMS.items()
        },
    }


def parameter_count(depth: int, widen_factor: int, num_classes: int, channels: int) -> dict:
    model = WideResNet(depth, widen_factor, num_classes, channels)
    return {
        "depth": depth,
        "widen_factor": widen_factor,
        "num_classes": num_classes,
        "channels": channels,
        "count": sum(param.numel() for param in model.parameters()),
    }


def cross_entropy() -> dict:
    logits = [[2.0, -1.0, 0.5, 0.0], [1000.0, 0.0, -1000.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    labels = [2, 1, 3]
    losses = functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none")
    return {"logits": logits, "labels": labels, "losses": losses.tolist(), "mean": losses.mean().item()}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    record = {
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "optimizers": [optimizer_path(name, weight_decay) for name in OPTIMIZERS for weight_decay in WEIGHT_DECAYS],
        "parameter_counts": [parameter_count(*network) for network in COUNTED_NETWORKS],
        "wide_resnet": [network_pass(image_shape) for image_shape in IMAGE_SHAPES],
        "cross_entropy": cross_entropy(),
    }
    path = Path(__file__).with_name("pytorch.json")
    path.write_text(json.dumps(record, indent=1) + "\n")
    for row in record["parameter_counts"]:
        print(row)


if __name__ == "__main__":
    main()

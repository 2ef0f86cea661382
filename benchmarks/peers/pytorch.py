"""The work of benchmarks/members.py in PyTorch: training steps of every member, driven over stdin and stdout.

A worker in a Python of its own, with torch and without jax. It prints one JSON line about itself; then each line that
it reads names an arm, and it takes --steps steps of all members, one member after the other, and answers with one JSON
line {seconds, compile_s, loss, programs}: the seconds of one step, and how many programs torch.compile has made so far
(one an arm, not one a member). The first call of an arm builds it and takes two steps that are not timed: compile_s is
the seconds of that, null in later calls. An arm that this device cannot run is answered with {error}, and the worker
lives on until its input ends.

Everything that our own step does is in the step here: picking its rows of images that lie on the device and, for the
case "paper", crops and flips of the whole batch at once, standardisation and weight decay. On CUDA float32 products
are TF32, as jax's are by default, and SGD is the fused one.

    echo sequential | python benchmarks/peers/pytorch.py --case digits --members 20
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TextIO

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional

CASES = {  # depth, widen_factor, size, channels
    "digits": (10, 1, 8, 1),
    "image28": (10, 1, 28, 1),
    "wrn28": (28, 2, 32, 3),
    "paper": (28, 2, 32, 3),
}
RETRAINING = ("paper",)  # cases with uint8 images, crops, flips and weight decay
EXAMPLES, PADDING = 50_000, 4  # of those
CLASSES, LEARNING_RATE, MOMENTUM = 10, 0.001, 0.9

Turn = Callable[[int], Tensor]  # so many training steps of all members; the last loss of each, on the device


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus a shortcut; where the shape changes the shortcut is a strided 1x1 convolution."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = inputs == channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, H, W) -> (batch, channels, H / stride, W / stride)."""
        activated = functional.relu(self.norm1(x))
        h = self.conv2(functional.relu(self.norm2(self.conv1(activated))))
        return h + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """The network of jaxscape/tasks/models.py, NCHW."""

    def __init__(self, depth: int, widen_factor: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks, inputs = [], 16
        for group, width in enumerate((16, 32, 64)):
            for block in range((depth - 4) // 6):
                blocks.append(WideBlock(inputs, width * widen_factor, stride=2 if group and not block else 1))
                inputs = width * widen_factor
        self.blocks, self.norm = nn.Sequential(*blocks), nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, C, H, W) -> logits (batch, CLASSES)."""
        x = functional.relu(self.norm(self.blocks(self.stem(images))))
        return self.head(x.mean(dim=(2, 3)))


class Bench:
    """The members' networks and batches, the same for every arm."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Create random images (NHWC) and labels on the device, and the rows for each step of each member."""
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.retraining = options.case in RETRAINING
        torch.manual_seed(options.seed)
        examples = EXAMPLES if self.retraining else 4 * options.batch_size
        shape = (examples, options.size, options.size, options.channels)
        images = torch.randint(256, shape, dtype=torch.uint8) if self.retraining else torch.randn(shape)
        sample = images[:1000].float()
        self.images, self.labels = images.to(self.device), torch.randint(CLASSES, (examples,)).to(self.device)
        self.shift = sample.mean(dim=(0, 1, 2)).to(self.device)
        self.scale = (1 / sample.std(dim=(0, 1, 2))).to(self.device)
        self.rows = torch.randint(examples, (options.members, options.steps, options.batch_size)).to(self.device)

    def models(self, memory_format: torch.memory_format) -> list[nn.Module]:
        """Return new networks, one per member."""
        drawn = []
        for member in range(self.options.members):
            torch.manual_seed(self.options.seed + member)
            model = WideResNet(self.options.depth, self.options.widen_factor, self.options.channels)
            drawn.append(model.train().to(device=self.device, memory_format=memory_format))
        return drawn

    def optimizer(self, parameters: Iterable[Tensor], *, fused: bool) -> torch.optim.Optimizer:
        """Return SGD with momentum, fused if requested and the device is a GPU."""
        decay = 1e-4 if self.retraining else 0.0
        fused_or_default = True if fused and self.device.type == "cuda" else None
        return torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM, weight_decay=decay, fused=fused_or_default)

    def batch(self, rows: Tensor, memory_format: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Return the images (batch, C, H, W) and labels of these rows."""
        images = self.images[rows]
        if self.retraining:
            images = (crop_and_flip(images).float() - self.shift) * self.scale
        return images.permute(0, 3, 1, 2).contiguous(memory_format=memory_format), self.labels[rows]

    def loss(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, autocast: bool) -> Tensor:
        """Return the mean cross entropy of the batch; with autocast the network runs in bfloat16."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            return functional.cross_entropy(model(images), labels)

    def sequential(
        self,
        memory_format: torch.memory_format = torch.channels_last,
        *,
        autocast: bool = False,
        compiled: bool = False,
    ) -> Turn:
        """One member after another; compiled is one program of forward and backward pass for all of them."""
        models = self.models(memory_format)
        optimizers = [self.optimizer(model.parameters(), fused=True) for model in models]

        # The network is an argument: as a constant of the program it would be compiled for each member.
        def loss_of_rows(model: nn.Module, rows: Tensor) -> Tensor:
            return self.loss(model, *self.batch(rows, memory_format), autocast)

        loss_fn = torch.compile(loss_of_rows, dynamic=False) if compiled else loss_of_rows

        def turn(steps: int) -> Tensor:
            losses = []
            for model, optimizer, rows in zip(models, optimizers, self.rows, strict=True):
                for index in range(steps):
                    optimizer.zero_grad()
                    loss = loss_fn(model, rows[index])
                    loss.backward()
                    optimizer.step()
                losses.append(loss.detach())
            return torch.stack(losses)

        return turn

    def vmap(self, *, autocast: bool = False) -> Turn:
        """All members as one program over stacked parameters and running statistics."""
        models = self.models(torch.contiguous_format)
        for model in models:
            model.requires_grad_(False)  # torch.func differentiates by itself
        params, buffers = torch.func.stack_module_state(models)
        optimizer = self.optimizer(params.values(), fused=False)  # by element, so of every member

        def loss_fn(params: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            def model(images: Tensor) -> Tensor:
                return torch.func.functional_call(models[0], (params, buffers), (images,))

            return self.loss(model, images, labels, autocast)

        gradients = torch.func.vmap(torch.func.grad_and_value(loss_fn))

        def turn(steps: int) -> Tensor:
            for index in range(steps):
                images, labels = self.batch(self.rows[:, index].flatten(), torch.contiguous_format)
                stacked = (len(models), -1)
                found, losses = gradients(
                    params, buffers, images.unflatten(0, stacked), labels.unflatten(0, stacked)
                )  # updates the buffers in place
                for name, param in params.items():
                    param.grad = found[name]
                optimizer.step()
            return losses

        return turn

    def arms(self) -> dict[str, Callable[[], Turn]]:
        """What builds each arm; with --dtype bfloat16 all of them run under autocast."""
        low = self.options.dtype == "bfloat16"
        return {
            "sequential": lambda: self.sequential(autocast=low),
            "sequential contiguous": lambda: self.sequential(torch.contiguous_format, autocast=low),
            "compiled": lambda: self.sequential(autocast=low, compiled=True),
            "autocast": lambda: self.sequential(autocast=True),
            "compiled autocast": lambda: self.sequential(autocast=True, compiled=True),
            "vmap": lambda: self.vmap(autocast=low),
        }

    def obstacle(self, arm: str) -> str | None:
        """Return why this device cannot run an arm, if it cannot."""
        if arm not in self.arms():
            return f"unknown arm {arm!r}, known are {', '.join(self.arms())}"
        on_cpu = self.device.type == "cpu"
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if on_cpu and "compiled" in arm and shutil.which(compiler) is None:
            return f"{arm} needs a C++ compiler, {compiler} is not found"
        return None

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return the seconds of some work, including its execution on the device."""
        self.synchronize()
        started = time.perf_counter()
        result = work()
        self.synchronize()
        return time.perf_counter() - started, result

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def describe(self) -> dict[str, Any]:
        """The line that the worker opens with."""
        on_gpu = self.device.type == "cuda"
        options = self.options
        model = WideResNet(options.depth, options.widen_factor, options.channels)
        return {
            "device": torch.cuda.get_device_name() if on_gpu else f"cpu, {os.cpu_count()} cores",
            "versions": {
                "torch": torch.__version__,
                "python": platform.python_version(),
                "cuda": torch.version.cuda,
            },
            "threads": torch.get_num_threads(),
            "arms": [arm for arm in self.arms() if self.obstacle(arm) is None],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }


def crop_and_flip(images: Tensor) -> Tensor:
    """A window of each image (batch, H, W, C) in a black frame, of its own size, mirrored with probability one half."""
    batch, height, width, _ = images.shape
    padded = functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    corners = torch.randint(2 * PADDING + 1, (2, batch, 1), device=images.device)
    rows = corners[0] + torch.arange(height, device=images.device)
    columns = corners[1] + torch.arange(width, device=images.device)
    columns = torch.where(torch.rand(batch, 1, device=images.device) < 0.5, columns.flip(1), columns)
    numbers = torch.arange(batch, device=images.device)
    return padded[numbers[:, None, None], rows[:, :, None], columns[:, None, :]]


def build(make: Callable[[], Turn]) -> Turn:
    """An arm that has taken two steps: whatever compiles has compiled, and the momentum is there."""
    turn = make()
    turn(1)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # free the memory that the choice of convolutions needed
    turn(1)
    return turn


def answers(bench: Bench, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """An answer to each arm named."""
    turns: dict[str, Turn] = {}
    steps = bench.options.steps
    for arm in map(str.strip, lines):
        obstacle = bench.obstacle(arm)
        if obstacle is not None:
            yield {"error": obstacle}
            continue
        compile_s = None
        try:
            if arm not in turns:
                compile_s, turns[arm] = bench.timed(partial(build, bench.arms()[arm]))
            seconds, losses = bench.timed(partial(turns[arm], steps))
            answer = {
                "seconds": seconds / steps,
                "compile_s": compile_s,
                "loss": losses.mean().item(),
                "programs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
            }
        except Exception as error:  # the compiler or device cannot run this arm; others may work
            answer = {"error": f"{type(error).__name__}: {error}"}
        yield answer


def read_options() -> argparse.Namespace:
    """Parse the command line, with the case's sizes as defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="digits", help="network and shape of the images")
    parser.add_argument("--members", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="steps a turn")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: by autocast")
    parser.add_argument("--seed", type=int, default=0, help="of the first member; the others count on from it")
    names = ("depth", "widen_factor", "size", "channels")
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the case's")
    options = parser.parse_args()
    for name, value in zip(names, CASES[options.case], strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def serve(bench: Bench, out: TextIO) -> None:
    """Print the facts of this worker, then answer every line."""
    print(json.dumps(bench.describe()), file=out, flush=True)
    for answer in answers(bench, iter(sys.stdin.readline, "")):
        print(json.dumps(answer), file=out, flush=True)


def main() -> None:
    """Serve until the input ends."""
    options = read_options()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.cuda.is_available()
    torch.backends.cudnn.benchmark = True  # shapes never change: let it choose the fastest convolutions
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of compilers must not mix with the answers
    with tempfile.TemporaryDirectory() as cache:  # so that compile_s is that of a first run
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        serve(Bench(options), out)


if __name__ == "__main__":
    main()

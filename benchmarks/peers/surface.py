"""The work of benchmarks/landscape.py in PyTorch: a row of a grid of points around a network, driven over stdin.

A worker in a Python of its own, with torch and without jax. It prints one JSON line about itself; then for each line
that it reads it evaluates the row, one point after the other, and answers {seconds, loss}: the seconds of one point,
and the mean loss. The network is in evaluation mode and channels last, on random images; a point copies
w + x * d + y * e into its parameters.

    echo turn | python benchmarks/peers/surface.py --depth 10 --widen_factor 1 --size 8 --images 1437
"""

import argparse
import json
import sys
import time

import torch
from pytorch import WideResNet
from torch.nn import functional

SIDE, BATCH, CLASSES = 51, 1000, 10


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("depth", "widen_factor", "size", "images"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = WideResNet(options.depth, options.widen_factor, 1)
    model = model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    images = torch.randn(options.images, 1, options.size, options.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (options.images,), device=device)
    weights = [weight.clone() for weight in model.parameters()]
    axes = [[torch.randn_like(weight) * weight.norm() / weight.numel() ** 0.5 for weight in weights] for _ in range(2)]
    print(
        json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "device": str(device)}), flush=True
    )
    for _ in iter(sys.stdin.readline, ""):
        started, losses = time.perf_counter(), []
        with torch.inference_mode():
            for x in torch.linspace(-1, 1, SIDE).tolist():
                for parameter, weight, d, e in zip(model.parameters(), weights, *axes, strict=True):
                    parameter.copy_(weight).add_(d, alpha=x).add_(e, alpha=0.5)
                total = sum(
                    functional.cross_entropy(model(part), of_part, reduction="sum")
                    for part, of_part in zip(images.split(BATCH), labels.split(BATCH), strict=True)
                )
                losses.append(float(total) / options.images)
        seconds = (time.perf_counter() - started) / SIDE
        print(json.dumps({"seconds": seconds, "loss": sum(losses) / SIDE}), flush=True)


if __name__ == "__main__":
    main()

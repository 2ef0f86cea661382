"""The work of benchmarks/curvature.py in PyTorch, driven over stdin and stdout: one line names an arm, one answers.

    hvp reverse     double backward: the gradient of <gradient, v>, batch by batch
    hvp forward     torch.func: jvp of grad
    eigenpairs X    Lanczos with full reorthogonalisation on the products of arm X, and the residuals

An answer is a JSON line {seconds, peak_mb}; the first call of an arm is answered after one that is not timed. Images
are channels last where the network takes them so.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable

import torch
from pytorch import WideResNet
from torch import Tensor
from torch.nn import functional

Product = Callable[[Tensor], Tensor]


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"examples": 1437, "batch-size": 1000, "size": 8, "channels": 1, "steps": 40, "k": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    images = torch.randn(options.examples, options.channels, options.size, options.size)
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.randint(10, (options.examples,), device=device)
    model = WideResNet(10, 1, options.channels).eval().to(device, memory_format=torch.channels_last)
    batches = list(zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True))
    shares = [len(part) / options.examples for _, part in batches]
    reverse, forward = double_backward(model, batches, shares), forward_over_reverse(model, batches, shares)
    size = sum(parameter.numel() for parameter in model.parameters())
    vector = torch.randn(size, device=device)
    arms: dict[str, Callable[[], object]] = {
        "hvp reverse": lambda: reverse(vector),
        "hvp forward": lambda: forward(vector),
        "eigenpairs reverse": lambda: eigenpairs(reverse, vector, options.steps, options.k),
        "eigenpairs forward": lambda: eigenpairs(forward, vector, options.steps, options.k),
    }
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "parameters": size}), flush=True)
    warm = set()
    for arm in map(str.strip, sys.stdin):
        if arm not in warm and arm.startswith("hvp"):
            arms[arm]()
        warm.add(arm)
        synchronize()
        started = time.perf_counter()
        arms[arm]()
        synchronize()
        answer = {"seconds": time.perf_counter() - started, "peak_mb": peak_mb()}
        print(json.dumps(answer), flush=True)


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mb() -> float:
    """Return the peak memory of the device, or of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def double_backward(model: torch.nn.Module, batches: list[tuple[Tensor, Tensor]], shares: list[float]) -> Product:
    """Return the product by two backward passes (double backward)."""
    parameters = list(model.parameters())

    def product(vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for (images, labels), share in zip(batches, shares, strict=True):
            loss = functional.cross_entropy(model(images), labels)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            found = torch.autograd.grad(flat @ vector, parameters)
            total += share * torch.cat([leaf.reshape(-1) for leaf in found])
        return total

    return product


def forward_over_reverse(model: torch.nn.Module, batches: list[tuple[Tensor, Tensor]], shares: list[float]) -> Product:
    """Return the product as the forward derivative of the gradient, with torch.func."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, (parameters, buffers), (images,)), labels)

    def product(vector: Tensor) -> Tensor:
        parts = vector.split([value.numel() for value in parameters.values()])
        direction = {n: part.view(p.shape) for (n, p), part in zip(parameters.items(), parts, strict=True)}
        total = torch.zeros_like(vector)
        for (images, labels), share in zip(batches, shares, strict=True):
            gradient = torch.func.grad(lambda p, x=images, y=labels: loss(p, x, y))
            found = torch.func.jvp(gradient, (parameters,), (direction,))[1]
            total += share * torch.cat([found[name].reshape(-1) for name in parameters])
        return total

    return product


def eigenpairs(product: Product, start: Tensor, steps: int, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest Ritz values and their residuals."""
    basis = torch.zeros(steps, len(start), device=start.device)
    basis[0] = start / start.norm()
    diagonal, off_diagonal = torch.zeros(steps), torch.zeros(steps)
    for step in range(steps):
        rest = product(basis[step])
        diagonal[step] = basis[step] @ rest
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        off_diagonal[step] = rest.norm()
        if step + 1 < steps:
            basis[step + 1] = rest / off_diagonal[step]
    matrix = torch.diag(diagonal) + torch.diag(off_diagonal[:-1], 1) + torch.diag(off_diagonal[:-1], -1)
    values, vectors = torch.linalg.eigh(matrix)
    vectors = vectors[:, -k:].T.to(basis.device) @ basis
    residuals = [(product(vector) - value * vector).norm() for value, vector in zip(values[-k:], vectors, strict=True)]
    return values[-k:], torch.stack(residuals)


if __name__ == "__main__":
    main()

"""Cosine distances of trajectories of a WRN-28-2: ours from the store, scikit-learn and the `phate` package in memory.

Trajectories of 20 copies of 1,467,610 parameters are written to a store once. Then the arms are interleaved, each call
in a separate process. The timed part starts with the open store, or with the matrix in memory as float32, and ends with
the distances. The `phate` package does not compute this matrix; timed is its own method, 100 principal components and
the graph of their cosines. Peak memory is that of the process, recorded with its value after the imports, and includes
a matrix in memory. Errors are the largest of some hundred pairs, of successive epochs of a copy (within) and points of
two copies (across), relative to extended precision.

    python -m uv run python benchmarks/distances.py --n 1020 --repeats 3 --json benchmarks/results/distances.json
"""

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import jax
import numpy as np
from records import accelerator, peak_mb, replace_records, run_facts

from jaxscape import IncrementGram, TrajectoryStore, WideResNet, gram, pairwise_distances

MEMBERS = 20
DEPTH, WIDEN = 28, 2  # 1,467,610 parameters
MOVEMENT = 1e-3  # movement per epoch relative to the parameters
PAIRS = 200


class Files(NamedTuple):
    """The files that the processes share."""

    folder: Path

    @property
    def store(self) -> Path:
        """The trajectories."""
        return self.folder / "store"

    @property
    def sample(self) -> Path:
        """Pairs of rows and their exact distances."""
        return self.folder / "sample.npz"

    @property
    def previous(self) -> Path:
        """The Gram matrix without the last epoch."""
        return self.folder / "previous.npz"


def minimum() -> Any:
    """Return standard normal parameters of a WRN-28-2."""
    module = WideResNet(DEPTH, WIDEN, 10)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)


def write(files: Files, points: int) -> None:
    """Write random walks of perturbed copies to a store, and the exact distances of a sample of pairs."""
    generator = np.random.default_rng(1)
    leaves, structure = jax.tree.flatten(minimum())
    steps = np.tile([0.25, 0.5, 0.75, 1.0], MEMBERS // 4).astype(np.float32)

    def normal(leaf: np.ndarray) -> np.ndarray:
        return generator.standard_normal((MEMBERS, *leaf.shape), np.float32)

    copies = [leaf + steps.reshape(-1, *[1] * leaf.ndim) * normal(leaf) for leaf in leaves]
    with TrajectoryStore.create(files.store, [{"seed": member} for member in range(MEMBERS)]) as store:
        for epoch in range(points // MEMBERS):
            store.append(epoch, jax.tree.unflatten(structure, copies))
            copies = [copy + np.float32(MOVEMENT) * normal(leaf) for copy, leaf in zip(copies, leaves, strict=True)]
        store.wait()
        _write_sample(files, store, generator)


def _write_sample(files: Files, store: TrajectoryStore, generator: np.random.Generator) -> None:
    rows = store.num_epochs * MEMBERS
    later = generator.integers(MEMBERS, rows, PAIRS)
    within = np.stack([later, later - MEMBERS])
    across = generator.integers(0, rows, (2, PAIRS))
    pairs = np.concatenate([within, across[:, across[0] % MEMBERS != across[1] % MEMBERS]], axis=1)
    sums = np.zeros((3, pairs.shape[1]), np.longdouble)  # |x - y|^2, |x|^2, |y|^2
    for block in store.blocks(2**26):
        for number, (x, y) in enumerate(block[pairs.T].astype(np.longdouble)):
            sums[:, number] += ((x - y) ** 2).sum(), (x**2).sum(), (y**2).sum()
    x, y = np.sqrt(sums[1]), np.sqrt(sums[2])
    exact = (sums[0] - (x - y) ** 2) / (2 * x * y)
    np.savez(files.sample, pairs=pairs, exact=exact.astype(np.float64), within=np.arange(pairs.shape[1]) < PAIRS)


def keep_previous(files: Files) -> None:
    """Write the Gram matrix of all epochs but the last, from which the arm "one epoch more" starts."""
    with tempfile.TemporaryDirectory(dir=files.folder) as shorter:
        for entry in files.store.iterdir():
            if not entry.name.isdigit() or int(entry.name) < TrajectoryStore.open(files.store).num_epochs - 1:
                (Path(shorter) / entry.name).symlink_to(entry)
        found = gram(TrajectoryStore.open(shorter), reference=minimum())
    np.savez(files.previous, **found._asdict())


def ours(files: Files) -> Callable[[], np.ndarray]:
    """Return our distances from the store, with the minimum as reference."""
    store, reference = TrajectoryStore.open(files.store), minimum()
    return lambda: pairwise_distances(gram(store, reference=reference))


def ours_longer(files: Files) -> Callable[[], np.ndarray]:
    """Return our distances from the store, if those of all epochs but the last are known."""
    store, reference = TrajectoryStore.open(files.store), minimum()
    with np.load(files.previous) as kept:
        previous = IncrementGram(**{name: kept[name] for name in IncrementGram._fields})
    previous = previous._replace(has_reference=bool(previous.has_reference), dimension=int(previous.dimension))
    return lambda: pairwise_distances(gram(store, reference=reference, previous=previous))


def ours_in_memory(files: Files) -> Callable[[], np.ndarray]:
    """Return our distances from a matrix in memory."""
    matrix = _matrix(files)
    parents = np.maximum(np.arange(len(matrix)) - MEMBERS, -1)
    return lambda: pairwise_distances(gram(matrix, parents=parents))


def scikit_learn(files: Files) -> Callable[[], np.ndarray]:
    """Return scikit-learn's cosine distances of the matrix."""
    from sklearn.metrics.pairwise import cosine_distances

    matrix = _matrix(files)
    return lambda: cosine_distances(matrix)


def phate_package(files: Files) -> Callable[[], None]:
    """Run the package from the matrix to the diffusion operator, with cosines as in the paper's authors' code."""
    import phate

    warnings.simplefilter("ignore")
    matrix, operator = _matrix(files), phate.PHATE(knn_dist="cosine", random_state=0, n_jobs=-1, verbose=0)

    def fit() -> None:
        operator.fit(matrix)

    return fit


ARMS: dict[str, Callable[[Files], Callable[[], np.ndarray | None]]] = {
    "ours": ours,
    "ours, one epoch more": ours_longer,
    "ours, in memory": ours_in_memory,
    "scikit-learn": scikit_learn,
    "phate package": phate_package,
}


def call(arm: str, files: Files) -> dict[str, Any]:
    """Run one call of an arm in this process."""
    import phate  # noqa: F401  (imports are not timed)
    import sklearn.metrics.pairwise  # noqa: F401

    TrajectoryStore.open(files.store)
    before = peak_mb()
    compute = ARMS[arm](files)
    started = time.perf_counter()
    distances = compute()
    record: dict[str, Any] = {"seconds": time.perf_counter() - started, "before": before, "peak": peak_mb()}
    if distances is not None:
        with np.load(files.sample) as sample:
            (x, y), exact, within = sample["pairs"], sample["exact"], sample["within"]
        error = np.abs(distances[x, y] - exact) / exact
        record |= {"error_within": float(error[within].max()), "error_across": float(error[~within].max())}
    return record


def _matrix(files: Files) -> np.ndarray:
    store = TrajectoryStore.open(files.store)
    matrix = np.empty((store.num_epochs * store.num_members, store.num_parameters), np.float32)
    column = 0
    for block in store.blocks(2**27):
        matrix[:, column : column + block.shape[1]] = block
        column += block.shape[1]
    return matrix


def _in_own_process(work: Callable[..., Any], *args: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def measure(files: Files, points: int, repeats: int, arms: list[str]) -> list[dict[str, Any]]:
    """Measure the arms in turns."""
    answers: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(repeats):
        for arm in arms:
            answers[arm].append(_in_own_process(call, arm, files))
            print(f"n {points:5} {arm:22} {answers[arm][-1]}", flush=True)
    records = []
    for arm, calls in answers.items():
        seconds = [each["seconds"] for each in calls]
        record = {
            "arm": arm,
            "n": points,
            "median_s": float(np.median(seconds)),
            "min_s": min(seconds),
            "max_s": max(seconds),
            "repeats": repeats,
            "peak_mb": max(each["peak"] for each in calls),
            "before_mb": max(each["before"] for each in calls),
        }
        records.append(record | {name: calls[0].get(name) for name in ("error_within", "error_across")})
    return records


def main() -> None:
    """Write the store, measure, and write the records, replacing those of the same number of points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1020], help=f"numbers of points, multiples of {MEMBERS}")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if any(points % MEMBERS or points < 2 * MEMBERS for points in options.n):
        parser.error(f"--n {options.n}: multiples of {MEMBERS}, from {2 * MEMBERS}")
    facts = run_facts(("jax", "jaxlib", "numpy", "scipy", "scikit-learn", "phate"), device=accelerator())
    facts["parameters"] = 1_467_610
    for points in options.n:
        with tempfile.TemporaryDirectory() as folder:
            files = Files(Path(folder))
            _in_own_process(write, files, points)
            if "ours, one epoch more" in options.arms:
                _in_own_process(keep_previous, files)
            records = [record | facts for record in measure(files, points, options.repeats, options.arms)]
        if options.json:
            replace_records(options.json, records, same=("arm", "n", "device"))


if __name__ == "__main__":
    main()

"""PHATE for increasing numbers of points: ours, and the `phate` package in exact mode and with its defaults.

Each arm is a separate process, which waits while others are timed; the arms are interleaved. The first call of each,
which compiles programs, is timed separately. Peak memory is that of the process, recorded with its value before the
first call.

    python -m uv run python benchmarks/embedding.py --n 255 510 1020 2040 3060 --json benchmarks/results/embedding.json
"""

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from records import accelerator, peak_mb, replace_records, run_facts
from scipy.spatial.distance import pdist, squareform

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

ARMS = ("ours", "package, exact", "package, defaults")
STAGES = ("affinity_from_bandwidth", "von_neumann_entropy", "diffuse", "potential_distances", "metric_mds")


def tree(points: int) -> np.ndarray:
    """Return Euclidean distances of points around a tree with 15 branches."""
    from jaxscape.embedding.tree import artificial_tree

    found = artificial_tree(branches=15, points=-(-points // 15), noise=0.3, seed=0)
    return squareform(pdist(found.points[:points]))


def trajectories(points: int) -> np.ndarray:
    """Return cosine distances of copies perturbed along a few directions with four step sizes, after random walks."""
    generator = np.random.default_rng(0)
    seeds, size = -(-points // (4 * 51)), 1000
    jumps = generator.standard_normal((seeds, 1, 1, size)) * np.array([0.25, 0.5, 0.75, 1])[:, None, None]
    steps = generator.standard_normal((seeds, 4, 51, size)) * 0.05 / np.sqrt(1 + np.arange(51))[:, None]
    rows = 5 + jumps + np.cumsum(steps, axis=2)
    rows = rows.reshape(-1, size)[:points]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T  # pdist takes minutes for 20,000 rows
    np.fill_diagonal(cosines, 1)
    return np.maximum(1 - cosines, 0)


DATA: dict[str, Callable[[int], np.ndarray]] = {"tree": tree, "trajectories": trajectories}


def embed_ours(distances: np.ndarray, seconds: dict[str, float]) -> tuple[np.ndarray, int, np.ndarray | None]:
    """Return our embedding, t and potential distances; add the seconds of the stages to `seconds`."""
    import jaxscape.embedding.phate as module

    originals = {name: getattr(module, name) for name in STAGES}

    def timed(name: str, *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return originals[name](*args, **options)
        finally:
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - started

    for name in STAGES:
        setattr(module, name, lambda *args, name=name, **options: timed(name, *args, **options))
    try:
        found = module.phate(distances)
    finally:
        for name, original in originals.items():
            setattr(module, name, original)
    seconds["iterations"] = found.iterations
    return found.embedding, found.t, found.potential_distances


def embed_package(distances: np.ndarray, *, exact: bool) -> tuple[np.ndarray, int, np.ndarray | None]:
    """Return the package's embedding, its t and, in exact mode, its potential distances."""
    import phate

    options = {"n_landmark": None, "mds_solver": "smacof"} if exact else {}
    operator = phate.PHATE(knn_dist="precomputed_distance", random_state=0, n_jobs=-1, verbose=0, **options)
    embedding = operator.fit_transform(distances)
    potential = np.asarray(operator.diff_potential)
    return embedding, int(operator.optimal_t), potential if exact else None


def work(arm: str, data: str, points: int, pipe: Connection) -> None:
    """Embed whenever the pipe asks for it, and send the time; the main function of a process."""
    import phate  # noqa: F401  (imports are not timed)

    from jaxscape.embedding.mds import normalized_stress

    warnings.simplefilter("ignore")
    distances = DATA[data](points)
    before = peak_mb()
    while pipe.recv():
        given, stages = distances.copy(), {}
        started = time.perf_counter()
        if arm == "ours":
            embedding, t, potential = embed_ours(given, stages)
        else:
            embedding, t, potential = embed_package(given, exact=arm == "package, exact")
        seconds, peak = time.perf_counter() - started, peak_mb()
        if arm == "package, exact" and potential is not None:
            potential = squareform(pdist(potential))
        stress = None if potential is None else normalized_stress(potential, embedding)
        pipe.send({"seconds": seconds, "stages": stages, "t": t, "stress": stress, "peak": peak, "before": before})


def measure(data: str, points: int, repeats: int, arms: list[str]) -> list[dict[str, Any]]:
    """Measure the arms in turns, `repeats` times after one first call each."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for arm in arms:
        pipes[arm], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(arm, data, points, theirs), daemon=True))
        processes[-1].start()
    answers: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(repeats + 1):
        for arm, pipe in pipes.items():
            pipe.send(True)
            answers[arm].append(pipe.recv())
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    records = []
    for arm, (first, *others) in answers.items():
        seconds = [answer["seconds"] for answer in others]
        stages = {name: float(np.median([answer["stages"][name] for answer in others])) for name in first["stages"]}
        record = {
            "data": data,
            "arm": arm,
            "n": points,
            "median_s": float(np.median(seconds)),
            "min_s": min(seconds),
            "max_s": max(seconds),
            "first_s": first["seconds"],
            "repeats": repeats,
            "peak_mb": first["peak"],
            "before_mb": first["before"],
            "stress": first["stress"],
            "t": first["t"],
            "stages": stages,
            "first_stages": first["stages"],
        }
        records.append(record)
        stress = "" if first["stress"] is None else f", stress {first['stress']:.5f}"
        parts = ", ".join(f"{name} {value:.2f}" for name, value in stages.items())
        print(
            f"{data:12} n {points:5} {arm:18} {record['median_s']:7.2f} s, t {first['t']}{stress}, "
            f"{first['peak'] - first['before']:.0f} MB {parts}",
            flush=True,
        )
    return records


def main() -> None:
    """Measure, print, and write the records, replacing those of the same data and number of points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[255, 510, 1020])
    parser.add_argument("--data", choices=DATA, nargs="+", default=list(DATA))
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = run_facts(("jax", "jaxlib", "numpy", "scipy", "scikit-learn", "phate"), device=accelerator())
    for data in options.data:
        for points in options.n:
            records = [record | facts for record in measure(data, points, options.repeats, options.arms)]
            if options.json:
                replace_records(options.json, records, same=("data", "n", "device"))


if __name__ == "__main__":
    main()

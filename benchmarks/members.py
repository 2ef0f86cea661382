"""One training step of many copies of a network: every strategy side by side, and PyTorch beside them.

All arms take turns in one run, so that a slow minute of a shared machine falls on all of them; compilation is timed
apart. The peer is a process of its own with a Python that has torch (benchmarks/peers/pytorch.py).

    python -m uv run python benchmarks/members.py --case digits --repeats 15 --json benchmarks/results/members.json \
        --peer /path/to/python-with-torch
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxscape.app.memory import TUNABLES, restart_with_kept_memory

if __name__ == "__main__" and "--default-memory" not in sys.argv:
    restart_with_kept_memory()

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import replace_records, run_facts

from jaxscape import WideResNet, flax_loss
from jaxscape.training import cpu
from jaxscape.training.members import Update, choose_strategy, epoch_runner, take_member
from jaxscape.training.train import TrainState, copy_states, init_states, member_update


class Case(NamedTuple):
    """A network and its images."""

    depth: int
    widen_factor: int
    size: int
    channels: int
    members: int


CASES = {
    "digits": Case(10, 1, 8, 1, 20),
    "image28": Case(10, 1, 28, 1, 4),
    "wrn28": Case(28, 2, 32, 3, 2),
}
PEERS = ("sequential", "sequential contiguous", "compiled", "autocast", "compiled autocast", "vmap")

# An arm takes a step of all members and gives its seconds.
Arm = Callable[[], float]


def main() -> None:
    """Measure one case and put its records into the file."""
    options = _options()
    case = CASES[options.case]
    members = options.members or case.members
    work = Work(case, members, options.batch_size, options.steps or (4 if case.size < 32 else 1), options.dtype)
    arms: dict[str, Callable[[], Arm]] = {
        "jax loop": partial(jax_loop, work),
        "jax vmap(grad)": partial(jax_vmap, work),
        **{name: partial(strategy_arm, work, name) for name in _strategies(members)},
        "auto": partial(strategy_arm, work, "auto"),
    }
    if options.peer:
        for memory in ("default", "kept"):
            worker = Peer(options.peer, options.case, work, kept=memory == "kept")
            suffix = "" if memory == "default" else ", kept memory"
            arms |= {f"pytorch {name}{suffix}": partial(worker.arm, name) for name in options.peer_arms}
    if options.arms:
        known = arms | {
            f"threads, {word} oneDNN": partial(threads_arm, work, word == "with") for word in ("with", "no")
        }
        ours = {name: known.get(name, partial(strategy_arm, work, name)) for name in options.arms}
        arms = ours | {name: make for name, make in arms.items() if name.startswith("pytorch")}
    records = measure(arms, work, options.repeats)
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    shared = run_facts(("jax", "jaxlib", "flax", "optax", "numpy"), device=device) | {
        "case": options.case,
        "dtype": options.dtype,
        "members": members,
        "batch_size": options.batch_size,
        "memory": "kept" if os.environ.get("GLIBC_TUNABLES") == TUNABLES else "default",
        "matrix_flops_per_s": matrix_rate(options.dtype),
        "step_flops": work.flops(),
    }
    records = [shared | record | _rates(shared, record) for record in records]
    _print(records)
    if options.json:
        replace_records(options.json, records, same=("case", "members", "batch_size", "dtype", "device"))


class Work:
    """What all arms do: networks, their states, one batch a step and member, and the step itself."""

    def __init__(self, case: Case, members: int, batch_size: int, steps: int, dtype: str) -> None:
        """Fresh networks (one start for all, as after a jump of length zero) and normal images."""
        self.case, self.members, self.batch_size, self.steps = case, members, batch_size, steps
        self.dtype = dtype
        self.module = WideResNet(case.depth, case.widen_factor, 10, dtype=jnp.dtype(dtype))
        shape = (case.size, case.size, case.channels)
        init = jax.jit(self.module.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, *shape)))
        self.optimizer = optax.sgd(0.001, momentum=0.9)
        params = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), init["params"])
        keys = jax.random.split(jax.random.key(1), members)
        model_state = {"batch_stats": init["batch_stats"]}
        self.states: TrainState = init_states(params, self.optimizer, keys=keys, model_state=model_state)
        generator = np.random.default_rng(0)
        self.data = (
            jnp.asarray(generator.standard_normal((4 * batch_size, *shape), np.float32)),
            jnp.asarray(generator.integers(0, 10, 4 * batch_size)),
        )
        self.rows = jnp.asarray(generator.integers(0, 4 * batch_size, (members, steps, batch_size)))
        self.update = member_update(flax_loss(self.module), self.optimizer, from_arrays=True)

    def flops(self) -> float:
        """Floating-point operations of a step of all members, by XLA's count for one."""
        state, rows = jax.tree.map(lambda leaf: leaf[0], (self.states, self.rows[:, 0]))
        lowered = jax.jit(self.update.one).lower(state, self.data, rows, np.int32(1), np.int32(0))
        cost = lowered.cost_analysis()
        return float(cost["flops"]) * self.members if cost else float("nan")


def strategy_arm(work: Work, strategy: str, update: Update | None = None) -> Arm:
    """An epoch of a few steps by one of our strategies."""
    if strategy == "auto":
        choice = choose_strategy(work.update, work.states, work.data, work.rows)
        strategy = choice.strategy
        print(f"auto: {strategy}, of {choice.seconds}", flush=True)
    runner = epoch_runner(update or work.update, strategy=strategy)
    states = copy_states(work.states)
    # Several networks in one program take seconds a step on a CPU, so that one step of them is enough.
    one = "vmap" in strategy and jax.default_backend() == "cpu"
    rows = work.rows[:, :1] if one else work.rows

    def run() -> float:
        nonlocal states
        started = time.perf_counter()
        states, _ = runner(states, work.data, rows, 1)
        jax.block_until_ready(states)
        return (time.perf_counter() - started) / rows.shape[1]

    return run


def threads_arm(work: Work, onednn: bool) -> Arm:
    """The strategy "threads" with oneDNN or without it, whatever the size of the program."""
    update = member_update(flax_loss(work.module), work.optimizer, from_arrays=True)  # not compiled by another arm
    run = strategy_arm(work, "threads", update)
    before, cpu.ONEDNN_FLOPS = cpu.ONEDNN_FLOPS, 0 if onednn else float("inf")
    run()
    cpu.ONEDNN_FLOPS = before
    return run


def jax_loop(work: Work) -> Arm:
    """What one writes without us: a jitted step, member after member."""
    step = jax.jit(work.update.one, donate_argnums=0)
    states = [take_member(work.states, member) for member in range(work.members)]

    def run() -> float:
        started = time.perf_counter()
        for member in range(work.members):
            for index in range(work.steps):
                states[member], _ = step(
                    states[member], work.data, work.rows[member, index], np.int32(1), np.int32(index)
                )
        jax.block_until_ready(states)
        return (time.perf_counter() - started) / work.steps

    return run


def jax_vmap(work: Work) -> Arm:
    """What one writes without us to run all members at once: jit(vmap(grad))."""
    step = jax.jit(jax.vmap(work.update.one, in_axes=(0, None, 0, None, None)), donate_argnums=0)
    states = copy_states(work.states)

    def run() -> float:
        nonlocal states
        started = time.perf_counter()
        states, _ = step(states, work.data, work.rows[:, 0], np.int32(1), np.int32(0))
        jax.block_until_ready(states)
        return time.perf_counter() - started

    return run


class Peer:
    """PyTorch, in a process of its own that waits while others are timed."""

    def __init__(self, python: str, name: str, work: Work, *, kept: bool) -> None:
        """Start the worker; `kept`: with the C library's settings of our own process."""
        script = Path(__file__).parent / "peers" / "pytorch.py"
        settings = {"case": name, "members": work.members, "batch-size": work.batch_size, "dtype": work.dtype}
        command = [python, str(script), *(f"--{key}={value}" for key, value in settings.items())]
        environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
        environment |= {"GLIBC_TUNABLES": TUNABLES} if kept else {}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self._read()

    def arm(self, name: str) -> Arm:
        """One of the worker's arms, built by its first step.

        Raises:
            RuntimeError: where it cannot be built on this device.
        """

        def run() -> float:
            assert self.process.stdin is not None
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
            answer = self._read()
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return float(answer["seconds"])

        return run

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self.process.wait()}")
        return json.loads(line)


def measure(arms: dict[str, Callable[[], Arm]], work: Work, repeats: int) -> list[dict[str, Any]]:
    """Build every arm, then let them take turns; an arm ten times slower than the best takes three turns."""
    runs: dict[str, Arm] = {}
    records: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for name, make in arms.items():
        started = time.perf_counter()
        try:
            run = make()
            run()
        except (RuntimeError, ValueError) as error:
            print(f"{name}: left out, {error}".splitlines()[0], flush=True)
            continue
        records[name] = {"arm": name, "compile_s": time.perf_counter() - started}
        runs[name], times[name] = run, []
        print(f"{name}: ready after {records[name]['compile_s']:.1f} s", flush=True)
    for turn in range(repeats):
        for name, run in runs.items():
            best = min((min(found) for found in times.values() if found), default=float("inf"))
            if turn >= 3 and min(times[name]) > 10 * best:
                continue
            time.sleep(0.3)  # for threads of another arm that still wait for work
            times[name].append(run())
    for name, found in times.items():
        records[name] |= {
            "median_s": float(np.median(found)),
            "min_s": min(found),
            "max_s": max(found),
            "repeats": len(found),
            "seconds": found,
        }
    return list(records.values())


def matrix_rate(dtype: str) -> float:
    """FLOP/s of a product of two matrices of 2,048 x 2,048, the best of ten."""
    matrix = jnp.ones((2048, 2048), dtype)
    product = jax.jit(lambda a, b: a @ b)
    times = []
    for _ in range(11):
        started = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times[1:])


def _strategies(members: int) -> list[str]:
    chunks = [f":{count}" for count in (2, 4, 5, 10) if count < members] + [""]
    if members == 1:
        return ["loop"]
    kinds = ("vmap_grad",) if jax.default_backend() == "cpu" else ("vmap_grad", "grad_vmap")
    return ["loop", "threads", *(kind + chunk for kind in kinds for chunk in chunks), *({"grad_vmap"} - set(kinds))]


def _rates(shared: dict[str, Any], record: dict[str, Any]) -> dict[str, float]:
    flops = shared["step_flops"] / record["median_s"]
    return {
        "images_per_s": shared["members"] * shared["batch_size"] / record["median_s"],
        "share_of_matrix_rate": flops / shared["matrix_flops_per_s"],
    }


def _print(records: list[dict[str, Any]]) -> None:
    """A table; ratios are medians over the turns, of times in the same turn."""
    peers = [record for record in records if record["arm"] == "pytorch sequential"]
    print(f"{'arm':40} {'ms':>9} {'min':>9} {'to PyTorch':>11} {'matrix rate':>12} {'compile s':>10}")
    for record in sorted(records, key=lambda record: record["median_s"]):
        ratio = ""
        if peers:
            turns = zip(record["seconds"], peers[0]["seconds"], strict=False)
            ratio = f"{np.median([ours / theirs for ours, theirs in turns]):.2f}"
        print(
            f"{record['arm']:40} {1e3 * record['median_s']:9.1f} {1e3 * record['min_s']:9.1f} {ratio:>11} "
            f"{record['share_of_matrix_rate']:12.2f} {record['compile_s']:10.1f}"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="digits")
    parser.add_argument("--members", type=int, help="copies; by default the case's own")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, help="steps a turn; by default 4, and 1 for 32x32 images")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the activations")
    parser.add_argument(
        "--arms", nargs="+", help="only these arms (and the peer's); also 'threads, with oneDNN', 'threads, no oneDNN'"
    )
    parser.add_argument("--peer", help="a Python that has torch")
    parser.add_argument("--peer-arms", nargs="+", choices=PEERS, default=["sequential"])
    parser.add_argument("--default-memory", action="store_true", help="leave the C library's settings alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in ("members", "batch_size", "steps", "repeats"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    return options


if __name__ == "__main__":
    main()

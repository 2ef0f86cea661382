"""One training step of many copies of a network: all strategies, compared with PyTorch.

All arms are interleaved in one run, so that disturbances of a shared machine affect all of them; compilation is timed
separately. The peer is a separate process with a Python that has torch (benchmarks/peers/pytorch.py).

    python -m uv run python benchmarks/members.py --case digits --repeats 15 --json benchmarks/results/members.json \
        --peer /path/to/python-with-torch

The case "paper" is the step with which the paper retrains its good minimum: WRN-28-2, 50,000 uint8 images on device,
crops, flips and standardisation inside the step, weight decay, 20 copies. On an accelerator without network, with a
`python` that has jax, flax, optax and torch, from the root of a checkout:

    PYTHONPATH=. python benchmarks/members.py --case paper --dtype float32 bfloat16 --repeats 5 --peer \
        --json benchmarks/results/members.json

Most of the time is compilation. If the time of a command is limited, select dtypes and arms (--dtype, --arms), or set a
time after which no further arm is built (--build-seconds): records of other arms stay in the file, which is updated
after each turn. End to end on a CPU, in minutes:

    python benchmarks/members.py --case paper --members 2 --batch-size 8 --steps 1 --repeats 2 --peer PYTHON \
        --dtype float32 bfloat16 --arms loop threads vmap_grad grad_vmap auto --json paper.json

Seconds are per step of all members. A record also holds

    share_of_matrix_rate        floating-point operations per second (XLA's count, before optimisation), divided by the
                                rate of a product of two large matrices of that dtype
    share_of_memory_bandwidth   bytes read and written per second by the arm's program (XLA's count, without caches),
                                divided by the rate of y = x + y / 2; null for PyTorch, and if an arm's program was
                                compiled by another arm
    program_bytes, temp_mb      that count, for a step of the members in one program, and its working memory
    projected_paper_s           time of training for the paper's whole experiment, 20 copies x 50 epochs x 390 steps of
                                128 images, at this rate, without shuffling, evaluation and writing
    strategy, trials            for "auto", the chosen strategy and the measured seconds (per step of a member); its
                                turns are those of the arm of that name, and compile_s is the time of the choice
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxscape.xla_cpu.memory import TUNABLES, restart_with_kept_memory

if __name__ == "__main__":
    if any(argument.startswith("--peer") for argument in sys.argv):
        # Otherwise jax would preallocate most of a GPU's memory and leave none for the peer.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if "--default-memory" not in sys.argv:
        restart_with_kept_memory()

import jax
import jax.numpy as jnp
import numpy as np
from rates import matrix_rate, memory_rate
from records import Record, Worker, devices, replace_records, run_facts

from jaxscape import WideResNet, flax_loss
from jaxscape.tasks.augment import augmentation
from jaxscape.tasks.classification import standardization
from jaxscape.training.choice import choose_strategy
from jaxscape.training.members import Update, epoch_runner, parse_strategy, take_member
from jaxscape.training.optimizers import make_optimizer
from jaxscape.training.train import TrainState, copy_states, init_states, member_update
from jaxscape.xla_cpu import compiler


class Case(NamedTuple):
    """A network and its images."""

    depth: int
    widen_factor: int
    size: int
    channels: int
    members: int
    retraining: bool = False  # uint8 images, crops, flips and weight decay, as a good minimum is retrained


CASES = {
    "digits": Case(10, 1, 8, 1, 20),
    "image28": Case(10, 1, 28, 1, 4),
    "wrn28": Case(28, 2, 32, 3, 2),
    "paper": Case(28, 2, 32, 3, 20, retraining=True),
}
EXAMPLES = 50_000  # training images of the paper's data sets
EXPERIMENT = 20 * 50 * (EXAMPLES // 128) * 128  # images that its copies are trained on
PEERS = ("sequential", "sequential contiguous", "compiled", "autocast", "compiled autocast", "vmap")
PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax", "numpy")
SAME = ("case", "members", "batch_size", "dtype", "device")

# Errors that skip one arm and not the others: out of memory, an unknown name, a peer that ended.
FAILURES = (RuntimeError, ValueError, OSError)

# An arm takes a step of all members and returns its seconds.
Arm = Callable[[], float]


def main() -> None:
    """Measure one case for each dtype, and write its records into the file."""
    options = _options()
    # If only some arms are measured, the records of the others stay in the file.
    same = (*SAME, "arm") if options.arms else SAME
    for dtype in options.dtype:
        for records in measure(options, dtype):
            if options.json:
                replace_records(options.json, records, same=same)
        _print(records)


def measure(options: argparse.Namespace, dtype: str) -> Iterator[list[Record]]:
    """Yield the records of one case and dtype after each turn, since the command may be stopped early."""
    case = CASES[options.case]
    members = options.members or case.members
    work = Work(case, members, options.batch_size, options.steps or _steps(case), dtype)
    facts = _facts(options.case, work)
    names: list[str] = options.arms or _default_arms(members)
    arms: dict[str, Callable[[], Arm]] = {}
    peers = _start_peers(options, work)
    try:
        for worker in peers:
            arms |= {f"pytorch {arm}{worker.suffix}": partial(worker.arm, arm) for arm in _peer_arms(options)}
        arms |= {name: partial(_make_arm, work, name) for name in names if name != "auto"}
        runs, records = build(arms, options.build_seconds)
        if "auto" in names:
            choose(work, runs, records)
        for _ in take_turns(runs, records, options.repeats):
            for worker in peers:
                for arm, programs in worker.programs.items():
                    if (record := records.get(f"pytorch {arm}{worker.suffix}")) is not None:
                        record["peer"] = worker.about | {"programs": programs}
            yield [facts | record | _rates(case, facts, record) for record in records.values()]
    finally:
        for worker in peers:
            worker.close()


def _facts(name: str, work: "Work") -> Record:
    """Return the entries that all records of a case share."""
    return run_facts(PACKAGES, device=devices()) | {
        "case": name,
        "dtype": work.dtype,
        "members": work.members,
        "batch_size": work.batch_size,
        "steps": work.steps,
        "memory": "kept" if os.environ.get("GLIBC_TUNABLES") == TUNABLES else "default",
        "matmul_precision": jax.config.jax_default_matmul_precision or "default (on GPUs from Ampere on: TF32)",
        "matrix_flops_per_s": matrix_rate(work.dtype),
        "memory_bytes_per_s": memory_rate(),
        "step_flops": work.flops(),
    }


class Work:
    """The work of all arms: networks, their states, one batch per step and member, and the step itself."""

    def __init__(self, case: Case, members: int, batch_size: int, steps: int, dtype: str) -> None:
        """Create new networks (one start for all, as after a jump of length zero) and random images."""
        self.case, self.members, self.batch_size, self.steps = case, members, batch_size, steps
        self.dtype = dtype
        module = WideResNet(case.depth, case.widen_factor, 10, dtype=jnp.dtype(dtype))
        shape = (case.size, case.size, case.channels)
        init = jax.jit(module.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, *shape)))
        self.optimizer = make_optimizer("momentum", 0.001, weight_decay=1e-4 if case.retraining else 0.0)
        params = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), init["params"])
        keys = jax.random.split(jax.random.key(1), members)
        model_state = {"batch_stats": init["batch_stats"]}
        self.states: TrainState = init_states(params, self.optimizer, keys=keys, model_state=model_state)
        generator = np.random.default_rng(0)
        if case.retraining:
            examples = EXAMPLES
            images = generator.integers(0, 256, (examples, *shape), np.uint8)
            preprocess = standardization(images[:1000])
            self.loss_fn = flax_loss(module, preprocess=preprocess, augment=augmentation("crop+flip"))
        else:
            examples = 4 * batch_size
            images = generator.standard_normal((examples, *shape), np.float32)
            self.loss_fn = flax_loss(module)
        self.data = (jnp.asarray(images), jnp.asarray(generator.integers(0, 10, examples)))
        self.rows = jnp.asarray(generator.integers(0, examples, (members, steps, batch_size)))
        self.update = self.new_update()

    def new_update(self) -> Update:
        """Return the step as a new function that is not compiled yet."""
        return member_update(self.loss_fn, self.optimizer, from_arrays=True)

    def flops(self) -> float | None:
        """Return the floating-point operations of a step of all members, from XLA's count for one member."""

        def first(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[0], tree)

        state, data, rows = jax.eval_shape(lambda *args: args, first(self.states), self.data, self.rows[0, 0])
        # For a CPU whatever the device: plugins count in compiled programs only, where calls of libraries hide.
        with jax.default_device(jax.devices("cpu")[0]):
            cost = jax.jit(self.update.one).lower(state, data, rows, np.int32(1), np.int32(0)).cost_analysis()
        return float(cost["flops"]) * self.members if cost else None


def strategy_arm(work: Work, strategy: str, update: Update | None = None) -> Arm:
    """Return the arm of one of our strategies: an epoch of a few steps."""
    runner = epoch_runner(update or work.update, strategy=strategy)
    states = copy_states(work.states)
    rows = work.rows[:, : _steps_at_once(work, strategy)]

    def run() -> float:
        nonlocal states
        started = time.perf_counter()
        states, _ = runner(states, work.data, rows, 1)
        jax.block_until_ready(states)
        return (time.perf_counter() - started) / rows.shape[1]

    return run


def threads_arm(work: Work, onednn: bool) -> Arm:
    """Return the arm of the strategy "threads" with or without oneDNN, regardless of the size of the program."""
    run = strategy_arm(work, "threads", work.new_update())
    before, compiler.ONEDNN_FLOPS = compiler.ONEDNN_FLOPS, 0 if onednn else float("inf")
    run()
    compiler.ONEDNN_FLOPS = before
    return run


def jax_loop(work: Work) -> Arm:
    """Return the arm of a plain implementation: a jitted step, one member after the other."""
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
    """Return the arm of a plain implementation of all members at once: jit(vmap(grad))."""
    step = jax.jit(jax.vmap(work.update.one, in_axes=(0, None, 0, None, None)), donate_argnums=0)
    states, steps = copy_states(work.states), _steps_at_once(work, "vmap")

    def run() -> float:
        nonlocal states
        started = time.perf_counter()
        for index in range(steps):
            states, _ = step(states, work.data, work.rows[:, index], np.int32(1), np.int32(index))
        jax.block_until_ready(states)
        return (time.perf_counter() - started) / steps

    return run


class Peer(Worker):
    """PyTorch in a separate process, which waits while others are timed."""

    def __init__(self, python: str, name: str, work: Work, *, kept: bool) -> None:
        """Start the worker; with `kept`, it has the C library's settings of our own process."""
        options = {
            "case": name,
            "members": work.members,
            "batch-size": work.batch_size,
            "steps": work.steps,
            "dtype": work.dtype,
        }
        environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
        environment |= {"GLIBC_TUNABLES": TUNABLES} if kept else {}
        super().__init__(python, "pytorch.py", options, environment=environment)
        self.suffix = ", kept memory" if kept else ""
        del self.about["arms"]
        self.programs: dict[str, int] = {}  # arm -> programs that the worker's compiler has made so far

    def arm(self, name: str) -> Arm:
        """Return one of the worker's arms, built in its first turn, which fails if the device cannot run it."""

        def run() -> float:
            answer = self.ask(name)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            self.programs.setdefault(name, answer["programs"])
            return float(answer["seconds"])

        return run


def build(
    arms: dict[str, Callable[[], Arm]], most_seconds: float = float("inf")
) -> tuple[dict[str, Arm], dict[str, Record]]:
    """Return the arms that this device can run, each after a first turn, and records of these first turns.

    After `most_seconds` no further arm is built.
    """
    runs: dict[str, Arm] = {}
    records: dict[str, Record] = {}
    begun = time.perf_counter()
    for name, make in arms.items():
        if time.perf_counter() - begun > most_seconds:
            print(f"{name}: left out, building the arms before it took {most_seconds:g} s", flush=True)
            continue
        before = _programs()
        started = time.perf_counter()
        try:
            run = make()
            run()
        except FAILURES as error:
            print(f"{name}: left out, {error}".splitlines()[0], flush=True)
            continue
        seconds = time.perf_counter() - started
        records[name] = {"arm": name, "compile_s": seconds, **_largest_program(before)}
        runs[name] = run
        print(f"{name}: ready after {seconds:.1f} s", flush=True)
    return runs, records


def choose(work: Work, runs: dict[str, Arm], records: dict[str, Record]) -> None:
    """Add the record of "auto", which has no turns of its own: the arm of its choice is added to the others."""
    started = time.perf_counter()
    choice = choose_strategy(work.update, work.states, work.data, work.rows)
    seconds = time.perf_counter() - started
    print(f"auto: {choice.strategy} after {seconds:.1f} s, of {choice.seconds}", flush=True)
    if choice.strategy not in runs:
        run, record = build({choice.strategy: partial(_make_arm, work, choice.strategy)})
        runs.update(run)
        records.update(record)
    if choice.strategy in runs:
        records["auto"] = {"arm": "auto", "compile_s": seconds, "strategy": choice.strategy, "trials": choice.seconds}


def take_turns(runs: dict[str, Arm], records: dict[str, Record], repeats: int) -> Iterator[None]:
    """Interleave the turns of the arms, and update their records after each turn of all of them.

    An arm ten times slower than the best takes three turns.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    failed: set[str] = set()
    for turn in range(repeats):
        for name, run in runs.items():
            if name in failed:
                continue
            best = min((min(found) for found in times.values() if found), default=float("inf"))
            if turn >= 3 and min(times[name]) > 10 * best:
                continue
            if _on_cpu():
                time.sleep(0.3)  # until the threads of another arm no longer spin
            try:
                times[name].append(run())
            except FAILURES as error:
                print(f"{name}: given up, {error}".splitlines()[0], flush=True)
                failed.add(name)
        _put_times(records, times, failed)
        yield


def _put_times(records: dict[str, Record], times: dict[str, list[float]], failed: set[str]) -> None:
    """Write the times into the records, and remove the records of failed arms."""
    for name in [name for name, record in records.items() if record.get("strategy", name) in failed]:
        del records[name]
    for name, record in records.items():
        same = record.get("strategy", name)
        found = times[same]
        record |= {key: value for key, value in records[same].items() if key not in record} | {
            "median_s": float(np.median(found)),
            "min_s": min(found),
            "max_s": max(found),
            "repeats": len(found),
            "seconds": list(found),
        }


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _steps(case: Case) -> int:
    """Return the steps per turn; on an accelerator a tenth of the paper's epoch, to amortise the overhead of a turn."""
    if _on_cpu():
        return 4 if case.size < 32 else 1
    return 39


def _steps_at_once(work: Work, strategy: str) -> int:
    """Return the steps per turn of an arm; on a CPU one is enough for several networks in one program."""
    return 1 if "vmap" in strategy and _on_cpu() else work.steps


def _default_arms(members: int) -> list[str]:
    if members == 1:
        strategies = ["loop"]
    else:
        chunks = [f":{count}" for count in (2, 4, 5, 10) if count < members] + [""]
        vmaps, grads = ([kind + chunk for chunk in chunks] for kind in ("vmap_grad", "grad_vmap"))
        strategies = ["loop", "threads", *vmaps, "grad_vmap"] if _on_cpu() else ["loop", *vmaps, *grads]
    return [*(["jax loop", "jax vmap(grad)"] if _on_cpu() else []), *strategies, "auto"]


def _make_arm(work: Work, name: str) -> Arm:
    if name.startswith("threads, "):
        return threads_arm(work, name == "threads, with oneDNN")
    return {"jax loop": jax_loop, "jax vmap(grad)": jax_vmap}.get(name, partial(strategy_arm, strategy=name))(work)


def _start_peers(options: argparse.Namespace, work: Work) -> list[Peer]:
    if not options.peer:
        return []
    # The C library's settings matter if it allocates the activations.
    return [Peer(options.peer, options.case, work, kept=kept) for kept in ((False, True) if _on_cpu() else (False,))]


def _peer_arms(options: argparse.Namespace) -> list[str]:
    return options.peer_arms or ["sequential", *(["compiled"] if CASES[options.case].retraining else [])]


def _programs() -> list[Any]:
    return jax.devices()[0].client.live_executables()


def _largest_program(before: list[Any]) -> Record:
    """Return the costs of the new program that moves most bytes by XLA's count; {} if there is none.

    For a loop, such as an epoch on an accelerator, XLA counts a single step.
    """
    found = []
    for program in _programs():
        if program not in before:
            try:
                cost, memory = program.cost_analysis(), program.get_compiled_memory_stats()
            except (NotImplementedError, jax.errors.JaxRuntimeError):
                continue
            cost = cost[0] if isinstance(cost, list) else cost
            found.append((cost.get("bytes accessed", 0.0), memory.temp_size_in_bytes / 1e6))
    return dict(zip(("program_bytes", "temp_mb"), max(found), strict=True)) if found else {}


def _rates(case: Case, facts: Record, record: Record) -> dict[str, float | None]:
    """Return the rates that follow from an arm's median."""
    seconds, flops = record["median_s"], facts["step_flops"]
    images = facts["members"] * facts["batch_size"]
    step_bytes = None
    if record.get("program_bytes"):
        step_bytes = record["program_bytes"] * facts["members"] / _members_at_once(record, facts["members"])
    rates = {
        "images_per_s": images / seconds,
        "share_of_matrix_rate": flops and flops / seconds / facts["matrix_flops_per_s"],
        "share_of_memory_bandwidth": step_bytes and step_bytes / seconds / facts["memory_bytes_per_s"],
    }
    return rates | ({"projected_paper_s": EXPERIMENT / images * seconds} if case.retraining else {})


def _members_at_once(record: Record, members: int) -> int:
    """Return the number of members in one program of an arm."""
    name: str = record.get("strategy") or record["arm"]
    if name.startswith(("jax", "threads")):
        return members if name == "jax vmap(grad)" else 1
    kind, together = parse_strategy(name)
    return 1 if kind == "loop" else min(together or members, members)


def _print(records: list[Record]) -> None:
    """Print a table; ratios are medians over turns of the ratios within a turn."""
    peers = [record for record in records if record["arm"] == "pytorch sequential"]
    print(
        f"{records[0]['dtype']:40} {'ms':>9} {'min':>9} {'to PyTorch':>11} {'matrix rate':>12} {'bandwidth':>10} "
        f"{'compile s':>10} {'paper s':>9}"
    )
    for record in sorted(records, key=lambda record: record["median_s"]):
        ratio = ""
        if peers:
            turns = zip(record["seconds"], peers[0]["seconds"], strict=False)
            ratio = f"{np.median([ours / theirs for ours, theirs in turns]):.2f}"
        print(
            f"{record['arm']:40} {1e3 * record['median_s']:9.1f} {1e3 * record['min_s']:9.1f} {ratio:>11} "
            f"{_cell(record['share_of_matrix_rate'], 2):>12} {_cell(record['share_of_memory_bandwidth'], 2):>10} "
            f"{record['compile_s']:10.1f} {_cell(record.get('projected_paper_s'), 0):>9}"
        )


def _cell(number: float | None, digits: int) -> str:
    return "" if number is None else f"{number:.{digits}f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="digits")
    parser.add_argument("--members", type=int, help="number of copies; by default that of the case")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--steps", type=int, help="steps per turn; by default 39 on an accelerator, on a CPU 4, and 1 for 32x32 images"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="dtypes of the activations"
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        help="only these arms (and the peer's), leaving other arms' records in the file; also 'jax loop', "
        "'jax vmap(grad)', 'threads, with oneDNN', 'threads, no oneDNN'",
    )
    parser.add_argument(
        "--peer", nargs="?", const=sys.executable, help="path of a Python that has torch; by default this one"
    )
    parser.add_argument(
        "--peer-arms", nargs="+", choices=PEERS, help="by default sequential, for the paper's case also compiled"
    )
    parser.add_argument("--default-memory", action="store_true", help="do not change the C library's settings")
    parser.add_argument(
        "--build-seconds", type=float, default=float("inf"), help="build no further arm after this time (per dtype)"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in ("members", "batch_size", "steps", "repeats"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    return options


if __name__ == "__main__":
    main()

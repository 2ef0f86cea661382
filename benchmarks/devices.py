"""The overhead of sharding members over devices: an epoch on 1, 2, 4 and 8 simulated devices of one CPU.

The work and the cores are the same, so nothing can be gained; a ratio above 1 is the cost of sharding (one device runs
its members one after the other, several devices run theirs in parallel). Each number of devices has a separate process,
which waits while others are timed; they are interleaved.

    python -m uv run python benchmarks/devices.py --repeats 5 --json benchmarks/results/devices.json
"""

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import jax
import numpy as np

MEMBERS, IMAGES, BATCH = 8, 512, 128


def work(devices: int, strategy: str, pipe: Connection) -> None:
    """Run an epoch whenever the pipe asks for one, and send its time; the main function of a process."""
    jax.config.update("jax_num_cpu_devices", devices)
    from jaxscape import WideResNet, flax_loss, jump_grid, load_dataset, make_optimizer, retrain, take_training
    from jaxscape.tasks.classification import standardization

    data = take_training(load_dataset("digits"), IMAGES)
    module = WideResNet(10, 1, data.num_classes)
    variables = dict(module.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)))
    epochs = retrain(
        flax_loss(module, preprocess=standardization(data.train_images)),
        make_optimizer("momentum", 0.001),
        jump_grid(variables.pop("params"), seeds=range(MEMBERS), step_sizes=(0.5,)),
        (data.train_images, data.train_labels),
        epochs=1000,
        key=jax.random.key(0),
        model_state=variables,
        batch_size=BATCH,
        strategy=strategy,
    )
    next(epochs)
    while pipe.recv():
        started = time.perf_counter()
        jax.block_until_ready(next(epochs).states)
        pipe.send(time.perf_counter() - started)


def main() -> None:
    """Measure in turns, print, and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--strategy", default="loop")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, seconds = {}, {count: [] for count in options.devices}
    for count in options.devices:
        pipes[count], theirs = context.Pipe()
        context.Process(target=work, args=(count, options.strategy, theirs), daemon=True).start()
    for _ in range(options.repeats + 1):
        for count, pipe in pipes.items():
            pipe.send(True)
            seconds[count].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    first = np.array(seconds[options.devices[0]][1:])
    records = []
    for count, (compiling, *others) in seconds.items():
        record = {
            "devices": count,
            "strategy": options.strategy,
            "members": MEMBERS,
            "steps": IMAGES // BATCH,
            "median_s": float(np.median(others)),
            "min_s": min(others),
            "max_s": max(others),
            "first_s": compiling,
            "ratio": float(np.median(np.array(others) / first)),
            "repeats": options.repeats,
        }
        records.append(record)
        print(f"{count} devices {record['median_s']:.3f} s, {record['ratio']:.2f} of {options.devices[0]}", flush=True)
    if options.json:
        from jaxscape.runs.environment import environment
        from jaxscape.runs.folder import write_json

        write_json(options.json, {"environment": environment(), "records": records})


if __name__ == "__main__":
    main()

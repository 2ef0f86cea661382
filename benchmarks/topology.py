"""Compile the strategies for an accelerator on a machine without one; nothing is run or timed.

libtpu compiles for a TPU that is only described, and jax's CUDA plugin likewise for a GPU. The program is the paper's
retraining of a good minimum (the case "paper" of benchmarks/members.py): an epoch of WRN-28-2 copies, batch 128, 50,000
uint8 images on the device. In an environment with libtpu (`uv sync --extra tpu`; on a machine without TPU):

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/topology.py --topology v5e:2x2 \
        --json benchmarks/results/topology.json

and with jax's CUDA wheels (`uv sync --extra cuda13`; on a machine without GPU):

    JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python benchmarks/topology.py --platform cuda --topology h100 \
        --target-config benchmarks/h100.txtpb --json benchmarks/results/topology.json

cuDNN's algorithms are chosen by trying them, which is not done here: their scratch memory is not included.

A record holds, for one device and as reported by the compiler,

    states_mb, data_mb, program_mb, total_mb    as in `estimate_memory`, with the padding of the device's layouts
    fits                whether the compiler accepted it in the memory of such a device
    shapes_mb           states, data and batches of an epoch, as their shapes say
    donated_mb          of the program's arguments (arguments_mb), what is given back in the place of donated states
    convolutions        of the compiled program by kind (cuDNN's call; "convolution": the compiler's own), and by groups
                        (`feature_group_count` x `batch_group_count`)
    collectives         operations in which devices exchange anything; none are expected
    compile_s           on this machine's processor
"""

import argparse
import collections
import json
import re
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax._src import xla_bridge
from jax.experimental import topologies
from jax.sharding import Mesh
from members import CASES, FAILURES, Work
from records import Record, replace_records, run_facts

from jaxscape.training.choice import memory_of, num_bytes
from jaxscape.training.devices import AXIS
from jaxscape.training.members import lower_epoch

STRATEGIES = ("loop", "vmap_grad:2", "vmap_grad:5", "vmap_grad", "grad_vmap:2", "grad_vmap:5", "grad_vmap")
CONVOLUTION = re.compile(r'= .*(?: (convolution)\(|custom_call_target="__cudnn\$conv(\w+)")')
COLLECTIVE = re.compile(r"= \S+ (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)")


def compile_epoch(work: Work, strategy: str, mesh: Mesh, epoch_steps: int) -> Record:
    """Compile one strategy's program for the members of each device of a mesh, which need not exist."""
    rows = jax.ShapeDtypeStruct((work.members, epoch_steps, work.batch_size), work.rows.dtype)
    started = time.perf_counter()
    with mock.patch.object(jax, "default_backend", return_value="gpu or tpu"):  # an epoch is the unit there
        compiled = lower_epoch(work.update, strategy, work.states, work.data, rows, mesh).compile()
    seconds = time.perf_counter() - started
    states, own = jax.eval_shape(
        lambda *stacked: jax.tree.map(lambda leaf: leaf[: work.members // mesh.size], stacked), work.states, rows
    )
    memory = memory_of(compiled, states, work.data, own, strategy=strategy)
    found, text = compiled.memory_analysis(), compiled.as_text()
    groups: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        if call := CONVOLUTION.search(line):
            counts = [re.search(rf"{name}_group_count=(\d+)", line) for name in ("feature", "batch")]
            groups[f"{call[1] or call[2]} {'x'.join(count[1] if count else '1' for count in counts)}"] += 1
    return {
        "fits": True,
        "shapes_mb": [num_bytes(tree) / 1e6 for tree in (states, work.data, own)],
        "states_mb": memory.states / 1e6,
        "data_mb": memory.data / 1e6,
        "program_mb": memory.program / 1e6,
        "total_mb": memory.total / 1e6,
        "donated_mb": found.alias_size_in_bytes / 1e6,
        "arguments_mb": found.argument_size_in_bytes / 1e6,
        "convolutions": dict(groups),
        "collectives": dict(collections.Counter(COLLECTIVE.findall(text))),
        "compile_s": seconds,
    }


def _describe(options: argparse.Namespace) -> Any:
    if options.platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    xla_bridge.discover_pjrt_plugins()  # as jax does when it starts its devices, which are not there
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name=options.topology,
        target_config=options.target_config.read_text(),
        topology=f"1x1x{max(options.devices)}",  # of one host
    )


def main() -> None:
    """Compile every strategy for the requested numbers of devices, and write the records into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=("tpu", "cuda"), default="tpu")
    parser.add_argument("--topology", default="v5e:2x2", help="topology in libtpu's notation; for a GPU any name")
    parser.add_argument("--target-config", type=Path, help="for a GPU: XLA's GpuTargetConfigProto as text")
    parser.add_argument("--devices", type=int, nargs="+", default=[1], help="numbers of devices")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--arms", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=390, help="steps per epoch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    described = _describe(options)
    packages = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "flax", "optax")
    facts = run_facts(packages, device=f"{options.topology} (described)")
    for dtype in options.dtype:
        work = Work(CASES["paper"], options.members, options.batch_size, 1, dtype)
        for devices in options.devices:
            mesh = Mesh(np.array(described.devices[:devices]), (AXIS,))
            for strategy in options.arms:
                about = {"dtype": dtype, "arm": strategy, "devices": devices, "members": options.members}
                about |= {"batch_size": options.batch_size}
                try:
                    found = compile_epoch(work, strategy, mesh, options.steps)
                except FAILURES as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    found = {"fits": False, "error": str(error)[:1200]}
                print(json.dumps(about | found), flush=True)
                if options.json:
                    same = ("dtype", "arm", "devices", "members", "batch_size", "device")
                    replace_records(options.json, [facts | about | found], same=same)


if __name__ == "__main__":
    main()

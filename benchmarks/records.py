"""What the benchmarks say of a run, and how their lists of records are kept in JSON files."""

import json
import os
import platform
import resource
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def run_facts(packages: Iterable[str], *, device: str | None = None) -> Record:
    """The device, versions and command line of this run, which each of its records carries.

    Args:
        packages: whose versions to note; those that are not installed are left out.
        device: what the work runs on; by default the processor.
    """
    return {
        "device": f"{device or platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": _versions(packages) | {"python": platform.python_version()},
        "command": " ".join(["python", *sys.argv]),
    }


def accelerator() -> str | None:
    """The devices of jax where they are no CPUs, such as "1 x NVIDIA H100"; None where they are.

    From here on jax takes of a GPU's memory what it needs, so that this process and its children share the device.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return None if jax.default_backend() == "cpu" else devices()


def devices() -> str:
    """The devices of jax, such as "1 x cpu"."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def replace_records(path: Path, records: list[Record], *, same: Iterable[str]) -> None:
    """Put records into a file, in place of those that agree with one of them in the fields named."""
    fields = tuple(same)

    def about(record: Record) -> tuple[Any, ...]:
        return tuple(record.get(name) for name in fields)

    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text()) if path.exists() else []
    replaced = {about(record) for record in records}
    kept = [record for record in old if about(record) not in replaced]
    path.write_text(json.dumps(kept + records, indent=1) + "\n")


def peak_mb() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

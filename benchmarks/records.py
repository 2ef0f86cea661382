"""Facts about a benchmark run, and JSON files with lists of records."""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Record = dict[str, Any]

PEERS = Path(__file__).parent / "peers"


class Worker:
    """A script of benchmarks/peers in a Python of its own: a line goes in, a JSON line comes out.

    Its first line says what it is, and is `about`. Between its turns it waits and takes no processor.
    """

    def __init__(
        self,
        python: str,
        script: str,
        options: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, and read what it says of itself.

        Args:
            python: the interpreter, which has what the script imports.
            script: a file name in benchmarks/peers.
            options: of its command line, by name.
            environment: of the process; by default that of this one.
        """
        command = [python, str(PEERS / script), *(f"--{name}={value}" for name, value in options.items())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self._read()

    def ask(self, line: str) -> Record:
        """Send a line, and return the answer."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the process."""
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self) -> Record:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self._process.wait()}")
        answer: Record = json.loads(line)
        return answer


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
    """Write records into a file, replacing those that agree with one of them in the fields `same`."""
    fields = tuple(same)

    def about(record: Record) -> tuple[Any, ...]:
        return tuple(record.get(name) for name in fields)

    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text()) if path.exists() else []
    replaced = {about(record) for record in records}
    kept = [record for record in old if about(record) not in replaced]
    path.write_text(json.dumps(kept + records, indent=1) + "\n")


def peak_mb() -> float:
    """Return the largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

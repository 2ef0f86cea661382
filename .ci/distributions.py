"""Check what the distributions hold against what git tracks: python distributions.py SDIST WHEEL, in the checkout.

The source distribution must hold all that is tracked but the results of the benchmarks, the wheel the package alone.
"""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

RESULTS = "benchmarks/results/"


def main() -> None:
    """Name every file that is missing or out of place; exits with 1 then."""
    sdist, wheel = map(Path, sys.argv[1:])
    tracked = set(subprocess.check_output(["git", "ls-files"], text=True).splitlines())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
    package = {name for name in tracked if name.startswith("jaxscape/")}
    wanted = {name for name in tracked if not name.startswith(RESULTS)}
    faults = [f"the sdist lacks {name}" for name in sorted(wanted - in_sdist)]
    faults += [f"the sdist holds {name}" for name in sorted(in_sdist - tracked - {"PKG-INFO"})]
    faults += [f"the wheel lacks {name}" for name in sorted(package - in_wheel)]
    faults += [f"the wheel holds {name}" for name in sorted(in_wheel - package)]
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    faults += [
        f"the metadata lacks {name}" for name in ("Summary", "License-Expression", "Keywords") if not fields[name]
    ]
    if (fields["Name"], fields["Version"]) != (project["name"], project["version"]):
        faults.append(f"the metadata is of {fields['Name']} {fields['Version']}")
    if (tag := os.environ.get("TAG", "")) not in ("", f"v{project['version']}"):
        faults.append(f"the tag is {tag}, the version {project['version']}")
    if faults:
        sys.exit("\n".join(faults))
    size = {path.name: f"{path.stat().st_size / 1e6:.1f} MB" for path in (sdist, wheel)}
    print(*(f"{name}: {text}" for name, text in size.items()), sep="\n")


if __name__ == "__main__":
    main()

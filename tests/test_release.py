"""What a release says of itself in several files agrees, and its workflows can be trusted."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# What the Citation File Format 1.2.0 demands.
CITATION_NEEDS = {"authors", "cff-version", "message", "title"}
REFERENCE_NEEDS = {"authors", "title", "type"}


def requirements():
    """Every list of requirements of the project, by its name."""
    extras = PROJECT["project"]["optional-dependencies"]
    groups = PROJECT["dependency-groups"]
    return {"dependencies": PROJECT["project"]["dependencies"]} | extras | groups


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_has_what_its_format_demands(citation):
    assert set(citation) >= CITATION_NEEDS
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    for entry in citation["references"]:
        assert set(entry) >= REFERENCE_NEEDS
    people = [author for entry in [citation, *citation["references"]] for author in entry["authors"]]
    assert all(set(person) in ({"name"}, {"family-names", "given-names"}) for person in people)


def test_the_citation_is_of_this_version(citation):
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]


def test_a_package_has_one_lower_bound_wherever_it_is_required():
    bounds: dict[str, set[str]] = {}
    for requirement in (each for name, group in requirements().items() for each in group):
        if match := re.match(r"([\w-]+)(>=.*)", requirement):
            bounds.setdefault(match[1], set()).add(match[2])
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}


def test_every_python_that_is_allowed_is_named_and_tested():
    allowed = PROJECT["project"]["requires-python"]
    first, beyond = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", allowed).groups())
    versions = [f"3.{minor}" for minor in range(first, beyond)]
    classifiers = [
        each.removeprefix("Programming Language :: Python :: ") for each in PROJECT["project"]["classifiers"]
    ]
    assert [each for each in classifiers if re.fullmatch(r"3\.\d+", each)] == versions
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert tests["jobs"]["versions"]["strategy"]["matrix"]["python"] == versions


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_actions_of_a_workflow_are_pinned_by_commit_and_say_which_version_that_is(path):
    used = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert len(used) == sum("uses" in step for step in steps(yaml.safe_load(path.read_text())))
    for line in used:
        assert re.search(r"uses: [\w-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_can_only_read_the_repository_and_one_job_alone_may_publish(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    granted = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert granted == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_scripts_that_are_there_and_may_be_executed(path):
    commands = [step["run"] for step in steps(yaml.safe_load(path.read_text())) if "run" in step]
    for script in (word for command in commands for word in command.split() if word.startswith(".ci/")):
        assert (ROOT / script).stat().st_mode & 0o100, script

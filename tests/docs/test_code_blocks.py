"""Every Python example of the documentation runs as it stands, one after the other on a page."""

import doctest
import importlib
from pathlib import Path

import pytest
from doc_pages import DOCS, PAGES, ROOT, name_of, python_blocks

# Pages whose examples another test runs, and looks at the results of.
ELSEWHERE = {
    **dict.fromkeys(["docs/models.md", "docs/paths.md", "docs/landscapes.md", "docs/curvature.md"], "test_docs.py"),
    "docs/topology.md": "topology/test_topology_docs.py",
}
# They draw, or compile much.
SLOW = {f"docs/howto/{page}.md" for page in ("functions", "recording", "joint", "large_models", "null_model")}
WITH_EXAMPLES = [name_of(path) for path in PAGES if python_blocks(path) and name_of(path) not in ELSEWHERE]

PACKAGE = ROOT / "jaxscape"
DOCUMENTED = sorted(path for path in PACKAGE.rglob("*.py") if ">>>" in path.read_text())


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in WITH_EXAMPLES]
)
def test_the_examples_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch, users_broadcast):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in python_blocks(ROOT / page):
        exec(compile(block, page, "exec"), names)


def test_pages_that_are_tested_elsewhere_are_named_there():
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text()
    assert set(WITH_EXAMPLES) >= SLOW


def test_no_page_has_code_in_a_language_that_nothing_checks():
    for path in DOCS.rglob("*.md"):
        for line in path.read_text().splitlines():
            if line.startswith("```") and line != "```" and "_build" not in path.parts:
                language = line.removeprefix("```").split()[0]
                assert language in {"python", "bash", "text", "{code-cell}", "{toctree}", "{include}"}, (path, line)


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_examples_of_docstrings_give_what_they_say(path, users_broadcast):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0
    assert results.failed == 0

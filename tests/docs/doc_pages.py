"""The pages of the documentation and what stands in them, for the tests beside this file."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


def name_of(path):
    """Return the path of a page inside the repository."""
    return path.relative_to(ROOT).as_posix()


def python_blocks(path):
    """Return the Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def shell_blocks(path):
    """Return the commands of a page: its blocks of bash, and what is indented by four spaces."""
    text = path.read_text()
    fenced = re.findall(r"```(?:bash|shell)\n(.*?)```", text, re.DOTALL)
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    indented = re.findall(r"(?:^ {4}\S.*\n?)+", outside, re.MULTILINE)
    return [*fenced, *map(textwrap.dedent, indented)]

"""Write the address of the repository into the first cells of the notebooks: `python docs/colab.py`.

The address is that of pyproject.toml, `[project.urls] Repository`. A notebook that is opened in Colab is read from the
repository as it is, so the address must stand in it. Without an address there is no badge.
"""

import json
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
INSTALL = """\
# On Colab this installs jaxscape from its repository; elsewhere it is installed already.
import sys

REPOSITORY = "{repository}"
if "google.colab" in sys.modules:
    assert REPOSITORY, "the address of the repository is unknown: install jaxscape by hand"
    %pip install --quiet "git+{{REPOSITORY}}"\
"""


def repository():
    """Return the address of the repository, "" where pyproject.toml has none."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"].get("urls", {}).get("Repository", "").rstrip("/")


def first_cells(notebook, address):
    """Return the sources of a notebook's first two cells: its title with the badge, and the installation."""
    title = "".join(json.loads(notebook.read_text())["cells"][0]["source"]).split("\n")[0]
    badge = ""
    if address:
        path = f"{address.removeprefix('https://github.com/')}/blob/main/docs/notebooks/{notebook.name}"
        badge = (
            "\n\n[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
            f"(https://colab.research.google.com/github/{path})"
        )
    return title + badge, INSTALL.format(repository=address)


def main():
    """Write the first two cells of every notebook."""
    for notebook in NOTEBOOKS:
        content = json.loads(notebook.read_text())
        for cell, source in zip(content["cells"], first_cells(notebook, repository()), strict=False):
            cell["source"] = source.splitlines(keepends=True)
        notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

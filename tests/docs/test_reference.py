"""The API reference has every public name, and the notebooks begin as docs/colab.py writes them."""

import importlib.util
import inspect
import json
import re

import pytest
from doc_pages import DOCS

import jaxscape


def load(path):
    """Import a module of docs, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    """What is documented on each page of the reference, the help texts left out."""
    reader, found = load(DOCS / "_ext" / "public_names.py"), {}
    for page in sorted((DOCS / "api").glob("*.md")):
        places = [place for place in reader.PLACE.finditer(page.read_text()) if place["what"] == "names"]
        text = "".join(reader.names(place["names"]) for place in places)
        found[page.stem] = re.findall(r"^\.\. auto\w+:: jaxscape\.(\w+)$", text, re.MULTILINE)
    return found


def test_every_public_name_is_in_the_reference_once(reference):
    assert sorted(name for names in reference.values() for name in names) == sorted(jaxscape.__all__)


def test_every_page_of_the_reference_is_in_its_table_of_contents(reference):
    listed = (DOCS / "api" / "index.md").read_text().split()
    assert set(reference) - {"index"} <= set(listed)


def test_a_docstring_becomes_restructured_text_without_losing_a_character():
    reader = load(DOCS / "_ext" / "public_names.py")
    lines = ["||v|| of `a*b`, name_ and *", "- one", "- two", "after", "", ">>> f(*x)", "a_"]
    reader.to_restructured_text(None, "function", "f", None, None, lines)
    assert lines == [
        *[r"\|\|v\|\| of `a*b`, name\_ and \*", "", "- one", "- two", "", "after", "", ">>> f(*x)", "a_", ""]
    ]


def test_the_fields_of_a_record_have_the_words_beside_them_and_arrays_their_shapes():
    reader = load(DOCS / "_ext" / "public_names.py")
    line = inspect.signature(jaxscape.line).return_annotation
    assert reader.fields(line)["t"] == "0 at a and 1 at b"
    points = "Float64[ndarray, 'points']"
    assert reader.shapes(line) == {"t": points, "metrics": f"dict[str, {points}]"}
    assert reader.fields(jaxscape.JumpGrid)["params"] == "leaves [member, ...]"
    assert list(reader.fields(jaxscape.Geometry)) == list(jaxscape.Geometry._fields)


@pytest.mark.parametrize("address", ["", "https://github.com/someone/something"])
def test_a_notebook_opens_in_colab_where_the_address_is_known(address):
    colab = load(DOCS / "colab.py")
    title, install = colab.first_cells(colab.NOTEBOOKS[0], address)
    path = f"someone/something/blob/main/docs/notebooks/{colab.NOTEBOOKS[0].name}"
    assert (f"https://colab.research.google.com/github/{path}" in title) == bool(address)
    assert f'REPOSITORY = "{address}"' in install


def test_the_notebooks_begin_as_the_address_in_pyproject_asks_and_have_no_outputs():
    colab = load(DOCS / "colab.py")
    assert len(colab.NOTEBOOKS) == 3
    for notebook in colab.NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        written = tuple("".join(cell["source"]) for cell in cells[:2])
        assert written == colab.first_cells(notebook, colab.repository()), "run: python docs/colab.py"
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)

"""The README's examples run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:the graph of the 5 nearest neighbours:UserWarning")
def test_the_example_runs_and_gives_what_it_names(tmp_path, monkeypatch, users_broadcast):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(compile(example, str(README), "exec"), names)
    rows = 11 * 10  # epochs 0 to 10, five directions times two step sizes
    assert names["distances"].shape == (rows, rows)
    assert names["picture"].embedding.shape == (rows, 2)
    assert set(names["numbers"]) == set(names["control"])
    np.testing.assert_allclose(names["numbers"]["path"], names["control"]["path"])
    assert (tmp_path / "runs" / "mine" / "figures" / "mds-euclidean-beside-exchange-null.png") in [
        path.absolute() for path in names["figures"]
    ]
    assert names["page"].absolute() == tmp_path / "runs" / "mine" / "report.html"
    assert names["page"].read_text().startswith("<!doctype html>")

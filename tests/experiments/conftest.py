"""The experiments are scripts that import one another, so their folder must be on the path."""

import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a script in one folder, at the smallest scale; it returns folder and printed text.

    Without a plan by default: to measure one takes as long as all else at this scale.
    """
    from scales import SCALES
    from stages import Experiment

    folder = tmp_path_factory.mktemp("runs") / "smoke"

    def script(module, *, with_plan=False):
        out = StringIO()
        console = Console(file=out, soft_wrap=True)
        module.main(Experiment(module.__name__, SCALES["smoke"], folder, {}, console, with_plan=with_plan))
        return folder, out.getvalue()

    return script

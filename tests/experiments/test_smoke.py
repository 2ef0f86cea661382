"""Every experiment once, from nothing to its pictures, at a scale at which nothing can be seen."""

from io import StringIO

import claims
import figure2
import film
import optimizers
import pytest
from common import SCALES, Experiment
from rich.console import Console

SCALE = SCALES["smoke"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a script in the folder that all of them share; gives what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"

    def script(module):
        out = StringIO()
        module.main(Experiment(module.__name__, SCALE, folder, {}, Console(file=out, soft_wrap=True)))
        return folder, out.getvalue()

    return script


@pytest.fixture(scope="module")
def of_figure2(run):
    return run(figure2)


def test_figure_2_and_its_control(of_figure2):
    folder, out = of_figure2
    assert "figure2: 6 minima to find, 6 retrainings; about" in out
    drawn = {path.stem for path in (folder / "figure2").glob("*.png")}
    settings = {f"phate-cosine-{center}-knn5" for center in ("none", "mean")}
    controls = {"phate-cosine-none-knn5-null-rotated", "phate-cosine-none-knn5-beside-rotated-null"}
    assert drawn == settings | controls | {f"{setting}-loss" for setting in settings} | {"distance"}
    assert out.count("Geometry") == len(SCALE.seeds)


def test_what_is_there_is_not_made_again(of_figure2, run):
    _, out = run(figure2)
    assert "figure2: 0 minima to find, 0 retrainings; about 0.0 min" in out
    assert out.count("the trajectories are there, 3 epochs") == 6


def test_the_film_of_the_same_runs(of_figure2, run):
    folder, out = run(film)
    assert "0 minima to find" in out
    assert {path.stem for path in (folder / "film").glob("*.gif")} == {
        "phate-cosine-none-knn5",
        "phate-cosine-mean-knn5",
    }


@pytest.mark.filterwarnings("ignore:the graph of")
def test_optimizers_and_the_claims_about_all_of_it(of_figure2, run):
    folder, out = run(optimizers)
    drawn = {path.stem for path in (folder / "optimizers" / "figures").glob("*.png")}
    for part in ("", "-null-rotated", "-seed10", "-adam", "-sgd+momentum", "-momentum+adam"):
        assert f"phate-cosine-none-knn5{part}" in drawn
    assert "norm" in drawn
    assert "end_spread" in out
    runs = claims.Runs(folder, SCALE.seeds, SCALE.harder_seeds, SCALE.compare["seeds"])
    verdicts = {claim: claims.decide(runs, claim) for claim in claims.CLAIMS}
    decided = {claim.text for claim, verdict in verdicts.items() if verdict is not None}
    not_run = {claim.text for claim in claims.CLAIMS} - decided
    assert all("PHATE" in text or "PCA" in text or "small steps" in text or "recur" in text for text in not_run)
    assert len(decided) == 23

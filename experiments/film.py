"""Films of good, bad and memorization minima side by side: the paper's films of embeddings, and one of the polar view.

    python -m uv run python experiments/film.py --scale quick

Each is a GIF, and also an MP4 if ffmpeg is installed. In the polar view every position is exact. The runs are those of
figure2.py, and are not repeated.
"""

from command import start
from stages import Experiment

from jaxscape.figures.film import save_film
from jaxscape.runs.config import PRESETS
from jaxscape.runs.plot import comparison_panels, exact_panels


def main(experiment: Experiment) -> None:
    """Make missing runs, then the films."""
    seed = experiment.scale.seeds[0]
    shown = [experiment.folder / f"{preset}-{seed}" for preset in PRESETS]
    experiment.run(experiment.minima(PRESETS, seeds=[seed]), pictures=shown)
    files = save_film(exact_panels(shown), experiment.folder / "film" / "polar")
    for setting in experiment.settings:
        files += save_film(comparison_panels(shown, setting.name), experiment.folder / "film" / setting.name)
    for path in files:
        experiment.console.print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    start(main, __doc__, "film")

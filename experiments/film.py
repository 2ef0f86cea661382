"""The paper's film: trajectories of good, bad and memorization minima that grow epoch by epoch, side by side.

    python -m uv run python experiments/film.py --scale quick

A GIF, and an MP4 where an ffmpeg is there. The runs are those of figure2.py, and are not made again.
"""

from common import Experiment, start

from jaxscape.figures.film import save_film
from jaxscape.runs.config import PRESETS
from jaxscape.runs.plot import comparison_panels


def main(experiment: Experiment) -> None:
    """Make what is missing of the runs, then the films."""
    seed = experiment.scale.seeds[0]
    shown = [experiment.folder / f"{preset}-{seed}" for preset in PRESETS]
    experiment.run(experiment.minima(PRESETS, seeds=[seed]), pictures=shown)
    for setting in experiment.settings:
        panels = comparison_panels(shown, setting.name)
        for path in save_film(panels, experiment.folder / "film" / setting.name):
            experiment.console.print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    start(main, __doc__, "film")

"""The paper's Fig. 2 and Appendix B: retraining around good, bad and memorization minima, and their null trajectories.

    python -m uv run python experiments/figure2.py --scale quick

The figures show the first seed's minima, coloured by direction, by epoch and by loss; there is a table for each seed.
"""

from command import start
from stages import Experiment

from jaxscape.runs.config import PRESETS
from jaxscape.runs.measure import accuracy_table, geometry_table
from jaxscape.runs.plot import plot_comparison, plot_losses


def main(experiment: Experiment) -> None:
    """Train, retrain, embed, draw and print the tables."""
    minima = experiment.minima(PRESETS)
    shown = [experiment.run_of(preset, experiment.scale.seeds[0]) for preset in PRESETS]
    experiment.run(minima, pictures=shown)
    figures = plot_comparison(shown, experiment.folder / "figure2")
    for setting in experiment.settings:
        figures += plot_losses(shown, setting.name, experiment.folder / "figure2")
    for seed in experiment.scale.seeds:
        reports = {preset: experiment.open(experiment.run_of(preset, seed)).report() for preset in PRESETS}
        experiment.console.print(f"seed {seed}", accuracy_table(reports), geometry_table(reports))
    for path in figures:
        experiment.console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "figure2")

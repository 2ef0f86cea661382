"""The paper's Fig. 5: bad and good minima from several initialisations, and on a second, harder data set.

    python -m uv run python experiments/figure5.py --scale quick

The minima of the first data set are those of figure2.py, and are not trained again. Instead of CIFAR-100, the quick and
real scales use 100 classes of pairs of images, side by side; for the good minima they are rotated by up to 45 degrees
and changed in brightness and contrast.
"""

from command import start
from stages import Experiment

from jaxscape.runs.measure import accuracy_table, geometry_table
from jaxscape.runs.plot import plot_comparison

KINDS = ("bad", "good")


def main(experiment: Experiment) -> None:
    """Train, retrain, embed, draw and print the tables."""
    scale, folder = experiment.scale, experiment.folder
    minima = experiment.minima(KINDS) | experiment.harder_minima(KINDS)
    names = [f"{kind}-{seed}" for seed in scale.seeds[:2] for kind in KINDS]
    names += [f"harder-{kind}-{scale.harder_seeds[0]}" for kind in KINDS]
    shown = [folder / name for name in names]
    experiment.run(minima, pictures=shown)
    figures = plot_comparison(shown, folder / "figure5")
    for prefix, seeds in (("", scale.seeds), ("harder-", scale.harder_seeds)):
        for seed in seeds:
            names = [f"{prefix}{kind}-{seed}" for kind in KINDS]
            reports = {name: experiment.open(folder / name).report() for name in names}
            experiment.console.print(accuracy_table(reports), geometry_table(reports))
    for path in figures:
        experiment.console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "figure5")

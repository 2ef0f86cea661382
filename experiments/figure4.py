"""The pictures of the paper's Fig. 3, 4 and 9: SGD, momentum and Adam from shared initial parameters, by epoch.

    python -m uv run python experiments/figure4.py --scale quick

All networks are in one store, so that one distance matrix covers them. The figures show one seed, pairs of optimisers,
all optimisers, Adam alone, all with their null trajectories, and the L2 norm by epoch. What the paper says of them is
decided by `optimizers.py`, from every update.
"""

import time

from command import start
from stages import Experiment

from jaxscape.runs.compare import compare_optimizers
from jaxscape.runs.images import image_comparison
from jaxscape.runs.measure import groups_table


def main(experiment: Experiment) -> None:
    """Train, embed, draw and print the tables."""
    console, config = experiment.console, experiment.comparison()
    run = experiment.open(experiment.folder / "optimizers")
    experiment.plan_comparison(run.folder)
    started = time.monotonic()
    compare_optimizers(run.folder, image_comparison(config), console=console)
    one, *_ = config.seeds
    parts = [{"only_seeds": (one,)}, {"only_optimizers": ("adam",)}]
    parts += [{"only_optimizers": pair} for pair in (("sgd", "momentum"), ("momentum", "adam"))]
    for setting in (*experiment.settings, experiment.control, *(experiment.embedding(**part) for part in parts)):
        run.embed(**vars(setting))
    figures = run.plot()
    console.print(groups_table(run.report()))
    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in figures:
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "figure4")

"""The paper's Fig. 3, 4 and 9: SGD, momentum and Adam from shared initial parameters, and the norms of what they find.

    python -m uv run python experiments/optimizers.py --scale quick

One store holds all networks, so that one distance matrix does. Drawn: one seed, a pair of optimisers, all, Adam alone,
all beside their null trajectories, and the L2 norm by epoch.
"""

import time

from common import Experiment, start

from jaxscape.runs.compare import compare_optimizers
from jaxscape.runs.embed import embed_trajectories
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.images import image_comparison
from jaxscape.runs.measure import groups_table, measure
from jaxscape.runs.plot import plot_run


def main(experiment: Experiment) -> None:
    """Train, embed, draw, print."""
    run, console, config = experiment.folder / "optimizers", experiment.console, experiment.comparison()
    experiment.plan_comparison(run)
    started = time.monotonic()
    compare_optimizers(run, image_comparison(config), console=console)
    measure(run, console=console)
    one, *_ = config.seeds
    parts = [{"only_seeds": (one,)}, {"only_optimizers": ("adam",)}]
    parts += [{"only_optimizers": pair} for pair in (("sgd", "momentum"), ("momentum", "adam"))]
    for setting in (*experiment.settings, experiment.control, *(experiment.embedding(**part) for part in parts)):
        embed_trajectories(run, setting, console=console)
    figures = plot_run(run)
    console.print(groups_table(RunFolder(run).read_report()))
    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in figures:
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "optimizers")

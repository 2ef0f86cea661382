"""Test the paper's claims on fresh minima; this script is the only source of docs/claims.md.

    python -m uv run python experiments/claims.py --scale quick --publish
    python -m uv run python experiments/claims.py --page

The claims are listed in claims_list.py, the rules that decide them in claims_rules.py: both were committed before the
runs. claims_page.py writes the page. `--publish` writes the numbers of each minimum into the file claims.json of
benchmarks/results, where each scale has a section of its own, and remakes docs/claims.md; `--page` remakes that page
from the committed numbers, without any run.
"""

import sys

from claims_list import ELSEWHERE
from claims_page import page
from claims_runs import SECONDS_PER_RUN, measure_all, plan_minima, plan_runs
from command import start
from records import RESULTS, ROOT, Record, about_runs, committed, committed_scales, publish
from stages import Again, Experiment

from jaxscape.runs.folder import write_json, write_text

PAGE = ROOT / "docs" / "claims.md"


def measure(experiment: Experiment, again: Again) -> Record:
    """Return the section of this scale: its settings, and the numbers of each minimum."""
    _, config = next(iter(again.values()))
    minimum = next(iter(plan_minima(experiment).values()))
    return about_runs(minimum, config) | {"cells": measure_all(experiment, again)}


def read_committed() -> tuple[dict[str, Record], dict[str, Record]]:
    """Return the committed numbers of each scale, and the files of other scripts that exist."""
    others = {name: committed(name) for name in ELSEWHERE}
    return committed_scales("claims"), {name: record for name, record in others.items() if record is not None}


def write_page() -> None:
    """Remake docs/claims.md from the committed numbers."""
    scales, elsewhere = read_committed()
    if not scales:
        sys.exit(
            f"{RESULTS / 'claims.json'} does not exist; make it with experiments/claims.py --scale quick --publish"
        )
    write_text(PAGE, page(scales, elsewhere))


def main(experiment: Experiment) -> None:
    """Make missing runs, measure them, and write the numbers and the page."""
    console, folder = experiment.console, experiment.folder
    minima = plan_minima(experiment)
    again = plan_runs(experiment, minima)
    experiment.run(minima, again=again, retrain_minima=False, more_seconds=SECONDS_PER_RUN * len(again))
    name, record = experiment.scale_name, measure(experiment, again)
    write_json(folder / "claims.json", {"scales": {name: record}})
    scales, elsewhere = read_committed()
    write_text(folder / "claims.md", page({name: record}, elsewhere))
    console.print((folder / "claims.md").read_text(), markup=False, soft_wrap=True)
    if experiment.publish:
        publish("claims", {"scales": scales | {name: record}}, {})
        write_page()


if __name__ == "__main__":
    if sys.argv[1:] == ["--page"]:
        write_page()
    else:
        start(main, __doc__, "claims")

"""The numbers of one demo that the documentation quotes, as the tables of its pages.

    python -m uv run jaxscape demo demo --seed 0
    python -m uv run python benchmarks/settings.py demo/good demo/bad demo/memorization comparison \
        --json benchmarks/results/settings.json
    python -m uv run python benchmarks/demo_seed.py demo --json benchmarks/results/demo-seed0.json

The first table is that of docs/surrogates.md, the counts are those of docs/demo.md and docs/experiments.md, and the
other tables are those of docs/embedding.md, which are read from the results of `settings.py`. Nothing is trained; the
scale-free distances are computed, and stored in the run folders.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from records import Record, replace_records, run_facts

from jaxscape.figures.exact import ended_nearer
from jaxscape.runs.config import PRESETS
from jaxscape.runs.exact import exact_panel, scale_free_panel
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.methods import BESIDE

COPIES = ("return", "return_drift", "inward_decay", "inward_loss", "loss_cosine")
NULLS = ("return", "inward_loss", "loss_cosine")
# Settings by name -> their names in the tables; the tables of fidelity and of surrogates have some of them.
NAMES = {
    "mds-euclidean": "metric MDS, euclidean",
    "pca-euclidean": "PCA with the minimum",
    "mds-cosine-none": "metric MDS, cosine",
    "phate-cosine-none-knnconnect": "PHATE, of the vectors, connect",
    "phate-cosine-none-knnauto": "PHATE, of the vectors, knn auto",
    "phate-euclidean-knnauto": "PHATE, euclidean with the minimum, auto",
    "phate-cosine-mean-knnauto": "PHATE, from the mean, auto",
    "phate-cosine-mean-knnconnect": "PHATE, from the mean, connect",
    "phate-cosine-mean-knn5": "PHATE, from the mean, knn 5",
    "phate-cosine-none-knn5": "PHATE, of the vectors, knn 5",
}
FIDELITY = ("phate-cosine-none-knn5", "phate-cosine-mean-knn5", "mds-euclidean")
SURROGATES = ("mds-euclidean", "phate-cosine-none-knn5", "phate-cosine-mean-knn5", "phate-cosine-none-knnauto")


def read_run(run: RunFolder) -> Record:
    """Return the numbers of one minimum: statistics beside their surrogates, its drift, and copies that end nearer."""
    report, panel, scale_free = run.read_report(), exact_panel(run), scale_free_panel(run)
    geometry = report["geometry"]
    assert panel is not None
    assert scale_free is not None
    nearer = {"copies": ended_nearer(panel)[0], "scale-free": ended_nearer(scale_free)[0]}
    nearer |= {each.label: ended_nearer(panel, each.distance)[0] for each in panel.surrogates}
    nulls = {kind: {name: geometry["surrogates"][kind].get(name, {}).get("mean") for name in NULLS}
             for kind in ("exchange", "decay") if kind in geometry["surrogates"]}  # fmt: skip
    return {
        "copies": {name: geometry["real"].get(name, {}).get("mean") for name in COPIES},
        "nulls": nulls,
        "drift_over_norm": report["drift"]["over_norm"],
        "nearer": nearer,
        "of": ended_nearer(panel)[1],
    }


def print_runs(found: dict[str, Record]) -> None:
    """Print the table of docs/surrogates.md, and the counts."""
    print("\n| | weight decay | loss | cosine of the loss part with the way back | exchanged: loss | cosine |")
    print("|-|-|-|-|-|-|")
    for name, each in found.items():
        copies, null = each["copies"], each["nulls"][BESIDE["inward_loss"]]
        numbers = [copies["inward_decay"], copies["inward_loss"], copies["loss_cosine"]]
        print(f"| {name} | {_cells([*numbers, null['inward_loss'], null['loss_cosine']], 3, ' | ')} |")
    for name, each in found.items():
        returns = {"copies": each["copies"]["return"], "in the drifting frame": each["copies"]["return_drift"]}
        returns |= {kind: null["return"] for kind, null in each["nulls"].items()}
        print(f"{name}: return " + ", ".join(f"{words} {value:.3f}" for words, value in returns.items()))
        print(f"  drift / norm {each['drift_over_norm']:.3f}; ended nearer, of {each['of']}: {each['nearer']}")


def print_settings(record: Record, presets: Sequence[str]) -> None:
    """Print the tables of docs/embedding.md."""
    others = [name for name in record["runs"] if name not in presets]
    runs = [record["runs"][name] for name in [*presets, *others]]
    copies = runs[: len(presets)]  # runs with a minimum

    def fidelity(setting: str, name: str, of: Sequence[Any] = copies) -> str:
        return _cells([run[setting]["fidelity"][name] for run in of])

    print(f"\nfidelity, {' / '.join(presets)}\n\n| | " + " | ".join(NAMES[setting] for setting in FIDELITY) + " |")
    print("|-|" + "-|" * len(FIDELITY))
    for name in ("stress", "rank", "near_rank", "trustworthiness", "continuity", "radius", "inward"):
        print(f"| {name} | " + " | ".join(fidelity(setting, name) for setting in FIDELITY) + " |")

    print(f"\nsurrogates, {' / '.join([*presets, *others])}\n")
    print("| | disparity | movement | inward | the same |\n|-|-|-|-|-|")
    for setting in SURROGATES:
        each = [run[setting]["surrogate"] for run in runs]
        numbers = [_cells([one[name] for one in each]) for name in ("disparity", "movement", "inward")]
        same = ", ".join("yes" if one["same"] else "no" for one in each)
        print(f"| {NAMES[setting]} | {' | '.join(numbers)} | {same} |")

    trials = record["runs"]["good"]["phate-cosine-none-knnauto"]["tried"]
    print("\n| knn | " + " | ".join(f"{trial['knn']}" for trial in trials) + " |\n|-|" + "-|" * len(trials))
    print("| components | " + " | ".join(f"{trial['n_connected_components']}" for trial in trials) + " |")
    print("| rank correlation | " + " | ".join(f"{trial['rank']:.2f}" for trial in trials) + " |")

    print("\n| setting | mean rank | stress | rank | radius |\n|-|-|-|-|-|")
    for setting, mean in record["mean_ranks"].items():
        whole = [fidelity(setting, name, runs) for name in ("stress", "rank")]
        print(f"| {NAMES[setting]} | {mean:.2f} | {' | '.join(whole)} | {fidelity(setting, 'radius')} |")


def _cells(values: Sequence[float], digits: int = 2, between: str = " / ") -> str:
    return between.join("-" if value is None else f"{value:.{digits}f}" for value in values)


def main() -> None:
    """Read the demo, print the tables, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("--settings", type=Path, default=Path("benchmarks/results/settings.json"))
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    found = {preset: read_run(RunFolder(arguments.demo / preset)) for preset in PRESETS}
    print_runs(found)
    [record] = json.loads(arguments.settings.read_text())
    print_settings(record, list(PRESETS))
    if arguments.json:
        replace_records(arguments.json, [run_facts(("jaxscape", "jax", "numpy", "scipy")) | {"runs": found}], same=())


if __name__ == "__main__":
    main()

"""Which setting of `jaxscape embed` keeps most: the one that it should have by default.

    python -m uv run python benchmarks/settings.py demo/good demo/bad demo/memorization comparison \
        --json benchmarks/results/settings.json

Run on finished run folders, which get an embedding for each setting; copies of those that matter.

The rule was written before the numbers. Every setting is embedded on every run, and each of the eight numbers of
`jaxscape.Fidelity` is measured on the distances that the setting drew. For each run and number the settings are ranked,
1 the best, ties sharing the mean of their ranks; a number that is undefined in a run (radii without a minimum) is left
out there. Stress and broken steps are best low, the others high. The setting with the least mean rank over all numbers
and runs is the default, unless it is degenerate in one of them; then the next.

Each setting is measured on its own distances, so euclidean and cosine ones are held to different ones; radii and inward
are the true distances from the minimum in any case. The ranks say which picture can be believed, not which is the
paper's.
"""

import argparse
from pathlib import Path

import numpy as np
from records import Record, replace_records, run_facts
from scipy.stats import rankdata

from jaxscape import Fidelity
from jaxscape.runs.config import EmbedConfig
from jaxscape.runs.embed import embed_trajectories
from jaxscape.runs.embeddings import read_diagnostics
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.progress import make_console

LOW_IS_GOOD = ("stress", "broken")


def candidates(has_minimum: bool) -> list[EmbedConfig]:
    """The settings for a run; euclidean distances take the minimum with them where there is one."""
    whole = {"metric": "euclidean", "include_minimum": has_minimum}
    return [
        *(
            EmbedConfig(method="phate", center=center, knn=knn)
            for center in ("none", "mean")
            for knn in (5, "connect", "auto")
        ),
        EmbedConfig(method="phate", knn="auto", **whole),
        EmbedConfig(method="mds"),
        EmbedConfig(method="mds", metric="cosine"),
        EmbedConfig(method="pca", **whole),
    ]


def measure(run: RunFolder) -> dict[str, Record]:
    """What each setting keeps of a run, by the setting's name without the minimum that it may have."""
    found = {}
    for config in candidates(run.kind.has_minimum):
        embed_trajectories(run, config, console=make_console())
        diagnostics = read_diagnostics(run, config.name)
        surrogate = {name: diagnostics["surrogate"].get(name) for name in ("disparity", "movement", "inward", "same")}
        found[config.name.removesuffix("-with-minimum")] = {
            "fidelity": diagnostics["fidelity"],
            "degenerate": diagnostics["degenerate"],
            "knn": diagnostics.get("knn"),
            "components": diagnostics.get("n_connected_components"),
            "surrogate": surrogate,
        }
    return found


def mean_ranks(found: dict[str, dict[str, Record]]) -> dict[str, float]:
    """The mean rank of each setting over numbers and runs, the best first."""
    names = list(next(iter(found.values())))
    ranks = []
    for of_run in found.values():
        for number in Fidelity._fields:
            values = np.array([_number(of_run[name]["fidelity"][number]) for name in names])
            if np.isfinite(values).all():
                values = np.round(values, 6)  # what differs by rounding is a tie
                ranks.append(rankdata(values if number in LOW_IS_GOOD else -values))
    means = dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True))
    return dict(sorted(means.items(), key=lambda each: each[1]))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def main() -> None:
    """Embed, rank, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {run.name: measure(RunFolder(run)) for run in arguments.runs}
    means = mean_ranks(found)
    degenerate = {name: [run for run in found if found[run][name]["degenerate"]] for name in means}
    default = next(name for name in means if not degenerate[name])
    for run, of_run in found.items():
        print(run)
        for name, each in of_run.items():
            numbers = " ".join(f"{key} {_number(value):.3f}" for key, value in each["fidelity"].items())
            print(f"  {name}: {numbers}; {each['degenerate'] or 'not degenerate'}; surrogates {each['surrogate']}")
    print("mean ranks")
    for name, rank in means.items():
        print(f"  {name}: {rank:.2f}{'; degenerate in ' + ', '.join(degenerate[name]) if degenerate[name] else ''}")
    print(f"default: {default}")
    if arguments.json:
        record = {"runs": found, "mean_ranks": means, "degenerate": degenerate, "default": default}
        replace_records(arguments.json, [run_facts(("jaxscape", "jax", "numpy", "scipy")) | record], same=())


if __name__ == "__main__":
    main()

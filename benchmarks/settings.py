"""The fidelity of the settings of `jaxscape embed`, from which its default is chosen.

    python -m uv run python benchmarks/settings.py demo/good demo/bad demo/memorization comparison \
        --json benchmarks/results/settings.json

Give it finished run folders, to which an embedding per setting is added; use copies of folders that matter.

The rule was fixed before the numbers were known. Every setting is embedded on every run, and the eight measures of
`jaxscape.Fidelity` are computed on the distances of the setting. For each run and measure the settings are ranked, 1 is
the best, and ties share the mean of their ranks; a measure that is undefined in a run (radii without a minimum) is left
out. Lower is better for stress and broken steps, higher for the others. The default is the setting with the smallest
mean rank over all measures and runs, unless it is degenerate in one of them; then the next one.

Each setting is measured on its own distances, so euclidean and cosine settings are compared with different distances;
radii and inward always use the true distances from the minimum. The ranks say which embedding is the most faithful, not
which is the paper's.
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
    """Return the settings for a run; with euclidean distances the minimum is embedded too if there is one."""
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
    """Return the fidelity of each setting on a run, by the setting's name without the suffix of the minimum."""
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
        if "tried" in diagnostics:
            found[config.name.removesuffix("-with-minimum")]["tried"] = diagnostics["tried"]
    return found


def mean_ranks(found: dict[str, dict[str, Record]]) -> dict[str, float]:
    """Return the mean rank of each setting over measures and runs, the best first."""
    names = list(next(iter(found.values())))
    ranks = []
    for of_run in found.values():
        for number in Fidelity._fields:
            values = np.array([_number(of_run[name]["fidelity"][number]) for name in names])
            if np.isfinite(values).all():
                values = np.round(values, 6)  # differences by rounding are ties
                ranks.append(rankdata(values if number in LOW_IS_GOOD else -values))
    means = dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True))
    return dict(sorted(means.items(), key=lambda each: each[1]))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def main() -> None:
    """Embed, rank, print, and write the numbers."""
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

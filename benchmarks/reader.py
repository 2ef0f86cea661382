"""Can a reader tell a good minimum from a bad one by the polar view alone, with its titles covered?

The rule was fixed before it was applied to the runs of these seeds. (Minima of the same seeds had been used in
docs/decay.md of that time, so their mean return was known, but not how many copies end closer.) In a polar view, a
copy that ends inside of its dotted arc has moved closer to the minimum. A panel with more than three quarters of
such copies is read as a good minimum, and any other as a bad one (or memorization, which this rule does not distinguish
from bad). The threshold was chosen on the demo's seeds 0, 1 and 2. A second reader sees the surrogates of weight decay
alone, which only good minima have, instead of the copies, and applies the same rule: what this reader also gets right
is due to weight decay and not to the loss.

Each seed trains three minima of the digits and retrains 20 copies of each, as `jaxscape demo --seed` does.

    python -m uv run python benchmarks/reader.py --seeds 10 11 12 13 14 --json benchmarks/results/reader.json
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from records import run_facts

from jaxscape.figures.exact import ended_nearer, polar_figure
from jaxscape.figures.plots import save_figure
from jaxscape.runs.config import PRESETS, retrain_preset, train_preset
from jaxscape.runs.exact import exact_panel
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.images import image_retrainings, image_training
from jaxscape.runs.measure import measure
from jaxscape.runs.progress import make_console
from jaxscape.runs.retrain import retrain_copies
from jaxscape.runs.train import find_minimum

SHARE = 0.75  # fraction of copies; around a good minimum more end inside of their arcs
PACKAGES = ("jax", "jaxlib", "numpy", "matplotlib")


def read_panel(nearer: int, copies: int) -> str:
    """Return the kind of minimum that a reader assigns to a panel."""
    return "good" if nearer > SHARE * copies else "not good"


def make_run(run: RunFolder, preset: str, seed: int) -> None:
    """Train a minimum and retrain its copies, unless both exist."""
    console, config = make_console(), train_preset(preset, seed=seed)
    find_minimum(run, image_training(config), console=console)
    retrain_copies(image_retrainings({run: retrain_preset(config)}), console=console)
    measure(run, console=console)


def read_seed(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Return one record per panel of a seed: what it shows, and the kind that each reader assigns."""
    runs = {preset: RunFolder(folder / f"{preset}-{seed}") for preset in PRESETS}
    panels = {}
    for preset, run in runs.items():
        make_run(run, preset, seed)
        panels[preset] = exact_panel(run)
    save_figure(polar_figure(list(panels.values())), folder / f"polar-{seed}")
    records = []
    for preset, panel in panels.items():
        nearer, copies = ended_nearer(panel)
        surrogates = {each.label: ended_nearer(panel, each.distance)[0] for each in panel.surrogates}
        found = {"seed": seed, "preset": preset, "copies": copies, "nearer": nearer, "surrogates": surrogates}
        alone = surrogates.get("weight decay alone", 0)
        readings = {"read": read_panel(nearer, copies), "read_decay_alone": read_panel(alone, copies)}
        truth = "good" if preset == "good" else "not good"
        records.append(found | readings | {"hit": readings["read"] == truth})
        print(json.dumps(records[-1]))
    return records


def main() -> None:
    """Read the panels of all seeds and write the numbers of correct readings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--folder", type=Path, help="folder for the runs (a temporary folder by default)")
    parser.add_argument("--json", type=Path, required=True, help="file for the numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        panels = [record for seed in options.seeds for record in read_seed(folder, seed)]
    hits = sum(record["hit"] for record in panels)
    print(f"{hits} of {len(panels)} panels are read right")
    record = {"rule": f"good where more than {SHARE:.0%} of the copies end nearer", **run_facts(PACKAGES)}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record | {"hits": hits, "of": len(panels), "panels": panels}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The command `info`: what a run folder holds, in words."""

from pathlib import Path

from rich.console import Console

from jaxscape.app.embeddings import embeddings
from jaxscape.app.folder import read_config, read_report
from jaxscape.app.measure import accuracy_table, geometry_table, optimizers_table


def describe_run(run: Path, *, console: Console) -> None:
    """Print the stages of a run, its settings and its numbers.

    Raises:
        FileNotFoundError: where the folder is no run.
    """
    config = read_config(run)
    if not config:
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.json; `jaxscape train {run}` makes one")
    console.print(f"{run}: {_size(run) / 1e6:.1f} MB")
    for stage in ("compare",) if "compare" in config else ("train", "retrain"):
        settings = config.get(stage, {})
        words = ", ".join(f"{name} {_word(value)}" for name, value in settings.items() if value is not None)
        console.print(f"{stage}: {words or 'not yet'}")
    console.print(f"stages done: {', '.join(_stages(run, config)) or 'none'}")
    report = read_report(run)
    if "by_optimizer" in report.get("geometry", {}):
        console.print(optimizers_table(report))
    elif "geometry" in report:
        console.print(accuracy_table({run.name: report}), geometry_table({run.name: report}))
    for setting, found in report.get("embeddings", {}).items():
        words = ", ".join(f"{name} {_word(value)}" for name, value in found.items() if name != "warnings")
        console.print(f"embedding {setting}: {words}")


def _stages(run: Path, config: dict) -> list[str]:
    snapshots = sum(path.name.isdigit() for path in (run / "trajectories").glob("*"))
    done = []
    if (run / "minimum" / "metrics.json").exists():
        done.append("train")
    if snapshots and "compare" in config:
        done.append(f"compare ({snapshots - 1} of {config['snapshots']} snapshots)")
    elif snapshots:
        done.append(f"retrain ({snapshots - 1} of {config['retrain']['epochs']} epochs)")
    if (run / "gram.npz").exists():
        done.append("distances and geometry")
    done += [f"embed {setting}" for setting in embeddings(run)]
    figures = len(list((run / "figures").glob("*.png")))
    return done + ([f"plot ({figures} figures)"] if figures else [])


def _size(run: Path) -> int:
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


def _word(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""Does the geometry of retraining trajectories say anything about generalisation?

    python -m uv run python experiments/generalization.py --study fashion --data-dir /usr/share/datasets/fashion-mnist
    python -m uv run python experiments/generalization.py --study digits
    python -m uv run python experiments/generalization.py --score
    python -m uv run python experiments/generalization.py --page docs/generalization.md

The first two train and measure the networks of a study (study.py) and write one record per network to
benchmarks/results/generalization/STUDY.json, after each stack of networks. An interrupted command resumes: a network
with a record is finished, also in another checkout that has the file only, and trained networks are kept in the folder
until they are measured. `--score` scores the measures (study_scores.py, study_further.py; minutes) and writes
STUDY-scores.json; the last command writes the page from these files.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from study import (
    STUDIES,
    Cell,
    Network,
    Probe,
    Study,
    cells,
    key_of,
    load,
    network,
    training_optimizer,
    training_states,
)
from study_figures import draw_gaps, draw_scores
from study_files import (
    read_minimum,
    record_file,
    repetition_file,
    restore_records,
    results_file,
    to_train,
    write_minimum,
    write_repetition,
    write_results,
)
from study_measures import baselines, loss_rise, retrain_copies, shortened, trajectory_measures
from study_minima import final_metrics, train_to_target
from study_page import page
from study_results import read_result, score_study

from jaxscape import train
from jaxscape.cli.main import run_script
from jaxscape.runs.folder import write_json
from jaxscape.runs.progress import make_console
from jaxscape.tasks.data import Dataset
from jaxscape.training.members import num_workers
from jaxscape.trajectories.files import make_folder
from jaxscape.xla_cpu.convolutions import convolution_flops

PyTree = Any

RESULTS = Path(__file__).parents[1] / "benchmarks/results/generalization"
POINT_BYTES = 1.5e9  # of the parameters that the copies of one stack pass through
STACK = 16  # networks trained together
GUESSED_UPDATES = 1000  # of a training, before any has ended
BASELINE_PROBES = 0.8  # time of the baselines as a multiple of the time of the first probe


def find_minima(
    study: Study, folder: Path, cell_list: Sequence[Cell], net: Network, data: Dataset, strategy: str, console: Console
) -> None:
    """Train the networks of one shape that are not stored yet."""
    missing = [cell for cell in cell_list if to_train(folder, cell)]

    def store(cell: Cell, params: PyTree, state: PyTree, record: dict[str, Any]) -> None:
        write_minimum(folder, cell, params, state, record)
        end = "reached" if record["reached"] else "missed"
        console.print(f"{cell.name}: loss {record['target_loss']:.4f} after {record['updates']} updates ({end})")

    for some in batched(missing, STACK):
        train_to_target(study, some, net, data, strategy=strategy, finished=store)


def measure(
    study: Study, folder: Path, cell_list: Sequence[Cell], net: Network, data: Dataset, strategy: str, console: Console
) -> Iterator[None]:
    """Measure the stored networks of one shape that have no record yet; yield after each stack of them."""
    missing = [cell for cell in cell_list if not record_file(folder, cell).exists()]
    size = parameter_bytes(net)
    points = study.probe.num_copies * (study.probe.updates // study.probe.every + 1)
    for some in batched(missing, max(1, int(POINT_BYTES / (size * points)))):
        started = time.monotonic()
        read = [read_minimum(folder, cell, net, data) for cell in some]
        minima = [(params, state) for params, state, _ in read]
        stack = [jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *part) for part in zip(*minima, strict=True)]
        final = final_metrics(net, *stack, strategy)
        base = baselines(study, some, minima, net, data, strategy=strategy)
        probes = {
            "first": probe_records(study.probe, some, minima, net, strategy, halves=True),
            "second": probe_records(study.second_probe, some, minima, net, strategy),
        }
        for place, cell in enumerate(some):
            record = {
                "cell": dict(cell.levels),
                "seed": cell.seed,
                "minimum": read[place][2] | {name: float(values[place]) for name, values in final.items()},
                "baselines": base[place],
                "probes": {name: found[place] for name, found in probes.items()},
            }
            write_json(record_file(folder, cell), record)
        took = time.monotonic() - started
        console.print(
            f"{some[0].name} and {len(some) - 1} more: measured in {took:.0f} s, {took / len(some):.1f} s each"
        )
        yield


def probe_records(
    probe: Probe,
    cell_list: Sequence[Cell],
    minima: Sequence[tuple[PyTree, PyTree]],
    net: Network,
    strategy: str,
    *,
    halves: bool = False,
) -> list[dict[str, Any]]:
    """Return the statistics of the copies of each minimum, with one value per perturbed copy."""
    records = []
    found = retrain_copies(probe, cell_list, minima, net, strategy=strategy)
    for cell, copies in zip(cell_list, found, strict=True):
        key = key_of(cell, "surrogates")
        perturbed = copies.step_size > 0
        record: dict[str, Any] = {
            "step_size": copies.step_size[perturbed].tolist(),
            "direction": (copies.seed[perturbed] - cell.number * 100).tolist(),
            "loss_rise": loss_rise(copies).tolist(),
            "statistics": {name: values.tolist() for name, values in trajectory_measures(copies, key).items()},
        }
        if halves:
            half = shortened(copies, len(copies.updates) // 2 + 1)
            record["half"] = {name: values.tolist() for name, values in trajectory_measures(half, key).items()}
        records.append(record)
    return records


def write_page(page_file: Path, names: Sequence[str], folder: Path, console: Console) -> None:
    """Write the page and its figures from the numbers and scores of studies; see `read_result` for errors."""
    results = {name: read_result(name, folder) for name in names}
    stem = page_file.stem
    figures = figure_names(stem, names)
    with tempfile.TemporaryDirectory() as drawn:
        draw_scores(results, Path(drawn) / stem)
        for name, result in results.items():
            draw_gaps(result, Path(drawn) / f"{stem}-{name}")
        for figure in figures.values():
            shutil.copy(Path(drawn) / figure, page_file.parent)
    page_file.write_text(page(results, figures))
    for path in (page_file, *(page_file.with_name(figure) for figure in figures.values())):
        console.print(f"{path}")


def figure_names(stem: str, names: Iterable[str]) -> dict[str, str]:
    """Return the files of the figures of a page: of the scores, and of each study."""
    return {"scores": f"{stem}.png"} | {name: f"{stem}-{name}.png" for name in names}


def main() -> None:
    """Train, measure and write the records of a study, or write the page of all studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=STUDIES)
    parser.add_argument("--folder", type=Path, help="runs/generalization-STUDY by default")
    parser.add_argument("--data-dir", help="folder with the original files of the data set")
    parser.add_argument("--strategy", default="threads" if jax.default_backend() == "cpu" else "vmap_grad")
    parser.add_argument(
        "--plan", action="store_true", help="print the remaining work, its time and disk space, and end"
    )
    parser.add_argument(
        "--repeat",
        type=int,
        metavar="N",
        help="train and measure N networks again, in FOLDER/repeat; how far they are from the committed numbers is "
        "written beside those",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the numbers by network")
    parser.add_argument(
        "--score", action="store_true", help="score the measures of a study, or of all, from the numbers by network"
    )
    parser.add_argument("--page", type=Path, help="write this page from the numbers and scores of the studies")
    options = parser.parse_args()
    console = make_console()
    known = [name for name in STUDIES if results_file(options.results, name).exists()]
    named = [options.study] if options.study else known
    if options.score:
        for name in named:
            console.print(f"{score_study(name, options.results)}")
    if options.page:
        write_page(options.page, named, options.results, console)
    if not (options.score or options.page):
        if options.study is None:
            parser.error("give --study, --score or --page")
        run_study(options, console)


def run_study(options: argparse.Namespace, console: Console) -> None:
    """Train and measure the networks of a study, and write their records; or repeat some of them."""
    name = options.study
    study = STUDIES[name]
    folder = options.folder or Path("runs") / f"generalization-{name}"
    chosen = cells(study)
    if options.repeat:
        folder, chosen = folder / "repeat", chosen[:: max(1, len(chosen) // options.repeat)][: options.repeat]
    for each in (folder / "minima", folder / "measures", options.results):
        make_folder(each)
    file = results_file(folder if options.repeat else options.results, name)
    restore_records(file, study, folder, chosen)
    data = load(study, options.data_dir)
    groups: dict[Any, list[Cell]] = {}
    for cell in chosen:
        groups.setdefault(cell.recipe.shape, []).append(cell)
    print_plan(study, folder, groups.values(), data, console)
    if options.plan:
        return
    for number, group in enumerate(groups.values(), start=1):
        console.print(f"shape {number} of {len(groups)}: {len(group)} networks, {group[0].recipe}")
        net = network(study, group[0].recipe, data)
        find_minima(study, folder, group, net, data, options.strategy, console)
        for _ in measure(study, folder, group, net, data, options.strategy, console):
            write_results(file, study, folder, chosen)
        # The programs of a shape are not needed again. On a CPU they hold thousands of memory maps, of which Linux
        # allows a process 65,530.
        jax.clear_caches()
    if options.repeat:
        committed = results_file(options.results, name)
        found = write_repetition(repetition_file(options.results, name), folder, chosen, committed)
        console.print(f"{found['same']} of {found['networks']} repeated networks have the same numbers; the largest")
        console.print(f"relative difference is {found['largest_difference']:.2g}")


def print_plan(study: Study, folder: Path, groups: Iterable[Sequence[Cell]], data: Dataset, console: Console) -> None:
    """Print the remaining work, and an estimate of its time and disk space.

    The time of an update is measured for the smallest shape, and taken as proportional to the operations of the
    convolutions for the others. The number of updates of a training is not known before it has ended: it is the mean of
    those that have, or a guess.
    """
    shapes = [
        (
            group[0],
            sum(to_train(folder, cell) for cell in group),
            sum(not record_file(folder, cell).exists() for cell in group),
        )
        for group in groups
    ]
    ended = [json.loads(path.read_text())["minimum"]["updates"] for path in folder.glob("measures/*.json")]
    updates = float(np.mean(ended)) if ended else GUESSED_UPDATES
    probe = study.probe.num_copies * study.probe.updates
    probes = probe + study.second_probe.num_copies * study.second_probe.updates
    networks = [network(study, cell.recipe, data) for cell, *_ in shapes]
    # Of an update of the training and of one of the probe.
    costs = [
        tuple(operations(net, cell, size, data) for size in (cell.recipe.batch_size, study.probe.batch_size))
        for net, (cell, *_) in zip(networks, shapes, strict=True)
    ]
    work = sum(
        training * minima * updates + probing * measured * (probes + BASELINE_PROBES * probe)
        for (training, probing), (_, minima, measured) in zip(costs, shapes, strict=True)
    )
    seconds = 0.0
    if work:
        smallest = min(range(len(shapes)), key=lambda place: costs[place][0])
        seconds = work * seconds_per_update(networks[smallest], shapes[smallest][0], data) / costs[smallest][0]
    size = sum(minima * parameter_bytes(net) for net, (_, minima, _) in zip(networks, shapes, strict=True))
    console.print(
        f"{sum(minima for _, minima, _ in shapes)} networks to train ({updates:.0f} updates each, "
        f"{'the mean of those that have ended' if ended else 'a guess'}), "
        f"{sum(measured for *_, measured in shapes)} to measure: about {seconds / 60:.0f} min of one device or two CPU "
        f"cores, {size / 1e6:.0f} MB in {folder}"
    )


def parameter_bytes(net: Network) -> int:
    """Return the bytes of a network's parameters."""
    params, _ = jax.eval_shape(net.problem.init, jax.random.key(0))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def operations(net: Network, cell: Cell, batch_size: int, data: Dataset) -> int:
    """Return the operations of the convolutions of one evaluation of a batch."""
    params, state = jax.eval_shape(net.problem.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((cell.recipe.images, *data.train_images.shape[1:]), np.uint8)
    state |= {"images": images, "labels": jax.ShapeDtypeStruct((cell.recipe.images,), np.int32)}
    rows = jax.ShapeDtypeStruct((batch_size,), np.int32)
    return convolution_flops(jax.make_jaxpr(net.problem.predict)(params, state, rows))


def seconds_per_update(net: Network, cell: Cell, data: Dataset) -> float:
    """Measure the time of an update of one network, of which a CPU does one on each core."""
    epochs = train(
        net.problem.loss_fn,
        training_optimizer(),
        training_states([cell], net, data),
        net.problem.data,
        epochs=6,
        steps=5,
        batch_size=cell.recipe.batch_size,
    )
    times = []
    for epoch in epochs:
        jax.block_until_ready(epoch.states.params)
        times.append(time.monotonic())
    seconds = float(np.median(np.diff(times)[1:])) / 5
    return seconds / (num_workers("threads") if jax.default_backend() == "cpu" else 1)


if __name__ == "__main__":
    run_script("generalization", main)

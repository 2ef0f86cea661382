"""The command line: `jaxscape demo | plan | train | retrain | compare | import | embed | surface | ... | info`."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxscape.cli.commands import (
    Compare,
    Curvature,
    Demo,
    Embed,
    Import,
    Info,
    Own,
    PathCommand,
    Plan,
    Plot,
    Report,
    Retrain,
    Surface,
    Train,
)
from jaxscape.cli.errors import locate_problem_errors, report_errors_in_one_line
from jaxscape.cli.parse import Line, key_values, parse, retrain_settings, seeds_of, settings_of, train_settings
from jaxscape.cli.program import command
from jaxscape.runs.config import EmbedConfig, embed_config
from jaxscape.runs.environment import cache_folder
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.processes import check_devices, is_first, join, leave, others_may_fail
from jaxscape.runs.progress import make_console
from jaxscape.xla_cpu.memory import restart_with_kept_memory

__all__ = ["command", "main", "run_script"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line in this process; exit with code 0 only if the work was done."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with report_errors_in_one_line("jaxscape"):
        line = parse(arguments)
        command = line.command
        _cache_compiled_programs()
        silent = False
        if isinstance(command, Retrain):
            join(command.cluster)
        if not isinstance(command, Embed | Plot | Report | Info):  # `embed` does so if it needs one
            check_devices()
        if isinstance(command, Retrain):
            silent = not is_first()
        locating = nullcontext() if line.own is None else locate_problem_errors()
        with _silence_orbax(), others_may_fail(), locating:
            _run(line, make_console(silent=silent))


def run_script(name: str, work: Callable[[], None]) -> None:
    """Run a script like a command: with malloc settings, a cache of compiled programs, and errors in one line.

    Args:
        name: name of the script, which begins the line of an error.
        work: everything that the script does, including parsing its arguments; called once, in a process that may have
            been restarted.
    """
    restart_with_kept_memory()
    with report_errors_in_one_line(name):
        _cache_compiled_programs()
        with _silence_orbax():
            work()


def _run(line: Line, console: Console) -> None:
    command = line.command
    match command:
        case Demo(folder, seed):
            from jaxscape.cli.demo import run_demo

            run_demo(folder, seed=seed, console=console)
        case Plan(run, devices):
            from jaxscape.runs.plan import describe_plan, plan_run

            plan = plan_run(
                run,
                *_stages(line, run),
                devices=devices,
                landscape=[getattr(command, stage) for stage in dict.fromkeys(command.landscape)],
                axes=_unit_axes(line) if command.path.match else None,
                console=console,
            )
            describe_plan(plan, console=console)
        case Train():
            from jaxscape.runs.train import find_minima

            find_minima(_trainings(line), console=console)
        case Retrain():
            _retrain(_retrainings(line), console)
        case Compare(run):
            from jaxscape.runs.compare import compare_optimizers
            from jaxscape.runs.measure import groups_table, measure

            compare_optimizers(run, _comparison(line, run), console=console)
            measure(run, console=console)
            console.print(groups_table(RunFolder(run).read_report()))
        case Import(run, sources):
            from jaxscape.runs.imports import import_runs

            import_runs(
                run,
                sources,
                label=key_values("label", command.label),
                describe=key_values("describe", command.describe),
                key=command.key,
                include=command.include or None,
                exclude=command.exclude,
                console=console,
            )
        case Embed():
            config = embed_config(**line.given_settings("config"))
            console.print(f"{_embed(command, config, console)}")
            if command.plot:
                _plot(command.into or command.runs[0], console)
        case Surface(run):
            from jaxscape.runs.plot_landscape import plot_surface
            from jaxscape.runs.surface import measure_surface

            folder = measure_surface(run, command.config, _landscape(line, run), console=console)
            _print_paths([folder, *plot_surface(run, folder.name)], console)
        case PathCommand(run, other):
            from jaxscape.runs.path import measure_path
            from jaxscape.runs.plot_landscape import plot_path

            if line.own is None:
                from jaxscape.runs.images import warn_if_data_differ

                warn_if_data_differ(run, other)
            axes = _unit_axes(line) if command.config.match else None
            folder = measure_path(run, other, command.config, _landscape(line, run), axes=axes, console=console)
            _print_paths([folder, *plot_path(run, folder.name)], console)
        case Curvature(run):
            from jaxscape.runs.curvature import measure_curvature
            from jaxscape.runs.plot_landscape import plot_curvature

            folder = measure_curvature(run, command.config, _landscape(line, run), console=console)
            _print_paths([folder, *plot_curvature(run, folder.name)], console)
        case Plot(run, scale_free):
            _plot(run, console, scale_free=scale_free)
        case Report(runs, out):
            from jaxscape.runs.page import write_page

            console.print(f"{write_page(runs, out, console=console)}")
        case Info(run):
            from jaxscape.cli.info import describe_run

            describe_run(run, console=console)


def _print_paths(paths: Sequence[Path], console: Console) -> None:
    for path in paths:
        console.print(f"{path}")


def _plot(run: Path, console: Console, *, scale_free: bool = False) -> None:
    from jaxscape.runs.plot import plot_run

    _print_paths(plot_run(run, scale_free=scale_free, console=console), console)


def _embed(command: Embed, config: EmbedConfig, console: Console) -> Path:
    from jaxscape.runs.embed import embed_trajectories
    from jaxscape.runs.joint import embed_together

    if command.into is not None:
        return embed_together(command.runs, command.into, config, group=command.group, console=console)
    if len(command.runs) != 1:
        raise ValueError(f"embed takes one run, or several with --into JOINT, got {len(command.runs)}")
    return embed_trajectories(command.runs[0], config, console=console)


def _retrain(retrainings: Mapping[Path, Any], console: Console) -> None:
    from jaxscape.runs.measure import geometry_table, measure
    from jaxscape.runs.retrain import retrain_copies

    retrain_copies(retrainings, console=console)
    leave()
    for run in retrainings:
        measure(run, console=console)
    console.print(geometry_table({run.name: RunFolder(run).read_report() for run in retrainings}))


# The inputs of each stage, for the built-in problem or for one of the user's own.


def _trainings(line: Line) -> Mapping[Path, Any]:
    settings: dict[Path, Any] = train_settings(line)
    if line.own is not None:
        own = _own_problem(line.own)
        return {run: own.training(config) for run, config in settings.items()}
    from jaxscape.runs.images import image_trainings

    return image_trainings(settings)


def _retrainings(line: Line) -> Mapping[Path, Any]:
    settings: dict[Path, Any] = retrain_settings(line)
    if line.own is not None:
        own = _own_problem(line.own)
        return {run: own.retraining(config) for run, config in settings.items()}
    from jaxscape.runs.images import image_retrainings

    return image_retrainings(settings)


def _comparison(line: Line, run: Path) -> Any:
    settings: Any = settings_of(line, run).compare
    settings = replace(settings, seeds=seeds_of(line.command, settings))
    if line.own is not None:
        return _own_problem(line.own).comparison(settings)
    from jaxscape.runs.images import image_comparison

    return image_comparison(settings)


def _stages(line: Line, run: Path) -> tuple[Any, Any]:
    settings: Any = settings_of(line, run)
    retrain = replace(settings.retrain, seeds=seeds_of(line.command, settings.retrain))
    if line.own is not None:
        own = _own_problem(line.own)
        return own.training(settings.train), own.retraining(retrain)
    from jaxscape.runs.images import image_plan

    return image_plan(settings.train, retrain)


def _landscape(line: Line, run: Path) -> Any:
    if line.own is not None:
        return _own_problem(line.own)
    from jaxscape.runs.images import image_landscape

    return image_landscape(run)


def _unit_axes(line: Line) -> Any:
    """Return the function that gives the axes of permutable units; None for a problem of the user's own."""
    if line.own is not None:
        return None
    from jaxscape.runs.images import image_axes

    return image_axes


def _own_problem(own: Own) -> Any:
    from jaxscape.runs.own import load_problem

    if own.problem is None:
        raise ValueError(
            "the run was started from Python and its record does not name its problem; give --problem "
            "package.module:function"
        )
    return load_problem(own.problem, own.problem_args)


def _cache_compiled_programs() -> None:
    """Cache compiled programs on disk between commands, unless the user has configured a cache."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder()
    if folder is None:  # without a cache only compilation takes longer
        return
    # By default jax caches what takes a second to compile. Creating the perturbed copies compiles a hundred programs of
    # a tenth of a second each, whatever the network.
    settings = {"jax_compilation_cache_dir": str(folder / "xla"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        if (jax := sys.modules.get("jax")) is None:
            os.environ[name.upper()] = str(value)  # jax reads it if and when it is imported
        else:
            jax.config.update(name, value)


@contextmanager
def _silence_orbax() -> Iterator[None]:
    """Suppress the page of text that orbax, tensorstore and asyncio print in addition to raising an error."""
    from absl import logging as absl_logging

    verbosity, asyncio_logger = absl_logging.get_verbosity(), logging.getLogger("asyncio")
    level = asyncio_logger.level
    absl_logging.set_verbosity(absl_logging.FATAL)
    asyncio_logger.setLevel(logging.CRITICAL)
    if not isinstance(sys.unraisablehook, _QuietHook):  # not restored: event loops are closed when the process ends
        sys.unraisablehook = _QuietHook(sys.unraisablehook)
    try:
        yield
    finally:
        absl_logging.set_verbosity(verbosity)
        asyncio_logger.setLevel(level)


class _QuietHook:
    """A `sys.unraisablehook` that ignores the errors of event loops that failed writes left open."""

    def __init__(self, hook: Callable[[Any], Any]):
        self._hook = hook

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook(unraisable)

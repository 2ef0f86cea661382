"""The stage `path`: the loss on the straight line and on a low-loss curve between the minima of two runs."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optax
from rich.console import Console

from jaxscape.landscape.lines import line, line_barrier
from jaxscape.landscape.matching import match_units
from jaxscape.landscape.paths import Curve, connect_epochs, path_profile
from jaxscape.problem import Problem, is_arrays
from jaxscape.runs.checks import check_path
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import read_partial, write_partial
from jaxscape.runs.keys import path_key
from jaxscape.runs.landscape_config import SPLITS, PathConfig
from jaxscape.runs.landscape_stage import inputs_of, is_up_to_date, keeping, measured_loss, measurement_folder
from jaxscape.runs.minimum import Minimum, checksum, plain, read_minimum
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.progress import track
from jaxscape.runs.resume import delete_states, resume_state, save_state
from jaxscape.runs.train import steps_per_epoch
from jaxscape.training.members import num_members, stack_members, take_member

PyTree = Any
# (parameters, model state) -> axes for `match_units`.
MakeAxes = Callable[[PyTree, PyTree], Mapping[str, tuple[str | None, ...]]]

SECONDS_BETWEEN_STATES = 20  # an interruption loses at most this much of a curve's training


def path_name(other: Path, config: PathConfig) -> str:
    """Return the name of the folder of the paths to another run's minimum."""
    return f"to-{RunFolder(other).name}-{config.name}"


def measure_path(
    run: Path, other: Path, config: PathConfig, own: OwnProblem, *, axes: MakeAxes | None = None, console: Console
) -> Path:
    """Measure the paths between the minima of two runs, resume an interrupted measurement, or find it done.

    Args:
        run: a run folder with a minimum.
        other: another run folder, whose network has the same parameters.
        config: the curve and how it is trained.
        own: the problem of the first run, whose loss is measured and trained on.
        axes: `(params, model_state) -> axes` for `match_units`; None not to match units.
        console: where to print the progress.

    Returns:
        The folder of the result: values.npz and record.json.

    Raises:
        FileNotFoundError: if a run has no minimum.
        ValueError: for an invalid setting, and for networks that are identical or differ in their parameters' shapes.
        OSError: if the run folder cannot be written to.
    """
    check_path(config)
    run, other = RunFolder(run), RunFolder(other)
    a, b = (read_minimum(each, like=own.structure) for each in (run, other))
    # A minimum that was set from Python was not trained with the batch size in its settings.
    batch_size = curve_batch(own.problem, config, a.settings.batch_size)
    steps_per_epoch(own.problem, batch_size)  # rejects an iterator
    loss = measured_loss(own.problem, config, a.params, a.model_state, statistics="recalibrated")
    inputs = inputs_of(
        config,
        own,
        loss,
        minima=[checksum(plain(each.params, each.model_state)) for each in (a, b)],
        matched=axes is not None,
        train_batch=batch_size,
    )
    folder = measurement_folder(run.paths, path_name(other, config), loss, inputs)
    if is_up_to_date(run, "path", folder, inputs, console):
        return folder
    options: Any = {"split": SPLITS[config.split], "batch_size": config.batch_size, "strategy": config.strategy}
    t = np.linspace(0, 1, config.points)
    with keeping(run, "path", folder, inputs, console) as keep:
        lines = {}
        if axes is not None:
            with console.status(f"{run.name} to {other.name}: straight line, units matched"):
                lines["straight"] = line(own.problem, a.params, b.params, t=t, model_state=a.model_state, **options)
                matched = match_units(
                    a.params,
                    b.params,
                    axes(b.params, b.model_state),
                    key=path_key(config.seed),
                    model_state=b.model_state,
                )
                b = b._replace(params=matched.params, model_state=matched.model_state)
        curve = _train_curve(folder, inputs, config, own.problem, a, b, f"{run.name} to {other.name}", console)
        with console.status(f"{run.name} to {other.name}: along the curve"):
            profile = path_profile(own.problem, curve, t=t, model_state=a.model_state, **options)
        lines["straight" if axes is None else "matched"] = profile.straight.line
        lines["curve"] = profile.curve.line
        values = {"t": t, "losses": curve.losses}
        for way, along in lines.items():
            values |= {f"{way}:{name}": each for name, each in along.metrics.items()}
        barriers = {
            way: {
                name: {"height": barrier.height, "t": barrier.t}
                for name in along.metrics
                for barrier in [line_barrier(along, metric=name)]
            }
            for way, along in lines.items()
        }
        keep(
            values,
            other=str(other.absolute()),
            **loss.numbers(),
            split=profile.curve.line.split,
            metrics=sorted(profile.curve.line.metrics),
            barriers=barriers,
            lengths={way: along.length for way, along in lines.items()},
        )
        delete_states(folder / "resume")
    return folder


def curve_batch(problem: Problem, config: PathConfig, default: int) -> int:
    """Return the batch size of the curve's training.

    Args:
        problem: the problem that the curve is trained on.
        config: the settings, with a batch size or None.
        default: the batch size for None, or more than there are examples.

    Raises:
        ValueError: for a requested size larger than the data; see also `steps_per_epoch`.
    """
    examples = num_members(problem.data) if is_arrays(problem.data) else None
    if config.train_batch is None:
        return default if examples is None else min(default, examples)
    if examples is not None and config.train_batch > examples:
        raise ValueError(
            f"train_batch must be at most the number of training examples, {examples}, got {config.train_batch}"
        )
    return config.train_batch


def _optimizer(problem: Problem, config: PathConfig, batch_size: int) -> optax.GradientTransformation:
    """Return Adam with a decaying learning rate; a constant one can leave the curve on the wall of its valley."""
    steps = steps_per_epoch(problem, batch_size)
    if steps is None:
        return optax.adam(config.learning_rate)
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps))


def _train_curve(
    folder: Path,
    inputs: Mapping[str, Any],
    config: PathConfig,
    problem: Problem,
    a: Minimum,
    b: Minimum,
    title: str,
    console: Console,
) -> Curve:
    """Train the curve for all epochs, or for those that remain after an interrupted call."""

    def epochs_from(start: Curve | None) -> Iterator[Curve]:
        curves = connect_epochs(
            problem,
            [(a.params, b.params)],
            key=path_key(config.seed),
            kind=config.kind,
            bends=config.bends,
            start=None if start is None else [start],
            model_state=a.model_state,
            optimizer=_optimizer(problem, config, inputs["train_batch"]),
            epochs=config.epochs,
            batch_size=inputs["train_batch"],
        )
        return (curve for (curve,) in curves)

    states = folder / "resume"
    losses = read_partial(folder, inputs).get("losses", np.zeros(0))
    if not len(losses):
        delete_states(states)  # left over from other minima
    curve = next(epochs_from(None))
    epoch, stored = resume_state(states, stack_members([curve.state]), console)
    if epoch:
        curve = curve._replace(state=take_member(stored, 0), losses=losses[:epoch])
        console.print(f"{title}: resumes after epoch {epoch}")
    written = time.monotonic()
    shown = track(
        epochs_from(curve if epoch else None) if epoch < config.epochs else iter(()),
        title=f"{title}: curve",
        total=config.epochs - epoch + (epoch == 0),
        console=console,
        describe=lambda each: f"loss {each.losses[-1]:.4g}" if len(each.losses) else "",
        every=max(1, config.epochs // 10),
    )
    for curve in shown:
        done = len(curve.losses)
        if done and (time.monotonic() - written > SECONDS_BETWEEN_STATES or done == config.epochs):
            # Losses first, so that a state is never without the losses of its epochs.
            write_partial(folder, {"losses": curve.losses}, inputs)
            save_state(states, done, stack_members([curve.state]))
            written = time.monotonic()
    return curve

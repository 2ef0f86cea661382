"""A run folder as a Python object, for the user's own problem."""

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import optax
from rich.console import Console

from jaxscape.arguments import check_finite, check_parameters, number, whole_number
from jaxscape.problem import Problem, checked_evaluate
from jaxscape.report.notebook import widget
from jaxscape.report.page import render
from jaxscape.runs.compare import compare_optimizers
from jaxscape.runs.config import CompareSettings, EmbedConfig, MinimumSettings, RetrainSettings, embed_config
from jaxscape.runs.curvature import measure_curvature
from jaxscape.runs.embed import embed_trajectories
from jaxscape.runs.folder import RECORDED, RunFolder
from jaxscape.runs.joint import join_runs
from jaxscape.runs.landscape_config import CurvatureConfig, PathConfig, SurfaceConfig
from jaxscape.runs.lock import writing
from jaxscape.runs.measure import Measured, measure, perturbed
from jaxscape.runs.minimum import Minimum, checksum, plain, read_minimum, write_minimum
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.page import read_page, write_page
from jaxscape.runs.path import MakeAxes, measure_path
from jaxscape.runs.plot import plot_run
from jaxscape.runs.plot_landscape import plot_curvature, plot_path, plot_surface
from jaxscape.runs.progress import make_console
from jaxscape.runs.record import Recorder
from jaxscape.runs.retrain import retrain_copies
from jaxscape.runs.scale_free import Filters
from jaxscape.runs.surface import measure_surface
from jaxscape.runs.train import TRAJECTORIES, find_minimum
from jaxscape.trajectories.arrays import describe_shape, differences, key_names
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

# Attributes of the page's frame in a notebook: its scripts are isolated from the notebook and may save pictures.
_FRAME = 'title="jaxscape" sandbox="allow-scripts allow-downloads" style="width:100%;height:900px;border:0"'


class Run:
    """A run folder of a problem: every call resumes or extends what an earlier call began, or finds it done.

    The same calls, repeated in a new process, resume where the last one was killed and produce the same bytes.

    Args:
        path: the run folder, a new or an existing one.
        problem: the training problem. Not needed for `embed`, `plot`, `report` and `measured`, which only read the
            folder.
        quiet: print nothing.
        console: a `rich.console.Console` to print to, such as one for a log file; standard output by default.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from jaxscape import Problem
        >>> def loss_fn(params, model_state, batch, key):
        ...     loss = jnp.mean((batch @ params["w"] - 1.0) ** 2)
        ...     return loss, (model_state, {"loss": loss})
        >>> problem = Problem(loss_fn, jnp.eye(4), init=lambda key: ({"w": jax.random.normal(key, (4, 3))}, {}))
        >>> run = Run(tempfile.mkdtemp(), problem, quiet=True)
        >>> _ = run.train(optax.sgd(0.5), epochs=20, batch_size=2)
        >>> run.retrain(optax.sgd(0.5), seeds=2, step_sizes=(0.5, 1.0), epochs=3, batch_size=2, strategy="loop")
        >>> sorted(run.report()["geometry"]["real"])[:3]
        ['end_spread', 'lateral', 'monotone']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        problem: Problem | None = None,
        *,
        quiet: bool = False,
        console: Console | None = None,
    ):
        if problem is not None and not isinstance(problem, Problem):
            raise TypeError(f"problem must be a jaxscape.Problem, got {problem!r:.100}")
        self.folder = RunFolder(Path(path).expanduser())
        self._console = make_console(silent=quiet) if quiet or console is None else console
        self._own = None if problem is None else OwnProblem(problem)
        self._recorder: Recorder | None = None

    @property
    def problem(self) -> Problem | None:
        """The training problem."""
        return None if self._own is None else self._own.problem

    @classmethod
    def join(
        cls,
        path: str | os.PathLike[str],
        runs: Sequence[str | os.PathLike[str]],
        *,
        group: str = "run",
        quiet: bool = False,
        console: Console | None = None,
    ) -> Self:
        """Return a joint run of several runs: one distance matrix, exact across them, and one embedding.

        Args:
            path: the run folder of the joint run.
            runs: finished runs of any kind, length and steps, whose networks have the same parameters.
            group: the label that groups the members in statistics and colours: "run", or a label of the members.
            quiet: print nothing.
            console: where to print, as in `Run`.

        Raises:
            TypeError: if runs is a single path.
            FileNotFoundError: if a run is missing or unfinished.
            ValueError: for fewer than two runs, a run that is itself joint, or a label that no member has.
            OSError: if the folder cannot be written to.
        """
        if isinstance(runs, str | os.PathLike):
            raise TypeError(f"runs must be a sequence of run folders, got {os.fspath(runs)!r}")
        joint = cls(path, quiet=quiet, console=console)
        join_runs([Path(run).expanduser() for run in runs], joint.folder, group=group)
        return joint

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def set_minimum(
        self, params: PyTree, model_state: PyTree = None, *, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Store a minimum that was trained elsewhere.

        Args:
            params: parameters of one network, finite; also the model itself, of a problem of Flax NNX or Equinox.
            model_state: model state of the network; None for a model without one, or for that of an NNX model.
            metrics: its losses, accuracies and so on; by default those that the problem's `evaluate` returns.

        Raises:
            TypeError: for params that are not real floating-point numbers (names the leaf), and metrics that are not
                a dict of numbers.
            ValueError: for empty params, shapes that differ from those of `init`, or NaN or infinity; or if the run
                folder holds another minimum, or trajectories from one.
            OSError: if the run folder cannot be written to.
        """
        params, model_state = self._require_problem().problem.split_model(params, model_state)
        check_parameters("params", params)
        if not jax.tree.leaves(params):
            raise ValueError(f"params must hold one array or more, got {params!r:.100}")
        check_finite("params", params)
        known = self._require_problem()
        if known.problem.init is not None:
            expected, _ = OwnProblem(known.problem).structure
            for name, given_shape, shape in differences(_shapes(params), _shapes(expected), describe_shape):
                raise ValueError(f"params must have the arrays that init makes: {name} is {given_shape}, not {shape}")
        own = replace(known, like=(params, model_state))
        evaluate = own.problem.evaluate
        given = MinimumSettings(epochs=0, given=checksum(plain(params, model_state)))
        run = self.folder
        with writing(run):
            run.record_problem(own.record())
            run.record_settings("train", given, results=("minimum", *TRAJECTORIES))
            if not run.accuracy.exists():
                measured: Mapping[str, Any] = {} if metrics is None else metrics
                if metrics is None and evaluate is not None:
                    measured = checked_evaluate(evaluate)(params, {} if model_state is None else model_state)
                if not isinstance(measured, Mapping):
                    raise TypeError(f"metrics must be a dict of numbers, got {measured!r:.100}")
                numbers = {name: number(f"metrics: {name}", value) for name, value in measured.items()}
                write_minimum(run, params, model_state, epochs=0, metrics=numbers)
        self._own = own

    def train(
        self,
        optimizer: optax.GradientTransformation | None = None,
        *,
        epochs: int,
        batch_size: int = 128,
        seed: int = 0,
    ) -> Minimum:
        """Train the minimum from fresh parameters, those of the problem's `init`.

        Args:
            optimizer: an optax transformation; the problem's own by default.
            epochs: number of epochs to train for.
            batch_size: examples per step; unused if the data are batches already.
            seed: seed of the initial parameters, the batch order and the keys of the loss.

        Returns:
            The minimum, with its parameters in the structure of `init`.

        Raises:
            ValueError: for invalid arguments, or for arguments that differ from those of a minimum that exists.
            FloatingPointError: if training diverges.
            OSError: if the run folder cannot be written to.
        """
        settings = MinimumSettings(
            whole_number("epochs", epochs), whole_number("batch_size", batch_size), whole_number("seed", seed)
        )
        find_minimum(self.folder, self._require_problem().training(settings, optimizer), console=self._console)
        return self.minimum()

    def retrain(
        self,
        optimizer: optax.GradientTransformation | None = None,
        *,
        seeds: int | Sequence[int] = 5,
        step_sizes: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        controls: int | None = None,
        epochs: int = 50,
        batch_size: int = 128,
        data_order: str = "member",
        order_seed: int = 0,
        strategy: str = "auto",
    ) -> None:
        """Perturb copies of the minimum, retrain them all, and store every epoch; more epochs extend the trajectories.

        Args:
            optimizer: an optax transformation, with a fresh state; the problem's own by default. It is not stored in
                the run folder: a call that resumes must pass the same one.
            seeds: seeds of the jump directions; a number n stands for 0, 1, ..., n - 1.
            step_sizes: step sizes of the jumps; 1 displaces every filter by its own norm.
            controls: number of unperturbed copies, which show how the minimum itself drifts; 2 by default, or as many
                as the run has.
            epochs: number of epochs to retrain for.
            batch_size: examples per step; unused if the data are batches already.
            data_order: which copies share batches: "member" (none), "seed" (those of one direction), "shared" (all).
            order_seed: seed of the batch order and the keys of the loss.
            strategy: execution strategy of the copies; "auto" measures which is the fastest.

        Raises:
            FileNotFoundError: if the run has no minimum yet.
            ValueError: for invalid arguments, or for arguments that differ from those of trajectories that exist.
            OSError: if the run folder cannot be written to.
        """
        if controls is None:
            controls = (self.folder.settings("retrain") or RetrainSettings()).controls
        settings = RetrainSettings(
            seeds=_seeds(seeds),
            controls=whole_number("controls", controls),
            step_sizes=tuple(number("step_sizes", size) for size in _several("step_sizes", step_sizes)),
            epochs=whole_number("epochs", epochs),
            batch_size=whole_number("batch_size", batch_size),
            order_seed=whole_number("order_seed", order_seed),
            data_order=data_order,
            strategy=strategy,
        )
        retrain_copies({self.folder: self._require_problem().retraining(settings, optimizer)}, console=self._console)
        measure(self.folder, console=self._console)

    def compare(
        self,
        optimizers: Mapping[str, optax.GradientTransformation],
        *,
        seeds: int | Sequence[int] = 5,
        epochs: int,
        batch_size: int = 128,
        steps: int | None = None,
        strategy: str = "auto",
    ) -> None:
        """Train networks side by side with several optimisers, from shared initial parameters.

        Args:
            optimizers: optax transformations by name.
            seeds: seeds of the initial parameters; a number n stands for 0, 1, ..., n - 1.
            epochs: number of epochs to train for.
            batch_size: examples per step.
            steps: store the parameters every so many steps, instead of once per epoch.
            strategy: execution strategy for the networks of one optimiser; "auto" measures which is the fastest.

        Raises:
            ValueError, OSError: see `retrain`.
        """
        if not isinstance(optimizers, Mapping):
            raise TypeError(f"optimizers must be a dict of optax transformations by name, got {optimizers!r:.100}")
        settings = CompareSettings(
            optimizers=tuple(optimizers),
            seeds=_seeds(seeds),
            epochs=whole_number("epochs", epochs),
            batch_size=whole_number("batch_size", batch_size),
            steps=None if steps is None else whole_number("steps", steps),
            strategy=strategy,
        )
        compare_optimizers(self.folder, self._require_problem().comparison(settings, optimizers), console=self._console)
        measure(self.folder, console=self._console)

    def record(
        self,
        step: int,
        params: PyTree,
        metrics: Mapping[str, Any] | None = None,
        *,
        labels: Sequence[Mapping[str, Any]] | None = None,
        group: str | None = None,
    ) -> None:
        """Store the parameters at a step of your own training loop, in JAX or not.

        They are copied immediately and written in the background, many steps at a time. A process that is killed loses
        at most those of its last minute, or 64 MB; `last_step` tells where to resume. Call `close` at the end, or use
        the run as a context manager; `embed`, `plot`, `report` and `measured` close it too.

        Args:
            step: number of the step, larger than the previous one; it may count steps, epochs or anything else.
            params: parameters of one network, a pytree of arrays; of several networks, a list of pytrees or a pytree
                of arrays [member, ...]. float64 is stored as float32.
            metrics: numbers, or arrays [member].
            labels: one record per network, such as {"seed": 0, "optimizer": "adam"}; required for several networks,
                and the same at every call.
            group: the label that groups the networks in statistics and pictures; the first by default.

        Raises:
            ValueError: for a step that is not larger than the last one, parameters whose arrays differ from those of
                the first step, or a folder that holds another kind of run.
            OSError: if the folder cannot be written to, or another process is writing to it.
        """
        if self._recorder is None:
            self._recorder = Recorder(self.folder, labels, group, self._described())
        own = params if self.problem is None else self.problem.split_model(params)[0]
        self._recorder.record(step, own, metrics)

    @property
    def last_step(self) -> int | None:
        """The number of the last recorded step; None if nothing is recorded."""
        if self._recorder is not None:
            return self._recorder.last_step
        if self.folder.kind is not RECORDED:
            return None
        store = self.store()
        return store.updates[-1] if store.num_epochs else None

    def close(self) -> None:
        """Write all pending steps of a recorded training, and release the run folder.

        Raises:
            OSError: if they cannot be written.
        """
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

    def embed(self, **settings: Any) -> Path:
        """Embed the trajectories, and return the folder of the embedding.

        Args:
            settings: the settings of `jaxscape embed`: method="mds", metric, center, knn, null="rotated", ... Without
                a method, any of PHATE's settings, such as knn, selects "phate".

        Raises:
            TypeError: for an unknown setting (lists the known ones).
            FileNotFoundError: if there are no finished trajectories.
            ValueError: for an invalid setting.
        """
        self.close()
        _check_known(EmbedConfig, settings)
        return embed_trajectories(self.folder, embed_config(**settings), console=self._console)

    def surface(self, **settings: Any) -> Path:
        """Evaluate the loss on a plane or a line, draw it, and return the folder of values.npz and record.json.

        Args:
            settings: those of `jaxscape surface`: plane="filter" or "trajectory", seeds, points, extent, split, ...

        Raises:
            TypeError: for an unknown setting (lists the known ones).
            FileNotFoundError: if the run has no minimum, or no finished trajectories.
            ValueError: for an invalid setting.
            OSError: if the run folder cannot be written to.
        """
        self.close()
        config = _configured(SurfaceConfig, settings)
        folder = measure_surface(self.folder, config, self._require_problem(), console=self._console)
        plot_surface(self.folder, folder.name)
        return folder

    def path(self, other: str | os.PathLike[str], *, axes: MakeAxes | None = None, **settings: Any) -> Path:
        """Measure and draw the loss on the straight line to another run's minimum and on a trained low-loss curve.

        Args:
            other: the run folder of the other minimum.
            axes: `(params, model_state) -> axes` for `match_units`; without it, units are not matched.
            settings: those of `jaxscape path`: kind="bezier" or "polygon", bends, epochs, learning_rate, points, ...

        Returns:
            The folder of values.npz and record.json, inside this run's folder.

        Raises:
            See `surface`.
        """
        self.close()
        config = _configured(PathConfig, settings)
        there = Path(other).expanduser()
        folder = measure_path(self.folder, there, config, self._require_problem(), axes=axes, console=self._console)
        plot_path(self.folder, folder.name)
        return folder

    def curvature(self, **settings: Any) -> Path:
        """Measure and draw eigenvalues, trace and spectral density at the minimum, and return their folder.

        Args:
            settings: those of `jaxscape curvature`: matrix="hessian" or "gauss_newton", k, steps, probes, leaves, ...

        Raises:
            See `surface`.
        """
        self.close()
        config = _configured(CurvatureConfig, settings)
        folder = measure_curvature(self.folder, config, self._require_problem(), console=self._console)
        plot_curvature(self.folder, folder.name)
        return folder

    def plot(self, *, scale_free: bool = False) -> list[Path]:
        """Draw the exact views, every embedding and the distances or norms, and return the files.

        Args:
            scale_free: also draw the exact views of scale-free distances, for which every filter is rescaled to the
                norm of the minimum's filter. For a problem of your own the run needs that problem, whose `filter_axis`
                defines the filters.

        Raises:
            FileNotFoundError: if there is no embedding yet.
            ValueError: for scale-free distances of a run without a minimum, or without its problem.
        """
        self.close()
        filters = Filters(self._own.problem.filter_axis, self._own.structure) if scale_free and self._own else None
        return plot_run(self.folder, scale_free=scale_free, filters=filters, console=self._console)

    def report(self) -> dict[str, Any]:
        """Return the statistics of the run: report.json, which is computed if it is missing.

        Raises:
            FileNotFoundError: if there are no finished trajectories.
        """
        self.measured()
        return self.folder.read_report()

    def page(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Write an interactive HTML page of the run, and return its path.

        Args:
            out: the file; report.html in the run folder by default.

        Raises:
            FileNotFoundError: if there are no finished trajectories.
            OSError: if the file cannot be written.
        """
        self.close()
        return write_page([self.folder], None if out is None else Path(out).expanduser(), console=self._console)

    def widget(self) -> Any:
        """Return the page of the run as a widget for a notebook.

        Raises:
            FileNotFoundError: if there are no finished trajectories.
            ImportError: if anywidget is not installed; says how to install it.
        """
        self.close()
        return widget(read_page([self.folder], console=self._console))

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows: the page of the run, or one line if there is nothing to show yet."""
        try:
            self.close()
            text = render(read_page([self.folder], console=make_console(silent=True)))
        except Exception as error:  # whatever is damaged, a line is better than a traceback in the notebook
            return f"<p>{html.escape(f'{self.folder}: {error}')}</p>"
        return f'<iframe srcdoc="{html.escape(text)}" {_FRAME}></iframe>'

    def measured(self, *, controls: bool = False) -> Measured:
        """Return the Gram matrix of the trajectories, from which exact distances and geometry follow: gram.npz.

        It is computed if it is missing. `jaxscape.pairwise_distances(run.measured().gram)` is the distance matrix.

        Args:
            controls: whether to include the unperturbed copies.

        Returns:
            `gram`, a `jaxscape.IncrementGram` of n points, whose reference is the minimum if the run has one; and
            `labels`, the labels of each point as arrays (n,) by name: int64 "member", "epoch" and "update", and the
            labels of the members, such as "seed" and "step_size".

        Raises:
            FileNotFoundError: if there are no finished trajectories.
            ValueError: if every member has diverged, or the trajectories are damaged.
            OSError: if the run folder cannot be written to.
        """
        self.close()
        measured = measure(self.folder, console=self._console)
        return measured if controls else perturbed(measured)

    def minimum(self) -> Minimum:
        """Read the minimum, in the structure of the problem's parameters if the problem is known.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged, or belongs to another problem.
        """
        return read_minimum(self.folder, like=None if self._own is None else self._own.structure)

    def store(self) -> TrajectoryStore:
        """Open the trajectories to read them.

        Raises:
            FileNotFoundError: if there are none.
        """
        return TrajectoryStore.open(self.folder.trajectories)

    def _described(self) -> dict[str, Any]:
        """Return the entries that describe a recorded training, which needs no loss."""
        if self.problem is None:
            return {"describe": {}, "version": ""}
        return {"describe": dict(self.problem.describe), "version": self.problem.version}

    def _require_problem(self) -> OwnProblem:
        if self._own is None:
            raise ValueError("this needs the problem that the run is from: Run(path, problem)")
        return self._own


def _check_known(kind: Any, settings: Mapping[str, Any]) -> None:
    known = [each.name for each in fields(kind)]
    if unknown := sorted(settings.keys() - set(known)):
        raise TypeError(f"unknown setting {', '.join(unknown)}; known: {', '.join(known)}")


def _configured[C](kind: type[C], settings: Mapping[str, Any]) -> C:
    """Return the configuration of a stage, with lists as tuples."""
    _check_known(kind, settings)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


def _shapes(params: PyTree) -> dict[str, tuple[int, ...]]:
    return {"/".join(key_names(path)): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(range(whole_number("seeds", seeds)))
    except TypeError:
        return tuple(whole_number("seeds", seed) for seed in _several("seeds", seeds))


def _several(name: str, values: Any) -> list[Any]:
    """Return the items of a sequence; a string is rejected."""
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "shape", None) == ():
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r:.100}")
    return list(values)

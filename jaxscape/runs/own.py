"""The user's own problem, in the form that the stages take, and its entry in a run folder's record."""

import ast
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import optax

from jaxscape.problem import Problem, check_loss
from jaxscape.runs.checks import check_compare, check_retrain, check_train
from jaxscape.runs.compare import Comparison
from jaxscape.runs.config import CompareSettings, MinimumSettings, RetrainSettings, TrainSettings
from jaxscape.runs.keys import init_key
from jaxscape.runs.retrain import Retraining
from jaxscape.runs.train import Training, steps_per_epoch
from jaxscape.trajectories.arrays import outline

PyTree = Any
type Optimizer = optax.GradientTransformation


@dataclass(frozen=True)
class OwnProblem:
    """A problem, the structure of its parameters, and its origin."""

    problem: Problem
    like: tuple[PyTree, PyTree] | None = None  # parameters and model state, or their shapes; from `init` by default
    source: Mapping[str, Any] | None = None  # the function that made it, and its arguments

    @cached_property
    def structure(self) -> tuple[PyTree, PyTree]:
        """Parameters and model state of one network, or their shapes.

        Raises:
            ValueError: if they are unknown.
        """
        if self.like is not None:
            return self.like
        if self.problem.init is None:
            raise ValueError("the parameters are not known: the problem needs init, or the run a minimum")
        structure = jax.eval_shape(self.problem.init, init_key(0))
        if not isinstance(structure, tuple) or len(structure) != 2:
            raise TypeError(f"init must be init(key) -> (params, model_state), got {structure!r:.100}")
        return structure

    def record(self) -> dict[str, Any]:
        """Return the problem's entry in the record of a run folder."""
        entry = {"describe": dict(self.problem.describe), "version": self.problem.version}
        return entry | {"parameters": outline(self.structure[0])} | dict(self.source or {})

    def training(self, settings: TrainSettings, optimizer: Optimizer | None = None) -> Training:
        """Return the training of its minimum."""
        minimum = MinimumSettings(settings.epochs, settings.batch_size, settings.seed)
        check_train(minimum)
        self._check(settings.batch_size)
        return Training(minimum, self.problem, self._resolve(optimizer), self.record())

    def retraining(self, settings: RetrainSettings, optimizer: Optimizer | None = None) -> Retraining:
        """Return the retraining of copies of its minimum."""
        check_retrain(settings)
        self._check(settings.batch_size)
        return Retraining(settings, self.problem, self._resolve(optimizer), self.record(), self.structure)

    def comparison(self, settings: CompareSettings, optimizers: Mapping[str, Optimizer] | None = None) -> Comparison:
        """Return the training of networks side by side, with the optimisers that the settings name."""
        check_compare(settings)
        known = self.problem.optimizer if optimizers is None else optimizers
        if not isinstance(known, Mapping) or not set(settings.optimizers) <= known.keys():
            names = ", ".join(known) if isinstance(known, Mapping) else "none"
            raise ValueError(f"optimizers must be among the named ones, {names}; got {', '.join(settings.optimizers)}")
        self._check(settings.batch_size)
        chosen = {name: known[name] for name in settings.optimizers}
        return Comparison(settings, self.problem, chosen, self.record())

    def _check(self, batch_size: int) -> None:
        steps_per_epoch(self.problem, batch_size)
        check_loss(self.problem, *self.structure, batch_size=batch_size)

    def _resolve(self, given: Optimizer | None) -> Optimizer:
        optimizer = self.problem.optimizer if given is None else given
        if isinstance(optimizer, Mapping):
            raise ValueError(f"optimizer must be a single one, got several by name: {', '.join(optimizer)}")
        if optimizer is None:
            raise ValueError("optimizer must be given, by the call or by the problem, got None")
        return optimizer


def load_problem(name: str, arguments: Sequence[str] = ()) -> OwnProblem:
    """Call the function that makes a problem.

    Args:
        name: "package.module:function"; the working directory is searched first.
        arguments: arguments of the function, each key=value; a value that is not a Python literal is a string.

    Raises:
        ValueError: for an invalid name, or if there is no such function.
        TypeError: if the function does not return a `Problem`.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"problem must be package.module:function, got {name!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that this module imports is missing
        raise ValueError(
            f"problem {name!r}: there is no module {error.name}, neither in {Path.cwd()} nor installed"
        ) from None
    except AttributeError:
        raise ValueError(f"problem {name!r}: the module {module} has no {function}") from None
    values = dict(map(_argument, arguments))
    problem = make(**values)
    if not isinstance(problem, Problem):
        raise TypeError(f"problem {name!r} must return a jaxscape.Problem, got {problem!r:.100}")
    return OwnProblem(problem, source={"source": name, "arguments": values})


def _argument(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not (name.isidentifier() and equals):
        raise ValueError(f"problem-args must be key=value, got {word!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value

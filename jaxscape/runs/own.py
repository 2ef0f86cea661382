"""A problem of the user's own as the stages take it, and what a run folder's record says of it."""

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
    """A problem, the structure of its parameters, and where it came from."""

    problem: Problem
    like: tuple[PyTree, PyTree] | None = None  # parameters and model state, or their shapes; from `init` by default
    source: Mapping[str, Any] | None = None  # the function that made it, and its arguments

    @cached_property
    def structure(self) -> tuple[PyTree, PyTree]:
        """Parameters and model state of one network, or their shapes.

        Raises:
            ValueError: where nothing tells them.
        """
        if self.like is not None:
            return self.like
        if self.problem.init is None:
            raise ValueError("the parameters are not known: give the problem init, or the run a minimum first")
        found = jax.eval_shape(self.problem.init, init_key(0))
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"init must be init(key) -> (params, model_state), got {found!r:.100}")
        return found

    def record(self) -> dict[str, Any]:
        """Return what the record of a run folder says of the problem."""
        described = {"describe": dict(self.problem.describe), "version": self.problem.version}
        return described | {"parameters": outline(self.structure[0])} | dict(self.source or {})

    def training(self, settings: TrainSettings, optimizer: Optimizer | None = None) -> Training:
        """Return how its minimum is found."""
        asked = MinimumSettings(settings.epochs, settings.batch_size, settings.seed)
        check_train(asked)
        self._check(settings.batch_size)
        return Training(asked, self.problem, self._one(optimizer), self.record())

    def retraining(self, settings: RetrainSettings, optimizer: Optimizer | None = None) -> Retraining:
        """Return how copies of its minimum are retrained."""
        check_retrain(settings)
        self._check(settings.batch_size)
        return Retraining(settings, self.problem, self._one(optimizer), self.record(), self.structure)

    def comparison(self, settings: CompareSettings, optimizers: Mapping[str, Optimizer] | None = None) -> Comparison:
        """Return how networks are trained side by side; the settings name some of the optimisers."""
        check_compare(settings)
        known = self.problem.optimizer if optimizers is None else optimizers
        if not isinstance(known, Mapping) or not set(settings.optimizers) <= known.keys():
            found = ", ".join(known) if isinstance(known, Mapping) else "none"
            raise ValueError(f"optimizers must be some of those by name, {found}; got {', '.join(settings.optimizers)}")
        self._check(settings.batch_size)
        chosen = {name: known[name] for name in settings.optimizers}
        return Comparison(settings, self.problem, chosen, self.record())

    def _check(self, batch_size: int) -> None:
        steps_per_epoch(self.problem, batch_size)
        check_loss(self.problem, *self.structure, batch_size=batch_size)

    def _one(self, given: Optimizer | None) -> Optimizer:
        found = self.problem.optimizer if given is None else given
        if isinstance(found, Mapping):
            raise ValueError(f"optimizer must be one, got several by name: {', '.join(found)}")
        if found is None:
            raise ValueError("optimizer must be given, by the call or by the problem, got None")
        return found


def load_problem(name: str, arguments: Sequence[str] = ()) -> OwnProblem:
    """Call the function that makes a problem.

    Args:
        name: "package.module:function"; the working directory is searched first.
        arguments: of the function, each key=value, the value as Python writes it or else a text.

    Raises:
        ValueError: for another form, or where there is no such function.
        TypeError: where it gives no `Problem`.
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
            raise  # of something that the module imports
        raise ValueError(f"problem {name!r}: there is no module {error.name} in {Path.cwd()}, nor installed") from None
    except AttributeError:
        raise ValueError(f"problem {name!r}: the module {module} has no {function}") from None
    values = dict(map(_argument, arguments))
    found = make(**values)
    if not isinstance(found, Problem):
        raise TypeError(f"problem {name!r} must give a jaxscape.Problem, got {found!r:.100}")
    return OwnProblem(found, source={"source": name, "arguments": values})


def _argument(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not (name.isidentifier() and equals):
        raise ValueError(f"problem-args must be key=value, got {word!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value

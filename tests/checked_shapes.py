"""Checks of the types and shapes in signatures: while tests run, every function of the numerical rooms is wrapped.

Importing this module installs an import hook, so it comes before the package. A wrapped function runs first and raises
its own errors; then its arguments and its result must be what the signature says, as jaxtyping and beartype see it. A
dimension has one size throughout the parameters and the result of a call, and throughout the fields of a record. Fields
are checked wherever a record is an argument or a result.
"""

import ast
import functools
import importlib.abc
import importlib.machinery
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import is_dataclass
from io import StringIO
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from beartype import BeartypeConf, FrozenDict
from beartype.door import is_bearable
from jaxtyping import jaxtyped, print_bindings

# The rooms whose signatures say shapes, and a module of the tests with a function that breaks its word.
CHECKED = (
    *("jaxscape.curvature", "jaxscape.embedding", "jaxscape.jumps", "jaxscape.landscape", "jaxscape.topology"),
    *("jaxscape.trajectories", "wrong_shapes"),
)

# NumPy's numbers are as good as Python's, and a whole number is a float (PEP 484).
NUMBERS = {bool: bool | np.bool, int: int | np.integer, float: float | int | np.floating | np.integer}
CONFIGURATION = BeartypeConf(hint_overrides=FrozenDict(NUMBERS))


class ShapeError(AssertionError):
    """A value is not what the signature says; no code of the package catches this."""


def checked(function):
    """Wrap a function so that its arguments and results are checked after each call."""
    make = _checked_generator if inspect.isgeneratorfunction(function) else _checked_function
    return functools.wraps(function)(make(function))


def _checked_function(function):
    def call(*args, **kwargs):
        __tracebackhide__ = True
        result = function(*args, **kwargs)
        hints = _hints(function)
        _check(function, args, kwargs, ("result", result, hints.get("return", Any)))
        return result

    return call


def _checked_generator(function):
    def generate(*args, **kwargs):
        __tracebackhide__ = True
        generator = function(*args, **kwargs)
        try:
            value = next(generator)
            while True:
                (hint, *_) = get_args(_hints(function).get("return", Any)) or (Any,)
                _check(function, args, kwargs, ("yielded value", value, hint))
                try:
                    sent = yield value
                except BaseException as error:
                    value = generator.throw(error)
                else:
                    value = generator.send(sent)
        except StopIteration as end:
            return end.value

    return generate


def _check(function, args, kwargs, result):
    hints, code = _hints(function), function.__code__
    arguments = [*zip(code.co_varnames[: code.co_argcount], args, strict=False), *kwargs.items()]
    values = [(name, value, hints.get(name, Any)) for name, value in arguments]
    _check_together(f"{function.__module__}.{function.__qualname__}", [*values, result])


def _check_together(owner, values):
    """Check values whose dimensions have the same sizes: those of a call, or the fields of a record."""
    with jaxtyped("context"):
        for name, value, hint in values:
            for item, item_hint in _items(value, hint):
                if item_hint is not Any and not _fits(item, item_hint):
                    raise ShapeError(f"{owner}: {name} is {_described(item)}, not {_said(item_hint)}{_sizes()}")
    for name, value, _ in values:
        for record in value if type(value) in (tuple, list) else [value]:
            if is_record(record):
                hints = _hints(type(record))
                fields = [(field, getattr(record, field), hint) for field, hint in hints.items()]
                _check_together(f"{owner}: {name}: {type(record).__name__}", fields)


def _fits(value, hint):
    # jaxtyping has no name for long doubles, which functions of NumPy arrays take too.
    is_long = isinstance(value, np.ndarray) and value.dtype == np.longdouble
    return is_bearable(value.astype(np.float64) if is_long else value, hint, conf=CONFIGURATION)


def is_record(value):
    """Return whether a value is a NamedTuple or a dataclass of a checked module."""
    kind = type(value)
    return _is_checked(kind.__module__) and (hasattr(kind, "_fields") or is_dataclass(kind))


def _items(value, hint):
    """Yield everything in lists and dictionaries, of which beartype checks one item drawn at random, and the value."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is tuple and inside[1:] == (...,) and isinstance(value, tuple):
        origin, inside = Sequence, inside[:1]
    if origin in (list, Sequence, Iterable) and isinstance(value, list | tuple):
        for item in value:
            yield from _items(item, inside[0])
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        for item in value.values():
            yield from _items(item, inside[1])
    yield value, hint


def _hints(owner):
    """Return the annotations of a function or a record, evaluated once; the calls of a nested function share them."""
    key = owner if isinstance(owner, type) else owner.__code__
    if key not in _known:
        names = _names_for_typing(owner.__module__) | {each.__name__: each for each in owner.__type_params__}
        _known[key] = get_type_hints(owner, localns=names)
    return _known[key]


_known: dict[Any, dict[str, Any]] = {}


@functools.cache
def _names_for_typing(module):
    """Return what a module imports for type checkers alone."""
    names, own = {}, sys.modules[module]
    for node in ast.parse(inspect.getsource(own)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), own.__file__, "exec"), vars(own).copy(), names)
    return names


def _described(value):
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} {value.dtype} {value.shape}"
    return f"{type(value).__name__} {value!r:.100}"


def _said(hint):
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _sizes():
    """Return in words the sizes of the dimensions that are bound already."""
    with redirect_stdout(StringIO()) as text:
        print_bindings()
    sizes = ", ".join(line for line in text.getvalue().splitlines() if "=" in line)
    return f" where {sizes}" if sizes else ""


def _is_checked(module):
    return any(module == room or module.startswith(f"{room}.") for room in CHECKED)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of the checked rooms, and wraps their functions."""

    def find_spec(self, fullname, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if _is_checked(fullname) else None
        if spec is not None:
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)  # not from bytecode, nor for others to use

    def source_to_code(self, data, path, *, _optimize=-1):
        return super().source_to_code(_Wrapped().visit(ast.parse(data, path)), path, _optimize=_optimize)

    def exec_module(self, module):
        vars(module)["_checked"] = checked
        super().exec_module(module)


class _Wrapped(ast.NodeTransformer):
    """Decorates every function, nested ones and methods too, below its own decorators."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.decorator_list.append(ast.copy_location(ast.Name("_checked", ast.Load()), node))
        return node


if any(_is_checked(module) for module in sys.modules):
    raise ImportError("checked_shapes must be imported before the package")
sys.meta_path.insert(0, _Finder())

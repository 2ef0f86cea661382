"""Checks of the types and shapes in signatures: while tests run, every function of the numerical rooms checks itself.

Importing this module installs an import hook, so it comes before the package. The hook adds to each function of these
rooms a check of its arguments and its result, before it returns: so a function raises its own errors first, and it is
not wrapped, which tests of warnings, signatures and pickles would see. The values must be what the signature says, as
jaxtyping and beartype see it. A dimension has one size throughout the parameters and the result of a call, and
throughout the fields of a record. Fields are checked wherever a record is an argument or a result.
"""

import ast
import functools
import importlib.abc
import importlib.machinery
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import is_dataclass
from io import StringIO
from typing import Any, Self, TypeGuard, get_args, get_origin, get_type_hints

import numpy as np
from beartype import BeartypeConf, FrozenDict
from beartype.door import is_bearable
from jaxtyping import jaxtyped, print_bindings

# The rooms whose signatures say shapes, and a module of the tests with a function that breaks its word.
CHECKED = (
    *("jaxscape.curvature", "jaxscape.embedding", "jaxscape.generalization", "jaxscape.jumps", "jaxscape.landscape"),
    *("jaxscape.topology", "jaxscape.trajectories", "wrong_shapes"),
)

# NumPy's numbers are as good as Python's, and a whole number is a float (PEP 484).
NUMBERS = {bool: bool | np.bool, int: int | np.integer, float: float | int | np.floating | np.integer}
CONFIGURATION = BeartypeConf(hint_overrides=FrozenDict(NUMBERS))


class ShapeError(BaseException):
    """A value is not what the signature says; no Exception, which code of the package would catch."""


def checked(number, arguments, result):
    """Return the result of a function, or a value that it yields, after a check of it and of the arguments."""
    form = (number, _form(arguments), _form(result))
    if form in _passed:
        return result
    function = _functions[number]
    hints = _hints(function)
    hint = hints.get("return", Any)
    if inspect.isgeneratorfunction(function):
        (hint, *_) = get_args(hint) or (Any,)
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values = [(name, value, hints.get(name, Any)) for name, value in zip(names, arguments, strict=True)]
    _check_together(f"{function.__module__}.{function.__qualname__}", [*values, ("result", result, hint)])
    if len(_passed) >= MOST_FORMS:
        _passed.clear()
    _passed.add(form)
    return result


_functions: dict[int, Callable[..., Any]] = {}  # by number; of a nested function the newest
# A call is checked once for each form of its values: types, dtypes and shapes are all that a signature speaks of.
_passed: set[Any] = set()
MOST_FORMS = 10_000


def _form(value):
    """Return all that a signature can tell apart in a value, hashable."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value if kind is not int else (int, value)  # 1 is True for a dictionary
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return kind, value.dtype, value.shape
    if isinstance(value, tuple | list):
        return kind, *map(_form, value)
    if isinstance(value, Mapping):
        return kind, *((name, _form(item)) for name, item in value.items())
    if is_record(value):
        return kind, *map(_form, vars(value).values())
    return kind


def numbered(number):
    """Return a decorator that remembers a function and leaves it as it is."""

    def remember(function):
        _functions[number] = function
        return function

    return remember


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
    with np.errstate(over="ignore"):
        return is_bearable(value.astype(np.float64) if is_long else value, hint, conf=CONFIGURATION)


def is_record(value):
    """Return whether a value is a NamedTuple or a dataclass of a checked module."""
    return _is_record_type(type(value))


@functools.cache
def _is_record_type(kind):  # asked for millions of values
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
        hints = get_type_hints(owner, localns=names)
        _known[key] = {name: _at_run_time(hint) for name, hint in hints.items()}
    return _known[key]


def _at_run_time(hint):
    """Return what of an annotation can be checked where a function is called."""
    return Any if hint is Self else bool if get_origin(hint) is TypeGuard else hint


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
    """Finds the modules of the checked rooms, and has them check themselves."""

    def find_spec(self, fullname, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if _is_checked(fullname) else None
        if spec is not None:
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)  # not from bytecode, nor for others to use

    def source_to_code(self, data, path, *, _optimize=-1):
        return super().source_to_code(_SelfChecking().visit(ast.parse(data, path)), path, _optimize=_optimize)

    def exec_module(self, module):
        vars(module).update(_check_shapes=checked, _number_function=numbered)
        super().exec_module(module)


class _SelfChecking(ast.NodeTransformer):
    """Has every function, nested ones and methods too, check what it returns or yields."""

    def visit_FunctionDef(self, node):
        outer, self._function = getattr(self, "_function", None), node
        node.number = next(_numbers)
        node.is_generator = any(isinstance(each, ast.Yield | ast.YieldFrom) for each in _own_nodes(node))
        node.body = [self.visit(statement) for statement in node.body]
        self._function = outer
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        has_docstring = ast.get_docstring(node, clean=False) is not None
        node.body.insert(has_docstring, _parsed(f"_arguments = ({''.join(f'{name}, ' for name in names)})", node))
        if not node.is_generator:
            node.body.append(_parsed(f"return _check_shapes({node.number}, _arguments, None)", node.body[-1]))
        node.decorator_list.append(_parsed(f"_number_function({node.number})", node).value)
        return node

    def visit_Return(self, node):
        return node if self._function.is_generator else self.visit_Yield(node)

    def visit_Yield(self, node):
        self.generic_visit(node)
        check = _parsed(f"_check_shapes({self._function.number}, _arguments, None)", node).value
        check.args[2] = node.value or check.args[2]
        node.value = check
        return node

    def visit_YieldFrom(self, node):
        self.generic_visit(node)
        values = _parsed(f"(_check_shapes({self._function.number}, _arguments, each) for each in None)", node).value
        values.generators[0].iter = node.value
        node.value = values
        return node


_numbers = itertools.count()


def _own_nodes(function):
    """Yield the nodes of a function's body, without those of nested functions."""
    pending = list(function.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def _parsed(text, like):
    """Return a statement in the place of another node."""
    (statement,) = ast.parse(text).body
    for node in ast.walk(statement):
        ast.copy_location(node, like)
    return statement


if any(_is_checked(module) for module in sys.modules):
    raise ImportError("checked_shapes must be imported before the package")
sys.meta_path.insert(0, _Finder())

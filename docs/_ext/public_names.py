"""The API reference, made from the package: which names there are, their docstrings and the fields of records.

A page of `docs/api` marks the places for them:

    <!-- names of jaxscape: ROOM ... -->            the public names of rooms
    <!-- names of MODULE MODULE=NAME,NAME ... -->   those of modules, or some of them
    <!-- help of COMMAND ... -->                    what `jaxscape COMMAND --help` prints
"""

import contextlib
import dataclasses
import inspect
import io
import re
import typing
from importlib import import_module

import jaxscape

PLACE = re.compile(r"<!-- (?P<what>names|help) of (?P<names>[^>]*?) -->")
CODE = re.compile(r"(`+[^`]*`+)")
FIELD = re.compile(r"    (?P<name>[a-z]\w*): (?P<type>.+?)(?:\s{2}# (?P<comment>.*))?$")


def setup(app):
    """Connect to Sphinx."""
    app.connect("source-read", fill_places)
    app.connect("autodoc-process-docstring", to_restructured_text, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def fill_places(app, document, source):
    """Put names or help texts into the places that a page of the reference leaves for them."""
    if document.startswith("api/"):
        source[0] = PLACE.sub(lambda place: {"names": names, "help": helps}[place["what"]](place["names"]), source[0])


def names(where):
    """Return the text of a page for public names: a section per module, with its docstring and its names."""
    package, _, rooms = where.partition(": ")
    if not rooms:
        modules = [place.partition("=") for place in where.split()]
        return "\n".join(
            section(module, chosen.split(",") if chosen else public(import_module(module)), module)
            for module, _, chosen in modules
        )
    contents = {f"jaxscape.{module}": known for module, known in jaxscape._CONTENTS.items()}
    chosen = {module: known for module, known in contents.items() if module.split(".")[1] in rooms.split()}
    return "\n".join(section(module, known, package) for module, known in chosen.items())


def public(module):
    """Return the public names that a module defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])


def section(module, known, package):
    """Return the section of a module; its names are documented as those of package, which they are imported from."""
    lines = [f"## {module}", "", inspect.getdoc(import_module(module)) or "", "", "```{eval-rst}"]
    for name in known:
        value = getattr(import_module(package), name)
        kind = "autoclass" if inspect.isclass(value) else "autofunction" if callable(value) else "autodata"
        lines += [f".. {kind}:: {package}.{name}", *(["   :members:"] if kind == "autoclass" else []), ""]
    for record in returned(getattr(import_module(package), name) for name in known):
        lines += [f".. autoclass:: {record.__module__}.{record.__name__}()", "   :members:", ""]
    return "\n".join([*lines, "```", ""])


def returned(functions):
    """Return the records that functions give back, and the records in these, where they are not public names."""
    found = []

    def visit(annotation):
        for argument in typing.get_args(annotation):
            visit(argument)
        if not inspect.isclass(annotation) or not annotation.__module__.startswith("jaxscape."):
            return
        if annotation.__name__ not in jaxscape.__all__ and annotation not in found:
            found.append(annotation)
            for field in vars(annotation).get("__annotations__", {}).values():
                visit(field)

    for function in functions:
        if inspect.isfunction(function):
            visit(inspect.signature(function).return_annotation)
    return found


def helps(commands):
    """Return a section per command with what its `--help` prints."""
    from jaxscape.cli.main import main

    sections = []
    for command in commands.split():
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([command, "--help"])
        sections += [f"## jaxscape {command}", "", "```text", text.getvalue().strip(), "```", ""]
    return "\n".join(sections)


def to_restructured_text(app, what, name, value, options, lines):
    """Turn a docstring, plain text with `code`, into reStructuredText; give a record the list of its fields."""
    text, example = "", False
    for line in separate_lists(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        text += ("\0" + line if example else line) + "\n"  # an example stays as it is
    if what == "class" and (rows := fields(value)) and "Args:" not in text and "Attributes:" not in text:
        arrays = shapes(value)
        types = {field: f" (`{arrays[field]}`)" if field in arrays else "" for field in rows}
        text += "\nAttributes:\n" + "".join(f"    {field}{types[field]}: {rows[field]}\n" for field in rows)
    parts = CODE.split(text)
    parts[::2] = [escape(part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def separate_lists(lines):
    """Yield lines with a blank one before and after each bullet list, which reStructuredText asks for."""
    bullet, before = None, ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("- "):
            if bullet is None and before.strip():
                yield ""
            bullet = indent
        elif line.strip() and bullet is not None and indent <= bullet:
            if before.strip():
                yield ""
            bullet = None
        yield line
        before = line


def escape(text):
    """Return text without what reStructuredText would take for markup; lines marked as examples lose the mark alone."""
    return "\n".join(
        line[1:] if line.startswith("\0") else re.sub(r"([*|])|(?<=\w)(_)(?=\W|$)", r"\\\g<0>", line)
        for line in text.split("\n")
    )


def fields(record):
    """Return name and meaning of the fields of a NamedTuple or dataclass, from the comments beside them.

    Napoleon adds their types.
    """
    if not (hasattr(record, "_fields") or dataclasses.is_dataclass(record)):
        return {}
    found = {}
    for line in inspect.getsource(record).split("\n"):
        if match := FIELD.match(line):
            found[match["name"]] = match["comment"] or ""
        if line.lstrip().startswith(("def ", "@")) and found:
            break
    return found


def shapes(record):
    """Return the dtypes and shapes of the arrays among the fields of a record, as code: their `*` is no markup."""
    try:
        hints = typing.get_type_hints(record)
    except NameError:  # a name that only type checkers import
        hints = record.__annotations__
    texts = {name: hint.__name__ if inspect.isclass(hint) else str(hint) for name, hint in hints.items()}
    return {
        name: re.sub(r"\b[a-z]+\.(?=\w)", "", text)
        for name, text in texts.items()
        if "[ndarray" in text or "[Array" in text
    }


def skip_fields(app, what, name, value, skip, options):
    """Leave out the fields of NamedTuples, which are in the list of fields, and what tuples have."""
    return True if type(value).__name__ == "_tuplegetter" or name in {"count", "index"} else None

"""The table of numerical errors, made from the results of the benchmarks."""

import json
import statistics
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
PLACE = "<!-- table of numerical errors -->"
HEAD = ["| operation | type | error | reference | results |", "|-|-|-|-|-|"]


def setup(app):
    """Connect to Sphinx."""
    app.connect("source-read", lambda app, document, source: fill(source))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def fill(source):
    """Put the table into a page that has a place for it."""
    if PLACE in source[0]:
        rows = [*distances(), *single_precision(), *updates(), *geometry()]
        source[0] = source[0].replace(PLACE, "\n".join([*HEAD, *("| " + " | ".join(row) + " |" for row in rows)]))


def distances():
    """Yield the rows of cosine distances: ours, and scikit-learn's."""
    for record in read("distances"):
        if record["n"] != 1020 or record["arm"] not in ("ours", "scikit-learn"):
            continue
        ours = record["arm"] == "ours"
        kind = "float64, increments" if ours else "float32 matrix (scikit-learn)"
        for pairs, error in (("successive epochs", "error_within"), ("two copies", "error_across")):
            name = f"1 - cos, {pairs}, {record['parameters']:,} parameters"
            yield name, kind, f"{record[error]:.0e}", "extended precision", file("distances")


def single_precision():
    """Yield the rows of float32 losses and curvature."""
    for record in read("float32"):
        where = f"{record['case']}, {record['examples']:,} examples"
        yield f"{record['operation']}, {where}", "float32", f"{record['largest']:.0e}", "float64", file("float32")


def updates():
    """Yield the row of one optimiser step of a network with batch norm."""
    for record in read("batch_norm"):
        errors = record["update_error"]["fast"]
        error = f"{statistics.median(errors):.0e} (median), {max(errors):.0e} (largest of {len(errors)})"
        size = f"{record['image']}x{record['image']}, batch {record['batch_size']}"
        name = f"update of a training step, {record['network']}, {size}"
        yield name, "float32", error, "float64", file("batch_norm")


def geometry():
    """Yield the rows of statistics of retraining with bfloat16 activations, of the same seeds."""
    record = read("precision")
    values = record["values"]
    for name in ("return", "petal", "path"):
        pairs = zip(values["bfloat16"][name], values["float32"][name], strict=True)
        error = max(abs(narrow - wide) for narrow, wide in pairs)
        size = statistics.mean(values["float32"][name])
        words = f"{error:.0e} (largest of {len(record['seeds'])} seeds; the value is {size:.2g})"
        yield f"{name} after retraining", "bfloat16 activations", words, "float32", file("precision")


def read(name):
    """Return the results of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def file(name):
    """Return the file of results as code."""
    return f"`{name}.json`"

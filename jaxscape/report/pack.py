"""Encoding of records for a page: labels as JSON, and the numbers of all arrays in one block of base64.

Numbers that are shown as text are float32 without the last byte: 16 significant bits, an error of at most 1 in 65,000.
Positions, which are only drawn, are rounded to a grid. Both are then integers, and neighbours in a trajectory are
similar: the block holds their differences, grouped by byte significance and deflated. Integer arrays and texts are
stored as they are, in the JSON.
"""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

LINES = 2**13  # grid lines across the range of an array: a twentieth of a pixel each


class Packed(NamedTuple):
    """Two texts for a page: `text` is JSON that is safe inside <script>, `numbers` is base64."""

    text: str
    numbers: str


class Positions(NamedTuple):
    """Numbers that are drawn and not shown as text."""

    values: np.ndarray  # (n,)


def pack(value: Any) -> Packed:
    """Pack mappings, records, sequences, texts, numbers and arrays of numbers.

    An array of floats becomes {"array": [first, count]}, the position of its integers in the block, and `Positions`
    become {"grid": [first, count, low, step]}, with -1 for NaN. Mappings become lists of pairs, so that no key can be
    mistaken for one of these.
    """
    blocks: list[np.ndarray] = []
    plain = _plain(value, blocks)
    integers = np.concatenate([np.zeros(0, np.int64), *blocks])
    steps = np.diff(integers, prepend=0)
    folded = ((steps << 1) ^ (steps >> 63)).astype("<u4")  # zigzag: small for small steps of either sign
    planes = folded.view(np.uint8).reshape(-1, 4).T
    return Packed(script_json(plain), base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode())


def script_json(value: Any) -> str:
    """Return JSON that is safe inside <script>, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return well_formed(text)


def well_formed(text: str) -> str:
    """Return the text without unpaired surrogates, which names of files may hold, but UTF-8 cannot encode."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _plain(value: Any, blocks: list[np.ndarray]) -> Any:
    if isinstance(value, Positions):
        first = sum(map(len, blocks))
        integers, low, step = _on_grid(np.asarray(value.values, float))
        blocks.append(integers)
        return {"grid": [first, len(integers), low, step]}
    if isinstance(value, np.ndarray) and value.dtype.kind != "f":
        return value.tolist()
    if isinstance(value, np.ndarray):
        first = sum(map(len, blocks))
        blocks.append(_bits(value.astype(np.float32).ravel()))
        return {"array": [first, value.size]}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(entry, blocks) for name, entry in value._asdict().items()}
    if isinstance(value, Mapping):
        return [[_plain(key, blocks), _plain(entry, blocks)] for key, entry in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(entry, blocks) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item(), blocks)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Return the first three bytes of float32 numbers, rounded to nearest, as integers; equal floats stay equal."""
    bits = numbers.view(np.uint32).astype(np.int64)
    return np.where(np.isfinite(numbers), bits + 0x80, bits) >> 8


def _on_grid(positions: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the grid line of each position, the position of the first line, and the spacing of the lines."""
    is_known = np.isfinite(positions)
    low, high = _range(positions[is_known])
    step = (high - low) / LINES or 1.0
    lines = np.round((np.where(is_known, positions, low) - low) / step).astype(np.int64)
    return np.where(is_known, lines, -1), low, step


def _range(known: np.ndarray) -> tuple[float, float]:
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)

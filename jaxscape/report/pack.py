"""Records as text for a page: labels as JSON, and all numbers of all arrays in one block of base64.

Numbers are float32 whose last byte is dropped: 16 significant bits, an error of at most 1 in 65,000. Integers stay as they are, in the JSON. Their bytes are sorted by significance, so that those that are alike stand together, and deflated.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Packed(NamedTuple):
    """Two texts for a page: `text` is JSON that is safe inside <script>, `numbers` is base64."""

    text: str
    numbers: str


def pack(value: Any) -> Packed:
    """Pack mappings, records, sequences, texts, numbers and arrays of numbers.

    An array of floats becomes {"array": [first, count]}, which says where its numbers stand in the block.
    Mappings become lists of pairs, so that no key can be mistaken for something else.
    """
    blocks: list[np.ndarray] = []
    plain = _plain(value, blocks)
    numbers = np.concatenate([np.zeros(0, np.float32), *blocks])
    planes = _rounded(numbers).view(np.uint8).reshape(-1, 4).T
    return Packed(script_json(plain), base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode())


def on_grid(positions: np.ndarray) -> np.ndarray:
    """Round positions to a grid of 8,192 to 16,384 lines across their range: a twentieth of a pixel, and fewer bytes.

    The distance of the lines is a power of two, so that rounded numbers end in zeros.
    """
    finite = positions[np.isfinite(positions)]
    if not len(finite) or not np.ptp(finite) > 0:
        return positions
    grid = 2.0 ** np.floor(np.log2(np.ptp(finite) / 2**13))
    return np.asarray(np.round(positions / grid) * grid)


def script_json(value: Any) -> str:
    """Return JSON that may stand inside <script>, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return "".join(letter if not "\ud800" <= letter <= "\udfff" else "\\ufffd" for letter in text)


def _plain(value: Any, blocks: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind != "f":
        return value.tolist()
    if isinstance(value, np.ndarray):
        first = sum(map(len, blocks))
        blocks.append(value.astype(np.float32).ravel())
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


def _rounded(numbers: np.ndarray) -> np.ndarray:
    """To 16 significant bits; NaN and infinity stay what they are."""
    bits = numbers.view(np.uint32)
    rounded = (bits + np.uint32(0x80)) & np.uint32(0xFFFFFF00)
    return np.where(np.isfinite(numbers), rounded, bits).astype("<u4")

"""Round trip of numbers: packed into a page by Python, unpacked by JavaScript."""

import base64
import json
import shutil
import subprocess
import zlib

import numpy as np
import pytest

from jaxscape.report.pack import LINES, Positions, pack, script_json
from jaxscape.report.page import ROOM

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

READ = """
import { unpack } from "%s";
const [text, numbers] = JSON.parse(await new Response(process.stdin).text());
const plain = (value) => ArrayBuffer.isView(value) ? Array.from(value, String)
  : Array.isArray(value) ? value.map(plain) : value;
console.log(JSON.stringify(plain(await unpack(text, numbers))));
"""


def unpacked(value):
    """Return what the page's own script reads."""
    packed = pack(value)
    program = READ % (ROOM / "js" / "numbers.js").as_uri()
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program],
        input=json.dumps([packed.text, packed.numbers]),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def as_numbers(texts):
    return np.array([float(text.replace("Infinity", "inf")) for text in texts])


@needs_node
def test_numbers_are_recovered_to_sixteen_bits():
    random = np.random.default_rng(0)
    values = np.exp(20 * random.standard_normal(1000)) * random.choice([-1, 1], 1000)
    values = np.concatenate([values, [0.0, np.nan, np.inf, -np.inf, 1.0]])
    [actual] = unpacked([values])
    np.testing.assert_allclose(as_numbers(actual), values, rtol=2.0**-16)


@needs_node
def test_positions_are_recovered_to_half_a_grid_line():
    values = np.random.default_rng(1).standard_normal(500) - 40
    values[7] = np.nan
    actual, after = unpacked([Positions(values), np.array([2.5])])
    line = (np.nanmax(values) - np.nanmin(values)) / LINES
    np.testing.assert_allclose(as_numbers(actual), values, rtol=0, atol=0.501 * line)
    assert as_numbers(after) == 2.5


@needs_node
@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [3.0, 3.0], [0.0]])
def test_positions_without_a_range(values):
    [actual] = unpacked([Positions(np.array(values))])
    np.testing.assert_array_equal(as_numbers(actual), values)


@needs_node
def test_everything_else_is_recovered_unchanged():
    value = [1, -2.5, "</script>\u2028", True, None, np.arange(3), np.float32(0.5), float("nan")]
    assert unpacked(value) == [1, -2.5, "</script>\u2028", True, None, [0, 1, 2], 0.5, None]


def test_keys_of_mappings_cannot_be_mistaken_for_arrays():
    assert json.loads(pack({"array": [0, 1], "__proto__": 2}).text) == [["array", [0, 1]], ["__proto__", 2]]


def test_smooth_trajectories_take_few_bytes():
    time = np.linspace(0, 1, 1000)
    rough = pack([np.random.default_rng(0).random(1000)]).numbers
    assert len(pack([Positions(np.cos(time))]).numbers) < 0.4 * len(rough)


def test_no_text_can_leave_its_script():
    text = script_json(["</script>", "<!--", "\u2028\u2029", "&", "\ud800"])
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text)[:4] == ["</script>", "<!--", "\u2028\u2029", "&"]
    text.encode()


def test_the_block_is_a_zlib_stream():
    assert zlib.decompress(base64.b64decode(pack([np.zeros(2)]).numbers)) == bytes(8)

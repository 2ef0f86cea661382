"""The modules of the page under node: tests/report/js."""

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "js"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_modules_pass_their_own_tests():
    files = sorted(map(str, TESTS.glob("*.test.mjs")))
    done = subprocess.run(["node", "--test", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"# pass {sum(text.count('\ntest(') for text in map(Path.read_text, map(Path, files)))}" in done.stdout

"""The examples of docs/topology.md run as they stand, and hold what they assert."""

import re
from pathlib import Path

TOPOLOGY = Path(__file__).parents[2] / "docs" / "topology.md"


def test_the_examples_of_topology_run_one_after_the_other(users_broadcast):
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", TOPOLOGY.read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(TOPOLOGY), "exec"), names)
    above, below = names["fig"].axes
    assert (above.get_title(), below.get_xlabel()) == ("bowl", "rank")

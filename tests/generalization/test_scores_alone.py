"""The scores need NumPy and SciPy alone."""

import subprocess
import sys


def test_a_score_is_computed_without_jax():
    program = (
        "import sys, jaxscape; print(jaxscape.granulated_tau([1, 2], [1, 2], {'a': [0, 1]}).value,"
        " jaxscape.bootstrap(jaxscape.kendall_tau, [1, 2, 3], [1, 3, 2], draws=2).value,"
        " jaxscape.judge_claim([1.0, 2.0], threshold=0).verdict, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "0.3333333333333333", "unclear", "False"]

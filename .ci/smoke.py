"""The smoke test of an installed jaxscape: python smoke.py CHECKOUT, from any folder that is not the checkout.

It imports every public name, takes a tiny network from its minimum to pictures, and asks the program about the run.
Nothing but what jaxscape itself depends on is needed.
"""

import re
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

DIMENSIONS = 6


def check_package(checkout: Path) -> None:
    """Check that the installed files are complete, and are those that are imported."""
    import jaxscape

    package = Path(jaxscape.__file__).parent
    assert checkout not in package.parents, f"{package} is the checkout, not what was installed"
    files = {str(file) for file in distribution("jaxscape-phate").files or ()}
    missing = [name for name in ("jaxscape/py.typed", "jaxscape/report/template.html") if name not in files]
    assert not missing, f"the distribution lacks {missing}"
    for name in jaxscape.__all__:
        getattr(jaxscape, name)


def make_run(folder: Path) -> list[Path]:
    """Train, jump, retrain, embed and plot; return the pictures."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxscape import Problem, Run

    key = jax.random.key(0)
    inputs = jax.random.normal(key, (60, DIMENSIONS))
    labels = (inputs.sum(1) > 0).astype(int)

    def init(key):
        return {"kernel": 0.1 * jax.random.normal(key, (DIMENSIONS, 2)), "bias": jnp.zeros(2)}, {}

    def loss_fn(params, model_state, batch, key):
        logits = batch[0] @ params["kernel"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), (model_state, {})

    run = Run(folder, Problem(loss_fn, (inputs, labels), init=init, optimizer=optax.adam(1e-2)))
    run.train(epochs=2, batch_size=20)
    run.retrain(epochs=2, batch_size=20, step_sizes=(0.5, 1.0), seeds=(0, 1, 2))
    run.embed(method="mds")
    return list(run.plot())


def program(*arguments: str) -> str:
    """Run the installed program `jaxscape`; return what it prints."""
    command = [str(Path(sys.executable).with_name("jaxscape")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def main() -> None:
    """Run all of it in a temporary folder."""
    check_package(Path(sys.argv[1]).resolve())
    version = program("--version").strip()
    assert re.fullmatch(rf"jaxscape {re.escape(distribution('jaxscape-phate').version)}", version), version
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        pictures = make_run(run)
        assert {picture.suffix for picture in pictures} == {".png", ".svg", ".pdf"}, pictures
        assert all(picture.stat().st_size > 0 for picture in pictures), pictures
        assert program("embed", str(run), "--knn", "3").strip()
        described = program("info", str(run))
        embeddings = sorted(folder.name for folder in (run / "embeddings").iterdir())
        assert len(embeddings) == 2, embeddings
        assert all(name in described for name in embeddings), described
    print(f"{version}: the smoke test passed")


if __name__ == "__main__":
    main()

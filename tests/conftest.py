import os

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxscape.training import cpu

# An accidental broadcast between ranks is an error in the tests.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def compiled(pytestconfig, tmp_path_factory):
    """Programs are compiled fast, and once for all runs: in this process, in others and in later sessions."""
    settings = {
        "jax_compilation_cache_dir": str(pytestconfig.cache.mkdir("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setitem(os.environ, name.upper(), str(value))
            jax.config.update(name, value)
        # Programs that call oneDNN are compiled each time; tests/training holds that they compute the same.
        patch.setitem(os.environ, "JAXSCAPE_ONEDNN", "0")
        patch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        cpu.onednn_options.cache_clear()
        compilation_cache.reset_cache()  # jax looks once whether there is one
        yield
    cpu.onednn_options.cache_clear()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()

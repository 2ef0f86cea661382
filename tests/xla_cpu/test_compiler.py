"""Compilation for a CPU: a training step, threads, the option for oneDNN, and what XLA must not fuse into its calls."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.tasks.classification import flax_loss
from jaxscape.tasks.models import WideResNet
from jaxscape.training.train import TrainState, make_step
from jaxscape.xla_cpu import compiler

pytestmark = pytest.mark.slow

MEMBERS = 4


@pytest.fixture(autouse=True)
def fresh_options(monkeypatch):
    """Clear the cached compiler options before and after each test."""
    monkeypatch.delenv("JAXSCAPE_ONEDNN", raising=False)
    monkeypatch.setattr(compiler, "ONEDNN_FLOPS", 0)  # so that the small networks here use it too
    options = compiler.onednn_options
    options.cache_clear()
    yield
    options.cache_clear()


@pytest.fixture(scope="module")
def training():
    """Return a step of a small network, and the first states and batches of some members."""
    model = WideResNet(10, 1, 10)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def member(seed):
        init_key, images_key, key = jax.random.split(jax.random.key(seed), 3)
        variables = model.init(init_key, jnp.zeros((1, 16, 16, 3)))
        state = {"batch_stats": variables["batch_stats"]}
        images = jax.random.normal(images_key, (8, 16, 16, 3))
        params = variables["params"]
        return TrainState(params, state, optimizer.init(params), key), (images, jnp.arange(8) % 10), key

    members = list(map(jax.jit(member), range(MEMBERS)))
    step = make_step(flax_loss(model), optimizer)
    return step, compiler.jit(step), members


def numbers(tree):
    """Return the leaves once they are computed, with keys as their numbers."""
    as_data = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [np.asarray(leaf) for leaf in as_data]


def same_bytes(tree):
    return [leaf.tobytes() for leaf in numbers(tree)]


def test_a_training_step_equals_that_of_jax(training):
    step, ours, members = training
    expected, result = jax.jit(step)(*members[0]), ours(*members[0])
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    # The momentum after one step is the gradient.
    for our, their in zip(numbers(result), numbers(expected), strict=True):
        assert our.dtype == their.dtype
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-5 * np.abs(their).max(initial=1e-6))


def test_a_training_step_has_the_same_bytes_whenever_it_runs(training):
    _, ours, members = training
    assert same_bytes(ours(*members[0])) == same_bytes(ours(*members[0]))


def test_a_training_step_has_the_same_bytes_beside_other_threads(training):
    _, ours, members = training

    def steps(member):
        state, batch, key = member
        for _ in range(3):
            state, metrics = ours(state, batch, key)
        return same_bytes((state, metrics))

    alone = [steps(member) for member in members]
    assert len({b"".join(leaves) for leaves in alone}) == MEMBERS
    with ThreadPoolExecutor(MEMBERS) as threads:
        for _ in range(15):  # a race shows only now and then
            assert list(threads.map(steps, members)) == alone


def convolution(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def watch_jit(monkeypatch):
    """Record the keyword arguments of every call of `jax.jit`."""
    original, calls = jax.jit, []

    def watched(function, **options):
        calls.append(options)
        return original(function, **options)

    monkeypatch.setattr(jax, "jit", watched)
    return calls


def test_the_option_is_tried_once(monkeypatch):
    calls = watch_jit(monkeypatch)
    assert compiler.onednn_options() == compiler.onednn_options()
    assert [set(options) for options in calls] == [{"compiler_options"}]


def test_the_option_does_not_depend_on_the_precision_of_the_first_program():
    expected = compiler.onednn_options()
    compiler.onednn_options.cache_clear()
    with jax.enable_x64(True):
        assert compiler.onednn_options() == expected


def test_no_option_if_the_compiler_rejects_it(monkeypatch):
    original = jax.jit
    # The compiler's own error for an unknown name.
    monkeypatch.setattr(
        jax, "jit", lambda function, compiler_options: original(function, compiler_options={"xla_no_such_option": True})
    )
    assert compiler.onednn_options() == {}


def test_no_option_if_the_environment_disables_it(monkeypatch):
    monkeypatch.setenv("JAXSCAPE_ONEDNN", "0")
    calls = watch_jit(monkeypatch)
    assert compiler.onednn_options() == {}
    assert calls == []


@pytest.mark.parametrize("text", ["", None])
def test_no_option_if_the_program_has_no_text_or_no_onednn(monkeypatch, text):
    class Compiled:
        def as_text(self):
            return text

    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: Compiled())
    assert compiler.onednn_options() == {}


def test_no_option_if_it_changes_nothing(monkeypatch):
    original = jax.jit
    monkeypatch.setattr(jax, "jit", lambda function, compiler_options: original(function))
    assert compiler.onednn_options() == {}


def test_only_a_large_program_is_given_to_onednn(monkeypatch):
    compiled = []

    def rewrite(function, *, onednn=False):
        def rewritten(*args):
            compiled.append((onednn, args[0].shape))
            return function(*args)

        return rewritten

    monkeypatch.setattr(compiler, "onednn_options", lambda: {"xla_cpu_experimental_onednn_custom_call": True})
    monkeypatch.setattr(compiler, "rewrite_convolutions", rewrite)
    kernel, flops_of_an_image = jnp.ones((3, 3, 16, 16)), 2 * 64 * 16 * 16 * 9
    monkeypatch.setattr(compiler, "ONEDNN_FLOPS", 3 * flops_of_an_image)
    ours = compiler.jit(convolution)
    for count in (2, 3, 2, 3):
        assert ours(jnp.ones((count, 8, 8, 16)), kernel).shape == (count, 8, 8, 16)
    assert compiled == [(False, (2, 8, 8, 16)), (True, (3, 8, 8, 16))]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_program_for_onednn_is_not_offered_to_the_compilation_cache(tmp_path):
    # Each attempt to serialise one fails, and leaves its code in memory for good (jaxlib 0.12).
    code = """
import gc, jax, jax.numpy as jnp
from jaxscape.xla_cpu import compiler

compiler.ONEDNN_FLOPS = 0

def loss(kernels, images):
    for kernel in kernels:
        numbers = ("NHWC", "HWIO", "NHWC")
        images = jnp.tanh(jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers))
    return (images**2).sum()

for batch in range(8, 13):
    gradient = compiler.jit(jax.grad(loss))
    for _ in range(2):
        jax.block_until_ready(gradient([jnp.ones((3, 3, 16, 16))] * 8, jnp.ones((batch, 8, 8, 16))))
    del gradient
    jax.clear_caches()
    gc.collect()
    print(sum(1 for _ in open("/proc/self/maps")))
assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
"""
    settings = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *_, last = map(int, done.stdout.split())
    assert last - first < 40
    assert any(tmp_path.iterdir())  # other programs are stored


def test_a_program_in_float64_is_not_given_to_onednn(monkeypatch):
    compiled = []

    def rewrite(function, *, onednn=False):
        return lambda *args: compiled.append((onednn, args[0].dtype)) or function(*args)

    monkeypatch.setattr(compiler, "onednn_options", lambda: {"xla_cpu_experimental_onednn_custom_call": True})
    monkeypatch.setattr(compiler, "rewrite_convolutions", rewrite)
    ours = compiler.jit(convolution)
    arguments = np.ones((2, 8, 8, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
    ours(*map(jnp.asarray, arguments))
    with jax.enable_x64(True):
        ours(*(jnp.asarray(each, jnp.float64) for each in arguments))
    assert compiled == [(True, jnp.float32), (False, jnp.float64)]


def test_onednn_is_called_if_the_option_is_given(monkeypatch):
    if not compiler.onednn_options():
        pytest.skip("this jaxlib has no oneDNN")
    original, programs = jax.jit, []
    monkeypatch.setattr(
        jax, "jit", lambda *args, **options: programs.append(original(*args, **options)) or programs[-1]
    )
    compiler.jit(convolution)
    large = programs[-1].lower(jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16))).compile().as_text()
    assert "__onednn$convolution" in large


def test_without_onednn_the_plain_forms_are_compiled(monkeypatch):
    monkeypatch.setattr(compiler, "onednn_options", dict)
    calls = watch_jit(monkeypatch)
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    ours = compiler.jit(convolution)
    assert calls == [{"donate_argnums": ()}]
    dimensions = [
        e.outvars[0].aval.ndim
        for e in jax.make_jaxpr(ours)(images, kernel).jaxpr.eqns[0].params["jaxpr"].eqns
        if e.primitive.name == "conv_general_dilated"
    ]
    assert dimensions == [4]
    np.testing.assert_allclose(ours(images, kernel), convolution(images, kernel), rtol=1e-5)


def test_another_backend_gets_jax_jit(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(compiler, "onednn_options", lambda: pytest.fail("asked for oneDNN"))
    monkeypatch.setattr(compiler, "rewrite_convolutions", lambda *_, **__: pytest.fail("rewrote"))
    calls = watch_jit(monkeypatch)
    np.testing.assert_array_equal(compiler.jit(jnp.cumsum, donate_argnums=0)(jnp.ones(3)), [1, 2, 3])
    assert calls == [{"donate_argnums": 0}]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(("donated", "gone"), [((), (False, False)), (0, (True, False)), ((1,), (False, True))])
def test_donated_arguments_are_deleted(monkeypatch, backend, donated, gone):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    first, second = {"leaf": jnp.ones((5, 5))}, {"leaf": jnp.ones((5, 5))}
    compiler.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=donated)(first, second)
    assert (first["leaf"].is_deleted(), second["leaf"].is_deleted()) == gone


# Run in a separate process, because XLA may kill it. As many rows and columns as features: XLA fuses a broadcast
# addition into oneDNN's call along whichever axis has the length of the features.
AFTERWARDS = """
import jax, jax.numpy as jnp, numpy as np
from jaxscape.xla_cpu import compiler

compiler.ONEDNN_FLOPS = 0
axes, groups = {axes!r}, {groups}
n = len(axes)
numbers = (f"N{{axes}}C", f"{{axes}}IO", f"N{{axes}}C")
random = np.random.default_rng(0)
x = jnp.asarray(random.standard_normal((4, *[16] * n, 16)), jnp.float32)
kernel = jnp.asarray(random.standard_normal((*[3] * n, 16 // groups, 16)) / 12, jnp.float32)
row = jnp.asarray(random.standard_normal(16), jnp.float32)

def conv(x, kernel):
    ones = (1,) * n
    return jax.lax.conv_general_dilated(x, kernel, ones, "SAME", dimension_numbers=numbers, feature_group_count=groups)

def along(axis, values):
    # A reshape: XLA fuses the broadcast of one, not a broadcast alone.
    return values.reshape([-1 if other == axis else 1 for other in range(n + 2)])

programs = {{
    "bias": lambda x, k: conv(x, k) + along(n + 1, row),
    "bias and relu": lambda x, k: jax.nn.relu(conv(x, k) + along(n + 1, row)),
    "row": lambda x, k: conv(x, k) + along(1, row),
    "column": lambda x, k: conv(x, k) + along(n, row),
    "example": lambda x, k: conv(x, k) + along(0, row[:4]),
    "plane": lambda x, k: conv(x, k) + along(n, row) * along(n + 1, row + 1),
    "number": lambda x, k: conv(x, k) + k.ravel()[0],
    "relu": lambda x, k: jax.nn.relu(conv(x, k)),
    "elu": lambda x, k: jax.nn.elu(conv(x, k)),
    "residual": lambda x, k: x + conv(jax.nn.relu(x + conv(x, k)), k),
    "sum of two": lambda x, k: conv(x, k) + conv(2 * x, k),
    "sum of three and bias": lambda x, k: conv(x, k) + conv(x + 1, k) + along(n + 1, row) + conv(x * x, k),
    "chain of sums": lambda x, k: conv(conv(x, k) + conv(2 * x, k), k) + conv(x, k) + x,
    "used twice": lambda x, k: [(y + x, jax.nn.relu(y)) for y in [conv(x, k)]],
}}
programs = {{name: programs[name] for name in {names!r} or programs}}

def with_gradient(f):
    loss = lambda x, k: sum((y ** 2).mean() for y in jax.tree.leaves(f(x, k)))
    return lambda x, k: (f(x, k), jax.grad(loss, (0, 1))(x, k))

# One by one: a result that two of them share is not fused.
for name, f in programs.items():
    f = with_gradient(f) if {gradients} else f
    expected, result = jax.jit(f)(x, kernel), compiler.jit(f)(x, kernel)
    for their, our in zip(*map(jax.tree.leaves, (expected, result)), strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=2e-5 * float(jnp.abs(their).max()), err_msg=name)
print("all the same")
"""


def run_afterwards(axes, groups=1, names=(), gradients=True):
    code = AFTERWARDS.format(axes=axes, groups=groups, names=names, gradients=gradients)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


# With its gradient a result is used twice, and is then not fused anyway.
@pytest.mark.parametrize("gradients", [False, True])
def test_operations_after_a_convolution_are_not_fused_into_it(gradients):
    done = run_afterwards("HW", gradients=gradients)
    assert (done.returncode, done.stdout) == (0, "all the same\n"), done.stderr


@pytest.mark.parametrize(("axes", "groups"), [("W", 1), ("HW", 4), ("DHW", 1)])
def test_operations_after_a_convolution_that_is_not_rewritten(axes, groups):
    names = ("bias", "bias and relu", "row", "relu", "residual", "sum of two", "sum of three and bias")
    done = run_afterwards(axes, groups, names, gradients=False)
    assert (done.returncode, done.stdout) == (0, "all the same\n"), done.stderr

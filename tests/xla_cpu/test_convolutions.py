"""The rewritten convolutions and the programs that hold them against XLA's own."""

from functools import partial
from itertools import count, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import core

from jaxscape.xla_cpu import convolutions
from jaxscape.xla_cpu.convolutions import convolution_flops, rewrite_convolutions

pytestmark = pytest.mark.slow

# Which operations a program has is decided before the compiler's optimisations; without them it is compiled sooner.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
NUMBERS = ("NHWC", "HWIO", "NHWC")
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 14)
PADDINGS = ("SAME", "VALID", ((1, 1), (1, 1)), ((2, 0), (2, 0)))


def normal(shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def assert_close(ours, theirs, tolerance=2e-5, message=""):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs), message
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (our.shape, our.dtype) == (their.shape, their.dtype), message
        our, their = np.asarray(our, np.float64), np.asarray(their, np.float64)
        scale = np.abs(their).max(initial=1e-3)
        np.testing.assert_allclose(our, their, rtol=0, atol=tolerance * scale, err_msg=str(message))


def convolution(images, kernel, strides=(1, 1), padding="SAME", **options):
    options = {"dimension_numbers": NUMBERS} | options
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)


def with_gradients(function, images, kernel):
    """The result, and the gradients by both operands for a cotangent without symmetry."""
    result, pullback = jax.vjp(function, images, kernel)
    return result, *pullback(jnp.cos(jnp.arange(result.size, dtype=result.dtype)).reshape(result.shape))


def equations(program):
    """Those of a program and of the programs that it calls."""
    yield from program.eqns
    for inner in core.subjaxprs(program):
        yield from equations(inner)


def assert_rewriting_keeps(function, *args, tolerance=2e-5, message=""):
    expected = jax.jit(function, compiler_options=FAST)(*args)
    for onednn in (False, True):
        ours = jax.jit(rewrite_convolutions(function, onednn=onednn), compiler_options=FAST)(*args)
        assert_close(ours, expected, tolerance, f"{message} onednn={onednn}")


def cases(size, step):
    """Six windows and images for a kernel and a stride; the sizes of the images go round and round."""
    turn = count(7 * size + 3 * step)
    for position, apart in [(0, 1), (1, 1), (2, 1), (3, 1), (step % 2, 2), (2 + step % 2, 2)]:
        padding = PADDINGS[position]
        span = (size - 1) * apart + 1
        added = {"SAME": span, "VALID": 0}.get(padding, 2)
        sizes = [n for n in SIZES if n + added >= span]  # at least one pixel is left
        height, width = (sizes[next(turn) * stride % len(sizes)] for stride in (1, 3))
        other = next(turn) % 3 + 1 if step > 1 else step  # unequal strides too
        yield (height, width), {"strides": (step, other), "padding": padding, "rhs_dilation": (apart, apart)}


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_convolution_and_its_gradients_are_those_of_xla(size, step):
    windows = list(cases(size, step))
    assert {options["rhs_dilation"] for _, options in windows} == {(1, 1), (2, 2)}

    def all_cases(images, kernel):
        return [
            with_gradients(partial(convolution, **options), images[:, :height, :width], kernel)
            for (height, width), options in windows
        ]

    images, kernel = normal((2, 14, 14, 3)), normal((size, size, 3, 4), 1)
    assert_rewriting_keeps(all_cases, images, kernel, message=windows)


def test_a_rectangular_kernel_and_any_order_of_axes():
    images, kernel = normal((3, 2, 9, 7)), normal((4, 2, 3, 2), 1)

    def every_order(images, kernel):
        options = {"strides": (2, 1), "padding": ((1, 0), (0, 1)), "rhs_dilation": (1, 2)}
        results = []
        for numbers in (("NCHW", "OIHW", "NCHW"), ("NCHW", "OIHW", "HWNC"), ("NCHW", "OIHW", "CWHN")):
            function = partial(convolution, dimension_numbers=numbers, **options)
            results.append(with_gradients(function, images, kernel))
        return results

    assert_rewriting_keeps(every_order, images, kernel)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_a_dilated_input(strides):
    # With strides as well no phase is a convolution of its own, and the library's form stays.
    def dilated(images, kernel):
        options = {"strides": strides, "padding": ((2, 1), (0, 3)), "lhs_dilation": (2, 3)}
        return with_gradients(partial(convolution, **options), images, kernel)

    assert_rewriting_keeps(dilated, normal((2, 4, 5, 3)), normal((3, 2, 3, 4), 1))


def test_negative_padding_crops():
    def cropped(images, kernel):
        return with_gradients(partial(convolution, padding=((-1, -1), (-2, 0))), images, kernel)

    assert_rewriting_keeps(cropped, normal((2, 7, 8, 3)), normal((3, 3, 3, 4), 1))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_convolution(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    def pair(low, high):
        return draw(low, high), draw(low, high)

    kernel, apart, inside = pair(1, 4), pair(1, 2), pair(1, 2)
    padding = (pair(-1, 3), pair(-1, 3))
    spans = [(k - 1) * a + 1 for k, a in zip(kernel, apart, strict=True)]
    # At least one pixel remains after a padding of -2.
    image = [draw(max(1, span + 2), span + 6) for span in spans]
    options = {"strides": pair(1, 3), "padding": padding, "lhs_dilation": inside, "rhs_dilation": apart}
    batch, channels, features = draw(1, 3), draw(2, 4), draw(2, 4)

    def function(images, kernel):
        return with_gradients(partial(convolution, **options), images, kernel)

    assert_rewriting_keeps(function, normal((batch, *image, channels)), normal((*kernel, channels, features), 1))


@pytest.fixture
def reached(monkeypatch):
    """The forms that were taken, in their order, whenever a function is rewritten."""
    names = []

    def watch(name):
        original = getattr(convolutions, name)

        def watched(images, kernel, window, *rest):
            names.append(name)
            before = len(names)
            result = original(images, kernel, window, *rest)
            if name == "_matrix_product" and result.shape[1] * result.shape[2] == 1:
                names[before - 1] = "_matrix_product of one pixel"
            if name == "_merged":
                names[before - 1] += f" in {names[before:].count('_onednn')}"
            return result

        monkeypatch.setattr(convolutions, name, watched)

    for name in ("_matrix_product", "_whole_image", "_every_pair", "_phases", "_merged", "_onednn", "_library"):
        watch(name)
    return names


def forms(reached, function, *args, onednn):
    reached.clear()
    jax.eval_shape(rewrite_convolutions(function, onednn=onednn), *args)
    return set(reached)


def test_the_cases_reach_every_form(reached):
    seen = {True: set(), False: set()}
    for (size, step), onednn in product(product((1, 2, 3, 5), (1, 2, 3)), (False, True)):
        images, kernel = normal((2, 14, 14, 3)), normal((size, size, 3, 4))
        for (height, width), options in cases(size, step):
            function = partial(with_gradients, partial(convolution, **options))
            seen[onednn] |= forms(reached, function, images[:, :height, :width], kernel, onednn=onednn)
    small = {"_matrix_product", "_matrix_product of one pixel", "_whole_image", "_every_pair"}
    both = small | {"_phases", "_library"}
    assert seen == {False: both, True: both | {"_merged in 1", "_onednn"}}


@pytest.mark.parametrize("examples", [32, 40, 70])
def test_the_gradient_of_a_kernel_is_summed_in_pieces(reached, examples):
    # 16 x 16 pixels of 16 features are 2**14 bytes an example, of which 32 make a piece.
    images, kernel = normal((examples, 16, 16, 2)), normal((3, 3, 2, 16), 1)
    pieces = -(-examples // 32)
    assert f"_merged in {pieces}" in forms(reached, partial(with_gradients, convolution), images, kernel, onednn=True)
    assert_rewriting_keeps(partial(with_gradients, convolution), images, kernel)


@pytest.mark.parametrize(
    ("image", "size", "onednn", "form"),
    [
        (3, 3, False, "_matrix_product of one pixel"),
        (4, 3, False, "_matrix_product"),
        (4, 2, False, "_matrix_product"),
        (9, 3, False, "_library"),
        (9, 3, True, "_onednn"),
        (8, 5, True, "_merged in 1"),
    ],
)
def test_the_shape_decides_on_the_form(reached, image, size, onednn, form):
    images, kernel = normal((2, image, image, 3)), normal((size, size, 3, 4))
    assert form in forms(reached, partial(convolution, padding="VALID"), images, kernel, onednn=onednn)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("shape", [(2, 2), (1, 1), (1, 3), (4, 1)])
def test_small_images_are_not_multiplied_with_padding(reached, shape, onednn):
    # Forward, the gradient of the images and that of the kernel.
    images, kernel = normal((5, *shape, 3)), normal((3, 3, 3, 4), 1)
    function = partial(with_gradients, convolution)
    expected = {"_whole_image", "_every_pair"} if shape != (1, 1) else {"_whole_image", "_matrix_product"}
    assert forms(reached, function, images, kernel, onednn=onednn) == expected
    assert_rewriting_keeps(function, images, kernel)


def test_a_result_that_no_pixel_reaches_is_zero():
    def beyond(images, kernel):
        return with_gradients(partial(convolution, padding=((4, 0), (0, 5))), images, kernel)

    assert_rewriting_keeps(beyond, normal((5, 2, 2, 3)), normal((3, 2, 3, 4), 1))
    assert_rewriting_keeps(beyond, normal((5, 2, 2, 3)), normal((2, 2, 3, 4), 1))


def test_no_dilated_input_is_left_of_a_strided_convolution():
    def gradients(images, kernel):
        return with_gradients(partial(convolution, strides=(2, 3), padding="VALID"), images, kernel)

    program = jax.make_jaxpr(rewrite_convolutions(gradients))(normal((2, 9, 9, 3)), normal((3, 3, 3, 4)))
    found = [e.params["lhs_dilation"] for e in program.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert found
    assert set(found) == {(1, 1)}


def test_operands_stand_behind_a_barrier():
    # Otherwise a producer is fused into their transposition and computed again in strides.
    def relu_before(images, kernel):
        return convolution(jax.nn.relu(images), 2 * kernel)

    program = jax.make_jaxpr(rewrite_convolutions(relu_before))(normal((2, 9, 9, 3)), normal((3, 3, 3, 4)))
    assert [e.primitive.name for e in program.jaxpr.eqns].count("optimization_barrier") == 1


def test_a_result_of_onednn_stands_behind_a_barrier():
    arguments = normal((2, 9, 9, 3)), normal((3, 3, 3, 4))
    plain, onednn = (
        [e.primitive.name for e in jax.make_jaxpr(rewrite_convolutions(convolution, onednn=on))(*arguments).jaxpr.eqns]
        for on in (False, True)
    )
    assert plain.count("optimization_barrier") == 1
    assert onednn.count("optimization_barrier") == 2
    assert onednn[onednn.index("conv_general_dilated") + 1] == "optimization_barrier"


@pytest.mark.parametrize("empty", ["batch", "channels", "height"])
def test_empty_operands(empty):
    sizes = {"batch": 2, "height": 3, "channels": 3} | {empty: 0}
    images = jnp.zeros((sizes["batch"], sizes["height"], 5, sizes["channels"]))
    assert_rewriting_keeps(convolution, images, jnp.zeros((3, 3, sizes["channels"], 4)))


@pytest.mark.parametrize(("image", "size"), [((3, 3), (5, 5)), ((4, 3), (5, 2))])
def test_a_kernel_larger_than_the_image_gives_an_empty_result(image, size):
    assert_rewriting_keeps(partial(convolution, padding="VALID"), normal((2, *image, 3)), normal((*size, 3, 4)))


def test_one_channel_and_one_feature():
    assert_rewriting_keeps(convolution, normal((1, 2, 3, 1)), normal((3, 3, 1, 1)))


def test_complex_and_integer_numbers():
    images, kernel = normal((2, 6, 6, 3)), normal((3, 3, 3, 4), 1)
    whole = jnp.round(5 * images).astype(jnp.int32), jnp.round(5 * kernel).astype(jnp.int32)
    assert_rewriting_keeps(convolution, *whole, tolerance=0)

    def parts(images, kernel):
        result = convolution(images + 1j * images[::-1], kernel - 2j * kernel)
        return result.real, result.imag

    assert_rewriting_keeps(parts, images, kernel)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 2**-6), (jnp.float16, 2**-9)])
def test_half_precision(dtype, tolerance):
    images, kernel = normal((2, 8, 8, 3), dtype=dtype), normal((3, 3, 3, 4), 1, dtype)

    def both_strides(images, kernel):
        wide = convolution(images, kernel, preferred_element_type=jnp.float32)
        return wide, *(with_gradients(partial(convolution, strides=(s, s)), images, kernel) for s in (1, 2))

    assert_rewriting_keeps(both_strides, images, kernel, tolerance=tolerance)


@pytest.mark.parametrize("onednn", [False, True])
def test_precision_is_handed_on(onednn):
    highest = (jax.lax.Precision.HIGHEST,) * 2

    def gradients(images, kernel):
        return [
            with_gradients(partial(convolution, precision="highest", strides=(s, s)), images, kernel) for s in (1, 2)
        ]

    program = jax.make_jaxpr(rewrite_convolutions(gradients, onednn=onednn))(
        normal((2, 9, 9, 3)), normal((3, 3, 3, 4), 1)
    )
    found = [e.params["precision"] for e in equations(program.jaxpr) if "precision" in e.params]
    assert len(found) >= 6
    assert set(found) == {highest}


def layer(images, kernel):
    return jax.nn.relu(convolution(images, kernel))  # relu is a custom_jvp of JAX


IMAGES = normal((2, 6, 6, 3))
PROGRAMS = {
    "jit": lambda kernel: jax.jit(layer)(IMAGES, kernel).sum(),
    "scan": lambda kernel: jax.lax.scan(lambda h, k: (layer(h, k * kernel), h.sum()), IMAGES, jnp.ones(3))[0].sum(),
    "while_loop": lambda kernel: jax.lax.while_loop(
        lambda state: state[0] < 2, lambda state: (state[0] + 1, layer(state[1], kernel)), (0, IMAGES)
    )[1].sum(),
    "fori_loop": lambda kernel: jax.lax.fori_loop(0, 2, lambda _, h: layer(h, kernel), IMAGES).sum(),
    "cond": lambda kernel: jax.lax.cond(
        kernel.sum() > 0, lambda: layer(IMAGES, kernel), lambda: convolution(IMAGES, -kernel)
    ).sum(),
    "switch": lambda kernel: jax.lax.switch(1, [lambda: IMAGES, lambda: layer(IMAGES, kernel), lambda: -IMAGES]).sum(),
    "map": lambda kernel: jax.lax.map(lambda image: layer(image[None], kernel), IMAGES).sum(),
    "jvp": lambda kernel: jax.jvp(lambda k: layer(IMAGES, k).sum(), (kernel,), (2 * kernel,))[1],
    "checkpoint": lambda kernel: jax.checkpoint(layer)(jax.checkpoint(layer)(IMAGES, kernel), kernel).sum(),
    "scan of checkpoint": lambda kernel: jax.lax.scan(
        jax.checkpoint(lambda h, _: (layer(h, kernel), None)), IMAGES, None, length=2
    )[0].sum(),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_its_gradient_and_the_gradient_of_that(name):
    program, kernel = PROGRAMS[name], normal((3, 3, 3, 3), 1) / 5

    def derivatives(kernel):
        if name == "while_loop":  # has no reverse mode
            return program(kernel), jax.jvp(program, (kernel,), (kernel,))[1]
        first = jax.grad(program)
        return program(kernel), first(kernel), jax.grad(lambda kernel: (first(kernel) ** 2).sum())(kernel)

    assert_rewriting_keeps(derivatives, kernel, tolerance=1e-4)


@pytest.mark.parametrize("name", ["jit", "scan", "while_loop", "cond", "map", "checkpoint"])
def test_convolutions_inside_are_rewritten(reached, name):
    jax.eval_shape(rewrite_convolutions(PROGRAMS[name], onednn=True), normal((3, 3, 3, 3)))
    assert "_onednn" in reached


def test_derivatives_of_ones_own():
    @jax.custom_vjp
    def doubled(images, kernel):
        return convolution(images, kernel)

    def backward(operands, cotangent):
        images, kernel = jax.vjp(convolution, *operands)[1](cotangent)
        return 2 * images, 3 * kernel

    doubled.defvjp(lambda images, kernel: (doubled(images, kernel), (images, kernel)), backward)

    @jax.custom_jvp
    def tripled(images, kernel):
        return convolution(images, kernel)

    tripled.defjvp(lambda operands, tangents: (tripled(*operands), 3 * convolution(operands[0], tangents[1])))

    def gradients(images, kernel):
        results = doubled(images, kernel), tripled(images, kernel)
        cotangent = jnp.cos(results[0])
        # Also from outside of a function that was rewritten.
        return results, jax.vjp(doubled, images, kernel)[1](cotangent), jax.vjp(tripled, images, kernel)[1](cotangent)

    kernel = normal((3, 3, 3, 4), 1)
    assert_rewriting_keeps(gradients, IMAGES, kernel)
    outside = jax.grad(lambda kernel: rewrite_convolutions(tripled)(IMAGES, kernel).sum())(kernel)
    assert_close(outside, jax.grad(lambda kernel: tripled(IMAGES, kernel).sum())(kernel))


def test_a_rewritten_function_has_gradients_and_batches():
    kernel = normal((3, 3, 3, 4), 1)
    kernels = jnp.stack([kernel, 2 * kernel])

    def loss(kernel):
        return (layer(IMAGES, kernel) ** 2).sum()

    for onednn in (False, True):
        ours = rewrite_convolutions(loss, onednn=onednn)
        assert_close(jax.jit(jax.grad(ours))(kernel), jax.grad(loss)(kernel))
        assert_close(jax.jit(jax.vmap(ours))(kernels), jax.vmap(loss)(kernels))


def test_groups_stay_as_they_are():
    # Members with images and kernels of their own.
    kernels, images = normal((2, 3, 3, 3, 4), 1), jnp.stack([IMAGES, 2 * IMAGES])

    def members(kernels, images):
        return jax.vmap(jax.value_and_grad(lambda kernel, images: (layer(images, kernel) ** 2).sum()))(kernels, images)

    plain, ours = (
        [e.params for e in equations(jax.make_jaxpr(f)(kernels, images).jaxpr) if "feature_group_count" in e.params]
        for f in (members, rewrite_convolutions(members, onednn=True))
    )
    grouped = [p for p in plain if p["feature_group_count"] * p["batch_group_count"] > 1]
    assert grouped
    assert [p for p in ours if p["feature_group_count"] * p["batch_group_count"] > 1] == grouped
    assert_rewriting_keeps(members, kernels, images)


@pytest.mark.parametrize(("axes", "size"), [("W", 7), ("DHW", 4)])
def test_other_numbers_of_axes_stay_as_they_are(axes, size):
    ones = (1,) * len(axes)
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    images, kernel = normal((2, *(size * n for n in ones), 3)), normal((*(3 * n for n in ones), 3, 4), 1)
    function = partial(convolution, strides=ones, dimension_numbers=numbers)
    program = partial(with_gradients, function)
    plain, ours = (
        [e.params for e in equations(jax.make_jaxpr(f)(images, kernel).jaxpr) if "feature_group_count" in e.params]
        for f in (program, rewrite_convolutions(program, onednn=True))
    )
    assert len(plain) == 3
    assert ours == plain
    assert_rewriting_keeps(program, images, kernel)


def test_pytrees_keys_and_numbers_go_in_and_out():
    kernel = normal((3, 3, 3, 4), 1)

    def program(tree, keys, factor):
        noise = jax.vmap(lambda key: jax.random.normal(key, IMAGES.shape))(keys).sum(0)
        result = convolution(tree["images"] + noise, tree["kernels"][0]) * factor
        return {"result": result, "none": None, "same": tree["images"], "pair": (keys, jnp.ones(()))}

    keys = jax.random.split(jax.random.key(3), 2)
    args = {"images": IMAGES, "kernels": [kernel]}, keys, 0.5
    expected = jax.jit(program, compiler_options=FAST)(*args)
    for onednn in (False, True):
        ours = jax.jit(rewrite_convolutions(program, onednn=onednn), compiler_options=FAST)(*args)
        assert jnp.issubdtype(ours["pair"][0].dtype, jax.dtypes.prng_key)
        assert (jax.random.key_data(ours["pair"][0]) == jax.random.key_data(keys)).all()
        assert jax.tree.structure(ours) == jax.tree.structure(expected)
        assert_close(ours["result"], expected["result"])
        assert (ours["same"] == IMAGES).all()


def test_convolution_flops_looks_inside():
    kernel = normal((3, 3, 3, 3))
    for name in PROGRAMS:
        assert convolution_flops(jax.make_jaxpr(PROGRAMS[name])(kernel)) > 0, name
    assert not convolution_flops(jax.make_jaxpr(lambda k: jax.lax.scan(lambda s, x: (s + x, s), k[0], k)[0])(kernel))


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_flops_are_those_of_the_definition(stride):
    images, kernel = normal((5, 8, 8, 3)), normal((3, 3, 3, 7))
    numbers = ("NHWC", "HWIO", "NHWC")

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(images, kernel, (stride, stride), "SAME", dimension_numbers=numbers)

    def flops(function):
        return convolution_flops(jax.make_jaxpr(function)(images, kernel))

    forward = 2 * 5 * (8 // stride) ** 2 * 7 * 3 * 9
    assert flops(convolve) == forward
    assert flops(lambda i, k: jax.lax.scan(lambda s, _: (s, convolve(i, k)), 0, length=4)) == 4 * forward
    # Both gradients have the same multiplications as the forward pass, but for the edges.
    total = flops(jax.grad(lambda i, k: convolve(i, k).sum(), (0, 1)))
    assert total == pytest.approx(3 * forward, rel=0.3)


def test_a_program_without_convolutions_is_the_same_program():
    def program(x):
        return jax.lax.scan(lambda s, row: (jax.nn.relu(s @ row), s.sum()), x[0], x)

    x = normal((4, 3, 3))
    assert str(jax.make_jaxpr(rewrite_convolutions(program))(x)) == str(jax.make_jaxpr(program)(x))


def test_the_name_of_a_function_stays():
    assert rewrite_convolutions(layer).__name__ == "layer"

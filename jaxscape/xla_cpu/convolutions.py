"""Rewrite the convolutions of a program in the forms that are fastest on a CPU.

XLA's CPU backend has several ways to a convolution, and which one it takes follows from how the convolution is
written: a two-dimensional one is given to YNNPACK (or Eigen), a three-dimensional one whose first axis has length one
to oneDNN where that is switched on, a matrix product to a matrix library, and one with a dilated input (the gradient
of a strided convolution) or inside a fusion of its producer to slow loops. `rewrite_convolutions` takes a function
as it is, gradients included, and writes every convolution in the fastest of these ways. The mathematics is
unchanged; the order of the sums, and with it the last bits, is not.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

PyTree = Any


class Window(NamedTuple):
    """The window of a convolution, one number or pair per axis; as in `lax.conv_general_dilated`."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # of the dilated images; may be negative
    lhs_dilation: tuple[int, ...] = (1, 1)
    rhs_dilation: tuple[int, ...] = (1, 1)

    def output(self, image: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the result."""
        return tuple(
            ((n - 1) * inside + low + high - (k - 1) * apart) // stride + 1
            for n, k, stride, (low, high), inside, apart in zip(image, kernel, *self, strict=True)
        )


def rewrite_convolutions(function: Callable[..., PyTree], *, onednn: bool = False) -> Callable[..., PyTree]:
    """Return a function with the same results up to rounding, whose 2-D convolutions are fast on a CPU.

    Convolutions with groups or with another number of axes than two stay as they are.

    Args:
        function: takes and gives pytrees of arrays; may hold gradients, and loops and branches of `jax.lax`.
        onednn: write for a compilation with oneDNN switched on (see `jaxscape.xla_cpu.compiler`). Without that, three-
            dimensional convolutions are slow.
    """

    @wraps(function)
    def rewritten(*args: PyTree) -> PyTree:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _run(program, jax.tree.leaves(args), onednn)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rewritten


def convolution_flops(program: core.ClosedJaxpr | core.Jaxpr) -> int:
    """Count the floating-point operations of the convolutions in a program and in those that it calls.

    A multiplication and an addition are two; those with the zeros of padding count, with the zeros of a dilated input
    not. Every branch counts, and the body of a `while_loop` once.
    """
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    flops = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel: Any = equation.invars[1].aval
            result: Any = equation.outvars[0].aval
            features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            products = prod(result.shape) * prod(kernel.shape) // max(features, 1)
            flops += 2 * products // prod(equation.params["lhs_dilation"])
        else:
            inner = sum(map(convolution_flops, core.jaxprs_in_params(equation.params)))
            flops += inner * equation.params["length"] if equation.primitive.name == "scan" else inner
    return flops


def _run(program: core.ClosedJaxpr, args: Sequence[Any], onednn: bool) -> list[Any]:
    """Evaluate a program equation by equation, convolutions in their new form."""
    values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    values |= zip(program.jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in program.jaxpr.eqns:
        operands = list(map(read, equation.invars))
        if equation.primitive.name == "conv_general_dilated":
            out: Any = equation.outvars[0].aval
            results = [_general(operands[0], operands[1], out.shape, equation.params, onednn)]
        else:
            params = {name: _inside(value, onednn) for name, value in equation.params.items()}
            result = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(params))
            if onednn and equation.primitive.name == "dot_general":
                result = _behind_barrier(result)
            results = result if equation.primitive.multiple_results else [result]
        values |= zip(equation.outvars, results, strict=True)
    return list(map(read, program.jaxpr.outvars))


def _inside(value: Any, onednn: bool) -> Any:
    """Rewrite the parameter of an equation if it is a program (the body of a loop, say) with convolutions."""
    if isinstance(value, tuple) and any(isinstance(part, core.ClosedJaxpr) for part in value):
        return tuple(_inside(part, onednn) for part in value)
    if not isinstance(value, core.ClosedJaxpr | core.Jaxpr) or not convolution_flops(value):
        return value
    closed = value if isinstance(value, core.ClosedJaxpr) else core.ClosedJaxpr(value, ())
    new = jax.make_jaxpr(lambda *args: _run(closed, args, onednn))(*closed.in_avals)
    return new if isinstance(value, core.ClosedJaxpr) else new.jaxpr


def _general(lhs: jax.Array, rhs: jax.Array, size: Sequence[int], params: dict[str, Any], onednn: bool) -> jax.Array:
    """`lax.conv_general_dilated` with these parameters, which gives an array of this size, by way of NHWC and HWIO."""
    two_axes = lhs.ndim == 4 and params["feature_group_count"] == params["batch_group_count"] == 1
    if not two_axes or 0 in (*lhs.shape, *rhs.shape, *size):
        result = jax.lax.conv_general_dilated_p.bind(lhs, rhs, **params)
        return _behind_barrier(result) if onednn else result
    (batch, feature, *image), (features, channels, *kernel), out = params["dimension_numbers"]
    # A producer that is fused into the transposition of its result is computed again, in strides: ten times slower.
    lhs, rhs = jax.lax.optimization_barrier((lhs, rhs))
    result = _convolve(
        lhs.transpose(batch, *image, feature),
        rhs.transpose(*kernel, channels, features),
        Window(params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"]),
        {name: params[name] for name in ("precision", "preferred_element_type")},
        onednn,
    )
    order = (out[0], *out[2:], out[1])  # of batch, height, width and features in the result
    return result.transpose([order.index(axis) for axis in range(4)])


def _convolve(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any], onednn: bool) -> jax.Array:
    """Compute a convolution (NHWC, HWIO) in the form that was measured to be the fastest for its shape."""
    inputs, taps = images.shape[1] * images.shape[2], kernel.shape[0] * kernel.shape[1]
    pixels = prod(window.output(images.shape[1:3], kernel.shape[:2]))
    if max(window.lhs_dilation) > 1:
        if max(*window.strides, *window.rhs_dilation) > 1:
            return _library(images, kernel, window, options)
        return _phases(images, kernel, window, options, onednn)
    if inputs <= 4 and inputs < taps:
        return _whole_image(images, kernel, window, options)
    # In half precision the products of pairs would be rounded before they are added.
    if 1 < taps <= inputs <= 4 and inputs < pixels and images.dtype.itemsize >= 4:
        return _every_pair(images, kernel, window, options)
    if pixels == 1 or taps == 1 or (taps <= 9 and pixels <= 4):
        return _matrix_product(images, kernel, window, options)
    if not onednn:
        small = taps <= 4 and pixels <= 9
        return (_matrix_product if small else _library)(images, kernel, window, options)
    if taps > pixels and max(window.strides) == 1:
        return _merged(images, kernel, window, options)
    return _onednn(images, kernel, window, options)


def _onednn(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any]) -> jax.Array:
    """Compute a convolution that YNNPACK leaves to oneDNN, because it has three axes."""
    one, no = (1,), ((0, 0),)
    deep = Window(one + window.strides, no + window.padding, one + window.lhs_dilation, one + window.rhs_dilation)
    result = _library(images[:, None], kernel[None], deep, options)
    return _behind_barrier(result)[:, 0]


def _behind_barrier(result: jax.Array) -> jax.Array:
    """Put a barrier behind a result of oneDNN.

    XLA would fuse additions and the like into the call, which gives wrong numbers where an added row is as long as the
    features, and can end the process (jaxlib 0.12).
    """
    return jax.lax.optimization_barrier(result)


def _merged(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any]) -> jax.Array:
    """Compute a convolution with a large kernel and a small result (the gradient of a kernel), images side by side.

    Result rows of a few pixels leave a convolution's inner loop nothing to do. Here pixel by pixel all the images lie
    beside one another along the width, and a row of the result is as many times longer; the kernel is dilated to
    match. Features (which are the examples of the batch) are summed in pieces whose part of the kernel stays in cache.
    """
    batch, height, width, examples = images.shape
    example_bytes = kernel.size // examples * kernel.dtype.itemsize
    piece = max(16, 2**19 // example_bytes // 16 * 16)
    (above, (left, right)), (down, aside) = window.padding, window.rhs_dilation
    wide = Window((1, 1), (above, (left * batch, right * batch)), (1, 1), (down, aside * batch))
    results = []
    for start in range(0, examples, piece):
        part = images[..., start : start + piece]
        row = part.transpose(1, 2, 0, 3).reshape(1, height, width * batch, part.shape[-1])
        results.append(_onednn(row, kernel[:, :, start : start + piece], wide, options))
    rows, columns = window.output((height, width), kernel.shape[:2])
    return sum(results[1:], results[0]).reshape(rows, columns, batch, -1).transpose(2, 0, 1, 3)


def _library(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any]) -> jax.Array:
    """Compute XLA's own convolution of any number of axes."""
    axes = "DHW"[5 - images.ndim :]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return jax.lax.conv_general_dilated(images, kernel, *window, dimension_numbers=numbers, **options)


def _matrix_product(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any]) -> jax.Array:
    """Multiply the patches of the images, side by side, with the kernel."""
    height, width, _, features = kernel.shape
    rows, columns = window.output(images.shape[1:3], kernel.shape[:2])
    padded = jax.lax.pad(
        images, jnp.zeros((), images.dtype), [(0, 0, 0), *((*p, 0) for p in window.padding), (0, 0, 0)]
    )
    (down, right), (apart, aside) = window.strides, window.rhs_dilation
    if rows * columns == 1:
        patch = padded[:, : (height - 1) * apart + 1 : apart, : (width - 1) * aside + 1 : aside]
        return jnp.tensordot(patch, kernel, 3, **options)[:, None, None]
    last_row, last_column = (rows - 1) * down + 1, (columns - 1) * right + 1
    patches = [
        padded[:, i : i + last_row : down, j : j + last_column : right]
        for i in range(0, height * apart, apart)
        for j in range(0, width * aside, aside)
    ]
    joined = jnp.concatenate(patches, axis=-1) if len(patches) > 1 else patches[0]
    return jnp.tensordot(joined, kernel.reshape(-1, features), 1, **options)


def _whole_image(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any]) -> jax.Array:
    """Compute a convolution of images smaller than the kernel by a matrix from all pixels to all results.

    Most taps of the kernel lie on padding there: with 2x2 pixels and a 3x3 kernel 5 of 9, which this does not multiply.
    """
    batch, height, width, channels = images.shape
    rows, columns = window.output((height, width), kernel.shape[:2])
    taps = {(pixel, result): tap for pixel, tap, result in _meetings((height, width), kernel.shape[:2], window)}
    parts = kernel.reshape(-1, channels, kernel.shape[-1])
    empty = jnp.zeros_like(parts[0])
    matrix = [
        jnp.concatenate(
            [parts[taps[pixel, result]] if (pixel, result) in taps else empty for result in range(rows * columns)],
            axis=1,
        )
        for pixel in range(height * width)
    ]
    results = jnp.tensordot(images.reshape(batch, -1), jnp.concatenate(matrix), 1, **options)
    return results.reshape(batch, rows, columns, -1)


def _every_pair(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any]) -> jax.Array:
    """Compute a convolution with a result larger than image and kernel (the gradient of a kernel, of small images).

    One matrix product multiplies each pixel with each tap once; the products that belong to one result are added.
    """
    batch, height, width, channels = images.shape
    rows, columns = window.output((height, width), kernel.shape[:2])
    # Pixels before examples, and features last: of transposed operands (gradients) these are the arrays as they lie.
    left = images.transpose(1, 2, 0, 3).reshape(-1, channels)
    right = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = jnp.tensordot(left, right, 1, **options).reshape(height * width, batch, -1, kernel.shape[-1])
    meetings = _meetings((height, width), kernel.shape[:2], window)
    results = []
    for number in range(rows * columns):
        terms = [products[pixel, :, tap] for pixel, tap, result in meetings if result == number]
        results.append(sum(terms[1:], terms[0]) if terms else jnp.zeros_like(products[0, :, 0]))
    return jnp.stack(results, axis=1).reshape(batch, rows, columns, -1)


def _meetings(image: Sequence[int], kernel: Sequence[int], window: Window) -> list[tuple[int, int, int]]:
    """Return where taps meet pixels: (pixel, tap, result), numbered row by row. The image is not dilated."""
    rows, columns = window.output(image, kernel)
    (down, right), ((above, _), (left, _)), (apart, aside) = window.strides, window.padding, window.rhs_dilation
    meetings = []
    for row, column, i, j in product(range(rows), range(columns), range(kernel[0]), range(kernel[1])):
        y, x = row * down - above + i * apart, column * right - left + j * aside
        if 0 <= y < image[0] and 0 <= x < image[1]:
            meetings.append((y * image[1] + x, i * kernel[1] + j, row * columns + column))
    return meetings


def _phases(images: jax.Array, kernel: jax.Array, window: Window, options: dict[str, Any], onednn: bool) -> jax.Array:
    """Compute a convolution of dilated images (the gradient of a strided one) without the zeros between their pixels.

    With dilation d, every d-th row of the result needs every d-th row of the kernel and the images as they were: the
    result is d x d interleaved convolutions with parts of the kernel.
    """
    size = window.output(images.shape[1:3], kernel.shape[:2])
    counts = [-(-n // d) for n, d in zip(size, window.lhs_dilation, strict=True)]  # rows of a phase, rounded up

    def axis(phase: int, which: int) -> tuple[slice, tuple[int, int]]:
        """Return the part of the kernel that a phase sees along an axis, and its padding."""
        dilation, low = window.lhs_dilation[which], window.padding[which][0]
        first = (low - phase) % dilation
        length = len(range(first, kernel.shape[which], dilation))
        low = (low - phase - first) // dilation
        return slice(first, None, dilation), (low, counts[which] - images.shape[1 + which] - low + length - 1)

    def part(row: int, column: int) -> jax.Array:
        (rows, above), (columns, beside) = axis(row, 0), axis(column, 1)
        piece = kernel[rows, columns]
        if 0 in piece.shape:
            return jnp.zeros((len(images), *counts, kernel.shape[-1]), images.dtype)
        return _convolve(images, piece, Window((1, 1), (above, beside)), options, onednn)

    down, right = window.lhs_dilation
    # Joined along features, then along the width: contiguous pieces, which are copied fast.
    lines = [jnp.concatenate([part(row, column) for column in range(right)], axis=-1) for row in range(down)]
    joined = jnp.stack(lines, axis=2)
    whole = joined.reshape(len(images), counts[0] * down, counts[1] * right, kernel.shape[-1])
    return whole[:, : size[0], : size[1]]

"""The fast convolution is `lax.conv_general_dilated`: the same values, under every transformation of JAX."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from invjax._conv import conv_general_dilated, fast_convs

NHWC = ("NHWC", "HWIO", "NHWC")


GEOMETRIES = {  # name: (shape of x, shape of w, strides, padding)
    "1x1": ((2, 3, 4, 2), (1, 1, 2, 3), (1, 1), "VALID"),
    "3x3-same": ((2, 4, 3, 2), (3, 3, 2, 3), (1, 1), "SAME"),
    "3x3-valid": ((2, 4, 5, 2), (3, 3, 2, 3), (1, 1), "VALID"),
    "5x5-same-on-a-smaller-image": ((2, 3, 2, 2), (5, 5, 2, 3), (1, 1), "SAME"),
    "2x2-same": ((2, 4, 3, 2), (2, 2, 2, 3), (1, 1), "SAME"),
    "4x1-valid": ((2, 5, 2, 2), (4, 1, 2, 3), (1, 1), "VALID"),
    "asymmetric": ((2, 4, 3, 2), (3, 2, 2, 3), (1, 1), ((2, 0), (0, 3))),
    "more-padding-than-kernel": ((1, 2, 3, 2), (2, 3, 2, 2), (1, 1), ((4, 3), (0, 5))),
    "negative-padding": ((2, 5, 5, 2), (3, 2, 2, 3), (1, 1), ((-1, 0), (1, -2))),
    "stride-2-same": ((2, 4, 6, 2), (3, 3, 2, 3), (2, 2), "SAME"),
    "stride-2-same-odd-image": ((2, 5, 3, 2), (3, 3, 2, 3), (2, 2), "SAME"),
    "stride-2-valid-with-a-rest": ((2, 6, 5, 2), (3, 2, 2, 3), (2, 2), "VALID"),
    "stride-2-1x1": ((2, 4, 5, 2), (1, 1, 2, 3), (2, 2), "SAME"),
    "stride-2-5x5": ((2, 5, 4, 1), (5, 5, 1, 2), (2, 2), "SAME"),
    "stride-2x1": ((2, 4, 3, 2), (3, 3, 2, 3), (2, 1), "SAME"),
    "stride-2x1-asymmetric": ((2, 6, 3, 2), (3, 2, 2, 3), (2, 1), ((2, 0), (0, 3))),
    "stride-3-2x2-asymmetric": ((2, 5, 6, 2), (2, 2, 2, 3), (3, 3), ((1, 0), (0, 2))),
    "stride-2-negative-padding": ((2, 6, 5, 2), (2, 3, 2, 2), (2, 2), ((-1, 0), (2, -1))),
    "stride-1-as-a-list": ((2, 3, 3, 2), (3, 3, 2, 2), [1, 1], [(1, 1), (0, 1)]),
    "nothing-left": ((2, 1, 2, 2), (3, 3, 2, 2), (1, 1), "VALID"),
    "stride-2-nothing-left": ((2, 2, 1, 2), (5, 3, 2, 2), (2, 2), "VALID"),
}


def normal(seed, shape, dtype=None):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def loss(conv, x, w):
    return jnp.sin(conv(x, w)).sum()


def scanned(conv, x, w):
    """A loop whose carry enters the next convolution."""
    return lax.scan(lambda total, x: (total + loss(conv, x, total * w), None), 1.0, jnp.stack([x, 2 * x]))[0]


def hessian_vector(conv, x, w):
    def directional(x, w):
        gx, gw = jax.grad(partial(loss, conv), (0, 1))(x, w)
        return (gx * jnp.cos(x)).sum() + (gw * jnp.cos(w)).sum()

    return jax.grad(directional, (0, 1))(x, w)


def branched(conv, x, w):
    return lax.cond(x.sum() > 0, partial(loss, conv), lambda x, w: loss(conv, x, 2 * w), x, w)


def while_loop(conv, x, w):
    """The number of steps is traced: forward mode only."""
    steps = (jnp.abs(x).max() > 0) + 1
    return lax.fori_loop(0, steps, lambda _, x: x + 0.1 * jax.grad(partial(loss, conv))(x, w), x)


def pair(x):
    return jnp.stack([x, jnp.cos(x)])


def gradients(conv, x, w):
    return jax.grad(partial(loss, conv), (0, 1))(x, w)


def value_and_gradients(conv, x, w):
    return conv(x, w), gradients(conv, x, w)


TRANSFORMATIONS = {
    "jvp": lambda conv, x, w: jax.jvp(conv, (x, w), (jnp.cos(x), jnp.cos(w))),
    "vmap-x": lambda conv, x, w: jax.vmap(conv, (0, None))(pair(x), w),
    "vmap-x-of-another-axis": lambda conv, x, w: jax.vmap(conv, (2, None), 1)(jnp.moveaxis(pair(x), 0, 2), w),
    "vmap-w": lambda conv, x, w: jax.vmap(conv, (None, 0))(x, pair(w)),
    "vmap-w-of-another-axis": lambda conv, x, w: jax.vmap(conv, (None, 4), 2)(x, jnp.moveaxis(pair(w), 0, 4)),
    "vmap-both": lambda conv, x, w: jax.vmap(conv, (0, 1))(pair(x), jnp.moveaxis(pair(w), 0, 1)),
    "vmap-twice": lambda conv, x, w: jax.vmap(jax.vmap(conv, (None, 0)), (0, None))(pair(x), pair(w)),
    "vmap-of-gradient-over-x": lambda conv, x, w: jax.vmap(partial(gradients, conv), (0, None))(pair(x), w),
    "vmap-of-gradient-over-w": lambda conv, x, w: jax.vmap(partial(gradients, conv), (None, 0))(x, pair(w)),
    "gradient-of-vmap-over-both": lambda conv, x, w: gradients(jax.vmap(conv), pair(x), pair(w)),
    "hessian-vector": hessian_vector,
    "linearize": lambda conv, x, w: jax.linearize(conv, x, w)[1](jnp.cos(x), jnp.cos(w)),
    "linear_transpose": lambda conv, x, w: jax.linear_transpose(lambda x: conv(x, w), x)(jnp.sin(conv(x, w))),
    "jacfwd": lambda conv, x, w: jax.jacfwd(conv, (0, 1))(x, w),
    "jacrev": lambda conv, x, w: jax.jacrev(conv, (0, 1))(x, w),
    "scan": lambda conv, x, w: jax.value_and_grad(partial(scanned, conv), (0, 1))(x, w),
    "while": lambda conv, x, w: jax.jvp(partial(while_loop, conv), (x, w), (jnp.cos(x), jnp.cos(w))),
    "cond": lambda conv, x, w: jax.grad(partial(branched, conv), (0, 1))(x, w),
    "remat": lambda conv, x, w: jax.grad(jax.checkpoint(partial(loss, conv)), (0, 1))(x, w),
    "jit": lambda conv, x, w: jax.grad(jax.jit(partial(loss, conv)), (0, 1))(x, w),
}


def assert_close(actual, expected, rtol=1e-12):
    """The same pytree; the tolerance is relative to the largest value of each leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        got, want = np.asarray(got, float), np.asarray(want, float)
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * np.abs(want).max(initial=0))


def by_both(run):
    """`run(implementation, ...)` with the fast convolution and with that of lax, compiled together."""
    return jax.jit(lambda *args: tuple(run(f, *args) for f in (conv_general_dilated, lax.conv_general_dilated)))


def assert_equals_lax(function, geometry):
    x_shape, w_shape, strides, padding = GEOMETRIES[geometry]

    def run(implementation, x, w):
        conv = partial(implementation, window_strides=strides, padding=padding, dimension_numbers=NHWC)
        return function(lambda x, w: conv(x, w), x, w)

    assert_close(*by_both(run)(normal(0, x_shape), normal(1, w_shape)))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_value_and_gradients_equal_lax(float64, geometry):
    assert_equals_lax(value_and_gradients, geometry)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("lhs_dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("rhs_dilation", [(1, 2), (2, 2)])
def test_dilated_convolutions_and_their_second_order_gradients_equal_lax(float64, strides, lhs_dilation, rhs_dilation):
    dilations = {"lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}

    def run(implementation, x, w):
        conv = partial(
            implementation, window_strides=strides, padding=[(1, 2), (0, 1)], dimension_numbers=NHWC, **dilations
        )

        def norm_of_gradients(x, w):
            gradients = jax.grad(lambda x, w: jnp.sin(conv(x, w)).sum(), (0, 1))(x, w)
            return sum((g**2).sum() for g in gradients)

        return jax.value_and_grad(norm_of_gradients, (0, 1))(x, w)

    assert_close(*by_both(run)(normal(0, (2, 5, 4, 2)), normal(1, (3, 2, 2, 3))))


@pytest.mark.parametrize("geometry", ["stride-2x1-asymmetric"])
@pytest.mark.parametrize("check", TRANSFORMATIONS)
def test_transformations_equal_lax(float64, geometry, check):
    assert_equals_lax(TRANSFORMATIONS[check], geometry)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_floats_keep_their_dtype(dtype):
    x, w = normal(0, (2, 4, 5, 3), dtype), normal(1, (3, 3, 3, 2), dtype)

    def run(implementation, x, w):
        conv = partial(implementation, window_strides=(2, 2), padding="SAME", dimension_numbers=NHWC)
        return value_and_gradients(lambda x, w: conv(x, w), x, w)

    assert_close(*by_both(run)(x, w), 1e-5 if dtype == "float32" else 0.02)


def test_eager_calls_equal_compiled_ones():
    conv = partial(conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)
    x, w = normal(0, (2, 4, 3, 2)), normal(1, (3, 3, 2, 3))
    gradient = jax.grad(partial(loss, conv), (0, 1))
    assert_close((conv(x, w), gradient(x, w)), jax.jit(lambda x, w: (conv(x, w), gradient(x, w)))(x, w), 1e-5)


# which convolutions take the fast path ------------------------------------------------------------------------------

IMAGE, KERNEL = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32)
LINE, VOLUME = jax.ShapeDtypeStruct((2, 8, 4), jnp.float32), jax.ShapeDtypeStruct((2, 8, 8, 8, 4), jnp.float32)

PASSED_ON = {  # name: (x, w, arguments)
    "groups": (
        IMAGE, jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32), {"feature_group_count": 2, "dimension_numbers": NHWC}),
    "batch groups": (IMAGE, KERNEL, {"batch_group_count": 2, "dimension_numbers": NHWC}),
    "wider sums": (
        jax.ShapeDtypeStruct(IMAGE.shape, jnp.bfloat16), jax.ShapeDtypeStruct(KERNEL.shape, jnp.bfloat16),
        {"preferred_element_type": jnp.float32, "dimension_numbers": NHWC}),
    "one dimension": (
        LINE, jax.ShapeDtypeStruct((3, 4, 5), jnp.float32),
        {"window_strides": (1,), "dimension_numbers": ("NHC", "HIO", "NHC")}),
    "three dimensions": (
        VOLUME, jax.ShapeDtypeStruct((3, 3, 3, 4, 5), jnp.float32),
        {"window_strides": (1, 1, 1), "dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")}),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED_ON)
def test_other_convolutions_are_passed_on_unchanged(name):
    x, w, arguments = PASSED_ON[name]
    arguments = {"window_strides": (1, 1), "padding": "SAME"} | arguments
    implementations = (conv_general_dilated, lax.conv_general_dilated)
    fast, plain = (jax.make_jaxpr(partial(f, **arguments))(x, w) for f in implementations)
    assert str(fast) == str(plain)
    assert "canonical_conv" not in str(fast)


LAYOUTS = {  # name: (the axes of x and of w, as permutations of those of the fast layout; arguments)
    "default": ((0, 3, 1, 2), (3, 2, 0, 1), {}),
    "channels first": ((0, 3, 1, 2), (3, 2, 0, 1), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    "output channels first": ((0, 1, 2, 3), (0, 1, 2, 3), {"dimension_numbers": ("NHWC", "HWIO", "NCHW")}),
    "batch last": ((1, 3, 2, 0), (2, 0, 1, 3), {"dimension_numbers": ("HCWN", "IHWO", "CHWN")}),
    "width first": ((0, 2, 1, 3), (1, 0, 2, 3), {"dimension_numbers": ("NWHC", "WHIO", "WNCH")}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", ["SAME", [(1, 2), (0, 1)]], ids=["same", "numbers"])
def test_other_layouts_take_the_fast_path_between_transpositions(float64, layout, padding):
    x_axes, w_axes, arguments = LAYOUTS[layout]
    x, w = normal(0, (2, 7, 6, 3)).transpose(x_axes), normal(1, (3, 2, 3, 4)).transpose(w_axes)

    def run(implementation, x, w):
        conv = partial(implementation, window_strides=(2, 1), padding=padding, rhs_dilation=(1, 2), **arguments)
        return value_and_gradients(lambda x, w: conv(x, w), x, w)

    assert_close(*by_both(run)(x, w))
    conv = partial(conv_general_dilated, window_strides=(2, 1), padding=padding, **arguments)
    assert "conv_general_dilated" not in primitives(jax.make_jaxpr(conv)(x, w))


@pytest.mark.parametrize(
    "arguments",
    [
        {"dimension_numbers": NHWC},
        {"dimension_numbers": lax.conv_dimension_numbers(IMAGE.shape, KERNEL.shape, NHWC)},
        {"dimension_numbers": NHWC, "lhs_dilation": (1, 1), "rhs_dilation": [1, 1], "feature_group_count": 1},
        {"dimension_numbers": NHWC, "precision": "highest", "preferred_element_type": jnp.float32},
        {"dimension_numbers": NHWC, "preferred_element_type": None, "batch_group_count": 1},
    ],
)
def test_plain_image_convolutions_take_the_fast_path(arguments):
    conv = partial(conv_general_dilated, window_strides=(2, 1), padding="SAME", **arguments)
    program = str(jax.make_jaxpr(conv)(IMAGE, KERNEL))
    assert "canonical_conv" in program and "conv_general_dilated" not in program


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (2, 4), (None, 4)])
def test_the_gradient_of_strides_is_the_same_for_many_images_and_kernels(float64, axes):
    def pulled(implementation, ct, w):
        conv = partial(implementation, window_strides=(2, 3), padding=((1, 0), (0, 2)), dimension_numbers=NHWC)
        return jax.vjp(lambda x: conv(x, w), jnp.zeros((2, 6, 7, 2)))[1](ct)[0]

    shapes = [(2, 2, 3, 3), (4, 3, 2, 3)]
    for i, axis in enumerate(axes):
        if axis is not None:
            shapes[i] = (*shapes[i][:axis], 5, *shapes[i][axis:])
    ct, w = normal(1, shapes[0]), normal(2, shapes[1])
    found, expected = by_both(lambda f, ct, w: jax.vmap(partial(pulled, f), axes)(ct, w))(ct, w)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_no_gradient_of_a_convolution_with_strides_multiplies_zeros():
    """Of the image, of the kernel, and those of the image's gradient: none dilates an image."""
    conv = partial(conv_general_dilated, window_strides=(2, 2), padding="SAME", dimension_numbers=NHWC)

    def gradients(x, w):
        pull = lambda x, w: jax.grad(lambda x: (conv(x, w) ** 2).sum())(x)  # noqa: E731
        return pull(x, w), jax.grad(lambda x, w: (pull(x, w) ** 3).sum(), (0, 1))(x, w)

    shapes = jax.ShapeDtypeStruct((2, 8, 6, 2), jnp.float32), jax.ShapeDtypeStruct((4, 3, 2, 3), jnp.float32)
    program = jax.jit(gradients).lower(*shapes).compile().as_text()
    assert "convolution(" in program and "lhs_dilate" not in program


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_the_fast_convolution_is_that_of_lax_on_other_backends(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def model(x, w):
        return conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)

    assert "canonical_conv" not in str(jax.make_jaxpr(model)(IMAGE, KERNEL))
    assert "canonical_conv" not in str(jax.make_jaxpr(fast_convs(cnn))(cnn_params(), CNN_INPUT))


# what it is for -----------------------------------------------------------------------------------------------------


def gradient_of_a_scan(conv, x, w):
    def run(x, w):
        return lax.scan(lambda x, w: (jnp.tanh(conv(x, w)), None), x, jnp.stack([w, w, w]))[0].sum()

    return jax.grad(run, (0, 1))(x, w)


def gradients_inside_a_loop(conv, x, w):
    """An attack: the loop body holds a gradient."""
    return lax.fori_loop(0, 3, lambda _, x: x + 0.1 * jax.grad(partial(loss, conv))(x, w), x)


def training_inside_a_loop(conv, x, w):
    return lax.fori_loop(0, 3, lambda _, w: w - 0.1 * jax.grad(partial(loss, conv), 1)(x, w), w)


def loop_in_a_branch(conv, x, w):
    return lax.cond(x.sum() > 0, partial(gradient_of_a_scan, conv), lambda x, w: (x, w), x, w)


def strided_gradients_inside_a_loop(conv, x, w):
    return gradients_inside_a_loop(partial(conv, window_strides=(2, 2)), x, w)


def dilated_gradients_inside_a_loop(conv, x, w):
    return gradients_inside_a_loop(partial(conv, rhs_dilation=(2, 2)), x, w)


def layouts(function, conv):
    """The layouts of the convolutions in the compiled program."""
    same = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
    program = jax.jit(partial(function, lambda x, w, **changes: conv(x, w, **(same | changes))))
    program = program.lower(IMAGE, KERNEL).compile().as_text()
    return set(re.findall(r"dim_labels=([^ ,]+)", program))


@pytest.mark.parametrize(
    "function",
    [
        gradient_of_a_scan,
        gradients_inside_a_loop,
        strided_gradients_inside_a_loop,
        dilated_gradients_inside_a_loop,
        training_inside_a_loop,
        loop_in_a_branch,
    ],
)
def test_inside_loops_every_compiled_convolution_is_in_the_fast_layout(function):
    plain = layouts(function, lax.conv_general_dilated)
    if not plain:
        pytest.skip("this XLA no longer writes the layout of its convolutions into the program")
    assert plain - {"b01f_01io->b01f"}, (
        "this XLA puts every convolution into the fast layout by itself: delete invjax/_conv"
    )
    assert layouts(function, conv_general_dilated) == {"b01f_01io->b01f"}


# fast_convs ---------------------------------------------------------------------------------------------------------

STEM, STRIDED, BLOCK = nn.Conv(3, (3, 3)), nn.Conv(4, (3, 3), strides=2, padding=1), nn.Conv(4, (2, 2))
HEAD, DOWN = nn.Conv(2, (1, 1), use_bias=False), nn.Conv(4, (2, 2), strides=(2, 2))
CNN_INPUT = normal(0, (2, 8, 6, 1))


def cnn(params, x, *, gain=1.0):
    """A network with convolutions under jit, remat, scan, scan inside remat, fori and one branch of a cond."""
    x = nn.relu(jax.jit(STEM.apply)(params["stem"], x))
    x = jax.checkpoint(lambda p, x: nn.relu(STRIDED.apply(p, x)))(params["strided"], x)
    x, activity = lax.scan(lambda x, p: (x + jnp.tanh(BLOCK.apply(p, x)), x.mean()), x, params["blocks"])
    x = jax.checkpoint(lambda x: lax.map(lambda x: nn.gelu(DOWN.apply(params["down"], x)), x[:, None]))(x)[:, 0]
    first = jax.tree.map(lambda p: p[0], params["blocks"])
    x = lax.fori_loop(0, 2, lambda i, x: x + 0.1 * i * BLOCK.apply(first, x), x)
    x = lax.cond(x.mean() > 0, lambda x: HEAD.apply(params["head"], x), lambda x: -x[..., :2], x)
    return {"logits": gain * x.mean((1, 2)), "activity": (activity, None)}


@cache
def cnn_params():
    def stack(module, channels, n=None):
        shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32))
        return jax.tree.map(lambda leaf: 0.3 * normal(leaf.size, ((n,) if n else ()) + leaf.shape), shapes)

    return {"stem": stack(STEM, 1), "strided": stack(STRIDED, 3), "blocks": stack(BLOCK, 4, 2), "down": stack(DOWN, 4),
            "head": stack(HEAD, 4)}  # fmt: skip


def primitives(jaxpr):
    """The names of all primitives of a program, those inside loops and branches included."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    inner = [value for eqn in jaxpr.eqns for value in jax.tree.leaves(list(eqn.params.values()))]
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    return names.union(*(primitives(value) for value in inner if hasattr(getattr(value, "jaxpr", value), "eqns")))


def test_fast_convs_leaves_no_plain_convolution():
    plain, fast = (primitives(jax.make_jaxpr(f)(cnn_params(), CNN_INPUT)) for f in (cnn, fast_convs(cnn)))
    assert {"conv_general_dilated", "scan", "cond"} <= plain
    assert "canonical_conv" in fast and "conv_general_dilated" not in fast
    assert plain - {"conv_general_dilated"} <= fast


def cnn_loss(function, params, x):
    out = function(params, x, gain=1.5)
    return (out["logits"] ** 2).sum() + out["activity"][0].sum()


def test_fast_convs_has_the_same_values_and_gradients():
    def run(function):
        outputs = function(cnn_params(), CNN_INPUT, gain=1.5)
        return outputs, jax.grad(partial(cnn_loss, function), (0, 1))(cnn_params(), CNN_INPUT)

    assert_close(*jax.jit(lambda: (run(fast_convs(cnn)), run(cnn)))(), 1e-5)


def test_fast_convs_composes_with_jit_vmap_and_forward_mode():
    def run(function):
        slope = jax.vmap(jax.grad(partial(cnn_loss, function), 1), (None, 0))
        forward = partial(cnn_loss, jax.jit(function), cnn_params())
        images = jnp.stack([CNN_INPUT, -CNN_INPUT])
        return slope(cnn_params(), images), jax.jvp(forward, (CNN_INPUT,), (jnp.cos(CNN_INPUT),))

    assert_close(*jax.jit(lambda: (run(fast_convs(cnn)), run(cnn)))(), 1e-5)


def test_fast_convs_reaches_both_functions_of_a_while_loop():
    w = normal(1, (3, 3, 1, 1))
    conv = partial(lax.conv_general_dilated, rhs=w, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)

    def run(x):
        return lax.while_loop(lambda x: jnp.abs(conv(x)).max() > 0.1, lambda x: 0.2 * x + 0.01 * conv(x), x)

    x = normal(0, (1, 3, 3, 1))
    assert "conv_general_dilated" not in primitives(jax.make_jaxpr(fast_convs(run))(x))
    assert_close(*jax.jit(lambda x: (fast_convs(run)(x), run(x)))(x), 1e-5)


def test_fast_convs_in_double_precision_equals_lax(float64):
    params, x = jax.tree.map(lambda leaf: leaf.astype("float64"), (cnn_params(), CNN_INPUT))
    module = nn.Conv(3, (3, 3), strides=2, param_dtype=jnp.float64)
    x = np.concatenate([x] * 3, -1)

    def run(params, x):
        return jnp.sin(module.apply(params["strided"], x)).sum()

    params = {"strided": {"params": {"kernel": normal(1, (3, 3, 3, 3)), "bias": normal(2, (3,))}}}
    both = jax.jit(lambda *args: tuple(jax.value_and_grad(f, (0, 1))(*args) for f in (fast_convs(run), run)))
    assert_close(*both(params, x))


def test_fast_convs_keeps_grouped_convolutions():
    module = nn.Conv(4, (3, 3), feature_group_count=2, kernel_dilation=2)
    x = normal(0, (1, 5, 5, 4))
    params = {"params": {"kernel": normal(1, (3, 3, 2, 4)), "bias": jnp.zeros(4)}}
    assert primitives(jax.make_jaxpr(fast_convs(module.apply))(params, x)) >= {"conv_general_dilated"}
    assert_close(*jax.jit(lambda *args: (fast_convs(module.apply)(*args), module.apply(*args)))(params, x), 1e-6)


@pytest.mark.parametrize("rule", ["custom_vjp", "custom_jvp"])
def test_fast_convs_keeps_custom_derivative_rules(rule):
    """A rule of the user's own wins, even one that is not the derivative: here 7 times the cotangent."""
    conv = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)
    w = normal(1, (3, 3, 1, 1))

    if rule == "custom_vjp":
        special = jax.custom_vjp(lambda x: conv(x, w))
        special.defvjp(lambda x: (conv(x, w), None), lambda _, ct: (7 * ct,))
    else:
        special = jax.custom_jvp(lambda x: conv(x, w))
        special.defjvp(lambda primals, tangents: (conv(*primals, w), 7 * tangents[0]))

    def run(x):
        return special(conv(x, w)).sum()

    x = normal(0, (1, 3, 4, 1))
    assert_close(*jax.jit(lambda x: tuple(jax.value_and_grad(f)(x) for f in (fast_convs(run), run)))(x), 1e-5)


def test_fast_convs_keeps_weakly_typed_loop_carries():
    """Python numbers are weakly typed; a rewritten loop must still take them."""
    w = normal(1, (3, 3, 1, 1))

    def run(x):
        def body(carry, _):
            y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
            return (carry[0] * 0.5, carry[1] + carry[0] * y.sum()), None

        return lax.scan(body, (1.0, 0.0), None, length=3)[0][1]

    x = normal(0, (1, 3, 3, 1))
    assert_close(*jax.jit(lambda x: tuple(jax.value_and_grad(f)(x) for f in (fast_convs(run), run)))(x), 1e-5)


def test_fast_convs_keeps_the_name_and_the_pytrees():
    assert fast_convs(cnn).__name__ == "cnn"
    tree = [(1.0, None), {"a": jnp.ones(2)}]
    assert jax.tree.structure(fast_convs(lambda tree: {"b": tree})(tree)) == jax.tree.structure({"b": tree})

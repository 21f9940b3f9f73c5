"""Every refusal names the value and the fix; what needs values is silent while tracing, what needs shapes is not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import _check, _logits

REFUSED = {  # name: (call, message)
    "positive-zero": (lambda: _check.positive(eps=0), "eps must be positive; got eps=0"),
    "positive-negative": (lambda: _check.positive(eps=-0.5), "eps must be positive; got eps=-0.5"),
    "positive-nan": (lambda: _check.positive(eps=float("nan")), "eps must be positive; got eps=nan"),
    "positive-second": (lambda: _check.positive(steps=3, n=-2), "n must be positive; got n=-2"),
    "positive-any": (lambda: _check.positive(eps=np.array([1, 0])), "eps must be positive; got eps=[1 0]"),
    "positive-jax": (lambda: _check.positive(eps=jnp.float32(-1.5)), "eps must be positive; got eps=-1.5"),
    "divisible": (
        lambda: _check.divisible("coupling", (4, 3), 2, "put squeeze() first"),
        "coupling needs sizes divisible by 2; got (4, 3); put squeeze() first",
    ),
    "floating-bytes": (
        lambda: _check.floating("images", np.zeros(2, np.uint8)),
        "images must be floating point; got dtype uint8; convert bytes with data.as_float(images)",
    ),
    "floating-int": (
        lambda: _check.floating("x", jnp.zeros(2, jnp.int32)),
        "x must be floating point; got dtype int32",
    ),
    "floating-bool": (lambda: _check.floating("x", np.zeros(2, bool)), "x must be floating point; got dtype bool"),
    "finite-nan": (
        lambda: _check.finite("images", np.array([[1.0, np.nan], [np.nan, 0.0]])),
        "images holds 2 NaN or infinite values of 4; remove them before this call",
    ),
    "finite-infinite": (
        lambda: _check.finite("x", jnp.array([1.0, -jnp.inf, jnp.inf])),
        "x holds 2 NaN or infinite values of 3; remove them before this call",
    ),
    "finite-bfloat16": (lambda: _check.finite("x", jnp.full(3, jnp.nan, jnp.bfloat16)), "x holds 3 NaN or infinite"),
    "labels-high": (
        lambda: _check.labels(jnp.array([2, 10]), 10),
        "labels must be in [0, 10); got values from 2 to 10; check num_classes, or subtract the smallest label",
    ),
    "labels-negative": (lambda: _check.labels(np.array([-1, 3]), 10), "in [0, 10); got values from -1 to 3; check"),
    "labels-float": (
        lambda: _check.labels(np.array([0.0, 1.0]), 10),
        "labels must be integer class indices; got dtype float64; use argmax on one-hot labels",
    ),
    "labels-bool": (lambda: _check.labels(np.array([True]), 2), "labels must be integer class indices; got dtype bool"),
    "number-negative": (lambda: _check.number("eps", -1e-9), "eps must not be negative; got eps=-1e-09"),
    "number-nan": (lambda: _check.number("eps", jnp.float32(jnp.nan)), "eps must not be negative; got eps=nan"),
    "number-array": (
        lambda: _check.number("eps", np.array([0.1, 0.2])),
        "eps must be one number; got an array of shape (2,); call once for each, or use evaluation.robustness_curve",
    ),
    "number-list": (lambda: _check.number("radius", [0.1]), "radius must be one number; got an array of shape (1,)"),
    "within-empty": (
        lambda: _check.within("x", np.zeros((0, 2)), (0.0, 1.0)),
        "x must hold at least one example; got shape (0, 2); check the split of the data",
    ),
    "each-shape": (
        lambda: _check.one_or_each("eps", np.zeros((3, 1)), 3),
        "eps must be one number, or one for each of the 3 images; got an array of shape (3, 1); for several radii use",
    ),
    "each-negative": (lambda: _check.one_or_each("eps", -np.ones(2), 2), "eps must not be negative; got eps=[-1. -1.]"),
    "within-bytes": (lambda: _check.within("x", np.zeros(2, np.uint8), (0.0, 1.0)), "x must be floating point"),
    "within-nan": (lambda: _check.within("x", np.array([np.nan, 0.5]), (0.0, 1.0)), "x holds 1 NaN or infinite values"),
    "within-infinite": (lambda: _check.within("x", np.array([-np.inf]), (-np.inf, np.inf)), "x holds 1 NaN or inf"),
    "within-high": (
        lambda: _check.within("images", np.array([0.0, 255.0]), (0.0, 1.0)),
        "images must lie in (0.0, 1.0); got values from 0 to 255; scale them: images / 255, or pass",
    ),
    "within-low": (
        lambda: _check.within("x", jnp.array([-1.5, 0.0]), (-1.0, 1.0)),
        "x must lie in (-1.0, 1.0); got values from -1.5 to 0; scale them",
    ),
    "within-barely": (lambda: _check.within("x", np.array([1.00001]), (0.0, 1.0)), "got values from 1 to 1; scale"),
    "logits-of-vector": (
        lambda: _logits.num_classes(lambda x: x[:, 0], np.zeros((3, 5)), np.zeros(3, int)),
        "the model must map images (3, 5) to logits [3, classes]; got (3,); two classes need two logits",
    ),
    "logits-of-one-class": (
        lambda: _logits.num_classes(lambda x: x[:, :1], np.zeros((3, 5)), np.zeros(3, int)),
        "to logits [3, classes]; got (3, 1); two classes need two logits, such as [-z, z]",
    ),
    "logits-of-other-batch": (
        lambda: _logits.num_classes(lambda x: x[:2], np.zeros((3, 5)), np.zeros(3, int)),
        "to logits [3, classes]; got (2, 5)",
    ),
    "logits-of-tuple": (
        lambda: _logits.num_classes(lambda x: (x, x), np.zeros((3, 5)), np.zeros(3, int)),
        "to logits [3, classes]; got 2 outputs; return the logits alone",
    ),
    "logits-of-labels": (
        lambda: _logits.num_classes(lambda x: x, np.zeros((3, 5)), np.zeros((3, 5), int)),
        "labels must have shape [3], one for each image; got (3, 5); use labels.argmax(1), which undoes",
    ),
    "one_of": (
        lambda: _check.one_of("preset", "minst", {"mnist": 0, "digits": 1}),
        "preset must be one of 'mnist', 'digits'; got 'minst'",
    ),
}

ACCEPTED = {
    "positive": lambda: _check.positive(eps=1e-9, n=1, many=np.array([1.0, 2.0]), traced=jnp.float32(3)),
    "divisible": lambda: _check.divisible("coupling", (4, 6, 0), 2, "put squeeze() first"),
    "floating": lambda: [
        _check.floating("x", np.zeros(2, d)) for d in (np.float16, np.float32, np.float64, jnp.bfloat16)
    ],
    "finite": lambda: _check.finite("x", np.array([0.0, -1e30])),
    "finite-integers": lambda: _check.finite("x", np.arange(3)),
    "finite-empty": lambda: _check.finite("x", np.zeros((0, 2))),
    "labels": lambda: [_check.labels(np.array([0, 9], d), 10) for d in (np.uint8, np.int32, np.int64)],
    "labels-empty": lambda: _check.labels(np.zeros(0, np.int32), 10),
    "number": lambda: [_check.number("eps", eps) for eps in (0, 0.5, np.inf, np.float32(1), jnp.float32(2))],
    "within": lambda: [_check.within("x", np.array([0.0, 1.0], d), (0.0, 1.0)) for d in (np.float32, jnp.bfloat16)],
    "within-rounding": lambda: _check.within("x", np.array([-1e-7, 1 + 1e-7]), (0.0, 1.0)),
    "within-no-bounds": lambda: _check.within("x", np.array([-1e9, 1e9]), (-np.inf, np.inf)),
    "one_of": lambda: _check.one_of("preset", "mnist", ("mnist", "digits")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_value_and_the_fix(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("name", ACCEPTED)
def test_valid_values_pass(name):
    ACCEPTED[name]()


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: jax.jit(jax.grad(lambda x: f(x).sum()))])
def test_values_are_not_checked_while_tracing(transform):
    def f(x):
        _check.positive(x=x)
        _check.finite("x", x)
        return x

    transform(f)(jnp.array([-1.0, jnp.nan]))


def test_label_values_are_not_checked_while_tracing():
    def f(y):
        _check.labels(y, 10)
        return y

    assert jax.jit(f)(jnp.array([-1, 99])).tolist() == [-1, 99]


@pytest.mark.parametrize(
    ("check", "dtype", "message"),
    [
        (lambda x: _check.labels(x, 10), jnp.float32, "got dtype float32; use argmax"),
        (
            lambda x: _check.floating("images", x),
            jnp.uint8,
            "got dtype uint8; convert bytes with data.as_float(images)",
        ),
        (lambda x: _check.divisible("squeeze", x.shape, 2, "pad it"), jnp.float32, "got (3,); pad it"),
    ],
)
def test_dtypes_and_shapes_are_checked_while_tracing(check, dtype, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(check, jax.ShapeDtypeStruct((3,), dtype))


def test_numbers_and_ranges_are_not_checked_while_tracing():
    def f(x):
        _check.number("eps", x[0])
        _check.within("x", x, (0.0, 1.0))
        return x

    assert jax.jit(f)(jnp.array([-1.0, 7.0])).tolist() == [-1, 7]


def test_logits_of_counts_the_classes_without_running_the_model():
    def model(x):
        assert isinstance(x, jax.core.Tracer), "the model ran"
        return x @ jnp.ones((5, 7))

    assert _logits.num_classes(model, np.zeros((3, 5), np.float32), np.zeros(3, int)) == 7

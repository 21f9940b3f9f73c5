"""The fully invertible RevNet drops nothing: every code is the code of one image, every image has one code."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.bijectors import (
    actnorm,
    additive_coupling,
    affine_coupling,
    chain,
    conv1x1,
    factor_out,
    permute,
    repeat,
    reverse,
    roll,
    squeeze,
)
from invjax.models import PRESETS, Code, conv_net, fi_revnet, invertible_classifier, mlp, num_params, preset

small = partial(fi_revnet, (4, 4, 1), 3, (2, 1), ((8,), (8,)))


def images(shape, batch=2):
    return jnp.asarray(np.random.default_rng(0).uniform(size=(batch, *shape)), jnp.result_type(float))


def drawn(model, x, seed=1):
    """Random parameters, the last layers of the couplings included, of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, size = getattr(path[-1], "key", None), leaf.shape[-1]
        if name == "permutation":
            return jnp.asarray(np.broadcast_to(np.eye(size)[::-1], leaf.shape), x.dtype)
        if name == "sign":
            return jnp.ones(leaf.shape, x.dtype)
        fan_in = math.prod(leaf.shape[-4:-1]) if name == "kernel" else 1
        gain = 0.7 if name == "kernel" else 0.05
        return jnp.asarray(gain / np.sqrt(fan_in) * rng.normal(size=leaf.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), x))


def shapes_of(model, batch=2):
    """The shapes of parameters, code, log-determinant and decoded image; nothing is computed."""
    x = jax.ShapeDtypeStruct((batch, *model.shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    code, logdet = jax.eval_shape(model.encode, params, x)
    return params, code, logdet, jax.eval_shape(model.decode, params, code), jax.eval_shape(model.apply, params, x)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_all_dimensions(name):
    model = preset(name)
    _, code, logdet, decoded, logits = shapes_of(model)
    assert code.logits.shape == logits.shape == (2, model.num_classes)
    assert code.nuisance.shape == (2, math.prod(model.shape) - model.num_classes)
    assert logdet.shape == (2,)
    assert decoded.shape == (2, *model.shape)


def convolutions(params):
    """How many convolution kernels, the stacked ones of `repeat` counted one by one."""
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]
    return sum(math.prod(leaf.shape[:-4]) for leaf in kernels)


def test_imagenet_48_has_48_convolutions_and_ends_in_3072_maps_of_7x7():
    model = preset("imagenet-48")
    params, code, *_ = shapes_of(model)
    assert convolutions(params) == 48
    z, _ = jax.eval_shape(model.bijector.forward, params, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))
    assert z.shape == (2, 7, 7, 3072)
    assert code.logits.shape == (2, 1000)


def test_changes_replace_the_arguments_of_a_preset():
    params, code, *_ = shapes_of(preset("mnist", blocks=(32, 32), num_classes=7))
    assert convolutions(params) == 2 * 64
    assert code.logits.shape == (2, 7)


def test_each_level_has_its_own_hidden_channels_and_number_of_blocks():
    params, *_ = shapes_of(fi_revnet((8, 8, 1), 3, (2, 0, 3), ((5,), (), (6, 7))))
    kernels = [leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]
    first_level = [(2, 3, 3, 2, 5), (2, 3, 3, 5, 2)]
    third_level = [(3, 3, 3, 32, 6), (3, 3, 3, 6, 7), (3, 3, 3, 7, 32)]
    assert kernels == first_level + third_level


@pytest.mark.slow
def test_mix_coupling_and_anchors_are_those_asked_for():
    def names(model):
        return {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes_of(model)[0])}

    def program(model):
        params, *_ = shapes_of(model)
        x = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)
        return str(jax.make_jaxpr(jax.grad(lambda params, x: model.apply(params, x).sum()))(params, x))

    assert "log_s" not in names(small()) and "log_s" in names(small(mix=conv1x1))
    assert num_params(shapes_of(small(coupling=affine_coupling))[0]) > num_params(shapes_of(small())[0])
    assert len({program(small(anchor_every=every)) for every in (None, 1)}) == 2


# exact inversion ----------------------------------------------------------------------------------------------------


def multiscale():
    """The architecture of RealNVP and Glow: half of the channels leave early."""
    block = chain([actnorm(), conv1x1(), affine_coupling(lambda channels: conv_net(channels, (8,)))])
    return invertible_classifier(chain([squeeze(), block, factor_out(chain([squeeze(), block]))]), (4, 4, 1), 3)


def vectors():
    block = chain([actnorm(), reverse(), affine_coupling(lambda channels: mlp(channels, (8,)))])
    return invertible_classifier(repeat(block, 2), (6,), 2)


MODELS = {  # name: factory
    "digits": partial(preset, "digits"),
    "mnist": partial(preset, "mnist"),
    "depth-64": partial(preset, "mnist", blocks=(32, 32)),
    "conv1x1": partial(small, mix=conv1x1),
    "affine": partial(small, coupling=affine_coupling, mix=partial(permute, 1)),
    "additive": partial(small, readout=roll((1, 0))),
    "factor_out": multiscale,
    "vectors": vectors,
}


@cache
def built(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        model = MODELS[name]()
        x = images(model.shape)
        params = drawn(model, x)
        encode, decode = jax.jit(model.encode), jax.jit(model.decode)
        return model, params, x, encode, decode, encode(params, x)


CASES = [(name, "float64") for name in MODELS] + [
    pytest.param((name, "float32"), marks=pytest.mark.slow if name == "mnist" else [])
    for name in ("digits", "mnist", "depth-64")
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request):
    with jax.enable_x64(request.param[1] == "float64"):
        yield built(*request.param), {"float32": 1e-4, "float64": 1e-9}[request.param[1]]


def test_decode_undoes_encode(case):
    (model, params, x, _, decode, (code, _)), tolerance = case
    assert code.logits.dtype == code.nuisance.dtype == x.dtype
    assert code.logits.shape[1] + code.nuisance.shape[1] == math.prod(model.shape)
    np.testing.assert_allclose(decode(params, code), x, rtol=0, atol=tolerance)


def test_encode_undoes_decode_for_a_code_that_no_image_had(case):
    """The logits of one image with the nuisance of another: a metamer."""
    (_, params, _, encode, decode, (code, _)), tolerance = case
    mixed = Code(code.logits, code.nuisance[::-1])
    again, _ = encode(params, decode(params, mixed))
    np.testing.assert_allclose(again.logits, mixed.logits, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(again.nuisance, mixed.nuisance, rtol=0, atol=10 * tolerance)


def test_the_couplings_of_these_tests_are_not_the_identity(case):
    """Couplings that are the identity would pass the tests above without proof."""
    (_, params, x, encode, _, (code, _)), _ = case
    nearby, _ = encode(params, x.at[(0,) * x.ndim].add(0.5))
    assert (np.abs(np.asarray(nearby.nuisance - code.nuisance)[0]) > 1e-6).mean() > 0.05


def test_logdet_is_zero_for_additive_couplings_up_to_actnorm_and_not_for_affine_ones(float64):
    def logdet(name):
        _, params, _, _, _, (_, logdet) = built(name, "float64")
        scales = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "log_scale"]
        positions = [4, 1]  # 4x4 images after one and two squeezes
        return logdet - sum(n * scale.sum() for n, scale in zip(positions, scales, strict=True))

    np.testing.assert_allclose(logdet("additive"), 0, atol=1e-12)
    assert (logdet("affine") < -0.1).all()


# the readout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [3, 16])
def test_logits_are_the_scaled_means_of_the_first_channels(num_classes):
    """Invertible global average pooling: the DC coefficient of channel k is sqrt(H W) times its mean."""
    build = partial(fi_revnet, (8, 8, 1), num_classes, (1, 1), ((4,), (4,)))
    model, without_readout = build(), build(readout=chain([]))
    x = images(model.shape)
    params = drawn(model, x)
    maps, _ = jax.jit(without_readout.bijector.forward)([*params[:-1], []], x)
    assert maps.shape == (2, 2, 2, 16)
    by_hand = 2 * maps.mean((1, 2))[:, :num_classes]
    np.testing.assert_allclose(jax.jit(model.apply)(params, x), by_hand, atol=1e-5)
    np.testing.assert_allclose(jax.jit(model.encode)(params, x)[0].logits, by_hand, atol=1e-5)


def test_the_readout_of_the_authors_reads_position_2_2():
    build = partial(fi_revnet, (12, 12, 1), 3, (1, 1), ((4,), (4,)))
    model, without_readout = build(readout=roll((2, 2))), build(readout=roll((0, 0)))
    x = images(model.shape)
    params = drawn(model, x)
    maps, _ = jax.jit(without_readout.bijector.forward)(params, x)
    assert maps.shape == (2, 3, 3, 16)
    np.testing.assert_allclose(jax.jit(model.apply)(params, x), maps[:, 2, 2, :3], atol=1e-6)


def test_every_value_of_the_map_is_in_the_code_once():
    model = small()
    x = images(model.shape)
    params = drawn(model, x)
    code, logdet = jax.jit(model.encode)(params, x)
    z, expected = jax.jit(model.bijector.forward)(params, x)
    np.testing.assert_allclose(jnp.concatenate(code, -1), z.reshape(2, -1), atol=1e-6)
    np.testing.assert_allclose(logdet, expected, rtol=1e-6)


# gradients ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_save_memory_changes_no_parameter_value_or_gradient(float64):
    saving, plain = (small(save_memory=save, anchor_every=2) for save in (True, False))
    x = images(saving.shape)
    initial = [jax.jit(model.init)(jax.random.key(0), x) for model in (saving, plain)]
    jax.tree.map(np.testing.assert_array_equal, *initial)
    params = drawn(saving, x)

    def loss(model, params, x):
        code, logdet = model.encode(params, x)
        return (code.logits**2).sum() + jnp.sin(code.nuisance).sum() + logdet.sum()

    results = [jax.jit(jax.value_and_grad(partial(loss, model), (0, 1)))(params, x) for model in (saving, plain)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), *results)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(results[0][1]))


def test_apply_can_be_differentiated_by_an_attack():
    model = small()
    x = images(model.shape)
    params = drawn(model, x)
    gradient = jax.jit(jax.grad(lambda x: model.apply(params, x)[:, 0].sum()))(x)
    assert gradient.shape == x.shape
    assert np.isfinite(gradient).all() and (np.abs(gradient).max((1, 2, 3)) > 1e-3).all()


def test_forward_mode_needs_save_memory_off():
    x = images((4, 4, 1))
    tangent = jnp.ones_like(x)
    params = drawn(small(), x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(lambda x, t: jax.jvp(partial(small().apply, params), (x,), (t,)))(x, tangent)
    plain = small(save_memory=False)
    logits, slope = jax.jit(lambda x, t: jax.jvp(partial(plain.apply, params), (x,), (t,)))(x, tangent)
    assert slope.shape == logits.shape == (2, 3)


def test_a_fresh_model_is_an_actnorm_of_the_data():
    """`init` sees the data: couplings start as the identity, so every channel of the last map has mean 0 and std 1."""
    model = small(readout=roll((0, 0)))
    x = images(model.shape, batch=16)
    z, _ = jax.jit(lambda key, x: model.bijector.forward(model.init(key, x), x))(jax.random.key(0), x)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, atol=1e-4)


# errors -------------------------------------------------------------------------------------------------------------

KEY, BLANK = jax.random.key(0), np.zeros((2, 4, 4, 1), np.float32)


def with_nan():
    return np.where(np.arange(32).reshape(BLANK.shape) == 5, np.nan, BLANK)


ERRORS = {  # name: (the fault, the value and the fix in the message)
    "bytes": (lambda: small().init(KEY, jnp.zeros((2, 4, 4, 1), jnp.uint8)), r"dtype uint8.*data\.as_float"),
    "nan": (lambda: small().init(KEY, jnp.asarray(with_nan())), r"1 NaN.* of 32; remove them"),
    "nan, encode": (lambda: small().encode(None, jnp.asarray(with_nan())), r"1 NaN.* of 32; remove them"),
    "nan, apply": (lambda: small().apply(None, jnp.asarray(with_nan())), r"1 NaN.* of 32; remove them"),
    "no channel axis": (
        lambda: small().apply(None, jnp.zeros((2, 4, 4))), r"\[batch, 4, 4, 1\]; got \(2, 4, 4\); add the axis"),
    "another size": (lambda: small().init(KEY, jnp.zeros((2, 8, 8, 1))), r"got \(2, 8, 8, 1\).*shape=\(8, 8, 1\)"),
    "unknown preset": (lambda: preset("mnsit"), r"'digits', 'mnist', 'cifar10', 'imagenet-48'; got 'mnsit'"),
    "too many classes": (lambda: preset("digits", num_classes=64), r"\[1, 64\) for images of \(8, 8, 1\); got 64"),
    "no classes": (lambda: preset("digits", num_classes=0), r"\[1, 64\) for images of \(8, 8, 1\); got 0"),
    "levels": (lambda: preset("digits", blocks=(2,)), r"blocks and hidden need one entry for each level; got 1 and 2"),
    "size that does not squeeze": (
        lambda: shapes_of(fi_revnet((6, 6, 1), 3, (0, 0), ((), ()))), r"squeeze\(2\) of.*\(2, 3, 3, 4\).*crop or pad"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_value_and_the_fix(name):
    wrong, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.slow
def test_couplings_of_long_levels_are_damped_by_their_number():
    seen = []

    def coupling(conditioner_fn):
        seen.append(conditioner_fn)
        return additive_coupling(conditioner_fn)

    fi_revnet((8, 8, 1), 3, blocks=(3, 4, 16), hidden=((8,), (8,), (8,)), coupling=coupling)
    x = jnp.ones((1, 2, 2, 2))
    for conditioner_fn, gain in zip(seen, (1, 1, 0.25), strict=True):
        params = jax.tree.map(lambda leaf: leaf + 0.1, conditioner_fn(2).init(jax.random.key(0), x))
        np.testing.assert_allclose(
            conditioner_fn(2).apply(params, x), gain * conv_net(2, (8,)).apply(params, x), rtol=1e-6
        )

"""Every bijector keeps the same promises. A new one is one line in BIJECTORS and inherits every check."""

import re
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from invjax.bijectors import (
    Bijector,
    actnorm,
    additive_coupling,
    affine_coupling,
    chain,
    conv1x1,
    dct2,
    dct_matrix,
    decision_marginals,
    decision_whitening,
    factor_out,
    flatten,
    invert,
    logit_box,
    logit_coupling,
    memory_saving,
    pad_channels,
    permute,
    repeat,
    reverse,
    roll,
    soft_tails,
    squeeze,
)
from invjax.bijectors._chain import reversible_of
from invjax.models import conv_net, mlp
from invjax.types import Net

BATCH = 3


def conv(channels):
    return conv_net(channels, (4,))


def dense(channels):
    return mlp(channels, (5,))


def pixelwise(channels):
    """A conditioner that compiles in no time: one layer, the same at each position of images and on vectors."""

    def init(key, x):
        return {"w": jnp.full((x.shape[-1], channels), 0.3, x.dtype)}

    return Net(init, lambda params, x: jnp.tanh(x @ params["w"]))


def step(coupling=additive_coupling, conditioner_fn=pixelwise, mix=reverse):
    """The block that deep stacks repeat."""
    return chain([actnorm(), mix(), coupling(conditioner_fn)])


affine_step = partial(step, affine_coupling)


BIJECTORS = {  # name: (factory, shape of one example)
    "squeeze": (squeeze, (4, 6, 2)),
    "squeeze-3": (lambda: squeeze(3), (3, 6, 1)),
    "reverse": (reverse, (2, 3, 4)),
    "reverse-vectors": (reverse, (5,)),
    "permute": (lambda: permute(1), (2, 3, 4)),
    "permute-vectors": (lambda: permute(2), (5,)),
    "actnorm": (actnorm, (2, 3, 4)),
    "actnorm-vectors": (actnorm, (5,)),
    "conv1x1": (conv1x1, (2, 3, 4)),
    "conv1x1-vectors": (conv1x1, (5,)),
    "additive_coupling": (lambda: additive_coupling(conv), (2, 3, 4)),
    "additive_coupling-vectors": (lambda: additive_coupling(dense), (6,)),
    "affine_coupling": (lambda: affine_coupling(conv), (2, 3, 4)),
    "affine_coupling-vectors": (lambda: affine_coupling(dense), (6,)),
    "dct2": (dct2, (2, 3, 4)),
    # all numbers to values near the box, which the second map with its wider margin takes to some numbers
    "logit_box": (lambda: chain([invert(logit_box(0.05, (-1, 2))), logit_box(0.2, (-1, 2))]), (2, 3, 1)),
    "logit_coupling": (lambda: logit_coupling(dense, 2), (6,)),
    "decision_whitening": (lambda: decision_whitening(2, min_std=0.3), (5,)),
    "decision_marginals": (lambda: decision_marginals(2, knots=4), (5,)),
    "soft_tails": (lambda: soft_tails(2), (5,)),
    "flatten": (lambda: flatten((2, 3, 1)), (2, 3, 1)),
    "roll": (lambda: roll((1, 2)), (2, 3, 4)),
    "factor_out": (lambda: factor_out(chain([squeeze(), actnorm(), reverse()])), (2, 4, 4)),
    "factor_out-same-size": (lambda: factor_out(actnorm()), (2, 3, 4)),
    "factor_out-vectors": (lambda: factor_out(affine_coupling(pixelwise)), (8,)),
    "factor_out-nested": (lambda: factor_out(chain([squeeze(), factor_out(chain([squeeze(), actnorm()]))])), (4, 4, 4)),
    "invert": (lambda: invert(chain([affine_step(), reverse()])), (6,)),
    "invert-squeeze": (lambda: invert(squeeze()), (2, 1, 8)),
    "chain": (lambda: chain([squeeze(), affine_step(), dct2(), roll((0, 1))]), (2, 4, 2)),
    "chain-empty": (lambda: chain([]), (5,)),
    "repeat": (lambda: repeat(step(affine_coupling, conv), 3), (2, 3, 4)),
    "repeat-vectors": (lambda: repeat(step(mix=conv1x1), 3), (6,)),
    "memory_saving-None": (lambda: memory_saving([squeeze(), repeat(affine_step(), 3), dct2()], None), (4, 2, 1)),
    "memory_saving-1": (lambda: memory_saving([repeat(step(), 3), reverse()], 1), (6,)),
    "memory_saving-2": (lambda: memory_saving([repeat(affine_step(), 5)], 2), (6,)),
    "memory_saving-8": (lambda: memory_saving([repeat(step(), 9), actnorm()], 8), (6,)),
    "pad_channels": (lambda: pad_channels(2), (2, 3, 4)),
    "pad_channels-vectors": (lambda: pad_channels(1), (5,)),
}
ONTO = [name for name in BIJECTORS if not name.startswith(("pad_channels", "logit_box"))]
REVERSE_MODE_ONLY = [name for name in BIJECTORS if name.startswith("memory_saving")]


def normal(seed, shape):
    """Random numbers that need no compilation; float64 where the `float64` fixture is on."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def is_fixed(path):
    """Whether a leaf is fixed by construction."""
    return bool(path) and getattr(path[-1], "key", None) in ("permutation", "sign", "rotation")


def randomised(seed, params, scale=0.1):
    """Away from the initial values: a last layer of zeros would hide mistakes. What is fixed by construction stays."""
    rng = np.random.default_rng(seed)

    def moved(path, leaf):
        leaf = np.asarray(leaf)
        return jnp.asarray(leaf if is_fixed(path) else leaf + scale * rng.normal(size=leaf.shape), float)

    return jax.tree_util.tree_map_with_path(moved, params)


def drawn(seed, bijector, x, scale=0.3):
    """Random parameters without running `init`, whose compilation takes longer than the test."""
    shapes = jax.eval_shape(bijector.init, jax.random.key(0), x)

    def start(path, leaf):
        name, size = getattr(path[-1], "key", None), leaf.shape[-1]
        if name in ("permutation", "rotation"):
            return np.broadcast_to(np.roll(np.eye(size), 1, 0), leaf.shape)
        return np.full(leaf.shape, -1.0 if name == "sign" else 0.0)

    return randomised(seed, jax.tree_util.tree_map_with_path(start, shapes), scale)


def loss_of(bijector):
    """A scalar that depends on every output, log-determinants included, in a different way."""

    def loss(params, x):
        z, logdet = bijector.forward(params, x)
        weights = jnp.cos(jnp.arange(z.size)).astype(z.dtype).reshape(z.shape)
        return (weights * (z + z**2)).sum() + (jnp.arange(1, 1 + logdet.size) * logdet).sum()

    return loss


def assert_close(actual, expected, rtol, atol=0.0):
    """The same pytree; the tolerance is relative to the largest value of each leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=0, atol=atol + rtol * np.abs(want).max(initial=0))


class Member(NamedTuple):
    """One of BIJECTORS with parameters, data, its outputs there, and its compiled functions."""

    name: str
    bijector: Bijector
    params: Any
    x: jax.Array  # data that is neither centered nor of unit scale
    z: jax.Array
    logdet: jax.Array
    forward: Any
    inverse: Any
    gradient: Any


@cache
def build(name):
    factory, shape = BIJECTORS[name]
    bijector = factory()
    x = 0.3 + 0.7 * normal(0, (BATCH, *shape))
    params = drawn(1, bijector, x)
    forward, inverse = jax.jit(bijector.forward), jax.jit(bijector.inverse)
    gradient = jax.jit(jax.value_and_grad(loss_of(bijector), (0, 1)))
    return Member(name, bijector, params, x, *forward(params, x), forward, inverse, gradient)


def of_bijectors(names):
    """Parameters of a test; the slow tier tests the members whose code another member runs too."""
    twice = ("-vectors", "squeeze-3", "factor_out-same-size", "memory_saving-2", "memory_saving-8", "invert-squeeze")
    return [pytest.param(name, marks=pytest.mark.slow if name.endswith(twice) else []) for name in names]


@pytest.fixture(params=of_bijectors(BIJECTORS))
def member(request, float64):
    """One of BIJECTORS in double precision, with parameters, data and compiled functions shared between the tests."""
    return build(request.param)


def test_inverse_undoes_forward(member):
    x, _ = member.inverse(member.params, member.z)
    assert_close(x, member.x, 1e-12)


@pytest.mark.parametrize("member", of_bijectors(ONTO), indirect=True)
def test_forward_undoes_inverse(member):
    z = normal(9, member.z.shape)
    x, _ = member.inverse(member.params, z)
    assert x.shape == member.x.shape
    assert_close(member.forward(member.params, x)[0], z, 1e-12)


def test_logdet_is_one_number_an_example_in_the_dtype_of_the_data(member):
    assert member.logdet.shape == (BATCH,)
    half = partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32))
    for function, value in ((member.bijector.forward, member.x), (member.bijector.inverse, member.z)):
        output, logdet = jax.eval_shape(function, half(member.params), half(value))
        assert (output.dtype, logdet.dtype, logdet.shape) == (jnp.float32, jnp.float32, (BATCH,))


def test_logdet_is_the_volume_change_of_the_jacobian(member):
    mode = jax.jacrev if member.name in REVERSE_MODE_ONLY else jax.jacfwd
    one = mode(lambda params, x: member.bijector.forward(params, x[None])[0].reshape(-1), argnums=1)
    matrices = jax.jit(jax.vmap(one, (None, 0)))(member.params, member.x)
    matrices = matrices.reshape(BATCH, member.z[0].size, member.x[0].size)
    if matrices.shape[1] == matrices.shape[2]:
        expected = np.linalg.slogdet(matrices)[1]
    else:  # an injective map: the volume within its image
        expected = np.linalg.slogdet(np.swapaxes(matrices, 1, 2) @ matrices)[1] / 2
    np.testing.assert_allclose(member.logdet, expected, rtol=1e-10, atol=1e-10)


def test_logdet_of_the_inverse_is_the_opposite(member):
    np.testing.assert_allclose(member.inverse(member.params, member.z)[1], -member.logdet, rtol=1e-12, atol=1e-12)


def test_jit_equals_eager(member):
    assert_close(member.bijector.forward(member.params, member.x), (member.z, member.logdet), 1e-12)


def test_an_example_does_not_depend_on_the_rest_of_the_batch(member):
    for function, value in ((member.forward, member.x), (member.inverse, member.z)):
        others = np.concatenate([value[:1], 2 - 3 * np.asarray(value)[1:]])
        for got, want in zip(function(member.params, others), function(member.params, value), strict=True):
            np.testing.assert_allclose(got[0], want[0], rtol=1e-13, atol=1e-13)


def test_gradients_are_finite_and_reach_every_input(member):
    _, (dparams, dx) = member.gradient(member.params, member.x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((dparams, dx)))
    assert (np.asarray(dx) != 0).all()


def test_gradients_are_the_slopes_of_the_loss(member):
    """Against a central difference, in a random direction of parameters and input together."""
    here = jax.tree.map(np.asarray, (member.params, member.x))
    direction = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.zeros_like(leaf) if is_fixed(path) else np.asarray(normal(leaf.size, leaf.shape)), here
    )
    up, down = (member.gradient(*jax.tree.map(lambda a, d, h=h: a + h * d, here, direction))[0] for h in (1e-5, -1e-5))
    _, gradient = member.gradient(*here)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    np.testing.assert_allclose((up - down) / 2e-5, sum(np.vdot(*pair) for pair in pairs), rtol=1e-5, atol=1e-6)


def test_a_population_of_parameters_can_be_vmapped(member):
    population = member.params, randomised(11, member.params)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *population)

    def both(params, x):
        z, logdet = member.bijector.forward(params, x)
        return (z, logdet), member.bijector.inverse(params, z)

    together = jax.jit(jax.vmap(both, (0, None), axis_size=2))(stacked, member.x)  # also for a layer without parameters
    for i, params in enumerate(population):
        z, logdet = member.forward(params, member.x)
        alone = (z, logdet), member.inverse(params, z)
        assert_close(jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], together), alone, 1e-11)


# memory_saving ------------------------------------------------------------------------------------------------------

STACKS = {  # name: (layers, shape of one example, anchor distances to check)
    "unrolled": (lambda: [squeeze(), step(conditioner_fn=conv), step(affine_coupling, conv), dct2()], (2, 2, 1), (2,)),
    "flat-layers": (
        lambda: [actnorm(), affine_coupling(pixelwise), reverse(), actnorm(), additive_coupling(pixelwise)],
        (4,),
        (None, 1, 2, 3),
    ),
    "repeat-5": (lambda: [repeat(step(), 5), reverse()], (4,), (None, 2)),
    "repeat-5-affine": (lambda: [repeat(affine_step(dense, conv1x1), 5), reverse()], (4,), (None, 2, 8)),
    "repeat-4-affine": (lambda: [repeat(affine_step(), 4)], (4,), (None, 1, 2, 3, 4)),
    "repeat-in-repeat": (lambda: [repeat(repeat(affine_step(), 2), 3)], (4,), (None, 2)),
    "nested-chains": (lambda: [chain([reverse(), chain([affine_step()])]), chain([repeat(step(), 3)])], (4,), (2,)),
    "no-own-rule": (lambda: [invert(affine_step()), factor_out(affine_step()), reverse()], (8,), (None, 2)),
    "memory_saving-inside": (lambda: [actnorm(), memory_saving([repeat(affine_step(), 3)], 1), reverse()], (4,), (2,)),
    "injective": (lambda: [pad_channels(1), affine_step()], (5,), (None,)),
}  # fmt: skip


@cache
def built_stack(name, dtype):
    factory, shape, _ = STACKS[name]
    layers = factory()
    x = normal(20, (BATCH, *shape)).astype(dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), drawn(21, chain(layers), x))
    gradient = jax.jit(jax.value_and_grad(loss_of(chain(layers)), (0, 1)))
    return layers, params, x, gradient(params, x)


def assert_memory_saving_equals_chain(name, anchor_every, dtype, rtol):
    layers, params, x, expected = built_stack(name, dtype)
    saving = memory_saving(layers, anchor_every)
    actual = jax.jit(jax.value_and_grad(loss_of(saving), (0, 1)))(params, x)
    assert_close(actual, expected, rtol)


@pytest.mark.parametrize(("name", "anchor_every"), [(name, every) for name in STACKS for every in STACKS[name][2]])
def test_memory_saving_has_the_gradients_of_chain(float64, name, anchor_every):
    assert_memory_saving_equals_chain(name, anchor_every, "float64", 1e-10)


@pytest.mark.parametrize(("name", "anchor_every"), [("unrolled", 2), ("repeat-4-affine", None)])
def test_memory_saving_has_the_gradients_of_chain_in_single_precision(name, anchor_every):
    assert_memory_saving_equals_chain(name, anchor_every, "float32", 1e-4)


def test_memory_saving_has_the_second_derivatives_of_chain(float64):
    """A gradient penalty differentiates the backward pass itself."""
    layers, params, x, _ = built_stack("repeat-4-affine", "float64")

    def penalty(bijector):
        return lambda params, x: (jax.grad(loss_of(bijector), 1)(params, x) ** 2).sum()

    bijectors = memory_saving(layers, 2), chain(layers)
    assert_close(*(jax.jit(jax.grad(penalty(bijector), (0, 1)))(params, x) for bijector in bijectors), 1e-10)


def test_memory_saving_has_the_parameters_and_values_of_chain(float64):
    layers, params, x, _ = built_stack("repeat-5", "float64")
    saving, plain = memory_saving(layers, 2), chain(layers)
    assert_close(*(jax.jit(bijector.init)(jax.random.key(0), x) for bijector in (saving, plain)), 0)
    assert_close(*(jax.jit(bijector.forward)(params, x) for bijector in (saving, plain)), 0)
    assert_close(*(jax.jit(bijector.inverse)(params, x) for bijector in (saving, plain)), 0)


def test_forward_mode_through_memory_saving_is_a_type_error():
    saving, x = memory_saving([reverse(), dct2()]), jnp.ones((2, 2, 2, 4))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jacfwd(saving.forward, argnums=1)([(), ()], x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(partial(saving.forward, [(), ()]), (x,), (x,))


@pytest.mark.parametrize("coupling", [additive_coupling, affine_coupling])
@pytest.mark.parametrize(("conditioner_fn", "shape"), [(conv, (2, 3, 4)), (dense, (6,))], ids=["conv", "dense"])
def test_the_couplings_own_pullback_is_invert_then_differentiate(float64, coupling, conditioner_fn, shape):
    bijector = coupling(conditioner_fn)
    x = normal(0, (BATCH, *shape))
    params = drawn(1, bijector, x)
    z, logdet = jax.jit(bijector.forward)(params, x)
    cotangents = jnp.cos(z), jnp.arange(1.0, 1 + BATCH)
    own, generic = bijector.reversible(None), reversible_of(bijector._replace(reversible=None), None)
    assert_close(jax.jit(own.forward)(params, x), (z, logdet, ()), 0)
    results = [jax.jit(rule.pullback)(params, z, (), *cotangents) for rule in (own, generic)]
    assert_close(*results, 1e-12)
    assert_close(results[0][0], x, 1e-12)


def relu_of_rotation(channels):
    """A conditioner of gain 1, `t(x) = relu(x W)`, with nothing to tame it."""
    del channels
    return Net(lambda key, x: {}, lambda params, x: jax.nn.relu(x @ params["w"]))


@pytest.mark.parametrize("scanned", [True, False], ids=["repeat", "unrolled"])
def test_anchors_bound_the_gradient_error_of_an_ill_conditioned_stack(scanned):
    """Without actnorm and with gain 1 the activations' rounding errors grow exponentially on the way back."""
    depth, x = 24, normal(0, (4, 16))
    rotations = np.stack([np.linalg.qr(normal(i, (8, 8)))[0] for i in range(depth)])
    block = chain([reverse(), additive_coupling(relu_of_rotation)])
    layers = [repeat(block, depth)] if scanned else [block] * depth
    params = [[(), {"w": w}] for w in ([rotations] if scanned else rotations)]

    def gradient(bijector):
        gradients = jax.jit(jax.grad(lambda params: (bijector.forward(params, x)[0] ** 2).sum()))(params)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients)])

    exact = gradient(chain(layers))
    without, every_2 = (
        np.linalg.norm(gradient(memory_saving(layers, every)) - exact) / np.linalg.norm(exact) for every in (None, 2)
    )
    assert every_2 < 1e-6
    assert without > 100 * every_2


def gradient_program(wrapper, depth, batch=32):
    """The traced gradient step of a deep stack of conv blocks, parameters as shapes: nothing is run."""
    bijector = wrapper([squeeze(), repeat(step(affine_coupling, conv), depth)])
    x = jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.float32)
    params = jax.eval_shape(bijector.init, jax.random.key(0), x)
    return jax.jit(jax.grad(loss_of(bijector), (0, 1))).trace(params, x)


def temporary_bytes(wrapper, depth):
    return gradient_program(wrapper, depth).lower().compile().memory_analysis().temp_size_in_bytes


def test_memory_of_a_gradient_step_grows_with_depth_for_chain_only():
    saving = partial(memory_saving, anchor_every=None)
    assert temporary_bytes(saving, 32) <= 1.05 * temporary_bytes(saving, 4)
    assert temporary_bytes(chain, 32) > 4 * temporary_bytes(chain, 4)


@pytest.mark.parametrize("anchor_every", [1, 2, 3, 8])
@pytest.mark.parametrize("bijector", [repeat(step(), 9), chain([reverse()] * 9)], ids=["repeat", "chain"])
def test_one_activation_is_kept_every_so_many_blocks(bijector, anchor_every):
    """A block of `repeat` is a chain of several layers; within it nothing is kept."""
    x = jax.ShapeDtypeStruct((2, 6), jnp.float32)
    params = jax.eval_shape(bijector.init, jax.random.key(0), x)
    *_, kept = jax.eval_shape(bijector.reversible(anchor_every).forward, params, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) <= -(-9 // anchor_every) * x.size


def count_equations(jaxpr):
    """Equations of a jaxpr and of all jaxprs inside it."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    values = [value for eqn in jaxpr.eqns for value in jax.tree.leaves(list(eqn.params.values()))]
    inner = [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]
    return len(jaxpr.eqns) + sum(map(count_equations, inner))


@pytest.mark.parametrize(
    ("wrapper", "few"),
    [(chain, 2), (partial(memory_saving, anchor_every=None), 2), (partial(memory_saving, anchor_every=2), 3)],
    ids=["chain", "memory_saving", "anchors"],
)
def test_the_program_of_repeat_does_not_grow_with_n(wrapper, few):
    counts = [count_equations(gradient_program(wrapper, n).jaxpr) for n in (few, 20)]
    assert counts[0] == counts[1] > 100


# actnorm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 4, 3, 5), (256, 5)], ids=["images", "vectors"])
def test_actnorm_normalises_the_data_it_was_initialised_from(shape):
    x = 3 + normal(0, shape) * jnp.arange(1.0, 6.0).reshape((1,) * (len(shape) - 1) + (5,))
    z, _ = actnorm().forward(actnorm().init(jax.random.key(1), x), x)
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(z.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axes), 1, atol=1e-5)


def test_actnorm_leaves_the_scale_of_a_constant_channel():
    """The border of MNIST is constant; a metamer is not. Dividing by its tiny std would blow the metamer up."""
    x = normal(0, (64, 2, 2, 3)) * jnp.array([1.0, 0.0, 1e-3]).reshape(1, 1, 1, 3) + 0.5
    params = actnorm().init(jax.random.key(1), x)
    np.testing.assert_allclose(jnp.exp(params["log_scale"])[1:], 1)
    z, logdet = actnorm().forward(params, jnp.ones_like(x))
    np.testing.assert_allclose(z[..., 1:], 0.5, atol=1e-3)
    assert np.isfinite(logdet).all()
    np.testing.assert_allclose(actnorm().inverse(params, z)[0], 1, rtol=1e-6)


def test_actnorm_takes_its_guard_in_units_of_the_input():
    x = 1e-3 * normal(0, (64, 3))
    bijector = actnorm(min_std=1e-4)
    np.testing.assert_allclose(bijector.forward(bijector.init(jax.random.key(1), x), x)[0].std(0), 1, rtol=1e-4)


@pytest.mark.parametrize("stack", [chain, lambda layers: repeat(chain(layers), 3)], ids=["chain", "repeat"])
def test_init_threads_the_data_through_the_layers(stack):
    """Each actnorm sees what the layers before it make of the data, so the last one's output is normalised."""
    x = 2 + normal(0, (64, 6)) * jnp.arange(1.0, 7.0).reshape(1, 6)
    bijector = stack([conv1x1(), actnorm(), conv1x1(), actnorm()])
    z, _ = jax.jit(lambda key, x: bijector.forward(bijector.init(key, x), x))(jax.random.key(1), x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)


def test_copies_of_a_repeated_block_have_their_own_parameters():
    params = jax.jit(repeat(additive_coupling(dense), 3).init)(jax.random.key(0), jnp.ones((2, 4)))
    first, second, third = params["params"]["Dense_0"]["kernel"]
    assert not np.allclose(first, second) and not np.allclose(second, third)


def test_layers_of_a_chain_have_their_own_parameters():
    first, second = jax.jit(chain([additive_coupling(dense)] * 2).init)(jax.random.key(0), jnp.ones((2, 4)))
    first, second = (params["params"]["Dense_0"]["kernel"] for params in (first, second))
    assert not np.allclose(first, second)


# golden examples ----------------------------------------------------------------------------------------------------


def test_a_shape_changing_chain_is_inverted_layer_by_layer():
    """Initialised as a whole it would get the parameters of another shape, and is refused."""
    z = normal(0, (BATCH, 2, 2, 8))
    with pytest.raises(ValueError, match=r"\(\d+, 2, 2, 8\) to \(\d+, 1, 1, 32\); invert its layers one by one"):
        jax.eval_shape(invert(chain([squeeze(), affine_coupling(conv)])).init, jax.random.key(0), z)
    bijector = chain([invert(affine_coupling(conv)), invert(squeeze())])
    params = jax.eval_shape(bijector.init, jax.random.key(0), z)
    assert jax.eval_shape(bijector.forward, params, z)[0].shape == (BATCH, 4, 4, 2)


def test_conv1x1_survives_weight_decay(float64):
    """The permutation and the signs are not learned; an optimiser that shrinks all parameters must not change them."""
    x = normal(0, (BATCH, 2, 3, 5))
    params = conv1x1().init(jax.random.key(1), x)
    decayed = params | {name: 0.9 * params[name] for name in ("permutation", "sign")}
    assert_close(conv1x1().forward(decayed, x), conv1x1().forward(params, x), 0)
    z, logdet = conv1x1().forward(decayed, x)
    assert_close(conv1x1().inverse(decayed, z), (x, -logdet), 1e-12)


def test_conv1x1_starts_as_a_rotation(float64):
    """... so it keeps lengths and volume; its last layer of parameters is no identity."""
    x = normal(0, (BATCH, 2, 3, 5))
    z, logdet = conv1x1().forward(conv1x1().init(jax.random.key(1), x), x)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(logdet, 0, atol=1e-12)
    assert np.abs(z - x).max() > 0.1


def test_squeeze_orders_channels_by_row_then_column_then_channel():
    """Pixel (y, x) of channel c holds the number yxc."""
    y, x, c = np.meshgrid(np.arange(4), np.arange(4), np.arange(2), indexing="ij")
    z, _ = squeeze().forward((), jnp.asarray((100 * y + 10 * x + c)[None], jnp.float32))
    assert z.shape == (1, 2, 2, 8)
    assert z[0, 0, 0].tolist() == [0, 1, 10, 11, 100, 101, 110, 111]
    assert z[0, 1, 0].tolist() == [200, 201, 210, 211, 300, 301, 310, 311]


@pytest.mark.parametrize("n", [1, 2, 5, 28])
def test_the_dct_matrix_is_orthogonal(n):
    np.testing.assert_allclose(dct_matrix(n) @ dct_matrix(n).T, np.eye(n), atol=1e-13)


def test_dct2_is_scipys_and_its_first_value_is_the_mean(float64):
    x = normal(0, (2, 3, 4, 5))
    z, _ = dct2().forward((), x)
    np.testing.assert_allclose(z, scipy.fft.dctn(np.asarray(x), type=2, axes=(1, 2), norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(z[:, 0, 0], np.sqrt(12) * x.mean((1, 2)), atol=1e-13)


def test_roll_brings_its_position_to_the_front():
    x = jnp.arange(24.0).reshape(1, 3, 4, 2)
    np.testing.assert_array_equal(roll((2, 1)).forward((), x)[0][0, 0, 0], x[0, 2, 1])


def test_factor_out_puts_the_inner_output_first():
    x = normal(0, (2, 2, 4, 6))
    z, _ = factor_out(chain([squeeze(), reverse()])).forward([(), ()], x)
    aside, _ = squeeze().forward((), x[..., 3:])
    inner, _ = squeeze().forward((), x[..., :3])
    np.testing.assert_array_equal(z, jnp.concatenate([inner[..., ::-1], aside], -1))


def test_reverse_and_permute_move_whole_channels():
    x = jnp.arange(10.0).reshape(2, 5)
    np.testing.assert_array_equal(reverse().forward((), x)[0], x[:, ::-1])
    z, _ = permute(3).forward((), x)
    np.testing.assert_array_equal(z, x[:, np.asarray(z[0], int)])
    assert not np.array_equal(z, permute(4).forward((), x)[0])


def test_couplings_pass_the_first_half_and_follow_their_equations(float64):
    x = normal(0, (BATCH, 6))
    (x1, x2), constant = jnp.split(x, 2, -1), partial(jnp.full, (BATCH, 3))
    additive = additive_coupling(lambda channels: Net(lambda key, x: (), lambda params, x: constant(0.5)))
    assert_close(additive.forward((), x)[0], jnp.concatenate([x1, x2 + 0.5], -1), 1e-14)
    outputs = jnp.concatenate([constant(0.5), constant(-1.0)], -1)
    affine = affine_coupling(lambda channels: Net(lambda key, x: (), lambda params, x: outputs))
    scale = 1 / (1 + np.exp(-1.0))
    z, logdet = affine.forward((), x)
    assert_close(z, jnp.concatenate([x1, (x2 + 0.5) * scale], -1), 1e-14)
    np.testing.assert_allclose(logdet, 3 * np.log(scale))


def test_pad_channels_appends_zeros():
    z, _ = pad_channels(2).forward((), jnp.ones((1, 2, 2, 3)))
    np.testing.assert_array_equal(z[0, 0, 0], [1, 1, 1, 0, 0])


# errors -------------------------------------------------------------------------------------------------------------

IMAGE, ODD = jnp.ones((2, 4, 4, 2)), jnp.ones((2, 28, 28, 1))
ODD_CHANNELS = r"\(2, 28, 28, 1\).*put squeeze"
CHANGED_SHAPE = r"\(2, 4, 4, 2\) -> \(2, 2, 2, 8\).*outside of repeat"
SQUEEZED_PARAMS = [(), {"shift": jnp.ones((2, 8)), "log_scale": jnp.ones((2, 8))}]
ERRORS = {  # name: (the fault, the value and the fix in the message)
    "odd channels, additive": (lambda: additive_coupling(conv).forward({}, ODD), ODD_CHANNELS),
    "odd channels, affine": (lambda: affine_coupling(conv).inverse({}, ODD), ODD_CHANNELS),
    "odd channels, init": (lambda: affine_coupling(conv).init(jax.random.key(0), ODD), ODD_CHANNELS),
    "odd channels, factor_out": (lambda: factor_out(reverse()).forward((), ODD), ODD_CHANNELS),
    "size that does not squeeze": (lambda: squeeze(3).forward((), IMAGE), r"squeeze\(3\).*\(2, 4, 4, 2\).*crop or pad"),
    "channels that do not unsqueeze": (
        lambda: squeeze(2).inverse((), IMAGE), r"squeeze\(2\).*\(2, 4, 4, 2\).*pass an output of squeeze"),
    "squeeze by 0": (lambda: squeeze(0), "factor must be positive; got factor=0"),
    "pad by 0": (lambda: pad_channels(0), "extra must be positive; got extra=0"),
    "no margin": (lambda: logit_box(0.0), "margin must be above 0 and below 1/2; got margin=0.0"),
    "an infinite box": (lambda: logit_box(box=(0, np.inf)), r"box must be finite.*got box=\(0, inf\)"),
    "pixel values of bytes": (
        lambda: logit_box().init(jax.random.key(0), 255 * IMAGE), r"needs values in \[0, 1\].*to 255; scale"),
    "repeat 0 times": (lambda: repeat(step(), 0), "n must be positive; got n=0"),
    "anchor_every 0": (lambda: memory_saving([reverse()], 0), "anchor_every must be positive; got anchor_every=0"),
    "repeat of squeeze, init": (lambda: repeat(squeeze(), 2).init(jax.random.key(0), IMAGE), CHANGED_SHAPE),
    "repeat of squeeze, forward": (
        lambda: repeat(chain([squeeze(), actnorm()]), 2).forward(SQUEEZED_PARAMS, IMAGE), CHANGED_SHAPE),
}  # fmt: skip


@pytest.mark.parametrize("inner", [pad_channels(2), invert(squeeze())], ids=["pad_channels", "unsqueeze"])
def test_factor_out_refuses_maps_that_it_cannot_invert(inner):
    """Its inverse splits the channels in half, so the inner map must fill half of them."""
    with pytest.raises(ValueError, match="factor_out"):
        factor_out(inner).forward((), jnp.ones((2, 2, 2, 8)))


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_value_and_the_fix(name):
    wrong, message = ERRORS[name]
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        wrong()


FIXED = {"reverse": reverse, "permute": lambda: permute(3), "roll": lambda: roll((1, 0)), "dct2": dct2}


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("wrapper", [lambda layers: chain(layers), memory_saving], ids=["chain", "memory_saving"])
def test_a_block_without_parameters_can_be_repeated(name, wrapper):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
    repeated, unrolled = wrapper([repeat(FIXED[name](), 3)]), chain([FIXED[name]() for _ in range(3)])
    params = repeated.init(jax.random.key(1), x)
    z, logdet = repeated.forward(params, x)
    np.testing.assert_allclose(z, unrolled.forward(unrolled.init(jax.random.key(1), x), x)[0], atol=1e-6)
    np.testing.assert_array_equal(logdet, 0)
    np.testing.assert_allclose(repeated.inverse(params, z)[0], x, atol=1e-5)
    gradient = jax.grad(lambda x: (repeated.forward(params, x)[0] ** 3).sum())(x)
    expected = jax.grad(lambda x: (unrolled.forward(unrolled.init(jax.random.key(1), x), x)[0] ** 3).sum())(x)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)

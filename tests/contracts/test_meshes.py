"""Every function of a batch gives the same bits when JAX spreads the batch over a mesh of any type.

The axes of `jax.make_mesh` are explicit, so the layout is a part of the type of an array; inside `jax.shard_map` they
are manual, so the type says along which axes an array varies.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax import bijectors, evaluation, models, training
from invjax.attacks import jit_attack, pgd
from tests.contracts.functions import FUNCTIONS, KEY, logits, of_weights, problem

# the tests of the others are in the slow tier: they take the same ways through the library
FAST = ("fgsm-l1", "apgd-linf", "square-linf", "margins-crown-ibp-ball", "gamma")
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FUNCTIONS]
)
SPREAD = PartitionSpec("data")


@cache
def mesh() -> Mesh:
    return jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])


@cache
def placed():
    """The weights on every device of the mesh, and the batch spread over them."""
    weights, *batch = problem()
    return jax.device_put(weights, NamedSharding(mesh(), PartitionSpec())), *jax.device_put(
        batch, NamedSharding(mesh(), SPREAD)
    )


@cache
def expected(name):
    """The result on one device."""
    return jax.jit(of_weights(name))(*problem())


def assert_bits(found, wanted):
    """Equal bits; newer versions of XLA fuse the program of several devices otherwise, and round otherwise."""
    rounding = 1e-6  # the programs are compiled for other shapes
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rounding, atol=rounding)


@EVERY
def test_an_explicit_mesh_gives_the_bits_of_one_device(name):
    weights, x, *rest = placed()
    found = jax.jit(of_weights(name))(weights, x, *rest)
    assert_bits(found, expected(name))
    assert {leaf.sharding.spec[0] for leaf in jax.tree.leaves(found)} == {"data"}


@EVERY
def test_shard_map_gives_the_bits_of_one_device(name):
    given = PartitionSpec(), SPREAD, SPREAD, SPREAD
    mapped = jax.shard_map(of_weights(name), mesh=mesh(), in_specs=given, out_specs=SPREAD)
    assert_bits(jax.jit(mapped)(*placed()), expected(name))


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("name", ["pgd-linf", "apgd-l1", "fab-linf", "smallest", "margins-crown-ball", "gamma"])
def test_functions_that_are_not_compiled_take_a_batch_on_an_explicit_mesh(name, inside):
    """Inside and outside of `jax.set_mesh`; some operations round differently where they are compiled alone."""
    weights, x, *rest = placed()
    if inside:
        with jax.set_mesh(mesh()):
            found = of_weights(name)(weights, x, *rest)
    else:
        found = of_weights(name)(weights, x, *rest)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected(name)), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_model_with_shardings_of_its_own_keeps_its_explicit_axes():
    weights, x, labels, ids = placed()

    def apply(weights, x):
        flat = jax.reshard(x.reshape(len(x), -1), PartitionSpec("data", None))
        return jnp.einsum("bd,dk->bk", flat, weights, out_sharding=PartitionSpec("data", None))

    with jax.set_mesh(mesh()):
        found = jit_attack(pgd(steps=2), apply)(KEY, weights, x, labels, eps=0.1, ids=ids)
    np.testing.assert_allclose(found.x, expected("pgd-linf").x, atol=1e-6)


@pytest.mark.slow
def test_curves_and_trainings_take_the_mesh_of_jax_and_images_on_it():
    weights, x, labels, _ = problem()
    settings = {"epsilons": [0.05, 0.2], "options": evaluation.Options(batch_size=2, mesh=mesh())}
    curve = evaluation.robustness_curve(KEY, pgd(steps=2), logits, weights, x, labels, **settings)
    of_placed = evaluation.robustness_curve(KEY, pgd(steps=2), logits, *placed()[:3], **settings)
    alone = evaluation.robustness_curve(KEY, pgd(steps=2), logits, weights, x, labels, epsilons=[0.05, 0.2])
    np.testing.assert_array_equal(curve.broken_at, alone.broken_at)
    np.testing.assert_array_equal(of_placed.broken_at, alone.broken_at)
    spread = training.shard_batch(mesh(), {"x": x})
    assert len(spread["x"].sharding.device_set) == 2
    with pytest.raises(ValueError, match="one axis named data"):
        training.shard_batch(jax.make_mesh((2,), ("model",), devices=jax.devices()[:2]), x)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["explicit", "shard_map"])
def test_convolutions_and_scanned_blocks_take_a_batch_on_any_mesh(kind):
    """Convolutions are rewritten before they are differentiated, and a repeated block starts from a constant."""
    block = bijectors.chain([bijectors.conv1x1(), bijectors.affine_coupling(lambda c: models.conv_net(c, (4,)))])
    _, x, labels, ids = problem((4, 4, 2))
    layers = bijectors.repeat(block, 2)
    params = layers.init(KEY, jnp.asarray(x))

    def run(params, x, labels, ids):
        apply = lambda z: layers.forward(params, z)[0].reshape(len(z), -1)[:, :5]  # noqa: E731
        return pgd(steps=2)(KEY, apply, x, labels, eps=0.1, ids=ids)

    wanted = jax.jit(run)(params, x, labels, ids)
    batch = jax.device_put((x, labels, ids), NamedSharding(mesh(), SPREAD))
    held = jax.device_put(params, NamedSharding(mesh(), PartitionSpec()))
    given = PartitionSpec(), SPREAD, SPREAD, SPREAD
    mapped = run if kind == "explicit" else jax.shard_map(run, mesh=mesh(), in_specs=given, out_specs=SPREAD)
    found = jax.jit(mapped)(held, *batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

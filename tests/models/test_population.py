"""Masked networks are the networks without padding, and a population is its members trained alone."""

import os
import re
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax.losses import cross_entropy
from invjax.models import (
    Convolutions,
    Layers,
    groups_of_one_shape,
    masked_cnn,
    masked_mlp,
    masked_size,
    mlp,
    num_params,
    without_padding,
)
from invjax.training import Interrupted, _checkpoints, member_of, over_population, population_mesh, population_trainer

WIDTHS = ([5, 0, 0], [7, 3, 0], [2, 7, 6], [7, 7, 7])


def layers(widths, dropout=0.0):
    return Layers(jnp.asarray(widths), jnp.full(np.shape(widths)[:-1], dropout))


def cell(channels, kernel=(5, 5), activation=(0, 0), pooling=(1, 1), skip=(0, 0), dropout=0.0):
    return Convolutions(*map(jnp.asarray, (channels, kernel, activation, pooling, skip)), jnp.asarray(dropout))


def noisy(mask, seed=0):
    """Random parameters, also where the padding is."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda own: jnp.asarray(rng.normal(size=own.shape), jnp.result_type(float)), mask)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.result_type(float))


@pytest.mark.parametrize("widths", WIDTHS)
def test_a_padded_mlp_has_the_logits_and_the_size_of_the_plain_one(widths, float64):
    net, x, architecture = masked_mlp(4, 3, 7), normal(6, 2, 3, 1), layers(widths)
    params = noisy(net.mask(architecture, x))
    plain, own = without_padding(params, architecture)
    np.testing.assert_allclose(net.apply(params, architecture, x), plain.apply(own, x), rtol=1e-12, atol=1e-12)
    expected = mlp(4, [width for width in widths if width])
    shapes = jax.eval_shape(expected.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, shapes)
    assert masked_size(net.mask(architecture, x)) == num_params(shapes)


def test_the_initial_scale_is_that_of_the_true_number_of_inputs():
    net, x, architecture = masked_mlp(300, 2, 400), jnp.zeros((1, 500)), layers([100, 0])
    params = net.init(jax.random.key(0), architecture, x)
    first, readout = params["hidden"][0]["kernel"], params["readout"]["kernel"]
    assert float(first[:, :100].std()) == pytest.approx(500**-0.5, rel=0.02)
    assert float(readout[:100].std()) == pytest.approx(100**-0.5, rel=0.02)
    assert float(jnp.abs(first).max()) == pytest.approx(2 / 0.8796 * 500**-0.5, rel=0.01)
    own = net.mask(architecture, x)
    assert all(
        not np.asarray(p)[~np.asarray(m)].any() for p, m in zip(*map(jax.tree.leaves, (params, own)), strict=True)
    )
    assert num_params(params) > masked_size(own)


@pytest.mark.slow
def test_padding_gets_no_gradient():
    net, x, architecture = masked_mlp(4, 3, 7), normal(6, 5), layers([7, 3, 0])
    own = net.mask(architecture, x)
    params = net.init(jax.random.key(0), architecture, x)
    gradient = jax.grad(lambda p: cross_entropy(net.apply(p, architecture, x), jnp.arange(6) % 4).mean())(params)
    for leaf, mask in zip(*map(jax.tree.leaves, (gradient, own)), strict=True):
        assert not np.asarray(leaf)[~np.asarray(mask)].any()


def test_dropout_has_the_rate_of_each_network_and_keeps_the_mean():
    net, x = masked_mlp(1, 1, 2000), jnp.ones((1, 1))
    of_rate = Layers(jnp.full((2, 1), 2000), jnp.array([0.0, 0.4]))
    ones = {"hidden": [{"kernel": jnp.ones((1, 2000)), "bias": jnp.zeros(2000)}],
            "readout": {"kernel": jnp.full((2000, 1), 1 / 2000), "bias": jnp.zeros(1)}}  # fmt: skip
    dropped = jax.vmap(lambda architecture: net.apply(ones, architecture, x, jax.random.key(0)))(of_rate)
    assert float(dropped[0, 0, 0]) == pytest.approx(1, rel=1e-5)
    assert 0 < abs(float(dropped[1, 0, 0]) - 1) < 0.1  # its standard deviation is 0.018
    assert float(net.apply(ones, member_of(of_rate, 1), x)[0, 0]) == pytest.approx(1, rel=1e-5)


def by_hand(params, x, channels, kernel, activation, pooling, skip):
    """The unpadded convolutional network in numpy's words: correlations, one position after another."""
    x = np.asarray(x)
    functions = (lambda v: np.maximum(v, 0), lambda v: np.where(v > 0, v, np.expm1(v)), np.tanh)
    for i, layer in enumerate(params["hidden"]):
        side, rim = kernel[i], (5 - kernel[i]) // 2
        w = np.asarray(layer["kernel"])[rim : rim + side, rim : rim + side, : x.shape[-1], : channels[i]]
        padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
        h = functions[activation[i]](
            np.einsum("bhwcij,ijco->bhwo", windows, w) + np.asarray(layer["bias"])[: channels[i]]
        )
        if i and skip[i]:
            common = min(h.shape[-1], x.shape[-1])
            h[..., :common] += x[..., :common]
        b, height, width, c = h.shape
        x = (np.mean, np.max)[pooling[i]](h.reshape(b, height // 2, 2, width // 2, 2, c), axis=(2, 4))
    kernel = np.asarray(params["readout"]["kernel"])[:, : x.shape[-1]]
    return np.einsum("bpc,pck->bk", x.reshape(len(x), -1, x.shape[-1]), kernel) + np.asarray(params["readout"]["bias"])


GENES = {
    "as-large-as-it-gets": {"channels": (4, 4)},
    "small-kernels-and-tanh": {"channels": (3, 4), "kernel": (3, 1), "activation": (2, 2), "pooling": (0, 1)},
    "skip-to-fewer": {"channels": (4, 2), "activation": (1, 0), "skip": (0, 1)},
    "skip-to-more": {"channels": (1, 3), "kernel": (5, 3), "pooling": (1, 0), "skip": (1, 1)},
}


@pytest.mark.parametrize("name", GENES)
def test_a_padded_cnn_has_the_logits_of_a_plain_cnn(name, float64):
    given = {"kernel": (5, 5), "activation": (0, 0), "pooling": (1, 1), "skip": (0, 0)} | GENES[name]
    net, x, architecture = masked_cnn(3, max_channels=4), normal(2, 8, 4, 2), cell(**given)
    params = noisy(net.mask(architecture, x))
    np.testing.assert_allclose(net.apply(params, architecture, x), by_hand(params, x, **given), rtol=1e-10, atol=1e-10)
    c, k = given["channels"], given["kernel"]
    size = k[0] ** 2 * 2 * c[0] + c[0] + k[1] ** 2 * c[0] * c[1] + c[1] + 2 * c[1] * 3 + 3
    assert masked_size(net.mask(architecture, x)) == size


X, Y = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32), np.arange(40) % 3


def trained(members, keys, vectorize, devices=1, rates=0.05):
    net = masked_mlp(3, 2, 8)
    train = population_trainer(
        lambda key, member: net.init(key, member[0], jnp.zeros((1, 6))),
        lambda member, params, key, batch, step: (
            cross_entropy(net.apply(params, member[0], batch[0], key), batch[1]).mean(), {},
        ),
        lambda member: optax.adam(member[1]),
        mesh=population_mesh(jax.devices()[:devices]),
        vectorize=vectorize,
    )  # fmt: skip
    rates = jnp.broadcast_to(jnp.asarray(rates), len(keys))
    return train(keys, (members, rates), lambda step: (X[step::2], Y[step::2]), 2, chunk_steps=1)


@pytest.mark.slow
def test_a_member_does_not_depend_on_the_others_nor_on_how_it_is_run():
    members, keys = layers([[4, 0], [8, 5], [3, 3]], dropout=0.3), jax.random.split(jax.random.key(0), 3)
    params, losses = trained(members, keys, vectorize=True)
    assert losses.shape == (2, 3) and (losses[1] < losses[0] + 1).all()
    spread, _ = trained(members, keys, vectorize=False, devices=2)
    alone, _ = trained(jax.tree.map(lambda leaf: leaf[1:2], members), keys[1:2], vectorize=False)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, params, spread)
    jax.tree.map(close, member_of(params, 1), member_of(alone, 0))


def test_the_learning_rate_is_each_members_own():
    members, keys = layers([[4, 2], [4, 2]]), jnp.stack([jax.random.key(0)] * 2)
    params, losses = trained(members, keys, vectorize=True, rates=[0.0, 0.1])
    kernels = np.asarray(params["readout"]["kernel"])
    assert losses[0, 0] == pytest.approx(losses[0, 1]) and np.abs(kernels[0] - kernels[1]).max() > 0.05


@pytest.mark.parametrize("vectorize", [True, False])
def test_members_that_do_not_divide_by_the_devices_are_all_there(vectorize):
    square = over_population(lambda member, shift: {"y": member**2 + shift}, vectorize=vectorize)
    assert square(jnp.arange(11), 1)["y"].tolist() == [n**2 + 1 for n in range(11)]


def test_groups_hold_every_network_once_and_are_of_one_depth():
    rng = np.random.default_rng(0)
    widths = rng.integers(1, 99, (50, 4)) * (np.arange(4) < rng.integers(1, 5, (50, 1)))
    groups = groups_of_one_shape(widths, 6)
    assert sorted(np.concatenate(groups).tolist()) == list(range(50))
    last = (0, 0)
    for ids in groups:
        depths, widest = np.count_nonzero(widths[ids], 1), widths[ids].max(1)
        assert len(ids) <= 6 and len(set(depths)) == 1 and (np.diff(widest) >= 0).all()
        assert (depths[0], widest[0]) >= last
        last = depths[0], widest[-1]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([3, 0, 2], "0 for missing layers at the end; got [3, 0, 2]"),
        ([0, 0, 0], "0 for missing layers at the end"),
        ([3, 8, 0], "widths must be from 1 to 7"),
        ([3, 2], "one width for each of 3 layers, got shape (2,)"),
    ],
)
def test_architectures_that_have_no_place_are_refused(widths, message):
    net = masked_mlp(4, 3, 7)
    with pytest.raises(ValueError, match=re.escape(message)):
        net.init(jax.random.key(0), layers(widths), jnp.zeros((1, 5)))


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="max_width must be positive"):
        masked_mlp(4, 1, 0)
    with pytest.raises(ValueError, match="2x2 pooling"):
        masked_cnn(3, 4).mask(cell((2, 2)), jnp.zeros((1, 6, 8, 1)))
    with pytest.raises(ValueError, match="use population_mesh"):
        over_population(lambda member: member, mesh=jax.make_mesh((1,), ("data",)))
    with pytest.raises(ValueError, match="one leading axis of one length"):
        over_population(lambda member: member[0])((jnp.zeros(2), jnp.zeros(3)))
    with pytest.raises(ValueError, match="size must be positive"):
        groups_of_one_shape(np.ones((2, 1), int), 0)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("channels", [2, 0], "channels must be from 1 to 4"),
        ("channels", [2], "each of 2 layers"),
        ("kernel", [3, 7], "kernel must be from 1 to 5"),
        ("kernel", [3, 4], "kernel must be odd"),
        ("activation", [0, 3], "activation must be from 0 to 2"),
        ("pooling", [2, 0], "pooling must be from 0 to 1"),
        ("skip", [0, 2], "skip must be from 0 to 1"),
    ],
)
def test_convolutions_out_of_range_are_refused(field, values, message):
    good = {"channels": [2, 4], "kernel": [3, 5], "activation": [0, 2], "pooling": [0, 1], "skip": [0, 1]}
    arrays = {name: np.array(value, np.int32) for name, value in (good | {field: values}).items()}
    with pytest.raises(ValueError, match=message):
        masked_cnn(10, 4).mask(Convolutions(**arrays, dropout=np.float32(0)), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize(("arguments", "message"), [({"max_kernel": 4}, "must be odd"), ({"pooled": 3}, "pooled must")])
def test_bad_sizes_of_a_masked_cnn_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        masked_cnn(10, 4, **arguments)


def counted_population(folder, num_steps=6, stop_at=None, devices=2, **options):
    """Three members whose parameter is the sum of noise and batches; one of them diverges."""
    train = population_trainer(
        lambda key, member: jax.random.normal(key, (2,)),
        lambda member, params, key, batch, step: (
            (params * (batch.sum() + member * jax.random.normal(key, (2,)))).sum(), {},
        ),
        lambda member: optax.adam(jnp.where(member > 2, jnp.inf, 0.1)),
        mesh=population_mesh(jax.devices()[:devices]),
    )  # fmt: skip
    drawn = []

    def batches(step):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        drawn.append(step)
        return np.float32([step, 1])

    keys = jax.random.split(jax.random.key(0), 3)
    try:
        result = train(keys, jnp.array([1.0, 2.0, 3.0]), batches, num_steps, chunk_steps=2, directory=folder, **options)
    except Interrupted as stopped:
        return stopped, drawn
    return result, drawn


def test_a_population_that_is_stopped_goes_on_to_the_same_bits(tmp_path, read_only):
    (params, losses), _ = counted_population(None)
    assert losses.shape == (3, 3) and not np.isfinite(params[2]).any() and np.isfinite(params[:2]).all()
    stopped, drawn = counted_population(tmp_path, stop_at=2)
    assert "after step 4; the same call goes on from there" in str(stopped) and drawn == [0, 1, 2, 3]
    assert np.isfinite(stopped.history[:2, :2]).all() and np.isnan(stopped.history[2]).all()
    again, drawn = counted_population(tmp_path)
    assert drawn == [4, 5]
    with read_only():
        finished, drawn = counted_population(tmp_path)
    assert drawn == []
    for found in (again, finished):
        np.testing.assert_array_equal(found[0], params)
        np.testing.assert_array_equal(found[1], losses)


@pytest.mark.slow
def test_checkpoints_of_a_population_are_saved_about_every_so_many_steps(tmp_path, monkeypatch):
    saved, save = [], _checkpoints.save
    monkeypatch.setattr(
        _checkpoints, "save", lambda folder, step, state: (saved.append(step), save(folder, step, state))
    )
    counted_population(tmp_path, 10, save_every=3, devices=1)
    assert saved == [4, 6, 10]
    with pytest.raises(ValueError, match=r"of another model: .*losses is float32\[5,3\] there and float32\[6,3\] here"):
        counted_population(tmp_path, 12, devices=1)

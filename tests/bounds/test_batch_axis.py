"""Models that mix the images of a batch are refused, and models that only move the batch axis are not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from invjax.bounds import crown, linf_box, margins

X = np.random.default_rng(0).uniform(size=(3, 4, 4, 2)).astype(np.float32)
W = jnp.asarray(np.random.default_rng(1).normal(size=(32, 3)), jnp.float32)
LABELS = jnp.zeros(3, int)


def dense(x):
    return x.reshape(len(x), -1) @ W


class Net(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(nn.Conv(3, (3, 3))(x))
        x = nn.relu(nn.GroupNorm(num_groups=1)(x))
        return nn.Dense(3)(x.mean((1, 2)))


PARAMS = Net().init(jax.random.key(0), jnp.asarray(X))

MIXED = {
    "batch norm in training mode": lambda x: Net(train=True).apply(PARAMS, x, mutable=["batch_stats"])[0],
    "mean": lambda x: dense(x - x.mean(0, keepdims=True)),
    "mean after a transpose": lambda x: dense(x) - jnp.moveaxis(dense(x), 0, -1).mean(-1)[None],
    "softmax": lambda x: jax.nn.softmax(dense(x), axis=0),
    "variance": lambda x: dense(x) / dense(x).var(0, keepdims=True),
    "cumulative sum": lambda x: jnp.cumsum(dense(x), axis=0),
    "sort": lambda x: jnp.sort(dense(x), axis=0),
    "order": lambda x: lax.rev(dense(x), (0,)),
    "window": lambda x: lax.reduce_window(dense(x), -jnp.inf, lax.max, (2, 1), (1, 1), ((1, 0), (0, 0))),
    "attention over images": lambda x: jax.nn.softmax(dense(x) @ dense(x).T) @ dense(x),
    "all values": lambda x: dense(x) - x.sum(),
}

INDEPENDENT = {
    "batch norm in inference mode": lambda x: Net().apply(PARAMS, x),
    "softmax over the batch axis of the transpose": lambda x: jax.nn.softmax(dense(x).T, axis=0).T,
    "attention over rows": lambda x: jnp.einsum(
        "bqd,bkd,bkc->bc", x.reshape(len(x), 4, 8), x.reshape(len(x), 4, 8), x.reshape(len(x), 4, 8)[..., :3]
    ),
    "rows as a batch": lambda x: (x.reshape(-1, 8) @ W[:8]).reshape(len(x), 4, 3).sum(1),
    "parts joined": lambda x: dense(jnp.concatenate([x[:, :2], x[:, 2:][:, ::-1]], axis=1)),
    "one image at a time": lambda x: lax.map(lambda image: image.ravel() @ W, x),
    "vmap": lambda x: jax.vmap(lambda image: jnp.sort(image.ravel())[::-1] @ W)(x),
    "a mean that nothing uses": lambda x: (dense(x), x.mean(0))[0],
}


@pytest.mark.parametrize("name", MIXED)
def test_a_model_that_mixes_images_is_refused(name):
    """Each of them gives other outputs to the last two images when the first one changes."""
    model, changed = MIXED[name], X.copy()
    changed[0] = 1 - X[0]
    assert np.abs(model(jnp.asarray(X))[1:] - model(jnp.asarray(changed))[1:]).max() > 1e-4
    with pytest.raises(ValueError, match="mixes the images of a batch"):
        margins(model, linf_box(X, 0.01), LABELS, method="ibp")
    with pytest.raises(ValueError, match="mixes the images of a batch"):
        crown(model, linf_box(X, 0.01))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if "vmap" in name else pytest.mark.slow) for name in INDEPENDENT]
)
def test_a_model_that_moves_the_batch_axis_is_not_refused(name):
    model = INDEPENDENT[name]
    found, values = jax.jit(lambda x: (crown(model, linf_box(x, 0.01), intermediate="ibp"), model(x)))(jnp.asarray(X))
    assert ((found.lower <= values + 1e-5) & (values - 1e-5 <= found.upper)).all()


def test_the_error_names_the_line_of_the_model():
    with pytest.raises(ValueError, match=r"'reduce_sum' \(test_batch_axis.py:\d+\) mixes the images"):
        crown(MIXED["mean"], linf_box(X, 0.01))


def test_a_model_of_one_size_of_batch_is_refused():
    with pytest.raises(ValueError, match=r"takes 3 images and not one, as bounds need; write x.reshape\(len\(x\), "):
        margins(lambda x: x.reshape(3, -1) @ W, linf_box(X, 0.01), LABELS)

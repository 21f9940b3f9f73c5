"""The small problem that the tests of features share: images, a network, and one data set of each kind."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax import attacks, features
from invjax.models import mlp, penultimate

COUNT, CLASSES = 37, 4
NET = mlp(CLASSES, (12,))
KEY = jax.random.key(3)
TOWARD = attacks.pgd(attacks.l2(), steps=8, targeted=True, random_start=False)


@cache
def drawn():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(COUNT, 4, 4, 1)).astype(np.float32)
    return images, rng.integers(0, CLASSES, COUNT).astype(np.int32)


def data(count=COUNT):
    images, labels = drawn()
    return images[:count].copy(), labels[:count].copy()


@cache
def params(seed=0):
    return jax.jit(NET.init)(jax.random.key(seed), jnp.asarray(data(1)[0]))


def representation(x):
    return penultimate(NET)(params(), x)


def inverted(path=None, key=KEY, seed=0, **changes: Any):
    """D_R of the network, or its like; a path writes a file."""
    options = {"steps": 5, "batch_size": 8, "part_size": 16, "path": path} | changes
    return features.robust_dataset(key, penultimate(NET), params(seed), *data(), **options)


def relabelled(path=None, targets=None, attack=TOWARD, **changes: Any):
    """D_det of the network, or its like; a path writes a file."""
    targets = (data()[1] + 1) % CLASSES if targets is None else targets
    options = {"eps": 0.5, "batch_size": 8, "part_size": 16, "path": path} | changes
    return features.relabelled_dataset(KEY, attack, NET.apply, params(), data()[0], targets, **options)


def robustify(x=None, x0=None, features_fn=representation, **options: Any):
    """One step of the inversion of four images."""
    x = data()[0][:4] if x is None else x
    return features.robustify(KEY, features_fn, x, x0, **({"steps": 1} | options))


logits_fn = partial(NET.apply, params())

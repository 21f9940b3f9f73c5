"""Target classes for relabelled data sets: a random class, or the class after the label.

Source: Ilyas et al. 2019, section 3.2 (D_rand and D_det).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Int

from invjax import _check
from invjax.attacks.building import example_keys
from invjax.types import Array, Key, Labels


def random_targets(key: Key, labels: Labels, *, num_classes: int, exclude_true: bool = False) -> Int[Array, " batch"]:
    """Draw a class for each example, uniformly: the targets of D_rand.

    >>> targets = random_targets(jax.random.key(0), jnp.arange(4), num_classes=4, exclude_true=True)
    >>> bool((targets == jnp.arange(4)).any())
    False

    Args:
        key: random key; example i draws from `fold_in(key, i)`.
        labels: `[B]`, classes from 0 to K - 1.
        num_classes: number of classes K.
        exclude_true: whether a target must differ from the label. In the paper a target may be the label, so one
            target in K is correct.

    Returns:
        Targets `[B]`.

    Raises:
        ValueError: `labels` are not classes, or `num_classes` is below 2.
    """
    _check.key(key)
    _check_classes(labels, num_classes)
    keys = example_keys(key, None, len(labels))
    if not exclude_true:
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes, jnp.int32))(keys)
    others = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_classes, jnp.int32))(keys)
    return (jnp.asarray(labels, jnp.int32) + others) % num_classes


def next_targets(labels: Labels, *, num_classes: int) -> Int[Array, " batch"]:
    """The class after each label, `(y + 1) mod K`: the targets of D_det, none of which is correct.

    >>> next_targets(jnp.array([0, 1, 2]), num_classes=3).tolist()
    [1, 2, 0]

    Args:
        labels: `[B]`, classes from 0 to K - 1.
        num_classes: number of classes K.

    Returns:
        Targets `[B]`.

    Raises:
        ValueError: `labels` are not classes, or `num_classes` is below 2.
    """
    _check_classes(labels, num_classes)
    return (jnp.asarray(labels, jnp.int32) + 1) % num_classes


def _check_classes(labels, num_classes):
    _check.count(num_classes=num_classes)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got num_classes={num_classes}")
    _check.array("labels", labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must be [B], one for each image; got {labels.shape}; use argmax on one-hot labels")
    _check.labels(labels, num_classes)

"""Attacks in threats that differ between images: the attack is mapped over the images, each with its own threat."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from invjax._dtypes import wide_dtype
from invjax.attacks._random_model import alone
from invjax.attacks._threats import Threat


def by_image(threat: Threat, attack: Callable[..., Any]) -> Callable[..., Any]:
    """Give an attack its threat, or the threat of each image if it differs between images.

        run = by_image(threat, attack)
        Attack(run, threat, targeted=False, recipe=recipe("mine", threat))

    Args:
        threat: the threat of the attack. If it has `for_image`, the attack is mapped over batches of one image.
        attack: `(threat, key, logits_fn, x [B, ...], labels [B], *, eps, step_size, ids) -> AttackResult`, which takes
            all functions of the threat from its first argument.

    Returns:
        `(key, logits_fn, x, labels, *, eps, step_size=None, ids=None) -> AttackResult`, for the field `run` of an
        `Attack`. Without `ids` the images are at the positions 0 to B - 1.
    """
    if threat.for_image is None:
        return partial(attack, threat)

    def run(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        own, of_image = alone(logits_fn)

        def one(threat, x, label, own, i):
            model = of_image(jax.tree.map(lambda leaf: leaf[0], own))
            return attack(threat, key, model, x, label, eps=eps, step_size=step_size, ids=i)

        return over_images(threat, one, x, labels, own, ids=ids)

    return run


def over_images(threat: Threat, function: Callable[..., Any], *arrays: Any, ids: Any = None) -> Any:
    """Map a function over batches of one image, with the threat of that image.

    Args:
        threat: a threat with `for_image`.
        function: `(threat, *arrays [1, ...], ids [1]) -> pytree of [1, ...]`.
        *arrays: arrays `[B, ...]`, or pytrees of them.
        ids: `[B]`, the positions of the images in the data set; 0 to B - 1 by default.

    Returns:
        The pytree, with leaves `[B, ...]`.
    """

    def one(i, *parts):
        found = function(threat.for_image(i), *jax.tree.map(lambda leaf: leaf[None], parts), i[None])
        return jax.tree.map(lambda leaf: leaf[0], found)

    return jax.vmap(one)(jnp.arange(len(arrays[0])) if ids is None else jnp.asarray(ids), *arrays)


def per_example(attack: Any) -> Callable[..., Any]:
    """Map an attack over batches of one image, so that each example has its own radius, `eps [B]`.

    Convolutions fold the mapped axis back into their batch, so the mapped attack costs as much as the original one.
    """

    def mapped(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        if ids is not None and ids.shape != (len(x),):
            raise ValueError(f"ids must have shape [{len(x)}], one for each image; got {ids.shape}")
        ids = jnp.arange(len(x)) if ids is None else ids
        own, of_image = alone(logits_fn)

        def one(x, label, eps, step_size, i, own):
            result = attack(key, of_image(own), x[None], label[None], eps=eps, step_size=step_size, ids=i[None])
            return jax.tree.map(lambda leaf: leaf[0], result)

        sizes = None if step_size is None else jnp.broadcast_to(step_size, len(x))
        return jax.vmap(one)(x, labels, jnp.asarray(eps, wide_dtype(x.dtype)), sizes, ids, own)

    return mapped

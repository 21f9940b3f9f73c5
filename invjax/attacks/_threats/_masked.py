"""A threat inside a mask: the adversary changes some values of an image and no others."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from invjax import _check
from invjax.attacks._threats._registry import check_threat
from invjax.attacks._threats._threat import Threat
from invjax.types import Array


def masked(threat: Threat, mask: Bool[Array, "..."], *, per_image: bool = False) -> Threat:
    """The threat whose images equal the original outside of a mask, bit for bit.

        ball(x, eps) = {z in the ball of `threat` : z_i = x_i wherever the mask is false}

    The projection undoes the change outside of the mask and projects the rest. This is exact for every threat in which
    undoing the change of a value never makes the distance larger, such as all norms.

    Attack only the sky, the upper third of images `[32, 32, 3]`:

    >>> from invjax import attacks
    >>> sky = jnp.arange(32)[:, None, None] < 11
    >>> threat = attacks.masked(attacks.linf(), sky)
    >>> x = jnp.full((32, 32, 3), 0.5)
    >>> float((threat.project(x + 1, x, 0.25) != x).mean())
    0.34375

    Args:
        threat: the threat to restrict, such as `linf()` or one of your own.
        mask: the values that may change, boolean. It has the axes of one example, of full length or of length 1.
        per_image: whether `mask` holds one mask for each image of the data set, `[N, ...]`. The mask of an image is at
            its `id`; an attack that is called without `ids` takes the masks as those of its batch. A mask without a
            true value leaves its image as it is. Compiled attacks hold all masks, a byte for each value.

    Returns:
        The threat, with the name "masked-" and that of `threat`.

    Raises:
        ValueError: `threat` is no `Threat`, or the mask is not boolean or allows no change at all. When an attack runs:
            the mask has other axes than the images, or an image has no mask.
    """
    check_threat(threat)
    mask = _checked(mask)
    if not per_image and threat.for_image is None:
        return _restricted(threat, mask)

    def for_image(i: Any) -> Threat:
        inner = threat if threat.for_image is None else threat.for_image(i)
        return _restricted(inner, jnp.asarray(mask)[i] if per_image else mask)

    def without_id(function: str):
        def refused(*_: Any) -> Any:
            raise ValueError(
                f"{name} has one mask for each image, so {function} needs the position of the image in the data set; "
                "call it on threat.for_image(id), or write the attack with building.by_image"
            )

        return refused

    name, fields = _name(threat), ("sample", "ascent", "project", "to_hyperplane")
    refusing = {field: without_id(field) for field in fields if getattr(threat, field) is not None}
    both = _both(threat.mask, mask if per_image else mask[None])
    return threat._replace(**refusing, name=name, mask=both, for_image=for_image)


def allowed(threat: Threat, like: Any) -> Any:
    """The values of an example that may change, of its shape; None for a threat without a mask.

    Args:
        threat: the threat of one image.
        like: the example.
    """
    return None if threat.mask is None else jnp.broadcast_to(_fitted(threat.mask, like), like.shape)


def check_mask(threat: Threat, x: Any, ids: Any = None, name: str = "x") -> None:
    """Check that the mask of a threat fits the images, and that each image has one.

    Args:
        threat: the threat.
        x: `[B, ...]`, the images.
        ids: `[B]`, their positions in the data set; None if they are the whole data set.
        name: the name of the images in the message.

    Raises:
        ValueError: the mask has other axes than an image, or there is no mask for each image.
    """
    if threat.mask is None:
        return
    each = threat.for_image is not None
    shape, example = (threat.mask.shape[1:] if each else threat.mask.shape), x.shape[1:]
    if len(shape) != len(example) or not _check.broadcasts(shape, example):
        raise ValueError(
            f"the mask of {threat.name} must have the axes of an image of {name}, {example}, of full length or of "
            f"length 1; got {shape}; add an axis of length 1 for the channels, or give one mask for each image with "
            "per_image=True"
        )
    if not each:
        return
    count = threat.mask.shape[0]
    if ids is None and count != len(x):
        raise ValueError(
            f"{threat.name} has {count} masks for {len(x)} images of {name}; give one mask for each image of the data "
            "set, and the positions of a batch as ids="
        )
    if ids is not None and _check.known(ids) and np.size(ids):
        first, last = int(np.min(np.asarray(ids))), int(np.max(np.asarray(ids)))
        if first < 0 or last >= count:
            raise ValueError(
                f"ids must be positions of the {count} masks of {threat.name}; got ids from {first} to {last}; give "
                "one mask for each image of the data set"
            )


def _restricted(threat: Threat, mask: Array) -> Threat:
    """The threat of one image inside one mask."""
    # a random start inside the mask has the length that it has without the mask
    power = 1 / threat.order if threat.order is not None else float(threat.counts)

    def inside(new, old):
        return jnp.where(_fitted(mask, old), new, old)

    def project(z, x, eps):
        return inside(threat.project(inside(z, x), x, eps), x)

    def sample(key, x, eps):
        count = jnp.maximum(jnp.broadcast_to(_fitted(mask, x), x.shape).sum(), 1)
        return project(threat.sample(key, x, eps * (x.size / count.astype(x.dtype)) ** power), x, eps)

    def ascent(gradient, z, eps):
        zero = jnp.zeros_like(gradient)
        return inside(threat.ascent(inside(gradient, zero), z, eps), zero)

    def to_hyperplane(point, normal, offset):
        zero = jnp.zeros_like(normal)
        held = inside(zero, normal * point).sum()  # the part of the product that no step changes
        return inside(threat.to_hyperplane(point, inside(normal, zero), offset - held), zero)

    return threat._replace(
        sample=sample,
        ascent=ascent,
        project=project,
        to_hyperplane=None if threat.to_hyperplane is None else to_hyperplane,
        name=_name(threat),
        mask=_both(threat.mask, mask),
        for_image=None,
    )


def _checked(mask: Any) -> Any:
    mask = mask if not _check.concrete(mask) else np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"mask must be boolean, True where values may change; got {mask.dtype}; give mask > 0.5")
    if _check.concrete(mask) and not mask.any():
        raise ValueError(f"mask must be true for some value; got {mask.shape} without one, which allows no change")
    return mask


def _fitted(mask: Any, like: Any) -> Any:
    if mask.ndim != like.ndim or not _check.broadcasts(mask.shape, like.shape):
        raise ValueError(
            f"mask must have the axes of an example, {like.shape}, of full length or of length 1; got {mask.shape}; "
            "add an axis of length 1 for the channels, or give one mask for each image with per_image=True"
        )
    return mask


def _both(first: Any, second: Any) -> Any:
    return second if first is None else first & second


def _name(threat: Threat) -> str:
    return threat.name if threat.mask is not None else f"masked-{threat.name}"

r"""Attacks through rotations and shifts: the adversary turns the image and changes its pixels.

    max over t in T and |d| <= eps    loss(model(t(x + d)), y)

A few transforms are drawn for each image, and the one of largest loss is kept (of smallest loss for a targeted
attack). The attack then changes the pixels before this transform.

Source: Tramèr & Boneh 2019, *Adversarial Training and Robustness for Multiple Perturbations*, section 2.3; Engstrom et
al. 2019, *Exploring the Landscape of Spatial Robustness*, "worst of 10".
"""

import jax
import jax.numpy as jnp

from invjax import _check
from invjax._warps import IDENTITY, warp
from invjax.attacks._attack import Attack, check_attack
from invjax.attacks._gradient import Loss
from invjax.attacks.building import example_keys, fooled, prepare
from invjax.losses import margin


def transformed(
    attack: Attack, *, rotation: float | int = 30, shift: float | int = 3, tries: int = 10, loss: Loss = margin
) -> Attack:
    """Choose the worst of a few random rotations and shifts of each image, and attack the pixels before it.

    Args:
        attack: an attack on images `[B, H, W, C]` that treats each image by itself, such as `pgd(linf())`.
        rotation: largest angle in degrees, in both directions.
        shift: largest shift in pixels, vertically and horizontally, in both directions.
        tries: number of transforms drawn for each image.
        loss: `(logits, labels) -> [B]`; the transform of largest loss is kept, or of smallest loss if the attack is
            targeted.

    Returns:
        An `Attack` with the same threat and target. Its images are `t(x + d)`, as the model sees them. Its distances
        are those of `x + d`, before the transform. With `eps = 0` the attack is the transform alone.

    Raises:
        ValueError: a range is negative, `tries` is below 1, or `attack` is not an `Attack`.
    """
    check_attack(attack)
    _check.positive(tries=tries)
    _check.number("rotation", rotation)
    _check.number("shift", shift)
    span = jnp.array([rotation, shift, shift, 0, 0])

    def spatial(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, attack.threat.box)
        spatial_key, attack_key = jax.random.split(key)

        def drawn(i):
            keys = example_keys(jax.random.fold_in(spatial_key, i), ids, len(x))
            unit = jax.vmap(lambda k: jax.random.uniform(k, (5,), minval=-1))(keys)
            return jnp.asarray(IDENTITY)[None] + span[None] * unit

        def moved(z, transforms):
            return jax.vmap(warp)(z, transforms)

        losses = jax.lax.map(lambda i: loss(logits_fn(moved(x, drawn(i))), labels), jnp.arange(tries))
        hardest = losses.argmin(0) if attack.targeted else losses.argmax(0)
        worst = jax.vmap(drawn)(jnp.arange(tries))[hardest, jnp.arange(len(x))]

        result = attack(
            attack_key, lambda z: logits_fn(moved(z, worst)), x, labels, eps=eps, step_size=step_size, ids=ids
        )
        seen = moved(result.x, worst)
        return result._replace(x=seen, success=fooled(logits_fn(seen), labels, attack.targeted))

    said = f"transformed({attack.recipe}, rotation={rotation}, shift={shift}, tries={tries})"
    return attack._replace(run=spatial, recipe=said)

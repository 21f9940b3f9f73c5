r"""Attacks through rotations and shifts: the adversary turns the image and changes its pixels.

    pixels="after"     max over t in T and |d| <= eps    loss(model(t(x) + d), y)
    pixels="before"    max over t in T and |d| <= eps    loss(model(t(x + d)), y)

A few transforms are drawn for each image, and the one of largest loss is kept (of smallest loss for a targeted
attack). The attack then changes the pixels. The interpolation of a transform smooths what was changed before it, so the
second adversary is weaker.

Source: Tramèr & Boneh 2019, *Adversarial Training and Robustness for Multiple Perturbations*, section 2.3; Engstrom et
al. 2019, *Exploring the Landscape of Spatial Robustness*, "worst of 10".
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _box, _check
from invjax._keys import mappable
from invjax._warps import IDENTITY, warp
from invjax.attacks._attack import Attack, check_attack
from invjax.attacks._gradient import Loss, loss_values
from invjax.attacks.building import example_keys, prepare, succeeds, through
from invjax.losses import margin


def transformed(
    attack: Attack,
    *,
    rotation: float | int = 30,
    shift: float | int = 3,
    tries: int = 10,
    loss: Loss = margin,
    pixels: str = "after",
) -> Attack:
    """Choose the worst of a few random rotations and shifts of each image, and attack its pixels.

    Args:
        attack: an attack on images `[B, H, W, C]` that treats each image by itself, such as `pgd(linf())`.
        rotation: largest angle in degrees, in both directions.
        shift: largest shift in pixels, vertically and horizontally, in both directions.
        tries: number of transforms drawn for each image.
        loss: `(logits, labels) -> [B]`; the transform of largest loss is kept, or of smallest loss if the attack is
            targeted.
        pixels: "after" changes the pixels of the moved image, `t(x) + d`, as in Tramèr et al. 2020; "before" changes
            those of the image, `t(x + d)`. With "after", a mask lies on the moved image.

    Returns:
        An `Attack` with the same threat and target. Its images are `t(x) + d` or `t(x + d)`, as the model sees them,
        and its distances are those of `d`. With `eps = 0` the attack is the transform alone.

    Raises:
        ValueError: a range is negative, `tries` is below 1, `pixels` is neither word, `attack` is no `Attack` or has
            a rule of success of its own, or its box gives each feature a range while the moved image is changed.
            When the attack runs: the images are not `[B, H, W, C]`.
    """
    check_attack(attack)
    _check.count(tries=tries)
    _check.function("loss", loss, "(logits, labels) -> [B]")
    _check.number("rotation", rotation)
    _check.number("shift", shift)
    _check.one_of("pixels", pixels, ("after", "before"))
    if attack.decision is not None:
        raise ValueError(
            f"the rule of success goes around the transforms; got {attack.recipe}; transform the attack first"
        )
    if pixels == "after" and not _box.is_uniform(attack.threat.box):
        raise ValueError(
            "a moved image may leave the ranges of features; got a box of arrays; give one range for all pixels, "
            'or pixels="before"'
        )
    span = np.array([rotation, shift, shift, 0, 0], np.float32)

    def spatial(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, attack.threat.box)
        if x.ndim != 4:
            raise ValueError(f"transformed turns images [B, H, W, C]; got {x.shape}; use the attack without transforms")
        spatial_key, attack_key = jax.random.split(mappable(key))

        def drawn(i):
            keys = example_keys(jax.random.fold_in(spatial_key, i), ids, len(x))
            unit = jax.vmap(lambda k: jax.random.uniform(k, (5,), jnp.float32, minval=-1))(keys)
            return (jnp.asarray(IDENTITY)[None] + jnp.asarray(span)[None] * unit).astype(x.dtype)

        def moved(z, transforms):
            return jax.vmap(warp)(z, transforms)

        losses = jax.lax.map(lambda i: loss_values(loss, logits_fn(moved(x, drawn(i))), labels), jnp.arange(tries))
        # where the model gives NaN it makes no prediction, which is what an untargeted attack wants
        losses = jnp.where(jnp.isnan(losses), jnp.inf, losses)
        hardest = losses.argmin(0) if attack.targeted else losses.argmax(0)
        worst = jax.vmap(drawn)(jnp.arange(tries))[hardest, jnp.arange(len(x))]

        options = {"eps": eps, "step_size": step_size, "ids": ids}
        if pixels == "after":
            return attack(attack_key, logits_fn, moved(x, worst), labels, **options)
        on_moved = through(logits_fn, lambda model, worst: lambda z: model(moved(z, worst)), worst)
        result = attack(attack_key, on_moved, x, labels, **options)
        seen = moved(result.x, worst)
        return result._replace(x=seen, success=succeeds(attack, logits_fn, seen, labels))

    said = f"transformed({attack.recipe}, rotation={rotation}, shift={shift}, tries={tries}, pixels={pixels}"
    said += ")" if loss is margin else f", loss={getattr(loss, '__name__', loss)})"
    return replace(attack, run=spatial, recipe=said)

r"""Certified training: minimise the cross-entropy of the worst logits that bounds allow.

Let `lb` be lower bounds of the margins `h_y - h_k` over the box of radius eps. The cross-entropy of the logits
`(0, -lb)` is then an upper bound of the cross-entropy of every image in the box. The loss mixes it with the natural
cross-entropy, and `lb` mixes the bounds of CROWN-IBP, which are tight from the start, with those of IBP, which are
cheaper and lead to better networks in the end:

    loss = (1 - kappa) CE(0, -lb) + kappa CE(h),        lb = beta CROWN-IBP + (1 - beta) IBP.

During training eps grows from 0, while kappa and beta decrease from 1. With beta = 0 this is IBP training.

Source: Gowal et al. 2018, *On the Effectiveness of Interval Bound Propagation*; Zhang et al. 2020, *Towards Stable and
Efficient Training of Verifiably Robust Neural Networks*. This code differs from both: where CROWN-IBP bounds a margin
less tightly than IBP does, the bound of IBP replaces it (`bounds.margins`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from invjax import _check, bounds
from invjax.bounds import Margins
from invjax.losses import cross_entropy, error_rate
from invjax.types import ApplyFn, Box, LossFn, PerExample, Schedule


def certified_loss(
    apply_fn: ApplyFn,
    *,
    eps: Schedule,
    natural_weight: Schedule = 0.5,
    crown_weight: Schedule = 0.0,
    box: Box = (0.0, 1.0),
) -> LossFn:
    """The loss of certified l-infinity training, for `training.make_train_step`.

        loss = (1 - kappa) CE(0, -lb) + kappa CE(h),        lb = beta CROWN-IBP + (1 - beta) IBP

    The schedules of Zhang et al. for eps 0.4, with 235 steps an epoch:

        ramp = partial(optax.linear_schedule, transition_steps=50 * 235, transition_begin=10 * 235)
        loss = certified_loss(
            net.apply, eps=ramp(0.0, 0.4), natural_weight=ramp(1.0, 0.5), crown_weight=ramp(1.0, 0.0)
        )

    Args:
        apply_fn: `(params, x) -> logits`; the logits of an image must depend on that image alone.
        eps: the l-infinity radius, a number or a schedule `step -> number`.
        natural_weight: kappa in [0, 1], the weight of the natural cross-entropy, a number or a schedule.
        crown_weight: beta in [0, 1], the weight of CROWN-IBP in the bounds, a number or a schedule. CROWN-IBP does
            not run in a step where this weight is 0.
        box: the range of pixel values.

    Returns:
        A `LossFn` of batches `(images [B, ...], labels [B])`. Metrics: "clean_error", and "certified_error", the
        fraction of images that the bounds of this step do not certify.

    Raises:
        ValueError: `eps` is negative, a weight is outside [0, 1], or images are not floating point or outside `box`.
        NotImplementedError: the model uses an operation that has no rule; see `bounds.register_rule`.
    """
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    if not callable(eps):
        _check.number("eps", eps)
    for name, value in {"natural_weight": natural_weight, "crown_weight": crown_weight}.items():
        if not callable(value) and not 0 <= float(value) <= 1:
            raise ValueError(f"{name} must be in [0, 1]; got {name}={value}; give a number or a schedule in that range")

    def loss_fn(params, key, batch, step):
        x, labels = batch
        radius, natural, crown = (
            value(step) if callable(value) else value for value in (eps, natural_weight, crown_weight)
        )
        logits_fn = partial(apply_fn, params)
        region = bounds.linf_box(x, radius, box=box)
        margins = _mixed(lambda method: bounds.margins(logits_fn, region, labels, method=method), crown)
        logits = logits_fn(x)
        loss = (1 - natural) * worst_cross_entropy(margins) + natural * cross_entropy(logits, labels)
        metrics = {
            "clean_error": error_rate(logits, labels),
            "certified_error": (~bounds.certified(margins)).mean(),
        }
        return loss.mean(), metrics

    return loss_fn


def _mixed(margins_by, crown):
    """Bounds mixed from CROWN-IBP, with weight `crown`, and IBP; where `crown` is 0, only IBP runs."""
    if isinstance(crown, int | float) and crown == 0:
        return margins_by("ibp")

    def both(_):
        return crown * margins_by("crown-ibp") + (1 - crown) * margins_by("ibp")

    return lax.cond(crown > 0, both, lambda _: margins_by("ibp"), None)


def worst_cross_entropy(margins: Margins) -> PerExample:
    """An upper bound of the cross-entropy over a region, from lower bounds of the margins.

    >>> bool(jnp.allclose(worst_cross_entropy(jnp.zeros((1, 9))), jnp.log(10)))
    True

    Args:
        margins: `[B, K - 1]`, from `bounds.margins`.

    Returns:
        `[B]`, the cross-entropy of logits that have these margins.
    """
    return jax.nn.logsumexp(jnp.pad(-margins, ((0, 0), (1, 0))), axis=-1)

r"""Certified training: descend the cross-entropy of the worst logits that bounds allow.

With `lb` lower bounds of the margins `h_y - h_k` over the box of radius eps, the logits `(0, -lb)` are no better than
those of any image of the box, so their cross-entropy is an upper bound of the worst one. It is mixed with the natural
one, and bounds by CROWN-IBP, tight from the start, give way to those of IBP, which train faster and further:

    loss = (1 - kappa) CE(0, -lb) + kappa CE(h),        lb = beta CROWN-IBP + (1 - beta) IBP.

eps grows from 0, kappa falls from 1, and beta falls from 1 while it does. Without the CROWN part (beta = 0) this is IBP
training. Sources: Gowal et al. 2018, *On the Effectiveness of Interval Bound Propagation*; Zhang et al. 2020, *Towards
Stable and Efficient Training of Verifiably Robust Neural Networks*. Differs from both: where CROWN-IBP's bound of a
margin is the looser, IBP's takes its place (`bounds.margins`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from invjax import _check, bounds
from invjax.bounds import Margins
from invjax.losses import cross_entropy
from invjax.types import ApplyFn, Box, LossFn, PerExample, Schedule


def certified_loss(
    apply_fn: ApplyFn,
    *,
    eps: Schedule,
    natural_weight: Schedule = 0.5,
    crown_weight: Schedule = 0.0,
    box: Box = (0.0, 1.0),
) -> LossFn:
    """The loss above, for `training.make_train_step`; eps is that of l-infinity.

    The recipe of Zhang et al. for eps 0.4, with steps of 235 batches an epoch:

        ramp = partial(optax.linear_schedule, transition_steps=50 * 235, transition_begin=10 * 235)
        loss = certified_loss(
            net.apply, eps=ramp(0.0, 0.4), natural_weight=ramp(1.0, 0.5), crown_weight=ramp(1.0, 0.0)
        )

    Args:
        apply_fn: `(params, x) -> logits`; each image's logits depend on that image alone.
        eps: the radius: a number, or a schedule `step -> number`; so are the weights.
        natural_weight: kappa, the weight of the natural cross-entropy, in [0, 1].
        crown_weight: beta, the weight of CROWN-IBP in the bounds, in [0, 1]; steps where it is 0 skip its backward
            pass.
        box: the range of pixels.

    Returns:
        A `LossFn` of batches `(images [B, ...], labels [B])`. Metrics: "clean_error", and "certified_error", the
        fraction of images that the bounds of this step do not certify.

    Raises:
        ValueError: a negative `eps`, a weight outside of [0, 1], images that are not floating point or outside of
            `box`.
        NotImplementedError: the model has a primitive without a rule; see `bounds.register_rule`.
    """
    if not callable(eps):
        _check.number("eps", eps)
    for name, value in {"natural_weight": natural_weight, "crown_weight": crown_weight}.items():
        if not callable(value) and not 0 <= float(value) <= 1:
            raise ValueError(f"{name} must be in [0, 1]; got {name}={value}; it is a weight of the loss")

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
            "clean_error": (logits.argmax(-1) != labels).mean(),
            "certified_error": (~bounds.certified(margins)).mean(),
        }
        return loss.mean(), metrics

    return loss_fn


def _mixed(margins_by, crown):
    """`crown` of CROWN-IBP and the rest of IBP; a compiled step whose `crown` is 0 does not run the former."""
    if isinstance(crown, int | float) and crown == 0:
        return margins_by("ibp")

    def both(_):
        return crown * margins_by("crown-ibp") + (1 - crown) * margins_by("ibp")

    return lax.cond(crown > 0, both, lambda _: margins_by("ibp"), None)


def worst_cross_entropy(margins: Margins) -> PerExample:
    """The cross-entropy of logits whose margins are these lower bounds: an upper bound over the region, `[B]`.

    >>> bool(jnp.allclose(worst_cross_entropy(jnp.zeros((1, 9))), jnp.log(10)))
    True

    Args:
        margins: `[B, K - 1]`, from `bounds.margins`.
    """
    return jax.nn.logsumexp(jnp.pad(-margins, ((0, 0), (1, 0))), axis=-1)

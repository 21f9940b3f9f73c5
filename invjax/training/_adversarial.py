r"""Adversarial training: descend the loss of the images that an attack makes of the batch.

    min over params   E max over x' in ball(x, eps)   cross_entropy(model(x'), y)

The attack stands in for the maximum, and its image for the point at which the gradient is taken (Danskin's theorem): no
gradient flows through the search. Source: Madry et al. 2018, *Towards Deep Learning Models Resistant to Adversarial
Attacks*; Kurakin et al. 2017, *Adversarial Machine Learning at Scale*, for batches of which a part stays clean.
"""

from functools import partial

import jax
import jax.numpy as jnp

from invjax import _check
from invjax.attacks import Attack, Loss
from invjax.losses import cross_entropy
from invjax.types import ApplyFn, LossFn, Scalar, Schedule


def adversarial_loss(
    apply_fn: ApplyFn,
    attack: Attack,
    *,
    eps: Schedule,
    step_size: Scalar | None = None,
    fraction: float = 1.0,
    loss: Loss = cross_entropy,
) -> LossFn:
    """Cross-entropy, or another loss, on attacked images, for `training.make_train_step`.

    The radius may grow with the step, as in `eps=optax.linear_schedule(0.0, 0.3, 500)`.

    Args:
        apply_fn: `(params, x) -> logits`.
        attack: what runs at every training step, such as `attacks.pgd(steps=7)`.
        eps: the radius, in the units of the attack's threat: a number, or a schedule `step -> number`.
        step_size: of the attack; None is its own default.
        fraction: of the batch that is attacked, in (0, 1]: its first images. The others stay as they are, and all count
            alike (in Kurakin et al. an attacked image counts 0.3).
        loss: `(logits, labels) -> [B]`, whose mean is trained on; the attack has its own.

    Returns:
        A `LossFn` of batches `(images [B, ...], labels [B])`. Metrics, as in `evaluation`: "clean_error", and
        "adversarial_error", the fraction of the attacked images that the model classifies correctly as they are and
        wrongly under the attack. If all are attacked, one minus their sum is the robust accuracy.

    Raises:
        ValueError: a negative `eps`, a `fraction` outside of (0, 1] or of less than one image, images that are not
            floating point, a targeted attack.
    """
    if not callable(eps):
        _check.number("eps", eps)
    if not 0 < fraction <= 1:
        raise ValueError(
            f"fraction must be in (0, 1]; got fraction={fraction}; without an attack, train on cross_entropy"
        )
    if attack.targeted:
        raise ValueError(
            f"attack must be untargeted; got {attack.recipe}, which moves images towards their own labels; "
            "make it with targeted=False"
        )

    def loss_fn(params, key, batch, step):
        x, labels = batch
        _check.floating("images", x)
        attacked = round(fraction * len(x))
        if not attacked:
            raise ValueError(
                f"fraction={fraction} of a batch of {len(x)} is not one image; raise fraction or the batch size"
            )
        radius = eps(step) if callable(eps) else eps

        # stopped where it enters: nothing of the search is differentiated or kept
        frozen = partial(apply_fn, jax.lax.stop_gradient(params))
        found = attack(key, frozen, x[:attacked], labels[:attacked], eps=radius, step_size=step_size).x
        logits = apply_fn(params, jnp.concatenate([found, x[attacked:]]))

        wrong = logits.argmax(-1) != labels
        wrong_clean = wrong.at[:attacked].set(frozen(x[:attacked]).argmax(-1) != labels[:attacked])
        broken = (wrong & ~wrong_clean)[:attacked]
        metrics = {"clean_error": wrong_clean.mean(), "adversarial_error": broken.mean()}
        return loss(logits, labels).mean(), metrics

    return loss_fn

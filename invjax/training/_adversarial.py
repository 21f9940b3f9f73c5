r"""Adversarial training: minimise the loss of the images that an attack makes from the batch.

    min over params   E max over x' in ball(x, eps)   cross_entropy(model(x'), y)

The attack approximates the maximum, and the gradient is taken at its image (Danskin's theorem), so no gradient flows
through the search.

Source: Madry et al. 2018, *Towards Deep Learning Models Resistant to Adversarial Attacks*; Kurakin et al. 2017,
*Adversarial Machine Learning at Scale*, for batches that are attacked in part.
"""

from functools import partial

import jax
import jax.numpy as jnp

from invjax import _check
from invjax._sharding import check_automatic
from invjax.attacks import Attack, Loss
from invjax.attacks.building import check_attack, fooled
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
    """The mean cross-entropy, or another loss, of attacked images, for `training.make_train_step`.

    The radius may grow with the step, as in `eps=optax.linear_schedule(0.0, 0.3, 500)`.

    Args:
        apply_fn: the model, `(params, x [B, ...]) -> logits [B, K]`.
        attack: an untargeted attack, which runs at every training step, such as `attacks.pgd(steps=7)`.
        eps: the radius, in the units of the attack's threat: a number, or a schedule `step -> number`.
        step_size: step size of the attack; None uses the default of the attack.
        fraction: the fraction of the batch that is attacked, in (0, 1]. The attack takes the first images of the
            batch. All images have the same weight (in Kurakin et al. an attacked image has weight 0.3).
        loss: `(logits, labels) -> [B]`, the loss to train on; it does not change the loss that the attack maximises.

    Returns:
        A `LossFn` of batches `(images [B, ...], labels [B])`. Metrics, as in `evaluation`: "clean_error", and
        "adversarial_error", the fraction of the attacked images that the model classifies correctly before the attack
        and wrongly after it. If all images are attacked, one minus the sum of both errors is the robust
        accuracy.

    Raises:
        ValueError: `apply_fn` is no function, `attack` is no `Attack` or is targeted, `eps` is negative, `fraction` is
            outside (0, 1] or less than one image, or images are not floating point. With `fraction` below 1 images must
            not be spread over explicit axes.
    """
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    check_attack(attack)
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
                f"fraction={fraction} of a batch of {len(x)} is less than one image; raise fraction or the batch size"
            )
        if attacked < len(x):
            check_automatic(x, "an attack on a fraction of the batch")
        radius = eps(step) if callable(eps) else eps

        # the gradient is stopped at the parameters, so the search is neither differentiated nor stored
        frozen = partial(apply_fn, jax.lax.stop_gradient(params))
        found = attack(key, frozen, x[:attacked], labels[:attacked], eps=radius, step_size=step_size).x.astype(x.dtype)
        logits = apply_fn(params, jnp.concatenate([found, x[attacked:]]))

        wrong = fooled(logits, labels)
        wrong_clean = wrong.at[:attacked].set(fooled(frozen(x[:attacked]), labels[:attacked]))
        broken = (wrong & ~wrong_clean)[:attacked]
        metrics = {"clean_error": wrong_clean.mean(), "adversarial_error": broken.mean()}
        return loss(logits, labels).mean(), metrics

    return loss_fn

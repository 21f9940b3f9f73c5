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
from invjax.attacks import Attack
from invjax.attacks.gradient import Loss
from invjax.losses import cross_entropy
from invjax.types import ApplyFn, LossFn, Scalar


def adversarial_loss(
    apply_fn: ApplyFn,
    attack: Attack,
    *,
    eps: Scalar,
    step_size: Scalar | None = None,
    share: float = 1.0,
    warmup_steps: int = 0,
    loss: Loss = cross_entropy,
) -> LossFn:
    """Cross-entropy, or another loss, on attacked images, for `training.make_train_step`.

    A loss is a pure function of parameters, key and batch, so a radius that grows with the step needs the step in the
    batch. The function that draws batches knows it:

        draw = data.batches([images, labels], 128, seed=0)
        training.fit(state, train_step, lambda step: (*draw(step), np.int32(step)), num_steps)

    Args:
        apply_fn: `(params, x) -> logits`.
        attack: what runs at every training step, such as `attacks.pgd(steps=7)`.
        eps: the radius, in the units of the attack's threat.
        step_size: of the attack; None is its own default.
        share: of the batch that is attacked, in (0, 1]: its first images. The others stay as they are, and all count
            alike (in Kurakin et al. an attacked image counts 0.3).
        warmup_steps: the radius is `eps * min(1, step / warmup_steps)`; 0 is `eps` at once.
        loss: `(logits, labels) -> [B]`, whose mean is trained on; the attack has its own.

    Returns:
        A `LossFn` of batches `(images [B, ...], labels [B])`, or with the step, a scalar, as third. Metrics, as in
        `evaluation`: "clean_error", and "adversarial_error", the share of the attacked images which the model gets
        right as they are and wrong under the attack. If all are attacked, one minus their sum is the robust accuracy.

    Raises:
        ValueError: a negative `eps`, `share` outside of (0, 1] or of less than one image, negative `warmup_steps`, a
            batch without its step, images that are not floating point.
    """
    _check.number("eps", eps)
    _check.number("warmup_steps", warmup_steps)
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1]; got share={share}; without an attack, train on cross_entropy")

    def loss_fn(params, key, batch):
        x, labels, *step = batch
        _check.floating("images", x)
        if warmup_steps and not step:
            raise ValueError(
                f"warmup_steps={warmup_steps} needs batches (images, labels, step); got images and labels; "
                "draw them by lambda step: (*draw(step), numpy.int32(step))"
            )
        attacked = round(share * len(x))
        if not attacked:
            raise ValueError(f"share={share} of a batch of {len(x)} is not one image; raise share or the batch size")
        radius = eps * jnp.minimum(1, step[0] / warmup_steps) if warmup_steps else eps

        # stopped where it enters: nothing of the search is differentiated or kept
        frozen = partial(apply_fn, jax.lax.stop_gradient(params))
        found = attack(key, frozen, x[:attacked], labels[:attacked], eps=radius, step_size=step_size).x
        logits = apply_fn(params, jnp.concatenate([found, x[attacked:]]))

        wrong = logits.argmax(-1) != labels
        wrong_clean = wrong.at[:attacked].set(frozen(x[:attacked]).argmax(-1) != labels[:attacked])
        fallen = (wrong & ~wrong_clean)[:attacked]
        metrics = {"clean_error": wrong_clean.mean(), "adversarial_error": fallen.mean()}
        return loss(logits, labels).mean(), metrics

    return loss_fn

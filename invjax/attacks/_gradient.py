r"""Attacks that follow the gradient of a loss: one loop for all of them.

    z_0 in ball(x, eps),    z_{i+1} = project(z_i + step_size * ascent(gradient of the loss at z_i)).

The threat defines the ball and the direction of ascent, and the attack maximises the loss.

Sources: Goodfellow et al. 2015 (FGSM), Kurakin et al. 2017 (least likely class, iterated), Madry et al. 2018 (PGD); the
one-step forms with their signs are those of Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check, _logits
from invjax.attacks._attack import Attack, recipe
from invjax.attacks._threats import Threat, check_threat, linf
from invjax.attacks.building import by_image, climb, example_keys, finish, fooled, judged, prepare
from invjax.losses import log_odds
from invjax.types import Labels, Logits, PerExample

Loss = Callable[[Logits, Labels], PerExample]
"""`(logits [B, K], labels [B]) -> [B]`: the loss that an attack maximises, such as `losses.log_odds` (the default),
`cross_entropy`, `margin` or `dlr`."""


def _step_sizes(step_size, eps, steps, dtype):
    if step_size is None:
        step_size = 2.5 * eps / steps
    _check.number("step_size", step_size)
    return jnp.full(steps, step_size, dtype)


def _climbing(
    name: str,
    threat: Threat | None,
    steps: int,
    loss: Loss,
    objective_for: Callable,
    random_start: bool,
    targeted: bool = False,
) -> Attack:
    """The attack that climbs `objective_for(logits_fn, x, labels)`, a function of the point and of the step.

    It starts at a random point of the ball or at x.
    """
    _check.count(steps=steps)
    _check.function("loss", loss, "(logits, labels) -> [B]")
    threat = check_threat(linf() if threat is None else threat)

    def attack(threat, key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        keys = example_keys(key, ids, len(x))
        start = jax.vmap(threat.sample, (0, 0, None))(keys, x, eps) if random_start else x
        sizes = _step_sizes(step_size, eps, steps, x.dtype)
        climbed = climb(objective_for(logits_fn, x, labels), threat, start, x, eps, sizes, stepwise=True)
        found, value, trace, finite = climbed
        return finish(logits_fn, threat.distance, found, x, labels, value, trace, finite, targeted=targeted)

    settings: dict[str, Any] = {"steps": steps, "loss": loss}
    if not random_start:
        settings["random_start"] = False
    if targeted:
        settings["targeted"] = True
    return Attack(by_image(threat, attack), threat, targeted, recipe(name, threat, **settings))


def loss_values(loss: Loss, logits: Logits, labels: Labels) -> PerExample:
    """The loss of each image.

    Raises:
        ValueError: the loss does not give one value for each image.
    """
    values = loss(logits, labels)
    _check.per_example("loss", values, len(logits))
    return values


def _whole_step(name: str, one_step: Attack, loss: Loss) -> Attack:
    """An attack of one step, whose length is `eps` unless given."""

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        return one_step(key, logits_fn, x, labels, eps=eps, step_size=eps if step_size is None else step_size, ids=ids)

    settings: dict[str, Any] = {"loss": loss} | ({"targeted": True} if one_step.targeted else {})
    return replace(one_step, run=attack, recipe=recipe(name, one_step.threat, **settings))


def pgd(
    threat: Threat | None = None,
    *,
    steps: int = 40,
    loss: Loss = log_odds,
    random_start: bool = True,
    targeted: bool = False,
) -> Attack:
    """Projected gradient descent: the standard first-order attack.

    >>> from invjax import attacks
    >>> logits_fn = lambda x: jnp.stack([1 - x.sum(-1), x.sum(-1)], -1)
    >>> x, labels = jnp.array([[0.2, 0.1]]), jnp.array([0])
    >>> result = attacks.pgd(attacks.linf(), steps=5)(jax.random.key(0), logits_fn, x, labels, eps=0.125)
    >>> bool(result.success[0]), round(float(result.distance[0]), 4)
    (True, 0.125)

    Args:
        threat: the distance that `eps` bounds, and the range of pixel values; `linf()` by default.
        steps: number of gradient steps.
        loss: the loss to maximise.
        random_start: whether to start at a random point of the ball instead of the image.
        targeted: whether `labels` are classes to reach, so that the attack descends the loss.

    Returns:
        An `Attack`, whose `step_size` is `2.5 * eps / steps` by default.

    Raises:
        ValueError: `threat` is no `Threat`, `steps` is no positive whole number, or `loss` is no function. When the
            attack runs: the loss does not give one value for each image.

    Source: Madry et al. 2018, *Towards Deep Learning Models Resistant to Adversarial Attacks*.
    """

    def objective_for(logits_fn, x, labels):
        def rule(logits):
            return (-1 if targeted else 1) * loss_values(loss, logits, labels), fooled(logits, labels, targeted)

        return partial(judged, rule, logits_fn)

    return _climbing("pgd", threat, steps, loss, objective_for, random_start, targeted)


def fgsm(threat: Threat | None = None, *, loss: Loss = log_odds, targeted: bool = False) -> Attack:
    """One step of length `eps` along the gradient: its sign (`linf`, the default) or its direction (`l2`).

    Args:
        threat: as for `pgd`; `linf((-inf, inf))` does not clip pixel values.
        loss: the loss to maximise.
        targeted: whether `labels` are classes to reach, so that the attack descends the loss.

    Returns:
        An `Attack`, whose `step_size` is `eps` by default.

    Raises:
        ValueError: as for `pgd`.

    Source: Goodfellow et al. 2015, *Explaining and Harnessing Adversarial Examples*.
    """
    return _whole_step("fgsm", pgd(threat, steps=1, loss=loss, random_start=False, targeted=targeted), loss)


def step_ll(threat: Threat | None = None) -> Attack:
    """One step of length `eps` towards the class that the model finds least likely; `labels` are the true classes.

    Args:
        threat: the distance that `eps` bounds, and the range of pixel values; `linf()` by default.

    Returns:
        An untargeted `Attack`: any wrong prediction is a success.

    Raises:
        ValueError: as for `pgd`.

    Source: Kurakin et al. 2017, *Adversarial Machine Learning at Scale*.
    """
    return _whole_step("step_ll", iterated_ll(threat, steps=1), log_odds)


def iterated_ll(threat: Threat | None = None, *, steps: int = 10, loss: Loss = log_odds) -> Attack:
    """Steps towards the class that is least likely for the original image; `labels` are the true classes.

    Args:
        threat: the distance that `eps` bounds, and the range of pixel values; `linf()` by default.
        steps: number of gradient steps; the first gradient is taken at the image.
        loss: loss of the least likely class, which the attack descends.

    Returns:
        An untargeted `Attack`: any wrong prediction is a success. Its `step_size` is `2.5 * eps / steps` by default.

    Raises:
        ValueError: as for `pgd`.

    Source: Kurakin et al. 2017, *Adversarial Machine Learning at Scale*.
    """

    def objective_for(logits_fn, x, labels):
        least_likely = _logits.least_likely(logits_fn(x))

        def rule(logits):
            return -loss_values(loss, logits, least_likely), fooled(logits, labels)

        return partial(judged, rule, logits_fn)

    return _climbing("iterated_ll", threat, steps, loss, objective_for, random_start=False)

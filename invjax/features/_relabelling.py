r"""Images whose label is wrong to people, and right to a model: small adversarial changes, relabelled by their target.

    x' = argmin over |x' - x| <= eps   L(f(x'), t)      stored with the label t

What such a pair has to do with t is a non-robust feature of f, if it is there in the data, or a quirk of f (a bug).
`non_transferable` looks for the latter: changes that other models trained on the same data do not follow.

Source: Ilyas et al. 2019, section 3.2 and figure 6 (D_rand, D_det; l2, 100 steps of 0.1, eps 0.5 on CIFAR-10);
Nakkiran 2019, *A Discussion of ...: Adversarial Examples Are Just Bugs, Too*.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int

from invjax import _check
from invjax._conv import fast_convs
from invjax.attacks import Attack, AttackResult, Threat, l2
from invjax.attacks.building import check_attack, climb, example_keys, finish, fooled, prepare, recipe
from invjax.losses import cross_entropy
from invjax.types import Array, Key, Labels, LogitsFn, Scalar


def random_targets(
    key: Key, labels: Labels, *, num_classes: int, exclude_true: bool = False, ids: Any = None
) -> Int[Array, " batch"]:
    """A class for each example, uniform: the targets of D_rand.

    >>> targets = random_targets(jax.random.key(0), jnp.arange(4), num_classes=4, exclude_true=True)
    >>> bool((targets == jnp.arange(4)).any())
    False

    Args:
        key: random key; example i draws from `fold_in(key, ids[i])`.
        labels: `[B]`.
        num_classes: K.
        exclude_true: never the label itself. As published it may be, which leaves one label in K right.
        ids: `[B]`, the position of each example in the data set.

    Raises:
        ValueError: labels that are not classes, fewer than two classes.
    """
    _check_classes(labels, num_classes)
    keys = example_keys(key, ids, len(labels))
    if not exclude_true:
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes, jnp.int32))(keys)
    others = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_classes, jnp.int32))(keys)
    return (jnp.asarray(labels, jnp.int32) + others) % num_classes


def next_targets(labels: Labels, *, num_classes: int) -> Int[Array, " batch"]:
    """The class after the label, `(y + 1) mod K`: the targets of D_det, where no label is right.

    >>> next_targets(jnp.array([0, 1, 2]), num_classes=3).tolist()
    [1, 2, 0]

    Raises:
        ValueError: labels that are not classes, fewer than two classes.
    """
    _check_classes(labels, num_classes)
    return (jnp.asarray(labels, jnp.int32) + 1) % num_classes


def _check_classes(labels, num_classes):
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got num_classes={num_classes}")
    _check.labels(labels, num_classes)


def relabel_by_attack(
    key: Key,
    attack: Attack,
    logits_fn: LogitsFn,
    x: Array,
    targets: Labels,
    *,
    eps: Scalar,
    step_size: Scalar | None = None,
    ids: Any = None,
) -> AttackResult:
    """Images near `x` which the model takes for `targets`, the labels that go with them. Not compiled.

    Args:
        key: random key of the attack.
        attack: a targeted one: `attacks.pgd(attacks.l2(), steps=100, targeted=True, random_start=False)`.
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: `[B, ...]`.
        targets: `[B]`, from `random_targets` or `next_targets`.
        eps: how far, in the attack's norm.
        step_size: of the attack; None is its own default.
        ids: `[B]`, the position of each example in the data set.

    Returns:
        An `AttackResult`, whose `success` says whether the model sees the target; all its images belong to the data
        set, whether they reach it or not.

    Raises:
        ValueError: no images, targets that are not classes of the model or not one an image, an attack that is
            untargeted; whatever the attack refuses.
    """
    if not len(x):
        raise ValueError(f"x must hold at least one image; got shape {x.shape}; check the data's split")
    num_classes = _check.logits_of(logits_fn, x, targets)
    check_targets(targets, num_classes)
    check_targeted(attack)
    targets = jnp.asarray(targets)
    found = attack(key, logits_fn, x, targets, eps=eps, step_size=step_size, ids=ids)
    return found._replace(success=fooled(logits_fn(jnp.asarray(found.x)), targets, targeted=True))


def check_targets(targets: Labels, num_classes: int) -> None:
    """Targets that are classes of the model, else a `ValueError`."""
    try:
        _check.labels(targets, num_classes)
    except ValueError as error:
        raise ValueError(f"targets: {error}") from error


def check_targeted(attack: Attack) -> None:
    """An attack that moves images towards its labels, else a `ValueError`."""
    check_attack(attack)
    if not attack.targeted:
        raise ValueError(
            f"attack must be targeted; got {attack.recipe}, which maximises the loss of its labels; "
            "make it with targeted=True"
        )


def non_transferable(
    ensemble_fn: Callable[[jax.Array], jax.Array],
    labels: Labels,
    threat: Threat | None = None,
    *,
    steps: int = 100,
) -> Attack:
    r"""A targeted attack on one model that an ensemble of others withstands: bugs without features.

        x' <- project(x' - step_size * u),   u the ascent direction of  L(f(x'), t) + mean over i of L(f_i(x'), y)

    Args:
        ensemble_fn: the others, trained like the model under attack: `x [B, ...] -> logits [models, B, K]`.
        labels: `[B]`, the true labels y, which they are to keep.
        threat: the geometry; default `l2()`.
        steps: gradients taken, from the image on.

    Returns:
        An `Attack` whose `labels` are the targets t. It keeps the best image among those that reach the target and
        that no other model takes for it; without such, the one of least loss. `success` is of the target alone.

    Raises:
        ValueError: when called, logits of another shape, labels that are not classes, or one target without a label.
    """
    _check.positive(steps=steps)
    threat = l2() if threat is None else threat

    def attack(key, logits_fn, x, targets, *, eps, step_size=None, ids=None):
        logits_fn, x, eps = prepare(logits_fn, x, targets, eps, threat.box)
        num_classes = _check.logits_of(logits_fn, x, labels)
        _check.labels(labels, num_classes)
        shape = jax.eval_shape(ensemble_fn, x).shape
        if len(shape) != 3 or not shape[0] or shape[1:] != (len(x), num_classes):
            raise ValueError(f"ensemble_fn must give logits [models, {len(x)}, {num_classes}]; got {shape}")
        others_fn = fast_convs(ensemble_fn)

        def objective(z):
            logits, others = logits_fn(z), others_fn(z)
            kept = jax.vmap(cross_entropy, (0, None))(others, labels).mean(0)
            alone = fooled(logits, targets, targeted=True) & (others.argmax(-1) != targets[None]).all(0)
            return -cross_entropy(logits, targets) - kept, alone

        first = 2.5 * eps / steps if step_size is None else step_size
        _check.number("step_size", first)
        sizes = jnp.full(steps, first, x.dtype)
        found, value, trace = climb(objective, threat, x, x, eps, sizes)
        return finish(logits_fn, threat.distance, found, x, targets, value, trace, targeted=True)

    return Attack(attack, threat, True, recipe("non_transferable", threat, steps=steps))

"""Combinations of attacks: the worst of several, and several random starts."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from invjax import _check, _explain
from invjax.attacks._attack import Attack, check_attack
from invjax.attacks.building import best_of, same_threat, where


def worst_of(attacks: Sequence[Attack]) -> Attack:
    """Run all attacks on all examples; each example keeps its first success, or else the first attack's result.

    The loss is that of the attack whose result is kept. The traces of all attacks are concatenated.

    Args:
        attacks: at least one attack; all have the same threat and the same rule of success (`top_k`,
            `confident`), and all or none are targeted.

    Returns:
        An `Attack` with that threat and target.

    Raises:
        ValueError: no attacks, something that is not an `Attack`, attacks of different threats or rules of success, or
            both targeted and untargeted attacks.
    """
    if not isinstance(attacks, list | tuple) or isinstance(attacks, Attack):
        raise ValueError(f"worst_of needs a list of attacks; got {_explain.described(attacks)}; write worst_of([...])")
    attacks = tuple(attacks)
    if not attacks:
        raise ValueError("worst_of needs at least one attack; got none")
    first = attacks[0]
    for attack in attacks:
        check_attack(attack)
        if not same_threat(attack.threat, first.threat):
            raise ValueError(
                f"worst_of needs attacks of one threat; got {first.recipe} and {attack.recipe}; "
                "evaluate each threat by itself"
            )
        if attack.targeted != first.targeted:
            raise ValueError(
                f"worst_of needs attacks that are all targeted or all untargeted; got {first.recipe} and "
                f"{attack.recipe}; combine the two kinds separately"
            )
        if attack.decision != first.decision:
            raise ValueError(
                f"worst_of needs attacks of one rule of success; got {first.recipe} and {attack.recipe}; apply top_k "
                "or confident to their combination"
            )

    def run_all(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        results = [
            a(jax.random.fold_in(key, i), logits_fn, x, labels, eps=eps, step_size=step_size, ids=ids)
            for i, a in enumerate(attacks)
        ]
        best = results[0]._replace(trace=None)
        for result in results[1:]:
            best = where(~best.success & result.success, result._replace(trace=None), best)
        return best._replace(trace=jnp.concatenate([result.trace for result in results], 1))

    said = ", ".join(attack.recipe for attack in attacks)
    return replace(first, run=run_all, recipe=f"worst_of({said})")


def restarts(attack: Attack, n: int) -> Attack:
    """Run the attack from `n` random starts; each example keeps its best result.

    A success is better than a failure, and a larger loss is better than a smaller one. Start i uses the key
    `fold_in(key, i)`. All starts run in one compiled loop.

    Args:
        attack: an attack that draws random numbers, such as `pgd()`.
        n: number of random starts, at least 1.

    Returns:
        An `Attack` with the same threat and target.

    Raises:
        ValueError: `n` is below 1, or `attack` is not an `Attack`.
    """
    _check.count(n=n)
    check_attack(attack)

    def repeated(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        def run(i):
            start = jax.random.fold_in(key, i)
            return attack(start, logits_fn, x, labels, eps=eps, step_size=step_size, ids=ids)

        def better(new, best):
            return (new.success & ~best.success) | ((new.success == best.success) & (new.loss > best.loss))

        return best_of(run, n, better)

    return replace(attack, run=repeated, recipe=f"restarts({attack.recipe}, n={n})")

r"""Models that draw random numbers: expectation over transformations.

A random model is `(params, key, x) -> logits`. At each step of an attack, an image gets `draws` new draws. Draw d of
image i at step s has the key

    fold_in(fold_in(fold_in(key', i), s), d),

where i is the position in the data set and key' comes from the key of the attack. The attack climbs the mean of its
loss over the draws, so that its gradient is the mean of their gradients. It has succeeded at a point if it succeeds on
more than half of the draws. The success in the result is counted on further draws, which no step has seen.

Source: Athalye et al. 2018, *Synthesizing Robust Adversarial Examples* (expectation over transformations), and
*Obfuscated Gradients Give a False Sense of Security*, section 4.2.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from invjax import _check
from invjax._sharding import check_automatic
from invjax.types import ApplyFn, Key, Logits, LogitsFn, Params

_OWN, _VERDICT, _AVERAGE = 2**32 - 1, 2**31 - 1, 2**31 - 2
"""Numbers that no image and no step has: of the draws of the model, of the final count, and of calls without a step."""


@dataclass(frozen=True)  # which `jax.jit` can compile, unlike a NamedTuple, so that its call can explain itself
class RandomModel:
    """A model that draws random numbers, for `jit_attack`, `over`, `evaluation.benchmark` and `robustness_curve`.

    Attributes:
        apply_fn: `(params, key, x [B, ...]) -> logits [B, K]`.
        draws: number of draws at each step of an attack.
    """

    apply_fn: Callable[[Params, Key, jax.Array], jax.Array]
    draws: int

    def __call__(self, *given: Any) -> Logits:
        """Refuse a call without a key.

        Args:
            *given: what a deterministic model would get.

        Raises:
            ValueError: always, because the model needs a key.
        """
        raise ValueError(
            "the model draws random numbers and was called without a key; random models work in jit_attack, over, "
            "benchmark and robustness_curve; elsewhere fix a key, as in lambda params, x: apply_fn(params, key, x)"
        )


def random_model(apply_fn: Callable[[Params, Key, jax.Array], jax.Array], *, draws: int = 20) -> RandomModel:
    """A model with random numbers, which attacks treat by expectation over transformations.

    An attack climbs the mean of its loss over the draws,

        gradient = mean over d of  grad loss(model(params, key_d, z), y),

    and draws anew at each step. It succeeds on an image if it succeeds on more than half of `draws` draws that no step
    has seen. Image i draws from `fold_in(key, i)`, so its result does not depend on its batch. `pgd`, `fgsm` and
    `apgd` draw at each step; FAB and Square search on one set of draws for each image.

    >>> from invjax import attacks
    >>> noisy = lambda w, key, x: x @ w + 0.1 * jax.random.normal(key, (len(x), 2))
    >>> run = attacks.jit_attack(attacks.fgsm(), attacks.random_model(noisy, draws=4))
    >>> x, labels = jnp.array([[0.5, 0.4]]), jnp.array([0])
    >>> run(jax.random.key(0), 10 * jnp.eye(2), x, labels, eps=0.25).x.tolist()
    [[0.25, 0.6499999761581421]]

    Args:
        apply_fn: `(params, key, x [B, ...]) -> logits [B, K]`. Attacks call it with one image and its own key.
        draws: number of draws at each step.

    Returns:
        The model, for `jit_attack`, `over`, `evaluation.benchmark` and `evaluation.robustness_curve`.

    Raises:
        ValueError: `draws` is below 1.

    Source: Athalye et al. 2018, *Synthesizing Robust Adversarial Examples*; Croce & Hein 2020, *Reliable Evaluation of
    Adversarial Robustness*, version "rand" of their code (20 draws). Their code counts the success of a step on its
    last draw, and the final one on one further draw.
    """
    _check.count(draws=draws)
    return RandomModel(apply_fn, draws)


@dataclass(frozen=True, eq=False)
class Bound:
    """A model that has data for each image of a batch: the `logits_fn` that an attack sees.

    Attributes:
        one: `(keys [B], data, z [B, ...]) -> logits [B, K]`; of a random model one draw for each image.
        keys: `[B]`, the key of each image; None without random numbers.
        data: a pytree of arrays `[B, ...]`, such as labels.
        draws: number of draws at each step; 0 without random numbers.
    """

    one: Callable[[Any, Any, Any], jax.Array]
    keys: Any
    data: Any
    draws: int

    def __call__(self, z: Any) -> jax.Array:
        """The logits; of a random model their mean over the draws of no step, for choices such as that of a target.

        Args:
            z: `[B, ...]`, images.
        """
        if not self.draws:
            return self.one(None, self.data, z)
        return self.every(lambda logits: logits, z, _AVERAGE).mean(0)

    def every(self, function: Callable[[jax.Array], Any], z: Any, step: Any) -> Any:
        """`function(logits)` for each draw of a step, with the draws as the first axis.

        Args:
            function: `logits [B, K] -> pytree of arrays`.
            z: `[B, ...]`, images.
            step: number of the step.
        """

        def draw(d):
            fold = jax.vmap(jax.random.fold_in, (0, None))
            return function(self.one(fold(fold(self.keys, step), d), self.data, z))

        check_automatic(z, "a random model")
        draws = jnp.arange(self.draws)
        return jax.lax.map(draw, draws) if jax.default_backend() == "cpu" else jax.vmap(draw)(draws)


def alone(logits_fn: LogitsFn) -> tuple[Any, Callable[[Any], LogitsFn]]:
    """What a model holds for each image `[B, ...]`, and the function that makes of one image's part its model.

    Args:
        logits_fn: the model that an attack sees.
    """
    if not isinstance(logits_fn, Bound):
        return None, lambda own: logits_fn

    def of_image(own):
        keys, data = jax.tree.map(lambda leaf: leaf[None], own)
        return replace(logits_fn, keys=keys, data=data)

    return (logits_fn.keys, logits_fn.data), of_image


def bind(apply_fn: ApplyFn | RandomModel, params: Params, key: Key, ids: Any, count: int) -> LogitsFn:
    """The model that an attack sees: `apply_fn` with its parameters, and with the keys of a random model.

    Args:
        apply_fn: `(params, x) -> logits`, or a model from `random_model`.
        params: parameters of the model.
        key: the key of the attack; only a random model uses it.
        ids: `[count]`, positions in the data set; None for those in the batch.
        count: number of images in the batch.

    Returns:
        `x [count, ...] -> logits [count, K]`.
    """
    if not isinstance(apply_fn, RandomModel):
        return partial(apply_fn, params)

    def one(keys, data, z):
        del data
        return jax.vmap(lambda k, image: _of_one(apply_fn.apply_fn(params, k, image[None])))(keys, z)

    own, ids = jax.random.fold_in(key, _OWN), jnp.arange(count) if ids is None else jnp.asarray(ids)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(own, ids)
    return cast(LogitsFn, Bound(one, keys, (), apply_fn.draws))


def _of_one(logits: Any) -> Any:
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        raise ValueError(
            f"a random model gets one image and must return logits [1, classes]; got {shape or 'no array'}; draw "
            "numbers of the shape of its input, such as jax.random.normal(key, x.shape)"
        )
    return logits[0]


def through(logits_fn: LogitsFn, change: Callable[..., LogitsFn], *data: Any) -> LogitsFn:
    """`change(logits_fn, *data)`, which changes the images or the logits of a model; a random model stays random.

    Args:
        logits_fn: the model that an attack sees.
        change: a function from a model `z [B, ...] -> logits [B, K]`, and the data, to another model.
        *data: pytrees of arrays `[B, ...]` that belong to the images. A search over the radius of each image takes
            images one by one, and each with its part of the data.

    Returns:
        The changed model.
    """
    if not data and not isinstance(logits_fn, Bound):
        return change(logits_fn)
    model = logits_fn if isinstance(logits_fn, Bound) else Bound(lambda keys, data, z: logits_fn(z), None, (), 0)

    def changed(keys, both, z):
        before, new = both
        return change(partial(model.one, keys, before), *new)(z)

    return cast(LogitsFn, replace(model, one=changed, data=(model.data, data)))


def judged(
    rule: Callable[[Any], tuple[Any, Any]], logits_fn: LogitsFn, z: Any, step: Any = _VERDICT
) -> tuple[jax.Array, jax.Array]:
    """The values and successes of images: of a random model the mean value and the majority over the draws of a step.

    Args:
        rule: `logits [B, K] -> (value [B], whether the image is a success [B])`.
        logits_fn: the model that the attack sees.
        z: `[B, ...]`, images.
        step: number of the step, 0 or more; by default the draws are those of the final count.

    Returns:
        The values `[B]` and the successes `[B]`.
    """
    if not isinstance(logits_fn, Bound) or not logits_fn.draws:
        return rule(logits_fn(z))
    values, success = logits_fn.every(rule, z, step)
    return values.mean(0), success.mean(0) > 0.5

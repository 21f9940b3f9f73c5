r"""Square: random search with squares, which needs the model's logits but no gradient.

Each query changes one random square of the image. The change is kept if it raises the loss, and the squares shrink over
the queries. The module `_square_proposals` draws the changes.

Source: Andriushchenko et al. 2020, *Square Attack*, algorithm 1; the l1 form: Croce & Hein 2021, *Mind the Box*.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.attacks import _square_proposals as proposals
from invjax.attacks._attack import Attack, recipe
from invjax.attacks._threats import Threat, check_supported, linf
from invjax.attacks.building import by_image, example_keys, finish, fooled, prepare, where
from invjax.losses import margin

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The numbers of queries after which the fraction of changed pixels is halved, in a run of 10,000 queries."""


def square_sizes(
    queries: int, height: int, width: int, fraction: float, order: float | int, rescale: bool = True
) -> np.ndarray:
    """The side of the square of each query, `[queries]`.

    Args:
        queries: number of queries.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        fraction: fraction of the pixels that the first square covers.
        order: order of the norm. The squares of a finite order have an odd side of at least 3.
        rescale: whether to stretch the schedule, published for 10,000 queries, to `queries`.
    """
    position = np.arange(queries) * (10_000 / queries if rescale else 1)
    fractions = fraction / 2.0 ** np.searchsorted(_HALVINGS, position.astype(int), side="left")
    sides = np.round(np.sqrt(fractions * height * width)).astype(int)
    largest = min(height, width)
    if order == np.inf:
        return np.clip(sides, 1, largest)
    return np.clip(np.maximum(sides, 3) // 2 * 2 + 1, 1, largest if largest % 2 else largest - 1)


def square(threat: Threat | None = None, *, queries: int = 5000, fraction: float = 0.8, rescale: bool = True) -> Attack:
    """The Square attack on images `[B, H, W, C]`.

    >>> from invjax import attacks
    >>> logits_fn = lambda x: jnp.stack([1 - x.mean((1, 2, 3)), x.mean((1, 2, 3))], -1)
    >>> x, labels = jnp.full((1, 4, 4, 1), 0.45), jnp.array([0])
    >>> bool(attacks.square(queries=30)(jax.random.key(0), logits_fn, x, labels, eps=0.1).success[0])
    True

    Args:
        threat: a norm, such as `linf()` (the default), `l2()` or `l1()`.
        queries: number of squares to try; each takes one call of the model.
        fraction: fraction of the pixels that the first squares change, in (0, 1].
        rescale: whether to stretch the schedule of sizes, published for 10,000 queries, to `queries`.

    Returns:
        An untargeted `Attack` that ignores `step_size`.

    Raises:
        ValueError: the threat is not a norm, `queries` is below 1, or `fraction` is outside (0, 1]. When the attack
            runs: the images are not `[B, H, W, C]` with sides of at least 4.
    """
    _check.positive(queries=queries)
    threat = linf() if threat is None else threat
    check_supported("square", threat, "order")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1]; got {fraction}; the default is 0.8")

    def attack(threat, key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        del step_size
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        if x.ndim != 4 or min(x.shape[1:3]) < 4:
            raise ValueError(
                f"square needs images [B, H, W, C] with sides of at least 4; got {x.shape}; use pgd or apgd for others"
            )
        sizes = square_sizes(queries, *x.shape[1:3], fraction, threat.order, rescale)
        sides, which = np.unique(sizes, return_inverse=True)
        canvas = proposals.canvas(threat, eps, x.shape[1:], sides, x.dtype)
        keys, flat = example_keys(key, ids, len(x)), threat.order == np.inf
        start = jax.vmap(partial(proposals.stripes if flat else proposals.tiles, canvas))
        propose = jax.vmap(
            partial(proposals.new_square if flat else proposals.moved_bump, canvas), (0, 0, 0, None, None)
        )

        def evaluate(z):
            logits = logits_fn(z)
            return margin(logits, labels), fooled(logits, labels)

        def query(carry, i):
            z, value, wrong = carry
            number, side, index = i
            new = propose(jax.vmap(jax.random.fold_in, (0, None))(keys, number), z, x, side, index)
            new_value, new_wrong = evaluate(new)
            better = ~wrong & ((new_value > value) | new_wrong)
            carry = where(better, (new, new_value, new_wrong), carry)
            return carry, carry[1]

        first = start(jax.vmap(jax.random.fold_in, (0, None))(keys, queries), x)
        steps = (jnp.arange(queries), jnp.asarray(sizes), jnp.asarray(which.ravel()))
        (found, value, _), trace = jax.lax.scan(query, (first, *evaluate(first)), steps)
        return finish(logits_fn, threat.distance, found, x, labels, value, trace.T)

    said = recipe("square", threat, queries=queries, fraction=fraction, rescale=rescale)
    return Attack(by_image(threat, attack), threat, False, said)

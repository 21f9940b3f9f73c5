r"""Square: random search with squares, which needs the model's logits but no gradient.

Each query changes one random square of the image. The change is kept if it raises the loss, and the squares shrink over
the queries. The module `_square_proposals` draws the changes. Examples that are no images have other windows:

- `[T, C]`, sequences: a segment of time steps in the place of the square, with a sign for each channel;
- `[D]`, rows of a table: a random set of features, because their order means nothing;
- `[..., H, W, C]`, such as videos: the same square in every frame, with a sign for each frame and channel;
- images with a side below 4: a segment of the pixels, row by row.

Source: Andriushchenko et al. 2020, *Square Attack*, algorithm 1; the l1 form: Croce & Hein 2021, *Mind the Box*.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.attacks import _square_proposals as proposals
from invjax.attacks._attack import Attack, recipe
from invjax.attacks._threats import Threat, allowed, check_supported, check_threat, linf
from invjax.attacks.building import by_image, example_keys, finish, fooled, judged, prepare, where
from invjax.losses import margin
from invjax.types import Array

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The numbers of queries after which the fraction of changed pixels is halved, in a run of 10,000 queries."""


def square_sizes(queries: int, *sizes: int, fraction: float, order: float | int, rescale: bool = True) -> np.ndarray:
    """The side of the window of each query, `[queries]`.

    Args:
        queries: number of queries.
        *sizes: height and width of the image in pixels, or the length of a line.
        fraction: fraction of the pixels that the first window covers.
        order: order of the norm. The windows of a finite order have an odd side of at least 3, where they fit.
        rescale: whether to stretch the schedule, published for 10,000 queries, to `queries`.
    """
    position = np.arange(queries) * (10_000 / queries if rescale else 1)
    fractions = fraction / 2.0 ** np.searchsorted(_HALVINGS, position.astype(int), side="left")
    covered = fractions * math.prod(sizes)
    sides = np.round(np.sqrt(covered) if len(sizes) == 2 else covered).astype(int)
    largest = min(sizes)
    if order == np.inf:
        return np.clip(sides, 1, largest)
    return np.clip(np.maximum(sides, 3) // 2 * 2 + 1, 1, largest if largest % 2 else largest - 1)


def _arranged(shape: tuple[int, ...]) -> tuple[tuple[int, ...], Callable, Callable]:
    """The canvas of examples of this shape, and the functions `[B, ...] -> canvases` and back."""
    if len(shape) == 3 and min(shape[:2]) >= 4:
        return shape, lambda x: x, lambda z: z
    if len(shape) > 3 and min(shape[-3:-1]) >= 4:  # frames become channels
        (height, width, channels), frames = shape[-3:], math.prod(shape[:-3])

        def arrange(x):
            return jnp.moveaxis(x.reshape(-1, frames, height, width, channels), 1, 3).reshape(-1, height, width, merged)

        def restore(z):
            return jnp.moveaxis(z.reshape(-1, height, width, frames, channels), 3, 1).reshape(-1, *shape)

        merged = frames * channels
        return (height, width, merged), arrange, restore
    line = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (math.prod(shape), 1)
    return line, lambda x: x.reshape(len(x), *line), lambda z: z.reshape(len(z), *shape)


def _on_canvas(threat: Threat, arrange: Callable, restore: Callable) -> Threat:
    """The threat whose projection takes canvases: ranges of features and masks belong to the shape of the examples."""

    def project(z, x, eps):
        return arrange(threat.project(restore(z[None])[0], restore(x[None])[0], eps)[None])[0]

    return threat._replace(project=project)


def _free(threat: Threat, x: Array, arrange: Callable) -> Array | None:
    """The values of a canvas that may change; None if all may."""
    free = allowed(threat, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    return None if free is None else arrange(free[None])[0]


def square(
    threat: Threat | None = None,
    *,
    queries: int = 5000,
    fraction: float = 0.8,
    rescale: bool = True,
    targeted: bool = False,
) -> Attack:
    """The Square attack on images `[B, H, W, C]`, and on examples of any other shape (see above).

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
        targeted: whether `labels` are classes to reach, so that the attack descends the margin.

    Returns:
        An `Attack` that ignores `step_size`.

    Raises:
        ValueError: the threat is not a norm, `queries` is below 1, or `fraction` is outside (0, 1].

    Source: Andriushchenko et al. 2020. The windows of examples that are no images are ours.
    """
    _check.count(queries=queries)
    threat = check_threat(linf() if threat is None else threat)
    check_supported("square", threat, "order")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1]; got {fraction}; the default is 0.8")

    def attack(threat, key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        del step_size
        logits_fn, given, eps = prepare(logits_fn, x, labels, eps, threat.box)
        shape, arrange, restore = _arranged(given.shape[1:])
        x = arrange(given)
        sizes = square_sizes(queries, *shape[:-1], fraction=fraction, order=threat.order, rescale=rescale)
        sides, which = np.unique(sizes, return_inverse=True)
        placed, free = _on_canvas(threat, arrange, restore), _free(threat, given, arrange)
        canvas = proposals.canvas(placed, eps, shape, sides, x.dtype, unordered=given.ndim == 2, free=free)
        keys, flat = example_keys(key, ids, len(x)), threat.order == np.inf
        start = jax.vmap(partial(proposals.stripes if flat else proposals.tiles, canvas))
        propose = jax.vmap(
            partial(proposals.new_square if flat else proposals.moved_bump, canvas), (0, 0, 0, None, None)
        )

        def rule(logits):
            return (-1 if targeted else 1) * margin(logits, labels), fooled(logits, labels, targeted)

        def evaluate(z):  # a change is kept if it is better on the same draws
            return judged(rule, logits_fn, restore(z), step=0)

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
        return finish(logits_fn, threat.distance, restore(found), given, labels, value, trace.T, targeted=targeted)

    settings: dict[str, Any] = {"queries": queries, "fraction": fraction, "rescale": rescale}
    if targeted:
        settings["targeted"] = True
    return Attack(by_image(threat, attack), threat, targeted, recipe("square", threat, **settings))

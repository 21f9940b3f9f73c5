r"""Square: random search with squares, which asks the model for its logits only and needs no gradient.

Each query changes one square of the image at random, of a size that shrinks over the queries, and is kept if it raises
the loss. In linf the square gets `+eps` or `-eps` for each channel. In l2 and l1 the budget of a second square moves to
the first, in the shape of a smooth bump and its negative.

Source: Andriushchenko et al. 2020, *Square Attack*, algorithms 1 to 3; the l1 form: Croce & Hein 2021, *Mind the Box*.
"""

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.attacks._attack import Attack, recipe
from invjax.attacks._threats import Threat, linf
from invjax.attacks.building import example_keys, finish, fooled, prepare, where
from invjax.losses import margin

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 queries: after each of these the fraction of changed pixels is halved."""


def square_sizes(queries: int, height: int, width: int, fraction: float, norm: str, rescale: bool = True) -> np.ndarray:
    """The side of the square of each query, `[queries]`."""
    position = np.arange(queries) * (10_000 / queries if rescale else 1)
    fractions = fraction / 2.0 ** np.searchsorted(_HALVINGS, position.astype(int), side="left")
    sides = np.round(np.sqrt(fractions * height * width)).astype(int)
    largest = min(height, width)
    if norm == "linf":
        return np.clip(sides, 1, largest)
    return np.clip(np.maximum(sides, 3) // 2 * 2 + 1, 1, largest if largest % 2 else largest - 1)


def bump(side: int) -> np.ndarray:
    """Two opposite halves `[side, side]` that rise in rings to their centers, of Euclidean length 1."""

    def half(rows, columns):
        out = np.zeros((rows, columns))
        top, left = rows // 2, columns // 2
        for ring in range(max(top, left) + 1):
            out[max(top - ring, 0) : top + ring + 1, max(left - ring, 0) : left + ring + 1] += 1 / (ring + 1) ** 2
        return out / np.linalg.norm(out)

    upper = side // 2
    halves = [half(upper, side)] if upper else []
    both = np.concatenate([*halves, -half(side - upper, side)])
    return both / np.linalg.norm(both)


def square(threat: Threat | None = None, *, queries: int = 5000, fraction: float = 0.8, rescale: bool = True) -> Attack:
    """Square attack on images `[B, H, W, C]`.

    Args:
        threat: `linf()` (the default), `l2()` or `l1()`.
        queries: squares tried, one call of the model each.
        fraction: of the pixels that the first squares change, in (0, 1].
        rescale: stretch the schedule of sizes, published for 10,000 queries, to `queries`.

    Raises:
        ValueError: images that are not `[B, H, W, C]` with sides of at least 4.
    """
    _check.positive(queries=queries)
    threat = linf() if threat is None else threat
    _check.one_of("the threat of square", threat.name, ("linf", "l2", "l1"))
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1]; got {fraction}")
    power = {"linf": 0, "l2": 2, "l1": 1}[threat.name]

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        del step_size
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        if x.ndim != 4 or min(x.shape[1:3]) < 4:
            raise ValueError(f"square needs images [B, H, W, C] with sides of at least 4; got {x.shape}")
        _, height, width, channels = x.shape
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
        sizes = square_sizes(queries, height, width, fraction, threat.name, rescale)
        longest = max(height, width)
        sides, which = np.unique(sizes, return_inverse=True)
        tiles = min(height, width) // 5
        keys = example_keys(key, ids, len(x))

        def sign(key, shape):
            return jax.random.rademacher(key, shape, x.dtype)

        def place(pattern, top, left):
            """A `[side, side]` pattern, padded to a square, in the image with its corner at (top, left)."""
            return jnp.roll(pattern[:height, :width], (top, left), (0, 1))

        def corner(key, side):
            top, left = jax.random.split(key)
            return jax.random.randint(top, (), 0, height - side + 1), jax.random.randint(left, (), 0, width - side + 1)

        def length(change, axes=None):
            """`sqrt(sum |change|^2)` or `sum |change|`."""
            if power == 2:
                return jnp.sqrt((change**2).sum(axes, keepdims=axes is not None))
            return jnp.abs(change).sum(axes, keepdims=axes is not None)

        def length_in(change, window):
            """The same inside a window for each channel, `[1, 1, C]`."""
            return length(change * window[..., None], (0, 1))

        def to_surface(change, image):
            """The point of the ball's surface in the direction of `change`."""
            size = length(change)
            return threat.project(image + change * eps / jnp.where(size > 0, size, 1), image, eps)

        padded = jnp.asarray(
            np.stack([np.pad(bump(int(s)), (0, longest - s)) for s in sides])  # square, so that it can be turned
            if power
            else np.zeros((1, longest, longest)),
            x.dtype,
        )

        def stripes(key, image):
            return threat.project(image + eps * sign(key, (1, width, channels)), image, eps)

        def bumps(key, image):
            grid = jnp.asarray(np.tile(bump(tiles), (5, 5)) if tiles else np.zeros((0, 0)), x.dtype)
            pad = ((0, height - grid.shape[0]), (0, width - grid.shape[1]))
            signs = jnp.repeat(jnp.repeat(sign(key, (5, 5, channels)), tiles, 0), tiles, 1)
            return to_surface(jnp.pad(grid, pad)[..., None] * jnp.pad(signs, (*pad, (0, 0))), image)

        def propose_linf(key, z, image, side, index):
            corner_key, sign_key = jax.random.split(key)
            top, left = corner(corner_key, side)
            window = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
            return threat.project(z + 2 * eps * window[..., None] * sign(sign_key, (1, 1, channels)), image, eps)

        def propose_bump(key, z, image, side, index):
            first, second, sign_key, turn_key = jax.random.split(key, 4)
            top, left = corner(first, side)
            here = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
            top2, left2 = corner(second, side)
            there = (rows >= top2) & (rows < top2 + side) & (columns >= left2) & (columns < left2 + side)
            change = z - image
            pattern = padded[index]
            pattern = place(jnp.where(jax.random.bernoulli(turn_key), pattern.T, pattern), top, left)
            # what the two windows hold, and what is left of the budget, goes into the first
            unused = jnp.maximum(eps**power - length(change) ** power, 0) / channels
            budget = (unused + length_in(change, here | there) ** power) ** (1 / power)
            old = change * here[..., None] / jnp.maximum(length_in(change, here), 1e-12)
            new = old + pattern[..., None] * sign(sign_key, (1, 1, channels))
            new = new * budget / jnp.maximum(length_in(new, here), 1e-12)
            change = jnp.where(here[..., None], new, jnp.where(there[..., None], 0, change))
            return to_surface(change, image)

        propose = jax.vmap(propose_bump if power else propose_linf, (0, 0, 0, None, None))

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

        first = jax.vmap(bumps if power else stripes)(jax.vmap(jax.random.fold_in, (0, None))(keys, queries), x)
        steps = (jnp.arange(queries), jnp.asarray(sizes), jnp.asarray(which.ravel()))
        (found, value, _), trace = jax.lax.scan(query, (first, *evaluate(first)), steps)
        return finish(logits_fn, threat.distance, found, x, labels, value, trace.T)

    return Attack(attack, threat, False, recipe("square", threat, queries=queries, fraction=fraction, rescale=rescale))

"""A network trained on the spheres, and both of its failures: excessive invariance and excessive sensitivity."""

import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from invjax.analysis import train_head
from invjax.attacks import l2, pgd, smallest
from invjax.bijectors import actnorm, additive_coupling, chain, permute
from invjax.losses import cross_entropy, error_rate
from invjax.models import Code, InvertibleClassifier, invertible_classifier, mlp
from invjax.theory import spheres
from invjax.training import fit, init_state, make_train_step
from invjax.types import LogitsFn, Params

CHUNK = 50_000
"""Number of points in memory at once."""

Numbers = dict[str, dict[str, Any]]
"""Numbers by unit, then by name."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the spheres, the network and its measurements."""

    dimension: int = 100
    """Dimension of the space."""
    radii: tuple[float, float] = (1.0, 10.0)
    """Radii of the inner and of the outer sphere."""
    couplings: int = 4
    """Number of blocks of the network; a block is actnorm, a fixed permutation and an additive coupling."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of the network of each coupling."""
    steps: int = 2000
    """Number of training steps; each step draws a new batch."""
    batch_size: int = 256
    """Number of points in a training step."""
    learning_rate: float = 3e-3
    """Initial learning rate of Adam; it decays to zero along a cosine."""
    test_size: int = 500_000
    """Number of points on which the clean error of a network is measured."""
    pairs: int = 500
    """Number of pairs of an inner and an outer point from which metamers are made."""
    attacked: int = 64
    """Number of points whose nearest change of the decision is searched; half of them are inner points."""
    attack_steps: int = 20
    """Number of steps of projected gradient descent, at each of ten radii."""
    head_size: int = 20_000
    """Number of points on which the nuisance classifier is trained."""
    head_epochs: int = 10
    """Number of passes over the points of the nuisance classifier."""


def mean_over_points(measure: Callable[..., Any], key: jax.Array, total: int) -> Any:
    """The mean of `measure(key, count=...)`, any pytree of numbers, over `total` points or a few more."""
    chunks = -(-total // CHUNK)
    compiled = jax.jit(partial(measure, count=-(-total // chunks)))
    found = [jax.device_get(compiled(jax.random.fold_in(key, i))) for i in range(chunks)]
    return jax.tree.map(lambda *values: float(np.mean(values, dtype=np.float64)), *found)


@cache  # one function for all seeds, so that it is compiled once
def model_for(config: Settings) -> InvertibleClassifier:
    """A fully connected invertible network of `[B, d]`; its logits are the first two outputs."""
    net_fn = partial(mlp, hidden=config.hidden, zero_init=True)
    blocks = [[actnorm(), permute(i), additive_coupling(net_fn)] for i in range(config.couplings)]
    return invertible_classifier(chain([layer for block in blocks for layer in block]), (config.dimension,), 2)


def train(config: Settings, key: jax.Array) -> Params:
    """Cross-entropy alone, on new points in each step."""
    model, optimizer = model_for(config), optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    draw = partial(spheres.sample, dimension=config.dimension, radii=config.radii)

    def loss_fn(params, key, batch, step):
        x, labels = draw(key, count=config.batch_size)
        logits = model.apply(params, x)
        return cross_entropy(logits, labels).mean(), {"error": error_rate(logits, labels)}

    init_key, data_key, run_key = jax.random.split(key, 3)
    params = jax.jit(model.init)(init_key, draw(data_key, count=512)[0])
    step = make_train_step(loss_fn, optimizer)
    state, _ = fit(init_state(run_key, params, optimizer), step, lambda step: (), config.steps)
    return state.params


def clean_error(config: Settings, logits_fn: LogitsFn, key: jax.Array) -> Numbers:
    """The error on new points."""

    def errors(key, count):
        x, labels = spheres.sample(key, count=count, dimension=config.dimension, radii=config.radii)
        wrong = 100 * (logits_fn(x).argmax(-1) != labels)
        return {"clean error, inner sphere": wrong[::2].mean(), "clean error, outer sphere": wrong[1::2].mean()}

    return {"%": mean_over_points(errors, key, config.test_size)}


def metamers_on_sphere(
    model: InvertibleClassifier, params: Params, first: jax.Array, second: jax.Array, radius: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Points of one radius with exactly the logits of `first`, by bisection.

    All points x(s) = decode(z_s(a), (1 - s) z_n(a) + s z_n(b)) have the logits of a. If a = x(0) lies on one side of
    the sphere and the metamer x(1) on the other, then some x(s) lies on it; bisection finds it to rounding.

    Args:
        model: an invertible classifier of `[B, d]`.
        params: its parameters.
        first: a, `[B, d]`.
        second: b, `[B, d]`.
        radius: radius of the sphere.

    Returns:
        x(s) `[B, d]`, which is x(1) where x(1) lies on the same side as a; whether x(1) lies on the other side, `[B]`;
        and x(1).
    """
    one, two = (model.encode(params, x)[0] for x in (first, second))

    def at(s):
        return model.decode(params, Code(one.logits, one.nuisance + s[:, None] * (two.nuisance - one.nuisance)))

    def outside(x):
        return jnp.linalg.norm(x, axis=1) >= radius

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        crossed = outside(at(middle)) != outside(first)
        return jnp.where(crossed, low, middle), jnp.where(crossed, middle, high)

    ends = jnp.zeros(len(first), first.dtype), jnp.ones(len(first), first.dtype)
    _, s = jax.lax.fori_loop(0, 2 * jnp.finfo(first.dtype).nmant, halve, ends)
    return at(s), outside(at(ends[1])) != outside(first), at(ends[1])


def invariance(config: Settings, params: Params, inner: np.ndarray, outer: np.ndarray) -> tuple[Numbers, Any]:
    """Exact metamers of points of one sphere that lie on the other sphere, in float64.

    Returns:
        The numbers; and for the inner points that have a metamer: the metamer, its nuisance, and the point, in float32.
    """
    model, (inner_radius, outer_radius) = model_for(config), config.radii
    search = jax.jit(partial(metamers_on_sphere, model))
    with jax.enable_x64(True):
        exact, a, b = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, inner, outer))
        found, exists, full = jax.device_get(search(exact, a, b, outer_radius))
        back = np.asarray(search(exact, b, a, inner_radius)[1])
        codes = [jax.device_get(jax.jit(model.encode)(exact, x)[0]) for x in (a, jnp.asarray(found))]
    if not exists.any():
        raise ValueError("no metamer of an inner point reaches the outer sphere; train longer: give more --steps")
    logits, again = (code.logits[exists] for code in codes)
    found, nuisance = found[exists], codes[1].nuisance[exists]
    full_radii = np.linalg.norm(full, axis=1)
    numbers = {
        "%": {
            "inner points with a metamer on the outer sphere": 100 * exists.mean(),
            "decision inner on these metamers": 100 * (again.argmax(-1) == 0).mean(),
            "outer points for which the same search reaches the inner sphere": 100 * back.mean(),
        },
        "": {
            "max logit error of the metamers on the outer sphere, float64": np.abs(logits - again).max(),
            "max radius error of these, float64": np.abs(np.linalg.norm(found, axis=1) - outer_radius).max(),
            "mean distance of these from their inner points": np.linalg.norm(found - inner[exists], axis=1).mean(),
            "metamers with all of an outer nuisance: median radius": np.median(full_radii),
            "metamers with all of an outer nuisance: smallest radius": full_radii.min(),
        },
    }
    return numbers, (found.astype(np.float32), nuisance.astype(np.float32), inner[exists])


def nuisance_reading(
    config: Settings, params: Params, key: jax.Array, metamers: np.ndarray, full: np.ndarray
) -> Numbers:
    """Decisions of a fresh classifier of the nuisance on clean points and on metamers, whose nuisance is given."""
    encode = jax.jit(model_for(config).encode)
    data_key, head_key = jax.random.split(key)
    draw = partial(spheres.sample, count=config.head_size, dimension=config.dimension, radii=config.radii)
    (x, labels), (test, test_labels) = (jax.device_get(draw(k)) for k in jax.random.split(data_key))
    features, test_features = (np.asarray(encode(params, points)[0].nuisance) for points in (x, test))
    head = jax.jit(train_head(head_key, mlp(2, (256,)), (features, labels), epochs=config.head_epochs))
    wrong = {
        "clean error": np.asarray(head(test_features)).argmax(-1) != test_labels,
        "metamers on the outer sphere called inner": np.asarray(head(metamers)).argmax(-1) == 0,
        "metamers with all of an outer nuisance called inner": np.asarray(head(full)).argmax(-1) == 0,
    }
    return {"%": {f"fresh nuisance classifier: {name}": 100 * values.mean() for name, values in wrong.items()}}


def sensitivity(config: Settings, logits_fn: LogitsFn, key: jax.Array) -> Numbers:
    """The distance of the nearest change of the decision that projected gradient descent finds."""
    x, labels = spheres.sample(key, count=config.attacked, dimension=config.dimension, radii=config.radii)
    attack, most = smallest(pgd(l2((-math.inf, math.inf)), steps=config.attack_steps)), sum(config.radii)
    run = jax.jit(lambda x, labels, eps: attack(key, logits_fn, x, labels, eps=eps))
    found = jax.device_get(run(x, labels, most))
    distance = np.where(found.success, found.distance, most)
    return {
        "": {
            f"median distance to a change of decision, {name} sphere, at most {most:g}": np.median(distance[i::2])
            for i, name in enumerate(("inner", "outer"))
        }
    }

"""A network trained on the spheres, and both of its failures: excessive invariance and excessive sensitivity."""

import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from invjax.analysis import train_head
from invjax.attacks import l2, pgd, smallest
from invjax.bijectors import actnorm, additive_coupling, chain, permute
from invjax.models import Code, InvertibleClassifier, invertible_classifier, mlp
from invjax.theory import spheres
from invjax.training import TrainStep, fit, init_state, make_train_step
from invjax.types import Key, LogitsFn, Params

CHUNK = 50_000  # number of points in memory at once

Numbers = dict[str, Any]  # numbers by name


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the spheres, the network and its measurements."""

    dimension: int = 100  # Dimension of the space.
    radii: tuple[float, float] = (1.0, 10.0)  # Radii of the inner and of the outer sphere.
    couplings: int = 4  # Number of blocks of the network: actnorm, a fixed permutation and an additive coupling.
    hidden: tuple[int, ...] = (128, 128)  # Widths of the hidden layers of the network of each coupling.
    steps: int = 2000  # Number of training steps; each step draws a new batch.
    batch_size: int = 256  # Number of points in a training step.
    learning_rate: float = 3e-3  # Initial learning rate of Adam; it decays to zero along a cosine.
    test_size: int = 500_000  # Number of points on which the clean error of a network is measured.
    pairs: int = 500  # Number of pairs of an inner and an outer point from which metamers are made.
    attacked: int = 64  # Number of points whose nearest change of the decision is searched; half of them are inner.
    attack_steps: int = 20  # Number of steps of projected gradient descent, at each of ten radii.
    head_size: int = 20_000  # Number of points on which the nuisance classifier is trained.
    head_epochs: int = 10  # Number of passes over the points of the nuisance classifier.

    def sample(self, key: Key, count: int) -> tuple[Any, Any]:
        """Points of both spheres in turn, and their labels."""
        return spheres.sample(key, count=count, dimension=self.dimension, radii=self.radii)


USUAL = Settings()


def mean_over_points(measure: Callable[..., Any], key: Key, total: int) -> Any:
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


@cache
def training_step(config: Settings) -> tuple[TrainStep, optax.GradientTransformation]:
    """A step with cross-entropy alone, on new points."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    loss_of = common.plain_loss(model_for(config).apply)

    def loss_fn(params, key, batch, step):
        return loss_of(params, key, config.sample(key, config.batch_size), step)

    return make_train_step(loss_fn, optimizer), optimizer


def train(config: Settings, key: Key, folder: Path) -> Params:
    init_key, data_key, run_key = jax.random.split(key, 3)
    params = jax.jit(model_for(config).init)(init_key, config.sample(data_key, 512)[0])
    step, optimizer = training_step(config)
    return fit(init_state(run_key, params, optimizer), step, lambda _: (), config.steps, directory=folder)[0].params


def metamers_on_sphere(
    model: InvertibleClassifier, params: Params, first: jax.Array, second: jax.Array, radius: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Points of one radius with exactly the logits of `first`, by bisection.

    All points x(s) = decode(z_s(a), (1 - s) z_n(a) + s z_n(b)) have the logits of a, the first point. If a = x(0) lies
    on one side of the sphere and the metamer x(1) on the other, then bisection finds an x(s) on the sphere.

    Returns:
        x(s) `[B, d]`, or x(1) where it lies on the same side as a; whether it lies on the other side, `[B]`; and x(1).
    """
    one, two = (model.encode(params, x)[0] for x in (first, second))

    def at(s):
        return model.decode(params, Code(one.logits, one.nuisance + s[:, None] * (two.nuisance - one.nuisance)))

    def crossed(x):
        return (jnp.linalg.norm(x, axis=1) >= radius) != (jnp.linalg.norm(first, axis=1) >= radius)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        beyond = crossed(at(middle))
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    ends = jnp.zeros(len(first), first.dtype), jnp.ones(len(first), first.dtype)
    _, s = jax.lax.fori_loop(0, 2 * jnp.finfo(first.dtype).nmant, halve, ends)
    return at(s), crossed(at(ends[1])), at(ends[1])


def invariance(
    config: Settings, params: Params, inner: np.ndarray, outer: np.ndarray
) -> tuple[Numbers, Numbers, np.ndarray, np.ndarray, np.ndarray]:
    """Exact metamers of points of one sphere that lie on the other sphere, in float64.

    Returns:
        Numbers in percent; numbers without unit; and for the inner points that have a metamer: the metamer, its
        nuisance, and the point, in float32.
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
    (logits, _), (again, nuisance) = (jax.tree.map(lambda leaf: leaf[exists], code) for code in codes)
    found, inner, full_radii = found[exists], inner[exists], np.linalg.norm(full, axis=1)
    percents = {
        "inner points with a metamer on the outer sphere": 100 * exists.mean(),
        "decision inner on these metamers": 100 * (again.argmax(-1) == 0).mean(),
        "outer points for which the same search reaches the inner sphere": 100 * back.mean(),
    }
    others = {
        "max logit error of the metamers on the outer sphere, float64": np.abs(logits - again).max(),
        "max radius error of these, float64": np.abs(np.linalg.norm(found, axis=1) - outer_radius).max(),
        "mean distance of these from their inner points": np.linalg.norm(found - inner, axis=1).mean(),
        "metamers with all of an outer nuisance: median radius": np.median(full_radii),
        "metamers with all of an outer nuisance: smallest radius": full_radii.min(),
    }
    return percents, others, found.astype(np.float32), nuisance.astype(np.float32), inner


def nuisance_reading(config: Settings, params: Params, key: Key, metamers: np.ndarray, full: np.ndarray) -> Numbers:
    """What a fresh classifier of the nuisance decides on clean points and on the nuisance of metamers, in percent."""
    data_key, head_key = jax.random.split(key)
    (x, labels), (test, test_labels) = (config.sample(k, config.head_size) for k in jax.random.split(data_key))
    features, test_features = (jax.jit(model_for(config).encode)(params, points)[0].nuisance for points in (x, test))
    data = np.asarray(features), np.asarray(labels)
    head = jax.jit(train_head(head_key, mlp(2, (256,)), data, epochs=config.head_epochs))
    clean, on_sphere, with_all = (np.asarray(head(z)).argmax(-1) for z in (test_features, metamers, full))
    name = "fresh nuisance classifier: metamers {} called inner"
    return {
        "fresh nuisance classifier: clean error": 100 * (clean != test_labels).mean(),
        name.format("on the outer sphere"): 100 * (on_sphere == 0).mean(),
        name.format("with all of an outer nuisance"): 100 * (with_all == 0).mean(),
    }


def sensitivity(config: Settings, logits_fn: LogitsFn, key: Key) -> Numbers:
    """The distance of the nearest change of the decision that projected gradient descent finds."""
    x, labels = config.sample(key, config.attacked)
    attack, most = smallest(pgd(l2((-math.inf, math.inf)), steps=config.attack_steps)), sum(config.radii)
    found = jax.jit(lambda x, labels, eps: attack(key, logits_fn, x, labels, eps=eps))(x, labels, most)
    distance = np.where(found.success, found.distance, most)
    name = "median distance to a change of decision, {} sphere, at most {:g}"
    return {name.format(which, most): np.median(distance[i::2]) for i, which in enumerate(("inner", "outer"))}


def measured(config: Settings, seed: int, folder: Path) -> tuple[dict[str, Numbers], tuple]:
    """Train a network and measure both of its failures.

    Returns:
        Numbers by unit; and the logits function, an inner point, and its metamer on the outer sphere.
    """
    keys = jax.random.split(jax.random.key(seed), 5)
    params = train(config, keys[0], folder)
    logits_fn, encode = (partial(jax.jit(fn), params) for fn in (model_for(config).apply, model_for(config).encode))

    def errors(key, count):
        x, labels = config.sample(key, count)
        wrong = 100 * (logits_fn(x).argmax(-1) != labels)
        return {"clean error, inner sphere": wrong[::2].mean(), "clean error, outer sphere": wrong[1::2].mean()}

    points = np.asarray(config.sample(keys[1], 2 * config.pairs)[0])
    inner, outer = points[::2], points[1::2]
    percents, others, metamers, nuisance, sources = invariance(config, params, inner, outer)
    moved = np.asarray(logits_fn(spheres.change_last(inner, radius=config.radii[1]).x)).argmax(-1)
    name = "decision inner on inner points moved to the outer sphere by their last coordinate"
    percents = mean_over_points(errors, keys[2], config.test_size) | percents | {name: 100 * (moved == 0).mean()}
    percents |= nuisance_reading(config, params, keys[3], nuisance, np.asarray(encode(outer)[0].nuisance))
    others |= sensitivity(config, logits_fn, keys[4])
    numbers = {"%": percents, "": others}
    shown = logits_fn, sources[0], metamers[0]
    return {unit: {name: float(value) for name, value in of.items()} for unit, of in numbers.items()}, shown

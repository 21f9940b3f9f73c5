"""P1 examples 7 and 8 and figure 2: adversarial spheres, and both kinds of adversarial example on them.

The two classes lie on concentric spheres. The experiment compares closed forms with simulation, for the max-margin
classifier and for the misaligned classifier, which ignores the last coordinate. Then it trains a fully invertible
network for each seed, and searches for points of the outer sphere with exactly the logits of inner points.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.excessive_invariance import published, sphere_network
from experiments.excessive_invariance.sphere_network import Numbers, Settings
from invjax import figures
from invjax.analysis import decision_slice
from invjax.theory import spheres
from invjax.types import Key, LogitsFn

MARKS = "x2", "metamer of x2", "x*", "x1"
ARMS = {"misaligned": "misaligned classifier", "network": "trained invertible network"}
Radii = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: Literal["spheres"] = "spheres"  # The only data set of this experiment.
    network: common.Flat[Settings] = sphere_network.USUAL  # The spheres, the network and its measurements.
    samples: int = 2_000_000  # Number of points with which the closed forms are compared.
    second_dimension: int = 10
    """Dimension of a second comparison, where the misaligned classifier makes visible errors."""
    second_radii: Radii = (1.0, 1.3)  # Radii of the spheres of the second comparison.
    resolution: int = 301  # Number of points along each side of the planes in the figure.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each draws its own points and trains one network.


SMOKE = Settings(dimension=10, couplings=2, hidden=(32,), steps=200, batch_size=64, learning_rate=1e-2, test_size=2000,
                 pairs=16, attacked=4, attack_steps=5, head_size=256, head_epochs=1)  # fmt: skip
PRESETS = {"smoke": Config(network=SMOKE, samples=2000, second_dimension=5, resolution=61, seeds=(0,))}


def settings_of(config: Config) -> dict[str, tuple[int, Radii]]:
    first = config.network.dimension, config.network.radii
    return {"first": first, "second": (config.second_dimension, config.second_radii)}


def comparisons(dimension: int, radii: Radii) -> dict[str, dict[str, tuple[float, Callable]]]:
    """By unit and name: a closed form, and a function of inner points `i`, outer points `o` and other points `y`.

    The mean of the function over the points estimates the closed form.
    """
    at: Any = {"dimension": dimension, "radii": radii}
    moved: Any = spheres.change_last
    margins, error = spheres.mean_margin(**at), 100 * spheres.misaligned_error(**at)
    best, misaligned = spheres.max_margin(radii), spheres.misaligned(radii)
    near, far = (partial(moved, radius=radii[1], far=far) for far in (False, True))
    ratio = radii[1] / radii[0]

    def both(*parts):
        return jnp.concatenate(parts)

    def called_inner(x):
        return misaligned(x).argmax(-1) == 0

    def differ(x, y):
        return best(x).argmax(-1) != best(y).argmax(-1)

    return {
        "%": {
            "misaligned: error on the outer sphere and on inner points moved there": (
                50 + error / 2, lambda i, o, y: called_inner(both(near(i).x, o))),
            "misaligned: error on inner points moved to the outer sphere": (
                100.0, lambda i, o, y: called_inner(near(i).x)),
            "inner points that the last coordinate moves to the outer sphere": (
                100.0, lambda i, o, y: near(i).possible),
            "outer points that the last coordinate moves to the inner sphere": (
                100 * spheres.reachable(**at), lambda i, o, y: moved(o, radius=radii[0]).possible),
            "misaligned: clean error, inner sphere": (0.0, lambda i, o, y: ~called_inner(i)),
            "misaligned: clean error, outer sphere": (error, lambda i, o, y: called_inner(o)),
            "max margin: clean error": (
                0.0, lambda i, o, y: both(best(i).argmax(-1) != 0, best(o).argmax(-1) != 1)),
            "max margin: decisions changed by a nuisance perturbation, another direction": (
                0.0, lambda i, o, y: both(differ(i, y[::2]), differ(o, y[1::2]))),
            "max margin: decisions changed by a semantic perturbation, the other radius": (
                100.0, lambda i, o, y: both(differ(i, i * ratio), differ(o, o / ratio))),
        },
        "": {
            "misaligned: mean change of the logits of moved points": (
                0.0, lambda i, o, y: jnp.abs(misaligned(near(i).x) - misaligned(i))),
            "mean distance moved, near root": (spheres.mean_distance(**at), lambda i, o, y: near(i).distance),
            "mean distance moved, far root": (spheres.mean_distance(**at, far=True), lambda i, o, y: far(i).distance),
            "misaligned: mean margin, inner sphere": (margins[0], lambda i, o, y: misaligned(i)[:, 0]),
            "misaligned: mean margin, outer sphere": (margins[1], lambda i, o, y: misaligned(o)[:, 1]),
            "max margin: mean margin": (
                (radii[1] - radii[0]) / 2, lambda i, o, y: both(best(i)[:, 0], best(o)[:, 1])),
        },
    }  # fmt: skip


def simulated(key: Key, samples: int, dimension: int, radii: Radii) -> Numbers:
    """The estimates of the closed forms from `samples` points."""

    def measure(key, count):
        draw: Any = partial(spheres.sample, count=count, dimension=dimension, radii=radii)
        x, y = (draw(k)[0] for k in jax.random.split(key))
        values = {
            unit: {name: of(x[::2], x[1::2], y).mean() for name, (_, of) in by_name.items()}
            for unit, by_name in comparisons(dimension, radii).items()
        }
        return values[""] | {name: 100 * value for name, value in values["%"].items()}

    return sphere_network.mean_over_points(measure, key, samples)


def picture(config: Config, logits_fn: LogitsFn, inner: np.ndarray, outer: np.ndarray) -> dict[str, np.ndarray]:
    """Figure 2 on the plane through the origin, an inner point and its metamer on the outer sphere.

    The boundary crosses the outer circle on each side of the metamer. Just before one crossing lies x*. Just behind it
    lies x1, which is classified correctly. A small change of x1 gives x*, and so does a large change of the inner
    point, which does not change the decision.
    """
    radius = config.network.radii[1]
    grid: Any = {"extent": ((-1.15 * radius, 1.15 * radius),) * 2, "resolution": config.resolution, "batch_size": 4096}
    plane = decision_slice(logits_fn, np.zeros_like(inner), inner, outer, **grid)
    _, start, metamer = plane.anchors
    basis = np.linalg.lstsq(plane.anchors[1:], np.stack([inner, outer]), rcond=None)[0]

    def on_circle(angles):
        return radius * np.stack([np.cos(angles), np.sin(angles)], -1)

    def decide(points):
        return np.asarray(logits_fn((points @ basis).astype(inner.dtype))).argmax(-1)

    points = [start, metamer]
    away, middle = np.linspace(-np.pi, np.pi, 3601), np.arctan2(metamer[1], metamer[0])
    flips = away[decide(on_circle(middle + away)) == 1]
    if len(flips):
        nearest = np.concatenate([flips[flips < 0][-1:], flips[flips > 0][:1]])
        border = nearest[np.abs(nearest).argmax()]  # the side of the metamer with more room
        step = np.copysign(min(np.radians(5), np.abs(border) / 2), border)
        ends = on_circle(middle + border + np.array([-step, step]))
        if decide(ends).tolist() == [0, 1]:  # there may be another boundary beyond this one
            points += list(ends)
    return {"regions": plane.labels(), "axis": plane.first_axis, "points": np.stack(points)}


def trial(config: Config, data, *, arm, seed, folder):
    if arm == "network":
        numbers, shown = sphere_network.measured(config.network, seed, folder)
        return numbers, picture(config, *shown)
    *keys, point_key = jax.random.split(jax.random.key(seed), 3)
    found = {
        name: simulated(key, config.samples, *setting)
        for key, (name, setting) in zip(keys, settings_of(config).items(), strict=True)
    }
    x, radii = config.network.sample(point_key, 1)[0], config.network.radii
    moved = spheres.change_last(x, radius=radii[1]).x
    return found, picture(config, jax.jit(spheres.misaligned(radii)), np.asarray(x[0]), np.asarray(moved[0]))


def draw(config: Config, results):
    """Figure 2: a small change of x1 and a large change of x2 both give x*."""
    arrays = {ARMS[at.arm]: at.arrays() for at in results.each("arm")}
    points = {name: dict(zip(MARKS, a["points"], strict=False)) for name, a in arrays.items()}
    ways = {
        "perturbation-based: the class stays, the decision changes": ("x1", "x*"),
        "invariance-based: the class changes, the decision stays": ("x2", "x*"),
    }
    (inner, outer), angles, axis = config.network.radii, np.linspace(0, 2 * np.pi, 361), results.arrays()["axis"]
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    chart = figures.decision_arrows(
        (axis, axis),
        {name: a["regions"] for name, a in arrays.items()},
        {"inner": inner * circle, "outer": outer * circle},
        points,
        {name: ways if "x*" in marked else {} for name, marked in points.items()},
        f"Two ways to an adversarial example x*: spheres of radius {inner:g} and {outer:g} "
        f"in {config.network.dimension} dimensions, cut by a plane",
    )
    return {"two-kinds": chart}


def table(config: Config, results):
    simulations, networks = (results.select(arm=arm) for arm in ARMS)
    about = f"measured on {config.samples:,} points"
    for which, (dimension, radii) in settings_of(config).items():
        of = "d={}, R={:g} and {:g}".format(dimension, *radii)
        for unit, by_name in comparisons(dimension, radii).items():
            for name, (value, _) in by_name.items():
                in_paper = published.SPHERES.get(name) == value
                if in_paper and which == "second":
                    continue  # the same as in the first
                goals = {"published" if in_paper else "expected": value}
                yield common.row(f"{name}, {of}", simulations[which, name], unit, about, **goals)
    net = config.network
    setup = f"{net.couplings} additive couplings, {net.steps} steps of {net.batch_size} new points"
    for unit in ("%", ""):
        for name in networks[unit][0]:
            clean = name.startswith("clean error")
            differs, goal = (setup, published.SPHERES_NETWORK) if clean else ("", None)
            yield common.row(f"trained network: {name}", networks[unit, name], unit, differs, published=goal)


EXPERIMENT = common.experiment(__name__, "2 minutes on 2 CPU cores", arm=ARMS)

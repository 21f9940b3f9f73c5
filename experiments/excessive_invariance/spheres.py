"""Adversarial spheres: examples 7 and 8 and figure 2 of the paper.

    python -m experiments.excessive_invariance.spheres [smoke|default] [--dimension 500 --radii 1 1.3]

The two classes lie on concentric spheres. The experiment compares closed forms with simulation, for the max-margin
classifier and for the misaligned classifier, which ignores the last coordinate. Then it trains a fully invertible
network for each seed, and searches for points of the outer sphere with exactly the logits of inner points.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.excessive_invariance import sphere_network
from experiments.excessive_invariance.sphere_network import Numbers
from invjax import figures
from invjax.analysis import decision_slice
from invjax.theory import spheres
from invjax.types import LogitsFn


@dataclasses.dataclass(frozen=True)
class Config(sphere_network.Settings):
    """Settings of the spheres."""

    dataset: Literal["spheres"] = "spheres"
    """The only data set of this experiment."""
    samples: int = 2_000_000
    """Number of points with which the closed forms are compared."""
    second_dimension: int = 10
    """Dimension of a second comparison, in which the error of the misaligned classifier is visible."""
    second_radii: tuple[float, float] = (1.0, 1.3)
    """Radii of the spheres of the second comparison."""
    resolution: int = 301
    """Number of points along each side of the planes in the figure."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one network."""


PRESETS = {
    "smoke": Config(
        dimension=10,
        samples=2000,
        second_dimension=5,
        couplings=2,
        hidden=(32,),
        steps=200,
        batch_size=64,
        learning_rate=1e-2,
        test_size=2000,
        pairs=16,
        attacked=4,
        attack_steps=5,
        head_size=256,
        head_epochs=1,
        resolution=61,
        seeds=(0,),
    ),
    "default": Config(),
}


def closed_forms(dimension: int, radii: tuple[float, float]) -> Numbers:
    """The closed forms of what `simulated` measures."""
    inner_margin, outer_margin = spheres.mean_margin(dimension=dimension, radii=radii)
    error = 100 * spheres.misaligned_error(dimension=dimension, radii=radii)
    return {
        "%": {
            "misaligned: error on the outer sphere and on inner points moved there": 50 + error / 2,
            "misaligned: error on inner points moved to the outer sphere": 100.0,
            "inner points that the last coordinate moves to the outer sphere": 100.0,
            "outer points that the last coordinate moves to the inner sphere": (
                100 * spheres.reachable(dimension=dimension, radii=radii)
            ),
            "misaligned: clean error, inner sphere": 0.0,
            "misaligned: clean error, outer sphere": error,
            "max margin: clean error": 0.0,
            "max margin: decisions changed by a nuisance perturbation, another direction": 0.0,
            "max margin: decisions changed by a semantic perturbation, the other radius": 100.0,
        },
        "": {
            "misaligned: mean change of the logits of moved points": 0.0,
            "mean distance moved, near root": spheres.mean_distance(dimension=dimension, radii=radii),
            "mean distance moved, far root": spheres.mean_distance(dimension=dimension, radii=radii, far=True),
            "misaligned: mean margin, inner sphere": inner_margin,
            "misaligned: mean margin, outer sphere": outer_margin,
            "max margin: mean margin": (radii[1] - radii[0]) / 2,
        },
    }


def simulated(key: jax.Array, samples: int, dimension: int, radii: tuple[float, float]) -> Numbers:
    """The same numbers, estimated from `samples` points."""
    best, misaligned = spheres.max_margin(radii), spheres.misaligned(radii)
    expected = closed_forms(dimension, radii)

    def measure(key, count):
        draw = partial(spheres.sample, count=count, dimension=dimension, radii=radii)
        (x, labels), (turned, _) = map(draw, jax.random.split(key))
        scaled = x * jnp.where(labels == 0, radii[1] / radii[0], radii[0] / radii[1])[:, None]
        inner, outer = x[::2], x[1::2]
        near, far = (spheres.change_last(inner, radius=radii[1], far=far) for far in (False, True))
        missed, wrong = (misaligned(points).argmax(-1) == 0 for points in (near.x, outer))
        shares = (
            jnp.concatenate([missed, wrong]),
            missed,
            near.possible,
            spheres.change_last(outer, radius=radii[0]).possible,
            misaligned(inner).argmax(-1) == 1,
            wrong,
            best(x).argmax(-1) != labels,
            best(x).argmax(-1) != best(turned).argmax(-1),
            best(x).argmax(-1) != best(scaled).argmax(-1),
        )
        lengths = (
            jnp.abs(misaligned(near.x) - misaligned(inner)),
            near.distance,
            far.distance,
            misaligned(inner)[:, 0],
            misaligned(outer)[:, 1],
            jnp.concatenate([best(inner)[:, 0], best(outer)[:, 1]]),
        )
        means = [100 * share.mean() for share in shares], [length.mean() for length in lengths]
        return {
            unit: dict(zip(expected[unit], values, strict=True)) for unit, values in zip(expected, means, strict=True)
        }

    return sphere_network.mean_over_points(measure, key, samples)


def picture(config: Config, logits_fn: LogitsFn, inner: np.ndarray, outer: np.ndarray) -> dict[str, np.ndarray]:
    """Figure 2 on the plane through the origin, an inner point and its metamer on the outer sphere.

    The boundary crosses the outer circle on each side of the metamer. Just before one crossing lies x*. Just behind it
    lies x1, which is classified correctly. A small change of x1 gives x*, and so does a large change of the inner
    point, which does not change the decision.
    """
    radius, half = config.radii[1], 1.15 * config.radii[1]
    origin = np.zeros_like(inner)
    plane = decision_slice(
        logits_fn, origin, inner, outer, extent=((-half, half),) * 2, resolution=config.resolution, batch_size=4096
    )
    _, start, metamer = plane.anchors
    basis = np.linalg.lstsq(plane.anchors[1:], np.stack([inner, outer]), rcond=None)[0]

    def on_circle(angles):
        return radius * np.stack([np.cos(angles), np.sin(angles)], -1)

    def decide(coordinates):
        return np.asarray(logits_fn((coordinates @ basis).astype(inner.dtype))).argmax(-1)

    away = np.linspace(-np.pi, np.pi, 3601)
    middle = np.arctan2(metamer[1], metamer[0])
    flips = away[decide(on_circle(middle + away)) == 1]
    arrays = {"regions": plane.labels(), "axis": plane.first_axis, "inner": start, "metamer": metamer}
    if len(flips):
        nearest = np.concatenate([flips[flips < 0][-1:], flips[flips > 0][:1]])
        border = nearest[np.abs(nearest).argmax()]  # the side of the metamer with more room
        step = np.copysign(min(np.radians(5), np.abs(border) / 2), border)
        ends = on_circle(middle + border + np.array([-step, step]))
        if decide(ends).tolist() == [0, 1]:  # there may be another boundary beyond this one
            arrays |= {"adversarial": ends[0], "correct": ends[1]}
    return arrays


def merge(*parts: Numbers) -> Numbers:
    """All numbers by unit, as Python floats."""
    return {
        unit: {name: float(value) for part in parts for name, value in part.get(unit, {}).items()} for unit in ("%", "")
    }


def both_classifiers(config: Config) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Closed forms and simulation, in both dimensions."""
    first_key, second_key, point_key = jax.random.split(jax.random.key(0), 3)
    settings = (config.dimension, config.radii), (config.second_dimension, config.second_radii)
    numbers = {
        name: {"closed": merge(closed_forms(*setting)), "simulated": merge(simulated(key, config.samples, *setting))}
        for name, key, setting in zip(("first", "second"), (first_key, second_key), settings, strict=True)
    }
    x, _ = spheres.sample(point_key, count=1, dimension=config.dimension, radii=config.radii)
    moved = spheres.change_last(x, radius=config.radii[1]).x
    return numbers, picture(config, jax.jit(spheres.misaligned(config.radii)), np.asarray(x[0]), np.asarray(moved[0]))


def one_network(config: Config, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train a network, then measure both of its failures."""
    keys = jax.random.split(jax.random.key(seed), 5)
    model, params = sphere_network.model_for(config), sphere_network.train(config, keys[0])
    logits_fn = partial(jax.jit(model.apply), params)
    points, _ = spheres.sample(keys[1], count=2 * config.pairs, dimension=config.dimension, radii=config.radii)
    inner, outer = np.asarray(points[::2]), np.asarray(points[1::2])
    moved = spheres.change_last(inner, radius=config.radii[1]).x
    kept = 100 * (np.asarray(logits_fn(moved)).argmax(-1) == 0).mean()
    invariant, (metamers, nuisance, sources) = sphere_network.invariance(config, params, inner, outer)
    outer_nuisance = np.asarray(jax.jit(model.encode)(params, outer)[0].nuisance)
    numbers = merge(
        sphere_network.clean_error(config, logits_fn, keys[2]),
        invariant,
        {"%": {"decision inner on inner points moved to the outer sphere by their last coordinate": kept}},
        sphere_network.nuisance_reading(config, params, keys[3], nuisance, outer_nuisance),
        sphere_network.sensitivity(config, logits_fn, keys[4]),
    )
    return numbers, picture(config, logits_fn, sources[0], metamers[0])


def run(config: Config, folder: Path) -> list[common.Row]:
    """Compute all, draw figure 2, and return the table."""
    numbers, arrays = common.stage(folder / "closed-forms", partial(both_classifiers, config))
    pictures, networks = {"misaligned classifier": arrays}, []
    for seed in config.seeds:
        values, arrays = common.stage(folder / f"network-seed{seed}", partial(one_network, config, seed))
        networks.append(values)
        if seed == config.seeds[0]:
            pictures["trained invertible network"] = arrays
    figures.save(draw(config, pictures), folder / "figures" / "two-kinds.png")
    return rows(config, numbers, networks)


def draw(config: Config, pictures: dict[str, dict[str, np.ndarray]]) -> Any:
    """Figure 2: a small change of x1 and a large change of x2 both give x*."""
    angles = np.linspace(0, 2 * np.pi, 361)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    points: dict[str, dict[str, np.ndarray]] = {}
    arrows: dict[str, dict[str, tuple[str, str]]] = {}
    for name, arrays in pictures.items():
        points[name] = {"x2": arrays["inner"], "metamer of x2": arrays["metamer"]}
        arrows[name] = {}
        if "adversarial" in arrays:
            points[name] |= {"x1": arrays["correct"], "x*": arrays["adversarial"]}
            arrows[name] = {
                "perturbation-based: the class stays, the decision changes": ("x1", "x*"),
                "invariance-based: the class changes, the decision stays": ("x2", "x*"),
            }
    first = next(iter(pictures.values()))
    return figures.decision_arrows(
        (first["axis"], first["axis"]),
        {name: arrays["regions"] for name, arrays in pictures.items()},
        {name: radius * circle for name, radius in zip(("inner", "outer"), config.radii, strict=True)},
        points,
        arrows,
        f"Two ways to an adversarial example x*: spheres of radius {config.radii[0]:g} and {config.radii[1]:g} "
        f"in {config.dimension} dimensions, cut by a plane",
    )


def rows(config: Config, numbers: dict[str, Any], networks: list[Numbers]) -> list[common.Row]:
    """The table: closed forms and simulation, then the networks."""
    table = []
    settings = {"first": (config.dimension, config.radii), "second": (config.second_dimension, config.second_radii)}
    for which, (dimension, (inner, outer)) in settings.items():
        for unit, closed in numbers[which]["closed"].items():
            for name, value in closed.items():
                plain = value in (0, 50, 100)
                if which == "second" and plain:
                    continue  # the same as in the first
                table.append(
                    common.row(
                        f"{name}, d={dimension}, R={inner:g} and {outer:g}",
                        value if plain else None,  # the paper has no other numbers
                        [numbers[which]["simulated"][unit][name]],
                        unit,
                        f"measured on {config.samples:,} points",
                        expected=None if plain else value,
                    )
                )
    setup = f"{config.couplings} additive couplings, {config.steps} steps of {config.batch_size} new points"
    for unit in networks[0]:
        for name in networks[0][unit]:
            clean = name.startswith("clean error")
            values = [network[unit][name] for network in networks]
            table.append(
                common.row(f"trained network: {name}", 0.0 if clean else None, values, unit, setup if clean else "")
            )
    return table


EXPERIMENT = common.Experiment(
    name="excessive_invariance/spheres",
    item="P1 examples 7 and 8 and figure 2: adversarial spheres, and both kinds of adversarial example on them",
    presets=PRESETS,
    times={"smoke": "under half a minute", "default": "2 minutes on 2 CPU cores"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

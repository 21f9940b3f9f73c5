"""The eps at which predictions flip: measured, by linear response, and by the mean field; section 4 of the paper.

    python -m experiments.intriguing_properties.linear_response [smoke|default|paper] [--dataset digits|mnist|cifar10]

For each network and seed, the experiment follows the direction of the gradient of each test image (the l2 attack). It
measures the eps at which another class becomes the prediction, and which class this is. It compares them with the
prediction from Gamma, the derivative of the logits along the direction, and with the mean field,
`Delta_12 / (<Gamma_2> - <Gamma_1>)`, whose distribution explains the power law in the paper.
"""

import dataclasses
from functools import partial
from itertools import product
from pathlib import Path

import jax
import numpy as np

from experiments import common
from experiments.intriguing_properties import networks
from invjax import figures
from invjax.analysis import linear_epsilon, linear_response, mean_field_epsilon, true_epsilon
from invjax.data import Dataset
from invjax.evaluation import over_batches
from invjax.training import data_mesh
from invjax.types import Params

PREDICTIONS = ("linear", "mean field")


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of the linear response."""

    models: tuple[str, ...] = ("MLP", "CNN")
    """Networks to train, by name."""
    images: int = 10_000
    """Number of test images; the first ones are used."""
    direction: str = "l2"
    """Direction of the attack: l2, sign (FGSM) or least_likely (step l.l.)."""
    largest: float = 8.0
    """Largest eps of the search, in the units of the direction."""
    smallest_share: float = 0.001
    """Fraction of misclassified images at which the smallest decade of eps begins."""
    columns: int = 4
    """Number of images whose logits are drawn along the direction."""
    points: int = 101
    """Number of values of eps in the figure of the logits."""


PRESETS = {
    "smoke": Config("digits", models=("MLP",), hidden=(32,), epochs=4, batch_size=64, smallest_share=0.02, seeds=(0,)),
    "default": Config(),
    "paper": Config(
        models=("MLP", "CNN", "ResNet"),
        hidden=(1000, 1000),
        channels=(32, 64),
        dense=1024,
        stages=(64, 128, 256, 512),
        epochs=50,
        seeds=(0, 1, 2, 3, 4),
    ),
}


def one_model(config: Config, name: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train one network, and measure the true, linear and mean-field eps of its correctly classified test images."""
    train, test = data
    net = networks.network(config, name)
    params = networks.train(config, net, seed, train, folder, description=f"{name}, seed {seed}")
    test = networks.first(test, config.images)
    images, labels = networks.images_of(test), np.asarray(test.labels)

    @jax.jit
    def respond(params: Params, x, y):
        logits_fn = partial(net.apply, params)
        found = linear_response(logits_fn, x, y, direction=config.direction)
        crossing = true_epsilon(logits_fn, x, y, found.direction, eps=config.largest, points=32, steps=14)
        return found.logits, found.gamma, crossing.eps, crossing.label

    found = over_batches(partial(respond, params), [images, labels], mesh=data_mesh())
    right = found[0].argmax(1) == labels
    if not right.any():
        raise ValueError(
            f"{name}, seed {seed}, is wrong on all {len(labels)} images: train it longer or on more of them"
        )
    logits, gamma, true, label = (value[right] for value in found)
    linear = linear_epsilon(logits, gamma)
    eps = {"true": true, "linear": np.asarray(linear.eps), "mean field": mean_field_epsilon(logits, gamma)}
    runner_up = np.argsort(-logits, axis=1)[:, 1]
    crosses = np.isfinite(true)
    numbers: dict = {
        "error": float(1 - right.mean()),
        "runner_up": float((label == runner_up)[crosses].mean()),
        "linear_names": float((np.asarray(linear.label) == label)[crosses].mean()),
        "crosses": float(crosses.mean()),
        "slope": float(np.median(eps["linear"][crosses] / true[crosses])),
    }
    lowest, decade = decade_of(true, config.smallest_share)
    numbers["decade"] = [lowest, 10 * lowest]
    for prediction in PREDICTIONS:
        off = share_below(eps[prediction], decade) / share_below(true, decade) - 1
        numbers[prediction] = {"mean": float(np.abs(off).mean()), "largest": float(np.abs(off).max())}
    shown = {f"eps_{key}": value for key, value in eps.items()}
    return numbers, shown | along(config, net, params, images[right], labels[right], true)


def decade_of(eps: np.ndarray, share: float) -> tuple[float, np.ndarray]:
    """The eps below which `share` of the values lie, and 21 values from there to ten times as much."""
    lowest = float(np.quantile(eps, share))
    return lowest, np.geomspace(lowest, 10 * lowest, 21)


def share_below(eps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The share of the values at or below each of `at`."""
    return np.searchsorted(np.sort(eps), at, side="right") / len(eps)


def along(config: Config, net, params: Params, images: np.ndarray, labels: np.ndarray, true: np.ndarray) -> dict:
    """Logits of the first images along their directions, up to twice the crossing, and their linear response."""
    chosen = np.flatnonzero(np.isfinite(true))[: config.columns]
    x, y = images[chosen], labels[chosen]
    logits_fn = partial(net.apply, params)
    found = jax.tree.map(np.asarray, linear_response(logits_fn, x, y, direction=config.direction))
    eps = 2 * true[chosen][:, None] * np.linspace(0, 1, config.points)[None]
    shape = (len(chosen), config.points) + (1,) * (x.ndim - 1)
    moved = x[:, None] + eps.reshape(shape) * found.direction[:, None]
    logits = networks.logits_of(net, params, moved.reshape(-1, *x.shape[1:]).astype(np.float32))
    return {
        "line_eps": eps,
        "line_logits": logits.reshape(len(chosen), config.points, -1),
        "line_linear": found.logits[:, None] + eps[..., None] * found.gamma[:, None],
        "line_true": true[chosen],
        "line_labels": y,
    }


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all networks, draw the figures, and return the table."""
    networks.check_models(config.models)
    data = networks.datasets(config)
    results: dict[str, list[dict]] = {}
    for name in config.models:
        results[name] = []
        for seed in config.seeds:
            place = folder / f"{name}-seed{seed}"
            numbers, arrays = common.stage(place, partial(one_model, config, name, seed, data, place))
            results[name].append(numbers)
            if seed == config.seeds[0]:
                draw(config, name, arrays, numbers["decade"], folder / "figures")
    return rows(config, results)


def draw(config: Config, name: str, arrays: dict[str, np.ndarray], decade: list[float], folder: Path) -> None:
    """Draw the logits along the direction, the predicted against the true eps, and their distributions."""
    lines = figures.logits_along(
        arrays["line_eps"],
        arrays["line_logits"],
        arrays["line_linear"],
        arrays["line_true"],
        arrays["line_labels"],
        f"{config.dataset}, {name}: logits along the attack's direction; dotted, their linear response",
    )
    figures.save(lines, folder / f"logits-along-{name.lower()}.png")
    predicted = {prediction: arrays[f"eps_{prediction}"] for prediction in PREDICTIONS}
    chart = figures.predictions(
        arrays["eps_true"],
        predicted,
        (decade[0], decade[1]),
        "eps",
        f"{config.dataset}, {name}: where the prediction flips, and where it should",
    )
    figures.save(chart, folder / f"epsilon-{name.lower()}.png")


def rows(config: Config, results: dict[str, list[dict]]) -> list[common.Row]:
    """The table."""
    table = []
    for name, runs in results.items():
        measured = {
            ("runner-up crosses first, of images that flip", "%"): [100 * n["runner_up"] for n in runs],
            ("linear response names the class that crosses first", "%"): [100 * n["linear_names"] for n in runs],
            ("median of linear / true eps", ""): [n["slope"] for n in runs],
        }
        for prediction, which in product(PREDICTIONS, ("mean", "largest")):
            what = f"{prediction}: P(eps-hat < eps) over the smallest decade, {which} relative error"
            measured[what, "%"] = [100 * n[prediction][which] for n in runs]
        measured["start of that decade", config.direction] = [n["decade"][0] for n in runs]
        measured[f"images that flip within {config.largest:g}", "%"] = [100 * n["crosses"] for n in runs]
        measured["clean error", "%"] = [100 * n["error"] for n in runs]
        for (what, unit), values in measured.items():
            differs = 'published in words: "the vast majority"' if what.startswith("runner-up") else ""
            table.append(common.row(f"{name}: {what}", None, values, unit, differs))
    return table


EXPERIMENT = common.Experiment(
    name="intriguing_properties/linear_response",
    item="P2 section 4: the eps at which predictions flip, by linear response and by the mean field",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "17 minutes on 2 busy CPU cores", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

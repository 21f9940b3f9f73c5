"""P2 section 4: the eps at which predictions flip, by linear response and by the mean field.

For each network and seed, the experiment follows the direction of the gradient of each test image (the l2 attack). It
measures the eps at which another class becomes the prediction, and which class this is. It compares them with the
prediction from Gamma, the derivative of the logits along the direction, and with the mean field,
`Delta_12 / (<Gamma_2> - <Gamma_1>)`, whose distribution explains the power law in the paper.
"""

import dataclasses
from functools import cache, partial
from itertools import product
from typing import Any, Literal

import jax
import numpy as np

from experiments import common
from experiments.intriguing_properties import networks
from invjax import figures
from invjax.analysis import linear_epsilon, linear_response, mean_field_epsilon, true_epsilon
from invjax.evaluation import over_batches
from invjax.training import data_mesh
from invjax.types import Net, Params

PREDICTIONS = ("linear", "mean field")
KEPT = 8  # number of images whose logits are kept for the figure


@dataclasses.dataclass(frozen=True)
class Config(networks.Config):
    models: tuple[networks.Name, ...] = common.axis(("MLP", "CNN"))  # Networks to train, by name.
    images: int = 10_000  # Number of test images; the first ones are used.
    direction: Literal["l2", "sign", "least_likely"] = "l2"
    """Direction of the attack: l2, sign (FGSM) or least_likely (step l.l.)."""
    largest: float = 8.0  # Largest eps of the search, in the units of the direction.
    smallest_share: float = 0.001  # Fraction of misclassified images at which the smallest decade of eps begins.
    columns: int = common.for_figures(4)  # Number of images whose logits are drawn along the direction, at most 8.
    points: int = 101  # Number of values of eps in the figure of the logits.


PRESETS = {
    "smoke": Config(
        common.Data("digits"), common.Train(4, 64), networks.Widths((32,)), seeds=(0,), models=("MLP",),
        smallest_share=0.02,
    ),
    "paper": Config(
        train=common.Train(50), widths=networks.PAPER, seeds=(0, 1, 2, 3, 4), models=("MLP", "CNN", "ResNet")
    ),
}  # fmt: skip


@cache  # compiled once for all seeds
def responder(config: Config, net: Net) -> Any:
    """The compiled `(params, x, labels) -> logits, Gamma, direction, eps at which the prediction flips, next class`."""

    @jax.jit
    def respond(params: Params, x, y):
        logits_fn = partial(net.apply, params)
        found = linear_response(logits_fn, x, y, direction=config.direction)
        crossing = true_epsilon(logits_fn, x, y, found.direction, eps=config.largest, points=32, steps=14)
        return found.logits, found.gamma, found.direction, crossing.eps, crossing.label

    return respond


def trial(config: Config, data, *, model, seed, folder):
    net, (images, labels) = config.widths.network(model), common.arrays_of(data[1], config.images)
    params = common.trained(net, common.plain_loss(net.apply), data[0], config.train, seed=seed, folder=folder)
    found = over_batches(partial(responder(config, net), params), [images, labels], mesh=data_mesh())
    right = found[0].argmax(1) == labels
    if not right.any():
        raise ValueError(
            f"{model}, seed {seed}, is wrong on all {len(labels)} images: train it longer or on more of them"
        )
    logits, gamma, direction, true, label = (value[right] for value in found)
    linear, runner_up, flips = linear_epsilon(logits, gamma), np.argsort(-logits, axis=1)[:, 1], np.isfinite(true)
    eps = {"true": true, "linear": np.asarray(linear.eps), "mean field": mean_field_epsilon(logits, gamma)}
    if flips.sum() < min(len(true), config.smallest_share * len(true) + 2):  # the quantile needs two finite values
        raise ValueError(
            f"{model}, seed {seed}: {flips.sum()} of {len(true)} predictions flip within largest={config.largest:g}, "
            f"too few for smallest_share={config.smallest_share:g}: give a larger --largest"
        )
    lowest = float(np.quantile(true, config.smallest_share))
    decade = np.geomspace(lowest, 10 * lowest, 21)
    off = {name: np.abs(share_below(eps[name], decade) / share_below(true, decade) - 1) for name in PREDICTIONS}
    numbers = {
        "error": float(1 - right.mean()),
        "runner_up": float((label == runner_up)[flips].mean()),
        "linear_names": float((np.asarray(linear.label) == label)[flips].mean()),
        "flips": float(flips.mean()),
        "slope": float(np.median(eps["linear"][flips] / true[flips])),
        "lowest": lowest,
        **{name: {"mean": float(values.mean()), "largest": float(values.max())} for name, values in off.items()},
    }
    # the first images along their directions, up to twice the crossing, and their linear response
    chosen = np.flatnonzero(flips)[:KEPT]
    at = 2 * true[chosen][:, None] * np.linspace(0, 1, config.points)[None]
    moved = images[right][chosen][:, None] + at[..., None, None, None] * direction[chosen][:, None]
    lines = common.logits_of(net.apply, params, moved.reshape(-1, *images.shape[1:]).astype(np.float32))
    return numbers, {
        **{f"eps_{name}": values for name, values in eps.items()},
        "line_eps": at,
        "line_logits": lines.reshape(*at.shape, -1),
        "line_linear": logits[chosen][:, None] + at[..., None] * gamma[chosen][:, None],
        "line_crossing": true[chosen],
        "line_labels": labels[right][chosen],
    }


def share_below(eps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The share of the values at or below each of `at`."""
    return np.searchsorted(np.sort(eps), at, side="right") / len(eps)


def draw(config: Config, results):
    """Of the first seed: logits along the direction, and predicted against true eps."""
    charts, unit = {}, "eps, l2" if config.direction == "l2" else "eps, linf"
    for at in results.each("model"):
        arrays, lowest, name = at.arrays(), at["lowest"][0], f"{config.data.dataset}, {at.model}"
        lines: Any = {
            key.removeprefix("line_"): values[: config.columns] for key, values in arrays.items() if "line_" in key
        }
        charts[f"logits-along-{at.model.lower()}"] = figures.logits_along(
            **lines, title=f"{name}: logits along the attack's direction, and their linear response", xlabel=unit
        )
        predicted = {prediction: arrays[f"eps_{prediction}"] for prediction in PREDICTIONS}
        title = f"{name}: the eps at which predictions flip, true and predicted"
        charts[f"epsilon-{at.model.lower()}"] = figures.predictions(
            arrays["eps_true"], predicted, (lowest, 10 * lowest), unit, title
        )
    return charts


def table(config: Config, results):
    off, words = "P(eps-hat < eps) over the smallest decade,", 'published in words: "the vast majority"'
    measures = [
        ("runner-up crosses first, of images that flip", "runner_up", "%"),
        ("linear response names the class that crosses first", "linear_names", "%"),
        ("median of linear / true eps", "slope", ""),
        *((f"{p}: {off} {m} relative error", (p, m), "%") for p in PREDICTIONS for m in ("mean", "largest")),
        ("start of that decade", "lowest", config.direction),
        (f"images that flip within {config.largest:g}", "flips", "%"),
        ("clean error", "error", "%"),
    ]
    for at, (name, key, unit) in product(results.each("model"), measures):
        values = at[key] * (100 if unit == "%" else 1)
        yield common.row(f"{at.model}: {name}", values, unit, words if key == "runner_up" else "")


EXPERIMENT = common.experiment(__name__, "17 minutes on 2 busy CPU cores", model="models")

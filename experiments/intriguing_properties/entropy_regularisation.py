"""Is a more confident model more robust? Entropy regularisation with and without adversarial training: figure 5.

    python -m experiments.intriguing_properties.entropy_regularisation [smoke|default|paper] [--dataset digits|mnist]

Each network and seed has four trainings: on cross-entropy, with the entropy of the prediction added, with half of each
batch attacked by step l.l., and with both. Their accuracy is measured under five attacks: PGD on the log-odds and on
the margin, which do not saturate; PGD on cross-entropy, whose gradient a confident model may hide; FGSM on
cross-entropy; and step l.l.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments import common
from experiments.intriguing_properties import networks
from invjax import figures
from invjax.attacks import Attack, fgsm, linf, pgd, step_ll
from invjax.data import Dataset
from invjax.evaluation import Options, robustness_curve
from invjax.losses import cross_entropy, entropy, error_rate, margin
from invjax.training import adversarial_loss, data_mesh
from invjax.types import Labels, Logits, LossFn, Net, PerExample

ARMS = ("plain", "entropy", "adversarial", "adversarial, entropy")


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of the entropy regularisation."""

    train_size: int | None = 20_000
    """Number of training images; None uses all."""
    channels: tuple[int, ...] = (8, 16)
    """Channels of the convolutions of the CNN."""
    dense: int = 64
    """Width of the hidden dense layer of the convolutional network."""
    models: tuple[str, ...] = ("MLP", "CNN")
    """Networks to train, by name; the MLP is the permutation-invariant one."""
    entropy_coef: float = 1.0
    """Weight of the entropy in the loss (the slide of the paper says 1)."""
    train_eps: float = 0.1
    """Radius of step l.l. in adversarial training."""
    share: float = 0.5
    """Fraction of each batch that is attacked."""
    images: int = 500
    """Number of test images; the first ones are used."""
    largest: float = 0.2
    """Largest radius of the curves in linf."""
    points: int = 5
    """Number of radii on each curve, from 0."""
    attack_steps: int = 10
    """Number of steps of PGD."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=512,
        models=("MLP",),
        hidden=(32,),
        epochs=2,
        batch_size=64,
        images=32,
        points=3,
        attack_steps=3,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        train_size=None,
        hidden=(1000, 1000),
        channels=(32, 64),
        dense=1024,
        epochs=50,
        images=10_000,
        points=21,
        attack_steps=40,
        seeds=(0, 1, 2, 3, 4),
    ),
}


def attacks_for(config: Config) -> dict[str, Attack]:
    """The attacks, by name; all in linf."""
    return {
        "step l.l.": step_ll(linf()),
        "FGSM, cross-entropy": fgsm(linf(), loss=cross_entropy),
        "PGD, cross-entropy": pgd(linf(), steps=config.attack_steps, loss=cross_entropy),
        "PGD, log-odds": pgd(linf(), steps=config.attack_steps),
        "PGD, margin": pgd(linf(), steps=config.attack_steps, loss=margin),
    }


def loss_for(config: Config, net: Net, arm: str) -> LossFn:
    """The loss of one of the four trainings."""
    coefficient = config.entropy_coef if "entropy" in arm else 0.0

    def loss(logits: Logits, labels: Labels) -> PerExample:
        return cross_entropy(logits, labels) + coefficient * entropy(logits)

    if "adversarial" in arm:
        return adversarial_loss(net.apply, step_ll(linf()), eps=config.train_eps, fraction=config.share, loss=loss)

    def plain(params, key, batch, step):
        logits = net.apply(params, batch[0])
        return loss(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    return plain


def one_model(config: Config, name: str, arm: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple:
    """Run one of the four trainings and measure its robustness curves."""
    train, test = data
    net = networks.network(config, name)
    loss_fn = loss_for(config, net, arm)
    params = networks.train(config, net, seed, train, folder, loss_fn=loss_fn, description=f"{name}, {arm}, {seed}")
    test = networks.first(test, config.images)
    images, labels = networks.images_of(test), np.asarray(test.labels)
    radii = np.linspace(0, config.largest, config.points)
    numbers: dict = {"curves": {}}
    for attack_name, attack in attacks_for(config).items():
        curve = robustness_curve(
            jax.random.key(seed),
            attack,
            net.apply,
            params,
            images,
            labels,
            epsilons=radii.tolist(),
            options=Options(
                mesh=data_mesh(), directory=folder / "curves" / attack_name.replace(", ", "-").replace(" ", "-")
            ),
        )
        numbers["curves"][attack_name] = curve.accuracy().tolist()
    logits = networks.logits_of(net, params, images)
    ordered = np.sort(logits, 1)
    numbers["entropy"] = float(np.mean(entropy(logits)))
    numbers["gap"] = float(np.median(ordered[:, -1] - ordered[:, -2]))
    return numbers, {"radii": radii}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Run and measure all trainings, draw the curves, and return the table."""
    networks.check_models(config.models)
    data = networks.datasets(config)
    radii = np.linspace(0, config.largest, config.points)
    results: dict[str, dict[str, list[dict]]] = {}
    for name in config.models:
        results[name] = {arm: [] for arm in ARMS}
        for arm in ARMS:
            for seed in config.seeds:
                place = folder / f"{name}-{arm.replace(', ', '-')}-seed{seed}"
                numbers, _ = common.stage(place, partial(one_model, config, name, arm, seed, data, place))
                results[name][arm].append(numbers)
        panels = {
            attack: {arm: np.array([n["curves"][attack] for n in runs]) for arm, runs in results[name].items()}
            for attack in attacks_for(config)
        }
        title = f"{config.dataset}, {name}: accuracy under attack; mean and range of {len(config.seeds)} seed(s)"
        chart = figures.curves(radii, panels, "eps, linf", "accuracy", title)
        figures.save(chart, folder / "figures" / f"accuracy-{name.lower()}.png")
    return rows(config, results)


def rows(config: Config, results: dict[str, dict[str, list[dict]]]) -> list[common.Row]:
    """The table, at the radius of training."""
    at = int(np.argmin(np.abs(np.linspace(0, config.largest, config.points) - config.train_eps)))
    radius = np.linspace(0, config.largest, config.points)[at]
    table: list[common.Row] = []
    for name, by_arm in results.items():
        for arm, runs in by_arm.items():
            for attack in attacks_for(config):
                values = [100 * n["curves"][attack][at] for n in runs]
                what = f"{name}, {arm}: accuracy under {attack}, eps {radius:g}"
                differs = (
                    "" if table else "here and below: right at every smaller radius of the curve, too; no numbers given"
                )
                table.append(common.row(what, None, values, "%", differs))
            clean = [100 * n["curves"]["step l.l."][0] for n in runs]
            table.append(common.row(f"{name}, {arm}: clean accuracy", None, clean, "%"))
            table.append(common.row(f"{name}, {arm}: mean entropy", None, [n["entropy"] for n in runs], "nats"))
            table.append(common.row(f"{name}, {arm}: median gap Delta_12", None, [n["gap"] for n in runs], ""))
    return table


EXPERIMENT = common.Experiment(
    name="intriguing_properties/entropy_regularisation",
    item="P2 figure 5: entropy regularisation and adversarial training, four arms",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "11 minutes", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""Is a more confident model more robust? Entropy regularisation with and without adversarial training: figure 5.

    python -m experiments.intriguing_properties.entropy_regularisation [smoke|default|paper] [--dataset digits|mnist]

Each network and seed has four trainings: on cross-entropy, with the entropy of the prediction added, with half of each
batch attacked by step l.l., and with both. Their accuracy is measured under five attacks: PGD on the log-odds and on
the margin, which do not saturate; PGD on cross-entropy, whose gradient a confident model may hide; FGSM on
cross-entropy; and step l.l.
"""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.intriguing_properties import networks
from invjax import figures
from invjax.attacks import Attack, fgsm, linf, pgd, step_ll
from invjax.data import Dataset
from invjax.evaluation import Options, robustness_curve
from invjax.losses import cross_entropy, entropy, margin
from invjax.training import adversarial_loss, data_mesh
from invjax.types import Labels, Logits, LossFn, Net, PerExample

SMALL = networks.Widths(channels=(8, 16), dense=64)
ARMS = ("plain", "entropy", "adversarial", "adversarial, entropy")


@dataclasses.dataclass(frozen=True)
class Config(networks.Config):
    """Settings of the entropy regularisation."""

    data: common.Flat[common.Data] = common.Data(train_size=20_000)
    """The images."""
    widths: common.Flat[networks.Widths] = SMALL
    """Widths of the networks."""
    models: tuple[networks.Name, ...] = common.axis(("MLP", "CNN"))
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

    @property
    def radii(self) -> np.ndarray:
        """The radii of the curves."""
        return np.linspace(0, self.largest, self.points)


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=512), common.Train(20, 64, 1e-2), networks.Widths((32,)), seeds=(0,),
        models=("MLP",), images=64, points=3, attack_steps=3,
    ),
    "default": Config(),
    "paper": Config(
        common.Data(), common.Train(50), networks.PAPER, seeds=(0, 1, 2, 3, 4),
        images=10_000, points=21, attack_steps=40,
    ),
}  # fmt: skip


def attacks_for(config: Config) -> dict[str, Attack]:
    """The attacks, by name; all in linf."""
    return {
        "step l.l.": step_ll(linf()),
        "FGSM, cross-entropy": fgsm(linf(), loss=cross_entropy),
        "PGD, cross-entropy": pgd(linf(), steps=config.attack_steps, loss=cross_entropy),
        "PGD, log-odds": pgd(linf(), steps=config.attack_steps),
        "PGD, margin": pgd(linf(), steps=config.attack_steps, loss=margin),
    }


@cache  # one loss for all seeds, so that its training step is compiled once
def loss_of(config: Config, net: Net, arm: str) -> LossFn:
    """The loss of one of the four trainings."""
    coefficient = config.entropy_coef if "entropy" in arm else 0.0

    def loss(logits: Logits, labels: Labels) -> PerExample:
        return cross_entropy(logits, labels) + coefficient * entropy(logits)

    if "adversarial" in arm:
        return adversarial_loss(net.apply, step_ll(linf()), eps=config.train_eps, fraction=config.share, loss=loss)
    return networks.plain_loss(net, loss)


def trial(config: Config, data: tuple[Dataset, Dataset], *, model: str, arm: str, seed: int, folder: Path) -> dict:
    """Run one of the four trainings and measure its accuracy at each radius of each attack."""
    net, test = networks.network(config.widths, model), common.first(data[1], config.images)
    params = networks.trained(net, loss_of(config, net, arm), data[0], config.train, seed, folder)
    images, labels = networks.images_of(test), np.asarray(test.labels)

    def accuracy(attack: Attack) -> list[float]:
        options, key = Options(mesh=data_mesh()), jax.random.key(seed)
        curve = robustness_curve(key, attack, net.apply, params, images, labels, epsilons=config.radii, options=options)
        return curve.accuracy().tolist()

    logits = networks.logits_of(net, params, images)
    second, first = np.sort(logits, 1)[:, -2:].T
    return {
        "curves": {name: accuracy(attack) for name, attack in attacks_for(config).items()},
        "entropy": float(np.mean(entropy(logits))),
        "gap": float(np.median(first - second)),
    }


def draw(config: Config, results: common.Results) -> dict[str, Any]:
    """For each network, its accuracy against the radius, with one panel for each attack."""
    charts = {}
    for of_model in results.each("model"):
        panels = {
            attack: {at.arm: np.array(at["curves", attack]) for at in of_model.each("arm")}
            for attack in attacks_for(config)
        }
        title = f"{config.data.dataset}, {of_model.model}: accuracy after each training, mean and range over seeds"
        chart = figures.curves(config.radii, panels, "eps, linf", "accuracy", title)
        charts[f"accuracy-{of_model.model.lower()}"] = chart
    return charts


def table(config: Config, results: common.Results) -> list[common.Row]:
    """The table, at the radius of training; the paper gives no numbers."""
    near = int(np.argmin(np.abs(config.radii - config.train_eps)))
    note = "here and below: right at every smaller radius of the curve, too; no numbers given"
    rows: list[common.Row] = []
    for at in results.each("model", "arm"):
        name = f"{at.model}, {at.arm}"
        for attack in attacks_for(config):
            values = [curve[near] for curve in at["curves", attack]]
            what = f"{name}: accuracy under {attack}, eps {config.radii[near]:g}"
            rows.append(common.percent(what, None, values, "" if rows else note))
        rows += [
            common.percent(f"{name}: clean accuracy", None, [curve[0] for curve in at["curves", "step l.l."]]),
            common.row(f"{name}: mean entropy", None, at["entropy"], "nats"),
            common.row(f"{name}: median gap Delta_12", None, at["gap"], ""),
        ]
    return rows


EXPERIMENT = common.Experiment(
    "intriguing_properties/entropy_regularisation",
    "P2 figure 5: entropy regularisation and adversarial training, four arms",
    PRESETS,
    {"smoke": "under a minute", "default": "11 minutes", "paper": "an accelerator, not run"},
    trials=lambda config: common.grid(model=config.models, arm=ARMS, seed=config.seeds),
    trial=trial, table=table, figures=draw,
)  # fmt: skip


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

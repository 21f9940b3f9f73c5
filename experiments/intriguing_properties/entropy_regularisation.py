"""P2 figure 5: entropy regularisation and adversarial training, four arms.

Each network and seed has four trainings: on cross-entropy, with the entropy of the prediction added, with half of each
batch attacked by step l.l., and with both. Their accuracy is measured under five attacks: PGD on the log-odds and on
the margin, which do not saturate; PGD on cross-entropy, whose gradient a confident model may hide; FGSM on
cross-entropy; and step l.l.
"""

import dataclasses
from functools import cache

import numpy as np

from experiments import common
from experiments.intriguing_properties import networks
from invjax import figures
from invjax.attacks import fgsm, linf, pgd, step_ll
from invjax.losses import cross_entropy, entropy, margin
from invjax.training import adversarial_loss
from invjax.types import LossFn, Net

SMALL = networks.Widths(channels=(8, 16), dense=64)
ARMS = ("plain", "entropy", "adversarial", "adversarial, entropy")


@dataclasses.dataclass(frozen=True)
class Config(networks.Config):
    data: common.Flat[common.Data] = common.Data(train_size=20_000)  # The images.
    widths: common.Flat[networks.Widths] = SMALL  # Widths of the networks.
    models: tuple[networks.Name, ...] = common.axis(("MLP", "CNN"))
    """Networks to train, by name; the MLP is the permutation-invariant one."""
    entropy_coef: float = 1.0  # Weight of the entropy in the loss (the slide of the paper says 1).
    train_eps: float = 0.1  # Radius of step l.l. in adversarial training.
    share: float = 0.5  # Fraction of each batch that is attacked.
    images: int = 500  # Number of test images; the first ones are used.
    largest: float = 0.2  # Largest radius of the curves in linf.
    points: int = 5  # Number of radii on each curve, from 0.
    attack_steps: int = 10  # Number of steps of PGD.

    @property
    def radii(self) -> np.ndarray:
        """The radii of the curves."""
        return np.linspace(0, self.largest, self.points)


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=512), common.Train(20, 64, 1e-2), networks.Widths((32,)), seeds=(0,),
        models=("MLP",), images=64, points=3, attack_steps=3,
    ),
    "paper": Config(
        common.Data(), common.Train(50), networks.PAPER, seeds=(0, 1, 2, 3, 4),
        images=10_000, points=21, attack_steps=40,
    ),
}  # fmt: skip


def attacks_for(config: Config):
    return {
        "step l.l.": step_ll(linf()),
        "FGSM, cross-entropy": fgsm(linf(), loss=cross_entropy),
        "PGD, cross-entropy": pgd(linf(), steps=config.attack_steps, loss=cross_entropy),
        "PGD, log-odds": pgd(linf(), steps=config.attack_steps),
        "PGD, margin": pgd(linf(), steps=config.attack_steps, loss=margin),
    }


@cache  # one loss for all seeds, so that its training step is compiled once
def loss_of(config: Config, net: Net, arm: str) -> LossFn:
    coefficient = config.entropy_coef if "entropy" in arm else 0.0

    def loss(logits, labels):
        return cross_entropy(logits, labels) + coefficient * entropy(logits)

    if "adversarial" in arm:
        return adversarial_loss(net.apply, step_ll(linf()), eps=config.train_eps, fraction=config.share, loss=loss)
    return common.plain_loss(net.apply, loss)


def trial(config: Config, data, *, model, arm, seed, folder):
    (train, test), net = data, config.widths.network(model)
    params = common.trained(net, loss_of(config, net, arm), train, config.train, seed=seed, folder=folder)
    shown = common.arrays_of(test, config.images)
    logits = common.logits_of(net.apply, params, shown[0])
    second, first = np.sort(logits, 1)[:, -2:].T
    return {
        "curves": {
            name: common.curve(net.apply, params, attack, shown, config.radii, seed=seed)
            for name, attack in attacks_for(config).items()
        },
        "entropy": float(np.mean(entropy(logits))),
        "gap": float(np.median(first - second)),
    }


def nearest(config: Config) -> int:
    """The position of the radius of the training among those of the curves."""
    return int(np.argmin(np.abs(config.radii - config.train_eps)))


def draw(config: Config, results):
    charts, near = {}, nearest(config)
    for at in results.each("model"):
        panels = {attack: at.by("arm", "curves", attack) for attack in attacks_for(config)}
        under_pgd = {arm: 100 * curves[:, near].mean() for arm, curves in panels["PGD, margin"].items()}
        title = (
            f"{config.data.dataset}, {at.model}: the entropy term changes accuracy under PGD at eps "
            f"{config.radii[near]:g} by {under_pgd['entropy'] - under_pgd['plain']:+.1f} points,\n"
            f"beside adversarial training by {under_pgd['adversarial, entropy'] - under_pgd['adversarial']:+.1f}; "
            "mean and range over seeds"
        )
        chart = figures.curves(config.radii, panels, "eps, linf", "accuracy", title)
        charts[f"accuracy-{at.model.lower()}"] = chart
    return charts


def table(config: Config, results):
    """The accuracies at the radius of training."""
    near = nearest(config)
    note = "here and below: right at every smaller radius of the curve, too; no numbers given"
    for at in results.each("model", "arm"):
        name = f"{at.model}, {at.arm}"
        for attack in attacks_for(config):
            what = f"{name}: accuracy under {attack}, eps {config.radii[near]:g}"
            yield common.percent(what, at["curves", attack][:, near], note)
            note = ""
        yield common.percent(f"{name}: clean accuracy", at["curves", "step l.l."][:, 0])
        yield common.row(f"{name}: mean entropy", at["entropy"], "nats")
        yield common.row(f"{name}: median gap Delta_12", at["gap"])


EXPERIMENT = common.experiment(__name__, "11 minutes on 2 CPU cores", model="models", arm=ARMS)

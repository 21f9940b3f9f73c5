"""Robust accuracy against eps under five attacks, linf and l2.

Each curve needs one compilation. Each radius attacks only the images that are still correct.
"""

import dataclasses
from functools import partial
from itertools import product

import numpy as np

from experiments import common
from experiments.sensitivity.networks import TRAININGS, Network, trained
from invjax import figures
from invjax.attacks import THREATS, apgd, fgsm, pgd, square, step_ll
from invjax.losses import dlr


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[common.Data] = common.Data()  # The images.
    network: common.Flat[Network] = dataclasses.field(default_factory=Network)  # The networks.
    images: int = 256  # Number of test images; the first ones are used.
    attack_steps: int = 20  # Number of steps of PGD and Auto-PGD.
    queries: int = 300  # Number of queries of the random search.
    points: int = 11  # Number of radii on each curve, from 0.
    largest: tuple[float, ...] = (0.4, 4.0)  # Largest radii of the curves in linf and in l2; one number leaves out l2.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one copy of every network.

    @property
    def radii(self) -> dict[str, np.ndarray]:
        """The radii of the curves, by norm."""
        return {norm: np.linspace(0, end, self.points) for norm, end in zip(THREATS, self.largest, strict=False)}


PRESETS = {
    "smoke": Config(
        common.Data("digits"), Network((8,), 16, common.Train(8, 64, 5e-3), train_eps=0.1, train_steps=2), images=32,
        attack_steps=3, queries=10, points=3, largest=(0.2,), seeds=(0,),
    ),
    "paper": Config(
        network=Network((32, 64), 1024, common.Train(30), train_steps=40), images=10_000, points=41, queries=5000
    ),
}  # fmt: skip


def attacks_for(config: Config):
    """By name, what makes an attack from a threat."""
    return {
        "step l.l.": step_ll,
        "FGSM": fgsm,
        "Square": partial(square, queries=config.queries),
        "PGD": partial(pgd, steps=config.attack_steps),
        "Auto-PGD (DLR)": partial(apgd, steps=config.attack_steps, loss=dlr),
    }


def trial(config: Config, data, *, training, seed, folder):
    params = trained(config.network, data[0], training, seed, folder)
    images, apply_fn = common.arrays_of(data[1], config.images), config.network.net.apply
    numbers: dict[str, dict] = {norm: {} for norm in config.radii}
    for (norm, radii), (name, attack_for) in product(config.radii.items(), attacks_for(config).items()):
        place = folder / "curves" / f"{norm}, {name}"
        attack = attack_for(THREATS[norm]())
        numbers[norm][name] = common.curve(apply_fn, params, attack, images, radii, seed=seed, folder=place)
    return numbers


def draw(config: Config, results):
    charts = {}
    for at, (norm, radii) in product(results.each("training"), config.radii.items()):
        curves = {name: at[norm, name] for name in attacks_for(config)}
        seeds = f"\nmean and range of {len(at)} seeds" if len(at) > 1 else ""
        charts[f"{at.training}-{norm}"] = figures.robustness_curves(
            {name: (radii, of_seeds.mean(0)) for name, of_seeds in curves.items()},
            f"Robust accuracy in {norm}: {config.data.dataset}, {at.training} training{seeds}",
            f"radius eps, {norm}",
            {name: (of_seeds.min(0), of_seeds.max(0)) for name, of_seeds in curves.items() if len(at) > 1},
        )
    return charts


def table(config: Config, results):
    """The mean robust accuracy over the radii, which is the area under a curve."""
    for at, (norm, radii), name in product(results.each("training"), config.radii.items(), attacks_for(config)):
        row = f"{at.training}: mean robust accuracy over {norm} radii up to {radii[-1]:g}, {name}"
        yield common.percent(row, [np.mean(curve) for curve in at[norm, name]])


EXPERIMENT = common.experiment(__name__, "not run to its end yet", training=TRAININGS)

"""P4 figure 6: agreement with people against the radius of linf and l1 training.

Networks are trained against linf-PGD and against l1-PGD at several radii. The experiment measures how often they agree
with people on images whose class an invariance attack changed: linf examples for linf training, l0 examples for l1.
"""

import dataclasses

import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import robust_networks as networks
from invjax import figures

SETS = {"linf": ("manual linf 0.4", "linf 0.4"), "l1": ("l0",)}  # the examples of the figure, by the norm of training


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    data: common.Flat[networks.Data] = networks.Data(train_size=20_000)  # noqa: RUF009  frozen
    """The images."""
    train_steps: int = 5  # Number of steps of the attack in adversarial training.
    linf: tuple[float, ...] = common.axis((0.1, 0.2, 0.3, 0.4))
    """Ascending radii of linf training; one network has standard training."""
    l1: tuple[float, ...] = common.axis((5.0, 10.0, 15.0))  # Ascending radii of l1 training.
    images: int = 500  # Number of test images for the accuracy under attack at the radius of training, the first ones.
    attack_steps: int = 20  # Number of steps of the attack in the evaluation.


PRESETS = {
    "smoke": Config(**networks.SMOKE, linf=(0.3,), l1=(10.0,), images=32, attack_steps=2),
    "paper": Config(
        **networks.PAPER, linf=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4),
        l1=(2.5, 5.0, 7.5, 10.0, 12.5, 15.0), images=10_000, attack_steps=100,
    ),
}  # fmt: skip


def trials(config: Config):
    """Standard training ("plain"), then each radius of linf and of l1 training; a norm without one raises an error."""
    if not (config.linf and config.l1):
        raise ValueError(f"linf and l1 need at least one radius each; got linf={config.linf} and l1={config.l1}")
    radii = (("plain", (0.0,)), ("linf", config.linf), ("l1", config.l1))
    return [place for norm, eps in radii for place in common.grid(norm=[norm], eps=eps, seed=config.seeds)]


def trial(config: Config, data, *, norm, eps, seed, folder):
    train, test, human = data
    attack = networks.adversary(norm, config.train_steps) if eps else None
    params = networks.train(config, config.cnn, attack, eps, train, seed=seed, folder=folder)
    apply_fn = networks.network(config.cnn).apply
    numbers = networks.seen(apply_fn, params, test, human)
    if eps:
        stronger, shown = networks.adversary(norm, config.attack_steps), common.arrays_of(test, config.images)
        numbers["robust"] = common.withstood(apply_fn, params, stronger, eps, shown, seed)
    return numbers


def table(config: Config, results):
    plain = results.select(norm="plain")
    for norm, names in SETS.items():
        *_, largest = results.select(norm=norm).each("eps")
        for name in names:
            high, low = plain["agrees", name], largest["agrees", name]
            what = f"{norm}-PGD: agreement with people falls from eps 0 to {largest.eps:g} by, {name}"
            falls = 100 * (high[:, 0] - low[:, 0]) / low[:, 1]
            yield common.row(what, falls, "points", f"{networks.apart(high, low)}; published as a curve")
    for at in results.each("norm", "eps"):
        who = f"{at.norm}-PGD, eps {at.eps:g}" if at.eps else "plain"
        yield common.percent(f"{who}: clean accuracy", at["clean"])
        if at.eps:
            yield common.percent(f"{who}: accuracy under PGD at eps {at.eps:g}", at["robust"])
        yield from networks.agreement_rows(who, at)


def draw(config: Config, results):
    panels = {}
    for norm, names in SETS.items():
        radii = [*results.select(norm="plain").each("eps"), *results.select(norm=norm).each("eps")]
        lines = {networks.IMAGES[of]: np.array([networks.interval(at["agrees", of]) for at in radii]) for of in names}
        panels[f"eps of {norm}-PGD in training"] = np.array([at.eps for at in radii]), lines
    title = "Agreement with people against the radius of training: mean and 95 % interval"
    return {"agreement": figures.interval_curves(panels, "agrees with people", title)}


EXPERIMENT = common.experiment(__name__, "40 minutes beside other work", data=networks.datasets)

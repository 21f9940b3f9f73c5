"""P3 figures 3 and 13: transfer of adversarial examples against what is learnt from them.

Networks of several architectures, trained on the same data, classify the adversarial examples of one model. Other
networks of these architectures are trained on the D_det of that model. If adversarial examples are features, an
architecture that learns more from D_det is fooled more often. The rank correlation measures this trend of the figures.
"""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from scipy.stats import rankdata

from experiments import common
from experiments.features_not_bugs import networks, relabelling
from invjax import figures
from invjax.attacks import jit_attack, l2, pgd
from invjax.evaluation import over_batches
from invjax.training import data_mesh
from invjax.types import Params

GOALS = {"untargeted": "figure 3", "targeted": "figure 13"}
TARGETS = ("linear", "MLP", "deep MLP", "CNN", "ResNet")


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    targets: tuple[str, ...] = common.axis(TARGETS)
    """Architectures that classify the adversarial examples and that are trained on D_det."""


PRESETS = {
    "smoke": Config(**relabelling.SMOKE | {"images": 128}, targets=("linear", "MLP", "deep MLP")),
    "default": Config(
        **relabelling.SMALL | {"data": networks.Data("cifar10", train_size=10_000)}, hidden=(256, 256),
        stages=(8, 16), blocks=1, images=2000,
    ),
    "planted": Config(
        **relabelling.PLANTED | {"data": networks.Data("mnist", train_size=10_000, planted=1.0)}, stages=(8, 16),
        blocks=1, train=networks.Train(10, 128, 2e-3), images=2000,
    ),
    "paper": Config(
        networks.Data("cifar10"), network="ResNet", hidden=(512, 512), channels=(32, 64), dense=1024,
        train=networks.Train(150, 128, 0.01, "sgd"), eps=0.5, attack_steps=100, step_size=0.1, images=10_000,
        eval_steps=100,
    ),
}  # fmt: skip


def trials(config: Config):
    relabelling.check(config)
    if len(config.targets) < 3 or not set(config.targets) <= set(TARGETS):
        raise ValueError(f"targets must be at least three of {', '.join(TARGETS)}; got {', '.join(config.targets)}")
    return common.grid(target=config.targets, seed=config.seeds)


@cache  # compiled once for all architectures and seeds
def attack_of(config: Config, goal: str) -> Any:
    attack = pgd(l2(), steps=config.eval_steps, random_start=False, targeted=goal == "targeted")
    return jit_attack(attack, config.net().apply)


def transferred(config: Config, goal: str, source: Params, target: str, params: Params, data, seed: int) -> float:
    """How often a network follows the source's adversarial examples, a fraction.

    Untargeted: of the images that the network classifies correctly, those that it misclassifies after the attack.
    Targeted: of the images that it did not assign to the next class, those that it assigns to it after the attack.
    """
    images, labels = (array[: config.images] for array in data)
    targeted = goal == "targeted"
    wanted = ((labels + 1) % 10 if targeted else labels).astype(np.int32)
    attack = partial(attack_of(config, goal), jax.random.key(seed), source, eps=config.eps)
    changed = over_batches(lambda x, y: attack(x, y).x, [images, wanted], mesh=data_mesh())
    seen = (common.logits_of(config.net(target).apply, params, x).argmax(1) for x in (images, changed))
    before, after = (classes == wanted for classes in seen)
    moved = ~before & after if targeted else before & ~after
    return float(moved.sum() / max(1, (before != targeted).sum()))


def trial(config: Config, data, *, target, seed, folder, shared):
    (train, test), place = data, shared / f"D_det-seed{seed}"
    source = networks.source(config, "standard", train, seed=seed, shared=shared)
    with common.my_turn(place):
        made = relabelling.construct(config, "D_det", source, train, seed=seed, folder=place)
    params = networks.train(config, train, target, seed=seed + 100, folder=folder / "D")
    learnt = relabelling.learn(config, "D_det", made, target, seed=seed, folder=folder / "D_det")
    accuracy = partial(common.accuracy, config.net(target).apply, data=test)
    return {
        "clean": accuracy(params),
        "learnt": accuracy(learnt),
        **{goal: transferred(config, goal, source, target, params, test, seed) for goal in GOALS},
    }


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation; 0 if one of the two is constant."""
    ranks = np.array([rankdata(a), rankdata(b)])
    centered = ranks - ranks.mean(1, keepdims=True)
    scale = np.sqrt((centered**2).sum(1).prod())
    return float((centered[0] * centered[1]).sum() / scale) if scale else 0.0


def table(config: Config, results):
    about = f"{relabelling.about(config)}; {len(config.targets)} architectures, source {config.network}"
    for goal, which in GOALS.items():
        values = [rank_correlation(at[goal], at["learnt"]) for at in results.each("seed")]
        name = f"rank correlation of transfer and accuracy learnt from D_det, {goal} ({which})"
        yield common.row(name, values, "", about)
    few = f"of the first {config.images} test images, those"
    for at in results.each("target"):
        for key, name, note in (
            ("learnt", "accuracy learnt from D_det", ""),
            ("untargeted", "untargeted transfer", f"{few} that it gets right, now wrong"),
            ("targeted", "targeted transfer", f"{few} not taken for the next class before, now taken"),
            ("clean", "accuracy learnt from D", ""),
        ):
            yield common.percent(f"{at.target}: {name}", at[key], note)


def draw(config: Config, results):
    panels = {
        f"test accuracy after training on D_det, %\n({goal}: {which})": {
            at.target: (100 * at["learnt"], 100 * at[goal]) for at in results.each("target")
        }
        for goal, which in GOALS.items()
    }
    title = (
        f"{networks.title(config)}: which networks the adversarial examples of the {config.network}\n"
        f"fool, and which learn from them; eps {config.eps:g}, a point is a seed"
    )
    return {"transfer": figures.scatter_panels(panels, "transfer, %", title, size=30.0)}


EXPERIMENT = common.experiment(__name__, {"default": "16 minutes on 2 CPU cores", "planted": "4 minutes"})

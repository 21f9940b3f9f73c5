"""P3, Nakkiran's response: adversarial examples that do not transfer, adversarial squares.

A targeted attack searches for changes that fool one model and none of an ensemble of similar models. A network that is
trained on a D_det of such changes learns nothing of the original task, so these adversarial examples are not features.
The second part uses squares whose only feature is robust, with some wrong labels. A network that memorises the wrong
labels has adversarial examples; the same network after one epoch has none.

Source: Nakkiran 2019, *Adversarial Examples are Just Bugs, Too*, in *A Discussion of "Adversarial Examples Are Not
Bugs, They Are Features"*.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.features_not_bugs import networks, published, relabelling
from invjax import features, figures
from invjax.attacks import linf, pgd
from invjax.evaluation import Options, robustness_curve
from invjax.training import data_mesh
from invjax.types import Params

PLAIN, ALONE = "PGD", "non-transferable"
EARLY, LATE = "after one epoch", "at the end"  # trials on squares, by the length of the training


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    ensemble: int = 5  # Number of models that the changes must not fool (published: 10).
    squares: int = 256  # Number of squares to train on (published: 10,000).
    side: int = 32  # Side of a square, in pixels.
    flip: float = 0.1  # Fraction of wrong labels of the squares.
    square_network: Literal["linear", "MLP", "ResNet"] = "MLP"  # Network that is trained on the squares.
    square_epochs: int = 1000  # Number of passes over the squares (published: 20).
    square_rate: float = 1e-3  # Learning rate of Adam on the squares.
    square_epsilons: tuple[float, ...] = (0.0, 0.01, 0.02, 0.03, 0.1, 0.2)
    """Radii in linf of the attacks on squares; the difference of white and black is 2."""


PRESETS = {
    "smoke": Config(
        **relabelling.SMOKE | {"attack_steps": 20}, ensemble=2, squares=192, square_epochs=500, square_rate=3e-3
    ),
    "default": Config(**relabelling.PLANTED, attack_steps=100),
    "paper": Config(
        **relabelling.PAPER | {"images": 500}, ensemble=10, squares=10_000, square_network="ResNet", square_epochs=20,
        square_rate=1e-5,
    ),
}  # fmt: skip


def trials(config: Config):
    relabelling.check(config)
    if config.ensemble < 1:
        raise ValueError(f"ensemble must be at least 1; got ensemble={config.ensemble}")
    if not config.square_epsilons or list(config.square_epsilons) != sorted(config.square_epsilons):
        raise ValueError(f"square_epsilons must ascend, at least one; got {config.square_epsilons}")
    return common.grid(arm=(PLAIN, ALONE, EARLY, LATE), seed=config.seeds)


def trial(config: Config, data, *, arm, seed, folder, shared):
    if arm in (EARLY, LATE):
        return squares(config, arm, seed, folder), {}
    train, test = data
    source = networks.source(config, "standard", train, seed=seed, shared=shared)
    if arm == PLAIN:
        made = relabelling.construct(config, "D_det", source, train, seed=seed, folder=folder)
    else:
        made = withstood(config, source, train, seed, folder)
    witness = networks.train(config, train, seed=seed + 200, folder=shared / f"witness-seed{seed}")
    numbers = relabelling.measure(config, "D_det", made, test, seed=seed, folder=folder)
    numbers["transfer"] = common.accuracy(config.net().apply, witness, (made.images, made.labels))
    shown = {"original": train[0], "class": train[1], "images": made.images, "labels": made.labels}
    return numbers, {name: array[:8] for name, array in shown.items()}


def withstood(config: Config, params: Params, data: common.Arrays, seed: int, folder: Path) -> features.Constructed:
    """The D_det of changes that fool the model and none of the ensemble, which is trained here."""
    apply, seeds = config.net().apply, range(10_000 * (seed + 1), 10_000 * (seed + 1) + config.ensemble)
    others = [networks.train(config, data, seed=seed + other, folder=folder / f"other-{other}") for other in seeds]
    radius = {"eps": config.eps, "step_size": config.step_size}

    def make(params, key, ids, x, y, targets):
        everyone, model = partial(jax.vmap(apply, (0, None)), params["others"]), partial(apply, params["model"])
        attack = features.non_transferable(everyone, y, steps=config.attack_steps)
        found = features.relabel_by_attack(key, attack, model, x, targets, ids=ids, **radius)
        return {"images": found.x, "labels": targets, "success": found.success, "distance": found.distance}

    return features.construct(
        jax.random.key(seed), make,
        {"model": params, "others": jax.tree.map(lambda *leaves: jnp.stack(leaves), *others)},
        [*data, np.asarray(features.next_targets(data[1], num_classes=10))],
        recipe={"construction": "targeted attack, withstood by an ensemble", **radius}, path=folder / "data.npz",
        mesh=data_mesh(), description=f"D_det of non-transferable changes, seed {seed}",
    )  # fmt: skip


def squares(config: Config, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train a network on squares, for one epoch or until it has memorised the wrong labels, and attack it."""
    train_key, test_key, key = common.split_key(seed, 3)
    draw = partial(features.adversarial_squares, side=config.side)
    x, y = map(np.asarray, draw(train_key, count=config.squares, flip=config.flip))
    test, labels = map(np.asarray, draw(test_key, count=config.images, flip=0))
    net, attack = config.net(config.square_network), pgd(linf(box=(-jnp.inf, jnp.inf)), steps=config.eval_steps)
    params = networks.train(
        config, (x, y), config.square_network, seed=seed, folder=folder, augment=False, optimizer="adam",
        epochs=1 if arm == EARLY else config.square_epochs, learning_rate=config.square_rate,
    )  # fmt: skip
    curve = robustness_curve(
        key, attack, net.apply, params, test, labels, epsilons=config.square_epsilons, options=Options(mesh=data_mesh())
    )
    margin = np.where(labels == 1, 1, -1) * test.mean((1, 2, 3))
    return {
        "rule": [float((margin > eps).mean()) for eps in config.square_epsilons],
        "network": curve.accuracy().tolist(),
        "by_heart": common.accuracy(net.apply, params, (x, y)),
    }


def table(config: Config, results):
    differs = f"{relabelling.about(config)}; {config.ensemble} others"
    for key, name in (
        ("accuracy", "trained on D_det by {}: test accuracy"),
        ("next", "trained on D_det by {}: test accuracy on the next class"),
        ("transfer", "D_det by {}: another model sees the target"),
        ("reached", "D_det by {}: its model sees the target"),
    ):
        for arm in (ALONE, PLAIN):
            known = published.BUGS_TOO[arm][key] if networks.comparable(config) else None
            yield common.percent(name.format(arm), results.select(arm=arm)[key], differs, published=known)
            differs = ""
    about = f"{config.square_network}, {config.squares} squares, Adam at {config.square_rate:g}"
    for name, (arm, key) in lines(config).items():
        at = results.select(arm=arm)
        for i, eps in enumerate(config.square_epsilons):
            yield common.percent(f"squares: {name}: accuracy, linf {eps:g}", at[key][:, i], "" if i else about)
        if key == "network":
            yield common.percent(f"squares: {name}: training labels known, the wrong ones too", at["by_heart"])


def lines(config: Config) -> dict[str, tuple[str, str]]:
    """The classifiers of squares, with the arm and the key of their accuracies."""
    last = f"network after {config.square_epochs} epochs"
    return {"the sign of the mean": (EARLY, "rule"), f"network {EARLY}": (EARLY, "network"), last: (LATE, "network")}


def draw(config: Config, results):
    about = networks.title(config)
    plain, alone = (results.select(arm=arm).arrays() for arm in (PLAIN, ALONE))
    pictures = {"D": {"images": plain["original"], "labels": plain["class"]}, PLAIN: plain, "non-\ntransferable": alone}

    def bars(value_of):
        groups = {
            "images of D_det that": {"fool their\nmodel": "reached", "fool another\nmodel": "transfer"},
            "a network trained on D_det sees": {"the original\nclass": "accuracy", "the next\nclass": "next"},
        }
        return {
            panel: {group: {arm: value_of(arm, key) for arm in (PLAIN, ALONE)} for group, key in keys.items()}
            for panel, keys in groups.items()
        }

    measured = bars(lambda arm, key: 100 * results.select(arm=arm)[key])
    known = bars(lambda arm, key: published.BUGS_TOO[arm][key]) if networks.comparable(config) else None
    found = {name: results.select(arm=arm)[key] for name, (arm, key) in lines(config).items()}
    return {
        "images": relabelling.pictures(pictures, f"{about}: changes towards the next class, eps {config.eps:g}"),
        "bugs": figures.bar_panels(measured, "images, %", f"{about}: which changes transfer and teach", None, known),
        "squares": figures.robustness_curves(
            {name: (np.array(config.square_epsilons), values.mean(0)) for name, values in found.items()},
            f"squares, {100 * config.flip:g} % of the training labels wrong: early and late in training",
            "radius eps, linf",
            {name: (values.min(0), values.max(0)) for name, values in found.items()},
        ),
    }


EXPERIMENT = common.experiment(__name__, "6 minutes on 2 CPU cores")

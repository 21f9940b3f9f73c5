"""Adversarial examples that are not features: Nakkiran's response to the paper.

    python -m experiments.features_not_bugs.bugs_too [smoke|default|paper] [--dataset digits|mnist|cifar10]

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
from experiments.features_not_bugs import networks, relabelling
from invjax import features, figures
from invjax.attacks import linf, pgd
from invjax.evaluation import Options, robustness_curve
from invjax.training import data_mesh
from invjax.types import Params

PLAIN, ALONE = "PGD", "non-transferable"


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    """Settings of both parts."""

    ensemble: int = 5
    """Number of models that the changes must not fool (published: 10)."""
    squares: int = 256
    """Number of squares to train on (published: 10,000)."""
    side: int = 32
    """Side of a square, in pixels."""
    flip: float = 0.1
    """Fraction of wrong labels of the squares."""
    square_network: Literal["linear", "MLP", "ResNet"] = "MLP"
    """Network that is trained on the squares."""
    square_epochs: int = 1000
    """Number of passes over the squares (published: 20)."""
    square_rate: float = 1e-3
    """Learning rate of Adam on the squares."""
    square_epsilons: tuple[float, ...] = (0.0, 0.01, 0.02, 0.03, 0.1, 0.2)
    """Radii in linf of the attacks on squares; the difference of white and black is 2."""


PRESETS = {
    "smoke": Config(
        "digits",
        planted=0.5,
        train_size=1024,
        network="MLP",
        hidden=(64, 64),
        epochs=20,
        batch_size=64,
        eps=0.8,
        attack_steps=20,
        ensemble=2,
        squares=192,
        square_epochs=500,
        square_rate=3e-3,
        images=64,
        eval_steps=5,
        seeds=(0,),
    ),
    "default": Config(**relabelling.PLANTED, train_size=20_000, attack_steps=100),
    "paper": Config(
        **relabelling.PAPER,
        ensemble=10,
        squares=10_000,
        square_network="ResNet",
        square_epochs=20,
        square_rate=1e-5,
    ),
}

PUBLISHED = {
    PLAIN: {"reached": 99.9, "transfer": 82.5, "learnt": 33.2, "next": 27.3},
    ALONE: {"reached": 99.3, "transfer": 1.7, "learnt": 2.8, "next": 70.8},
}
"""ResNet-18 on CIFAR-10, l2, in percent."""


def withstood(
    config: Config, params: Params, others: list[Params], data: networks.Data, seed: int, path: Path
) -> features.Constructed:
    """The D_det of changes that fool the model and none of the other models."""
    images, labels = data
    apply = networks.network(config).apply

    def make(params, key, ids, x, y, targets):
        everyone = jax.vmap(apply, (0, None))
        attack = features.non_transferable(partial(everyone, params["others"]), y, steps=config.attack_steps)
        model = partial(apply, params["model"])
        found = features.relabel_by_attack(
            key, attack, model, x, targets, eps=config.eps, step_size=config.step_size, ids=ids
        )
        return {"images": found.x, "labels": targets, "success": found.success, "distance": found.distance}

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *others)
    return features.construct(
        jax.random.key(seed),
        make,
        {"model": params, "others": stacked},
        [images, labels, np.asarray(features.next_targets(labels, num_classes=10))],
        recipe={
            "construction": "targeted attack, withstood by an ensemble",
            "eps": config.eps,
            "step_size": config.step_size,
        },
        path=path,
        mesh=data_mesh(),
        description=f"D_det of non-transferable changes, seed {seed}",
    )


def one_seed(config: Config, seed: int, data: tuple[networks.Data, networks.Data], folder: Path) -> tuple:
    """Train all models, make both data sets, and train on them."""
    train, test = data
    net = networks.network(config)
    next_class = test[0], (test[1] + 1) % 10

    def model(name, offset):
        return networks.train(config, seed + offset, train, folder / name, description=f"{name}, seed {seed}")

    source, witness = model("source", 0), model("witness", 200)
    others = [model(f"other-{i}", 10_000 * (seed + 1) + i) for i in range(config.ensemble)]
    sets = {
        PLAIN: relabelling.construct(config, "D_det", "standard", source, train, seed, folder / PLAIN / "data.npz"),
        ALONE: withstood(config, source, others, train, seed, folder / ALONE / "data.npz"),
    }
    numbers, arrays = {}, {"D": train[0][:8]}
    for name, made in sets.items():
        learnt = relabelling.learn(config, "D_det", made, seed, folder / name)
        numbers[name] = {
            "reached": 100 * float(made.details["success"].mean()),
            "transfer": networks.accuracy(net, witness, (made.images, made.labels)),
            "learnt": networks.accuracy(net, learnt, test),
            "next": networks.accuracy(net, learnt, next_class),
        }
        arrays[name] = made.images[:8]
    return numbers, arrays


def squares(config: Config, seed: int, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Networks on squares: after one epoch, and after they have memorised the wrong labels."""
    train_key, test_key, key = jax.random.split(jax.random.key(seed), 3)
    draw = partial(features.adversarial_squares, side=config.side)
    x, y = draw(train_key, count=config.squares, flip=config.flip)
    train = np.asarray(x), np.asarray(y)
    x, y = draw(test_key, count=config.images, flip=0)
    test = np.asarray(x), np.asarray(y)
    plain = dataclasses.replace(config, optimizer="adam", learning_rate=config.square_rate)
    net = networks.network(plain, plain.square_network)
    attack = pgd(linf(box=(-jnp.inf, jnp.inf)), steps=config.eval_steps)
    sign = np.where(test[1] == 1, 1, -1) * test[0].mean((1, 2, 3))
    numbers: dict[str, Any] = {"rule": [100 * float((sign > eps).mean()) for eps in config.square_epsilons]}
    for name, epochs in (("after one epoch", 1), ("at the end", config.square_epochs)):
        params = networks.train(
            plain,
            seed,
            train,
            folder / name.replace(" ", "-"),
            name=plain.square_network,
            epochs=epochs,
            augment=False,
            description=f"squares, {name}, seed {seed}",
        )
        curve = robustness_curve(
            key, attack, net.apply, params, *test, epsilons=config.square_epsilons, options=Options(mesh=data_mesh())
        )
        numbers[name] = (100 * curve.accuracy()).tolist()
        numbers[f"{name}, by heart"] = networks.accuracy(net, params, train)
    return numbers, {}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Run all seeds of both parts, draw the figures, and return the table."""
    relabelling.check(config)
    if config.ensemble < 1:
        raise ValueError(f"ensemble must be at least 1; got ensemble={config.ensemble}")
    if not config.square_epsilons or list(config.square_epsilons) != sorted(config.square_epsilons):
        raise ValueError(f"square_epsilons must ascend, at least one; got {config.square_epsilons}")
    data = networks.datasets(config)
    runs, toys = [], []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        runs.append(common.stage(place, partial(one_seed, config, seed, data, place)))
        toys.append(common.stage(place / "squares", partial(squares, config, seed, place / "squares"))[0])
    draw(config, runs, toys, folder / "figures")
    return rows(config, [numbers for numbers, _ in runs], toys)


def draw(config: Config, runs: list[tuple[dict, dict]], toys: list[dict], folder: Path) -> None:
    """Draw the images, the transfer and the accuracies, and the squares."""
    title = f"{networks.title(config)}: changes that reach the next class, eps {config.eps:g}"
    pictures = {name.replace("-", "-\n"): images for name, images in runs[0][1].items()}
    figures.save(figures.image_grid(pictures, title), folder / "images.png")
    names = {
        "reached": "fools its model",
        "transfer": "fools another model",
        "learnt": "accuracy learnt",
        "next": "next class learnt",
    }
    panels = {
        f"D_det, {attack} changes": {"": {name: [n[attack][what] for n, _ in runs] for what, name in names.items()}}
        for attack in (PLAIN, ALONE)
    }
    title = f"{networks.title(config)}: do changes transfer, and what do they teach?"
    figures.save(figures.bar_panels(panels, "%", title), folder / "bugs.png")
    x = np.array(config.square_epsilons)
    lines = {"after one epoch": "after one epoch", f"after {config.square_epochs} epochs": "at the end"}
    values = {name: np.array([toy[key] for toy in toys]) / 100 for name, key in lines.items()}
    chart = figures.robustness_curves(
        {"the sign of the mean": (x, np.mean([toy["rule"] for toy in toys], 0) / 100)}
        | {name: (x, found.mean(0)) for name, found in values.items()},
        f"squares, {100 * config.flip:g} % of the labels wrong",
        "radius eps, linf",
        {name: (found.min(0), found.max(0)) for name, found in values.items()},
    )
    figures.save(chart, folder / "squares.png")


def rows(config: Config, runs: list[dict], toys: list[dict]) -> list[common.Row]:
    """The table."""
    published = networks.comparable(config)
    names = {
        "learnt": "trained on D_det by {}: test accuracy",
        "next": "trained on D_det by {}: test accuracy on the next class",
        "transfer": "D_det by {}: another model sees the target",
        "reached": "D_det by {}: its model sees the target",
    }
    table: list[common.Row] = []
    for what, name in names.items():
        for attack in (ALONE, PLAIN):
            number = PUBLISHED[attack][what] if published else None
            note = f"{relabelling.about(config)}; {config.ensemble} others"
            table.append(
                common.row(name.format(attack), number, [n[attack][what] for n in runs], "%", "" if table else note)
            )
    about = f"{config.square_network}, {config.squares} squares, Adam at {config.square_rate:g}"
    for key, name in (
        ("rule", "squares: the sign of the mean"),
        ("after one epoch", "squares: network after one epoch"),
        ("at the end", f"squares: network after {config.square_epochs} epochs"),
    ):
        for i, eps in enumerate(config.square_epsilons):
            values = [toy[key][i] for toy in toys]
            table.append(common.row(f"{name}: accuracy, linf {eps:g}", None, values, "%", about if not i else ""))
        if key != "rule":
            values = [toy[f"{key}, by heart"] for toy in toys]
            table.append(common.row(f"{name}: training labels known, the wrong ones too", None, values, "%"))
    return table


EXPERIMENT = common.Experiment(
    name="features_not_bugs/bugs_too",
    item="P3, Nakkiran's response: adversarial examples that do not transfer, adversarial squares",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "6 minutes on 2 CPU cores", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

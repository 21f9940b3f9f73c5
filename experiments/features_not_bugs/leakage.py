"""How much robust features alone explain of a relabelled data set: Goh's probe, a response to the paper.

    python -m experiments.features_not_bugs.leakage [smoke|default|planted|paper] [--dataset digits|mnist|cifar10]

D_rand and D_det are made with a standard model. A network that learns the original task from them may use non-robust
features alone, or robust features that the attack also changed a little. To separate the two, a linear head is trained
on the logits of an adversarially trained linear model, whose features are robust, and tested on original images. If its
accuracy is above chance, robust features leak. A linear model with standard training is the control.

Source: Goh 2019, *Robust Feature Leakage*, in *A Discussion of "Adversarial Examples Are Not Bugs, They Are Features"*.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax

from experiments import common
from experiments.features_not_bugs import networks, relabelling
from invjax import features, figures
from invjax.training import data_mesh


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    """Settings of the leakage probe."""

    probe_epochs: int = 20
    """Number of passes of the linear head over each data set."""
    probe_rate: float = 1e-2
    """Initial learning rate of the linear head."""


PRESETS = {
    "smoke": Config(
        "digits",
        planted=0.5,
        train_size=1024,
        network="MLP",
        hidden=(64, 64),
        epochs=20,
        robust_epochs=20,
        batch_size=64,
        train_eps=0.8,
        eps=0.8,
        attack_steps=10,
        images=64,
        eval_steps=5,
        ensemble_images=0,
        seeds=(0,),
    ),
    "default": Config(**relabelling.SMALL, train_size=16_000, train_eps=1.0, ensemble_images=0),
    "planted": Config(**relabelling.PLANTED, train_size=20_000, train_eps=2.5, ensemble_images=0),
    "paper": Config(
        **relabelling.PAPER,
        **networks.ROBUST_PAPER,
        rates=(0.01, 0.1),
        moved=(True, False),
        images=10_000,
        ensemble_images=0,
    ),
}

SETS = ("D", *relabelling.KINDS)

NETWORK, ROBUST, STANDARD = "network", "robust linear features", "standard linear features"

PUBLISHED: dict[str, dict] = {
    NETWORK: {"D": 95.3, "D_rand": 63.3, "D_det": 43.7},
    ROBUST: {"D": None, "D_rand": 23.5, "D_det": 6.81},
    STANDARD: {"D": None, "D_rand": None, "D_det": None},
}
"""CIFAR-10, test accuracy in percent: table 1 of the paper, and Goh's."""


def one_seed(config: Config, seed: int, data: tuple[networks.Data, networks.Data], folder: Path) -> tuple:
    """Train the source and both linear models, make the data sets, and train the heads on them."""
    train, test = data
    net, linear = networks.network(config), networks.network(config, "linear")
    source = networks.train(config, seed, train, folder / "standard", description=f"standard, seed {seed}")
    readers = {
        name: networks.train(
            config,
            seed,
            train,
            folder / name.replace(" ", "-"),
            name="linear",
            robust=name == ROBUST,
            augment=False,
            learning_rate=config.learning_rate if config.optimizer == "adam" else config.learning_rate / 10,
            description=f"{name}, seed {seed}",
        )
        for name in (ROBUST, STANDARD)
    }
    found: dict[str, dict] = {NETWORK: {"D": networks.accuracy(net, source, test)}, ROBUST: {}, STANDARD: {}}
    sets = {"D": features.Constructed(*train, {}, {}, "")}
    for kind in relabelling.KINDS:
        place = folder / kind
        sets[kind] = relabelling.construct(config, kind, "standard", source, train, seed, place / "data.npz")
        learnt = relabelling.learn(config, kind, sets[kind], seed, place)
        found[NETWORK][kind] = networks.accuracy(net, learnt, test)
    apply = jax.jit(linear.apply)
    for name, params in readers.items():
        for kind, made in sets.items():
            readings = features.leakage_probe(
                jax.random.key(seed),
                partial(apply, params),
                made,
                test,
                num_classes=10,
                epochs=config.probe_epochs,
                learning_rate=config.probe_rate,
                batch_size=config.batch_size,
                mesh=data_mesh(),
            )
            found[name][kind] = 100 * (1 - readings["test"].error)
    attacked = {
        name: networks.robust_accuracy(config, params, test, [config.eps], seed=seed, name="linear")["PGD"][0]
        for name, params in readers.items()
    }
    return {"accuracy": found, "attacked": attacked}, {}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Run all seeds, draw the figure, and return the table."""
    relabelling.check(config)
    data = networks.datasets(config)
    runs = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        runs.append(common.stage(place, partial(one_seed, config, seed, data, place))[0])
    panels = {
        name: {kind: {"test accuracy": [n["accuracy"][name][kind] for n in runs]} for kind in SETS}
        for name in (NETWORK, ROBUST, STANDARD)
    }
    title = f"{networks.title(config)}: what is learnt from each data set; {len(runs)} seed(s)"
    chart = figures.bar_panels(panels, "test accuracy, %", title, (10.0, "chance"))
    figures.save(chart, folder / "figures" / "leakage.png")
    return rows(config, runs)


def rows(config: Config, runs: list[dict]) -> list[common.Row]:
    """The table; the leakage comes first."""
    published = networks.comparable(config)
    names = {
        NETWORK: "network trained on {}: test accuracy",
        ROBUST: "linear head on robust linear features, trained on {}: test accuracy",
        STANDARD: "linear head on standard linear features, trained on {}: test accuracy",
    }
    table: list[common.Row] = []
    for which in (ROBUST, NETWORK, STANDARD):
        for kind in SETS[::-1]:
            number = PUBLISHED[which][kind] if published else None
            values = [n["accuracy"][which][kind] for n in runs]
            note = relabelling.about(config) if not table else ""
            table.append(common.row(names[which].format(kind), number, values, "%", note))
    for name in (ROBUST, STANDARD):
        values = [n["attacked"][name] for n in runs]
        what = f"model of the {name}: accuracy under PGD, eps {config.eps:g}"
        table.append(common.row(what, None, values, "%", f"{config.images} images"))
    return table


EXPERIMENT = common.Experiment(
    name="features_not_bugs/leakage",
    item="P3, Goh's response: what robust features alone learn from D_rand and D_det",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "9 minutes on 2 CPU cores",
        "planted": "not run",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

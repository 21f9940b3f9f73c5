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
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.features_not_bugs import networks, published, relabelling
from invjax import features, figures
from invjax.training import data_mesh

SETS = ("D", *relabelling.KINDS)
NETWORK, ROBUST, STANDARD = "network", "robust linear features", "standard linear features"


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    """Settings of the leakage probe."""

    probe_epochs: int = 20
    """Number of passes of the linear head over each data set."""
    probe_rate: float = 1e-2
    """Initial learning rate of the linear head."""


PRESETS = {
    "smoke": Config(**relabelling.SMOKE),
    "default": Config(**relabelling.SMALL, train_eps=1.0, ensemble_images=0),
    "planted": Config(**relabelling.PLANTED, train_eps=2.5, ensemble_images=0),
    "paper": Config(**relabelling.PAPER | {"ensemble_images": 0}),
}


def trials(config: Config) -> list[dict[str, Any]]:
    """A trial for each training set."""
    relabelling.check(config)
    return common.grid(kind=SETS, seed=config.seeds)


def published_number(config: Config, which: str, kind: str) -> float | None:
    """The published test accuracy in percent; None for other images, or where there is none."""
    network = {kind: known["accuracy"] for kind, known in published.LEARNT["standard"].items()}
    known = {NETWORK: network, ROBUST: published.LEAKAGE, STANDARD: {}}
    return known[which].get(kind) if networks.comparable(config) else None


def trial(
    config: Config, data: networks.Datasets, *, kind: str, seed: int, folder: Path, shared: Path
) -> dict[str, Any]:
    """Train the network and a head on each linear model's features on one data set, and test on original images."""
    train, test = data
    params = networks.source(config, "standard", train, seed=seed, shared=shared)
    made = features.Constructed(*train, {}, {}, "")
    if kind != "D":
        made = relabelling.construct(config, kind, params, train, seed=seed, path=folder / "data.npz")
        params = relabelling.learn(config, kind, made, seed=seed, folder=folder)
    numbers: dict[str, Any] = {NETWORK: networks.accuracy(networks.network(config), params, test)}
    rate = config.train.learning_rate / (1 if config.train.optimizer == "adam" else 10)
    apply = jax.jit(networks.network(config, "linear").apply)
    for name in (ROBUST, STANDARD):
        linear = networks.train(
            config, train, "linear", seed=seed, folder=shared / f"{name}-seed{seed}", robust=name == ROBUST,
            augment=False, learning_rate=rate, description=f"{name}, seed {seed}",
        )  # fmt: skip
        readings = features.leakage_probe(
            jax.random.key(seed), partial(apply, linear), made, test, num_classes=10, epochs=config.probe_epochs,
            learning_rate=config.probe_rate, batch_size=config.train.batch_size, mesh=data_mesh(),
        )  # fmt: skip
        numbers[name] = 1 - readings["test"].error
        if kind == "D":
            attacked = networks.robust_accuracy(config, linear, test, [config.eps], seed=seed, name="linear")
            numbers[f"{name}, attacked"] = attacked["PGD"][0]
    return numbers


def table(config: Config, results: common.Results) -> list[common.Row]:
    """The table; the leakage comes first."""
    head = "linear head on {}, trained on {{}}: test accuracy"
    names = {ROBUST: head.format(ROBUST), NETWORK: "network trained on {}: test accuracy",
             STANDARD: head.format(STANDARD)}  # fmt: skip
    rows: list[common.Row] = []
    for which, name in names.items():
        for kind in SETS[::-1]:
            known, values = published_number(config, which, kind), results.select(kind=kind)[which]
            rows.append(common.percent(name.format(kind), known, values, "" if rows else relabelling.about(config)))
    for which in (ROBUST, STANDARD):
        name = f"model of the {which}: accuracy under PGD, eps {config.eps:g}"
        values = results.select(kind="D")[f"{which}, attacked"]
        rows.append(common.percent(name, None, values, f"{config.images} images"))
    return rows


def draw(config: Config, results: common.Results) -> dict[str, Any]:
    """The figure: the accuracy of the network and of both heads, by training set."""

    def panels(value_of):
        names = {NETWORK: NETWORK, f"linear head on\n{ROBUST}": ROBUST, f"linear head on\n{STANDARD}": STANDARD}
        return {
            name: {kind: {"test accuracy": value_of(which, kind)} for kind in SETS} for name, which in names.items()
        }

    measured = panels(lambda which, kind: 100 * np.array(results.select(kind=kind)[which]))
    known = panels(partial(published_number, config))
    title = f"{networks.title(config)}: what a network and linear heads learn from each data set"
    return {"leakage": figures.bar_panels(measured, "test accuracy, %", title, (10.0, "chance"), known)}


EXPERIMENT = common.Experiment(
    name="features_not_bugs/leakage",
    item="P3, Goh's response: what robust features alone learn from D_rand and D_det",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "9 minutes on 2 CPU cores", "planted": "not run",
           "paper": "an accelerator, not run"},
    trials=trials, trial=trial, table=table, figures=draw,
)  # fmt: skip


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

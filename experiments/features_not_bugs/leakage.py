"""P3, Goh's response: what robust features alone learn from D_rand and D_det.

D_rand and D_det are made with a standard model. A network that learns the original task from them may use non-robust
features alone, or robust features that the attack also changed a little. To separate the two, a linear head is trained
on the logits of an adversarially trained linear model, whose features are robust, and tested on original images. If its
accuracy is above chance, robust features leak. A linear model with standard training is the control.

Source: Goh 2019, *Robust Feature Leakage*, in *A Discussion of "Adversarial Examples Are Not Bugs, They Are Features"*.
"""

import dataclasses
from functools import partial
from typing import Any

import jax

from experiments import common
from experiments.features_not_bugs import networks, published, relabelling
from invjax import features, figures
from invjax.training import data_mesh

SETS = ("D", *relabelling.KINDS)
NETWORK, ROBUST, STANDARD = "network", "robust linear features", "standard linear features"


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    probe_epochs: int = 20  # Number of passes of the linear head over each data set.
    probe_rate: float = 1e-2  # Initial learning rate of the linear head.


PRESETS = {
    "smoke": Config(**relabelling.SMOKE),
    "default": Config(**relabelling.SMALL, train_eps=1.0, ensemble_images=0),
    "planted": Config(**relabelling.PLANTED, train_eps=2.5, ensemble_images=0),
    "paper": Config(**relabelling.PAPER | {"ensemble_images": 0}),
}


def trials(config: Config):
    relabelling.check(config)
    return common.grid(kind=SETS, seed=config.seeds)


def published_number(config: Config, which: str, kind: str) -> float | None:
    """The published test accuracy in percent; None for other images, or where there is none."""
    network = {kind: known["accuracy"] for kind, known in published.LEARNT["standard"].items()}
    known = {NETWORK: network, ROBUST: published.LEAKAGE, STANDARD: {}}
    return known[which].get(kind) if networks.comparable(config) else None


def trial(config: Config, data, *, kind, seed, folder, shared):
    train, test = data
    params = networks.source(config, "standard", train, seed=seed, shared=shared)
    made = features.Constructed(train[0], train[1], {}, {}, "")
    if kind != "D":
        made = relabelling.construct(config, kind, params, train, seed=seed, folder=folder)
        params = relabelling.learn(config, kind, made, seed=seed, folder=folder)
    numbers: dict[str, Any] = {NETWORK: common.accuracy(config.net().apply, params, test)}
    rate = config.train.learning_rate / (1 if config.train.optimizer == "adam" else 10)
    apply = jax.jit(config.net("linear").apply)
    for name in (ROBUST, STANDARD):
        place = shared / f"{name}-seed{seed}"
        linear = networks.train(config, train, "linear", seed=seed, folder=place, robust=name == ROBUST, augment=False,
                                learning_rate=rate)  # fmt: skip
        readings = features.leakage_probe(
            jax.random.key(seed), partial(apply, linear), made, test, num_classes=10, epochs=config.probe_epochs,
            learning_rate=config.probe_rate, batch_size=config.train.batch_size, mesh=data_mesh(),
        )  # fmt: skip
        numbers[name] = 1 - readings["test"].error
        if kind == "D":
            attacked = networks.robust_accuracy(config, linear, test, [config.eps], seed=seed, name="linear")
            numbers[f"{name}, attacked"] = attacked["PGD"][0]
    return numbers


def table(config: Config, results):
    head, differs = "linear head on {}, trained on {{}}: test accuracy", relabelling.about(config)
    names = {ROBUST: head.format(ROBUST), NETWORK: "network trained on {}: test accuracy",
             STANDARD: head.format(STANDARD)}  # fmt: skip
    for which, name in names.items():
        for kind in SETS[::-1]:
            known, values = published_number(config, which, kind), results.select(kind=kind)[which]
            yield common.percent(name.format(kind), values, differs, published=known)
            differs = ""
    for which in (ROBUST, STANDARD):
        name = f"model of the {which}: accuracy under PGD, eps {config.eps:g}"
        yield common.percent(name, results.select(kind="D")[f"{which}, attacked"], f"{config.images} images")


def draw(config: Config, results):
    def panels(value_of):
        names = {NETWORK: NETWORK, f"linear head on\n{ROBUST}": ROBUST, f"linear head on\n{STANDARD}": STANDARD}
        return {
            name: {kind: {"test accuracy": value_of(which, kind)} for kind in SETS} for name, which in names.items()
        }

    measured = panels(lambda which, kind: 100 * results.select(kind=kind)[which])
    known = panels(partial(published_number, config))
    title = f"{networks.title(config)}: what a network and linear heads learn from each data set"
    return {"leakage": figures.bar_panels(measured, "test accuracy, %", title, (10.0, "chance"), known)}


EXPERIMENT = common.experiment(__name__, {"default": "9 minutes on 2 CPU cores", "planted": "not run"})

"""Adversarial error against eps is a power law: figures 1 and 2 of the paper.

    python -m experiments.intriguing_properties.power_laws [smoke|default|paper] [--dataset digits|mnist|cifar10]

For each network and seed, the experiment finds the smallest eps at which each image is misclassified, along the fixed
directions of three one-step attacks and by PGD, and fits the exponents by maximum likelihood. The paper claims that the
law is the same for all models. So the list has a linear model, an adversarially trained one, an untrained one, one that
was trained on the test set until it made no errors there ("perfect"), and one whose training continued after that
("beyond"). It also has models that memorised shuffled labels or noise; these are attacked on their training images. No
attack clips pixels.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.intriguing_properties import networks
from invjax import figures
from invjax.analysis import attack_direction, power_law, true_epsilon
from invjax.attacks import distances, linf, pgd, smallest
from invjax.data import Dataset
from invjax.evaluation import over_batches
from invjax.losses import log_odds
from invjax.training import adversarial_loss, data_mesh
from invjax.types import Net, Params

DIRECTIONS = {"FGSM": "sign", "L2": "l2", "step l.l.": "least_likely"}
ATTACKS = (*DIRECTIONS, "PGD")
MODELS = ("linear", "MLP", "CNN", "ResNet", "untrained", "adversarial", "perfect", "beyond", "shuffled", "noise")
BY_HEART = ("perfect", "shuffled", "noise")
"""Models that are trained until they make no errors on their images."""
CONVOLUTIONAL = ("CNN", "ResNet")
"""Models that are attacked on fewer images."""
PUBLISHED = {
    "perfect": {"FGSM": 1.2, "L2": 1.1, "PGD": 1.3, "step l.l.": 2.3},
}
RANGES = {"FGSM": "published 0.9 to 1.1", "step l.l.": "published 1.8 to 2.5", "L2": "", "PGD": ""}


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of the power laws."""

    models: tuple[str, ...] = (
        "linear", "MLP", "CNN", "untrained", "adversarial", "perfect", "beyond", "shuffled", "noise",
    )  # fmt: skip
    """Networks to attack: an architecture, or the training of an MLP."""
    images: int = 10_000
    """Number of test images; the first ones are used."""
    cnn_images: int = 5_000
    """Number of test images for the CNN and the ResNet."""
    pgd_images: int = 2_000
    """Number of test images for PGD, which attacks at every eps; the CNN and the ResNet use a quarter of them."""
    pgd_steps: int = 7
    """Number of steps of PGD."""
    memorised: int = 2_000
    """Number of images with shuffled labels, or of noise."""
    memorised_epochs: int = 60
    """Largest number of passes of the networks that memorise their images. Training ends without errors, checked after
    every fourth pass; `beyond` uses all passes."""
    train_eps: float = 0.1
    """Radius of the linf attack in adversarial training."""
    train_steps: int = 5
    """Number of steps of the attack in adversarial training."""
    largest: tuple[float, float] = (0.5, 8.0)
    """Largest eps of the search, in linf and in l2."""
    quantile: float = 0.02
    """Largest adversarial error of the fit; the curve bends at larger errors."""
    wide_quantile: float = 0.1
    """Largest adversarial error of a second fit for FGSM, which shows how much the curve bends."""


PRESETS = {
    "smoke": Config(
        "digits",
        models=("MLP", "adversarial"),
        hidden=(32,),
        epochs=2,
        batch_size=64,
        images=300,
        pgd_images=100,
        pgd_steps=3,
        train_steps=2,
        quantile=0.2,
        wide_quantile=0.4,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        models=MODELS,
        hidden=(1000, 1000),
        channels=(32, 64),
        dense=1024,
        stages=(64, 128, 256, 512),
        epochs=50,
        cnn_images=10_000,
        pgd_images=10_000,
        pgd_steps=20,
        memorised=10_000,
        memorised_epochs=200,
        seeds=(0, 1, 2, 3, 4),
    ),
}


def setting(
    config: Config, name: str, data: tuple[Dataset, Dataset], seed: int
) -> tuple[Net, Dataset, Dataset, dict[str, Any]]:
    """A model of the list: the network, its training images, the attacked images, and its training."""
    train, test = data
    kind = name if name in networks.NETWORKS else "MLP"
    net = networks.network(config, kind)
    test = networks.first(test, config.cnn_images if kind in CONVOLUTIONAL else config.images)
    rng = np.random.default_rng(seed)
    by_heart = networks.first(train, config.memorised)
    if name == "untrained":
        return net, train, test, {"until": 0}
    if name == "adversarial":
        attack = pgd(linf(), steps=config.train_steps)
        return net, train, test, {"loss_fn": adversarial_loss(net.apply, attack, eps=config.train_eps)}
    if name in ("perfect", "beyond"):
        return net, test, test, {"epochs": config.memorised_epochs}
    if name == "shuffled":
        by_heart = by_heart._replace(labels=rng.permutation(by_heart.labels))
        return net, by_heart, by_heart, {"epochs": config.memorised_epochs}
    if name == "noise":
        noise = rng.integers(0, train.levels, by_heart.images[:].shape).astype(np.uint8)
        by_heart = by_heart._replace(images=noise)
        return net, by_heart, by_heart, {"epochs": config.memorised_epochs}
    return net, train, test, {}


def radii(
    config: Config, net: Net, params: Params, data: Dataset, seed: int, searched: int | None = None
) -> dict[str, np.ndarray]:
    """The smallest eps of each image under each attack; infinite for images that are misclassified without a change.

    PGD attacks only the first `searched` images.
    """
    images, labels = networks.images_of(data), np.asarray(data.labels)

    @partial(jax.jit, static_argnames="kind")
    def one_step(params, x, y, kind):
        logits_fn = partial(net.apply, params)
        largest = config.largest[kind == "l2"]
        direction = attack_direction(logits_fn, x, y, kind=kind)
        return true_epsilon(logits_fn, x, y, direction, eps=largest, points=16, steps=12).eps

    @jax.jit
    def search(params, x, y):
        attack = smallest(pgd(linf((-np.inf, np.inf)), steps=config.pgd_steps, loss=log_odds), steps=16)
        found = attack(jax.random.key(seed), partial(net.apply, params), x, y, eps=config.largest[0])
        return distances(found)

    mesh = data_mesh()
    found = {
        name: over_batches(partial(one_step, params, kind=kind), [images, labels], mesh=mesh)
        for name, kind in DIRECTIONS.items()
    }
    few = slice(searched)
    found["PGD"] = over_batches(partial(search, params), [images[few], labels[few]], batch_size=250, mesh=mesh)
    return {name: np.where(values > 0, values, np.inf) for name, values in found.items()}


def one_model(config: Config, name: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train one model; the smallest radii of its images and their laws."""
    net, train, attacked, how = setting(config, name, data, seed)
    images, labels = networks.images_of(attacked), np.asarray(attacked.labels)
    train_on = partial(networks.train, config, net, seed, train, folder, description=f"{name}, seed {seed}", **how)

    def look(epoch: int) -> tuple[dict, dict]:
        decided = networks.logits_of(net, train_on(until=epoch), images).argmax(1)
        return {"right": bool((decided == labels).all())}, {}

    epoch = None
    if name in BY_HEART:
        for epoch in (*range(4, config.memorised_epochs, 4), config.memorised_epochs):
            # each check is kept, because earlier parameters are lost when training continues
            if common.stage(folder / f"epoch-{epoch}", partial(look, epoch))[0]["right"]:
                break
    params = train_on() if epoch is None else train_on(until=epoch)
    wrong = networks.logits_of(net, params, images).argmax(1) != labels
    if wrong.all():
        raise ValueError(
            f"{name}, seed {seed}, is wrong on all {len(labels)} images: train it longer or on more of them"
        )
    numbers: dict = {"error": float(wrong.mean()), "epochs": epoch}
    found = radii(config, net, params, attacked, seed, config.pgd_images // (4 if name in CONVOLUTIONAL else 1))
    for attack, values in found.items():
        numbers[attack] = law_of(config, attack, values, config.quantile)
    numbers["wide"] = law_of(config, "FGSM", found["FGSM"], config.wide_quantile)
    return numbers, found


def law_of(config: Config, attack: str, values: np.ndarray, quantile: float) -> dict[str, float]:
    """The law up to an error, or up to almost the largest error if most images are misclassified without a change."""
    used = min(quantile, 0.9 * float(np.isfinite(values).mean()))
    resolution = config.largest[attack == "L2"] / 2**16
    law = power_law(np.maximum(values, resolution), quantile=used, resolution=resolution)
    return law._asdict() | {"quantile": used, "unresolved": float((values <= resolution).sum() / law.count)}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and attack all models, draw the laws, and return the exponents."""
    networks.check_models(config.models, MODELS)
    data = networks.datasets(config)
    results: dict[str, list[dict]] = {}
    panels: dict[str, dict[str, np.ndarray]] = {}
    for name in config.models:
        results[name] = []
        for seed in config.seeds:
            place = folder / f"{name}-seed{seed}"
            numbers, found = common.stage(place, partial(one_model, config, name, seed, data, place))
            results[name].append(numbers)
            if seed == config.seeds[0]:
                panels[name] = {attack: found[attack] for attack in ATTACKS}
    laws = {
        name: {attack: (n[0][attack]["coefficient"], n[0][attack]["exponent"]) for attack in ATTACKS}
        for name, n in results.items()
    }
    title = f"{config.dataset}: adversarial error of one network each, and its law"
    figures.save(figures.power_laws(panels, laws, title), folder / "figures" / "power-laws.png")
    return rows(config, results)


def rows(config: Config, results: dict[str, list[dict]]) -> list[common.Row]:
    """The exponents and the published ones."""
    table = []
    for name, runs in results.items():
        for attack, what in (*((attack, attack) for attack in ATTACKS), ("wide", "FGSM")):
            laws = [n[attack] for n in runs]
            wide = "wide" if attack == "wide" else ""
            width = float(np.mean([(law["high"] - law["low"]) / 2 for law in laws]))
            used = 100 * float(np.mean([law["quantile"] for law in laws]))
            differs = f"up to an error of {used:.2g} %; a seed's 95 % interval is ± {width:.2f}"
            if not wide and RANGES[attack] and name in networks.NETWORKS:
                differs += f"; {RANGES[attack]}"
            if attack == "PGD":
                unresolved = 100 * float(np.mean([law["unresolved"] for law in laws]))
                differs += f"; {unresolved:.0f} % of its eps below what was resolved"
            label = f"{name}: exponent B, {what}" + (", wide range" if wide else "")
            value = None if wide else PUBLISHED.get(name, {}).get(attack)
            table.append(common.row(label, value, [law["exponent"] for law in laws], "", differs))
        gain = [n["step l.l."]["exponent"] - n["FGSM"]["exponent"] for n in runs]
        table.append(common.row(f"{name}: B of step l.l. minus B of FGSM", None, gain, ""))
        error = [100 * n["error"] for n in runs]
        table.append(common.row(f"{name}: clean error on the attacked images", None, error, "%"))
    return table


EXPERIMENT = common.Experiment(
    name="intriguing_properties/power_laws",
    item="P2 figures 1 and 2: adversarial error as a power law of eps, for many networks and attacks",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "15 minutes on 2 busy CPU cores, twice that beside other work",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""P2 figures 1 and 2: adversarial error as a power law of eps, for many networks and attacks.

For each network and seed, the experiment finds the smallest eps at which each image is misclassified, along the fixed
directions of three one-step attacks and by PGD, and fits the exponents by maximum likelihood. The paper claims that the
law is the same for all models. So the list has a linear model, an adversarially trained one, an untrained one, one that
was trained on the test set until it made no errors there ("perfect"), and one whose training continued after that
("beyond"). It also has models that memorised shuffled labels or noise; these are attacked on their training images. No
attack clips pixels.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Literal, get_args

import jax
import numpy as np

from experiments import common
from experiments.intriguing_properties import networks, published
from invjax import figures
from invjax.analysis import attack_direction, power_law, true_epsilon
from invjax.attacks import distances, linf, pgd, smallest
from invjax.data import Dataset
from invjax.evaluation import over_batches
from invjax.losses import log_odds
from invjax.training import adversarial_loss, data_mesh
from invjax.types import LossFn, Net, Params

DIRECTIONS = {"FGSM": "sign", "L2": "l2", "step l.l.": "least_likely"}
ATTACKS = (*DIRECTIONS, "PGD")
Model = Literal["linear", "MLP", "CNN", "ResNet", "untrained", "adversarial", "perfect", "beyond", "shuffled", "noise"]
"""A network, or the training of an MLP."""
CONVOLUTIONAL = ("CNN", "ResNet")  # models that are attacked on fewer images
FEWEST = 10
"""Number of images below which a fit says nothing: its 95 % interval is wider than 60 % of the exponent either way."""


@dataclasses.dataclass(frozen=True)
class Config(networks.Config):
    models: tuple[Model, ...] = common.axis(
        ("linear", "MLP", "CNN", "untrained", "adversarial", "perfect", "beyond", "shuffled", "noise")
    )
    """Networks to attack: an architecture, or the training of an MLP."""
    images: int = 10_000  # Number of test images; the first ones are used.
    cnn_images: int = 5_000  # Number of test images for the CNN and the ResNet.
    pgd_images: int = 2_000
    """Number of test images for PGD, which attacks at every eps; the CNN and the ResNet use a quarter of them."""
    pgd_steps: int = 7  # Number of steps of PGD.
    memorised: int = 2_000  # Number of images with shuffled labels, or of noise.
    memorised_epochs: int = 60
    """Number of passes of `beyond`, and at most of models that memorise: they stop without errors (every 4th pass)."""
    train_eps: float = 0.1  # Radius of the linf attack in adversarial training.
    train_steps: int = 5  # Number of steps of the attack in adversarial training.
    largest: tuple[float, float] = (0.5, 8.0)  # Largest eps of the search, in linf and in l2.
    quantile: float = 0.02  # Largest adversarial error of the fit; the curve bends at larger errors.
    wide_quantile: float = 0.1  # Largest adversarial error of a second fit for FGSM, which shows how the curve bends.


PRESETS = {
    "smoke": Config(
        common.Data("digits"), common.Train(2, 64), networks.Widths((32,)), seeds=(0,), models=("MLP", "adversarial"),
        images=300, pgd_images=100, pgd_steps=3, train_steps=2, quantile=0.2, wide_quantile=0.4,
    ),
    "paper": Config(
        train=common.Train(50), widths=networks.PAPER, seeds=(0, 1, 2, 3, 4), models=get_args(Model),
        cnn_images=10_000, pgd_images=10_000, pgd_steps=20, memorised=10_000, memorised_epochs=200,
    ),
}  # fmt: skip


def images_for(
    config: Config, model: str, data: tuple[Dataset, Dataset], seed: int
) -> tuple[Dataset, Dataset, list[int]]:
    """The training images of a model, the attacked images, and the numbers of passes after which training may end."""
    train, test = data
    test = common.first(test, config.cnn_images if model in CONVOLUTIONAL else config.images)
    few, rng, last = common.first(train, config.memorised), np.random.default_rng(seed), config.memorised_epochs
    if model in ("perfect", "beyond"):
        few = test
    elif model == "shuffled":
        few = few._replace(labels=rng.permutation(few.labels))
    elif model == "noise":
        few = few._replace(images=rng.integers(0, train.levels, few.images[:].shape).astype(np.uint8))
    else:
        return train, test, [0 if model == "untrained" else config.train.epochs]
    return few, few, [last] if model == "beyond" else [*range(4, last, 4), last]


@cache  # one loss for all seeds, so that its training step is compiled once
def loss_of(config: Config, net: Net, model: str) -> LossFn:
    if model == "adversarial":
        return adversarial_loss(net.apply, pgd(linf(), steps=config.train_steps), eps=config.train_eps)
    return common.plain_loss(net.apply)


@cache  # compiled once for all models of one network
def searches(config: Config, net: Net) -> dict[str, Callable[..., jax.Array]]:
    """By attack, the compiled search `(key, params, x, labels) -> smallest eps`."""

    def along(kind: str) -> Callable[..., jax.Array]:
        def search(key, params, x, y):
            logits_fn = partial(net.apply, params)
            direction = attack_direction(logits_fn, x, y, kind=kind)
            largest = config.largest[kind == "l2"]
            return true_epsilon(logits_fn, x, y, direction, eps=largest, points=16, steps=12).eps

        return search

    def by_pgd(key, params, x, y):
        attack = smallest(pgd(linf((-np.inf, np.inf)), steps=config.pgd_steps, loss=log_odds), steps=16)
        return distances(attack(key, partial(net.apply, params), x, y, eps=config.largest[0]))

    found = {name: along(kind) for name, kind in DIRECTIONS.items()} | {"PGD": by_pgd}
    return {name: jax.jit(search) for name, search in found.items()}


def radii(
    config: Config, net: Net, params: Params, data: Dataset, seed: int, searched: int | None = None
) -> dict[str, np.ndarray]:
    """The smallest eps of each image under each attack; infinite for images that are misclassified without a change.

    PGD attacks only the first `searched` images.
    """
    found = {}
    for attack, search in searches(config, net).items():
        size, some = (250, searched) if attack == "PGD" else (500, None)
        eps = over_batches(
            partial(search, jax.random.key(seed), params), common.arrays_of(data, some), size, data_mesh()
        )
        found[attack] = np.where(eps > 0, eps, np.inf)
    return found


def trial(config: Config, data, *, model, seed, folder):
    net = config.widths.network(model if model in get_args(networks.Name) else "MLP")
    train, attacked, checks = images_for(config, model, data, seed)
    settings, (images, labels) = dataclasses.replace(config.train, epochs=checks[-1]), common.arrays_of(attacked)
    train_to = partial(common.trained, net, loss_of(config, net, model), train, settings, seed=seed, folder=folder)

    def look(epochs):
        decided = common.logits_of(net.apply, train_to(epochs=epochs), images).argmax(1)
        return {"epochs": epochs, "error": float((decided != labels).mean())}, {}

    for epochs in checks:
        # each look is kept at once, because earlier parameters are lost when training continues
        numbers, _ = common.stage(folder / f"epoch-{epochs}", partial(look, epochs))
        if numbers["error"] == 0:
            break
    if numbers["error"] == 1:
        raise ValueError(
            f"{model}, seed {seed}, is wrong on all {len(labels)} images: train it longer or on more of them"
        )
    searched = config.pgd_images // (4 if model in CONVOLUTIONAL else 1)
    found = radii(config, net, train_to(epochs=numbers["epochs"]), attacked, seed, searched)
    laws = {attack: law_of(config, attack, values, config.quantile) for attack, values in found.items()}
    return {**numbers, **laws, "wide": law_of(config, "FGSM", found["FGSM"], config.wide_quantile)}, found


def law_of(config: Config, attack: str, values: np.ndarray, quantile: float) -> dict[str, float]:
    """The law up to an error, or up to almost the largest error if most images are misclassified without a change."""
    used = min(quantile, 0.9 * float(np.isfinite(values).mean()))
    resolution = config.largest[attack == "L2"] / 2**16
    law = power_law(np.maximum(values, resolution), quantile=used, resolution=resolution)
    return law._asdict() | {"quantile": used, "unresolved": float((values <= resolution).sum() / law.count)}


def draw(config: Config, results):
    """The adversarial error of each model, of its first seed, with the laws that were fitted to enough images."""
    panels, laws = {}, {}
    for at in results.each("model"):
        panels[at.model] = {attack: at.arrays()[attack] for attack in ATTACKS}
        fits = {attack: at[attack][0] for attack in ATTACKS}
        laws[at.model] = {a: (law["coefficient"], law["exponent"]) for a, law in fits.items() if law["count"] >= FEWEST}
    title = f"{config.data.dataset}: small adversarial errors grow as a power B of eps"
    goals = {"perfect": published.EXPONENTS_PERFECT}
    chart = figures.power_laws(panels, laws, title, "eps (L2: in l2, others: in linf)", config.quantile, goals)
    return {"power-laws": chart}


def table(config: Config, results):
    for at in results.each("model"):
        goals = published.EXPONENTS_PERFECT if at.model == "perfect" else {}
        for attack in (*ATTACKS, "wide"):
            name = f"{at.model}: exponent B, {'FGSM, wide range' if attack == 'wide' else attack}"
            yield common.row(name, at[attack, "exponent"], "", remarks(at, attack), published=goals.get(attack))
        gain = at["step l.l.", "exponent"] - at["FGSM", "exponent"]
        yield common.row(f"{at.model}: B of step l.l. minus B of FGSM", gain)
        yield common.percent(f"{at.model}: clean error on the attacked images", at["error"])


def remarks(at: common.Results, attack: str) -> str:
    """How precise the exponents of one model are, and in which range the published ones lie."""
    mean = lambda key: float(np.mean(at[attack, key]))  # noqa: E731
    width, fewest = (mean("high") - mean("low")) / 2, min(at[attack, "count"])
    found = [f"up to an error of {100 * mean('quantile'):.2g} %; a seed's 95 % interval is ± {width:.2f}"]
    if attack in published.EXPONENTS and at.model in get_args(networks.Name):
        found.append("published {:g} to {:g}".format(*published.EXPONENTS[attack]))
    if attack == "PGD":
        found.append(f"{100 * mean('unresolved'):.0f} % of its eps below what was resolved")
    if fewest < FEWEST:
        found.append(f"says nothing: a fit to {fewest} images")
    return "; ".join(found)


EXPERIMENT = common.experiment(__name__, "15 minutes on 2 busy CPU cores, twice that beside other work", model="models")

"""P3 figure 2, tables 7 and 8: robust accuracy from a robust data set.

Training images are rebuilt from the representation of a robust model (D_R) and of a standard model (D_NR). The
inversion starts from other images or from noise. Networks with standard training on these images are attacked, and so
are the two models.

The default preset uses a part of CIFAR-10 and a small network. MNIST has few useful features that are not robust, and
without a planted feature small networks are no more robust after training on D_R than on D. The preset `planted`
therefore adds one: a faint pattern of the class.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.common import Arrays
from experiments.features_not_bugs import networks, published, relabelling
from invjax import features, figures
from invjax.models import penultimate
from invjax.training import data_mesh
from invjax.types import Params

ARMS = {
    "standard": ("standard", ""), "robust": ("robust", ""),
    "D_NR": ("standard", "images"), "D_NR from noise": ("standard", "noise"),
    "D_R": ("robust", "images"), "D_R from noise": ("robust", "noise"),
}  # fmt: skip
"""The networks: a model itself, or one that is trained on images that are rebuilt from the model's representations,
starting from other images or from noise."""


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    steps: int = 100  # Number of steps of the inversion from images.
    step_size: float = 0.2  # Length of a step of the inversion in l2.
    starts: tuple[str, ...] = common.axis(("images",))  # Starting points of the inversion: images, noise, or both.
    noise_steps: int = 100  # Number of steps of the inversion from noise.
    epsilons: tuple[float, ...] = (0.5, 1.0)  # Ascending radii in l2 at which accuracy is measured.
    shown: int = common.for_figures(8)  # Number of images in the figure, at most 16.


BOTH = ("images", "noise")
PRESETS = {
    "smoke": Config(
        networks.Data("digits", train_size=1024), network="MLP", hidden=(64, 64), train=networks.Train(20, 64, 2e-3),
        robust_epochs=20, train_eps=0.6, steps=30, starts=BOTH, noise_steps=30, epsilons=(0.6,), images=64,
        eval_steps=5, ensemble_images=0, seeds=(0,),
    ),
    "default": Config(
        **networks.SMALL | {"data": networks.Data("cifar10", train_size=6000)}, robust_epochs=8, train_eps=0.75,
        steps=80, step_size=0.25, epsilons=(0.25, 0.5), ensemble_images=50,
    ),
    "planted": Config(
        networks.Data("mnist", train_size=6000, planted=0.5), network="MLP", hidden=(256, 256), steps=400,
        starts=BOTH, noise_steps=400, epsilons=(0.5, 0.75),
    ),
    "paper": Config(
        **networks.PAPER, steps=1000, step_size=0.1, starts=BOTH, noise_steps=10_000, epsilons=(0.25, 0.5)
    ),
}  # fmt: skip


def trials(config: Config):
    if not config.starts or not set(config.starts) <= set(BOTH):
        raise ValueError(f"starts must be some of images, noise; got {', '.join(config.starts) or 'none'}")
    if not config.epsilons or list(config.epsilons) != sorted(config.epsilons):
        raise ValueError(f"epsilons must ascend, at least one; got {config.epsilons}")
    arms = [arm for arm, (_, start) in ARMS.items() if start in ("", *config.starts)]
    return common.grid(arm=arms, seed=config.seeds)


def construct(config: Config, arm: str, params: Params, data: Arrays, *, seed: int, path: Path) -> features.Constructed:
    """Rebuild images from the representations of a model, or read them from `path`."""
    source, start = ARMS[arm]
    return features.robust_dataset(
        jax.random.key(seed), penultimate(config.net()), params, *data,
        steps=config.steps if start == "images" else config.noise_steps, step_size=config.step_size, start=start,
        metadata={"data": config.data.dataset, "source": source, "network": config.network},
        path=path, mesh=data_mesh(), description=f"{arm}, seed {seed}",
    )  # fmt: skip


def trial(config: Config, data, *, arm, seed, folder, shared):
    train, test = data
    source, start = ARMS[arm]
    params = model = networks.source(config, source, train, seed=seed, shared=shared)
    numbers: dict[str, Any] = {}
    pair = train
    if start:
        made = construct(config, arm, model, train, seed=seed, path=folder / "data.npz")
        pair = made.images, made.labels
        params = networks.train(config, pair, seed=seed + 1000, folder=folder)
        numbers["distance"] = float(np.median(made.details["distance"]))
    arrays = {"images": pair[0][:16], "labels": pair[1][:16]}
    if start == "images":
        first = made.details["start"][:16]
        arrays |= {"start_images": train[0][first], "start_labels": train[1][first]}
    if arm == "D_R":
        few = test[0][: config.images], test[1][: config.images]
        held = construct(config, arm, model, few, seed=seed, path=folder / "test.npz")
        kinds = {"D_R, training": pair, "D_R, test": (held.images, held.labels), "original test": test}
        cheap = partial(networks.robust_accuracy, dataclasses.replace(config, ensemble_images=0), params, seed=seed)
        numbers["splits"] = {name: cheap(which, config.epsilons[:1])["PGD"][0] for name, which in kinds.items()}
    numbers["accuracy"] = common.accuracy(config.net().apply, params, test)
    numbers["attacked"] = networks.robust_accuracy(config, params, test, config.epsilons, seed=seed)
    return numbers, arrays


def published_numbers(config: Config) -> dict[str, dict[float, float]]:
    """The published accuracies in percent by network and radius; none for other images."""
    return published.ROBUST_DATASET if networks.comparable(config) else {arm: {} for arm in ARMS}


def table(config: Config, results):
    known, eps = published_numbers(config), config.epsilons
    if "images" in config.starts:
        attacked = results.by("arm", "attacked", "PGD")
        about = f"{networks.about(config)}, {config.steps} steps of {config.step_size:g}"
        for gained, at in zip((attacked["D_R"] - attacked["standard"]).T, eps, strict=True):
            number = known["D_R"][at] - known["standard"][at] if at in known["D_R"] else None
            name = f"robust accuracy gained by training on D_R instead of D, PGD, eps {at:g}"
            yield common.percent(name, gained, about if at == eps[0] else "", published=number)
    for at in results.each("arm"):
        what = f"model {at.arm}" if at.arm in networks.SOURCES else f"trained on {at.arm}"
        yield common.percent(f"{what}: accuracy", at["accuracy"], published=known[at.arm].get(0))
        for attack in at["attacked"][0]:
            numbers, few = (known[at.arm], config.images) if attack == "PGD" else ({}, config.ensemble_images)
            for values, radius in zip(at["attacked", attack].T, eps, strict=True):
                name, note = f"{what}: accuracy under {attack}, eps {radius:g}", f"{few} images"
                yield common.percent(name, values, note if radius == eps[-1] else "", published=numbers.get(radius))
        if ARMS[at.arm][1]:
            yield common.row(f"{at.arm}: distance of the representations, median", at["distance"], "relative")
    if "images" in config.starts:
        at = results.select(arm="D_R")
        splits = published.ROBUST_SPLITS.get(eps[0], {}) if networks.comparable(config) else {}
        for name in at["splits"][0]:
            what = f"trained on D_R: accuracy under PGD, eps {eps[0]:g}, {name} images"
            yield common.percent(what, at["splits", name], published=splits.get(name))


IMAGES = {
    "D": ("standard", ""), "D_R": ("D_R", ""), "D_NR": ("D_NR", ""), "started\nfrom": ("D_NR", "start_"),
    "D_R\nfrom noise": ("D_R from noise", ""), "D_NR\nfrom noise": ("D_NR from noise", ""),
}  # fmt: skip
"""The rows of the figure of images: the network whose trial keeps them, and what their names start with."""

BARS = {
    "original images": {"D": "standard", "D, robust\ntraining": "robust"},
    "rebuilt from images": {"D_R": "D_R", "D_NR": "D_NR"},
    "rebuilt from noise": {"D_R": "D_R from noise", "D_NR": "D_NR from noise"},
}
"""The panels of the figure of accuracies: training sets and their networks."""


def draw(config: Config, results):
    about, found = networks.title(config), {at.arm: at for at in results.each("arm")}
    pictures = {
        name: {key: found[arm].arrays()[start + key] for key in ("images", "labels")}
        for name, (arm, start) in IMAGES.items() if arm in found
    }  # fmt: skip
    title = f"{about}: images rebuilt from a robust (D_R) and a standard model (D_NR)"
    names = {"clean": 0.0, **{f"PGD, eps {eps:g}": eps for eps in config.epsilons}}
    bars: dict[str, Any] = {}
    stars: dict[str, Any] = {}
    for panel, arms in BARS.items():
        for name, arm in arms.items():
            if arm in found:
                values = 100 * np.column_stack([found[arm]["accuracy"], found[arm]["attacked", "PGD"]])
                known = published_numbers(config)[arm]
                bars.setdefault(panel, {})[name] = dict(zip(names, values.T, strict=True))
                stars.setdefault(panel, {})[name] = {what: known.get(eps) for what, eps in names.items()}
    by_set = f"{about}: test accuracy, clean and attacked, by training set"
    return {
        "images": relabelling.pictures(pictures, title, config.shown),
        "accuracy": figures.bar_panels(bars, "accuracy, %", by_set, published=stars),
    }


EXPERIMENT = common.experiment(__name__, {"default": "20 minutes on 2 CPU cores", "planted": "4 minutes"})

"""Certified, and wrong: a network that provably keeps its answer, on images in which people see another class.

    python -m experiments.invariance_tradeoffs.certified [smoke|default|paper] [--pretrained-dir FOLDER]

Networks are trained to be certified in linf. On the same test images, the experiment counts how many are certified at
each radius and how many withstand attacks. It also compares the networks with people on images whose class invariance
attacks changed. If the original is certified at the distance of such an image, the network provably keeps its answer
there. The experiment also certifies networks that others released.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import certified_networks
from experiments.invariance_tradeoffs.certified_measures import (
    beside_people,
    by_ensemble,
    check_sandwich,
    counts,
    reach,
    standing,
    strongest,
)
from experiments.invariance_tradeoffs.pretrained import Pretrained, pretrained
from invjax import evaluation, figures
from invjax.attacks import linf, pgd
from invjax.bounds import METHODS
from invjax.data import Dataset, HumanLabelled, as_float, human_labelled, load, write_arrays
from invjax.training import data_mesh

SETS = {"linf 0.4": "automated", "manual linf 0.4": "by hand"}
"""The examples of the paper, and their names here."""

PUBLISHED: dict[str, dict] = {
    "certified": {0.4: 87},
    "people": {"linf 0.4": 63, "manual linf 0.4": 12},
    "originals": {"linf 0.4": 96},
}
"""Section 4 of the paper, for a network by CROWN-IBP at linf 0.4. The fractions are of all images of a set, including
those in which people see no other class; the paper has no fraction of the changed images alone."""


@dataclasses.dataclass(frozen=True)
class Config(certified_networks.Settings):
    """Settings of the networks, the certificates and the attacks."""

    pretrained_dir: str | None = None
    """Folder of released networks; by default `pretrained` in the data folder, if it exists."""
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    """Radii in the table."""
    between: tuple[float, ...] = (0.05, 0.15, 0.25, 0.35, 0.45)
    """Further radii in the figure."""
    method: str = "crown-ibp"
    """Method of the certificates: ibp, crown-ibp or crown."""
    test_size: int | None = None
    """Number of test images for certificates and PGD; the first ones are used; None uses all."""
    attack_steps: int = 20
    """Number of steps of PGD."""
    images: int = 200
    """Number of test images for AutoAttack; the first ones are used."""
    ensemble_steps: int = 40
    """Number of steps of each gradient attack in AutoAttack (its authors use 100)."""
    queries: int = 500
    """Number of queries of the random search in AutoAttack (its authors use 5000)."""
    released_images: int = 100
    """Number of test images on which CROWN certifies released networks at 0.1; the first ones are used."""
    shown: int = 5
    """Number of images of each set in the figure."""


PRESETS = {
    "smoke": Config(
        network="tiny CNN",
        train_size=2000,
        epochs=6,
        natural_epochs=1,
        ramp_epochs=3,
        batch_size=64,
        learning_rate=5e-3,
        train_eps=0.1,
        epsilons=(0.1, 0.4),
        between=(),
        test_size=200,
        attack_steps=2,
        images=20,
        ensemble_steps=2,
        queries=5,
        released_images=0,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        network="large CNN",
        epochs=200,
        natural_epochs=10,
        ramp_epochs=50,
        batch_size=256,
        learning_rate=5e-4,
        train_eps=0.4,
        natural=0.5,
        crown=1.0,
        attack_steps=100,
        images=1000,
        ensemble_steps=100,
        queries=5000,
        released_images=1000,
    ),
}


class Data(NamedTuple):
    """Training and test images with their labels, the sets of the paper, and the networks that others released."""

    train: Dataset
    images: np.ndarray
    labels: np.ndarray
    human: dict[str, HumanLabelled]
    released: dict[str, Pretrained]


def read(config: Config) -> Data:
    """Load the data; missing files raise an error before any work."""
    human = human_labelled(config.data_dir)
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    train = train._replace(images=train.images[: config.train_size], labels=train.labels[: config.train_size])
    released = {
        name: net
        for name, net in pretrained(config.pretrained_dir, config.data_dir).items()
        if net.ball is not None and net.ball[0] == "linf" and config.released_images
    }
    images, labels = np.asarray(as_float(test.images[: config.test_size])), np.asarray(test.labels[: config.test_size])
    return Data(train, images, labels, {name: human[name] for name in SETS}, released)


def every_radius(config: Config) -> np.ndarray:
    """The radii of the table and of the figure, and 0."""
    return np.unique([0.0, *config.epsilons, *config.between])


def one_network(config: Config, seed: int, data: Data, folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Train a network, certify it, attack it, and compare it with people."""
    params = certified_networks.train(config, seed, data.train, folder)
    apply_fn = certified_networks.network(config.network).apply
    radii, options = every_radius(config), evaluation.Options(min(250, len(data.labels)), data_mesh())
    certified = evaluation.certificate_curve(
        apply_fn, params, data.images, data.labels, epsilons=radii, method=config.method, options=options
    )
    attacked = evaluation.robustness_curve(
        jax.random.key(seed), pgd(linf(), steps=config.attack_steps), apply_fn, params, data.images, data.labels,
        epsilons=radii, options=options._replace(directory=folder / "pgd"),
    )  # fmt: skip
    ensembled = by_ensemble(
        strongest(apply_fn, config.ensemble_steps, config.queries), params, seed, data.images[: config.images],
        data.labels[: config.images], config.epsilons,
    )  # fmt: skip
    for curve in (attacked, ensembled):
        check_sandwich(certified, curve)
    arrays = {"certified": certified.broken_at, "pgd": attacked.broken_at, "ensemble": ensembled.broken_at}
    return {}, arrays | beside_people(apply_fn, params, data.human, config.method)


def one_released(config: Config, net: Pretrained, data: Data) -> tuple[dict, dict[str, np.ndarray]]:
    """Certify a released network by CROWN at 0.1, and attack it there."""
    images, labels = data.images[: config.released_images], data.labels[: config.released_images]
    found, options = {}, evaluation.Options(50, data_mesh())
    for method in METHODS:
        found[method] = evaluation.certificate_curve(
            net.apply, net.params, images, labels, epsilons=[0.1], method=method, options=options
        )
    attacked = evaluation.robustness_curve(
        jax.random.key(0), pgd(linf(), steps=config.attack_steps), net.apply, net.params, images, labels,
        epsilons=[0.1], options=options,
    )  # fmt: skip
    for curve in found.values():
        check_sandwich(curve, attacked)
    return {}, {name: curve.broken_at for name, curve in (*found.items(), ("pgd", attacked))}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all networks, draw the figures, and return the table."""
    check(config)
    data = read(config)
    runs = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        runs.append(common.stage(place, partial(one_network, config, seed, data, place))[1])
    released = {}
    for name, net in data.released.items():
        place = folder / name.replace(" & ", "-").replace(", ", "-").replace(" ", "-")
        released[name] = common.stage(place, partial(one_released, config, net, data))[1]
    write_arrays(folder / "arrays.npz", runs[0], compress=True)
    draw(config, runs, data, folder / "figures")
    return rows(config, runs, released, data)


def check(config: Config) -> None:
    """Check the settings.

    Raises:
        ValueError: an unknown method, or a radius that is not positive.
    """
    if config.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {config.method!r}")
    if not config.epsilons or min(config.epsilons) <= 0:
        raise ValueError(f"epsilons must be radii above 0; got {config.epsilons}; 0 is there without being asked for")
    certified_networks.schedules(config, 1)


def draw(config: Config, runs: list[dict], data: Data, folder: Path) -> None:
    """Draw certified and attacked accuracy with the agreement with people, and images with a wrong certified answer."""
    count, size = min(config.images, len(data.labels)), len(data.labels)
    pgd_name = f"PGD, {config.attack_steps} steps"
    about = f"MNIST, trained to be certified up to linf {config.train_eps:g}; mean of {len(runs)} seed(s)"
    people, published = beside(runs, data.human)
    for name, radii, images, attacks in (
        ("sandwich", every_radius(config), size, {"pgd": pgd_name}),
        ("sandwich-ensemble", np.unique([0.0, *config.epsilons]), count,
         {"pgd": pgd_name, "ensemble": "the standard ensemble"}),
    ):  # fmt: skip
        curves = {
            of: (radii, np.array([np.mean(standing(runs, of, eps, images)) for eps in radii]))
            for of in ("certified", *attacks)
        }
        attacked = {called: curves[of] for of, called in attacks.items()}
        figure = figures.sandwich(curves["certified"], attacked, people, f"{about}, {images:,} images", published)
        figures.save(figure, folder / f"{name}.png")
    draw_images(config, runs[0], data.human, folder)


def beside(runs: list[dict], human: dict[str, HumanLabelled]) -> tuple[dict, dict]:
    """The agreement of the networks, with intervals, and the published values."""
    people, published = {}, {}
    for name, called in SETS.items():
        found, total = counts(runs, human[name], name), len(human[name].human)
        for who, about in (("originals", "original label"), ("people", "people")):
            label, hits = f"{about},\n{called}", float(np.mean(found[who]))
            people[label] = (hits / total, *evaluation.wilson(hits, total))
            if name in PUBLISHED[who]:
                published[label] = PUBLISHED[who][name] / 100
    return people, published


def draw_images(config: Config, first: dict, human: dict[str, HumanLabelled], folder: Path) -> None:
    """Images in which people see another class and the network provably does not; None if there are none."""
    originals, changed = [], []
    captions: dict[str, list[str]] = {"original": [], "changed": []}
    for name, called in SETS.items():
        of_set = human[name]
        for i in np.flatnonzero(of_set.changed & first[f"certified {name}"])[: config.shown]:
            originals.append(of_set.originals[i])
            changed.append(of_set.images[i])
            captions["original"].append(f"certified: {of_set.labels[i]}")
            captions["changed"].append(f"network: {first[f'seen {name}'][i]}\npeople: {of_set.human[i]}\n{called}")
    if originals:
        title = "certified as far as the image below, in which people see another digit"
        grid = figures.adversarial_grid(np.stack(originals), {"changed": np.stack(changed)}, captions, title)
        figures.save(grid, folder / "certified-and-wrong.png")


def rows(config: Config, runs: list[dict], released: dict[str, dict], data: Data) -> list[common.Row]:
    """The table: certificates and attacks, then people, then the released networks."""
    percent = lambda shares: [100 * share for share in shares]  # noqa: E731
    by = "IBP" if not config.crown else "CROWN-IBP"
    size = "all" if config.train_size is None else f"{config.train_size:,}"
    ours = f"{config.network} trained by {by} to eps {config.train_eps:g}, {size} images, {config.epochs} epochs"
    everything, count = f"{len(data.labels):,} test images", min(config.images, len(data.labels))
    table = []
    for eps in sorted(config.epsilons, reverse=True):
        published = PUBLISHED["certified"].get(eps)
        about = f"{ours}; {everything}" if published else everything
        shares = percent(standing(runs, "certified", eps))
        table.append(common.row(f"certified accuracy, linf {eps:g}", published, shares, "%", about))
    table.append(common.row("clean accuracy", None, percent(standing(runs, "certified", 0)), "%", everything))
    for eps in config.epsilons:
        table.append(common.row(f"accuracy under PGD, linf {eps:g}", None, percent(standing(runs, "pgd", eps)), "%",
                                f"{config.attack_steps} steps; {everything}"))  # fmt: skip
    for eps in config.epsilons:
        for name, what, about in (
            ("certified", "certified accuracy", ""),
            ("pgd", "accuracy under PGD", ""),
            ("ensemble", "accuracy under the standard ensemble",
             f"; {config.ensemble_steps} steps, {config.queries} queries"),
        ):  # fmt: skip
            shares = percent(standing(runs, name, eps, count))
            table.append(common.row(f"{what}, linf {eps:g}, {count} images", None, shares, "%", f"the first{about}"))
    for name, called in SETS.items():
        table += human_rows(name, called, data.human[name], counts(runs, data.human[name], name))
    for name, found in released.items():
        for method, broken_at in found.items():
            what = "accuracy under PGD" if method == "pgd" else f"certified accuracy by {method}"
            table.append(common.row(f"{name}: {what}, linf 0.1", None, [100 * float((broken_at > 0.1).mean())], "%",
                                    f"as released; the first {len(broken_at)} test images"))  # fmt: skip
    return table


def human_rows(name: str, called: str, of_set: HumanLabelled, found: dict[str, list[int]]) -> list[common.Row]:
    """The rows about images in which people see another class."""
    total, changed = len(of_set.human), int(of_set.changed.sum())
    introduction = "; 60 in the paper's introduction" if name == "linf 0.4" else ""
    questions = {
        "originals": ("gives the original's label", total, "of all images of the set"),
        "people": ("agrees with people", total, f"of all images of the set{introduction}"),
        "people, changed": ("agrees with people where these see another class", changed, ""),
        "certified": (
            "certified to disagree with people where these see another class",
            changed,
            f"the original is certified at {reach(of_set):.3f}, the distance of the farthest image",
        ),
    }
    table = []
    for key, (what, of, about) in questions.items():
        low, high = evaluation.wilson(float(np.mean(found[key])), of)
        interval = f"95 % interval {100 * low:.0f} to {100 * high:.0f}, {of} images"
        published, shares = PUBLISHED.get(key, {}).get(name), [100 * count / of for count in found[key]]
        about = f"{interval}; {about}" if about else interval
        table.append(common.row(f"linf 0.4, {called}: {what}", published, shares, "%", about))
    return table


EXPERIMENT = common.Experiment(
    name="invariance_tradeoffs/certified",
    item="P4 section 4: a network certified at linf 0.4, and people",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "20 minutes of CPU time a seed", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""P4 section 4: a network certified at linf 0.4, and people.

Networks are trained to be certified in linf. On the same test images, the experiment counts how many are certified at
each radius and how many withstand attacks. It also compares the networks with people on images whose class invariance
attacks changed. If the original is certified at the distance of such an image, the network provably keeps its answer
there. The experiment also certifies networks that others released.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import certified_measures as measures
from experiments.invariance_tradeoffs import certified_networks, published
from experiments.invariance_tradeoffs.pretrained import pretrained
from experiments.invariance_tradeoffs.robust_networks import Data, interval
from invjax import figures
from invjax.data import human_labelled

BY_HAND = "manual linf 0.4"
SETS = {"linf 0.4": "automated", BY_HAND: "by hand"}  # the examples of the paper, and their names here

LINES = {"certified": "certified", "ensemble": "withstand AutoAttack", "pgd": "withstand PGD"}
"""The lines of the second figure."""

PUBLISHED = {"originals": published.CERTIFIED_ORIGINAL_LABELS, "people": published.CERTIFIED_AGREES}
MNIST, CERTIFIED, MEASURED = Data(train_size=None), certified_networks.Settings(), measures.Settings()


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[Data] = MNIST  # The images.
    train: common.Train = common.Train(epochs=14, batch_size=96, learning_rate=1e-3)  # Training of the network by Adam.
    certified: common.Flat[certified_networks.Settings] = CERTIFIED  # Certified training.
    pretrained_dir: str | None = common.for_machine(None)
    """Folder of released networks; by default `pretrained` in the data folder, if it exists."""
    measured: common.Flat[measures.Settings] = MEASURED  # Certificates and attacks.
    shown: int = common.for_figures(4)  # Number of images of each set in the figure.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one network.


PRESETS = {
    "smoke": Config(
        data=Data(train_size=1000, test_size=100), train=common.Train(4, 32, 5e-3),
        certified=certified_networks.Settings("tiny CNN", natural_epochs=1, ramp_epochs=2, train_eps=0.1),
        measured=measures.Settings((0.1, 0.4), between=(), method="ibp", attack_steps=2, images=10, ensemble_steps=2,
                                   queries=5, released_images=0),
        seeds=(0,),
    ),
    "paper": Config(
        train=common.Train(200, 256, 5e-4),
        certified=certified_networks.Settings(
            "large CNN", natural_epochs=10, ramp_epochs=50, train_eps=0.4, natural=0.5, crown=1.0
        ),
        measured=measures.Settings(attack_steps=100, images=1000, ensemble_steps=100, queries=5000,
                                   released_images=1000),
    ),
}  # fmt: skip


def datasets(config: Config):
    """Load the data; missing files raise an error before any work."""
    human = human_labelled(config.data.data_dir)
    found = pretrained(config.pretrained_dir, config.data.data_dir) if config.measured.released_images else {}
    released = {name: net for name, net in found.items() if net.ball is not None and net.ball[0] == "linf"}
    return (*config.data.load(), {name: human[name] for name in SETS}, released)


def trials(config: Config):
    """One trial for each seed; radii or numbers of epochs that are out of range raise an error."""
    if not config.measured.epsilons or min(config.measured.epsilons) <= 0:
        raise ValueError(
            f"epsilons must be radii above 0; got {config.measured.epsilons}; 0 is there without being asked for"
        )
    certified_networks.phases(config.certified, config.train.epochs, config.train.epochs)
    return common.grid(seed=config.seeds)


def trial(config: Config, data, *, seed, folder, shared):
    train, test, human, pretrained_nets = data
    params = certified_networks.trained(config.certified, config.train, train, seed=seed, folder=folder)
    apply_fn = certified_networks.network(config.certified.network).apply
    images = common.arrays_of(test)
    curves = measures.curves(config.measured, apply_fn, params, images, seed, folder / "pgd")
    arrays, people, released = {name: curve.broken_at for name, curve in curves.items()}, {}, {}
    for name, of_set in human.items():
        people[name], wrong = measures.beside_people(apply_fn, params, of_set, config.measured.method)
        arrays |= {f"{name}/{field}": values for field, values in wrong.items()}
    for name, net in pretrained_nets.items():
        measured = partial(measures.of_released, config.measured, net, images)
        kept = shared / f"{name.replace(', ', '-').replace(' ', '-')}-{net.digest}"
        released[name], _ = common.stage(kept, measured)
    numbers = {
        "count": len(test.labels),
        "all": {name: measures.by_radius(curves[name]) for name in ("certified", "pgd")},
        "few": {name: measures.by_radius(curve, config.measured.images) for name, curve in curves.items()},
        "people": people,
        "released": released,
    }
    return numbers, arrays


def draw(config: Config, results):
    every, few = (np.unique([0.0, *config.measured.epsilons, *more]) for more in (config.measured.between, ()))
    found = {
        part: {name: np.array([results[part, name, f"{eps:g}"] for eps in radii]).T for name in names}
        for part, radii, names in (("all", every, ("certified", "pgd")), ("few", few, tuple(LINES)))
    }
    labels = {
        (key, name): f"{of},\n{called}"
        for key, of in (("originals", "original label"), ("people", "people"))
        for name, called in SETS.items()
    }
    agreement = {label: interval(results["people", name, key]) for (key, name), label in labels.items()}
    stars = {label: PUBLISHED[key][name] / 100 for (key, name), label in labels.items() if name in PUBLISHED[key]}
    goals = {eps: percent / 100 for eps, percent in published.CERTIFIED_ACCURACY.items()}
    largest, by_hand = max(config.measured.epsilons), 100 * agreement[labels["people", BY_HAND]][0]
    title = (
        f"{100 * found['all']['certified'].mean(0)[every == largest].item():.0f} % of the test images are certified at "
        f"linf {largest:g}; people agree with {by_hand:.0f} % of the answers on images made by hand"
    )
    means = {name: (every, values.mean(0)) for name, values in found["all"].items()}
    attacked = {f"PGD, {config.measured.attack_steps} steps": means["pgd"]}
    sandwich = figures.sandwich(means["certified"], attacked, agreement, title, stars, goals)
    panel = f"the first {min(config.measured.images, results['count'][0])} test images"
    lines = {text: found["few"][name] for name, text in LINES.items()}
    dots = {text: (few, values.mean(0)) for text, values in lines.items()}
    gap = 100 * (found["few"]["ensemble"] - found["few"]["certified"]).mean(0).max()
    title = f"Certificates and AutoAttack leave at most {gap:.1f} % of the images undecided"
    ensemble = figures.curves(few, {panel: lines}, "radius eps (linf)", "images", title, {panel: dots})
    return {"sandwich": sandwich, "sandwich-ensemble": ensemble} | wrong_images(config, results)


def wrong_images(config: Config, results: common.Results) -> dict[str, Any]:
    """Images in which people see another class and the network provably does not; no figure if there are none."""
    arrays = results.arrays()
    original, changed, labels, human = (
        np.concatenate([arrays[f"{name}/{field}"][: config.shown] for name in SETS])
        for field in ("original", "image", "label", "human")
    )
    sets = [name for name in SETS for _ in arrays[f"{name}/label"][: config.shown]]
    captions = {
        "original": [
            f"{k}, certified\nto {results['people', s, 'reach'][0]:.3f}" for k, s in zip(labels, sets, strict=True)
        ],
        "changed": [f"network: {k}\npeople: {j}\n{SETS[s]}" for k, j, s in zip(labels, human, sets, strict=True)],
    }
    title = "The network provably gives both images the label of the first; people see another digit in the second"
    rows = {"original": original, "changed": changed}
    return {"certified-and-wrong": figures.image_grid(rows, title, 0.95, captions)} if sets else {}


def table(config: Config, results):
    ours, measured, count = config.certified, config.measured, results["count"][0]
    about = (
        f"{ours.network} trained by {'CROWN-IBP' if ours.crown else 'IBP'} to eps {ours.train_eps:g}, "
        f"{config.data.size} images, {config.train.epochs} epochs"
    )
    everything, few = f"{count:,} test images", min(measured.images, count)
    for eps in sorted(measured.epsilons, reverse=True):
        known, values = published.CERTIFIED_ACCURACY.get(eps), results["all", "certified", f"{eps:g}"]
        differs = f"{about}; {everything}" if known else everything
        yield common.percent(f"certified accuracy, linf {eps:g}", values, differs, published=known)
    yield common.percent("clean accuracy", results["all", "certified", "0"], everything)
    radii, differs = [f"{eps:g}" for eps in measured.epsilons], f"{measured.attack_steps} steps; {everything}"
    for at in radii:
        yield common.percent(f"accuracy under PGD, linf {at}", results["all", "pgd", at], differs)
    differs = f"the first; {measured.ensemble_steps} steps, {measured.queries} queries"
    for at in radii:
        where = f"linf {at}, {few} images"
        yield common.percent(f"certified accuracy, {where}", results["few", "certified", at], "the first")
        yield common.percent(f"accuracy under PGD, {where}", results["few", "pgd", at], "the first")
        ensemble = results["few", "ensemble", at]
        yield common.percent(f"accuracy under the standard ensemble, {where}", ensemble, differs)
    for name in SETS:
        yield from human_rows(name, results)
    about = f"as released; the first {min(measured.released_images, count)} test images"
    for name, fractions in of_released(results).items():
        for method, fraction in fractions.items():
            what = "accuracy under PGD" if method == "pgd" else f"certified accuracy by {method}"
            yield common.percent(f"{name}: {what}, linf 0.1", [fraction], about)


def of_released(results: common.Results) -> dict[str, dict[str, float]]:
    """The fractions of the released networks, which all trials share."""
    found = results["released"]
    for trial, networks in zip(results.trials, found, strict=True):
        if networks != found[0]:
            first = results.trials[0]
            raise ValueError(
                f"the trials {first.name} and {trial.name} measured different released networks or files "
                f"({', '.join(found[0]) or 'none'}; {', '.join(networks) or 'none'}): remove numbers.json in "
                f"{first.folder} or in {trial.folder}, and run again with the --pretrained-dir of the other one; "
                "the training is kept"
            )
    return found[0]


def human_rows(name: str, results: common.Results) -> Iterator[common.Row]:
    reach, also = results["people", name, "reach"][0], "" if name == BY_HAND else "; 60 in the paper's introduction"
    questions = {
        "originals": ("gives the original's label", "; of all images of the set"),
        "people": ("agrees with people", f"; of all images of the set{also}"),
        "people, changed": ("agrees with people where these see another class", ""),
        "certified": ("certified to disagree with people where these see another class",
                      f"; the original is certified at {reach:.3f}, the distance of the farthest image"),
    }  # fmt: skip
    for key, (what, about) in questions.items():
        counts = results["people", name, key]
        _, low, high = interval(counts)
        about = f"95 % interval {100 * low:.0f} to {100 * high:.0f}, {counts[0][1]} images{about}"
        known = PUBLISHED.get(key, {}).get(name)
        fractions = [hits / of for hits, of in counts]
        yield common.percent(f"linf 0.4, {SETS[name]}: {what}", fractions, about, published=known)


EXPERIMENT = common.experiment(
    __name__, "20 minutes of CPU time a seed, measured without the radii 0.41 to 0.44 of the figure"
)

"""P3 tables 1, 9 and 10: accuracy learnt from relabelled adversarial examples.

Every training image is moved a little towards another class and takes that class as its label: a random class (D_rand)
or the next one (D_det). Only non-robust features of the image agree with this label. Networks trained on these images
are tested on original images with their original labels. The data are made once with a standard model and once with a
robust one. The last parameters are used, because there is no valid validation set.

The default preset uses a part of CIFAR-10 and a small network. Its radius is larger than the published 0.5, because
small networks learn less from small changes. MNIST has few useful features that are not robust, so the preset `planted`
adds one: a faint pattern of the class, and attacks with a radius that can change it.
"""

import dataclasses
from functools import partial

from experiments import common
from experiments.features_not_bugs import networks, published, relabelling
from invjax import figures

ROWS = (  # training set, number, and name of the row; on D it is the model itself that is measured
    ("D_det", "accuracy", "trained on D_det of the {} model: test accuracy"),
    ("D_det", "next", "trained on D_det of the {} model: test accuracy on the next class"),
    ("D_rand", "accuracy", "trained on D_rand of the {} model: test accuracy"),
    ("D_rand", "reached", "D_rand of the {} model: images that reach their target"),
    ("D_det", "reached", "D_det of the {} model: images that reach their target"),
    ("D", "accuracy", "{} model: test accuracy"),
)


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    shown: int = common.for_figures(8)  # Number of images in the figure, at most 16.


PRESETS = {
    "smoke": Config(
        **relabelling.SMOKE
        | {"data": networks.Data("digits", train_size=1024, planted=0.4), "train": networks.Train(25, 64, 3e-3)}
        | {"hidden": (128, 128), "robust_epochs": 25, "train_eps": 1.2, "exclude_true": True}
    ),
    "default": Config(**relabelling.SMALL, robust_epochs=6, ensemble_images=0),
    "planted": Config(**relabelling.PLANTED, train_eps=2.5, ensemble_images=0),
    "paper": Config(**relabelling.PAPER),
}


def trials(config: Config):
    """A trial for each training set of each model; on D it measures the model itself."""
    relabelling.check(config)
    return common.grid(source=networks.SOURCES, kind=("D", *relabelling.KINDS), seed=config.seeds)


def trial(config: Config, data, *, source, kind, seed, folder, shared):
    train, test = data
    params = networks.source(config, source, train, seed=seed, shared=shared)
    if kind == "D":
        attacked = networks.robust_accuracy(config, params, test, [config.eps], seed=seed)
        by_attack = {name: values[0] for name, values in attacked.items()}
        numbers = {"accuracy": common.accuracy(config.net().apply, params, test), "attacked": by_attack}
        return numbers, {"images": train[0][:16], "labels": train[1][:16]}
    made = relabelling.construct(config, kind, params, train, seed=seed, folder=folder, source=source)
    numbers = relabelling.measure(config, kind, made, test, seed=seed, folder=folder)
    return numbers, {"images": made.images[:16], "labels": made.labels[:16]}


def known(config: Config, source: str, kind: str, key: str) -> float | None:
    """The published number; None without one, or for other images."""
    return published.LEARNT[source].get(kind, {}).get(key) if networks.comparable(config) else None


def table(config: Config, results):
    differs = relabelling.about(config)
    for at in results.each("source"):
        for kind, key, name in ROWS:
            goal = known(config, at.source, kind, key)
            yield common.percent(name.format(at.source), at.select(kind=kind)[key], differs, published=goal)
            differs = ""
        model = at.select(kind="D")
        for attack in model["attacked"][0]:
            name = f"{at.source} model: accuracy under {attack}, eps {config.eps:g}"
            yield common.percent(name, model["attacked", attack])


def draw(config: Config, results):
    about, det = networks.title(config), results.select(kind="D_det")
    rows = {"D": results.select(kind="D"), **{f"D_det\n{at.source}": at for at in det.each("source")}}
    title = f"{about}: D_det labels each image with the next class, eps {config.eps:g}"
    images = relabelling.pictures({name: at.arrays() for name, at in rows.items()}, title, config.shown)

    def panels(value_of):
        return {
            f"made with the {source} model": {
                "trained on D_det": {
                    "original labels": value_of(source, "D_det", "accuracy"),
                    "next class": value_of(source, "D_det", "next"),
                },
                "trained on D_rand": {"original labels": value_of(source, "D_rand", "accuracy")},
            }
            for source in networks.SOURCES
        }

    measured = panels(lambda source, kind, key: 100 * results.select(source=source, kind=kind)[key])
    title = f"{about}:\nwhat relabelled images teach, tested on original images"
    stars = panels(partial(known, config)) if networks.comparable(config) else None
    accuracy = figures.bar_panels(measured, "test accuracy, %", title, (10.0, "chance"), stars)
    return {"images": images, "accuracy": accuracy}


EXPERIMENT = common.experiment(__name__, {"default": "25 minutes on 2 CPU cores", "planted": "3 minutes"})

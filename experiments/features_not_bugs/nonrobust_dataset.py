"""Learning from labels that look wrong: tables 1, 9 and 10 of the paper.

    python -m experiments.features_not_bugs.nonrobust_dataset [smoke|default|planted|paper] [--dataset ...]

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
from pathlib import Path
from typing import Any

from experiments import common
from experiments.features_not_bugs import networks, relabelling
from invjax import figures


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    """Settings of the non-robust data sets."""

    shown: int = 8
    """Number of images in the figure."""


PRESETS = {
    "smoke": Config(
        "digits",
        planted=0.4,
        network="MLP",
        hidden=(128, 128),
        epochs=40,
        robust_epochs=40,
        batch_size=64,
        learning_rate=3e-3,
        train_eps=1.2,
        eps=0.8,
        attack_steps=10,
        exclude_true=True,
        images=64,
        eval_steps=5,
        ensemble_images=0,
        seeds=(0,),
    ),
    "default": Config(**relabelling.SMALL, train_size=16_000, robust_epochs=6, train_eps=1.5, ensemble_images=0),
    "planted": Config(**relabelling.PLANTED, train_size=20_000, train_eps=2.5, ensemble_images=0),
    "paper": Config(
        **relabelling.PAPER,
        **networks.ROBUST_PAPER,
        rates=(0.01, 0.1),
        moved=(True, False),
        images=10_000,
        ensemble_images=1000,
        ensemble_steps=100,
        queries=5000,
    ),
}

PUBLISHED: dict[str, dict] = {
    "standard": {"D_rand": 63.3, "D_det": 43.7, "relabelled": 16.2, "D": 95.3},
    "robust": {"D_rand": 25.2, "D_det": 5.8, "relabelled": 65.5, "D": None},
}
"""Tables 1, 9 and 10, ResNet-50 on CIFAR-10: test accuracy in percent, by the model that made the data."""


def one_seed(config: Config, seed: int, data: tuple[networks.Data, networks.Data], folder: Path) -> tuple:
    """Train the sources, make the data sets, train on them, and test."""
    train, test = data
    net = networks.network(config)
    models = networks.sources(config, seed, train, folder)
    next_class = test[0], (test[1] + 1) % 10
    numbers: dict[str, dict] = {}
    arrays = {"D": train[0][: config.shown]}
    for source, params in models.items():
        attacked = networks.robust_accuracy(config, params, test, [config.eps], seed=seed)
        found: dict[str, Any] = {"D": networks.accuracy(net, params, test), "attacked": attacked, "reached": {}}
        for kind in relabelling.KINDS:
            place = folder / f"{kind}-{source}"
            made = relabelling.construct(config, kind, source, params, train, seed, place / "data.npz")
            learnt = relabelling.learn(config, kind, made, seed, place)
            found[kind] = networks.accuracy(net, learnt, test)
            found["reached"][kind] = 100 * float(made.details["success"].mean())
            if kind == "D_det":
                found["relabelled"] = networks.accuracy(net, learnt, next_class)
                arrays[f"D_det, {source}"] = made.images[: config.shown]
        numbers[source] = found
    return numbers, arrays


def run(config: Config, folder: Path) -> list[common.Row]:
    """Run all seeds, draw the figures, and return the table."""
    relabelling.check(config)
    data = networks.datasets(config)
    runs = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        runs.append(common.stage(place, partial(one_seed, config, seed, data, place)))
    pictures = {name.replace(", ", "\n"): images for name, images in runs[0][1].items()}
    title = f"{networks.title(config)}: images that D_det labels with the next class, eps {config.eps:g}"
    figures.save(figures.image_grid(pictures, title), folder / "figures" / "images.png")
    panels = {
        f"made with the {source} model": {
            f"trained on {kind}": {
                "original labels": [n[source][kind] for n, _ in runs],
                **({"the next class": [n[source]["relabelled"] for n, _ in runs]} if kind == "D_det" else {}),
            }
            for kind in relabelling.KINDS[::-1]
        }
        for source in networks.SOURCES
    }
    title = f"{networks.title(config)}: what is learnt, on original test images; {len(config.seeds)} seed(s)"
    chart = figures.bar_panels(panels, "test accuracy, %", title, (10.0, "chance"))
    figures.save(chart, folder / "figures" / "accuracy.png")
    return rows(config, [numbers for numbers, _ in runs])


def rows(config: Config, runs: list[dict]) -> list[common.Row]:
    """The table."""
    published = PUBLISHED if networks.comparable(config) else {name: {} for name in networks.SOURCES}
    table: list[common.Row] = []
    for source in networks.SOURCES:
        for kind in relabelling.KINDS[::-1]:
            name = f"trained on {kind} of the {source} model: test accuracy"
            values = [n[source][kind] for n in runs]
            note = relabelling.about(config) if not table else ""
            table.append(common.row(name, published[source].get(kind), values, "%", note))
            if kind == "D_det":
                name = f"trained on D_det of the {source} model: test accuracy on the next class"
                values = [n[source]["relabelled"] for n in runs]
                table.append(common.row(name, published[source].get("relabelled"), values, "%"))
        for kind in relabelling.KINDS:
            values = [n[source]["reached"][kind] for n in runs]
            table.append(common.row(f"{kind} of the {source} model: images that reach their target", None, values, "%"))
        values = [n[source]["D"] for n in runs]
        table.append(common.row(f"{source} model: test accuracy", published[source].get("D"), values, "%"))
        for attack in runs[0][source]["attacked"]:
            values = [n[source]["attacked"][attack][0] for n in runs]
            name = f"{source} model: accuracy under {attack}, eps {config.eps:g}"
            table.append(common.row(name, None, values, "%"))
    return table


EXPERIMENT = common.Experiment(
    name="features_not_bugs/nonrobust_dataset",
    item="P3 tables 1, 9 and 10: accuracy learnt from relabelled adversarial examples",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "25 minutes on 2 CPU cores",
        "planted": "3 minutes",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

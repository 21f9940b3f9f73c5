"""P1 figures 5 and 9: logit metamers of a ResNet, approximate, beside exact ones of an invertible net.

A ResNet and a fully invertible RevNet are trained with cross-entropy. The inverse of the RevNet gives exact metamers.
Metamers of the ResNet need a search. It starts from the image whose content they keep and moves towards the logits of
another image, with values in [0, 1]. The same search on the RevNet shows which errors are due to the search.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers
from invjax import figures
from invjax.analysis import reading
from invjax.attacks import feature_adversary, metamers
from invjax.data import as_float
from invjax.evaluation import over_batches

WAYS = {"fi-RevNet": ("inverse", "inverse, clipped to [0, 1]", "search"), "ResNet": ("search",)}
"""How the metamers of each network are made; the first way is drawn."""


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    channels: tuple[int, ...] = (16, 32, 64)  # Channels of the stages of the ResNet; each stage has one block.
    resnet_epochs: int = 2  # Number of passes of the ResNet over the training set.
    resnet_learning_rate: float = 3e-3  # Learning rate of Adam for the ResNet, with the same warm-up and decay.
    pairs: int = 128  # Number of metamers that are measured.
    eps: float = 8.0  # Radius of the search in l2; two MNIST digits are about 10 apart.
    steps: int = 400  # Number of gradient steps of the search.
    tolerance: float = 0.05  # Largest difference of a logit for an image to count as a metamer.
    columns: int = common.for_figures(8)  # Number of metamers in figure 5, and in a row of figure 9.


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(4, 64, 4e-3), (0,), channels=(8,), resnet_epochs=4,
        pairs=16, eps=4.0, steps=40, columns=4,
    ),
    "paper": Config(
        blocks=(16, 16), train=common.Train(50, 128, 4e-3), channels=(64, 128, 256, 512), resnet_epochs=20, pairs=1024,
        steps=1000,
    ),
}  # fmt: skip


@partial(jax.jit, static_argnums=(0, 1))
def searched(config, apply_fn, params, first, second):
    """Images in [0, 1], searched from `second`, whose logits are close to those of `first`."""
    logits_fn = partial(apply_fn, params)
    options = {"eps": config.eps, "steps": config.steps, "tolerance": config.tolerance}
    return feature_adversary(logits_fn, second, logits_fn(first), **options).x


def trial(config: Config, data, *, net, seed, folder):
    (train, test), made = data, {}
    ids = classifiers.pair_up(test.labels, config.pairs)
    first, second = (common.images_of(test, of) for of in ids)
    if net == "fi-RevNet":
        model = config.model
        apply_fn: Any = model.apply
        params = classifiers.train(config, "CE", train, seed=seed, folder=folder)
        made["inverse"] = np.asarray(jax.jit(partial(metamers, model))(params, first, second))
        made["inverse, clipped to [0, 1]"] = made["inverse"].clip(0, 1)
    else:
        settings = common.Train(config.resnet_epochs, config.train.batch_size, config.resnet_learning_rate)
        resnet = common.network("ResNet", stages=config.channels)
        apply_fn = resnet.apply
        params = classifiers.train_network(resnet, net, train, settings, seed=seed, folder=folder)
    search, logits_fn = partial(searched, config, apply_fn, params), partial(jax.jit(apply_fn), params)
    made["search"] = over_batches(search, [first, second], batch_size=64, mesh=config.mesh)
    wanted, before = np.asarray(logits_fn(first)), np.asarray(logits_fn(second))
    clean = over_batches(lambda images: logits_fn(as_float(images, test.levels)), [test.images], mesh=config.mesh)
    apart = float(np.median(np.abs(before - wanted).max(1)))
    numbers: dict[str, Any] = {"test_error": reading(clean, test.labels).error, "apart": apart}
    for way, images in made.items():
        errors = np.abs(np.asarray(logits_fn(images)) - wanted).max(1)
        numbers[way] = {
            "median": float(np.median(errors)),
            "largest": float(errors.max()),
            "within": float((errors <= config.tolerance).mean()),
            "distance": float(np.sqrt(((images - second) ** 2).sum((1, 2, 3))).mean()),
        }
    drawn = made[WAYS[net][0]]
    arrays = {"logits_from": first, "metamers": drawn, "nuisance_from": second, "logits": wanted}
    return numbers, arrays | {"metamer_logits": np.asarray(logits_fn(drawn)), "classes": test.labels[ids[1]]}


def table(config: Config, results):
    of = f"{config.pairs} pairs of test images of different classes"
    setups = {
        "inverse": f"published as exact; {of}",
        "inverse, clipped to [0, 1]": "clipping gives up exactness",
        "search": f"published without number; {config.steps} steps in l2, eps {config.eps:g}, values in [0, 1]",
    }
    for at in results.each("net"):
        for way in WAYS[at.net]:
            who = f"{at.net}, {way}"
            for of_all in ("median", "largest"):
                yield common.row(f"{who}: logit error of a metamer, {of_all}", at[way, of_all], "", setups[way])
            yield common.percent(f"{who}: metamers with all logits within {config.tolerance:g}", at[way, "within"])
            yield common.row(f"{who}: l2 distance from the nuisance source, mean", at[way, "distance"])
    for at in results.each("net"):
        yield common.row(f"{at.net}: logit difference of the two images, median", at["apart"], "", of)
        yield common.percent(f"{at.net}: test error", at["test_error"])


def draw(config: Config, results):
    """Figure 5 for both networks, and figure 9: the next metamers, without a selection."""
    n, charts = config.columns, {}
    for net, way in (("fi-RevNet", "exact metamers, by the inverse"), ("ResNet", "approximate metamers, by a search")):
        arrays, about = results.select(net=net).arrays(), f"{config.data.dataset}, {net}"
        classes = arrays.pop("classes")
        shown = {name: of[:n] for name, of in arrays.items()}
        charts[f"metamers-{net.lower()}"] = figures.metamer_grid(**shown, title=f"{about}: {way}")
        start = n if len(classes) > 2 * n else 0
        rows, captions = {}, {}
        for i in range(min(8, (len(classes) - start) // n)):
            of, name = slice(start + i * n, start + (i + 1) * n), f"{1 + i * n}–{(i + 1) * n}"
            rows[name], decisions = arrays["metamers"][of], arrays["metamer_logits"][of].argmax(1)
            captions[name] = [f"{label} → {k}" for label, k in zip(classes[of], decisions, strict=True)]
        title = f"{about}: a batch of metamers, none left out; class of the nuisance image → decision"
        charts[f"batch-{net.lower()}"] = figures.image_grid(rows, title, captions=captions)
    return charts


EXPERIMENT = common.experiment(__name__, "14 minutes on 2 CPU cores", net=WAYS)

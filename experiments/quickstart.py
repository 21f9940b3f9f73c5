"""Both failures of one classifier in two minutes, on scikit-learn's digits, no download.

A fully invertible classifier is trained on the 1,797 handwritten digits that scikit-learn ships, enlarged to 32x32, so
that nothing is downloaded. It is too sensitive: a change that hardly shows flips its prediction. It is too invariant:
an image of another digit has exactly the same logits. A second network, trained apart, stands in for people: it says
which digit the images show.

The loss is cross-entropy and a tenth of the bits per dimension, and the first layer is the logit of the pixel values.
Without these two the metamers of the classifier leave the range of pixel values and look like noise.
"""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from invjax import figures
from invjax.attacks import distances, linf, metamers, pgd, smallest
from invjax.bijectors import logit_box
from invjax.data import Dataset, load
from invjax.evaluation import over_batches
from invjax.losses import bits_per_dim, cross_entropy, dequantize
from invjax.models import fi_revnet
from invjax.training import data_mesh
from invjax.types import LossFn, Params


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: Literal["digits"] = "digits"  # Data set of the images; the only one is digits.
    size: int = 32  # Side to which the images are enlarged, in pixels.
    blocks: tuple[int, int] = (4, 4)  # Number of coupling blocks of each level of the invertible classifier.
    train: common.Train = common.Train(epochs=16, batch_size=64, learning_rate=4e-3)  # Training of both networks.
    bits_weight: float = 0.1  # Weight of the bits per dimension in the loss.
    attack_steps: int = 10  # Number of steps of PGD.
    largest: float = 0.2  # Largest linf radius of the search for the smallest adversarial change.
    images: int = 100  # Number of test images that are attacked and made into metamers.
    rows: int = common.for_figures(3)  # Number of rows in the figure, at most 10.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one copy of both networks.


PRESETS = {
    "smoke": Config(
        size=16, blocks=(1, 1), train=common.Train(2, 64, 4e-3), attack_steps=2, images=16, rows=2, seeds=(0,)
    )
}


def datasets(config: Config):
    """The training and the test set of digits, enlarged by cubic interpolation."""

    def enlarged(data):
        shape = len(data.labels), config.size, config.size, 1
        larger = jax.image.resize(jnp.asarray(common.images_of(data)), shape, "cubic")
        images = np.asarray((255 * larger.clip(0, 1)).round().astype(jnp.uint8))
        return Dataset(images, np.asarray(data.labels), 10)

    return tuple(enlarged(load("digits", split)) for split in ("train", "test"))


@cache
def networks(config: Config) -> dict[str, Any]:
    """The fully invertible RevNet behind the logit of the pixel values, and the network that says what images show."""
    shape = config.size, config.size, 1
    classifier = fi_revnet(shape, 10, config.blocks, ((32,), (64,)), entry=logit_box())
    return {"classifier": classifier, "witness": common.network("CNN", channels=(8, 16), dense=64)}


@cache  # one object for all seeds, whose step is compiled once
def loss_of(config: Config, kind: str) -> LossFn:
    model = networks(config)[kind]
    if kind == "witness":
        return common.plain_loss(model.apply, prepare=dequantize)

    def loss_fn(params, key, batch, step):
        code, logdet = model.encode(params, dequantize(key, batch[0]))
        bits = bits_per_dim(code, logdet).mean()
        return cross_entropy(code.logits, batch[1]).mean() + config.bits_weight * bits, {"bits": bits}

    return loss_fn


def trained(config: Config, kind: str, data: Dataset, seed: int, folder: Path) -> Params:
    init_key, noise_key, key = common.split_key(seed, 3)
    first = dequantize(noise_key, jnp.asarray(common.images_of(data, 512)))
    return common.trained(networks(config)[kind], loss_of(config, kind), data, config.train, seed=seed, start=first,
                          folder=folder / kind, keys=(init_key, key), optimizer=common.adam_warm_up)  # fmt: skip


def partners(labels: np.ndarray, count: int) -> np.ndarray:
    """For each of the first images, the index of the next image of another class."""
    after = [(i + np.arange(1, len(labels))) % len(labels) for i in range(count)]
    return np.array([order[np.argmax(labels[order] != labels[i])] for i, order in enumerate(after)])


def trial(config: Config, data, *, seed, folder):
    (train, test), (model, witness) = data, networks(config).values()
    params = trained(config, "classifier", train, seed, folder)
    seen_by = trained(config, "witness", train, seed + 1000, folder)
    logits_of, shows = partial(jax.jit(model.apply), params), partial(jax.jit(witness.apply), seen_by)
    (x, labels), mesh, few = common.arrays_of(test), data_mesh(), config.images
    clean = over_batches(logits_of, [x], mesh=mesh)

    @jax.jit
    def attacked(params, x, y, ids):
        attack = smallest(pgd(linf(), steps=config.attack_steps), steps=10)
        found = attack(jax.random.key(seed), partial(model.apply, params), x, y, eps=config.largest, ids=ids)
        return found.x, distances(found)

    changed, radius = over_batches(
        partial(attacked, params), [x[:few], labels[:few], np.arange(few, dtype=np.uint32)], few, mesh
    )
    other = partners(labels, few)
    made = np.asarray(jax.jit(partial(metamers, model))(params, x[:few], x[other]))
    again = np.asarray(logits_of(made))
    seen = over_batches(shows, [made], mesh=mesh).argmax(1)
    right = clean[:few].argmax(1) == labels[:few]
    flips = right & np.isfinite(radius)
    numbers = {
        "error": float((clean.argmax(1) != labels).mean()),
        "witness_error": float((over_batches(shows, [x], mesh=mesh).argmax(1) != labels).mean()),
        "radius": float(np.median(np.where(right, radius, 0))),
        "still_shows": float((over_batches(shows, [changed], mesh=mesh).argmax(1) == labels[:few])[flips].mean()),
        "flips": float(flips.sum() / right.sum()),
        "largest_difference": float(np.abs(again - clean[:few]).max()),
        "lowest": float(made.min()),
        "highest": float(made.max()),
        "shows_other": float((seen == labels[other]).mean()),
        "shows_own": float((seen == labels[:few]).mean()),
    }
    # of each class the first image whose prediction is right and flips
    first = [np.flatnonzero(flips & (labels[:few] == k))[:1] for k in range(10)]
    shown = np.sort(np.concatenate(first))
    arrays = {
        "image": x[shown],
        "changed": changed[shown],
        "metamer": made[shown],
        "image_logits": clean[shown],
        "changed_logits": np.asarray(logits_of(changed[shown])),
        "metamer_logits": again[shown],
    }
    return numbers, {name: np.asarray(value, np.float32) for name, value in arrays.items()}


def draw(config: Config, results):
    arrays = results.arrays(config.rows)
    largest = np.abs(arrays["changed"] - arrays["image"]).max()
    exact = np.abs(arrays["metamer_logits"] - arrays["image_logits"]).max()
    columns = {
        "an image": ("image", "image_logits"),
        f"changed by at most {largest:.3f} a pixel:\nanother prediction": ("changed", "changed_logits"),
        f"another digit: the same logits,\nlargest difference {exact:.0e}": ("metamer", "metamer_logits"),
    }
    shown = {title: (arrays[images], arrays[logits]) for title, (images, logits) in columns.items()}
    title = "One classifier is too sensitive (middle) and too invariant (right)"
    return {"both-failures": figures.logit_bars(shown, title)}


ROWS = (  # what is measured, its key, its unit, and the factor to this unit
    ("metamers: largest difference of a logit", "largest_difference", "", 1),
    ("metamers: another network sees the digit that gives the nuisance", "shows_other", "%", 100),
    ("metamers: another network sees the digit that gives the logits", "shows_own", "%", 100),
    ("metamers: smallest pixel value", "lowest", "", 1),
    ("metamers: largest pixel value", "highest", "", 1),
    ("smallest adversarial change, median in linf", "radius", "", 1),
    ("predictions that flip within the largest radius", "flips", "%", 100),
    ("flipped images: another network still sees the right digit", "still_shows", "%", 100),
    ("test error of the classifier", "error", "%", 100),
    ("test error of the other network", "witness_error", "%", 100),
)


def table(config: Config, results):
    return [common.row(name, factor * results[key], unit) for name, key, unit, factor in ROWS]


EXPERIMENT = common.experiment(__name__, "two minutes on 2 CPU cores")

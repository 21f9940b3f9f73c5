"""P1 lemmas 9 and 10, theorem 6 and figure 6: information about the class in logits and nuisance, and a shift.

On random tables p(y, z_s, z_n) the experiment computes every term exactly. It also trains a fully invertible RevNet on
binary shiftMNIST with cross-entropy (CE) or independence cross-entropy (iCE). Fresh classifiers then give lower bounds
of I(y; z_s) and I(y; z_n) under the training distribution D, and under D_Adv, where the code of the class is removed.
"""

import dataclasses
import math
from itertools import product
from typing import Any, Literal

import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers, information_tables
from experiments.excessive_invariance.classifiers import LOSSES
from experiments.excessive_invariance.information_tables import DISTRIBUTIONS
from invjax import figures
from invjax.analysis import fresh_head, reading
from invjax.data import Dataset, binary_shift
from invjax.models import mlp, mnist_cnn

PARTS = {"z_s": "I(y; z_s), logits", "z_n": "I(y; z_n), nuisance"}


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    ice: common.Flat[classifiers.Ice] = classifiers.ICE  # Independence cross-entropy.
    tables: int = 2000  # Number of random tables on which the lemmas and the theorem are computed, for each seed.
    shift: Literal["removed", "random"] = "removed"
    """What D_Adv does to the code of the class: remove it, as published, or replace it by that of a random class."""
    head_epochs: int = 2  # Number of passes over the training set for each fresh classifier.
    head_hidden: tuple[int, ...] = (512, 512)  # Widths of the hidden layers of the fresh MLP.


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(6, 64, 4e-3), (0,),
        ice=classifiers.Ice(critic_hidden=(32,)), tables=20, head_epochs=10, head_hidden=(32,),
    ),
    "default": Config(
        common.Data(train_size=10_000), train=common.Train(6, 128, 4e-3), ice=classifiers.Ice(nuisance_weight=0.6)
    ),
    "paper": Config(
        blocks=(16, 16), train=common.Train(50, 128, 4e-3), ice=classifiers.Ice(nuisance_weight=1.0), tables=20_000,
        head_epochs=20,
    ),
}  # fmt: skip


def estimates(config: Config, loss: str, seed: int, params: Any, splits: list[Dataset]) -> dict[str, float]:
    """The error of the model on one distribution, and the best bounds of fresh classifiers, which are at least 0."""
    model, key = config.model, classifiers.keys_for(loss, seed)[2]
    codes = [classifiers.codes_of(config, params, split) for split in splits]
    logits, nuisance = ([np.asarray(code[part]) for code in codes] for part in (0, 1))
    pictures = [classifiers.nuisance_pictures(config, params, values) for values in nuisance]
    own = reading(logits[1], splits[1].labels)
    found = {"error": own.error, "z_s": max(0.0, own.information), "z_n": 0.0}
    fully_connected = mlp(model.num_classes, config.head_hidden)
    for part, head, net, features in (
        ("z_s", "MLP", fully_connected, logits),
        ("z_n", "MLP", fully_connected, nuisance),
        ("z_n", "conv", mnist_cnn(model.num_classes, (8, 16), 128), pictures),
    ):
        examples = [(x, split.labels) for x, split in zip(features, splits, strict=True)]
        options: Any = {"epochs": config.head_epochs, "mesh": config.mesh, "description": f"{head} head on {part}"}
        read = fresh_head(key, net, *examples, **options)
        found[part] = max(found[part], read["test"].information)
    return found


def trial(config: Config, data, *, arm, seed, folder):
    if arm == "tables":
        return {"found": information_tables.over_tables(seed, config.tables)}
    variants = [
        [binary_shift(split, variant, seed=2 * seed + i) for i, split in enumerate(data)]
        for variant in ("coded", config.shift)
    ]
    params = classifiers.train(config, arm, variants[0][0], seed=seed, folder=folder)
    named = zip(DISTRIBUTIONS, variants, strict=True)
    return {name: estimates(config, arm, seed, params, splits) for name, splits in named}


def table(config: Config, results):
    about = f"binary shift {config.data.dataset}, code {config.shift}, the best head's lower bound"
    places = [(name, results.select(arm=loss), f"{loss}, {name}") for name in DISTRIBUTIONS for loss in LOSSES]
    for (name, at, place), part in product(places, PARTS):
        row, setup = f"{place}: I(y; {part}) is at least", f"figure 6 is a drawing; {about}"
        yield common.row(row, at[name, part], "nats of 2.303", setup)
    for name, at, place in places:
        yield common.percent(f"{place}: test error of the logits", at[name, "error"])
    yield from information_tables.rows(results.select(arm="tables")["found"], config.tables)


def draw(config: Config, results):

    def measured(loss, name):
        return {part: results.select(arm=loss)[name, part] for part in PARTS}

    def exact(loss, name):
        return {part: [value] for part, value in information_tables.bars(loss, name).items()}

    def chart(bars, gone, title):
        panels = {
            f"{name}, the code is {code}": {
                loss: {PARTS[part]: values for part, values in bars(loss, name).items()} for loss in LOSSES
            }
            for name, code in zip(DISTRIBUTIONS, ("there", gone), strict=True)
        }
        return figures.bar_panels(panels, "nats", title, (math.log(10), "H(y)"))

    gone = "gone" if config.shift == "removed" else "random"
    title = f"shift {config.data.dataset}: what fresh classifiers read of the class, a lower bound of the information"
    return {
        "information-measured": chart(measured, gone, title),
        "information-tables": chart(exact, "gone", "in tables: a code of the class, and a shape that tells it too"),
    }


EXPERIMENT = common.experiment(__name__, "14 minutes on 2 busy CPU cores", arm=("tables", *LOSSES))

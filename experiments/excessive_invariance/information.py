"""Information about the class in logits and nuisance, exact on small tables and estimated on trained models: lemmas 9
and 10, theorem 6 and figure 6 of the paper.

    python -m experiments.excessive_invariance.information [smoke|default|paper] [--dataset digits|mnist]

On random tables p(y, z_s, z_n) the experiment computes every term exactly. It also trains a fully invertible RevNet on
binary shiftMNIST with cross-entropy (CE) or independence cross-entropy (iCE). Fresh classifiers then give lower bounds
of I(y; z_s) and I(y; z_n) under the training distribution D, and under D_Adv, where the code of the class is removed.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers
from invjax import figures
from invjax.analysis import fresh_head, reading
from invjax.data import Dataset, binary_shift
from invjax.models import mlp, mnist_cnn
from invjax.theory.information import (
    exclusive_or,
    independent_nuisance,
    mutual_information,
    posterior,
    premises,
    shift_information,
    tightened,
    variational_bound,
)

Y, S, N = 0, 1, 2
DISTRIBUTIONS, PARTS = ("D", "D_Adv"), ("z_s", "z_n")
BARS = {"z_s": "I(y; z_s), logits", "z_n": "I(y; z_n), nuisance"}
NATS = "nats of 2.303"


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    """Settings of the information experiment."""

    tables: int = 2000
    """Number of random tables on which the lemmas and the theorem are computed."""
    shift: Literal["removed", "random"] = "removed"
    """What D_Adv does to the code of the class: remove it, as published, or replace it by that of a random class."""
    head_epochs: int = 2
    """Number of passes over the training set for each fresh classifier."""
    head_hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers of the fresh MLP."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=256,
        blocks=(1, 1),
        epochs=6,
        batch_size=64,
        critic_hidden=(32,),
        head_epochs=10,
        head_hidden=(32,),
        tables=20,
        seeds=(0,),
    ),
    "default": Config(train_size=10_000, epochs=6, nuisance_weight=0.6),
    "paper": Config(epochs=50, head_epochs=20, blocks=(16, 16), nuisance_weight=1.0, tables=20_000),
}


# Tables


def random_joint(rng: np.random.Generator) -> np.ndarray:
    """`p(y, z_s, z_n)` of random sizes, from nearly uniform to concentrated in a few cells."""
    shape = rng.integers(2, 6, 3)
    return rng.dirichlet(np.full(shape.prod(), 10 ** rng.uniform(-1, 1))).reshape(shape)


def random_conditional(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A distribution over the first axis for each cell of the others."""
    cells = rng.dirichlet(np.full(shape[0], 10 ** rng.uniform(-0.5, 1)), math.prod(shape[1:]))
    return cells.T.reshape(shape)


def lemmas(rng: np.random.Generator) -> dict[str, float]:
    """Lemmas 9 and 10 and the chain rule on one random table and one random classifier."""
    p = random_joint(rng)
    q = random_conditional(rng, p.shape)
    information = mutual_information(p, Y, (S, N))
    bounds = [variational_bound(p, q)]
    for _ in range(20):
        q = tightened(p, q, steps=1)
        bounds.append(variational_bound(p, q))
    renamed, read = p[:, rng.permutation(p.shape[S])], posterior(p)
    return {
        "bound plus gap": max(abs(b.value + b.gap - information) for b in bounds),
        "excess": max(b.value - information for b in bounds),
        "posterior": abs(variational_bound(p, read).value - information),
        "fall": -float(np.diff([b.value for b in bounds]).min()),
        "untrained": bounds[0].value,
        "trained": bounds[-1].value,
        "information": information,
        "renamed bound": variational_bound(renamed, read).value - information,
        "renamed information": abs(mutual_information(renamed, Y, (S, N)) - information),
        "chain rule": abs(mutual_information(p, Y, N) + mutual_information(p, Y, S, given=N) - information),
    }


def theorem(rng: np.random.Generator) -> dict[str, float]:
    """Theorem 6 on a table that meets the sufficient condition, and on one that meets its first two premises."""
    y, s, n = rng.integers(2, 6, 3)

    def sufficient():
        return independent_nuisance(
            random_conditional(rng, (y,)), random_conditional(rng, (s, y)), random_conditional(rng, (n,))
        )

    met = shift_information(sufficient(), sufficient())
    p_yn = random_conditional(rng, (y,))[:, None, None] * random_conditional(rng, (n,))[None, None]
    p = p_yn * np.moveaxis(random_conditional(rng, (s, y, n)), 0, 1)
    free = shift_information(p, p)
    return {
        "premises": float(all(premises(met)) and premises(free)[:2] == (True, True)),
        "sufficient": abs(met.semantic - met.everything),
        "equivalence": abs((free.everything - free.semantic) - (free.conditional - free.semantic)),
        "fails": float(free.everything - free.semantic > 1e-9),
        "short": free.everything - free.semantic,
    }


def schematic(classes: int = 10, noise: float = 0.05) -> dict[str, dict[str, np.ndarray]]:
    """Figure 6 in tables. An image has a code, which is the class, and a shape, which is the class with some noise.

    The logits of CE have the code only. The logits of iCE have both, and its nuisance is an independent coin. Under
    D_Adv the code is the same for all images.

    Returns:
        `{loss: {distribution: p(y, z_s, z_n)}}`.
    """
    uniform, same = np.full(classes, 1 / classes), np.eye(classes)
    codes = {"D": same, "D_Adv": np.repeat(same[:, :1], classes, 1)}  # p(code | y)
    shape = (1 - noise) * same + noise / classes
    coin = np.array([0.5, 0.5])
    ce = {name: np.einsum("y,sy,ny->ysn", uniform, code, shape) for name, code in codes.items()}
    ice = {}
    for name, code in codes.items():
        both = np.einsum("cy,hy->chy", code, shape).reshape(classes**2, classes)
        ice[name] = independent_nuisance(uniform, both, coin)
    return {"CE": ce, "iCE": ice}


def drawn_bars(p: np.ndarray) -> dict[str, list[float]]:
    """`{part: [information about y]}`; values below zero, which come from rounding, are set to zero."""
    return {part: [max(0.0, mutual_information(p, Y, axis))] for part, axis in zip(PARTS, (S, N), strict=True)}


def exact(config: Config) -> tuple[dict[str, Any], dict]:
    """All quantities that are computed on tables."""
    rng = np.random.default_rng(0)
    numbers: dict[str, Any] = {"classes": 10}
    for name, sample in (("lemmas", lemmas), ("theorem", theorem)):
        drawn = [sample(rng) for _ in range(config.tables)]
        values = {key: np.array([d[key] for d in drawn]) for key in drawn[0]}
        numbers[name] = {
            key: {"mean": float(v.mean()), "max": float(v.max()), "min": float(v.min())} for key, v in values.items()
        }
    numbers["xor"] = shift_information(exclusive_or(), exclusive_or())._asdict()
    drawings = schematic()
    numbers["schematic"] = {
        name: {loss: drawn_bars(drawings[loss][name]) for loss in classifiers.LOSSES} for name in DISTRIBUTIONS
    }
    numbers["schematic theorem"] = {
        loss: shift_information(by_name["D"], by_name["D_Adv"])._asdict() for loss, by_name in drawings.items()
    }
    return numbers, {}


# Trained models


def estimates(
    config: Config, loss: str, seed: int, params: Any, train: Dataset, test: Dataset, name: str
) -> dict[str, Any]:
    """The readings of fresh classifiers from logits and nuisance on one distribution, and the error of the model."""
    mesh, key = classifiers.mesh_for(config), classifiers.keys_for(loss, seed)[2]
    model = classifiers.model_for(config, save_memory=False)
    codes = [classifiers.codes_of(model, params, split, mesh) for split in (train, test)]
    logits = [np.asarray(code.logits) for code in codes]
    nuisance = [np.asarray(code.nuisance) for code in codes]
    pictures = [classifiers.nuisance_pictures(model, params, values, mesh) for values in nuisance]
    classes = model.num_classes
    heads = {
        "z_s": {"MLP": (mlp(classes, config.head_hidden), logits)},
        "z_n": {
            "MLP": (mlp(classes, config.head_hidden), nuisance),
            "conv": (mnist_cnn(classes, (8, 16), 128), pictures),
        },
    }
    own = reading(logits[1], test.labels)
    found: dict[str, Any] = {"error": own.error, "z_s": {"the softmax": own._asdict()}, "z_n": {}}
    for part, by_head in heads.items():
        for head, (net, features) in by_head.items():
            read = fresh_head(
                key,
                net,
                (features[0], train.labels),
                (features[1], test.labels),
                epochs=config.head_epochs,
                mesh=mesh,
                description=f"{loss}, seed {seed}, {name}: {head} head on {part}",
            )
            found[part][head] = read["test"]._asdict()
    return found


def one_model(config: Config, loss: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train with one loss and one seed on images with the code, then read logits and nuisance under D and D_Adv."""

    def splits(variant: str) -> tuple[Dataset, Dataset]:
        return binary_shift(data[0], variant, seed=2 * seed), binary_shift(data[1], variant, seed=2 * seed + 1)

    variants = dict(zip(DISTRIBUTIONS, ("coded", config.shift), strict=True))
    params = classifiers.train(config, loss, seed, splits("coded")[0], folder)
    numbers = {
        name: estimates(config, loss, seed, params, *splits(variant), name) for name, variant in variants.items()
    }
    return numbers, {}


def best(found: dict[str, dict[str, float]]) -> float:
    """The bound of the best head, at least 0."""
    return max(0.0, *(head["information"] for head in found.values()))


def run(config: Config, folder: Path) -> list[common.Row]:
    """Compute the tables, train all models, draw figure 6 twice, and return the table."""
    tables, _ = common.stage(folder / "tables", partial(exact, config))
    data = classifiers.datasets(config)
    numbers: dict[str, list[dict]] = {loss: [] for loss in classifiers.LOSSES}
    for loss in classifiers.LOSSES:
        for seed in config.seeds:
            place = folder / f"{loss.lower()}-seed{seed}"
            numbers[loss].append(common.stage(place, partial(one_model, config, loss, seed, data, place))[0])
    measured = {
        name: {
            loss: {BARS[part]: [best(n[name][part]) for n in numbers[loss]] for part in PARTS}
            for loss in classifiers.LOSSES
        }
        for name in DISTRIBUTIONS
    }
    drawn = {
        name: {loss: {BARS[part]: values for part, values in by_part.items()} for loss, by_part in by_loss.items()}
        for name, by_loss in tables["schematic"].items()
    }
    for name, bars, about in (
        ("information-measured", measured, f"shift {config.dataset}: what fresh classifiers read, a lower bound"),
        ("information-tables", drawn, "in tables: a code of the class, and a shape that tells it too"),
    ):
        titled = {f"{key}, the code is {what}": bars[key] for key, what in zip(bars, ("there", "gone"), strict=True)}
        if name == "information-measured" and config.shift == "random":
            titled = {key.replace("gone", "random"): value for key, value in titled.items()}
        chart = figures.bar_panels(titled, "nats", about, (math.log(10), "H(y)"))
        figures.save(chart, folder / "figures" / f"{name}.png")
    return measured_rows(config, numbers, measured) + exact_rows(config, tables)


def measured_rows(config: Config, numbers: dict[str, list[dict]], measured: dict) -> list[common.Row]:
    """The numbers of figure 6, and the errors of the models."""
    setup = f"figure 6 is a drawing; binary shift {config.dataset}, code {config.shift}, the best head's lower bound"
    table = []
    for name in DISTRIBUTIONS:
        for loss in classifiers.LOSSES:
            for part in PARTS:
                values = measured[name][loss][BARS[part]]
                table.append(common.row(f"{loss}, {name}: I(y; {part}) is at least", None, values, NATS, setup))
    for name in DISTRIBUTIONS:
        for loss in classifiers.LOSSES:
            errors = [100 * n[name]["error"] for n in numbers[loss]]
            table.append(common.row(f"{loss}, {name}: test error of the logits", None, errors, "%"))
    return table


def exact_rows(config: Config, tables: dict[str, Any]) -> list[common.Row]:
    """The rows of the tables: violations are zero up to rounding, and the counter-example is log 2 against 0."""
    lemma, theorem_6, xor = tables["lemmas"], tables["theorem"], tables["xor"]
    drawn = tables["schematic theorem"]["iCE"]
    of = f"{config.tables} random tables"
    lines = [
        (
            f"lemma 9: bound + gap against I(y; z), largest difference on {of}",
            lemma["bound plus gap"]["max"],
            "as published",
        ),
        ("lemma 9: bound - I(y; z), largest", lemma["excess"]["max"], "as published"),
        (
            "lemma 9: bound of the posterior against I(y; z), largest difference",
            lemma["posterior"]["max"],
            "as published",
        ),
        ("lemma 10: fall of the bound in a training step of q, largest", lemma["fall"]["max"], "as published"),
        ("lemma 10: bound of a random q, mean", lemma["untrained"]["mean"], ""),
        ("lemma 10: bound after 20 steps of q, mean", lemma["trained"]["mean"], ""),
        ("lemma 10: I(y; z), mean", lemma["information"]["mean"], ""),
        (
            "lemma 10: change of the bound when z_s is renamed and q is not trained again, mean",
            lemma["renamed bound"]["mean"],
            "the model's minimum lowers information only at the inner maximum",
        ),
        ("lemma 10: change of the information by that, largest", lemma["renamed information"]["max"], ""),
        ("chain rule of I(y; z_s, z_n): violation, largest", lemma["chain rule"]["max"], ""),
        (
            "theorem 6, z_n independent of y and, y given, of z_s: I_Adv(y; z_s) against I_Adv(y; x), "
            "largest difference",
            theorem_6["sufficient"]["max"],
            "a condition that can be used",
        ),
        (
            "theorem 6, z_n independent of y alone: excess of the third premise against shortfall of the conclusion, "
            "largest difference",
            theorem_6["equivalence"]["max"],
            "the third premise is the conclusion",
        ),
        (
            "theorem 6 without its third premise: I_Adv(y; x) - I_Adv(y; z_s), mean",
            theorem_6["short"]["mean"],
            "the first version had no third premise; it fails on "
            f"{100 * theorem_6['fails']['mean']:.4g} % of tables with z_n independent of y",
        ),
        ("exclusive or: I(y; z_n)", xor["nuisance"], "the first two premises hold"),
        ("exclusive or: I(y; z_s)", xor["semantic"], "what the first version concludes to be I(y; x)"),
        ("exclusive or: I(y; x)", xor["everything"], "log 2 = 0.693"),
        ("schematic, iCE: I_Adv(y; z_s)", drawn["semantic"], "tables, see the second figure"),
        ("schematic, iCE: I_Adv(y; x)", drawn["everything"], "tables, see the second figure"),
    ]
    return [common.row(name, None, [value], "nats", differs) for name, value, differs in lines]


EXPERIMENT = common.Experiment(
    name="excessive_invariance/information",
    item="P1 lemmas 9 and 10, theorem 6 and figure 6: information about the class in logits and nuisance, and a shift",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "14 minutes on 2 busy CPU cores",
        "paper": "an accelerator, not run yet",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

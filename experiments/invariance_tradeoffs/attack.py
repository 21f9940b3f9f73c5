"""P4 algorithm 1, figures 4 and 5, table 1: invariance attacks in l0 and linf, judged by a simulated human.

The attack moves every digit towards an aligned digit of another class, within linf balls and by as few pixels as
possible, and a judge says whether it shows that digit. The 100 test digits of the paper come first, then others. The
judge also votes on the published examples. The table shows where it differs from people, because success by the judge
is not success by people. A witness, which is a network trained on other images without a vote, classifies the accepted
images.
"""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import judges, published
from invjax import attacks, figures
from invjax.data import Dataset, HumanLabelled, as_float, human_labelled
from invjax.evaluation import wilson
from invjax.types import LogitsFn

SHOWN = 8  # number of images in a figure

PAPER, OTHERS = "the paper's images", "other images"
IMAGES, JUDGE = judges.Data(), judges.Settings()


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[judges.Data] = IMAGES  # The images.
    train: common.Train = common.Train(epochs=4, batch_size=64, learning_rate=2e-3)
    """Training of the voters and of the witness by Adam."""
    judge: common.Flat[judges.Settings] = JUDGE  # The judge.
    epsilons: tuple[float, ...] = common.axis((0.3, 0.4))  # Radii of the attacks in linf.
    others: int = 200  # Number of further test images; the first ones that are not among the 100 of the paper.
    chunk: int = 100  # Number of images that are attacked together; a run that is killed loses the current ones only.
    rotation: float = 30.0  # Largest rotation in the search for neighbours, in degrees; a step is a fifteenth of it.
    l0_rotations: int = 9  # Number of angles in the search for l0, from -20 to 20 degrees.
    l0_scales: tuple[float, ...] = (0.85, 1.0, 1.15)  # Scale factors in the search for l0.
    regions: int = 6  # Number of connected regions of the l0 attack, which tries 2^regions subsets.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one judge.


PRESETS = {
    "smoke": Config(
        judges.Data("digits", train_size=300), common.Train(6, 64, 1e-2), judges.Settings(("MLP",), components=10),
        others=8, chunk=4, rotation=15.0, l0_rotations=3, l0_scales=(1.0,), regions=3, seeds=(0,),
    ),
    "paper": Config(judges.Data(train_size=20_000), common.Train(20, 64, 2e-3), others=900),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, so that functions of it can be cached
class Inputs:
    """Images of the voters, witness and bank; test images; examples that people labelled; test images to attack."""

    parts: tuple[Dataset, Dataset, Dataset]
    test: Dataset
    human: dict[str, HumanLabelled]
    ids: np.ndarray


def datasets(config: Config):
    """Load the data, and choose the images to attack."""
    train, test = config.data.load()
    voters, witness, bank = (judges.part(train, config.data.train_size, number) for number in range(3))
    human = human_labelled(config.data.data_dir) if config.data.dataset == "mnist" else {}
    return Inputs((voters, witness, bank), test, human, queries(config.others, test, human))


def trials(config: Config):
    names = ("none", *(f"linf {eps:g}" for eps in config.epsilons), "l0")
    return common.grid(attack=names, seed=config.seeds)


def queries(others: int, test: Dataset, human: dict[str, HumanLabelled]) -> np.ndarray:
    """Positions in the test set: those of the paper if its data are available, then others."""
    paper = human["l0"].ids.astype(int) if human else np.zeros(0, int)
    return np.concatenate([paper, np.setdiff1d(np.arange(len(test.labels)), paper)[:others]])


@cache
def judge_of(config: Config, data: Inputs, seed: int, shared: Path) -> tuple[dict[str, LogitsFn], Any, LogitsFn]:
    voters, witness = judges.trained(config.judge, config.train, data.parts[:2], seed, shared)
    return voters, jax.jit(attacks.judge(list(voters.values()), agreement=config.judge.agreement)), witness


@cache
def bank_of(config: Config, data: Inputs, norm: str) -> tuple[attacks.ReferenceBank, np.ndarray]:
    """The bank of images for neighbours, and the transforms of the search."""
    bank = data.parts[2]
    pixel = bank.images.shape[1] / 28  # shifts are in units of images with 28 x 28 pixels
    most, angles, scale = (
        (config.rotation, 31, (1.0,)) if norm == "linf" else (20, config.l0_rotations, config.l0_scales)
    )
    shift = tuple(pixel * value for value in (-3, -1.5, 0, 1.5, 3))
    transforms = attacks.affine_grid(rotation=np.linspace(-most, most, angles), shift=shift, scale=scale)
    return attacks.reference_bank(common.images_of(bank), bank.labels, norm=norm), transforms


def attacked(config: Config, data: Inputs, attack: str, ids: np.ndarray, seed: int, shared: Path) -> tuple[dict, dict]:
    norm, _, eps = attack.partition(" ")
    x, labels = common.images_of(data.test, ids), data.test.labels[ids]
    start = (x > 0.5).astype(np.float32) if norm == "l0" else x  # black and white images for l0, as published

    def search() -> tuple[dict, dict]:
        bank, grid = bank_of(config, data, norm)
        return {}, attacks.aligned_neighbours(start, labels, bank, transforms=grid)._asdict()

    # all judges and radii use the same neighbours
    near = attacks.Neighbours(**common.stage(shared / f"neighbours-{norm}-from-{ids[0]}", search)[1])
    voters, ask, witness = judge_of(config, data, seed, shared)
    if norm == "l0":
        found = attacks.l0_invariance(start, near, judge=ask, regions=config.regions)
    else:
        found = attacks.linf_invariance(start, near, eps=float(eps), judge=ask)
    chosen = np.arange(len(x)), found.neighbour
    return {}, {
        **found._asdict(),
        "start": start,
        "labels": labels,
        "original": common.images_of(data.parts[2], near.ids[chosen]),
        "aligned": near.images[chosen],
        "witness": np.asarray(witness(jnp.asarray(found.x))).argmax(1),
        "votes": judges.votes_for(voters, found.x, found.target),
    }


def trial(config: Config, data, *, attack, seed, folder, shared):
    """Attack all images; without an attack, compare the judge with clean labels and with people."""
    if attack == "none":
        _, ask, _ = judge_of(config, data, seed, shared)
        images, labels = data.test.images[:2000], data.test.labels[:2000]
        seen = np.asarray(ask(jnp.asarray(as_float(images, data.test.levels))))
        clean = {"silent": float((seen < 0).mean()), "wrong": float(((seen >= 0) & (seen != labels)).mean())}
        calibration = {name: judges.calibration(ask, of_set) for name, of_set in data.human.items()}
        people = {name: float(of_set.changed.mean()) for name, of_set in data.human.items()}
        return {"clean": clean, "calibration": calibration, "people": people}
    chunks = []
    for start in range(0, len(data.ids), config.chunk):
        some = data.ids[start : start + config.chunk]
        compute = partial(attacked, config, data, attack, some, seed, shared)
        chunks.append(common.stage(folder / f"images-{start:05d}", compute)[1])
    arrays = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    paper = len(data.human["l0"].ids) if data.human else 0
    return {PAPER: counts(arrays, slice(0, paper)), OTHERS: counts(arrays, slice(paper, None))}, arrays


def counts(arrays: dict[str, np.ndarray], rows: slice) -> dict[str, Any]:
    """Success by the judge, and of the successes the median distance and how often the witness sees the new class."""
    some = {name: values[rows] for name, values in arrays.items()}
    hits, agrees = some["success"], some["witness"] == some["target"]
    distance, witness = (
        float(of(values[hits])) if hits.any() else None
        for of, values in ((np.median, some["distance"]), (np.mean, agrees))
    )
    return {"images": len(hits), "hits": int(hits.sum()), "distance": distance, "witness": witness}


def draw(config: Config, results):
    charts, voters = {}, len(config.judge.voters) + 1
    for at in results.each("attack"):
        if at.attack == "none":
            continue
        found = at.arrays()
        accepted, refused = (np.flatnonzero(found["success"] == how)[:SHOWN] for how in (True, False))
        rows = {"image": found["start"], "neighbour": found["original"], "aligned": found["aligned"],
                "difference": np.abs(found["aligned"] - found["start"]), "result": found["x"]}  # fmt: skip
        for kind, chosen, stages, title in (
            ("stages", accepted if accepted.size else refused, tuple(rows), "from an image to an aligned neighbour"),
            ("accepted", accepted, ("image", "result"), "the judge sees another digit than before"),
            ("refused", refused, ("image", "result"), "the judge does not see the digit of the neighbour"),
        ):
            if not chosen.size:
                continue
            seen = zip(*(found[name][chosen] for name in ("labels", "target", "votes")), strict=True)
            captions = {"result": [f"{label} → {new},\n{votes} of {voters} votes" for label, new, votes in seen]}
            shown, name = {stage: rows[stage][chosen] for stage in stages}, f"{kind}-{at.attack.replace(' ', '-')}"
            charts[name] = figures.image_grid(shown, f"{config.data.dataset}, {at.attack}: {title}", 0.85, captions)
    return charts


def table(config: Config, results):
    for at in results.each("attack"):
        for group in (PAPER, OTHERS) if at.attack != "none" else ():
            images, hits = int(at[group, "images"][0]), at[group, "hits"]
            if not images:
                continue
            low, high = wilson(int(hits[0]), images)
            about = f"{images} images, one seed's 95 % interval {100 * low:.0f} to {100 * high:.0f}; by the judge"
            known = published.ATTACK_SUCCESS.get(at.attack) if group == PAPER else None
            yield common.percent(f"{at.attack}, {group}: success", hits / images, about, published=known)
            pixels, witness = ([v for v in at[group, key] if v is not None] for key in ("distance", "witness"))
            if pixels and at.attack == "l0":
                name, known = f"l0, {group}: median of pixels changed, of successes", published.ATTACK_PIXELS
                yield common.row(name, pixels, "pixels", published=known if group == PAPER else None)
            if witness:
                yield common.percent(f"{at.attack}, {group}: successes in which the witness sees that class", witness)
    judged = results.select(attack="none")
    for what in ("silent", "wrong"):
        yield common.percent(f"the judge on 2,000 clean images: {what}", judged["clean", what])
    for name, people in judged["people"][0].items():
        for what in judged["calibration", name][0]:
            found = judged["calibration", name, what]
            if None in found:
                continue
            by_people = what == "sees another class"
            about = f"one seed's 95 % interval {100 * found[0][1]:.0f} to {100 * found[0][2]:.0f}"
            about += "; published: by people" if by_people else ""
            row, known = f"released examples, {name}: the judge {what}", 100 * people if by_people else None
            yield common.percent(row, [fraction for fraction, _, _ in found], about, published=known)


EXPERIMENT = common.experiment(__name__, "20 minutes beside other work")

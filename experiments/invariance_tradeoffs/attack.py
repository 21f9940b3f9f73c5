"""Automatic invariance attacks: algorithm 1, figures 4 and 5, table 1.

    python -m experiments.invariance_tradeoffs.attack [smoke|default|paper] [--dataset digits|mnist]

The attack moves every digit towards an aligned digit of another class, within linf balls and by as few pixels as
possible, and a judge says whether it shows that digit. The 100 test digits of the paper come first, then others. The
judge also votes on the published examples. The table shows where it differs from people, because success by the judge
is not success by people. A witness, which is a network trained on other images without a vote, classifies the accepted
images.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.intriguing_properties.networks import images_of
from experiments.invariance_tradeoffs import judges
from invjax import figures
from invjax.attacks import (
    InvarianceExamples,
    Judge,
    ReferenceBank,
    affine_grid,
    aligned_neighbours,
    l0_invariance,
    linf_invariance,
    reference_bank,
)
from invjax.data import Dataset, HumanLabelled, human_labelled, load
from invjax.evaluation import wilson
from invjax.types import LogitsFn

PUBLISHED = {"l0": 55, "linf 0.3": 21, "linf 0.4": 37}
"""Success rates by people in % of the automatic attacks; that of the hand-made examples at linf 0.4 is 88."""

PUBLISHED_PIXELS = 25
"""Median number of pixels that the l0 attack changed."""

SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Config(judges.Settings):
    """Settings of the attacks."""

    epsilons: tuple[float, ...] = (0.3, 0.4)
    """Radii of the attacks in linf."""
    others: int = 200
    """Number of further test images; the first ones that are not among the 100 of the paper."""
    chunk: int = 100
    """Number of images that are attacked together; a run that is killed loses the current ones only."""
    rotation: float = 30.0
    """Largest rotation in the search for neighbours, in degrees; a step is a fifteenth of it."""
    l0_rotations: int = 9
    """Number of angles in the search for l0, from -20 to 20 degrees."""
    l0_scales: tuple[float, ...] = (0.85, 1.0, 1.15)
    """Scale factors in the search for l0."""
    regions: int = 6
    """Number of connected regions of the l0 attack, which tries 2^regions subsets."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one judge."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=400,
        epochs=20,
        voters=("small CNN", "MLP"),
        components=20,
        others=8,
        chunk=8,
        rotation=15.0,
        l0_rotations=3,
        l0_scales=(1.0,),
        regions=3,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(train_size=20_000, epochs=20, others=900),
}


def queries(config: Config, test: Dataset, human: dict[str, HumanLabelled] | None) -> np.ndarray:
    """Positions in the test set: those of the paper if its data are available, then others."""
    paper = np.zeros(0, int) if human is None else human["l0"].ids.astype(int)
    rest = np.setdiff1d(np.arange(len(test.labels)), paper)[: config.others]
    return np.concatenate([paper, rest])


def banks(config: Config, data: Dataset) -> dict[str, tuple[ReferenceBank, np.ndarray]]:
    """By norm, the bank of images for neighbours, and the transforms of the search."""
    rest = judges.part(data, config, 2)
    pixel = data.images.shape[1] / 28  # shifts are in units of images with 28 x 28 pixels
    shift = tuple(pixel * value for value in (-3, -1.5, 0, 1.5, 3))
    grids = {
        "linf": affine_grid(rotation=np.linspace(-config.rotation, config.rotation, 31), shift=shift),
        "l0": affine_grid(rotation=np.linspace(-20, 20, config.l0_rotations), shift=shift, scale=config.l0_scales),
    }
    return {norm: (reference_bank(images_of(rest), rest.labels, norm=norm), grid) for norm, grid in grids.items()}


def one_chunk(config: Config, test: Dataset, ids: np.ndarray, of_norm: Any, ask: Judge, witness: LogitsFn) -> tuple:
    """Attack some images; by attack, the results and the predictions of the witness."""
    chosen = test._replace(images=test.images[ids], labels=test.labels[ids])
    x, labels = images_of(chosen), chosen.labels
    arrays: dict[str, np.ndarray] = {"x": x, "labels": labels}

    def keep(name: str, found: InvarianceExamples, aligned: np.ndarray, original: np.ndarray):
        arrays.update({f"{name}/{field}": value for field, value in found._asdict().items() if value is not None})
        arrays[f"{name}/aligned"], arrays[f"{name}/original"] = aligned, original
        arrays[f"{name}/witness"] = np.asarray(witness(jnp.asarray(found.x))).argmax(1)

    rows = np.arange(len(x))
    for norm, (bank, grid) in of_norm.items():
        # black and white images for l0, as published
        start = (x > 0.5).astype(np.float32) if norm == "l0" else x
        near = aligned_neighbours(start, labels, bank, transforms=grid)
        if norm == "l0":
            attacks = {"l0": partial(l0_invariance, start, near, judge=ask, regions=config.regions)}
        else:
            attacks = {
                f"linf {eps:g}": partial(linf_invariance, start, near, eps=eps, judge=ask) for eps in config.epsilons
            }
        for name, attack in attacks.items():
            found = attack()
            original = bank.images[near.ids[rows, found.neighbour]]
            keep(name, found, near.images[rows, found.neighbour], original)
    return {"names": [name[:-2] for name in arrays if name.endswith("/x")]}, arrays


def one_judge(config: Config, seed: int, data: tuple[Dataset, Dataset], human: Any, folder: Path) -> tuple:
    """Train a judge, calibrate it, attack all images."""
    train, test = data
    voters, witness = judges.trained(config, train, seed, folder)
    ask = judges.decided(config, voters)
    ids = queries(config, test, human)
    of_norm = banks(config, train)
    chunks = []
    for start in range(0, len(ids), config.chunk):
        some = ids[start : start + config.chunk]
        place = folder / f"images-{start:05d}"
        numbers, arrays = common.stage(place, partial(one_chunk, config, test, some, of_norm, ask, witness))
        chunks.append(arrays)
    together = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    seen = np.asarray(ask(jnp.asarray(images_of(test._replace(images=test.images[:2000])))))
    clean = {"silent": float((seen < 0).mean()), "wrong": float(((seen >= 0) & (seen != test.labels[:2000])).mean())}
    calibration = None if human is None else judges.calibration(ask, human)
    return {"clean": clean, "calibration": calibration, "attacks": numbers["names"]}, together


def run(config: Config, folder: Path) -> list[common.Row]:
    """Attack, draw the stages and the examples, and return the table."""
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    judges.part(train, config, 2)
    human = human_labelled(config.data_dir) if config.dataset == "mnist" else None
    results = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        results.append(common.stage(place, partial(one_judge, config, seed, (train, test), human, place)))
    draw(results[0][1], results[0][0]["attacks"], config.dataset, folder / "figures")
    return rows(config, results, 0 if human is None else len(human["l0"].ids))


def draw(arrays: dict[str, np.ndarray], attacks: list[str], dataset: str, folder: Path) -> None:
    """Draw the stages of each attack, ten examples that the judge accepts, and ten that it rejects."""
    for name in attacks:
        field = {key: arrays[f"{name}/{key}"] for key in ("x", "success", "aligned", "original")}
        start = (arrays["x"] > 0.5).astype(np.float32) if name == "l0" else arrays["x"]
        accepted, refused = (np.flatnonzero(field["success"] == how)[:SHOWN] for how in (True, False))
        stages = {
            "image": start,
            "neighbour": field["original"],
            "aligned": field["aligned"],
            "difference": np.abs(field["aligned"] - start),
            "result": field["x"],
        }
        title = f"{dataset}, {name}: from an image to one of another class"
        some = accepted if accepted.size else refused
        chart = figures.image_grid({key: images[some] for key, images in stages.items()}, title)
        figures.save(chart, folder / f"stages-{name.replace(' ', '-')}.png")
        for what, chosen in (("accepted", accepted), ("refused", refused)):
            if chosen.size:
                pair = {"image": start[chosen], "result": field["x"][chosen]}
                chart = figures.image_grid(pair, f"{dataset}, {name}: {what} by the judge")
                figures.save(chart, folder / f"{what}-{name.replace(' ', '-')}.png")


def rows(config: Config, results: list[tuple[dict, dict]], paper: int) -> list[common.Row]:
    """The table: success by the judge on the images of the paper and on others, and the judge compared with people."""
    table = []
    groups = {"the paper's images": slice(0, paper), "other images": slice(paper, None)}
    for name in results[0][0]["attacks"]:
        for group, part in groups.items():
            success = [arrays[f"{name}/success"][part] for _, arrays in results]
            if not success[0].size:
                continue
            low, high = wilson(int(success[0].sum()), success[0].size)
            known = group == "the paper's images"
            published = PUBLISHED.get(name) if known else None
            about = (
                f"{success[0].size} images, one seed's 95 % interval {100 * low:.0f} to {100 * high:.0f}; by the judge"
            )
            table.append(
                common.row(f"{name}, {group}: success", published, [100 * s.mean() for s in success], "%", about)
            )
            if name == "l0":
                pixels = [
                    float(np.median(a["l0/distance"][part][s]))
                    for (_, a), s in zip(results, success, strict=True)
                    if s.any()
                ]
                if pixels:
                    table.append(
                        common.row(
                            f"l0, {group}: median of pixels changed, of successes",
                            PUBLISHED_PIXELS if known else None,
                            pixels,
                            "pixels",
                        )
                    )
            agrees = [
                100 * float((a[f"{name}/witness"][part] == a[f"{name}/target"][part])[s].mean())
                for (_, a), s in zip(results, success, strict=True)
                if s.any()
            ]
            if agrees:
                table.append(
                    common.row(f"{name}, {group}: successes in which the witness sees that class", None, agrees, "%")
                )
    for what in ("silent", "wrong"):
        values = [100 * numbers["clean"][what] for numbers, _ in results]
        table.append(common.row(f"the judge on 2,000 clean images: {what}", None, values, "%"))
    return table + ([] if results[0][0]["calibration"] is None else calibration_rows(results))


def calibration_rows(results: list[tuple[dict, dict]]) -> list[common.Row]:
    """The judge on the published examples, compared with the people who labelled them."""
    table = []
    for name, first in results[0][0]["calibration"].items():
        for what in ("changed", "agrees", "agrees where changed", "right where it says changed", "silent"):
            found = [numbers["calibration"][name][what] for numbers, _ in results]
            if any(each is None for each in found):
                continue
            published = 100 * first["people"] if what == "changed" else None
            about = f"one seed's 95 % interval {100 * found[0][1]:.0f} to {100 * found[0][2]:.0f}"
            about += "; published: by people" if what == "changed" else ""
            table.append(
                common.row(
                    f"released examples, {name}: the judge {WORDS[what]}",
                    published,
                    [100 * each[0] for each in found],
                    "%",
                    about,
                )
            )
    return table


WORDS = {
    "changed": "sees another class",
    "agrees": "sees what people see",
    "agrees where changed": "sees what people see, where that is another class",
    "right where it says changed": "is right where it sees another class",
    "silent": "says nothing",
}

EXPERIMENT = common.Experiment(
    name="invariance_tradeoffs/attack",
    item="P4 algorithm 1, figures 4 and 5, table 1: invariance attacks in l0 and linf, judged by a simulated human",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "20 minutes beside other work", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

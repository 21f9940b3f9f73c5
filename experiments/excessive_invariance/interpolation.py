"""From an image to its metamer at constant logits, by interpolation of the nuisance: figure 7 of the paper.

    python -m experiments.excessive_invariance.interpolation [smoke|default|paper] [--dataset digits|mnist|cifar10]

For each seed, the experiment trains a fully invertible RevNet with cross-entropy (CE) and with independence
cross-entropy (iCE). It also trains a network behind one coupling, and `models.gaussianize` then removes the class from
its nuisance. The interpolation goes from the nuisance of an image a to that of an image b of another class and keeps
the logits of a. A judge, which is an independent network trained with cross-entropy, says which of the two classes it
sees. The judge gets images clipped to [0, 1], as a person sees them on a screen.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import common
from experiments.excessive_invariance import classifiers, nuisance_classifier
from invjax import figures
from invjax.attacks import interpolate
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.models import InvertibleClassifier, gaussianize, mnist_cnn
from invjax.types import LogitsFn, Net, Params

ARMS = (*classifiers.LOSSES, "iCE in closed form")
CLAIMS = {"CE": "b", "iCE": "a", "iCE in closed form": "a"}
"""The image whose class the metamers show in the paper's figure 7."""
VERDICTS = {"a": "the class of a (logits)", "b": "the class of b (nuisance)", "neither": "neither"}
KEPT = 10
"""Number of pairs that are kept for the figure."""


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    """Settings of the interpolation."""

    ice: common.Flat[classifiers.Ice] = classifiers.ICE
    """Independence cross-entropy."""
    steps: int = 11
    """Number of points from a to b, both ends included."""
    pairs: int = 500
    """Number of pairs of test images of different classes that are judged."""
    rounds: int = 3
    """Rounds of whitening and marginals in closed form; 0 is whitening alone, for digits."""
    judge_channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the judge, and of the network behind one coupling."""
    judge_dense: int = 128
    """Width of the hidden dense layer of both."""
    judge_epochs: int = 2
    """Number of passes of both over the training set."""
    columns: int = common.for_figures(8)
    """Number of pairs in the figure, at most 10."""


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(1, 64, 4e-3),
        ice=classifiers.Ice(critic_hidden=(32,)), steps=3, pairs=8, rounds=0, judge_channels=(8,), judge_dense=16,
        judge_epochs=4, columns=4, seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        blocks=(16, 16), train=common.Train(50, 128, 4e-3), pairs=5000,
        judge_channels=(32, 64), judge_dense=1024, judge_epochs=20,
    ),
}  # fmt: skip


@cache
def judge_for(channels: tuple[int, ...], dense: int) -> Net:
    """The network of Madry et al. 2018."""
    return mnist_cnn(10, channels, dense)


def judge(config: Config, settings: common.Train, seed: int, train: Dataset, folder: Path) -> LogitsFn:
    """The judge, trained with cross-entropy."""
    net = judge_for(config.judge_channels, config.judge_dense)
    init_key, key = jax.random.split(classifiers.keys_for("judge", seed)[0])
    start = net.init(init_key, jnp.asarray(as_float(train.images[:1], train.levels)))
    loss = classifiers.ce_loss(net.apply, train.levels, False)
    params = common.train(start, loss, train[:2], settings, key=key, seed=seed, folder=folder, description="judge")
    return partial(jax.jit(net.apply), params)


def coupled(
    config: Config, settings: common.Train, seed: int, train: Dataset, folder: Path, mesh: Mesh
) -> tuple[InvertibleClassifier, Params]:
    """A network like the judge behind one coupling, with its nuisance made Gaussian for each decision."""
    network = nuisance_classifier.Config(channels=config.judge_channels, dense=config.judge_dense, shift=0)
    model, (init_key, key) = nuisance_classifier.model_for(network, train.images.shape[1:]), common.split_key(seed)
    start = jax.jit(model.init)(init_key, jnp.asarray(as_float(train.images[:8], train.levels)))
    loss = nuisance_classifier.loss_of(network, model, train.levels)
    params = common.train(start, loss, train[:2], settings, key=key, seed=seed, folder=folder, description="network")
    noisy = classifiers.noisy(train, 100 + seed)
    return gaussianize(jax.random.key(seed), model, params, noisy, rounds=config.rounds, mesh=mesh)


def walk(
    steps: int, model: InvertibleClassifier, params: Params, first: np.ndarray, second: np.ndarray, mesh: Mesh
) -> tuple[np.ndarray, float]:
    """Images `[steps, pairs, H, W, C]` from a to its metamer, and the largest change of a logit between them."""
    t = np.linspace(0, 1, steps, dtype=np.float32)

    @jax.jit
    def measure(params, a, b):
        path = interpolate(model, params, a, b, t)
        logits = model.apply(params, path.reshape(-1, *a.shape[1:])).reshape(*path.shape[:2], -1)
        return jnp.moveaxis(path, 0, 1), jnp.abs(logits - model.apply(params, a)[None]).max((0, 2))

    path, change = over_batches(partial(measure, params), [first, second], batch_size=50, mesh=mesh)
    return np.moveaxis(path, 1, 0), float(change.max())


def trial(
    config: Config, data: tuple[Dataset, Dataset], *, arm: str, seed: int, folder: Path, shared: Path
) -> tuple[dict, dict]:
    """Train the judge and a model, and judge the interpolation of every pair."""
    (train, test), mesh = data, common.mesh_for(config.train.batch_size)
    images = classifiers.noisy(test, seed)  # as in training
    small = common.Train(config.judge_epochs, config.train.batch_size, 2e-3)
    see = judge(config, small, seed, train, shared / f"judge-seed{seed}")
    if arm in classifiers.LOSSES:
        model, ice = classifiers.model_for(config.data.dataset, config.blocks), config.ice if arm == "iCE" else None
        params = classifiers.train(model, train, config.train, ice, seed=seed, folder=folder)
    else:
        model, params = coupled(config, small, seed, train, folder, mesh)

    def error_of(logits_fn):
        return float((over_batches(logits_fn, [images], mesh=mesh).argmax(-1) != test.labels).mean())

    first, second = classifiers.pair_up(test.labels, config.pairs)
    path, logit_error = walk(config.steps, model, params, images[first], images[second], mesh)
    seen = np.stack([over_batches(see, [np.clip(x, 0, 1)], mesh=mesh).argmax(-1) for x in path])
    is_a, is_b = (seen == test.labels[ids][None] for ids in (first, second))
    numbers = {
        "a": is_a.mean(1).tolist(),
        "b": is_b.mean(1).tolist(),
        "neither": (~is_a & ~is_b).mean(1).tolist(),
        "logit_error": logit_error,
        "clipped": float(np.abs(path[-1] - np.clip(path[-1], 0, 1)).mean()),
        "test_error": error_of(partial(jax.jit(model.apply), params)),
        "judge_error": error_of(see),
    }
    return numbers, {"path": path[:, :KEPT], "seen": seen[:, :KEPT], "b": images[second[:KEPT]]}


def table(config: Config, results: common.Results) -> Iterator[common.Row]:
    """The curves at their middle and end, and the checks of the interpolation."""
    setup, middle = f"{config.train.epochs} epochs; the figure is published without numbers", config.steps // 2
    for at in results.each("arm"):
        for point, t in ((middle, f"{middle / (config.steps - 1):.2g}"), (-1, "1, the metamers")):
            for which in ("a", "b"):
                name = f"{at.arm}: judged to be {VERDICTS[which]}, t = {t}"
                yield common.percent(name, None, [fractions[point] for fractions in at[which]], setup)
    for at in results.each("arm"):
        yield common.percent(f"{at.arm}: test error of the logits", None, at["test_error"])
        yield common.row(f"{at.arm}: max change of a logit on the way, float32", None, at["logit_error"], "")
        name = f"{at.arm}: mean change of the metamers' pixels by clipping them for the judge"
        yield common.row(name, None, at["clipped"], "of [0, 1]")
    yield common.percent("judge: test error", None, results.select(arm=ARMS[0])["judge_error"])


def draw(config: Config, results: common.Results) -> dict[str, Any]:
    """Figure 7 for each arm, and what the judge sees on the way."""
    charts, dataset, t = {}, config.data.dataset, np.linspace(0, 1, config.steps)
    rows = {f"t = {t[i]:.2g}": i for i in np.linspace(0, config.steps - 1, 6).round().astype(int)}
    for at in results.each("arm"):
        path, b, seen = (at.arrays()[name] for name in ("path", "b", "seen"))
        images = {name: path[i, : config.columns] for name, i in rows.items()} | {"b": b[: config.columns]}
        captions = {name: [str(label) for label in seen[i, : config.columns]] for name, i in rows.items()}
        of_a, of_b = (100 * np.mean(at[which], 0)[-1] for which in ("a", "b"))
        reverse = (of_b > of_a) != (CLAIMS[at.arm] == "b")
        title = (
            f"{dataset}, {at.arm}: logits of a, nuisance from a to b. A caption is the class that a judge sees: "
            f"at t = 1 that of a in {of_a:.3g} %, of b in {of_b:.3g} %"
            + (", the reverse of the paper's figure 7" if reverse else "")
        )
        name = f"interpolation-{at.arm.lower().replace(' ', '-')}"
        charts[name] = figures.image_grid(images, title, 0.9, captions)
    panels = {at.arm: {what: np.array(at[which]) for which, what in VERDICTS.items()} for at in results.each("arm")}
    title = f"{dataset}: what an independent network sees; mean and range of all seeds"
    chart = figures.curves(t, panels, "t, from the nuisance of a to that of b", "images judged to be", title)
    return {**charts, "judged": chart}


EXPERIMENT = common.Experiment(
    "excessive_invariance/interpolation",
    "P1 figure 7: interpolation of the nuisance at constant logits, and what an independent network sees",
    PRESETS,
    {"smoke": "half a minute", "default": "33 minutes on 2 busy CPU cores", "paper": "an accelerator, not run yet"},
    trials=lambda config: common.grid(arm=ARMS, seed=config.seeds),
    trial=trial, table=table, figures=draw,
)  # fmt: skip


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

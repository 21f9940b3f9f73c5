"""P1 figure 7: interpolation of the nuisance at constant logits, and what an independent network sees.

For each seed, the experiment trains a fully invertible RevNet with cross-entropy (CE) and with independence
cross-entropy (iCE). It also trains a network behind one coupling, and `models.gaussianize` then removes the class from
its nuisance. The interpolation goes from the nuisance of an image a to that of an image b of another class and keeps
the logits of a. A judge, which is an independent network trained with cross-entropy, says which of the two classes it
sees. The judge gets images clipped to [0, 1], as a person sees them on a screen.
"""

import dataclasses
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers, nuisance_classifier
from invjax import figures
from invjax.attacks import interpolate
from invjax.evaluation import over_batches
from invjax.models import gaussianize

ARMS = (*classifiers.LOSSES, "iCE in closed form")
CLAIMS = {"CE": "b", "iCE": "a", "iCE in closed form": "a"}
"""The image whose class the metamers show in the paper's figure 7."""
VERDICTS = {"a": "the class of a (logits)", "b": "the class of b (nuisance)", "neither": "neither"}
KEPT = 10  # number of pairs that are kept for the figure


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    ice: common.Flat[classifiers.Ice] = classifiers.ICE  # Independence cross-entropy.
    steps: int = 11  # Number of points from a to b, both ends included.
    pairs: int = 500  # Number of pairs of test images of different classes that are judged.
    rounds: int = 3  # Rounds of whitening and marginals in closed form; 0 is whitening alone, for digits.
    judge_channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the judge, and of the network behind one coupling."""
    judge_dense: int = 128  # Width of the hidden dense layer of both.
    judge_epochs: int = 2  # Number of passes of both over the training set.
    columns: int = common.for_figures(8)  # Number of pairs in the figure, at most 10.


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(1, 64, 4e-3),
        ice=classifiers.Ice(critic_hidden=(32,)), steps=3, pairs=8, rounds=0, judge_channels=(8,), judge_dense=16,
        judge_epochs=4, columns=4, seeds=(0,),
    ),
    "paper": Config(
        blocks=(16, 16), train=common.Train(50, 128, 4e-3), pairs=5000,
        judge_channels=(32, 64), judge_dense=1024, judge_epochs=20,
    ),
}  # fmt: skip


def judge(config: Config, settings: common.Train, train, seed, folder):
    net = common.network("CNN", channels=config.judge_channels, dense=config.judge_dense)
    keys = jax.random.split(classifiers.keys_for("judge", seed)[0])
    loss_fn = common.plain_loss(net.apply)
    params = common.trained(net, loss_fn, train, settings, seed=seed, folder=folder, keys=keys)
    return partial(jax.jit(net.apply), params)


def coupled(config: Config, settings: common.Train, train, seed, folder):
    """A network like the judge behind one coupling, with its nuisance made Gaussian for each decision."""
    network = nuisance_classifier.Config(
        channels=config.judge_channels, dense=config.judge_dense, train=settings, shift=0
    )
    model, params = nuisance_classifier.trained(network, train, seed, folder)
    noisy = classifiers.noisy(train, 100 + seed)
    return gaussianize(jax.random.key(seed), model, params, noisy, rounds=config.rounds, mesh=config.mesh)


def walk(config: Config, model, params, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, float]:
    """Images `[steps, pairs, H, W, C]` from a to its metamer, and the largest change of a logit between them."""
    t = np.linspace(0, 1, config.steps, dtype=np.float32)

    @jax.jit
    def measure(params, a, b):
        path = interpolate(model, params, a, b, t)
        logits = model.apply(params, path.reshape(-1, *a.shape[1:])).reshape(*path.shape[:2], -1)
        return jnp.moveaxis(path, 0, 1), jnp.abs(logits - model.apply(params, a)[None]).max((0, 2))

    path, change = over_batches(partial(measure, params), [first, second], batch_size=50, mesh=config.mesh)
    return np.moveaxis(path, 1, 0), float(change.max())


def trial(config: Config, data, *, arm, seed, folder, shared):
    train, test = data
    images = classifiers.noisy(test, seed)  # as in training
    small = common.Train(config.judge_epochs, config.train.batch_size, 2e-3)
    see = judge(config, small, train, seed, shared / f"judge-seed{seed}")
    if arm in classifiers.LOSSES:
        model, params = config.model, classifiers.train(config, arm, train, seed=seed, folder=folder)
    else:
        model, params = coupled(config, small, train, seed, folder)
    decide = partial(over_batches, mesh=config.mesh)

    def error_of(logits_fn):
        return float((decide(logits_fn, [images]).argmax(-1) != test.labels).mean())

    first, second = classifiers.pair_up(test.labels, config.pairs)
    path, logit_error = walk(config, model, params, images[first], images[second])
    seen = np.stack([decide(see, [np.clip(x, 0, 1)]).argmax(-1) for x in path])
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


def table(config: Config, results):
    setup, middle = f"{config.train.epochs} epochs; the figure is published without numbers", config.steps // 2
    points = ((middle, f"{middle / (config.steps - 1):.2g}"), (-1, "1, the metamers"))
    for at, (point, t), which in product(results.each("arm"), points, ("a", "b")):
        yield common.percent(f"{at.arm}: judged to be {VERDICTS[which]}, t = {t}", at[which][:, point], setup)
    for at in results.each("arm"):
        yield common.percent(f"{at.arm}: test error of the logits", at["test_error"])
        yield common.row(f"{at.arm}: max change of a logit on the way, float32", at["logit_error"])
        name = f"{at.arm}: mean change of the metamers' pixels by clipping them for the judge"
        yield common.row(name, at["clipped"], "of [0, 1]")
    yield common.percent("judge: test error", results.select(arm=ARMS[0])["judge_error"])


def draw(config: Config, results):
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
    panels = {at.arm: {what: at[which] for which, what in VERDICTS.items()} for at in results.each("arm")}
    title = f"{dataset}: what an independent network sees; mean and range of all seeds"
    chart = figures.curves(t, panels, "t, from the nuisance of a to that of b", "images judged to be", title)
    return {**charts, "judged": chart}


EXPERIMENT = common.experiment(__name__, "33 minutes on 2 busy CPU cores", arm=ARMS)

"""From an image to its metamer at constant logits, by interpolation of the nuisance: figure 7 of the paper.

    python -m experiments.excessive_invariance.interpolation [smoke|default|paper] [--dataset digits|mnist|cifar10]

For each seed, the experiment trains a fully invertible RevNet with cross-entropy (CE) and with independence
cross-entropy (iCE). It also trains a network behind one coupling, and `models.gaussianize` then removes the class from
its nuisance. The interpolation goes from the nuisance of an image a to that of an image b of another class and keeps
the logits of a. A judge, which is an independent network trained with cross-entropy, says which of the two classes it
sees. The judge gets images clipped to [0, 1], as a person sees them on a screen.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.excessive_invariance import classifiers, nuisance_classifier
from experiments.excessive_invariance.metamers import pair_up
from invjax import figures
from invjax.attacks import interpolate
from invjax.data import Dataset, as_float, batches
from invjax.evaluation import over_batches
from invjax.losses import cross_entropy, error_rate
from invjax.models import InvertibleClassifier, coupled_classifier, gaussianize, mnist_cnn
from invjax.training import fit, init_state, make_train_step
from invjax.types import ApplyFn, Params

ARMS = (*classifiers.LOSSES, "iCE in closed form")
VERDICTS = {"a": "the class of a (logits)", "b": "the class of b (nuisance)", "neither": "neither"}


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    """Settings of the interpolation."""

    steps: int = 11
    """Number of points from a to b, both ends included."""
    pairs: int = 500
    """Number of pairs of test images of different classes that are judged."""
    rounds: int = 3
    """Rounds of whitening and marginals in closed form; 0 is whitening alone, for digits."""
    columns: int = 10
    """Number of pairs in the figure."""
    judge_channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the judge."""
    judge_dense: int = 128
    """Width of the hidden dense layer of the judge."""
    judge_epochs: int = 2
    """Number of passes of the judge over the training set."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=256,
        epochs=1,
        batch_size=64,
        critic_hidden=(32,),
        steps=3,
        pairs=8,
        rounds=0,
        columns=3,
        judge_channels=(8,),
        judge_dense=16,
        judge_epochs=4,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(epochs=50, blocks=(16, 16), pairs=5000, judge_channels=(32, 64), judge_dense=1024, judge_epochs=20),
}


def judge(config: Config, seed: int, train: Dataset, folder: Path) -> tuple[ApplyFn, Params]:
    """The network of Madry et al. 2018, trained with cross-entropy and Adam, with a decay to zero."""
    net = mnist_cnn(10, config.judge_channels, config.judge_dense)
    num_steps = config.judge_epochs * (len(train.labels) // config.batch_size)

    def loss_fn(params, key, batch, step):
        logits = net.apply(params, as_float(batch[0], train.levels))
        return cross_entropy(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    init_key, run_key = jax.random.split(classifiers.keys_for("judge", seed)[0])
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))
    params = net.init(init_key, jnp.asarray(as_float(train.images[:1], train.levels)))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        make_train_step(loss_fn, optimizer),
        batches([train.images, train.labels], config.batch_size, seed),
        num_steps,
        mesh=classifiers.mesh_for(config),
        directory=folder,
        description=f"judge, seed {seed}",
    )
    return net.apply, state.params


def one_seed(config: Config, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train the judge and both models, and judge the interpolation of every pair."""
    train, test = data
    mesh = classifiers.mesh_for(config)
    images = classifiers.noisy(test, seed)  # as in training
    apply_fn, params = judge(config, seed, train, folder / "judge")
    see = jax.jit(partial(apply_fn, params))
    model = classifiers.model_for(config, save_memory=False)
    first, second = pair_up(test.labels, min(config.pairs, len(test.labels)))

    def error_of(apply_fn, params):
        logits = over_batches(partial(jax.jit(apply_fn), params), [images], mesh=mesh)
        return float((logits.argmax(-1) != test.labels).mean())

    numbers: dict[str, Any] = {"judge_error": error_of(apply_fn, params)}
    arrays = {"second": images[second[: config.columns]]}
    trained = {
        loss: (model, classifiers.train(config, loss, seed, train, folder / loss.lower()))
        for loss in classifiers.LOSSES
    }
    trained[ARMS[-1]] = closed_form(config, seed, train, folder / "closed-form")
    for arm, (network, weights) in trained.items():
        path, logit_error = walk(config, network, weights, images[first], images[second])
        seen = np.stack([over_batches(see, [np.clip(x, 0, 1)], mesh=mesh).argmax(-1) for x in path])
        a, b = (seen == test.labels[ids][None] for ids in (first, second))
        numbers[arm] = {
            "a": a.mean(1).tolist(),
            "b": b.mean(1).tolist(),
            "neither": (~a & ~b).mean(1).tolist(),
            "logit_error": logit_error,
            "clipped": float(np.abs(path[-1] - np.clip(path[-1], 0, 1)).mean()),
            "test_error": error_of(network.apply, weights),
        }
        arrays[arm] = path[:, : config.columns]
    return numbers, arrays


def closed_form(config: Config, seed: int, train: Dataset, folder: Path) -> tuple[InvertibleClassifier, Params]:
    """A network like the judge behind one coupling, with its nuisance made Gaussian for each decision."""
    settings = nuisance_classifier.Config(
        channels=config.judge_channels,
        dense=config.judge_dense,
        epochs=config.judge_epochs,
        batch_size=config.batch_size,
        shift=0,
    )
    shape = classifiers.model_for(config).shape
    model = coupled_classifier(lambda outputs: mnist_cnn(outputs, config.judge_channels, config.judge_dense), shape, 10)
    params = nuisance_classifier.train(settings, model, train, seed, folder)
    fit_to = classifiers.noisy(train, 100 + seed)
    return gaussianize(
        jax.random.key(seed), model, params, fit_to, rounds=config.rounds, mesh=classifiers.mesh_for(config)
    )


def walk(
    config: Config, model: InvertibleClassifier, params: Params, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, float]:
    """Images `[steps, pairs, H, W, C]` from a to its metamer, and the largest change of a logit between them."""
    t = np.linspace(0, 1, config.steps, dtype=np.float32)

    @jax.jit
    def measure(params, a, b):
        path = interpolate(model, params, a, b, t)
        logits = model.apply(params, path.reshape(-1, *a.shape[1:])).reshape(*path.shape[:2], -1)
        return jnp.moveaxis(path, 0, 1), jnp.abs(logits - model.apply(params, a)[None]).max((0, 2))

    path, change = over_batches(
        partial(measure, params), [first, second], batch_size=50, mesh=classifiers.mesh_for(config)
    )
    return np.moveaxis(path, 1, 0), float(change.max())


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train all networks, draw the figures, and return the table."""
    data = classifiers.datasets(config)
    t = np.linspace(0, 1, config.steps)
    numbers = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        values, arrays = common.stage(place, partial(one_seed, config, seed, data, place))
        numbers.append(values)
        if seed == config.seeds[0]:
            for arm in ARMS:
                strip = {f"t = {share:.2g}": images for share, images in zip(t, arrays[arm], strict=True)}
                title = f"{config.dataset}, {arm}: the logits of row 1, the nuisance from row 1 to b"
                grid = figures.image_grid({**strip, "b": arrays["second"]}, title)
                figures.save(grid, folder / "figures" / f"interpolation-{arm.lower().replace(' ', '-')}.png")
    panels = {
        arm: {what: np.array([n[arm][which] for n in numbers]) for which, what in VERDICTS.items()} for arm in ARMS
    }
    title = f"{config.dataset}: what an independent network sees; mean and range of {len(config.seeds)} seed(s)"
    chart = figures.curves(t, panels, "t, from the nuisance of a to that of b", "images judged to be", title)
    figures.save(chart, folder / "figures" / "judged.png")
    return rows(config, numbers)


def rows(config: Config, numbers: list[dict]) -> list[common.Row]:
    """The table: the curves at their middle and end, and the checks of the interpolation."""
    setup = f"{config.epochs} epochs; the figure is published without numbers"
    middle = config.steps // 2
    table = []
    for arm in ARMS:
        for at, t in ((middle, f"{middle / (config.steps - 1):.2g}"), (-1, "1, the metamers")):
            for which in ("a", "b"):
                name = f"{arm}: judged to be {VERDICTS[which]}, t = {t}"
                table.append(common.row(name, None, [100 * n[arm][which][at] for n in numbers], "%", setup))
    for arm in ARMS:
        for measure, scale, name, unit in (
            ("test_error", 100, "test error of the logits", "%"),
            ("logit_error", 1, "max change of a logit on the way, float32", ""),
            ("clipped", 1, "mean change of the metamers' pixels by clipping them for the judge", "of [0, 1]"),
        ):
            table.append(common.row(f"{arm}: {name}", None, [scale * n[arm][measure] for n in numbers], unit))
    table.append(common.row("judge: test error", None, [100 * n["judge_error"] for n in numbers], "%"))
    return table


EXPERIMENT = common.Experiment(
    name="excessive_invariance/interpolation",
    item="P1 figure 7: interpolation of the nuisance at constant logits, and what an independent network sees",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "33 minutes on 2 busy CPU cores (29 minutes of CPU time)",
        "paper": "an accelerator, not run yet",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""P3, Wallace's response: a task learnt from a model's errors alone.

A teacher labels images, and a pupil is trained on its labels. The first teacher is trained briefly and labels the
images that it misclassifies, so every label is wrong. The second teacher is trained well and labels images of another
data set, for which no label can be correct. Both pupils are tested on original images. Wrong labels can teach a task
because they contain information about the model that gave them.

Source: Wallace 2019, *Learning from Incorrectly Labeled Data*, in *A Discussion of "Adversarial Examples Are Not Bugs,
They Are Features"*.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import numpy as np

from experiments import common
from experiments.features_not_bugs import networks, published
from invjax import features, figures
from invjax.data import load
from invjax.training import data_mesh


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    first_epochs: float = 1.0
    """Epochs of the network whose errors are used: a whole number or a fraction of one (published: 2 for CIFAR-10)."""
    foreign: Literal["mnist", "cifar10", "noise"] = "cifar10"
    """Data set of the images of another kind; `noise` draws uniform pixels."""
    foreign_size: int = 20_000  # Number of images of another kind.


PRESETS = {
    "smoke": Config(
        networks.Data("digits"), network="MLP", hidden=(64, 64), train=networks.Train(30, 64, 2e-3),
        first_epochs=2.0, foreign="noise", foreign_size=1024, seeds=(0,),
    ),
    "default": Config(train=networks.Train(10, 128, 2e-3), first_epochs=0.1),
    "paper": Config(
        networks.Data("cifar10"), network="ResNet", train=networks.Train(50, 128, 0.1, "sgd"), augment=True,
        first_epochs=2.0, foreign="mnist",
    ),
}  # fmt: skip


def trials(config: Config):
    if not config.first_epochs > 0 or not config.foreign_size > 0:
        raise ValueError(
            f"first_epochs and foreign_size must be positive; got {config.first_epochs} and {config.foreign_size}"
        )
    if config.first_epochs > 1 and config.first_epochs % 1:
        raise ValueError(f"first_epochs must be whole, or a part of one; got first_epochs={config.first_epochs}")
    if config.foreign == config.data.dataset:
        raise ValueError(f"foreign must be other images than the dataset; both are {config.foreign}")
    return common.grid(arm=("errors", "answers"), seed=config.seeds)


def foreign_images(config: Config, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Images of another kind, with the size and the channels of the task."""
    if config.foreign == "noise":
        return np.random.default_rng(seed).random((config.foreign_size, *shape), np.float32)
    data = load(config.foreign, "train", config.data.data_dir)
    images = common.images_of(data, config.foreign_size)
    if images.shape[-1] != shape[-1]:
        images = images.mean(-1, keepdims=True).repeat(shape[-1], -1)
    return np.asarray(jax.image.resize(images, (len(images), *shape), "linear")).clip(0, 1)


def trial(config: Config, data, *, arm, seed, folder):
    train, test = data
    apply_fn, learn = config.net().apply, partial(networks.train, config)
    if arm == "errors":  # after whole epochs, or after one epoch over a part of the images
        part, place = config.first_epochs, folder / "teacher"
        few = None if part >= 1 else max(8, int(part * len(train[1])))
        teacher = learn((train[0][:few], train[1][:few]), seed=seed, folder=place, epochs=max(1, int(part)))
        errors = features.errors_of(partial(jax.jit(apply_fn), teacher), train[0], train[1], mesh=data_mesh())
        if not len(errors.ids):
            raise ValueError("the first network makes no errors from which to learn; lower first_epochs")
        images, labels, true = train[0][errors.ids], errors.labels, train[1][errors.ids]
    else:
        teacher = learn(train, seed=seed + 2000, folder=folder / "teacher")
        images = foreign_images(config, train[0].shape[1:], seed)
        labels = true = common.logits_of(apply_fn, teacher, images).argmax(1).astype(np.int32)
    shift = 1000 if arm == "errors" else 3000
    pupil = learn((images, labels), seed=seed + shift, folder=folder / "pupil")
    numbers = {
        "teacher": common.accuracy(apply_fn, teacher, test),
        "pupil": common.accuracy(apply_fn, pupil, test),
        "agrees": common.accuracy(apply_fn, pupil, (images, labels)),
        "commonest": float(np.bincount(labels).max() / len(labels)),
        "images": len(labels),
    }
    return numbers, {"images": one_a_class(images, labels), "true": one_a_class(true + 1, labels) - 1}


def one_a_class(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first value of each label, `[10, ...]`; zero, or black, where there is none."""
    found = np.zeros((10, *values.shape[1:]), values.dtype)
    for label, at in zip(*np.unique(labels, return_index=True), strict=True):
        found[label] = values[at]
    return found


def goals(config: Config) -> dict[str, dict[str, float]]:
    return {} if config.data.planted else published.WRONG_LABELS.get(config.data.dataset, {})


def table(config: Config, results):
    known, part, epochs = goals(config), config.first_epochs, f"{config.train.epochs} epochs"
    before = f"{part:g} epochs" if part >= 1 else f"one epoch over {100 * part:g} % of the images"
    foreign = f"{results.select(arm='answers')['images'][0]:,} {config.foreign} images"
    foreign += " (published: FashionMNIST)" if "answers" in known else ""
    for arm, key, name, unit, note in (
        ("errors", "pupil", "learnt from errors alone: test accuracy", "%", f"{networks.about(config)}, {epochs}"),
        ("errors", "teacher", "the network that made them: test accuracy", "%", before),
        ("errors", "images", "training images that it gets wrong", "images", ""),
        ("answers", "pupil", "learnt from answers on images of another kind: test accuracy", "%", foreign),
        ("answers", "teacher", "the network that gave them: test accuracy", "%", epochs),
        ("answers", "agrees", "answers known after training", "%", ""),
        ("answers", "commonest", "the commonest answer", "%", ""),
    ):
        values = results.select(arm=arm)[key] * (100 if unit == "%" else 1)
        yield common.row(name, values, unit, note, published=known.get(arm, {}).get(key))


def draw(config: Config, results):
    images, captions, bars, stars = {}, {}, {}, {}
    about, foreign, known = networks.title(config), str(config.foreign), goals(config)
    for at in results.each("arm"):
        row, arrays = "errors" if at.arm == "errors" else foreign, at.arrays()
        images[row] = arrays["images"]
        captions[row] = [
            "none" if true < 0 else f"label {k}" if true == k else f"label {k}\n(true: {true})"
            for k, true in enumerate(arrays["true"])
        ]
        panel = "errors of a brief training" if at.arm == "errors" else f"answers on {foreign} images"
        bars[panel] = {who: {"test accuracy": 100 * at[who]} for who in ("teacher", "pupil")}
        stars[panel] = {who: {"test accuracy": known.get(at.arm, {}).get(who)} for who in ("teacher", "pupil")}
    shown = f"{about}: images that teach the pupils, one of each label"
    learnt = f"{about}: a pupil learns the task from wrong labels alone"
    return {
        "images": figures.image_grid(images, shown, captions=captions),
        "accuracy": figures.bar_panels(bars, "test accuracy, %", learnt, (10.0, "chance"), stars),
    }


EXPERIMENT = common.experiment(__name__, "5 minutes on 2 CPU cores")

"""P1 figure 8: errors on shiftMNIST when a cue to the class, binary or a texture, is removed or randomised.

The cue is a binary code at the image border, or a texture behind the digit. For each cue and seed, a ResNet and a fully
invertible RevNet are trained with cross-entropy (CE), and the RevNet also with independence cross-entropy (iCE), on
images whose cue determines the class. A generative classifier, whose logits are log densities, is fitted to the same
images. The experiment measures their errors on test images with the cue, without it, and with that of a random class.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers
from experiments.excessive_invariance.published import SHIFT_GAIN
from invjax import figures
from invjax.data import TEXTURES, VARIANTS, Dataset, as_float, binary_shift, texture_shift, textures_in
from invjax.evaluation import correct
from invjax.losses import dequantize
from invjax.models import generative_classifier
from invjax.types import Params

ARMS = {
    "resnet-ce": "ResNet, CE",
    "fi-revnet-ce": "fi-RevNet, CE",
    "fi-revnet-ice": "fi-RevNet, iCE",
    "generative": "generative",
}
CUES = {"binary": "a pixel at the left border", "texture": "the texture behind the digit"}
SHOWN = {"coded": "the cue of the class", "removed": "no cue", "random": "the cue of a random class"}
ADVERSARIAL = {"binary": "removed", "texture": "random"}  # the published shift D_Adv of each cue


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    ice: common.Flat[classifiers.Ice] = classifiers.ICE  # Independence cross-entropy.
    texture_dir: str | None = None  # Folder with one photograph for each class; None uses ten synthetic textures.
    texture_side: int | None = 84  # Length to which the shorter side of a photograph is resized; None keeps its size.
    resnet_channels: tuple[int, ...] = (16, 32, 64)  # Channels of the stages of the ResNet; each stage has one block.
    resnet_epochs: int = 3  # Number of passes of the ResNet over the training set.
    resnet_learning_rate: float = 2e-3  # Learning rate of Adam for the ResNet.
    min_std: float = 0.1  # Smallest standard deviation of the generative classifier's densities; pixels range over 1.
    shifts: tuple[Literal["binary", "texture"], ...] = common.axis(("binary", "texture"))
    """Cues to train on; each cue has its own networks."""


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(1, 64, 4e-3),
        ice=classifiers.Ice(critic_hidden=(32,)), resnet_channels=(8, 8), resnet_epochs=1, seeds=(0,),
    ),
    "default": Config(
        common.Data(train_size=10_000), train=common.Train(6, 128, 4e-3), ice=classifiers.Ice(nuisance_weight=0.6),
        resnet_epochs=5,
    ),
    "paper": Config(
        blocks=(16, 16), train=common.Train(50, 128, 4e-3), ice=classifiers.Ice(nuisance_weight=1.0),
        resnet_channels=(64, 128, 256, 512), resnet_epochs=20,
    ),
}  # fmt: skip


def datasets(config: Config):
    """The images with each cue."""

    def shifted(shift: str, data: Dataset, variant: str, seed: int) -> Dataset:
        if shift == "binary":
            return binary_shift(data, variant, seed)
        textures = TEXTURES if config.texture_dir is None else textures_in(config.texture_dir, config.texture_side)
        return texture_shift(data, variant, seed, textures=textures)

    train, test = config.data.load()
    return {
        shift: (shifted(shift, train, "coded", 0), {variant: shifted(shift, test, variant, 1) for variant in VARIANTS})
        for shift in config.shifts
    }


def trained(config: Config, arm: str, seed: int, train: Dataset, folder: Path) -> tuple[Any, Params]:
    """`(apply, parameters)` of one classifier, trained on the images with the cue."""
    if arm == "resnet-ce":
        net = common.network("ResNet", stages=config.resnet_channels)
        settings = common.Train(config.resnet_epochs, config.train.batch_size, config.resnet_learning_rate)
        return net.apply, classifiers.train_network(net, "ResNet", train, settings, seed=seed, folder=folder)
    if arm == "generative":
        noise_key, key = common.split_key(seed)
        x = dequantize(noise_key, jnp.asarray(common.images_of(train)), train.levels)
        fitted, params = generative_classifier(key, np.asarray(x), train.labels, 10, min_std=config.min_std)
        return fitted.apply, params
    loss = "iCE" if arm == "fi-revnet-ice" else "CE"
    return config.model.apply, classifiers.train(config, loss, train, seed=seed, folder=folder)


def trial(config: Config, data, *, shift, arm, seed, folder):
    train, tests = data[shift]
    apply_fn, params = trained(config, arm, seed, train, folder)

    def logits(params, images):
        return apply_fn(params, jnp.asarray(as_float(images, train.levels)))

    right = {name: correct(logits, params, test.images, test.labels, mesh=config.mesh) for name, test in tests.items()}
    first = [int(np.argmax(tests["coded"].labels == k)) for k in range(10)]
    images = {name: common.images_of(test, first) for name, test in tests.items()}
    return {name: float(1 - values.mean()) for name, values in right.items()}, images


def named(shift: str) -> dict[str, str]:
    """The variants of the test set, with a mark at the published shift."""
    return {variant: f"{variant} (D_Adv)" if variant == ADVERSARIAL[shift] else variant for variant in VARIANTS}


def table(config: Config, results):
    up_to = f"{config.train.epochs} epochs of {config.data.size} training images; published as the largest gain (up to)"
    for at in results.each("shift"):
        _, ce, ice, generative = at.by("arm", ADVERSARIAL[at.shift]).values()
        differs = f"{up_to}; other textures" if at.shift == "texture" else up_to
        name = f"{at.shift}: iCE lowers the D_Adv error of the fi-RevNet by"
        yield common.row(name, 100 * (ce - ice), "points", differs, published=SHIFT_GAIN)
        name = f"{at.shift}: a generative classifier's D_Adv error is lower than that of the fi-RevNet with CE by"
        differs = "published for iCE; one normal distribution a class, in closed form: its seeds draw noise alone"
        yield common.row(name, 100 * (ce - generative), "points", differs, published=SHIFT_GAIN)
    for at in results.each("shift", "arm"):
        for variant, what in named(at.shift).items():
            yield common.percent(f"{at.shift}: {ARMS[at.arm]}: test error, {what}", at[variant])


def draw(config: Config, results):
    charts, dataset = {}, config.data.dataset
    for at in results.each("shift"):
        cue, images = CUES[at.shift], at.arrays()
        examples = {name.replace(" ", "\n"): images[variant] for variant, name in named(at.shift).items()}
        title = f"{dataset}: {cue} tells the class (coded), or does not"
        charts[f"examples-{at.shift}"] = figures.image_grid(examples, title)
        bars = {
            f"{name}: {SHOWN[variant]}": {"": {ARMS[arm]: 100 * of for arm, of in at.by("arm", variant).items()}}
            for variant, name in named(at.shift).items()
        }
        title = f"{dataset}, trained where {cue} tells the class"
        charts[f"errors-{at.shift}"] = figures.bar_panels(bars, "test error, %", title, (90.0, "chance"))
    return charts


EXPERIMENT = common.experiment(__name__, "24 minutes on 2 busy CPU cores", shift="shifts", arm=ARMS)

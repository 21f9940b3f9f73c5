"""The networks of these experiments, with standard or adversarial training.

Adversarial training follows the paper: the attack maximises the margin loss, and the radius of the first epoch is a
third.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from invjax.attacks import Attack, jit_attack, l1, l2, linf, pgd, transformed
from invjax.data import Dataset, HumanLabelled, as_float, batches, human_labelled, load
from invjax.evaluation import Options, agreement, correct, over_batches, wilson
from invjax.losses import cross_entropy, error_rate, margin
from invjax.models import l0_sparse, largest_frequencies, mnist_cnn, resnet
from invjax.training import TrainStep, adversarial_loss, data_mesh, fit, init_state, make_train_step
from invjax.types import ApplyFn, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data and of the training, shared by the experiments of this paper."""

    dataset: Literal["mnist"] = "mnist"
    """Data set of the images; only MNIST has examples that people labelled."""
    data_dir: str | None = None
    """Folder of the data and human labels; default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    cnn: Literal["small CNN", "CNN"] = "small CNN"
    """Convolutional network: that of Madry et al. 2018, as in the paper, or one with half its channels."""
    train_size: int | None = 12_000
    """Number of training images; None uses all."""
    epochs: int = 3
    """Number of passes over the training set."""
    batch_size: int = 64
    """Number of images in a training step."""
    learning_rate: float = 2e-3
    """Initial learning rate of Adam; it decays to zero along a cosine."""
    train_steps: int = 4
    """Number of steps of the attack in adversarial training."""
    test_size: int | None = None
    """Number of test images for the clean accuracy; None uses all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one copy of every network."""


def datasets(config: Settings) -> tuple[Dataset, Dataset, dict[str, HumanLabelled]]:
    """The training and the test set, and the labelled invariance examples; missing files raise an error at once."""
    human = human_labelled(config.data_dir)
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    return first(train, config.train_size), first(test, config.test_size), human


def first(data: Dataset, count: int | None) -> Dataset:
    """The first `count` images; all for None."""
    return data._replace(images=data.images[:count], labels=data.labels[:count])


NETWORKS = {
    "small CNN": lambda: mnist_cnn(10, (16, 32), 128),
    "CNN": lambda: mnist_cnn(10, (32, 64), 1024),
    "ResNet-8": lambda: resnet(10, (8, 16, 32), (1, 1, 1)),
    "ResNet-18": resnet,
}
"""The networks, by name."""

network = functools.cache(lambda name: NETWORKS[name]())
"""The network with this name; one object, so that all seeds share its compiled functions."""


defended = functools.cache(lambda name, frequencies, outliers: l0_sparse(network(name), frequencies, outliers))
"""`(name, frequencies, outliers)`: the network of that name behind the l0-sparse defence, one object for all seeds."""

of_frequencies = functools.cache(lambda count: functools.partial(largest_frequencies, count=count))
"""`count`: what makes the images that such a network is trained on, one object for all seeds."""


@functools.cache
def adversary(norm: str, steps: int, tries: int = 0) -> Attack:
    """PGD on the margin in 'linf', 'l2' or 'l1'; with `tries`, through the worst of so many rotations and shifts."""
    attack = pgd({"linf": linf, "l2": l2, "l1": l1}[norm](), steps=steps, loss=margin)
    return transformed(attack, tries=tries) if tries else attack


@functools.cache  # one object, so that it is compiled once for all seeds and radii: the radius comes with the batch
def _train_step(
    name: str, attack: Attack | None, learning_rate: float, num_steps: int, prepare: Callable | None
) -> tuple[TrainStep, Any]:
    net = network(name)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss_fn(params: Params, key: Any, batch: Any, step):
        images, labels, eps = batch
        x = jnp.asarray(as_float(images))
        x = x if prepare is None else prepare(x)
        if attack is not None:
            return adversarial_loss(net.apply, attack, eps=eps)(params, key, (x, labels), step)
        logits = net.apply(params, x)
        return cross_entropy(logits, labels).mean(), {"error": error_rate(logits, labels)}

    return make_train_step(loss_fn, optimizer), optimizer


def train(
    config: Settings,
    name: str,
    attack: Attack | None,
    eps: float,
    seed: int,
    data: Dataset,
    folder: Path,
    prepare: Callable | None = None,
) -> Params:
    """Train a network, or continue its training; without an attack, on unchanged images.

    The radius is `eps / 3` in the first epoch, and `eps` after it. With `prepare`, on what it makes of the images; one
    object for all seeds, or each compiles anew.
    """
    per_epoch = len(data.labels) // config.batch_size
    num_steps = config.epochs * per_epoch
    step_fn, optimizer = _train_step(name, attack, config.learning_rate, num_steps, prepare)
    draw = batches([data.images, data.labels], config.batch_size, seed)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = network(name).init(init_key, jnp.asarray(as_float(data.images[:1])))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        step_fn,
        lambda step: (*draw(step), np.float32(eps / 3 if step < per_epoch else eps)),
        num_steps,
        mesh=data_mesh(),
        directory=folder,
        description=f"{folder.name}",
    )
    return state.params


def seen(apply_fn: ApplyFn, params: Params, test: Dataset, human: dict[str, HumanLabelled]) -> dict[str, Any]:
    """Clean accuracy, and the number of changed images of each set on which a model agrees with people."""
    found = agreement(apply_fn, params, human, options=Options(mesh=data_mesh()))
    right = correct(apply_fn, params, as_float(test.images[:]), np.asarray(test.labels), mesh=data_mesh())
    return {"clean": float(right.mean()), "agrees": {name: int(of.with_humans.sum()) for name, of in found.items()}}


compiled = functools.cache(lambda name, attack: jit_attack(attack, network(name).apply))
"""`(name, attack)`: an attack on the network of that name, compiled once for all seeds and radii."""


def withstands(name: str, params: Params, attack: Attack, eps: float, test: Dataset, seed: int) -> float:
    """Accuracy under an attack on these images."""
    run, key = compiled(name, attack), jax.random.key(seed)
    fallen = over_batches(
        lambda x, labels, ids: run(key, params, x, labels, eps=eps, ids=ids).success,
        [as_float(test.images[:]), np.asarray(test.labels), np.arange(len(test.labels), dtype=np.uint32)],
        min(500, len(test.labels)),
        data_mesh(),
    )
    return 1 - float(fallen.mean())


def interval(human: dict[str, HumanLabelled], name: str, agrees: list[int]) -> tuple[float, float, float]:
    """Agreement of several trainings on one set, and its Wilson interval: `(fraction, low, high)`.

    The trainings see the same images, so the interval is that of one training with their mean.
    """
    total = int(human[name].changed.sum())
    mean = float(np.mean(agrees))
    return (mean / total, *wilson(mean, total))


def apart(human: dict[str, HumanLabelled], name: str, higher: list[int], lower: list[int]) -> str:
    """Whether one agreement lies above another by more than their intervals, those of one training with their mean."""
    total = int(human[name].changed.sum())
    first, second = (wilson(float(np.mean(counts)), total) for counts in (higher, lower))
    above = "above" if first[0] > second[1] else "not above"
    low, high = (f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}" for interval in (first, second))
    return f"95 % interval {low} is {above} {high} ({total} images)"


def agreement_row(
    human: dict[str, HumanLabelled], who: str, name: str, agrees: list[int], published: float | None, differs: str = ""
) -> common.Row:
    """The row of an agreement with its interval."""
    total = int(human[name].changed.sum())
    _, low, high = interval(human, name, agrees)
    about = f"95 % interval {100 * low:.0f} to {100 * high:.0f}, {total} images"
    return common.row(
        f"{who}: agrees with people, {name}", published, [100 * n / total for n in agrees], "%",
        f"{about}; {differs}" if differs else about,
    )  # fmt: skip

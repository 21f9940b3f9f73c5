"""Functions for experiments on many networks: training, accuracies and sizes of populations, and tables over seeds."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata

from experiments import common
from invjax.attacks import Attack, linf, step_ll
from invjax.data import Dataset, as_float, batches
from invjax.models import Convolutions, MaskedNet, masked_size
from invjax.training import Member, adversarial_loss, member_of, over_population, population_trainer
from invjax.types import Key, Params

LARGEST_BATCH = 500
Trained = tuple[Any, Any]
"""Parameters, and members `(Convolutions, learning rate)`, each with a leading population axis."""


def one_image(data: Dataset) -> jax.Array:
    """A batch of one image in [0, 1], for the initialisation."""
    return jnp.asarray(common.images_of(data, 1))


def in_batches(data: Dataset, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] `[n, b, H, W, C]` and labels `[n, b]` in equal batches of at most 500."""
    x, labels = common.images_of(data, part), np.asarray(data.labels[part], np.int32)
    count = len(labels)
    size = next(size for size in range(min(count, LARGEST_BATCH), 0, -1) if count % size == 0)
    if size < min(count, LARGEST_BATCH // 10):
        raise ValueError(
            f"{count} images fall into equal batches of at most {LARGEST_BATCH} only by {size} each; take a rounder "
            f"number, such as {count // 100 * 100}"
        )
    return x.reshape(-1, size, *x.shape[1:]), labels.reshape(-1, size)


def trainer(
    net: MaskedNet,
    data: Dataset,
    loss_fn: Callable[..., Any],
    optimizer_fn: Callable[[Member, int], optax.GradientTransformation],
    settings: common.Train,
) -> Callable[..., Params]:
    """Make a function that trains populations on the bytes of a data set; populations of one size are compiled once.

    `loss_fn` is `(member, params, key, (images in [0, 1], labels), step) -> (loss, metrics)`, and `optimizer_fn` is
    `(member, number of steps) -> optimizer`. The function is
    `(keys, members, seed, description, folder) -> params`, where the seed gives the order of the images. With a folder,
    an interrupted training continues from there.
    """
    image, levels, num_steps = one_image(data), data.levels, settings.num_steps(len(data.labels))

    def loss_of_bytes(member, params, key, batch, step):
        return loss_fn(member, params, key, (as_float(batch[0], levels), batch[1]), step)

    train = population_trainer(
        lambda key, member: net.init(key, member, image), loss_of_bytes, lambda member: optimizer_fn(member, num_steps)
    )

    def run(keys: Key, members: Member, seed: int, description: str, folder: Path | None = None) -> Params:
        order = batches([data.images, data.labels], settings.batch_size, seed)
        per_epoch = settings.steps_per_epoch(len(data.labels))
        trained = train(
            keys, members, order, num_steps, chunk_steps=per_epoch, description=description, directory=folder
        )
        return trained[0]

    return run


def cell_trainer(net: MaskedNet, data: Dataset, eps: float, settings: common.Train) -> Callable[..., Trained]:
    """Make `(architectures, learning rates, key, seed, description, folder) -> Trained`.

    Half of each batch is attacked. With a folder, an interrupted training continues from there.
    """
    attack = step_ll(linf())

    def loss_fn(member, params, key, batch, step):
        loss = adversarial_loss(lambda p, x: net.apply(p, member[0], x), attack, eps=eps, fraction=0.5)
        return loss(params, key, batch, step)

    def optimizer_fn(member, num_steps):
        return optax.adam(lambda step: member[1] * optax.cosine_decay_schedule(1.0, num_steps)(step))

    of_member = net._replace(init=lambda key, member, x: net.init(key, member[0], x))
    train = trainer(of_member, data, loss_fn, optimizer_fn, settings)

    def run(architectures, rates, key, seed, description, folder=None):
        members = jax.tree.map(jnp.asarray, (architectures, np.array(rates, np.float32)))
        return train(jax.random.split(key, len(rates)), members, seed, description, folder), members

    return run


def judge(net: MaskedNet, attacks: dict[str, Attack], eps: float) -> Callable[..., dict[str, np.ndarray]]:
    """Make `(Trained, images, labels, key) -> {"clean" and by attack: accuracy [N]}`."""

    def of_network(trained, images, labels, key):
        params, (architecture, _) = trained
        logits_fn = partial(net.apply, params, architecture)

        def of_batch(batch):
            number, x, y = batch
            of_it = jax.random.fold_in(key, number)
            right = {"clean": logits_fn(x).argmax(-1) == y}
            return right | {name: ~attack(of_it, logits_fn, x, y, eps=eps).success for name, attack in attacks.items()}

        return jax.tree.map(jnp.mean, jax.lax.map(of_batch, (jnp.arange(len(images)), images, labels)))

    return over_population(of_network)


def sizes_of(net: MaskedNet, architectures: Convolutions, data: Dataset) -> list[int]:
    image = one_image(data)
    count = len(architectures.dropout)
    return [masked_size(net.mask(member_of(architectures, i), image)) for i in range(count)]


def rank_correlation(a: Any, b: Any) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs or if one of the two is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def over_seeds(tables: Iterable[Iterable[common.Row]]) -> list[common.Row]:
    """One table from the tables of single seeds, with the rows that all of them have."""
    by_name = [{row.name: row for row in table} for table in tables]
    return [
        common.row(
            name, [table[name].measured for table in by_name], first.unit, first.differs, published=first.published
        )
        for name, first in by_name[0].items()
        if all(name in table for table in by_name)
    ]

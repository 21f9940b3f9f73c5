"""The networks of cells: training with half of each batch attacked, accuracies under attack, and sizes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.intriguing_properties.populations import one_image, trainer
from invjax.attacks import Attack, linf, step_ll
from invjax.data import Dataset
from invjax.models import Convolutions, MaskedNet, masked_size
from invjax.training import adversarial_loss, member_of, over_population

Trained = tuple[Any, Any]
"""Parameters, and members `(Convolutions, learning rate)`, each with a leading population axis."""


def cell_trainer(net: MaskedNet, data: Dataset, eps: float, settings: common.Train) -> Callable[..., Trained]:
    """Make `(architectures, learning rates, key, seed, description) -> Trained`: half of each batch is attacked."""
    attack = step_ll(linf())

    def loss_fn(member, params, key, batch, step):
        loss = adversarial_loss(lambda p, x: net.apply(p, member[0], x), attack, eps=eps, fraction=0.5)
        return loss(params, key, batch, step)

    def optimizer_fn(member, num_steps):
        return optax.adam(lambda step: member[1] * optax.cosine_decay_schedule(1.0, num_steps)(step))

    of_member = net._replace(init=lambda key, member, x: net.init(key, member[0], x))
    train = trainer(of_member, data, loss_fn, optimizer_fn, settings)

    def run(architectures: Convolutions, rates: list[float], key: jax.Array, seed: int, description: str) -> Trained:
        members = jax.tree.map(jnp.asarray, (architectures, np.array(rates, np.float32)))
        return train(jax.random.split(key, len(rates)), members, seed, description), members

    return run


def judge(net: MaskedNet, attacks: dict[str, Attack], eps: float) -> Callable[..., dict[str, np.ndarray]]:

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

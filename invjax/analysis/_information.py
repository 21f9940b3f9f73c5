r"""How much a representation says about the class, measured by what a fresh classifier can read from it.

For any classifier q of z (Barber & Agakov 2003; lemma 9 of Jacobsen et al. 2019), in nats,

    I(y; z) >= H(y) + E log q(y | z) = H(y) - cross-entropy of q,

with equality where q is the true posterior. The bound is only as good as q: a critic that took part in the training
of z may have been led astray, so these are trained afterwards, on frozen z, and several kinds of them. A high error of
a fresh head is evidence; a low one is proof that the information is there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from invjax import _check
from invjax._batching import over_batches
from invjax.data import batches
from invjax.losses import cross_entropy, error_rate
from invjax.training import fit, init_state, make_train_step
from invjax.types import Key, LogitsFn, Net


class Reading(NamedTuple):
    """What one classifier reads from a representation.

    Attributes:
        error: share of examples it gets wrong, in [0, 1].
        cross_entropy: its mean, nats.
        information: `H(y) - cross_entropy`, a lower bound on I(y; z) in nats, negative where the classifier is worse
            than guessing by the class frequencies.
    """

    error: float
    cross_entropy: float
    information: float


def reading(logits: np.ndarray, labels: np.ndarray) -> Reading:
    """The `Reading` of a classifier with these `logits [N, K]` on these `labels [N]`."""
    counts = np.bincount(labels)
    frequencies = counts[counts > 0] / labels.size
    loss = float(cross_entropy(jnp.asarray(logits), jnp.asarray(labels)).mean())
    error = float(error_rate(jnp.asarray(logits), jnp.asarray(labels)))
    return Reading(error, loss, float(-(frequencies * np.log(frequencies)).sum()) - loss)


def train_head(
    key: Key,
    net: Net,
    train: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    description: str = "fresh head",
) -> LogitsFn:
    """Train `net` to read the labels off a frozen representation.

    Features are standardised by the training set's mean and standard deviation (each feature for itself), so that no
    head fails merely because of their scale. Adam with a cosine decay to zero; the last iterate is kept.

    Args:
        key: random key, for the head's initial parameters and the order of the data.
        net: the head, `[B, ...] -> [B, K]`.
        train: features `[N, ...]` and labels `[N]`.
        epochs: over the training set.
        learning_rate: Adam's, at the start.
        batch_size: examples in a step.
        mesh: spread each batch over these devices.
        description: for the progress bar.

    Raises:
        ValueError: labels that are not classes of the head, NaN features, or a batch larger than the training set.

    Returns:
        `features [B, ...] -> logits [B, K]`; not compiled.
    """
    _check_examples(net, train)
    # in float64: the float32 mean of many equal values differs from them, and their std from zero
    mean, std = train[0].mean(0, dtype=np.float64), train[0].std(0, dtype=np.float64)
    mean, scale = mean.astype(np.float32), np.where(std > 1e-12, std, 1.0).astype(np.float32)

    def logits_fn(params, x):
        return net.apply(params, (x - mean[None]) / scale[None])

    def loss_fn(params, key, batch):
        x, y = batch
        logits = logits_fn(params, x)
        return cross_entropy(logits, y).mean(), {"error": error_rate(logits, y)}

    init_key, run_key = jax.random.split(key)
    params = net.init(init_key, jnp.asarray(train[0][:2]))
    draw = batches(train, batch_size, seed=int(jax.random.bits(run_key, dtype=jnp.uint32)))
    num_steps = epochs * (len(train[1]) // batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    step = make_train_step(loss_fn, optimizer)
    state, _ = fit(init_state(run_key, params, optimizer), step, draw, num_steps, mesh=mesh, description=description)
    return lambda x: logits_fn(state.params, x)


def _check_examples(net, *pairs):
    for features, labels in pairs:
        _check.finite("features", features)
        x = jax.ShapeDtypeStruct((1, *features.shape[1:]), features.dtype)
        logits = jax.eval_shape(lambda x: net.apply(net.init(jax.random.key(0), x), x), x)
        _check.labels(labels, logits.shape[-1])


def fresh_head(
    key: Key,
    net: Net,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    description: str = "fresh head",
) -> dict[str, Reading]:
    """Train `net` to read the labels off a frozen representation, and test it.

    The training is that of `train_head`.

    Args:
        key: random key, for the head's initial parameters and the order of the data.
        net: the head, `[B, ...] -> [B, K]`.
        train: features `[N, ...]` and labels `[N]`.
        test: features `[M, ...]` and labels `[M]`.
        epochs: over the training set.
        learning_rate: Adam's, at the start.
        batch_size: examples in a step.
        mesh: spread each batch over these devices.
        description: for the progress bar.

    Raises:
        ValueError: labels that are not classes of the head, NaN features, or a batch larger than the training set.

    Returns:
        `{"train": Reading, "test": Reading}`.
    """
    _check_examples(net, train, test)
    apply = jax.jit(
        train_head(
            key,
            net,
            train,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            mesh=mesh,
            description=description,
        )
    )
    return {
        split: reading(over_batches(apply, [features], mesh=mesh), labels)
        for split, (features, labels) in {"train": train, "test": test}.items()
    }

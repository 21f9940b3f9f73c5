"""Classifiers trained on a frozen representation, to measure the information that it contains about the class.

A critic that took part in the training of a representation may have been misled, so these heads are trained afterwards
on fixed features. `reading` turns the logits of a head into a lower bound on the information.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from invjax import _check, _logits
from invjax._batching import on_device, over_batches
from invjax._dtypes import placeholder
from invjax.analysis._reading import Reading, reading
from invjax.data import batches
from invjax.losses import cross_entropy, error_rate
from invjax.training import fit, init_state, make_train_step
from invjax.types import Key, LogitsFn, Net


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
    """Train a head to predict the labels from a frozen representation.

    Each feature is standardized by its mean and standard deviation over the training set, so that no head fails merely
    because of the scale of the features. The optimizer is Adam with a cosine decay to zero, and the function returns
    the last iterate.

    Args:
        key: random key for the initial parameters of the head and the order of the data.
        net: the head, `[B, ...] -> [B, K]`.
        train: features `[N, ...]` and labels `[N]`.
        epochs: number of passes over the training set.
        learning_rate: initial learning rate of Adam.
        batch_size: number of examples per step.
        mesh: devices over which each batch is spread.
        description: text of the progress bar.

    Returns:
        `features [B, ...] -> logits [B, K]`, not compiled.

    Raises:
        ValueError: a label is not a class of the head, features contain NaN, or a batch is larger than the training
            set.
    """
    _check.key(key)
    _check_examples(net, train)
    # in float32 the mean of many equal values may differ from them, and their std from zero
    mean, std = train[0].mean(0, dtype=np.float64), train[0].std(0, dtype=np.float64)
    mean, scale = mean.astype(np.float32), np.where(std > 1e-12, std, 1.0).astype(np.float32)

    def logits_fn(params, x):
        return net.apply(params, (x - mean[None]) / scale[None])

    def loss_fn(params, key, batch, step):
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
        _check.examples("features", features)
        _check.one_each("labels", labels, features)
        _check.finite("features", features)
        x = placeholder((1, *features.shape[1:]), features.dtype)
        logits = jax.eval_shape(lambda x: net.apply(net.init(jax.random.key(0), x), x), x)
        _logits.check_shape(logits, x.shape)
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
    """Train a head on a frozen representation with `train_head`, and measure it on both sets.

    Args:
        key: random key for the initial parameters of the head and the order of the data.
        net: the head, `[B, ...] -> [B, K]`.
        train: features `[N, ...]` and labels `[N]`.
        test: features `[M, ...]` and labels `[M]`.
        epochs: number of passes over the training set.
        learning_rate: initial learning rate of Adam.
        batch_size: number of examples per step.
        mesh: devices over which each batch is spread.
        description: text of the progress bar.

    Returns:
        `{"train": Reading, "test": Reading}`.

    Raises:
        ValueError: a label is not a class of the head, features contain NaN, or a batch is larger than the training
            set.
    """
    _check.key(key)
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
        split: reading(over_batches(on_device(apply), [features], mesh=mesh), labels)
        for split, (features, labels) in {"train": train, "test": test}.items()
    }

r"""What the constructed data sets do not show by themselves: three controls, and a toy with bugs only.

- Goh 2019, *Robust Feature Leakage*: can a linear head on robust features alone learn from the data set? Then what is
  learnt from it need not be non-robust. D_rand leaks (23.5 % on CIFAR-10), D_det does not (6.8 %, below chance).
- Wallace 2019, *Learning from Incorrectly Labeled Data*: the errors of a model, without any attack, teach its task too.
- Nakkiran 2019, *Adversarial Examples Are Just Bugs, Too*: there are adversarial examples without features
  (`non_transferable`), and squares on which a network has them though no feature of the data is non-robust.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from invjax import _check
from invjax._batching import over_batches
from invjax.analysis import Reading, fresh_head
from invjax.features._storage import Constructed
from invjax.models import mlp
from invjax.types import Array, Key, LogitsFn


def leakage_probe(
    key: Key,
    features_fn: LogitsFn,
    made: Constructed,
    test: tuple[np.ndarray, np.ndarray],
    *,
    num_classes: int,
    epochs: int,
    learning_rate: float = 1e-2,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> dict[str, Reading]:
    """What a linear head learns of a data set from robust features alone, tested on original images.

    Args:
        key: random key of the head.
        features_fn: `x [B, ...] -> [B, F]`, such as the logits of a linear model that was trained adversarially; jit
            it.
        made: what to learn from.
        test: original images `[M, ...]` and labels `[M]`.
        num_classes: K.
        epochs: over `made`.
        learning_rate: Adam's, at the start.
        batch_size: examples in a step.
        mesh: spread each batch over these devices.

    Returns:
        `{"train": Reading, "test": Reading}`: leakage is a test error below `1 - 1/K`.

    Raises:
        ValueError: labels out of range, features with NaN, a batch larger than the data set.
    """
    _check.labels(made.labels, num_classes)
    _check.labels(test[1], num_classes)
    train, held = (over_batches(features_fn, [images], mesh=mesh) for images in (made.images, test[0]))
    return fresh_head(
        key,
        mlp(num_classes, ()),
        (train, made.labels),
        (held, test[1]),
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        mesh=mesh,
        description="leakage probe",
    )


class Errors(NamedTuple):
    """Examples that a model gets wrong.

    Attributes:
        ids: `[E]`, their positions.
        labels: `[E]`, the model's wrong answers.
    """

    ids: Int[np.ndarray, " errors"]
    labels: Int[np.ndarray, " errors"]


def learning_from_errors(
    logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray, mesh: Mesh | None = None
) -> Errors:
    """The examples that a model gets wrong, with its answers for labels: not one of them is right.

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`; jit it.
        images: `[N, ...]`.
        labels: `[N]`, the true ones.
        mesh: spread each batch over these devices.

    Raises:
        ValueError: a model without errors, NaN logits, labels of another shape or out of range.

    Source: Wallace 2019. A model of the data may also label images of another kind, all of which are then wrong: that
    is a prediction, and needs no function.
    """
    logits = over_batches(logits_fn, [images], mesh=mesh)
    if logits.ndim != 2 or labels.shape != (len(images),):
        raise ValueError(
            f"logits_fn must give [{len(images)}, K], with one label each; got {logits.shape} and {labels.shape}"
        )
    _check.finite("the model's logits", logits)
    _check.labels(labels, logits.shape[1])
    predicted = logits.argmax(1).astype(np.int32)
    ids = np.flatnonzero(predicted != labels)
    if not ids.size:
        raise ValueError(f"the model is right on all {len(labels)} examples; stop its training earlier")
    return Errors(ids, predicted[ids])


def adversarial_squares(
    key: Key, *, count: int, side: int = 32, spread: float | int = 0.1, flip: float | int = 0.1
) -> tuple[Float[Array, "count side side 1"], Int[Array, " count"]]:
    """Squares that are all white or all black, but for noise, some with the wrong label.

        x = (2 c - 1) + U[-spread, spread]^d,    y = c, or 1 - c with probability flip

    The sign of the mean is right on 1 - flip of the labels, also under an linf attack of radius 1 - spread. A network
    that learns the wrong labels by heart is fooled by far less.

    >>> images, labels = adversarial_squares(jax.random.key(0), count=3, side=4, flip=0)
    >>> images.shape, bool(((images.mean((1, 2, 3)) > 0) == (labels == 1)).all())
    ((3, 4, 4, 1), True)

    Args:
        key: random key.
        count: how many (published: 10,000).
        side: d is its square; images have one channel.
        spread: of the noise, below 1.
        flip: share of wrong labels, in [0, 1/2).

    Returns:
        Images in `[-1 - spread, 1 + spread]`, labels 0 or 1. Threats on them need `box=(-inf, inf)`.

    Raises:
        ValueError: numbers outside of their ranges.

    Source: Nakkiran 2019, appendix.
    """
    _check.positive(count=count, side=side)
    if not 0 <= spread < 1:
        raise ValueError(f"spread must be in [0, 1), or the colours overlap; got spread={spread}")
    if not 0 <= flip < 0.5:
        raise ValueError(f"flip must be in [0, 1/2); got flip={flip}")
    colour_key, noise_key, flip_key = jax.random.split(key, 3)
    colour = jax.random.bernoulli(colour_key, 0.5, (count,))
    noise = spread * jax.random.uniform(noise_key, (count, side * side), minval=-1, maxval=1)
    wrong = jax.random.bernoulli(flip_key, float(flip), (count,))
    images = jnp.where(colour, 1.0, -1.0)[:, None] + noise
    return images.reshape(count, side, side, 1), (colour ^ wrong).astype(jnp.int32)

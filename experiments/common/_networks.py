"""Networks of the experiments by name, their losses and trainings, and their accuracy with and without attacks.

Functions here give one object for equal arguments, so that all seeds share what is compiled.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common._settings import first
from experiments.common._training import Train, split_key, train
from invjax.attacks import THREATS, Attack, Loss, Stage, Threat, autoattack_stages, jit_attack
from invjax.data import Dataset, as_float
from invjax.evaluation import Benchmark, Options, benchmark, over_batches, robustness_curve
from invjax.losses import cross_entropy, error_rate
from invjax.models import mlp, mnist_cnn, resnet
from invjax.training import adversarial_loss, data_mesh
from invjax.types import ApplyFn, Key, LossFn, Net, Params

Arrays = tuple[np.ndarray, np.ndarray]  # images in [0, 1], `[N, H, W, C]`, and labels `[N]`


@cache
def network(
    name: str, *, hidden: Sequence[int] = (), channels: Sequence[int] = (), dense: int = 0, stages: Sequence[int] = (),
    blocks: int = 1,
) -> Net:  # fmt: skip
    """A network for ten classes.

    Args:
        name: "linear", "MLP", "deep MLP" with twice the hidden layers, "CNN" of Madry et al. 2018, or "ResNet".
        hidden: widths of the hidden layers of an MLP.
        channels: channels of the convolutions of the CNN.
        dense: width of the hidden dense layer of the CNN.
        stages: channels of the stages of the ResNet.
        blocks: number of blocks in each stage.
    """
    nets: dict[str, Callable[[], Net]] = {
        "linear": lambda: mlp(10, ()),
        "MLP": lambda: mlp(10, hidden),
        "deep MLP": lambda: mlp(10, (*hidden, *hidden)),
        "CNN": lambda: mnist_cnn(10, channels, dense),
        "ResNet": lambda: resnet(10, stages, (blocks,) * len(stages)),
    }
    return nets[name]()


@cache
def plain_loss(
    apply_fn: ApplyFn, loss: Loss = cross_entropy, prepare: Callable[[Key, jax.Array], jax.Array] | None = None
) -> LossFn:
    """The mean loss of batches (images in [0, 1], labels, ...) without an attack.

    Args:
        apply_fn: the network.
        loss: `(logits, labels) -> [B]`.
        prepare: `(key, images) -> images`, a change of the images before they are used, such as an augmentation.
    """

    def loss_fn(params, key, batch, step):
        logits = apply_fn(params, prepare(key, batch[0]) if prepare else batch[0])
        return loss(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    return loss_fn


def shifted(key: Key, x: jax.Array, most: int) -> jax.Array:
    """Each image shifted by up to `most` pixels; the border is filled with black."""
    padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)))
    corners = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:]))(padded, corners)


def growing_loss(apply_fn: ApplyFn, attack: Attack, eps: float, steps: int, **options: Any) -> LossFn:
    """The loss of attacked images, whose radius grows from zero over so many steps.

    Without that adversarial training often does not start. `options` are those of `adversarial_loss`.
    """
    return adversarial_loss(apply_fn, attack, eps=lambda step: eps * jnp.minimum(1, step / steps), **options)


@cache
def on_bytes(loss_fn: LossFn, levels: int) -> LossFn:
    """The loss of batches whose images are integers with so many levels."""
    return lambda params, key, batch, step: loss_fn(params, key, (as_float(batch[0], levels), *batch[1:]), step)


def trained(
    net: Any, loss_fn: LossFn, data: Dataset | Sequence[np.ndarray], settings: Train, *, seed: int, folder: Path,
    keys: Any = None, start: Any = None, extra: Sequence[np.ndarray] = (), **options: Any,
) -> Params:  # fmt: skip
    """The parameters of a network after its training, which continues from the checkpoints in `folder`.

    Args:
        net: the network, a `Net` or another record with `init`.
        loss_fn: the loss of batches (images in [0, 1], labels, ...), one object for all seeds.
        data: a data set of bytes; or images in [0, 1] and labels.
        settings: passes, batch size and learning rate.
        seed: random seed of the order of the images and, without `keys`, of the two keys.
        folder: folder of the training.
        keys: keys of the initial parameters and of the training.
        start: images from which the parameters are initialised; by default the first one.
        extra: further arrays, which the loss gets after images and labels.
        options: `optimizer` and `epochs` of `train`.
    """
    init_key, key = split_key(seed) if keys is None else keys
    if start is None:
        start = images_of(data, 1) if isinstance(data, Dataset) else data[0][:1]
    if isinstance(data, Dataset):
        loss_fn = on_bytes(loss_fn, data.levels)
    params, arrays = net.init(init_key, jnp.asarray(start)), [*data[:2], *extra]
    return train(params, loss_fn, arrays, settings, key=key, seed=seed, folder=folder, **options)


def images_of(data: Dataset, rows: Any = None) -> np.ndarray:
    """Images in [0, 1]: all of them, the first ones by their number, or those at some positions."""
    rows = slice(rows) if rows is None or isinstance(rows, int) else rows
    return np.asarray(as_float(data.images[rows], data.levels))


def arrays_of(data: Dataset, count: int | None = None) -> Arrays:
    """The first images, in [0, 1], and their labels; all for None."""
    data = first(data, count)
    return images_of(data), np.asarray(data.labels)


def logits_of(apply_fn: ApplyFn, params: Params, images: np.ndarray) -> np.ndarray:
    """Logits of a whole data set, `[N, K]`."""
    return over_batches(partial(jax.jit(apply_fn), params), [images], mesh=data_mesh())


def accuracy(apply_fn: ApplyFn, params: Params, data: Arrays) -> float:
    """The fraction of the images whose predicted class is their label."""
    return float((logits_of(apply_fn, params, data[0]).argmax(1) == data[1]).mean())


compiled = cache(jit_attack)


def withstood(apply_fn: ApplyFn, params: Params, attack: Attack, eps: float, data: Arrays, seed: int) -> float:
    """Accuracy under an attack."""
    run, key, (images, labels) = compiled(attack, apply_fn), jax.random.key(seed), data
    fallen = over_batches(
        lambda x, labels, ids: run(key, params, x, labels, eps=eps, ids=ids).success,
        [images, labels, np.arange(len(labels), dtype=np.uint32)],
        min(500, len(labels)),
        data_mesh(),
    )
    return 1 - float(fallen.mean())


@cache
def threat(norm: str) -> Threat:
    """The threat of a norm, for images in [0, 1]."""
    return THREATS[norm]()


@cache
def _stages(norm: str, steps: int, queries: int) -> tuple[Stage, ...]:
    return autoattack_stages(threat(norm), num_classes=10, steps=steps, queries=queries)


def ensemble(
    apply_fn: ApplyFn, params: Params, data: Arrays, *, norm: str, eps: float, steps: int, queries: int, seed: int,
    folder: Path | None = None,
) -> Benchmark:  # fmt: skip
    """AutoAttack on some images; with a folder it continues an interrupted one."""
    return benchmark(jax.random.key(seed), apply_fn, params, *data, threat=threat(norm), eps=eps,
                     stages=_stages(norm, steps, queries), options=Options(256, data_mesh(), folder))  # fmt: skip


def curve(
    apply_fn: ApplyFn, params: Params, attack: Attack, data: Arrays, epsilons: Any, *, seed: int,
    folder: Path | None = None,
) -> list[float]:  # fmt: skip
    """Accuracy at each radius of an attack, where an image must withstand all smaller radii, too."""
    options = Options(mesh=data_mesh(), directory=folder)
    found = robustness_curve(jax.random.key(seed), attack, apply_fn, params, *data, epsilons=epsilons, options=options)
    return found.accuracy().tolist()

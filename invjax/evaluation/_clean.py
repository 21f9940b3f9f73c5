"""Which images a model gets right without any change, by the rule of an attack."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from invjax import _check, _logits
from invjax._batching import cached, correct, on_device, over_batches, same_on_hosts
from invjax.attacks import Attack, RandomModel
from invjax.attacks.building import bind, verdict
from invjax.evaluation._options import Options
from invjax.types import ApplyFn, Key, Params


def unbroken(
    key: Key,
    attack: Attack,
    apply_fn: ApplyFn | RandomModel,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    options: Options,
) -> np.ndarray:
    """Whether the attack has to change each image to succeed, `[N]`.

    Without a rule of success and without random numbers, these are the images that the model classifies correctly.
    Otherwise the rule of the attack (`top_k`, `confident`) or the majority of the draws decides.

    Raises:
        ValueError: the model does not return logits `[N, K]` or returns NaN, or labels have another shape or are out of
            range.
    """
    if attack.decision is None and not isinstance(apply_fn, RandomModel):
        return correct(apply_fn, params, images, labels, options.batch_size, options.mesh)
    ids = np.arange(len(images), dtype=np.uint32)
    _check.labels(labels, _logits.num_classes(bind(apply_fn, params, key, ids, len(images)), images, labels))
    same_on_hosts(options.mesh, "parameters", params, "load the same checkpoint on every host")
    run = _program(attack, apply_fn)
    none, success = over_batches(
        lambda *batch: run(key, params, *batch), [images, labels, ids], options.batch_size, options.mesh
    )
    if none.any():
        raise ValueError(f"the model's logits are NaN on {none.sum()} of {len(none)} images; check the parameters")
    return ~success


@cached
def _program(attack: Attack, apply_fn: ApplyFn | RandomModel) -> Callable[..., Any]:
    def run(key, params, x, labels, ids):
        return verdict(bind(apply_fn, params, key, ids, len(x)), x, labels, attack.targeted, attack.decision)

    return on_device(jax.jit(run))

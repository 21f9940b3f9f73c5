"""D_rand and D_det: adversarial examples of a whole data set, labelled with their targets.

Source: Ilyas et al. 2019, section 3.2.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from invjax import _check, _logits
from invjax.attacks import Attack
from invjax.attacks.building import check_images, check_radius
from invjax.features._construction import check_data, construct
from invjax.features._relabelling import check_targeted, relabel_by_attack
from invjax.features._storage import Constructed
from invjax.types import ApplyFn, Key, Params, Scalar


def relabelled_dataset(
    key: Key,
    attack: Attack,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    eps: Scalar,
    step_size: Scalar | None = None,
    metadata: dict[str, Any] | None = None,
    path: str | Path | None = None,
    **options: Any,
) -> Constructed:
    """Attack each image of a data set towards its target, and label it with the target: D_rand or D_det.

        targets = features.next_targets(labels, num_classes=10)
        attack = attacks.pgd(attacks.l2(), steps=100, targeted=True, random_start=False)
        features.relabelled_dataset(key, attack, net.apply, params, images, targets, eps=0.5, step_size=0.1)

    Args:
        key: random key of the attack.
        attack: a targeted attack; its recipe is the entry "attack" of the data set's recipe.
        apply_fn: `(params, x) -> logits`.
        params: parameters of the model.
        images: `[N, ...]` in the box of the attack's threat.
        targets: `[N]`, from `random_targets` or `next_targets`.
        eps: radius, in the attack's norm.
        step_size: step size of the attack; None is the attack's default.
        metadata: further entries of the recipe, such as the names of the data and of the model.
        path: the `.npz` file to write, as in `construct`.
        **options: `batch_size`, `part_size`, `mesh` and `description` of `construct`.

    Returns:
        The data set. Its details are "success" `[N]`, whether the model predicts the target, and "distance" `[N]`, the
        distance from the original image.

    Raises:
        ValueError: as in `relabel_by_attack` and `construct`.
        OSError: as in `construct`.
    """
    _check.key(key)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    check_data(images, targets, "targets")
    check_targeted(attack)
    check_images(attack, images, "images")
    check_radius(attack.threat, eps, images[:1])
    _check.labels(targets, _logits.num_classes(partial(apply_fn, params), images[:1], None), "targets")

    def make(params, key, ids, x, t):
        found = relabel_by_attack(key, attack, partial(apply_fn, params), x, t, eps=eps, step_size=step_size, ids=ids)
        return {"images": found.x, "labels": t, "success": found.success, "distance": found.distance}

    recipe = {
        "construction": "targeted attack",
        "attack": attack.recipe,
        "eps": float(eps),
        "step_size": None if step_size is None else float(step_size),
    }
    return construct(key, make, params, [images, targets], recipe=(metadata or {}) | recipe, path=path, **options)

"""D_R and D_NR: each image is replaced by one with its representation and the other features of another image.

Source: Ilyas et al. 2019, section 3.1.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.attacks.building import example_keys
from invjax.features._construction import check_data, construct
from invjax.features._inversion import check_features, robustify
from invjax.features._storage import Constructed
from invjax.types import ApplyFn, Key, Params, Scalar


def robust_dataset(
    key: Key,
    features_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int = 1000,
    step_size: Scalar = 0.1,
    start: str = "images",
    keep: str = "last",
    metadata: dict[str, Any] | None = None,
    path: str | Path | None = None,
    **options: Any,
) -> Constructed:
    """Rebuild each image of a data set from its representation: D_R of a robust model, D_NR of a standard one.

        features.robust_dataset(key, models.penultimate(net), params, images, labels, path="d-r.npz")

    Args:
        key: random key of the starting images.
        features_fn: `(params, x) -> representation [B, ...]`.
        params: parameters of the model.
        images: `[N, ...]` in [0, 1].
        labels: `[N]`, which the rebuilt images inherit.
        steps: number of gradient steps, as in `robustify`.
        step_size: length of a step, as in `robustify`.
        start: "images" starts each search from an image of the data set, drawn with replacement and independently of
            its label; "noise" starts it from noise.
        keep: "last" or "best", as in `robustify`.
        metadata: further entries of the recipe, such as the names of the data and of the model.
        path: the `.npz` file to write, as in `construct`.
        **options: `batch_size`, `part_size`, `mesh` and `description` of `construct`.

    Returns:
        The data set. Its details are "distance" `[N]`, the distance of the representations, and "start" `[N]`, the
        position of the image that the search started from, or -1.

    Raises:
        ValueError: as in `robustify` and `construct`, or if there is not one label for each image.
        OSError: as in `construct`.
    """
    _check.key(key)
    _check.function("features_fn", features_fn, "(params, x) -> features")
    _check.one_of("start", start, ("images", "noise"))
    check_data(images, labels)
    _check.within("images", images, (0.0, 1.0))
    _check.labels(labels, np.iinfo(np.int32).max)
    check_features(partial(features_fn, params), images[:1], int(np.max(labels)) + 1)
    draws, search = jax.random.split(key)
    arrays: list[Any] = [images, labels, np.full(len(images), -1, np.int32)]
    if start == "images":
        arrays[2] = np.asarray(
            jax.vmap(lambda key: jax.random.randint(key, (), 0, len(images), jnp.int32))(
                example_keys(draws, None, len(images))
            )
        )
        arrays.append(_Rows(images, arrays[2]))

    def make(params, key, ids, x, y, drawn, x0=None):
        found = robustify(
            key, partial(features_fn, params), x, x0, steps=steps, step_size=step_size, keep=keep, ids=ids
        )
        return {"images": found.x, "labels": y, "distance": found.distance, "start": drawn}

    length = float(step_size)
    recipe = {
        "construction": "inversion",
        "inversion": f"robustify(start={start}, steps={steps}, step_size={length:g}, keep={keep})",
        "steps": steps,
        "step_size": length,
        "start": start,
        "keep": keep,
    }
    return construct(search, make, params, arrays, recipe=(metadata or {}) | recipe, path=path, **options)


class _Rows:
    """The array `array[index]`, which computes each slice on demand."""

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self.array, self.index, self.dtype = array, index, array.dtype
        self.shape = (len(index), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.array[self.index[rows]]

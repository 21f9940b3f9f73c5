"""How an evaluation uses the machine, and where it keeps finished parts."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from invjax._store import Kept, digest, digest_tree
from invjax.types import Params


class Options(NamedTuple):
    """How an evaluation uses the machine. No option changes which images are attacked or with which random numbers.

    `benchmark`, `robustness_curve`, `certificate_curve`, `report` and `agreement` take it.

    Attributes:
        batch_size: images in a batch; with a mesh rounded up to a multiple of its size.
        mesh: devices to spread each batch over, from `training.data_mesh()`; None is one device.
        directory: folder of finished parts, from which an interrupted evaluation continues; None keeps nothing.
    """

    batch_size: int = 128
    mesh: Mesh | None = None
    directory: str | Path | None = None


def kept(
    options: Options,
    filename: str,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    correct: np.ndarray,
    **settings: Any,
) -> Kept:
    """The kept results of an evaluation: refused by a call with other settings, parameters, data or clean predictions.

    Args:
        options: with the directory; without one nothing is kept and nothing is hashed.
        filename: the file in that directory.
        params: parameters of the model.
        images: `[N, ...]`.
        labels: `[N]`.
        correct: `[N]`, whether the model classifies the images correctly; it tells models of equal parameters apart.
        **settings: what else the results depend on, as JSON takes it.
    """
    if options.directory is None:
        return Kept(None, {})
    identity = settings | {
        "labels": digest({"labels": labels}),
        "images": digest({"images": images}),
        "params": digest_tree(params),
        "correct": digest({"correct": correct}),
    }
    return Kept(Path(options.directory) / filename, identity)

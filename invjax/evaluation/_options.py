"""How an evaluation uses the machine, and where it keeps finished parts."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from invjax import _check, _explain
from invjax._store import Kept, digest, digest_tree, local_path
from invjax.types import Params


class Options(NamedTuple):
    """How an evaluation uses the machine. No option changes which images are attacked or with which random numbers.

    `benchmark`, the three curves, `report` and `agreement` take this record.

    Attributes:
        batch_size: number of images in a batch, rounded up to a multiple of the number of devices.
        mesh: devices to spread each batch over, from `training.data_mesh()` or `jax.make_mesh`, with one axis, "data";
            None is one device.
        directory: folder of finished parts, from which an interrupted evaluation continues; None keeps nothing.
    """

    batch_size: int = 128
    mesh: Mesh | None = None
    directory: str | Path | None = None


def check_options(options: Any) -> None:
    """Check the options of an evaluation.

    Raises:
        ValueError: they are no `Options`, the batch size is no positive whole number, or the directory is an address.
    """
    if not isinstance(options, Options):
        raise ValueError(
            f"options must be evaluation.Options; got {_explain.described(options)}; write Options(batch_size=128)"
        )
    _check.count(batch_size=options.batch_size)
    if options.directory is not None:
        local_path(options.directory)


def kept(
    options: Options,
    filename: str,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    correct: np.ndarray,
    **settings: Any,
) -> Kept:
    """The stored results of an evaluation with the same settings, parameters, data and clean predictions.

    Args:
        options: its `directory` holds the file. With None no result is stored, and no array is hashed.
        filename: the file in that directory.
        params: parameters of the model.
        images: `[N, ...]`, the images of the data set.
        labels: `[N]`, their true classes.
        correct: `[N]`, whether the model classifies the images correctly, which distinguishes models of equal
            parameters.
        **settings: all other values that the results depend on, in types that JSON can hold.

    Raises:
        ValueError: a function without a name, which the file could not tell from others, is among the settings.
    """
    if options.directory is None:
        return Kept(None, {})
    if "<lambda>" in str(settings):
        raise ValueError(
            f"a directory needs an attack whose recipe tells it from others; got {settings.get('attack')}; "
            "give its loss a name by def"
        )
    identity = settings | {
        "labels": digest({"labels": labels}),
        "images": digest({"images": images}),
        "params": digest_tree(params),
        "correct": digest({"correct": correct}),
    }
    return Kept(local_path(options.directory) / filename, identity)

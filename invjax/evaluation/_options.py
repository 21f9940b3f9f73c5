"""How an evaluation runs: what does not change its numbers."""

from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh


class Options(NamedTuple):
    """How an evaluation uses the machine; shared by `benchmark`, `robustness_curve`, `certificate_curve` and `report`.

    Attributes:
        batch_size: images in a batch; with a mesh rounded up to a multiple of its size.
        mesh: spread each batch over these devices, from `training.data_mesh()`; None is one device.
        directory: keep finished parts there, and go on from them after an interruption; None keeps nothing.
    """

    batch_size: int = 128
    mesh: Mesh | None = None
    directory: str | Path | None = None

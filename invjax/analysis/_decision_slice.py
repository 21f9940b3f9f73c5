r"""A classifier on a plane through three points, as a picture of its decision regions.

    x(a, b) = origin + a u + b v

A plane through two images and the black image shows how large their decision regions are. A plane through an image and
its metamer shows how far the decision region of the image reaches towards the metamer.

Source: Jacobsen et al. 2019, figure 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from invjax import _check
from invjax._batching import on_device, over_batches
from invjax.analysis._decision_checks import check_finite, check_logits, check_points
from invjax.types import Array, LogitsFn


class Slice(NamedTuple):
    """The logits of a classifier on a grid in a plane, as host arrays.

    Row i and column j belong to the point with coordinates `(first_axis[j], second_axis[i])`.

    Attributes:
        first_axis: ascending coordinates along u, `[R]`.
        second_axis: ascending coordinates along v, `[R]`.
        logits: the logits at each point of the grid, `[R, R, K]`.
        anchors: coordinates of origin, first and second, `[3, 2]`.
    """

    first_axis: Float[np.ndarray, " points"]
    second_axis: Float[np.ndarray, " points"]
    logits: Float[np.ndarray, "points points classes"]
    anchors: Float[np.ndarray, "3 2"]

    def labels(self) -> Int[np.ndarray, "points points"]:
        """The class with the largest logit, `[R, R]`."""
        return self.logits.argmax(-1)

    def margins(self) -> Float[np.ndarray, "points points"]:
        """The largest logit minus the second largest, `[R, R]`; 0 on a decision boundary."""
        ordered = np.sort(self.logits, -1)
        return ordered[..., -1] - ordered[..., -2]

    def disc(
        self, center: Sequence[float | int] | np.ndarray, radius: float | int
    ) -> Bool[np.ndarray, "points points"]:
        """Whether each point of the grid lies in a disc.

        Args:
            center: coordinates of the center along u and v.
            radius: radius of the disc, in units of these coordinates.

        Returns:
            `[R, R]`, booleans.
        """
        away = np.hypot(self.first_axis[None] - center[0], self.second_axis[:, None] - center[1])
        return away <= radius


def decision_slice(
    logits_fn: LogitsFn,
    origin: Float[Array, "..."],
    first: Float[Array, "..."],
    second: Float[Array, "..."],
    *,
    orthonormal: bool = True,
    extent: Sequence[Sequence[float | int]] | None = None,
    resolution: int = 101,
    batch_size: int = 500,
    mesh: Mesh | None = None,
) -> Slice:
    """The logits on a grid in the plane through `origin`, `first` and `second`.

    In an orthonormal basis u points from `origin` to `first`, v is the part of `second - origin` orthogonal to u, and
    both have length 1, so coordinates are Euclidean distances in the units of the images. Otherwise
    `u = first - origin` and `v = second - origin`, so `first` is at (1, 0) and `second` at (0, 1).

    >>> import jax.numpy as jnp
    >>> halves = lambda x: jnp.stack([x[:, 0], 1 - x[:, 0]], -1)
    >>> corners = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> decision_slice(halves, *corners, extent=[(0, 1), (0, 1)], resolution=2).labels().tolist()
    [[1, 0], [1, 0]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`; compile it with `jax.jit` first.
        origin: the image at coordinates (0, 0), `[...]`.
        first: another image of the same shape.
        second: an image of the same shape that is not on the line through the other two.
        orthonormal: whether the basis is orthonormal.
        extent: `((low, high), (low, high))`, the range of each coordinate. The default is a square around the three
            points, twice as wide as their largest extent along an axis.
        resolution: number R of grid points along each axis.
        batch_size: number of points per batch.
        mesh: devices over which each batch is spread.

    Returns:
        The logits, with the coordinates of the grid and of the three points.

    Raises:
        ValueError: the points have different shapes or an integer dtype, contain NaN or lie on one line; the extent is
            not two ascending ranges; the resolution is below 2; the logits are not `[B, K]` or not finite.
    """
    _check.function("logits_fn", logits_fn, "x -> logits")
    check_points(origin=origin, first=first, second=second)
    shape, dtype = origin.shape, np.asarray(origin).dtype
    start, one, two = (np.asarray(point, np.float64).ravel() for point in (origin, first, second))
    basis = np.stack([one - start, two - start])
    lengths = np.linalg.norm(basis, axis=1)
    # if v is shorter than the rounding errors of the points, its direction is noise
    rounding = 8 * float(jnp.finfo(dtype).eps) * max(np.linalg.norm(point) for point in (start, one, two))
    u = basis[0] / max(lengths[0], np.finfo(float).tiny)
    across = basis[1] - basis[1] @ u * u
    height = float(np.linalg.norm(across))
    if min(lengths[0], height) <= rounding:
        raise ValueError(
            f"origin, first and second must not lie on one line; got first - origin of length {lengths[0]:.3g} and "
            f"second {height:.3g} away from that line; choose another point"
        )
    anchors = np.array([[0, 0], [1, 0], [0, 1]], np.float64)
    if orthonormal:
        anchors = np.array([[0, 0], [lengths[0], 0], [basis[1] @ u, height]])
        basis = np.stack([u, across / height])
    if resolution < 2:
        raise ValueError(f"resolution must be 2 or more points along each axis; got {resolution}")
    x_axis, y_axis = (np.linspace(low, high, resolution) for low, high in _ranges(extent, anchors))
    grid = np.stack(np.meshgrid(x_axis, y_axis), -1).reshape(-1, 2)
    base, u, v = (vector.astype(dtype) for vector in (start, *basis))

    def at(coordinates):
        x = base[None] + coordinates[:, :1] * u[None] + coordinates[:, 1:] * v[None]
        logits = on_device(logits_fn)(x.reshape(-1, *shape))
        check_logits(logits, len(x))
        return logits

    logits = over_batches(at, [grid.astype(dtype)], batch_size, mesh)
    check_finite(logits, "pass a smaller extent")
    return Slice(x_axis, y_axis, logits.reshape(resolution, resolution, -1), anchors)


def _ranges(extent, anchors) -> np.ndarray:
    if extent is None:
        low, high = anchors.min(0), anchors.max(0)
        middle, spread = (low + high) / 2, (high - low).max()
        return np.stack([middle - spread, middle + spread], 1)
    ranges = np.asarray(extent, np.float64)
    if ranges.shape != (2, 2) or not np.isfinite(ranges).all() or not (ranges[:, 0] < ranges[:, 1]).all():
        raise ValueError(f"extent must be ((low, high), (low, high)) with low < high; got {extent}")
    return ranges

r"""What a classifier says on a plane through three points, and on the line between two.

    x(a, b) = origin + a u + b v

A high-dimensional decision region cannot be seen; a slice of it can. Through two images and the black one it shows how
much of their neighbourhood is theirs; through an image and its metamer, how far a classifier carries the class of the
one into the region of the other.

Source: Jacobsen et al. 2019, figure 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from invjax import _check
from invjax._batching import over_batches
from invjax.types import Array, LogitsFn


class Slice(NamedTuple):
    """A classifier on a plane; host arrays. Row i, column j is the point `(first_axis[j], second_axis[i])`.

    Attributes:
        first_axis: `[R]`, ascending coordinates along u.
        second_axis: `[R]`, along v.
        logits: `[R, R, K]`.
        anchors: `[3, 2]`, coordinates of origin, first and second.
    """

    first_axis: Float[np.ndarray, " points"]
    second_axis: Float[np.ndarray, " points"]
    logits: Float[np.ndarray, "points points classes"]
    anchors: Float[np.ndarray, "3 2"]

    def labels(self) -> Int[np.ndarray, "points points"]:
        """The class with the largest logit, `[R, R]`."""
        return self.logits.argmax(-1)

    def margins(self) -> Float[np.ndarray, "points points"]:
        """The largest logit minus the second largest, `[R, R]`: 0 on a boundary."""
        ordered = np.sort(self.logits, -1)
        return ordered[..., -1] - ordered[..., -2]

    def disc(
        self, center: Sequence[float | int] | np.ndarray, radius: float | int
    ) -> Bool[np.ndarray, "points points"]:
        """Which points are within `radius` of the coordinates `center`, `[R, R]` booleans."""
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

    With an orthonormal basis u points from `origin` to `first`, v is the part of `second - origin` orthogonal to u,
    and both have length 1: coordinates are Euclidean distances in the units of the images, and circles are circles.
    Without, `u = first - origin` and `v = second - origin` as they are: `first` is at (1, 0) and `second` at (0, 1).

    >>> import jax.numpy as jnp
    >>> halves = lambda x: jnp.stack([x[:, 0], 1 - x[:, 0]], -1)
    >>> corners = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> decision_slice(halves, *corners, extent=[(0, 1), (0, 1)], resolution=2).labels().tolist()
    [[1, 0], [1, 0]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`; jit it first.
        origin: one example, `[...]`.
        first: of the same shape.
        second: of the same shape, not on the line through the other two.
        orthonormal: which basis, as above.
        extent: `((low, high), (low, high))`, the range of each coordinate; default: a square centered on the three
            points, twice as wide as they are apart along the axis where that is more.
        resolution: R, grid points along each axis.
        batch_size: points evaluated at once.
        mesh: spread each batch over these devices.

    Raises:
        ValueError: points of different shapes, of an integer dtype, with NaN, or on one line; an extent that is not two
            ascending ranges; a resolution below 2; logits that are not `[B, K]` or not finite.
    """
    _check_points(origin=origin, first=first, second=second)
    shape, dtype = origin.shape, np.asarray(origin).dtype
    start, one, two = (np.asarray(point, np.float64).ravel() for point in (origin, first, second))
    basis = np.stack([one - start, two - start])
    lengths = np.linalg.norm(basis, axis=1)
    # as orthogonal as the rounding of the input allows: below that, the direction of v would be noise
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
        logits = logits_fn(x.reshape(-1, *shape))
        _check_logits(logits, len(x))
        return logits

    logits = over_batches(at, [grid.astype(dtype)], batch_size, mesh)
    _check_finite(logits, "give a smaller extent")
    return Slice(x_axis, y_axis, logits.reshape(resolution, resolution, -1), anchors)


def decision_segment(
    logits_fn: LogitsFn,
    first: Float[Array, "batch ..."],
    second: Float[Array, "batch ..."],
    *,
    resolution: int = 21,
    batch_size: int = 500,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "batch points classes"]:
    """The logits on the straight line from each of `first` to its partner in `second`, `[B, R, K]`, both ends included.

    >>> import jax.numpy as jnp
    >>> halves = lambda x: jnp.stack([x[:, 0], 1 - x[:, 0]], -1)
    >>> decision_segment(halves, jnp.zeros((1, 1)), jnp.ones((1, 1)), resolution=4).argmax(-1).tolist()
    [[1, 1, 0, 0]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`; jit it first.
        first: where the lines begin, `[B, ...]`.
        second: where they end, `[B, ...]`.
        resolution: R, equally spaced points on each.
        batch_size: points evaluated at once.
        mesh: spread each batch over these devices.

    Raises:
        ValueError: batches of different shapes, of an integer dtype, or with NaN; a resolution below 2; logits that are
            not `[B, K]` or not finite.
    """
    _check_points(first=first, second=second)
    if resolution < 2:
        raise ValueError(f"resolution must be 2 or more points on each line, its ends; got {resolution}")
    shares = np.linspace(0, 1, resolution, dtype=first.dtype).reshape(1, -1, *[1] * (first.ndim - 1))

    def at(start, end):
        x = (1 - shares) * start[:, None] + shares * end[:, None]
        logits = logits_fn(x.reshape(-1, *x.shape[2:]))
        _check_logits(logits, len(start) * resolution)
        return logits.reshape(len(start), resolution, -1)

    logits = over_batches(at, [first, second], max(1, batch_size // resolution), mesh)
    _check_finite(logits, "bring the ends nearer to the data")
    return logits


def _check_points(**points):
    shapes = {name: point.shape for name, point in points.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"points must have one shape; got {shapes}; reshape or crop them")
    for name, point in points.items():
        _check.floating(name, point)
        _check.finite(name, point)


def _check_logits(logits, count):
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        raise ValueError(
            f"logits_fn must map {count} examples to logits [{count}, classes]; got {logits.shape}; "
            "two classes need two logits, such as [-z, z]"
        )


def _check_finite(logits, fix):
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        raise ValueError(f"logits_fn gives {bad} NaN or infinite values of {logits.size}; {fix}")


def _ranges(extent, anchors) -> np.ndarray:
    if extent is None:
        low, high = anchors.min(0), anchors.max(0)
        middle, spread = (low + high) / 2, (high - low).max()
        return np.stack([middle - spread, middle + spread], 1)
    ranges = np.asarray(extent, np.float64)
    if ranges.shape != (2, 2) or not np.isfinite(ranges).all() or not (ranges[:, 0] < ranges[:, 1]).all():
        raise ValueError(f"extent must be ((low, high), (low, high)) with low < high; got {extent}")
    return ranges

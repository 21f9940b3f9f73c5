r"""Adversarial spheres: two classes, uniform on concentric spheres, where both kinds of failure have a closed form.

A point of radius `R1` is inner, class 0, one of radius `R2 > R1` outer, class 1; between them lies `t = (R1 + R2) / 2`.
In spherical coordinates a change of the radius is semantic and a change of the direction is nuisance. Two classifiers:

    max margin    D*(x) = sign(|x| - t)               blind to all nuisance, sensitive to all that is semantic
    misaligned    D(x) = sign(|x_1, ..., x_(d-1)| - t)         does not look at the last coordinate

In high dimension the second is as good on the data: of a uniform direction the square of one coordinate is
`B ~ Beta(1/2, (d-1)/2)`, about 1/d. Yet every inner point can be moved to the outer sphere along that coordinate, and
the logits stay what they were.

Closed forms are Python floats, computed in float64 whatever the precision of JAX.

Source: Gilmer et al. 2018, *Adversarial Spheres*, for the data; Jacobsen et al. 2019, examples 7 and 8. The closed
forms are ours: the paper evaluates the misaligned classifier on samples.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from invjax import _check
from invjax.types import Array, Key, Labels, LogitsFn, PerExample

Points = Float[Array, "batch dimension"]
Radii = tuple[float | int, float | int]


class Moved(NamedTuple):
    """What changing the last coordinate does to each point.

    Attributes:
        x: `[B, d]`, on the sphere asked for; the point itself where that is out of reach.
        possible: `[B]`, whether it is in reach: the other coordinates are no longer than the radius.
        distance: `[B]`, how far the last coordinate moved.
    """

    x: Points
    possible: Bool[Array, " batch"]
    distance: PerExample


def sample(key: Key, *, count: int, dimension: int, radii: Radii) -> tuple[Points, Labels]:
    """Points uniform on the two spheres, and their labels.

    >>> x, labels = sample(jax.random.key(0), count=4, dimension=100, radii=(1, 10))
    >>> labels.tolist(), jnp.linalg.norm(x, axis=1).round(3).tolist()
    ([0, 1, 0, 1], [1.0, 10.0, 1.0, 10.0])

    Args:
        key: random key, for the directions.
        count: N; every second point is outer, so the classes are balanced.
        dimension: d, at least 2.
        radii: `(R1, R2)`, inner and outer.

    Returns:
        `x [N, d]` and `labels [N]`, 0 inner and 1 outer.

    Raises:
        ValueError: a count that is not positive, a dimension below 2, radii that are not 0 < R1 < R2.
    """
    _check_spheres(dimension, radii)
    _check.positive(count=count)
    labels = jnp.arange(count, dtype=jnp.int32) % 2
    # drawn as one axis: random numbers of a matrix take XLA longer to compile
    directions = jax.random.normal(key, (count * dimension,)).reshape(count, dimension)
    return directions * (jnp.asarray(radii, directions.dtype)[labels] / _length(directions))[:, None], labels


def max_margin(radii: Radii) -> LogitsFn:
    """The logits `[-z, z]`, `z = |x| - t`, of the classifier with the largest margin: `(R2 - R1) / 2` everywhere."""
    return _by_length(radii, lambda x: x)


def misaligned(radii: Radii) -> LogitsFn:
    """The logits `[-z, z]`, `z = |x_1, ..., x_(d-1)| - t`, of the classifier that does not look at the last coordinate.

    >>> x, labels = sample(jax.random.key(0), count=1000, dimension=100, radii=(1, 10))
    >>> bool((misaligned((1, 10))(x).argmax(-1) == labels).all())
    True
    """
    return _by_length(radii, lambda x: x[:, :-1])


def change_last(x: Points, *, radius: float | int, far: bool = False) -> Moved:
    """Move points to the sphere of `radius` along the last coordinate: `x_d -> +- sqrt(radius^2 - |x_1..(d-1)|^2)`.

    From the inner to the outer sphere always possible, and an attack on `misaligned` that changes no logit. The other
    way only for the outer points of `reachable`.

    >>> inward = change_last(jnp.array([[0.6, 0.8], [3.0, 4.0]]), radius=1)
    >>> inward.possible.tolist()
    [True, False]

    Args:
        x: `[B, d]`.
        radius: of the sphere to go to.
        far: take the root whose sign is not that of `x_d`: a longer way.

    Raises:
        ValueError: x is not floating point `[B, d]` with d at least 2, or holds NaN; a radius that is not positive.
    """
    _check_points(x)
    _check.positive(radius=radius)
    x = jnp.asarray(x)
    last = x[:, -1]
    rest = radius**2 - (x[:, :-1] ** 2).sum(-1)
    # a point that is there already may round to just outside
    possible = rest >= -8 * jnp.finfo(x.dtype).eps * radius**2
    root = jnp.sqrt(jnp.maximum(rest, 0)) * jnp.where((last < 0) != far, -1, 1)
    moved = jnp.where(possible, root, last)
    return Moved(x.at[:, -1].set(moved), possible, jnp.abs(moved - last))


def misaligned_error(*, dimension: int, radii: Radii) -> float:
    """The error of `misaligned` on the outer sphere, `P(B > 1 - (t / R2)^2)`; on the inner one it makes none.

    The tail itself is computed, not one minus the rest, so that it is exact where it is tiny.

    >>> f"{misaligned_error(dimension=100, radii=(1, 10)):.3g}"
    '1.89e-27'

    Raises:
        ValueError: as for `sample`.
    """
    _check_spheres(dimension, radii)
    return _shorter(dimension, sum(radii) / 2 / radii[1])


def reachable(*, dimension: int, radii: Radii) -> float:
    """The share of outer points from which `change_last` reaches the inner sphere: `P(B > 1 - (R1 / R2)^2)`.

    Raises:
        ValueError: as for `sample`.
    """
    _check_spheres(dimension, radii)
    return _shorter(dimension, radii[0] / radii[1])


def mean_distance(*, dimension: int, radii: Radii, far: bool = False) -> float:
    r"""How far `change_last` moves an inner point to the outer sphere, on average.

    It is `sqrt(R2^2 - R1^2 + x_d^2) - |x_d|`, with a plus for the far root, and with `c = R2^2 - R1^2`

        E sqrt(c + x_d^2) = sqrt(c) 2F1(-1/2, 1/2; d/2; -R1^2 / c)
        E |x_d| = R1 Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)).

    >>> round(mean_distance(dimension=100, radii=(1, 10)), 4)
    9.8704

    Raises:
        ValueError: as for `sample`.
    """
    _check_spheres(dimension, radii)
    inner, outer = radii
    square = outer**2 - inner**2
    root = math.sqrt(square) * float(special.hyp2f1(-0.5, 0.5, dimension / 2, -(inner**2) / square))
    last = inner * math.exp(math.lgamma(dimension / 2) - math.lgamma((dimension + 1) / 2)) / math.sqrt(math.pi)
    return root + last if far else root - last


def mean_margin(*, dimension: int, radii: Radii) -> tuple[float, float]:
    r"""How far points lie from the boundary of `misaligned`, on average: of the inner and of the outer sphere.

    The margin is `+- (|x_1, ..., x_(d-1)| - t)`, negative on an error, and the length of these coordinates is on
    average `R Gamma(d/2)^2 / (Gamma((d-1)/2) Gamma((d+1)/2))`. In high dimension both come near to `(R2 - R1) / 2`, the
    margin of `max_margin`: no small perturbation shows what is wrong with it.

    >>> [round(margin, 3) for margin in mean_margin(dimension=100, radii=(1, 10))]
    [4.505, 4.45]

    Raises:
        ValueError: as for `sample`.
    """
    _check_spheres(dimension, radii)
    logs = (2 * math.lgamma(dimension / 2), math.lgamma((dimension - 1) / 2), math.lgamma((dimension + 1) / 2))
    share, middle = math.exp(logs[0] - logs[1] - logs[2]), sum(radii) / 2
    return middle - radii[0] * share, radii[1] * share - middle


def _by_length(radii, seen):
    _check_radii(radii)

    def logits_fn(x):
        _check_points(x)
        z = _length(seen(jnp.asarray(x))) - sum(radii) / 2
        return jnp.stack([-z, z], -1)

    return logits_fn


def _length(x):
    """Of each row, with a gradient of zero at zero."""
    square = (x**2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _shorter(dimension, share):
    """P(|x_1, ..., x_(d-1)| < share) on the unit sphere: that square is `1 - B ~ Beta((d-1)/2, 1/2)`."""
    return float(special.betainc((dimension - 1) / 2, 0.5, share**2))


def _check_radii(radii):
    if len(radii) != 2 or not 0 < radii[0] < radii[1] < math.inf:
        raise ValueError(f"radii must be (inner, outer) with 0 < inner < outer; got {radii}")


def _check_spheres(dimension, radii):
    _check_radii(radii)
    if dimension < 2:
        raise ValueError(f"dimension must be 2 or more, one coordinate and the last; got {dimension}")


def _check_points(x):
    if np.ndim(x) != 2 or np.shape(x)[1] < 2:
        raise ValueError(f"points must have shape [batch, dimension], dimension 2 or more; got {np.shape(x)}")
    _check.floating("points", x)
    _check.finite("points", x)

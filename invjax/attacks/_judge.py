r"""A judge that stands in for people: several models, and a label only where most of them see the same.

    label(x) = c    if at least a share `agreement` of the voters puts c first,    else -1: there is no saying

Invariance attacks stop at the first of many images that the judge accepts, and so they find mistakes of the judge. It
makes fewer than its voters if these are unlike each other: other architectures, other data, a density beside networks.

Source: Tramèr et al. 2020, section 4.2, where 40 people label each image and 70 % of them must agree.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Int

from invjax.types import Array, LogitsFn


def judge(voters: Sequence[LogitsFn], *, agreement: float | int = 0.7) -> Callable[[Array], Int[Array, " batch"]]:
    """The class that enough of the voters see, or none.

    A voter whose largest logit is shared by two classes, or whose logits hold a NaN, abstains: it counts among the
    voters and for no class. One voter alone is always agreed with itself, so its judge says whatever it sees.

    >>> dark = lambda x: jnp.stack([1 - x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1)
    >>> corner = lambda x: jnp.stack([1 - x[:, 0, 0, 0], x[:, 0, 0, 0]], 1)
    >>> x = jnp.zeros((2, 4, 4, 1)).at[1, 0, 0, 0].set(1)
    >>> judge([dark, corner])(x).tolist()
    [0, -1]

    Args:
        voters: `x [B, ...] -> logits [B, K]`, one K for all of them, such as `partial(net.apply, params)`.
        agreement: the share of them that makes a label, above 1/2, so that there is one at most; 1 asks for all.

    Returns:
        `x [B, ...] -> labels [B]`, -1 where fewer agree. Pure, so jit it: as the `judge` of `linf_invariance` and
        `l0_invariance` it is called for each batch.

    Raises:
        ValueError: no voters, an agreement outside (1/2, 1], voters of different shapes (when called).
    """
    voters = tuple(voters)
    if not voters:
        raise ValueError("voters must hold one function or more; got none; pass [partial(net.apply, params), ...]")
    if not 0.5 < agreement <= 1:
        raise ValueError(
            f"agreement must be above 1/2 and at most 1, or two classes could have it; got agreement={agreement}"
        )
    needed = math.ceil(agreement * len(voters) - 1e-9)  # 0.7 of 10 are 7, also after rounding

    def label(x: Array) -> Int[Array, " batch"]:
        counts = votes(voters, x)
        return jnp.where(counts.max(1) >= needed, counts.argmax(1), -1)

    return label


def votes(voters: Sequence[LogitsFn], x: Array) -> Int[Array, "batch classes"]:
    """How many of the voters see each class; together fewer than there are voters where some abstain.

    Raises:
        ValueError: logits that are not `[B, K]` with one K.
    """
    shapes = [jax.eval_shape(voter, x).shape for voter in voters]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][0] != len(x):
        raise ValueError(f"every voter must map images {x.shape} to logits [{len(x)}, classes]; got {shapes}")
    x = jnp.asarray(x)
    return jnp.stack([_first_alone(voter(x)) for voter in voters]).sum(0)


def _first_alone(logits):
    """1 for the class that is above all others, else 0, `[B, K]`."""
    first = logits == logits.max(1, keepdims=True)  # nothing equals NaN
    return jnp.where(first.sum(1, keepdims=True) == 1, first, False).astype(jnp.int32)

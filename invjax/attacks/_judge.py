r"""A judge in the place of people: several models vote, and an image gets a label only if enough of them agree.

    label(x) = c    if at least a fraction `agreement` of the voters predicts c,    else -1: no class

Invariance attacks stop at the first of many images that the judge accepts, which may be a mistake of the judge.
The judge makes fewer mistakes than its voters if the voters differ: in architecture, in training data, or in kind, such
as networks and a density.

Source: Tramèr et al. 2020, section 4.2, where 40 people label each image and 70 % of them must agree.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Int

from invjax import _logits
from invjax.types import Array, LogitsFn


def judge(voters: Sequence[LogitsFn], *, agreement: float | int = 0.7) -> Callable[[Array], Int[Array, " batch"]]:
    """A judge that returns the class that enough of the voters predict, or -1.

    A voter abstains if two classes share its largest logit or if its logits hold a NaN. The fraction `agreement` still
    includes this voter. A single voter always agrees with itself, so the judge returns its prediction.

    >>> dark = lambda x: jnp.stack([1 - x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1)
    >>> corner = lambda x: jnp.stack([1 - x[:, 0, 0, 0], x[:, 0, 0, 0]], 1)
    >>> x = jnp.zeros((2, 4, 4, 1)).at[1, 0, 0, 0].set(1)
    >>> judge([dark, corner])(x).tolist()
    [0, -1]

    Args:
        voters: functions `x [B, ...] -> logits [B, K]` with the same K, such as `partial(net.apply, params)`.
        agreement: the fraction of the voters that must agree, above 1/2, so that at most one class has it; 1 requires
            all of them.

    Returns:
        `x [B, ...] -> labels [B]`, -1 where fewer agree. Pass it through `jax.jit` before `linf_invariance` or
        `l0_invariance`, which call it for each batch.

    Raises:
        ValueError: there are no voters, or the agreement is outside (1/2, 1]. When the judge is called: the logits of
            the voters have different shapes.
    """
    voters = tuple(voters)
    if not voters:
        raise ValueError("voters must hold one function or more; got none; pass [partial(net.apply, params), ...]")
    if not 0.5 < agreement <= 1:
        raise ValueError(
            f"agreement must be above 1/2 and at most 1, or two classes could reach it; got agreement={agreement}; "
            "use 0.7 as in the published study"
        )
    needed = math.ceil(agreement * len(voters) - 1e-9)  # the tolerance makes 0.7 of 10 voters 7 voters

    def label(x: Array) -> Int[Array, " batch"]:
        counts = votes(voters, x)
        return jnp.where(counts.max(1) >= needed, counts.argmax(1), -1)

    return label


def votes(voters: Sequence[LogitsFn], x: Array) -> Int[Array, "batch classes"]:
    """The number of voters that predict each class; voters that abstain count for no class.

    Raises:
        ValueError: the logits of a voter are not `[B, K]` with the same K for all.
    """
    classes = [_logits.num_classes(voter, x, None) for voter in voters]
    if len(set(classes)) != 1:
        raise ValueError(
            f"every voter must map images {x.shape} to logits [{len(x)}, classes]; got {classes} classes; "
            "give all voters the same classes"
        )
    x = jnp.asarray(x)
    return jnp.stack([_first_alone(voter(x)) for voter in voters]).sum(0)


def _first_alone(logits):
    """1 for the class whose logit exceeds all others, else 0, `[B, K]`."""
    # one operation reads the logits: a comparison with their maximum may compute them twice, with different rounding
    (largest, second), classes = (part.T for part in jax.lax.top_k(logits, 2))
    alone = (largest > second) & ~jnp.isnan(logits).any(1)
    return jnp.where(alone[:, None], jax.nn.one_hot(classes[0], logits.shape[1], dtype=jnp.int32), 0)

"""Gradients without stored activations: the backward pass recomputes each activation from the output by inversion.

Source: Gomez et al. 2017, *The Reversible Residual Network*, generalised to any chain and to log-determinants.
"""

from collections.abc import Sequence

import jax

from invjax import _check
from invjax.bijectors._bijector import Bijector, Reversible
from invjax.bijectors._chain import chain, reversible_of


def memory_saving(layers: Sequence[Bijector], anchor_every: int | None = 8) -> Bijector:
    """The same parameters, values and gradients as `chain(layers)`, without storing the activations.

    The backward pass recomputes the activations from the output by inversion, so the memory of a gradient step does not
    grow with depth. The rounding errors of the inversion grow with depth and with the conditioning of the layers.
    Anchors limit them: the forward pass stores the activation after every `anchor_every` layers (and after every
    `anchor_every` blocks inside `repeat`), and the backward pass continues from the stored value. With
    `anchor_every=None` only the output is stored, which suits well-conditioned networks.

    This bijector supports reverse mode only: `jax.jvp` and `jax.jacfwd` raise TypeError. For forward mode use
    `chain(layers)` with the same parameters.

    Args:
        layers: bijectors, as for `chain`.
        anchor_every: layers between two stored activations, or None.

    Raises:
        ValueError: `anchor_every` is not positive.
    """
    if anchor_every is not None:
        _check.positive(anchor_every=anchor_every)
    plain = chain(layers)
    rule: Reversible = reversible_of(plain, anchor_every)

    @jax.custom_vjp
    def forward(params, x):
        return plain.forward(params, x)

    def forward_saving(params, x):
        z, logdet, saved = rule.forward(params, x)
        return (z, logdet), (params, z, saved)

    def backward(residual, cotangents):
        params, z, saved = residual
        _, dparams, dx = rule.pullback(params, z, saved, *cotangents)
        return dparams, dx

    forward.defvjp(forward_saving, backward)
    return plain._replace(forward=forward)

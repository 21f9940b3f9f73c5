"""Composition of bijectors in sequence, and the inverse bijector."""

from collections.abc import Sequence

import jax

from invjax.bijectors._bijector import Bijector, Reversible, no_logdet


def chain(layers: Sequence[Bijector]) -> Bijector:
    """Apply `layers` in order: `z = f_L(... f_1(x))`. The log-determinants add up.

    Args:
        layers: bijectors, in their order. The parameters are a list with one entry for each layer.
    """
    layers = tuple(layers)

    def init(key, x):
        params = []
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            params.append(layer.init(layer_key, x))
            x, _ = layer.forward(params[-1], x)
        return params

    def forward(params, x):
        total = no_logdet(x)
        for layer, p in zip(layers, params, strict=True):
            x, logdet = layer.forward(p, x)
            total = total + logdet
        return x, total

    def inverse(params, z):
        total = no_logdet(z)
        for layer, p in zip(reversed(layers), reversed(params), strict=True):
            z, logdet = layer.inverse(p, z)
            total = total + logdet
        return z, total

    return Bijector(init, forward, inverse, lambda anchor_every: _reversible_chain(layers, anchor_every))


def invert(bijector: Bijector) -> Bijector:
    """The inverse function: `forward` and `inverse` change places.

    `init` initialises the parameters of `bijector` on `x`. Data-dependent parameters (those of `actnorm`) therefore
    normalise `bijector.forward`, not its inverse.

    Args:
        bijector: the bijector to invert.

    Returns:
        A bijector with the same parameters.

    Raises:
        ValueError: `bijector` has parameters and changes the shape, so they cannot be initialised on `x` (raised by
            `init`).
    """

    def init(key, x):
        params = bijector.init(key, x)
        if jax.tree.leaves(params):
            z, _ = jax.eval_shape(bijector.forward, params, x)
            if z.shape != x.shape:
                raise ValueError(
                    f"invert cannot initialise a bijector that maps {x.shape} to {z.shape}; "
                    "invert its layers one by one: chain([invert(last), ..., invert(first)])"
                )
        return params

    return Bijector(init, bijector.inverse, bijector.forward)


def reversible_of(bijector: Bijector, anchor_every: int | None) -> Reversible:
    """The bijector's own rule or, without one, a rule that inverts and then differentiates `forward` at the input."""
    if bijector.reversible is not None:
        return bijector.reversible(anchor_every)

    def forward(params, x):
        return *bijector.forward(params, x), ()

    def pullback(params, z, saved, dz, dlogdet):
        x, _ = bijector.inverse(params, z)
        _, vjp = jax.vjp(bijector.forward, params, x)
        return x, *vjp((dz, dlogdet))

    return Reversible(forward, pullback)


def _reversible_chain(layers: Sequence[Bijector], anchor_every: int | None) -> Reversible:
    """The rules of all layers in sequence. Each `anchor_every`-th layer but the last stores its output as an anchor."""
    rules = [reversible_of(layer, anchor_every) for layer in layers]

    def is_anchor(i):
        return anchor_every is not None and i != len(layers) - 1 and (i + 1) % anchor_every == 0

    def forward(params, x):
        total, saved = no_logdet(x), []
        for i, (rule, p) in enumerate(zip(rules, params, strict=True)):
            x, logdet, saved_by_layer = rule.forward(p, x)
            total = total + logdet
            saved.append((saved_by_layer, x if is_anchor(i) else ()))
        return x, total, saved

    def pullback(params, z, saved, dz, dlogdet):
        gradients = []
        for i in reversed(range(len(layers))):
            saved_by_layer, anchor = saved[i]
            z, dparams, dz = rules[i].pullback(params[i], anchor if is_anchor(i) else z, saved_by_layer, dz, dlogdet)
            gradients.append(dparams)
        return z, gradients[::-1], dz

    return Reversible(forward, pullback)

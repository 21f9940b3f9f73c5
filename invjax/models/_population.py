r"""Networks of different sizes as one function of arrays: padded to one shape, with a mask that says what is theirs.

A masked network takes its architecture as arrays, so `jax.vmap` runs a hundred networks at once, and one compilation
serves all of them. What is padded is exactly zero and stays so: a padded unit's activation is zero, hence so are the
gradients of the weights into it and out of it. The logits are those of the network without padding.

    h_l = m_l * activation(h_{l-1} W_l + b_l),    m_l = [1, ..., 1, 0, ..., 0] with `widths[l]` ones.

Padding costs arithmetic; `groups_of_one_shape` sorts architectures so that little is wasted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax._conv import conv_general_dilated
from invjax.models._nets import mlp
from invjax.types import Array, Key, Net, Params

ACTIVATIONS = {"relu": jax.nn.relu, "elu": jax.nn.elu, "tanh": jnp.tanh}
"""What `Convolutions.activation` counts through."""

POOLINGS = {"average": jnp.mean, "max": jnp.max}
"""What `Convolutions.pooling` counts through."""

_STD_OF_TRUNCATED = 0.87962566103423978  # of a standard normal variable that is truncated at -2 and 2


class Layers(NamedTuple):
    """Fully connected architectures; each field may have a leading population axis.

    Attributes:
        widths: units of each hidden layer, 0 for the layers which a network does not have; these come last.
        dropout: the share of hidden units dropped in training, in [0, 1).
    """

    widths: Int[Array, "*population layers"]
    dropout: Float[Array, "*population"]


class Convolutions(NamedTuple):
    """Convolutional architectures; each field may have a leading population axis.

    Attributes:
        channels: of each layer, at least 1.
        kernel: side of its kernel, odd.
        activation: index in `ACTIVATIONS`.
        pooling: index in `POOLINGS`; what the layers that are not pooled say is not looked at.
        skip: 1 where a layer's input is added to its output (channels that only one of both has stay as they are).
        dropout: the share of the last layer's values dropped in training, in [0, 1).
    """

    channels: Int[Array, "*population layers"]
    kernel: Int[Array, "*population layers"]
    activation: Int[Array, "*population layers"]
    pooling: Int[Array, "*population layers"]
    skip: Int[Array, "*population layers"]
    dropout: Float[Array, "*population"]


class MaskedNet(NamedTuple):
    """A network whose architecture is an argument. Without population axis: `jax.vmap` adds it.

    Attributes:
        mask: `(architecture, x) -> mask`, a pytree of zeros and ones as `params`: what belongs to this network.
        init: `(key, architecture, x) -> params`; zero where the mask is. The scale is that of flax's layers for the
            true number of inputs: variance `1 / inputs`, truncated at two standard deviations.
        apply: `(params, architecture, x [B, ...], key=None) -> logits [B, K]`; with a key, units are dropped.
    """

    mask: Callable[[Any, jax.Array], Params]
    init: Callable[[Key, Any, jax.Array], Params]
    apply: Callable[..., jax.Array]


def masked_mlp(num_classes: int, max_layers: int, max_width: int) -> MaskedNet:
    """`models.mlp` of any depth up to `max_layers` and any widths up to `max_width`, as a function of `Layers`.

    >>> net, x = masked_mlp(10, max_layers=2, max_width=8), jnp.ones((3, 5))
    >>> small = Layers(widths=jnp.array([4, 0]), dropout=jnp.array(0.0))
    >>> params = net.init(jax.random.key(0), small, x)
    >>> net.apply(params, small, x).shape, masked_size(net.mask(small, x))  # 5 * 4 + 4 + 4 * 10 + 10
    ((3, 10), 74)

    Args:
        num_classes: number of logits.
        max_layers: hidden layers, at least 1.
        max_width: units.
    """
    _check.positive(num_classes=num_classes, max_layers=max_layers, max_width=max_width)

    def units(architecture):
        _need_layers(architecture.widths, max_layers, max_width)
        return jnp.arange(max_width)[None] < architecture.widths[:, None]

    def mask(architecture, x):
        own = units(architecture)
        last = own[jnp.count_nonzero(architecture.widths) - 1]
        ends = [jnp.ones(x[0].size, bool), *own]
        hidden = [_dense_mask(before, after) for before, after in zip(ends[:-1], own, strict=True)]
        return {"hidden": hidden, "readout": _dense_mask(last, jnp.ones(num_classes, bool))}

    def apply(params, architecture, x, key=None):
        own = units(architecture)
        x = x.reshape(len(x), -1)
        for i, layer in enumerate(params["hidden"]):
            h = own[i][None] * jax.nn.relu(_dense(layer, x))
            h = _dropped(key, i, architecture.dropout, h)
            x = jnp.where(architecture.widths[i] > 0, h, x) if i else h
        return _dense(params["readout"], x)

    return MaskedNet(mask, _init_of(mask), apply)


def masked_cnn(num_classes: int, max_channels: int, layers: int = 2, max_kernel: int = 5, pooled: int = 2) -> MaskedNet:
    """`layers` convolutions, the first `pooled` of them followed by 2x2 pooling, then a linear layer on all positions.

    Args:
        num_classes: number of logits.
        max_channels: of each convolution.
        layers: convolutions, the same in all networks.
        max_kernel: side of the largest kernel, odd. A smaller one is that one with a rim of zeros.
        pooled: layers with pooling; the images' sides are divisible by `2^pooled`.
    """
    _check.positive(num_classes=num_classes, max_channels=max_channels, layers=layers, max_kernel=max_kernel)
    if max_kernel % 2 == 0:
        raise ValueError(f"max_kernel must be odd; got {max_kernel}; take {max_kernel + 1}")
    if not 0 <= pooled <= layers:
        raise ValueError(f"pooled must be from 0 to layers={layers}; got {pooled}")

    def channels(architecture):
        _need_convolutions(architecture, layers, max_channels, max_kernel)
        return jnp.arange(max_channels)[None] < architecture.channels[:, None]

    def windows(architecture):
        side = abs(np.arange(max_kernel) - max_kernel // 2)
        reach = jnp.asarray(np.maximum(side[:, None], side[None]))
        return 2 * reach[None] < architecture.kernel[:, None, None]

    def mask(architecture, x):
        own, window = channels(architecture), windows(architecture)
        _check.divisible(f"2x2 pooling of x.shape={x.shape}", x.shape[1:3], 2**pooled, "crop or pad the images")
        ends = [jnp.ones(x.shape[-1], bool), *own]
        positions = jnp.ones((x.shape[1] * x.shape[2]) // 4**pooled, bool)
        convolutions = [
            {"kernel": window[i][:, :, None, None] & _outer(ends[i], own[i])[None, None], "bias": own[i]}
            for i in range(layers)
        ]
        kernel = positions[:, None, None] & _outer(own[-1], jnp.ones(num_classes, bool))[None]
        return {"hidden": convolutions, "readout": {"kernel": kernel, "bias": jnp.ones(num_classes, bool)}}

    def apply(params, architecture, x, key=None):
        own, window = channels(architecture), windows(architecture)
        for i, layer in enumerate(params["hidden"]):
            kernel = layer["kernel"] * window[i][:, :, None, None]
            h = conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            h = jax.lax.switch(
                architecture.activation[i], list(ACTIVATIONS.values()), h + layer["bias"][None, None, None]
            )
            if i:
                h = h + architecture.skip[i] * x
            x = own[i][None, None, None] * h
            if i < pooled:
                x = jax.lax.switch(architecture.pooling[i], [_pool(reduce) for reduce in POOLINGS.values()], x)
        x = _dropped(key, layers, architecture.dropout, x)
        readout = params["readout"]
        return x.reshape(len(x), -1) @ readout["kernel"].reshape(-1, num_classes) + readout["bias"][None]

    return MaskedNet(mask, _init_of(mask), apply)


def masked_size(mask: Params) -> int:
    """The number of parameters which a network has, those of its padding not counted."""
    return int(sum(np.sum(np.asarray(leaf)) for leaf in jax.tree.leaves(mask)))


def without_padding(params: Params, architecture: Layers) -> tuple[Net, Params]:
    """The same fully connected network as a `models.mlp` and its parameters.

    Args:
        params: of one network of `masked_mlp`, without population axis.
        architecture: the same network's.
    """
    widths = [int(width) for width in np.asarray(architecture.widths) if width]
    layers = [*params["hidden"][: len(widths)], params["readout"]]
    classes = params["readout"]["bias"].shape[-1]
    inputs = params["hidden"][0]["kernel"].shape[0]
    cut = {
        f"Dense_{i}": {"kernel": layer["kernel"][:before, :after], "bias": layer["bias"][:after]}
        for i, (layer, before, after) in enumerate(zip(layers, [inputs, *widths], [*widths, classes], strict=True))
    }
    return mlp(classes, widths), {"params": cut}


def groups_of_one_shape(widths: Int[Array, "population layers"], size: int) -> list[Int[np.ndarray, " group"]]:
    """Sort networks so that those of one group waste little when they are padded to the largest of them.

    By depth first, since a layer that a network does not have costs it a whole one; then by their widest layer.

    >>> [ids.tolist() for ids in groups_of_one_shape(np.array([[9, 0], [30, 20], [8, 0], [4, 5], [64, 0]]), size=2)]
    [[2, 0], [4], [3, 1]]

    Args:
        widths: of each network's layers, 0 for those it does not have.
        size: networks in a group, at most.

    Returns:
        The rows of each group; its padded shape is `(depth, widest layer)` of its last one.
    """
    _check.positive(size=size)
    widths = np.asarray(widths)
    depth, widest = np.count_nonzero(widths, 1), widths.max(1)
    order = np.lexsort((widest, depth))
    groups = []
    for value in np.unique(depth):
        of_depth = order[depth[order] == value]
        groups += [of_depth[i : i + size] for i in range(0, len(of_depth), size)]
    return groups


def _need_layers(widths: Array, layers: int, largest: int) -> None:
    if widths.shape != (layers,):
        raise ValueError(
            f"an architecture needs one width for each of {layers} layers, got shape {widths.shape}; "
            "pad with zeros, and give a population by jax.vmap"
        )
    if isinstance(widths, jax.core.Tracer):
        return
    values = np.asarray(widths)
    absent = values == 0
    if values.min() < 0 or values.max() > largest or absent[0] or (absent[:-1] & ~absent[1:]).any():
        raise ValueError(
            f"widths must be from 1 to {largest}, with 0 for missing layers at the end; got {values.tolist()}; "
            "raise the padded shape or sort the widths"
        )


def _need_convolutions(architecture: Convolutions, layers: int, channels: int, kernel: int) -> None:
    ranges = {
        "channels": (1, channels),
        "kernel": (1, kernel),
        "activation": (0, len(ACTIVATIONS) - 1),
        "pooling": (0, len(POOLINGS) - 1),
        "skip": (0, 1),
    }
    for name, (low, high) in ranges.items():
        values = getattr(architecture, name)
        if values.shape != (layers,):
            raise ValueError(f"{name} needs one value for each of {layers} layers; got shape {values.shape}")
        if isinstance(values, jax.core.Tracer):
            continue
        if np.min(values) < low or np.max(values) > high:
            raise ValueError(f"{name} must be from {low} to {high}; got {np.asarray(values).tolist()}")
        if name == "kernel" and not (np.asarray(values) % 2).all():
            raise ValueError(f"kernel must be odd; got {np.asarray(values).tolist()}")


def _outer(rows: jax.Array, columns: jax.Array) -> jax.Array:
    return rows[:, None] & columns[None]


def _dense_mask(rows: jax.Array, columns: jax.Array) -> Params:
    return {"kernel": _outer(rows, columns), "bias": columns}


def _dense(layer: Params, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"][None]


def _pool(reduce: Callable) -> Callable[[jax.Array], jax.Array]:
    def pooled(x):
        batch, height, width, channels = x.shape
        return reduce(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))

    return pooled


def _dropped(key: Key | None, layer: int, rate: jax.Array, x: jax.Array) -> jax.Array:
    if key is None:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def _init_of(mask_fn: Callable) -> Callable[[Key, Any, jax.Array], Params]:
    """Kernels of variance `1 / inputs`, biases of zero; the inputs are counted in the mask."""

    def init(key, architecture, x):
        leaves, tree = jax.tree.flatten(mask_fn(architecture, x))
        ends = np.cumsum([own.size for own in leaves])
        # one draw for all leaves: what draws takes longer to compile than all the rest
        values = jax.random.truncated_normal(key, -2, 2, (ends[-1],), x.dtype) / _STD_OF_TRUNCATED

        def scaled(own, part):
            inputs = own.sum(tuple(range(own.ndim - 1))).max()
            scale = jax.lax.rsqrt(jnp.maximum(inputs, 1).astype(x.dtype))
            return jnp.where(own, scale * part.reshape(own.shape), 0) if own.ndim > 1 else jnp.zeros(own.shape, x.dtype)

        parts = jnp.split(values, ends[:-1].tolist())
        return jax.tree.unflatten(tree, [scaled(own, part) for own, part in zip(leaves, parts, strict=True)])

    return init

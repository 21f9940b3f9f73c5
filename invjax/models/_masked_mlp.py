"""Fully connected networks of any depth and widths as one function of arrays; see `_masked.py`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax.models._masked import MaskedNet, dense, dense_mask, dropped, init_of
from invjax.models._nets import mlp
from invjax.types import Array, Net, Params


class Layers(NamedTuple):
    """Fully connected architectures. Each field may have a leading population axis.

    Attributes:
        widths: number of units of each hidden layer. Zeros at the end mark layers that the network does not have.
        dropout: fraction of hidden units dropped in training, in [0, 1).
    """

    widths: Int[Array, "*population layers"]
    dropout: Float[Array, "*population"]


def masked_mlp(num_classes: int, max_layers: int, max_width: int) -> MaskedNet:
    """`models.mlp` of any depth up to `max_layers` and any width up to `max_width`, as a function of `Layers`.

    >>> from invjax.models import masked_size
    >>> net, x = masked_mlp(10, max_layers=2, max_width=8), jnp.ones((3, 5))
    >>> small = Layers(widths=jnp.array([4, 0]), dropout=jnp.array(0.0))
    >>> masked_size(net.mask(small, x))  # 5 * 4 + 4 + 4 * 10 + 10
    74

    Args:
        num_classes: number of logits.
        max_layers: largest number of hidden layers, at least 1.
        max_width: largest number of units of a layer.
    """
    _check.positive(num_classes=num_classes, max_layers=max_layers, max_width=max_width)

    def units(architecture):
        _need_layers(architecture.widths, max_layers, max_width)
        return jnp.arange(max_width)[None] < architecture.widths[:, None]

    def mask(architecture, x):
        own = units(architecture)
        last = own[jnp.count_nonzero(architecture.widths) - 1]
        ends = [jnp.ones(x[0].size, bool), *own]
        hidden = [dense_mask(before, after) for before, after in zip(ends[:-1], own, strict=True)]
        return {"hidden": hidden, "readout": dense_mask(last, jnp.ones(num_classes, bool))}

    def apply(params, architecture, x, key=None):
        own = units(architecture)
        x = x.reshape(len(x), -1)
        for i, layer in enumerate(params["hidden"]):
            h = own[i][None] * jax.nn.relu(dense(layer, x))
            h = dropped(key, i, architecture.dropout, h)
            x = jnp.where(architecture.widths[i] > 0, h, x) if i else h
        return dense(params["readout"], x)

    return MaskedNet(mask, init_of(mask), apply)


def without_padding(params: Params, architecture: Layers) -> tuple[Net, Params]:
    """Convert a network of `masked_mlp` to a `models.mlp` and its parameters, without padding.

    Args:
        params: parameters of one network of `masked_mlp`, without a population axis.
        architecture: the architecture of this network.

    Returns:
        The network and its parameters.
    """
    widths = [int(width) for width in np.asarray(architecture.widths) if width]
    layers = [*params["hidden"][: len(widths)], params["readout"]]
    num_classes = params["readout"]["bias"].shape[-1]
    inputs = params["hidden"][0]["kernel"].shape[0]
    cut = {
        f"Dense_{i}": {"kernel": layer["kernel"][:before, :after], "bias": layer["bias"][:after]}
        for i, (layer, before, after) in enumerate(zip(layers, [inputs, *widths], [*widths, num_classes], strict=True))
    }
    return mlp(num_classes, widths), {"params": cut}


def groups_of_one_shape(widths: Int[Array, "population layers"], size: int) -> list[Int[np.ndarray, " group"]]:
    """Sort networks into groups in which padding to the largest network costs little arithmetic.

    The groups sort networks by depth and then by their widest layer. Depth comes first, because a missing layer costs
    as much as a whole one.

    >>> [ids.tolist() for ids in groups_of_one_shape(np.array([[9, 0], [30, 20], [8, 0], [4, 5], [64, 0]]), size=2)]
    [[2, 0], [4], [3, 1]]

    Args:
        widths: widths `[population, layers]` of the layers of each network, 0 for missing layers.
        size: largest number of networks in a group.

    Returns:
        The rows of `widths` in each group. The last network of a group has the depth and width of its padded shape.
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
            "pad with zeros, and use jax.vmap for a population"
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

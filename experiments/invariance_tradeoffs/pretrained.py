"""Networks that others trained on MNIST and released, converted to `.npz`; read where a folder has them.

    abs/*_cnn.npz              Schott et al. 2019 (Apache-2.0), github.com/bethgelab/AnalysisBySynthesis
    convex_adversarial/*.npz   Wong & Kolter 2018 (MIT), github.com/locuslab/convex_adversarial

The files hold PyTorch's arrays under PyTorch's names.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from invjax.types import ApplyFn, Params


class Pretrained(NamedTuple):
    """One network.

    Attributes:
        apply: `(params, x [B, 28, 28, 1]) -> logits [B, 10]`.
        params: as the network wants them.
        ball: what it was trained to withstand, `(norm, eps)`; None if nothing.
        has_gradients: whether an attack can follow its gradient.
    """

    apply: ApplyFn
    params: Params
    ball: tuple[str, float] | None
    has_gradients: bool = True


def convolved(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """A convolution with its bias; images NHWC, kernels HWIO."""
    pads = ((padding, padding),) * 2
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + bias[None, None, None]


def wong_kolter_cnn(params: Params, x: jax.Array) -> jax.Array:
    """Two 4x4 convolutions of stride 2, of 16 and 32 channels, and dense layers of 100 and 10; ReLU between."""
    for name in ("conv0", "conv1"):
        x = jax.nn.relu(convolved(x, params[name]["kernel"], params[name]["bias"], stride=2, padding=1))
    x = jax.nn.relu(x.reshape(len(x), -1) @ params["dense0"]["kernel"] + params["dense0"]["bias"][None])
    return x @ params["dense1"]["kernel"] + params["dense1"]["bias"][None]


def kernel(weight: np.ndarray) -> np.ndarray:
    """PyTorch's convolution `[out, in, H, W]` as `[H, W, in, out]`."""
    return weight.transpose(2, 3, 1, 0)


def wong_kolter(arrays: dict[str, np.ndarray], prefix: str = "") -> Params:
    """Parameters of `wong_kolter_cnn`: PyTorch flattens channels before positions, we after them."""
    weight, bias = ({i: arrays[f"{prefix}{i}.{what}"] for i in (0, 2, 5, 7)} for what in ("weight", "bias"))
    dense = weight[5].reshape(-1, 32, 7, 7)
    kernels = {0: kernel(weight[0]), 2: kernel(weight[2]), 5: kernel(dense).reshape(-1, len(dense)), 7: weight[7].T}
    names = {0: "conv0", 2: "conv1", 5: "dense0", 7: "dense1"}
    return {name: {"kernel": kernels[i], "bias": bias[i]} for i, name in names.items()}


@functools.cache
def schott_cnn(black_and_white: bool) -> ApplyFn:
    """Four convolutions, between them batch norm as it was at the end of training, and ELU."""

    def apply(params: Params, x: jax.Array) -> jax.Array:
        x = (x > 0.5).astype(x.dtype) if black_and_white else x
        for i, stride in enumerate((1, 2, 2, 1)):
            if i:
                mean, variance, scale, shift = (
                    params[f"bn_{i - 1}.{name}"][None, None, None]
                    for name in ("running_mean", "running_var", "weight", "bias")
                )
                x = jax.nn.elu((x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift)
            x = convolved(x, params[f"conv_{i}.kernel"], params[f"conv_{i}.bias"], stride=stride, padding=0)
        return x[:, 0, 0]

    return apply


def schott(arrays: dict[str, np.ndarray]) -> Params:
    """Parameters of `schott_cnn`."""
    kernels = {f"conv_{i}.kernel": kernel(arrays[f"conv_{i}.weight"]) for i in range(4)}
    return {name: value for name, value in arrays.items() if not name.startswith("conv") or "bias" in name} | kernels


def _plain(arrays):
    return Pretrained(schott_cnn(False), schott(arrays), None)


def _black_and_white(arrays):
    return Pretrained(schott_cnn(True), schott(arrays), None, has_gradients=False)


def _certified(eps, prefix):
    return lambda arrays: Pretrained(wong_kolter_cnn, wong_kolter(arrays, prefix), ("linf", eps))


READERS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], Pretrained]]] = {
    "Schott et al., CNN": ("abs/vanilla_cnn.npz", _plain),
    "Schott et al., transfer CNN": ("abs/transfer_cnn.npz", _plain),
    "Schott et al., binary CNN": ("abs/binary_cnn.npz", _black_and_white),
    "Wong & Kolter, linf 0.1": ("convex_adversarial/mnist.npz", _certified(0.1, "")),
    "Wong & Kolter, linf 0.3, first stage": (
        "convex_adversarial/mnist_small_0_3.npz",
        _certified(0.3, "state_dict.0."),
    ),
}
"""By name: the file and what makes a network of it.

The last file is a cascade of three networks; the later ones are for what the first does not certify.
"""


def pretrained(folder: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None = None) -> dict:
    """The networks of a folder, by name.

    Args:
        folder: None: `pretrained` in the data folder (`data_dir`, or else $INVJAX_DATA, $TFDS_DATA_DIR or
            ~/tensorflow_datasets), if it is there; if not, there are no networks.
        data_dir: the only data folder.

    Raises:
        FileNotFoundError: a folder was given that has none of the files.
        ValueError: a damaged file.
    """
    usual = (os.environ.get("INVJAX_DATA"), os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets")
    roots = (
        [folder]
        if folder
        else [os.path.join(root, "pretrained") for root in ((data_dir,) if data_dir else usual) if root]
    )
    for root in (Path(os.path.expanduser(root)) for root in roots):
        found = {name: (root / file, read) for name, (file, read) in READERS.items() if (root / file).is_file()}
        if found:
            return {name: _read(path, read) for name, (path, read) in found.items()}
    if folder:
        files = ", ".join(file for file, _ in READERS.values())
        raise FileNotFoundError(f"{folder} has none of {files}; leave --pretrained-dir out to do without them")
    return {}


def _read(path, read):
    try:
        with np.load(path) as file:
            return read(dict(file))
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is damaged or of another network ({error!r})") from error

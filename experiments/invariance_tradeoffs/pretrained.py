"""Networks that others trained on MNIST and released, converted to `.npz` files in a folder.

    abs/*.npz                  Schott et al. 2019 (Apache-2.0), github.com/bethgelab/AnalysisBySynthesis
    convex_adversarial/*.npz   Wong & Kolter 2018 (MIT), github.com/locuslab/convex_adversarial

The files have the arrays of PyTorch under their names in PyTorch.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from invjax import models
from invjax.types import ApplyFn, Params


class Pretrained(NamedTuple):
    """One network."""

    apply: ApplyFn  # `(params, x [B, 28, 28, 1]) -> logits [B, 10]`
    params: Params = None
    ball: tuple[str, float] | None = None  # the ball `(norm, eps)` of its training
    has_gradients: bool = True  # whether an attack can follow its gradient
    searches: bool = False  # whether each prediction runs a search, so that few queries are possible
    digest: str = ""  # the start of the SHA-256 of its files; other files have another one


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
def schott_cnn(binary: bool) -> ApplyFn:
    """Four convolutions with ELU between them; the parameters are those of `folded`."""

    def apply(params: Params, x: jax.Array) -> jax.Array:
        x = jax.numpy.asarray(models.black_and_white(x)) if binary else x
        for i, (layer, stride) in enumerate(zip(params, (1, 2, 2, 1), strict=True)):
            x = convolved(jax.nn.elu(x) if i else x, layer.kernel, layer.bias, stride=stride, padding=0)
        return x[:, 0, 0]

    return apply


def folded(arrays: dict[str, np.ndarray], part: str = "") -> tuple[models.Layer, ...]:
    """Four layers of a network or of a part of an autoencoder, with the batch norm at the end of training in them."""
    layers = []
    for i in range(4):
        weight, bias = arrays[f"{part}conv_{i}.weight"], arrays[f"{part}conv_{i}.bias"]
        of_layer = weight.transpose(2, 3, 0, 1) if part == "Decoder." else kernel(weight)  # transposed: [in, out, H, W]
        if i < 3:
            mean, variance, scale, shift = (
                arrays[f"{part}bn_{i}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
            )
            factor = scale / np.sqrt(variance + 1e-5)
            of_layer, bias = of_layer * factor, (bias - mean) * factor + shift
        layers.append(models.Layer(of_layer, bias))
    return tuple(layers)


def schott_vaes(*arrays: dict[str, np.ndarray]) -> models.ClassVae:
    return models.stack_vaes(
        [models.ClassVae(folded(of_class, "Encoder."), folded(of_class, "Decoder.")) for of_class in arrays]
    )


Reader = tuple[tuple[str, ...], Callable[..., Params], Pretrained]
"""The files of a network, what makes its parameters from their arrays, and the network without parameters."""


@functools.cache
def readers(draws: int = 8000, steps: int = 50) -> dict[str, Reader]:
    """By name; `draws` and `steps` are those of analysis by synthesis, by default as it was released.

    The last file of Wong & Kolter is a cascade of three networks; the later ones are for what the first does not
    certify. ABS and Binary-ABS share their files, and here the draws of the prior.
    """

    def schott_abs(*arrays: dict[str, np.ndarray]) -> models.AbsParams:
        return models.with_prior(schott_vaes(*arrays), models.prior_latents(jax.random.key(0), draws))

    cascade = functools.partial(wong_kolter, prefix="state_dict.0.")
    abs_files = tuple(f"abs/ABS_{digit}.npz" for digit in range(10))
    plain, binary = Pretrained(schott_cnn(False)), Pretrained(schott_cnn(True), has_gradients=False)
    plain_abs = Pretrained(models.analysis_by_synthesis(steps=steps).apply, searches=True)
    binary_abs = Pretrained(models.analysis_by_synthesis(steps=steps, binary=True, scales=models.BINARY_SCALES).apply,
                            has_gradients=False, searches=True)  # fmt: skip
    small, large = (Pretrained(wong_kolter_cnn, ball=("linf", eps)) for eps in (0.1, 0.3))
    return {
        "Schott et al., CNN": (("abs/vanilla_cnn.npz",), folded, plain),
        "Schott et al., transfer CNN": (("abs/transfer_cnn.npz",), folded, plain),
        "Schott et al., binary CNN": (("abs/binary_cnn.npz",), folded, binary),
        "Schott et al., ABS": (abs_files, schott_abs, plain_abs),
        "Schott et al., Binary-ABS": (abs_files, schott_abs, binary_abs),
        "Wong & Kolter, linf 0.1": (("convex_adversarial/mnist.npz",), wong_kolter, small),
        "Wong & Kolter, linf 0.3, first stage": (("convex_adversarial/mnist_small_0_3.npz",), cascade, large),
    }


def present(folder: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None) -> tuple[Path, list[str]]:
    """The folder that `pretrained` reads, and the names of the networks whose files are all there."""
    usual = (os.environ.get("INVJAX_DATA"), os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets")
    roots = [Path(root, "pretrained") for root in ((data_dir,) if data_dir else usual) if root]
    for root in (root.expanduser() for root in ([Path(folder)] if folder else roots)):
        found = [name for name, (files, *_) in readers().items() if all((root / file).is_file() for file in files)]
        if found:
            return root, found
    if folder:
        files = ", ".join(dict.fromkeys(file for names, *_ in readers().values() for file in names))
        raise FileNotFoundError(
            f"{folder} has none of {files}; give the folder that holds them, or leave --pretrained-dir out to use "
            "those in the folder `pretrained` of the data, if there are any"
        )
    return Path(), []


def pretrained(
    folder: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None = None, *,
    draws: int = 8000, steps: int = 50,
) -> dict[str, Pretrained]:  # fmt: skip
    """The networks of a folder, by name; those of several files, where all of these are there.

    Without a folder it is `pretrained` in the data folder (`data_dir`, or else $INVJAX_DATA, $TFDS_DATA_DIR or
    ~/tensorflow_datasets); if that is not there, there are no networks. `draws` of the prior and `steps` of the search
    are those of analysis by synthesis.
    """
    root, names = present(folder, data_dir)
    read = functools.cache(functools.partial(_read, root))  # two networks share ten files
    networks = {}
    for name in names:
        files, params_of, net = readers(draws, steps)[name]
        networks[name] = net._replace(params=read(files, params_of), digest=_digest(root, files))
    return networks


def _digest(root: Path, files: tuple[str, ...]) -> str:
    return hashlib.sha256(b"".join((root / file).read_bytes() for file in files)).hexdigest()[:12]


def _read(root: Path, files: tuple[str, ...], params_of: Callable[..., Params]) -> Params:
    paths, arrays = [root / file for file in files], []
    try:
        for path in paths:
            with np.load(path) as file:
                arrays.append(dict(file))
        return params_of(*arrays)
    except (ValueError, OSError, EOFError, KeyError) as error:
        damaged = paths[len(arrays) :][:1] or paths  # the file that cannot be read, or all of them
        raise ValueError(f"{', '.join(map(str, damaged))} is damaged or of another network ({error!r})") from error

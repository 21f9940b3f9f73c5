"""Data sets as plain arrays, and functions that change their images.

`load` reads a named data set, and `Dataset` can hold your own arrays. `as_float` converts bytes to floats, and
`batches` draws shuffled batches. `binary_shift` and `texture_shift` make shiftMNIST from a data set; `augment` and
`uneven_ink` vary images at random. `human_labelled` reads the labels that people gave to invariance examples.
`write_file`, `write_json` and `write_arrays` write a file whole or not at all, and `read_arrays` reads arrays back.

Images stay uint8 in memory (a quarter of the size of float32) and keep the order in which their authors published them,
so that an index means the same image everywhere. Models and attacks take float32 images in [0, 1], which `as_float`
returns.
"""

from invjax._store import read_arrays, write_arrays, write_file, write_json
from invjax.data._augment import augment, uneven_ink
from invjax.data._batches import Batches, batches
from invjax.data._dataset import Dataset, LazyImages, as_float
from invjax.data._human import HumanLabelled, human_labelled
from invjax.data._load import load
from invjax.data._shift_mnist import VARIANTS, binary_shift, texture_shift
from invjax.data._textures import TEXTURES, Texture, checkerboard, dots, grating, noise, rings, textures_in

__all__ = [
    "TEXTURES",
    "VARIANTS",
    "Batches",
    "Dataset",
    "HumanLabelled",
    "LazyImages",
    "Texture",
    "as_float",
    "augment",
    "batches",
    "binary_shift",
    "checkerboard",
    "dots",
    "grating",
    "human_labelled",
    "load",
    "noise",
    "read_arrays",
    "rings",
    "texture_shift",
    "textures_in",
    "uneven_ink",
    "write_arrays",
    "write_file",
    "write_json",
]

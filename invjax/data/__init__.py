"""Data sets as plain arrays: `load` a named one, `as_float` its bytes; `binary_shift` and `texture_shift` make
shiftMNIST of it; `augment` and `uneven_ink` draw its images again; `human_labelled` reads what people saw in
invariance examples.

Images stay uint8 in memory (a quarter of the size) and keep the order in which their authors published them, so that an
index means the same image everywhere; `as_float` turns a batch into what every model and attack here takes: float32 in
[0, 1].
"""

from invjax.data._augment import augment, uneven_ink
from invjax.data._batches import batches
from invjax.data._human import HumanLabelled, human_labelled
from invjax.data._load import Dataset, LazyImages, as_float, load
from invjax.data._shift_mnist import TEXTURES, VARIANTS, binary_shift, texture_shift, textures_in

__all__ = [
    "Dataset",
    "HumanLabelled",
    "LazyImages",
    "TEXTURES",
    "VARIANTS",
    "as_float",
    "augment",
    "batches",
    "binary_shift",
    "human_labelled",
    "load",
    "texture_shift",
    "textures_in",
    "uneven_ink",
]

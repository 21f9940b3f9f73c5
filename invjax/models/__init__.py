"""Whatever gives logits."""

from invjax.models.fi_revnet import PRESETS, Code, InvertibleClassifier, fi_revnet, invertible_classifier, preset
from invjax.models.nets import conv_net, mlp, mnist_cnn, num_params, resnet
from invjax.types import Net

__all__ = [
    "PRESETS",
    "Code",
    "InvertibleClassifier",
    "Net",
    "conv_net",
    "fi_revnet",
    "invertible_classifier",
    "mlp",
    "mnist_cnn",
    "num_params",
    "preset",
    "resnet",
]

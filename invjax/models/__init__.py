"""Whatever gives logits."""

from invjax.models.fi_revnet import (
    PRESETS,
    Code,
    InvertibleClassifier,
    coupled_classifier,
    fi_revnet,
    invertible_classifier,
    preset,
)
from invjax.models.gaussianized import gaussianize
from invjax.models.generative import generative_classifier
from invjax.models.nets import conv_net, mlp, mnist_cnn, num_params, resnet
from invjax.types import Net

__all__ = [
    "PRESETS",
    "Code",
    "InvertibleClassifier",
    "Net",
    "conv_net",
    "coupled_classifier",
    "fi_revnet",
    "gaussianize",
    "generative_classifier",
    "invertible_classifier",
    "mlp",
    "mnist_cnn",
    "num_params",
    "preset",
    "resnet",
]

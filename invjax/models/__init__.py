"""Whatever gives logits."""

from invjax.models._abs import (
    BINARY_SCALES,
    AbsParams,
    analysis_by_synthesis,
    black_and_white,
    prior_latents,
    with_prior,
)
from invjax.models._class_vae import ClassVae, Layer, init_class_vae, stack_vaes, vae_loss
from invjax.models._fi_revnet import (
    PRESETS,
    Code,
    InvertibleClassifier,
    coupled_classifier,
    fi_revnet,
    invertible_classifier,
    preset,
)
from invjax.models._gaussian_classes import class_log_densities, fit_class_densities
from invjax.models._gaussianize import gaussianize
from invjax.models._generative import generative_classifier
from invjax.models._nets import conv_net, mlp, mnist_cnn, num_params, penultimate, resnet
from invjax.models._population import (
    ACTIVATIONS,
    POOLINGS,
    Convolutions,
    Layers,
    MaskedNet,
    groups_of_one_shape,
    masked_cnn,
    masked_mlp,
    masked_size,
    without_padding,
)
from invjax.models._sparse import l0_sparse, largest_frequencies
from invjax.types import Net

__all__ = [
    "ACTIVATIONS",
    "AbsParams",
    "BINARY_SCALES",
    "ClassVae",
    "Code",
    "Convolutions",
    "InvertibleClassifier",
    "Layer",
    "Layers",
    "MaskedNet",
    "Net",
    "POOLINGS",
    "PRESETS",
    "analysis_by_synthesis",
    "black_and_white",
    "class_log_densities",
    "conv_net",
    "coupled_classifier",
    "fi_revnet",
    "fit_class_densities",
    "gaussianize",
    "generative_classifier",
    "groups_of_one_shape",
    "init_class_vae",
    "invertible_classifier",
    "l0_sparse",
    "largest_frequencies",
    "masked_cnn",
    "masked_mlp",
    "masked_size",
    "mlp",
    "mnist_cnn",
    "num_params",
    "penultimate",
    "preset",
    "prior_latents",
    "resnet",
    "stack_vaes",
    "vae_loss",
    "with_prior",
    "without_padding",
]

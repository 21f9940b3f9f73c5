"""Models: networks, fully invertible classifiers, generative classifiers, and defences.

Every model gives logits by a pure function `apply(params, x)`, so every attack and every evaluation takes it.
"""

from invjax.models._abs import BINARY_SCALES, analysis_by_synthesis, black_and_white
from invjax.models._abs_search import AbsParams, prior_latents, with_prior
from invjax.models._class_vae import ClassVae, Layer, init_class_vae, stack_vaes, vae_loss
from invjax.models._fi_revnet import PRESETS, fi_revnet, preset
from invjax.models._gaussian_classes import GaussianClasses, fit_gaussian_classes, gaussian_class_log_densities
from invjax.models._gaussianize import gaussianize
from invjax.models._generative import generative_classifier
from invjax.models._invertible import (
    InvertibleClassifier,
    coupled_classifier,
    invertible_classifier,
    round_trip_error,
)
from invjax.models._masked import MaskedNet, masked_size
from invjax.models._masked_cnn import ACTIVATIONS, POOLINGS, Convolutions, masked_cnn
from invjax.models._masked_mlp import Layers, groups_of_one_shape, masked_mlp, without_padding
from invjax.models._nets import conv_net, mlp, mnist_cnn, num_params
from invjax.models._penultimate import penultimate
from invjax.models._resnet import resnet
from invjax.models._sparse import l0_sparse, largest_frequencies
from invjax.types import Code, Net

__all__ = [
    "ACTIVATIONS",
    "BINARY_SCALES",
    "POOLINGS",
    "PRESETS",
    "AbsParams",
    "ClassVae",
    "Code",
    "Convolutions",
    "GaussianClasses",
    "InvertibleClassifier",
    "Layer",
    "Layers",
    "MaskedNet",
    "Net",
    "analysis_by_synthesis",
    "black_and_white",
    "conv_net",
    "coupled_classifier",
    "fi_revnet",
    "fit_gaussian_classes",
    "gaussian_class_log_densities",
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
    "round_trip_error",
    "stack_vaes",
    "vae_loss",
    "with_prior",
    "without_padding",
]

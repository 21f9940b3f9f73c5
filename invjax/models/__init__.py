"""Whatever gives logits."""

from invjax.models.abs import BINARY_SCALES, analysis_by_synthesis, prior_latents, with_prior
from invjax.models.class_vae import init_class_vae, stack_vaes, vae_loss
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
from invjax.models.nets import conv_net, mlp, mnist_cnn, num_params, penultimate, resnet
from invjax.models.sparse import l0_sparse, largest_frequencies
from invjax.types import Net

__all__ = [
    "BINARY_SCALES",
    "PRESETS",
    "Code",
    "InvertibleClassifier",
    "Net",
    "analysis_by_synthesis",
    "conv_net",
    "coupled_classifier",
    "fi_revnet",
    "gaussianize",
    "generative_classifier",
    "init_class_vae",
    "invertible_classifier",
    "l0_sparse",
    "largest_frequencies",
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
]

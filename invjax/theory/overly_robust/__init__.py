r"""Overly-robust features: a task whose most robust classifier relies on the wrong feature.

The oracle decides by the sign of one feature, `x_1`. All other features are almost unrelated to its class in the world
(large k), but related to it in a cleaned data set (k = 1 + alpha). One of them, `x_2`, is large and binary; the others
are many and weak. With class y and label noise delta,

    x_1 = y/2 with probability 1 - delta, else -y/2;    x_2 = y with probability (1 + 1/k) / 2, else -y;
    x_3, ..., x_(d+2) independent N(y / sqrt d, k);     oracle(x) = sign x_1.

The Bayes classifier is `sign L` with

    L(x) = log((1-delta)/delta) sign x_1 + log((k+1)/(k-1)) x_2 + (2/k) sum_(i>2) x_i / sqrt d.

This classifier agrees with the oracle and fails at an linf radius of order `d^(-1/2)`. The classifier `sign x_2`
withstands any radius below 1. It therefore misses every change of the true class, which needs a radius of only 1/2.

By default the noise affects `x_1` (`noise="oracle"`). In a literal reading of the paper, the noise flips the label
after all features were drawn (`noise="label"`). The Bayes classifier is then `sign x_1`, as robust as the oracle, and
neither of the paper's claims follows.

Closed forms are Python floats, computed in float64 whatever the precision of JAX.

Source: Tramèr et al. 2020, *Fundamental Tradeoffs between Invariance and Sensitivity to Adversarial Perturbations*,
section 5 and appendix E. The closed forms and the reading of the noise are ours.
"""

from invjax.theory.overly_robust._closed_forms import (
    bayes_accuracy,
    bayes_agreement,
    bayes_flips,
    flipping_radius,
    second_accuracy,
)
from invjax.theory.overly_robust._task import READINGS, Drawn, Task, augment, log_odds, sample

__all__ = [
    "READINGS",
    "Drawn",
    "Task",
    "augment",
    "bayes_accuracy",
    "bayes_agreement",
    "bayes_flips",
    "flipping_radius",
    "log_odds",
    "sample",
    "second_accuracy",
]

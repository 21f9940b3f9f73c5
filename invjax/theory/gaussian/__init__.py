r"""Two Gaussians and an l2 adversary: the model in which robust features have a closed form.

The label y is -1 or 1 with equal probability and `x ~ N(y mu*, S*)`. A model is a mean and a covariance; its loss is
the negative log-likelihood of `y x`, and it decides by `sign(x^T S^-1 mu)`. With `v = y x - mu`,

    Q = v^T S^-1 v,        loss = Q / 2 + log det(2 pi S) / 2.

An adversary changes v by delta to raise the loss. If delta has a price or a budget for its length, the best change is

    delta = (k S - I)^-1 v,        k > 1 / (smallest eigenvalue of S).

In theorem 1 (`vulnerability`) k is the price of length, and in theorem 2 (`robust_covariance`) it is the multiplier of
the budget. Theorem 3 (`alignment`) compares the gradient of a classifier with the mean of its class. `l2_attack`,
`average_attack` and `robust_fit` check the theorems on samples.

Source: Ilyas et al. 2019, *Adversarial Examples Are Not Bugs, They Are Features*, section 4 and appendix E. Where its
text contradicts itself (the square of the penalty, the factor 1/2, eps or its square), the docstrings state the correct
version.
"""

from invjax.theory.gaussian._attacks import Worst, average_attack, l2_attack, lagrangian_attack, negative_log_likelihood
from invjax.theory.gaussian._classifiers import Alignment, alignment, error_rate, robust_usefulness, worst_alignment
from invjax.theory.gaussian._fit import Fit, robust_fit
from invjax.theory.gaussian._robust import (
    LinearAttack,
    Robust,
    linear_attack,
    multiplier_bounds,
    risk,
    robust_covariance,
)
from invjax.theory.gaussian._samples import classifier, sample, signed
from invjax.theory.gaussian._vulnerability import CONVENTIONS, Vulnerability, price, vulnerability

__all__ = [
    "CONVENTIONS",
    "Alignment",
    "Fit",
    "LinearAttack",
    "Robust",
    "Vulnerability",
    "Worst",
    "alignment",
    "average_attack",
    "classifier",
    "error_rate",
    "l2_attack",
    "lagrangian_attack",
    "linear_attack",
    "multiplier_bounds",
    "negative_log_likelihood",
    "price",
    "risk",
    "robust_covariance",
    "robust_fit",
    "robust_usefulness",
    "sample",
    "signed",
    "vulnerability",
    "worst_alignment",
]

"""Figures of robust maximum likelihood on two Gaussians `N(y mu, S)` in the plane."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from invjax import figures
from invjax.theory import gaussian

REACH = 7.0  # length of the arrows of figure 4


def turned(variances: Sequence[float], angle: float) -> np.ndarray:
    """The covariance in the plane with these eigenvalues, whose first axis has this angle in degrees."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    axes = np.array([[cos, -sin], [sin, cos]])
    return (axes * np.array(variances)) @ axes.T


def figure_4(mean: np.ndarray, covariance: np.ndarray, radii: Sequence[float], count: int) -> Any:
    """What training with each radius learns: its samples, balls, decision boundary, mean and gradient."""
    turn = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    points, curves, arrows = {}, {}, {}
    for eps in radii:
        name = f"robust, eps = {eps:g}" if eps else "maximum likelihood, eps = 0"
        model = gaussian.robust_covariance(covariance, eps=eps).covariance
        with jax.enable_x64(True):
            x, labels = map(np.asarray, gaussian.sample(jax.random.key(1), mean, model, count=count))
        gradient = np.linalg.solve(model, mean)
        gradient = gradient / np.linalg.norm(gradient)
        points[name] = {r"samples of $N(\mu, \Sigma)$": x[labels == 1], r"samples of $N(-\mu, \Sigma)$": x[labels == 0]}
        curves[name] = {
            r"unit ball of the metric of $\Sigma^{-1}$": circle @ np.linalg.cholesky(model).T,
            r"$\ell_2$ ball of the same area": circle * np.linalg.det(model) ** 0.25,
            "decision boundary": np.outer([-40, 40], [-gradient[1], gradient[0]]),
        }
        arrows[name] = {
            r"direction of $\mu$": (np.zeros(2), REACH * mean / np.linalg.norm(mean)),
            r"gradient, $\Sigma^{-1} \mu$": (np.zeros(2), REACH * gradient),
        }
    title = r"Robust training turns the gradient of the classifier towards the mean $\mu$"
    window, names = ((-20, 20), (-12, 12)), ("feature x1", "feature x2")
    return figures.plane_panels(points, curves, arrows, window, names, title, columns=3, width=2.9)


def against_eps(mean: np.ndarray, covariance: np.ndarray, radii: np.ndarray) -> Any:
    """The eigenvalues, the alignment and the errors of what training with each radius learns."""
    models = [gaussian.robust_covariance(covariance, eps=eps).covariance for eps in radii]
    low, high = np.array([np.linalg.eigvalsh(model) for model in models]).T

    def error(eps: float) -> np.ndarray:
        rate = partial(gaussian.error_rate, mean=mean, covariance=covariance, eps=eps)
        return 100 * np.array([rate(np.linalg.solve(model, mean)) for model in models])

    eigenvalues = r"eigenvalues of $\Sigma$"
    panels = {
        eigenvalues: {"larger": high, "smaller": low},
        "cosine of mean and gradient": {
            "mean of figure 4": np.array([gaussian.alignment(mean, model) for model in models]),
            "worst mean": np.array([gaussian.worst_alignment(model).cosine for model in models]),
        },
        "error, %": {"clean": error(0.0), "attacked with eps = 1": error(1.0)},
    }
    title = "Robust training on the Gaussians of figure 4 aligns the gradient with the mean and costs accuracy"
    return figures.line_panels(radii, panels, "eps of training", title, [eigenvalues])

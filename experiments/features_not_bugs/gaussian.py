"""P3 figure 4 and theorems 1, 2 and 3: robust maximum likelihood of two Gaussians.

The experiment compares the closed forms of the theorems with samples, with attacks on single points, and with gradient
descent. The figures show robust training on two Gaussians in the plane. All computations use float64.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import scipy.optimize

from experiments import common
from experiments.features_not_bugs.gaussian_figures import against_eps, figure_4, turned
from invjax.theory import gaussian


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: Literal["gaussian"] = "gaussian"  # The only data set of this experiment.
    variances: tuple[float, ...] = (0.25, 1.0, 4.0)
    """Eigenvalues of the true covariance, along the axes of a rotation drawn at random."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # Mean of class 1, along the same axes.
    penalties: tuple[float, ...] = (5.0, 8.0, 20.0)  # The constant C of theorem 1.
    epsilons: tuple[float, ...] = (0.1, 1.0, 10.0)  # Radii of theorem 2.
    attack_eps: float = 0.5  # Radius at which classifiers are attacked.
    samples: int = 500_000  # Number of points with which the closed forms are compared.
    fit_samples: int = 2000  # Number of points on which models are trained.
    fit_steps: int = 1000  # Number of steps of gradient descent.
    dimensions: tuple[int, ...] = (2, 10, 100)
    """Dimensions in which theorem 2 is compared with attacks on single points, at eps = sqrt(d) / 2."""
    dimension_samples: int = 50_000  # Number of points in each of these dimensions.
    spectra: int = 1000  # Number of random covariances on which the alignment of theorem 3 is measured.
    means: int = 100  # Number of random means for each random covariance.
    figure_variances: tuple[float, float] = common.for_figures((36.0, 1.0))
    """Eigenvalues of the covariance of figure 4; the paper does not give its own."""
    figure_angle: float = common.for_figures(15.0)  # Angle of the first axis of the covariance in figure 4, in degrees.
    figure_mean: tuple[float, float] = common.for_figures((5.0, 4.0))  # Mean of class 1 in figure 4.
    figure_samples: int = common.for_figures(600)  # Number of points in a panel, both classes together.


PRESETS = {
    "smoke": Config(samples=5000, fit_samples=300, fit_steps=500, epsilons=(0.1, 1.0), dimensions=(2,),
                    dimension_samples=2000, spectra=20, means=20, figure_samples=200),
}  # fmt: skip


Points = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""The true mean and covariance, and points that they give: x, their labels 0 or 1, and y x for y = -1 or 1."""


class Check(NamedTuple):
    """A measured number, its closed form if there is one, and how many standard errors it is off if it is a mean."""

    name: str
    measured: float
    expected: float | None = None
    off: float | None = None
    unit: str = ""


def draw_points(config: Config) -> Points:
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(len(config.mean),) * 2))
    mean, covariance = axes @ np.array(config.mean), (axes * np.array(config.variances)) @ axes.T
    with jax.enable_x64(True):
        x, labels = gaussian.sample(jax.random.key(0), mean, covariance, count=config.samples)
        return mean, covariance, np.asarray(x), np.asarray(labels), np.asarray(gaussian.signed(x, labels))


def simulated(name: str, closed: float, values: Any, unit: str = "") -> Check:
    """Check a closed form against the mean of one value for each point."""
    values = np.asarray(values, np.float64)
    off = (values.mean() - closed) / (values.std() / math.sqrt(len(values)))
    return Check(name, float(values.mean()), closed, float(off), unit)


def theorem_1(config: Config, points: Points) -> Iterator[Check]:
    """The increase of the loss by the attack of each convention, compared with the trace formula."""
    mean, covariance, _, _, z = points
    loss_fn = jax.jit(lambda z: gaussian.negative_log_likelihood(z, mean, covariance))
    for convention, (of_q, of_length) in gaussian.CONVENTIONS.items():
        for penalty in config.penalties:
            options: dict[str, Any] = {"penalty": penalty, "convention": convention}
            delta = np.asarray(gaussian.lagrangian_attack(z, mean, covariance, **options))
            gain, square = 2 * of_q * np.asarray(loss_fn(z + delta) - loss_fn(z)), (delta**2).sum(-1)
            value = gain - of_length * penalty * square
            closed, where = gaussian.vulnerability(covariance, **options), f"{convention}, C={penalty:g}"
            yield simulated(f"L_adv - L, {where}", closed.loss, gain)
            if convention == "quadratic":
                yield simulated(f"the same less the penalty, {where}", closed.value, value)
                yield simulated(f"mean squared length of delta, {where}", closed.squared_radius, square)


def theorem_2(config: Config, points: Points) -> Iterator[Check]:
    """The robust optimum: its risk and stationarity on samples, the exact attack on it, and training."""
    mean, covariance, _, _, z = points
    for eps in config.epsilons:
        robust, at = gaussian.robust_covariance(covariance, eps=eps), f"eps={eps:g}"
        loss_fn = jax.jit(partial(gaussian.negative_log_likelihood, mean=mean, covariance=robust.covariance))
        delta, trace = (z - mean) @ robust.attack, float(np.trace(robust.covariance))
        square = ((z - mean + delta) ** 2).sum(-1)
        risk = gaussian.risk(mean, robust.covariance, mean, covariance, eps=eps)
        yield simulated(f"robust risk of the optimum, nats, {at}", risk, loss_fn(z + delta))
        yield simulated(f"mean squared length of delta of its attack, {at}", eps**2, (delta**2).sum(-1))
        yield simulated(f"trace of the covariance of the attacked points, {at}", trace, square)
        exact = jax.jit(partial(gaussian.l2_attack, mean=mean, covariance=robust.covariance, eps=eps))(z).delta
        yield Check(f"the same risk under the exact attack of each point, nats, {at}", float(loss_fn(z + exact).mean()))
        yield from descent(config, z[: config.fit_samples], eps)
    yield from relaxation(config)


def descent(config: Config, z: np.ndarray, eps: float) -> Iterator[Check]:
    """Gradient descent compared with the closed form for the same points, whose budget is shared between points."""
    closed = gaussian.robust_covariance(np.cov(z.T, bias=True), eps=eps)
    step_size = min(0.5, 1 / (1 + 2 * float(np.linalg.eigvalsh(closed.attack)[-1])))
    attacks = (gaussian.average_attack, "average budget", 0.0), (gaussian.l2_attack, "each point exactly", None)
    for attack, budget, expected in attacks:
        fit = partial(gaussian.robust_fit, eps=eps, steps=config.fit_steps, step_size=step_size, attack=attack)
        learnt = jax.jit(fit)(z, np.zeros(z.shape[1]), np.eye(z.shape[1]))
        apart = float(np.linalg.norm(learnt.covariance - closed.covariance) / np.linalg.norm(closed.covariance))
        yield Check(f"gradient descent, {budget}: relative distance to S_r, eps={eps:g}", apart, expected)
        if attack is gaussian.average_attack:
            yield Check(f"the same, distance of the mean, eps={eps:g}", float(abs(learnt.mean - z.mean(0)).max()), 0.0)


def relaxation(config: Config) -> Iterator[Check]:
    """The difference between the exact attack of each point and the relaxed attack, by dimension."""
    for d in config.dimensions:
        rng = np.random.default_rng(d)
        variances, eps = np.exp(rng.normal(size=d)), 0.5 * math.sqrt(d)
        z = rng.normal(size=(config.dimension_samples, d)) * np.sqrt(variances)
        robust = gaussian.robust_covariance(np.diag(variances), eps=eps).covariance
        attack = jax.jit(partial(gaussian.l2_attack, mean=np.zeros(d), covariance=robust, eps=eps))
        off = 100 * float((((z + np.asarray(attack(z).delta)) ** 2).mean(0) / np.diag(robust) - 1).mean())
        yield Check(f"exactly attacked points, mean relative error of the variances of S_r, d={d}", off, 0.0, unit="%")


def theorem_3(config: Config, points: Points) -> Iterator[Check]:
    """The worst alignment against a search for it, and the alignment of random means as eps grows."""
    rng, worse = np.random.default_rng(0), 0
    for eps in (0.0, *config.epsilons):
        model = gaussian.robust_covariance(points[1], eps=eps).covariance
        starts = rng.normal(size=(8, len(model)))
        found = min(float(scipy.optimize.minimize(gaussian.alignment, start, (model,)).fun) for start in starts)
        yield Check(f"smallest cosine of mean and gradient, eps={eps:g}", found, gaussian.worst_alignment(model).cosine)
    for _ in range(config.spectra):
        variances = np.exp(rng.uniform(0.1, 2) * rng.normal(size=rng.integers(2, 20)))
        means = rng.normal(size=(config.means, len(variances))) * np.exp(rng.normal(size=(config.means, 1)))
        radii = np.array([0.0, 0.01, 0.1, 1.0, 10.0]) * math.sqrt(variances.mean())
        models = [gaussian.robust_covariance(np.diag(variances), eps=eps).covariance.diagonal() for eps in radii]
        gradients = np.array([means / model for model in models])
        cosines = (means * gradients).sum(-1) / np.linalg.norm(means, axis=-1) / np.linalg.norm(gradients, axis=-1)
        worse += int((np.diff(cosines, axis=0) <= 0).any(0).sum())
    yield Check("random means whose alignment does not grow with eps", float(worse), 0.0)


def errors(config: Config, points: Points) -> Iterator[Check]:
    """Error rates and usefulness of the classifiers, clean and attacked."""
    mean, covariance, x, labels, z = points
    for eps in (0.0, *config.epsilons):
        model = gaussian.robust_covariance(covariance, eps=eps).covariance
        logits_fn, direction = jax.jit(gaussian.classifier(mean, model)), np.linalg.solve(model, mean)
        step = direction / np.linalg.norm(direction)
        scale = math.sqrt(direction @ (covariance + np.outer(mean, mean)) @ direction)
        for radius in (0.0, config.attack_eps):
            moved = x - radius * np.where(labels == 1, 1, -1)[:, None] * step
            wrong = 100.0 * (np.asarray(logits_fn(moved)).argmax(-1) != labels)
            error = 100 * gaussian.error_rate(direction, mean, covariance, eps=radius)
            useful = gaussian.robust_usefulness(direction, mean, covariance, eps=radius)
            where = f"trained with eps={eps:g}, attacked with {radius:g}"
            yield simulated(f"error, {where}", error, wrong, "%")
            yield simulated(f"usefulness, {where}", useful, (z - radius * step) @ direction / scale)


PARTS = {"theorem 1": theorem_1, "theorem 2": theorem_2, "theorem 3": theorem_3, "errors": errors}


def trial(config: Config, data, *, part, folder):
    theorem = f"{part}: " if part.startswith("theorem") else ""
    with jax.enable_x64(True):
        return {"checks": [check._asdict() | {"name": theorem + check.name} for check in PARTS[part](config, data)]}


def table(config: Config, results):
    checks = [Check(**check) for part in results["checks"] for check in part]
    off = [abs(check.off) for check in checks if check.off is not None]
    many = f"of {len(off)} closed forms, each on {config.samples:,} points"
    yield common.row("closed forms beside simulation: the furthest off", [max(off)], "standard errors", many)
    notes = {
        "the same risk": "less than that of the relaxation, whose budget is shared between points",
        "gradient descent": f"{config.fit_samples} points, {config.fit_steps} steps; S_r of their covariance",
        "exactly attacked": "in the limit of large d; log-normal variances, eps = sqrt(d) / 2",
        "smallest cosine": "the smallest that eight searches found",
        "random means": f"of {config.spectra * config.means:,} in {config.spectra} covariances; the paper claims the "
        "worst mean only",
    }
    for name, measured, expected, error, unit in checks:
        note = next((note for start, note in notes.items() if f": {start}" in name), "")
        if error is not None:
            note = f"the mean of {config.samples:,} points is {error:+.1f} standard errors off"
        yield common.row(name, [measured], unit, note, expected=expected)


def draw(config: Config, results):
    """Figure 4, and its quantities against the radius of training: closed forms, which need no trial."""
    mean, covariance = np.array(config.figure_mean), turned(config.figure_variances, config.figure_angle)
    shown = figure_4(mean, covariance, (0.0, 1.0, 10.0), config.figure_samples)
    return {"figure-4": shown, "against-eps": against_eps(mean, covariance, np.geomspace(0.01, 100, 81))}


EXPERIMENT = common.experiment(__name__, "15 seconds on 2 CPU cores", part=PARTS, data=draw_points)

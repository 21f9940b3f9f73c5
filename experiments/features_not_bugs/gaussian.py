"""The Gaussian model in closed form: figure 4 and theorems 1, 2 and 3 of the paper.

    python -m experiments.features_not_bugs.gaussian [smoke|default]

The experiment compares the closed form of each theorem with samples, attacks on single points or gradient descent. The
figure shows the effect of robust training on two Gaussians in the plane. All computations use float64.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import scipy.optimize

from experiments import common
from invjax import figures
from invjax.theory import gaussian

SHOWN = (0.0, 1.0, 10.0)
"""The radii of figure 4."""

Check = dict[str, Any]
"""A row of the table: its name, the closed form if there is one, the measured value, and a note."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the Gaussian model."""

    dataset: Literal["gaussian"] = "gaussian"
    """The only data set of this experiment."""
    variances: tuple[float, ...] = (0.25, 1.0, 4.0)
    """Eigenvalues of the true covariance, along the axes of a rotation drawn at random."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Mean of class 1, along the same axes."""
    penalties: tuple[float, ...] = (5.0, 8.0, 20.0)
    """The constant C of theorem 1."""
    epsilons: tuple[float, ...] = (0.1, 1.0, 10.0)
    """Radii of theorem 2."""
    attack_eps: float = 0.5
    """Radius at which classifiers are attacked."""
    samples: int = 500_000
    """Number of points with which the closed forms are compared."""
    fit_samples: int = 2000
    """Number of points on which models are trained."""
    fit_steps: int = 1000
    """Number of steps of gradient descent."""
    dimensions: tuple[int, ...] = (2, 10, 100)
    """Dimensions in which theorem 2 is compared with attacks on single points, at eps = sqrt(d) / 2."""
    dimension_samples: int = 50_000
    """Number of points in each of these dimensions."""
    spectra: int = 1000
    """Number of random covariances on which the alignment of theorem 3 is measured."""
    means: int = 100
    """Number of random means for each random covariance."""
    figure_variances: tuple[float, float] = (36.0, 1.0)
    """Eigenvalues of the covariance of figure 4; the paper does not give its own."""
    figure_angle: float = 15.0
    """Angle of the first axis of the covariance in figure 4, in degrees."""
    figure_mean: tuple[float, float] = (5.0, 4.0)
    """Mean of class 1 in figure 4."""
    figure_samples: int = 600
    """Number of points in a panel, both classes together."""


PRESETS = {
    "smoke": Config(
        samples=5000,
        fit_samples=300,
        fit_steps=500,
        epsilons=(0.1, 1.0),
        dimensions=(2,),
        dimension_samples=2000,
        spectra=20,
        means=20,
        figure_samples=200,
    ),
    "default": Config(),
}


def laboratory(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The true mean and covariance."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(len(config.mean),) * 2))
    return axes @ np.array(config.mean), (axes * np.array(config.variances)) @ axes.T


def simulated(name: str, closed: float, values: Any) -> Check:
    """A row with a closed form and the mean of one value for each point."""
    values = np.asarray(values, np.float64)
    error = values.std() / math.sqrt(len(values))
    off = (values.mean() - closed) / error
    note = f"the mean of {len(values):,} points is {off:+.1f} standard errors off"
    return {"name": name, "closed": closed, "measured": float(values.mean()), "off": float(off), "note": note}


def measured(name: str, closed: float | None, value: float, note: str = "") -> Check:
    """A row without a standard error."""
    return {"name": name, "closed": closed, "measured": float(value), "note": note}


def points_of(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, their labels, and the samples times y."""
    mean, covariance = laboratory(config)
    x, labels = gaussian.sample(jax.random.key(0), mean, covariance, count=config.samples)
    return np.asarray(x), np.asarray(labels), np.asarray(gaussian.signed(x, labels))


def theorem_1(config: Config) -> list[Check]:
    """The increase of the loss by the attack of each convention, compared with the trace formula."""
    mean, covariance = laboratory(config)
    _, _, z = points_of(config)
    loss_of = jax.jit(lambda z: gaussian.negative_log_likelihood(z, mean, covariance))
    clean, checks = np.asarray(loss_of(z)), []
    for convention, (of_q, of_length) in gaussian.CONVENTIONS.items():
        for penalty in config.penalties:
            attack = partial(gaussian.lagrangian_attack, penalty=penalty, convention=convention)
            delta = np.asarray(attack(z, mean, covariance))
            gain = 2 * of_q * (np.asarray(loss_of(z + delta)) - clean)
            square = (delta**2).sum(-1)
            closed = gaussian.vulnerability(covariance, penalty=penalty, convention=convention)
            where = f"{convention}, C={penalty:g}"
            checks.append(simulated(f"theorem 1: L_adv - L, {where}", closed.loss, gain))
            if convention == "quadratic":
                value = gain - of_length * penalty * square
                checks.append(simulated(f"theorem 1: the same less the penalty, {where}", closed.value, value))
                checks.append(
                    simulated(f"theorem 1: mean squared length of delta, {where}", closed.squared_radius, square)
                )
    return checks


def theorem_2(config: Config) -> list[Check]:
    """The robust optimum: its risk and stationarity on samples, the exact attack on it, and training."""
    mean, covariance = laboratory(config)
    _, _, z = points_of(config)
    train = z[: config.fit_samples]
    own_mean, own = train.mean(0), np.cov(train.T, bias=True)
    checks = []
    for eps in config.epsilons:
        robust = gaussian.robust_covariance(covariance, eps=eps)
        loss_of = jax.jit(partial(gaussian.negative_log_likelihood, mean=mean, covariance=robust.covariance))
        linear = (z - mean) @ robust.attack
        risk = gaussian.risk(mean, robust.covariance, mean, covariance, eps=eps)
        checks += [
            simulated(f"theorem 2: robust risk of the optimum, nats, eps={eps:g}", risk, loss_of(z + linear)),
            simulated(
                f"theorem 2: mean squared length of delta of its attack, eps={eps:g}", eps**2, (linear**2).sum(-1)
            ),
            simulated(
                f"theorem 2: trace of the covariance of the attacked points, eps={eps:g}",
                float(np.trace(robust.covariance)),
                ((z - mean + linear) ** 2).sum(-1),
            ),
        ]
        exact = jax.jit(partial(gaussian.l2_attack, mean=mean, covariance=robust.covariance, eps=eps))
        attacked = float(np.mean(loss_of(z + exact(z).delta)))
        checks.append(
            measured(
                f"theorem 2: the same risk under the exact attack of each point, nats, eps={eps:g}",
                None,
                attacked,
                "less than that of the relaxation, whose budget is shared between points",
            )
        )
        closed = gaussian.robust_covariance(own, eps=eps)
        stretch = float(np.linalg.eigvalsh(closed.attack)[-1])
        for name, attack in (
            ("average budget", gaussian.average_attack),
            ("each point exactly", gaussian.l2_attack),
        ):
            fit = partial(gaussian.robust_fit, steps=config.fit_steps, step_size=min(0.5, 1 / (1 + 2 * stretch)))
            learnt = jax.jit(partial(fit, eps=eps, attack=attack))(train, np.zeros(len(mean)), np.eye(len(mean)))
            found = np.asarray(learnt.covariance)
            apart = np.linalg.norm(found - closed.covariance) / np.linalg.norm(closed.covariance)
            checks.append(
                measured(
                    f"theorem 2: gradient descent, {name}: relative distance to S_r, eps={eps:g}",
                    0.0 if attack is gaussian.average_attack else None,
                    float(apart),
                    f"{config.fit_samples} points, {config.fit_steps} steps from mean 0 and the identity, S_r of the "
                    "covariance of these points",
                )
            )
            if attack is gaussian.average_attack:
                off = float(np.abs(np.asarray(learnt.mean) - own_mean).max())
                checks.append(measured(f"theorem 2: the same, distance of the mean, eps={eps:g}", 0.0, off))
    return checks


def relaxation(config: Config) -> list[Check]:
    """The difference between the exact attack of each point and the relaxed attack, by dimension."""
    checks = []
    for size in config.dimensions:
        rng = np.random.default_rng(size)
        variances, eps = np.exp(rng.normal(size=size)), 0.5 * math.sqrt(size)
        z = rng.normal(size=(config.dimension_samples, size)) * np.sqrt(variances)
        robust = gaussian.robust_covariance(np.diag(variances), eps=eps).covariance
        attack = jax.jit(partial(gaussian.l2_attack, mean=np.zeros(size), covariance=robust, eps=eps))
        moved = z + np.asarray(attack(z).delta)
        residual = ((moved**2).mean(0) / np.diag(robust) - 1).mean()
        checks.append(
            measured(
                f"theorem 2: exactly attacked points, mean relative error of the variances of S_r, d={size}",
                0.0,
                100 * residual,
                "first what holds as d grows; log-normal variances, eps = sqrt(d) / 2",
            )
            | {"unit": "%"}
        )
    return checks


def theorem_3(config: Config) -> list[Check]:
    """The worst alignment against a search for it, and the alignment of random means as eps grows."""
    _, covariance = laboratory(config)
    rng, checks = np.random.default_rng(0), []
    for eps in (0.0, *config.epsilons):
        model = gaussian.robust_covariance(covariance, eps=eps).covariance
        searches = [
            scipy.optimize.minimize(lambda mean, model=model: gaussian.alignment(mean, model), start)
            for start in rng.normal(size=(8, len(covariance)))
        ]
        checks.append(
            measured(
                f"theorem 3: smallest cosine of mean and gradient, eps={eps:g}",
                gaussian.worst_alignment(model).cosine,
                min(search.fun for search in searches),
                "the smallest that eight searches found",
            )
        )
    worse, total = 0, 0
    for _ in range(config.spectra):
        variances = np.exp(rng.uniform(0.1, 2) * rng.normal(size=rng.integers(2, 20)))
        means = rng.normal(size=(config.means, len(variances))) * np.exp(rng.normal(size=(config.means, 1)))
        radii = np.array([0.0, 0.01, 0.1, 1.0, 10.0]) * math.sqrt(variances.mean())
        models = [gaussian.robust_covariance(np.diag(variances), eps=eps).covariance.diagonal() for eps in radii]
        gradients = [means / model for model in models]
        cosines = [(means * g).sum(1) / np.linalg.norm(means, axis=1) / np.linalg.norm(g, axis=1) for g in gradients]
        worse += int((np.diff(cosines, axis=0) <= 0).any(0).sum())
        total += len(means)
    note = f"of {total:,} in {config.spectra} covariances; the paper claims the worst mean only"
    return [*checks, measured("theorem 3: random means whose alignment does not grow with eps", 0.0, worse, note)]


def errors(config: Config) -> list[Check]:
    """Error rates and usefulness of the classifiers, clean and attacked."""
    mean, covariance = laboratory(config)
    x, labels, z = points_of(config)
    checks = []
    for eps in (0.0, *config.epsilons):
        model = gaussian.robust_covariance(covariance, eps=eps).covariance
        logits_fn = jax.jit(gaussian.classifier(mean, model))
        direction = np.linalg.solve(model, mean)
        step = direction / np.linalg.norm(direction)
        scale = math.sqrt(direction @ (covariance + np.outer(mean, mean)) @ direction)
        for radius in (0.0, config.attack_eps):
            moved = x - radius * np.where(labels == 1, 1, -1)[:, None] * step
            wrong = 100.0 * (np.asarray(logits_fn(moved)).argmax(-1) != labels)
            closed = 100 * gaussian.error_rate(direction, mean, covariance, eps=radius)
            where = f"trained with eps={eps:g}, attacked with {radius:g}"
            checks.append(simulated(f"error, {where}", closed, wrong) | {"unit": "%"})
            closed = gaussian.robust_usefulness(direction, mean, covariance, eps=radius)
            checks.append(simulated(f"usefulness, {where}", closed, (z - radius * step) @ direction / scale))
    return checks


def picture(config: Config) -> dict[str, np.ndarray]:
    """The arrays of the figures."""
    angle = math.radians(config.figure_angle)
    axes = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance, mean = (axes * np.array(config.figure_variances)) @ axes.T, np.array(config.figure_mean)
    models = np.array([gaussian.robust_covariance(covariance, eps=eps).covariance for eps in SHOWN])
    samples, around = [], []
    for model in models:
        x, labels = gaussian.sample(jax.random.key(1), mean, model, count=config.figure_samples)
        samples.append(np.asarray(x)[np.argsort(labels, kind="stable")])
        around.append(int((labels == 0).sum()))
    eps = np.geomspace(0.01, 100, 81)
    along = [gaussian.robust_covariance(covariance, eps=e).covariance for e in eps]
    directions = [np.linalg.solve(model, mean) for model in along]
    rate = partial(gaussian.error_rate, mean=mean, covariance=covariance)
    return {
        "mean": mean,
        "models": models,
        "samples": np.array(samples),
        "first_class": np.array(around),
        "eps": eps,
        "eigenvalues": np.array([np.linalg.eigvalsh(model) for model in along]),
        "cosine": np.array([gaussian.alignment(mean, model) for model in along]),
        "worst_cosine": np.array([gaussian.worst_alignment(model).cosine for model in along]),
        "clean_error": np.array([rate(direction) for direction in directions]),
        "attacked_error": np.array([rate(direction, eps=1) for direction in directions]),
    }


def draw(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Figure 4, and its quantities against eps."""
    turn = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    points, curves, arrows = {}, {}, {}
    mean, reach = arrays["mean"], 7.0
    for eps, model, x, count in zip(SHOWN, arrays["models"], arrays["samples"], arrays["first_class"], strict=True):
        name = "maximum likelihood, eps = 0" if eps == 0 else f"robust, eps = {eps:g}"
        gradient = np.linalg.solve(model, mean)
        gradient = gradient / np.linalg.norm(gradient)
        boundary = np.array([-gradient[1], gradient[0]])
        points[name] = {r"samples of $N(\mu, \Sigma)$": x[count:], r"samples of $N(-\mu, \Sigma)$": x[:count]}
        curves[name] = {
            r"unit ball of the metric of $\Sigma^{-1}$": circle @ np.linalg.cholesky(model).T,
            r"$\ell_2$ ball of the same area": circle * np.linalg.det(model) ** 0.25,
            "decision boundary": np.outer([-40, 40], boundary),
        }
        arrows[name] = {
            r"direction of $\mu$": (np.zeros(2), reach * mean / np.linalg.norm(mean)),
            r"gradient, $\Sigma^{-1} \mu$": (np.zeros(2), reach * gradient),
        }
    plane = figures.plane_panels(
        points,
        curves,
        arrows,
        ((-20, 20), (-12, 12)),
        ("feature x1", "feature x2"),
        r"What is learnt, mean $\mu$ and covariance $\Sigma$, as the adversary's radius grows",
        columns=3,
    )
    low, high = arrays["eigenvalues"].T
    lines = figures.line_panels(
        arrays["eps"],
        {
            r"eigenvalues of $\Sigma$": {"larger": high, "smaller": low},
            "cosine of mean and gradient": {"mean of figure 4": arrays["cosine"], "worst mean": arrays["worst_cosine"]},
            "error, %": {
                "clean": 100 * arrays["clean_error"],
                "attacked with eps = 1": 100 * arrays["attacked_error"],
            },
        },
        "eps of training",
        "Robust maximum likelihood on the Gaussians of figure 4",
        [r"eigenvalues of $\Sigma$"],
    )
    return {"figure-4": plane, "against-eps": lines}


PARTS: tuple[Callable[[Config], list[Check]], ...] = (theorem_1, theorem_2, relaxation, theorem_3, errors)


def run(config: Config, folder: Path) -> list[common.Row]:
    """Check the theorems, draw figure 4, and return the table."""
    checks: list[Check] = []
    for part in PARTS:
        numbers, _ = common.stage(folder / part.__name__.replace("_", "-"), partial(in_float64, part, config))
        checks += numbers["checks"]
    _, arrays = common.stage(folder / "picture", lambda: ({}, in_float64(picture, config)[1]))
    for name, figure in draw(arrays).items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    furthest = max(abs(check["off"]) for check in checks if "off" in check)
    many = sum("off" in check for check in checks)
    headline = common.row(
        "closed forms beside simulation: the furthest off",
        None,
        [furthest],
        "standard errors",
        f"of {many} closed forms, each on {config.samples:,} points",
    )
    return [
        headline,
        *(common.row(c["name"], None, [c["measured"]], c.get("unit", ""), c["note"], c["closed"]) for c in checks),
    ]


def in_float64(compute: Callable[[Config], Any], config: Config) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The results that a stage keeps: the checks, or the arrays."""
    with jax.enable_x64(True):
        found = compute(config)
    return ({"checks": found}, {}) if isinstance(found, list) else ({}, found)


EXPERIMENT = common.Experiment(
    name="features_not_bugs/gaussian",
    item="P3 figure 4 and theorems 1, 2 and 3: robust maximum likelihood of two Gaussians",
    presets=PRESETS,
    times={"smoke": "under half a minute", "default": "15 seconds on 2 CPU cores"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

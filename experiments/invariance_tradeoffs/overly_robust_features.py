"""The overly-robust feature model: closed forms, simulation, and training; section 5 of the paper.

    python -m experiments.invariance_tradeoffs.overly_robust_features [smoke|default]

The oracle of the task uses one feature. The experiment computes the accuracy under linf attacks of the Bayes
classifier, of the overly-robust one and of the oracle, in closed form and by simulation. It also trains linear
classifiers: with standard training, against an linf attack, and on data whose other features are drawn again.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from invjax import figures
from invjax.theory import overly_robust
from invjax.theory.overly_robust import Drawn, Task

TRAININGS = ("plain", "adversarial", "augmented")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the task."""

    dataset: Literal["features"] = "features"
    """The only data set of this experiment."""
    alpha: float = 0.1
    """Variation of the spurious features in the cleaned data."""
    delta: float = 0.05
    """Fraction of noisy labels."""
    dimension: int = 100
    """Number of weak features."""
    count: int = 20_000
    """Number of examples of a simulation and of a test set."""
    train_count: int = 10_000
    """Number of examples of a training set."""
    train_eps: float = 0.7
    """linf radius of adversarial training, above the 1/2 that changes a class. From 1/k, the mean of `y x_2`, on the
    logistic loss prefers weights of zero."""
    steps: int = 600
    """Number of training steps; each uses all examples."""
    learning_rate: float = 1.0
    """Learning rate of gradient descent."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each has one simulation and one training of each kind."""


PRESETS = {"smoke": Config(dimension=50, count=2_000, train_count=500, steps=150, seeds=(0,)), "default": Config()}


def radii(config: Config) -> np.ndarray:
    """Radii from 0 to more than any classifier withstands."""
    return np.sort(np.concatenate([np.linspace(0, 1.2, 61), [0.499, 0.999]]))  # just below where two of them break


def closed(task: Task, eps: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy under attack, by classifier; `sign x_1` breaks at 1/2 and `sign x_2` at 1."""
    return {
        "Bayes": np.array([overly_robust.bayes_accuracy(task, float(e)) for e in eps]),
        "sign x_2, overly robust": np.where(eps < 1, overly_robust.second_accuracy(task), 0.0),
        "sign x_1, the oracle": np.where(eps < 0.5, 1 - task.delta, 0.0),
    }


def simulated(config: Config, task: Task, eps: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Accuracy on a sample under attack, which moves every feature against its part in the decision."""
    drawn = overly_robust.sample(jax.random.key(seed), task, config.count)
    y = drawn.y.astype(drawn.x.dtype)
    odds = overly_robust.log_odds(task, drawn.x)
    drift = odds - overly_robust.log_odds(
        task, jnp.asarray(drawn.x).at[:, 2:].add(-y[:, None])
    )  # the decision is linear, so one step is the strongest attack
    margins = {"sign x_2, overly robust": y * drawn.x[:, 1], "sign x_1, the oracle": y * drawn.x[:, 0]}
    found = {"Bayes": np.array([float((y * (odds - e * drift) > 0).mean()) for e in eps])}
    return found | {name: np.array([float((value > e).mean()) for e in eps]) for name, value in margins.items()}


def trained(config: Config, task: Task, kind: str, seed: int) -> jax.Array:
    """Weights of a linear classifier, by proximal gradient descent on the logistic loss.

    The strongest linf attack on a linear classifier gives the margin `y x.w - eps |w|_1`, and its second term shrinks
    all weights equally.
    """
    data_key, again_key = jax.random.split(jax.random.key(1000 + seed))
    drawn = overly_robust.sample(data_key, task, config.train_count)
    eps = config.train_eps if kind == "adversarial" else 0.0

    def step(w, i):
        x = drawn.x
        if kind == "augmented":
            x = overly_robust.augment(jax.random.fold_in(again_key, i), task, x)
        y = drawn.y.astype(x.dtype)
        doubt = jax.nn.sigmoid(eps * jnp.abs(w).sum() - y * (x @ w))
        w = w + config.learning_rate * (doubt * y) @ x / len(x)
        return jnp.sign(w) * jnp.maximum(jnp.abs(w) - config.learning_rate * eps * doubt.mean(), 0), None

    return jax.jit(lambda w: jax.lax.scan(step, w, jnp.arange(config.steps))[0])(jnp.zeros(task.dimension + 2))


def measured(task: Task, w: jax.Array, drawn: Drawn) -> dict[str, float]:
    """Accuracy, agreement with the oracle on the data and where the oracle's feature alone has changed sides."""
    y = drawn.y.astype(drawn.x.dtype)
    scores = drawn.x @ w
    moved = scores - drawn.x[:, 0] * w[0] * 2.0  # x_1 to -x_1: another class to the oracle
    length = jnp.abs(w).sum()
    return {
        "accuracy": float((scores * y > 0).mean()),
        "agreement": float((jnp.sign(scores) == drawn.oracle).mean()),
        "robust": float((scores * y > 0.4 * length).mean()),
        "changed": float((jnp.sign(moved) == -drawn.oracle).mean()),
        "share": float(jnp.abs(w[0]) / length),
        "second": float(jnp.abs(w[1]) / length),
    }


def one_seed(config: Config, task: Task, seed: int) -> tuple[dict, dict]:
    """A simulation, and one training of each kind."""
    test = overly_robust.sample(jax.random.key(2000 + seed), task, config.count)
    numbers = {kind: measured(task, trained(config, task, kind, seed), test) for kind in TRAININGS}
    odds = overly_robust.log_odds(task, test.x)
    numbers["Bayes"] = {"agreement": float((jnp.sign(odds) == test.oracle).mean())}
    numbers["x_2"] = {"accuracy": float((jnp.sign(test.x[:, 1]) == test.y).mean())}
    return numbers, simulated(config, task, radii(config), seed)


def run(config: Config, folder: Path) -> list[common.Row]:
    """Simulate, train, draw the curves, and return the table."""
    task = Task(config.alpha, config.delta, config.dimension)
    eps = radii(config)
    forms = closed(task, eps)
    results, curves = [], []
    for seed in config.seeds:
        numbers, arrays = common.stage(folder / f"seed{seed}", partial(one_seed, config, task, seed))
        results.append(numbers)
        curves.append(arrays)
    panels = {
        "closed form": {name: values[None] for name, values in forms.items()},
        f"simulated, {len(curves)} seed(s)": {name: np.array([c[name] for c in curves]) for name in forms},
    }
    title = f"overly-robust features, d = {task.dimension}: the most robust is blind to the class"
    chart = figures.curves(eps, panels, "eps, linf", "accuracy under attack", title)
    figures.save(chart, folder / "figures" / "accuracy.png")
    return rows(config, task, forms, curves, results)


def rows(config: Config, task: Task, forms: dict, curves: list[dict], results: list[dict]) -> list[common.Row]:
    """The table: closed forms with the statements of the paper and the simulation, then the trained classifiers."""
    error = np.sqrt(np.maximum(forms["Bayes"] * (1 - forms["Bayes"]), 1 / config.count) / config.count)
    worst = [float((np.abs(curve["Bayes"] - forms["Bayes"]) / error).max()) for curve in curves]
    d = task.dimension
    scaled = overly_robust.flipping_radius(task, 0.99) * np.sqrt(d)
    table = [
        common.row("Bayes: agreement with the oracle, closed form", 100 * (1 - task.delta),
                   [100 * overly_robust.bayes_agreement(task)], "%", "published: at least; 1 - 2 delta is proven"),
        common.row("Bayes: agreement with the oracle, simulated", 100 * (1 - task.delta),
                   [100 * n["Bayes"]["agreement"] for n in results], "%"),
        common.row("Bayes: closed form against simulation under attack, largest difference", None, worst,
                   "standard errors"),
        common.row("Bayes: radius at which 99 % of decisions flip, times root d", None, [scaled], "",
                   "published: O(1)"),
        common.row("sign x_2: accuracy up to a radius of 0.99, closed form", 100 * (1 - task.alpha / 2),
                   [100 * overly_robust.second_accuracy(task)], "%", "1 - alpha/2 is a lower bound"),
        common.row("sign x_2: accuracy, simulated", 100 * (1 - task.alpha / 2),
                   [100 * n["x_2"]["accuracy"] for n in results], "%"),
        common.row("sign x_2 where the noise falls on the label: accuracy", 100 * (1 - task.alpha / 2),
                   [100 * overly_robust.second_accuracy(task, noise="label")], "%", "the literal reading"),
    ]  # fmt: skip
    what = {
        "accuracy": "accuracy",
        "robust": "accuracy under linf 0.4",
        "agreement": "agreement with the oracle",
        "changed": "follows the oracle when x_1 alone changes sides",
        "share": "share of x_1 in the weights",
        "second": "share of x_2 in the weights",
    }
    for kind in TRAININGS:
        for name, text in what.items():
            table.append(common.row(f"linear, {kind}: {text}", None, [100 * n[kind][name] for n in results], "%"))
    return table


EXPERIMENT = common.Experiment(
    name="invariance_tradeoffs/overly_robust_features",
    item="P4 section 5: overly-robust features in closed form, simulated and learnt, with and without augmentation",
    presets=PRESETS,
    times={"smoke": "under half a minute", "default": "2 minutes on 2 busy CPU cores"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

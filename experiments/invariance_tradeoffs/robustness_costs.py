"""The cost of robustness: agreement with people falls as the training radius grows. Figure 6.

    python -m experiments.invariance_tradeoffs.robustness_costs [smoke|default|paper]

Networks are trained against linf-PGD and against l1-PGD at several radii. The experiment measures how often they agree
with people on images whose class an invariance attack changed: linf examples for linf training, l0 examples for l1.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import robust_networks
from invjax import figures
from invjax.data import Dataset, HumanLabelled

SETS = {"linf": ("manual linf 0.4", "linf 0.4"), "l1": ("l0",)}
"""The examples of the figure, by the norm of training."""


@dataclasses.dataclass(frozen=True)
class Config(robust_networks.Settings):
    """Settings of the cost of robustness."""

    train_size: int | None = 20_000
    """Number of training images; None uses all."""
    train_steps: int = 5
    """Number of steps of the attack in adversarial training."""
    linf: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    """Ascending radii of linf training; one network has standard training."""
    l1: tuple[float, ...] = (5.0, 10.0, 15.0)
    """Ascending radii of l1 training."""
    images: int = 500
    """Number of test images for the accuracy under attack at the radius of training; the first ones are used."""
    attack_steps: int = 20
    """Number of steps of the attack in the evaluation."""


PRESETS = {
    "smoke": Config(
        train_size=512,
        epochs=1,
        batch_size=64,
        train_steps=1,
        test_size=256,
        linf=(0.3,),
        l1=(10.0,),
        images=32,
        attack_steps=2,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        cnn="CNN",
        train_size=None,
        epochs=10,
        batch_size=100,
        learning_rate=1e-3,
        train_steps=40,
        linf=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4),
        l1=(2.5, 5.0, 7.5, 10.0, 12.5, 15.0),
        images=10_000,
        attack_steps=100,
    ),
}


def one_network(
    config: Config, norm: str, eps: float, seed: int, data: tuple[Dataset, Dataset, dict[str, HumanLabelled]],
    folder: Path,
) -> tuple:  # fmt: skip
    """Train one network, and measure its agreement with people and its accuracy under attack."""
    train, test, human = data
    attack = robust_networks.adversary(norm, config.train_steps) if eps else None
    params = robust_networks.train(config, config.cnn, attack, eps, seed, train, folder)
    numbers = robust_networks.seen(robust_networks.network(config.cnn).apply, params, test, human)
    if eps:
        stronger = robust_networks.adversary(norm, config.attack_steps)
        shown = robust_networks.first(test, config.images)
        numbers["robust"] = robust_networks.withstands(config.cnn, params, stronger, eps, shown, seed)
    return numbers, {}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all networks, draw the figure, and return the table."""
    data = robust_networks.datasets(config)
    radii = {"linf": (0.0, *config.linf), "l1": (0.0, *config.l1)}
    results: dict[tuple[str, float], list[dict]] = {}
    for norm, of_norm in radii.items():
        for eps in of_norm:
            runs = results[norm, eps] = []
            for seed in config.seeds:
                name = f"{norm}-{eps:g}" if eps else "plain"
                place = folder / f"{name}-seed{seed}"
                numbers, _ = common.stage(place, partial(one_network, config, norm, eps, seed, data, place))
                runs.append(numbers)
    draw(radii, results, data[2], folder)
    return rows(radii, results, data[2])


def agrees(runs: list[dict], name: str) -> list[int]:
    """The value of each seed."""
    return [n["agrees"][name] for n in runs]


def draw(radii: dict, results: dict, human: dict[str, HumanLabelled], folder: Path) -> None:
    """Figure 6."""
    panels = {
        f"eps of {norm}-PGD in training": (
            np.array(radii[norm]),
            {
                name: np.array([robust_networks.interval(human, name, agrees(results[norm, eps], name))
                                for eps in radii[norm]])
                for name in names
            },
        )
        for norm, names in SETS.items()
    }  # fmt: skip
    seeds = len(next(iter(results.values())))
    title = f"the price of robustness: agreement with people; mean of {seeds} seed(s), 95 % intervals"
    figures.save(figures.interval_curves(panels, "agrees with people", title), folder / "figures" / "agreement.png")


def rows(radii: dict, results: dict, human: dict[str, HumanLabelled]) -> list[common.Row]:
    """The table: the trend first, then all values; the paper gives no numbers."""
    table = []
    for norm, names in SETS.items():
        for name in names:
            total = int(human[name].changed.sum())
            ends = [results[norm, eps] for eps in (0.0, radii[norm][-1])]
            falls = [100 * (a - b) / total for a, b in zip(*(agrees(runs, name) for runs in ends), strict=True)]
            differs = robust_networks.apart(human, name, *(agrees(runs, name) for runs in ends))
            what = f"{norm}-PGD: agreement with people falls from eps 0 to {radii[norm][-1]:g} by, {name}"
            table.append(common.row(what, None, falls, "points", f"{differs}; published as a curve"))
    for (norm, eps), runs in results.items():
        if norm == "l1" and not eps:
            continue  # the same networks as at linf 0
        who = f"{norm}-PGD, eps {eps:g}" if eps else "plain"
        table.append(common.row(f"{who}: clean accuracy", None, [100 * n["clean"] for n in runs], "%"))
        if eps:
            what = f"{who}: accuracy under PGD at eps {eps:g}"
            table.append(common.row(what, None, [100 * n["robust"] for n in runs], "%"))
        for name in human:
            table.append(robust_networks.agreement_row(human, who, name, agrees(runs, name), None))
    return table


EXPERIMENT = common.Experiment(
    name="invariance_tradeoffs/robustness_costs",
    item="P4 figure 6: agreement with people against the radius of linf and l1 training",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "40 minutes beside other work", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

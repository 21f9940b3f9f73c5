"""The distribution of the gaps between logits, before, during and after training; section 5 of the paper.

    python -m experiments.intriguing_properties.logit_gaps [smoke|default|paper] [--dataset digits|mnist|cifar10]

For each network, seed and a few epochs, the experiment measures the gaps `Delta_1j` between the largest and the j-th
logit of all test images, and the exponent of their density at small gaps. It compares them with simulated independent
uniform logits and with the exact law of these.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from experiments import common
from experiments.intriguing_properties import networks
from invjax import figures
from invjax.analysis import gap_power_law, logit_gaps, uniform_gap_law
from invjax.data import Dataset


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of the logit gaps."""

    models: tuple[str, ...] = ("MLP", "CNN")
    """Networks to train, by name."""
    at_epochs: tuple[int, ...] = (0, 1, 5)
    """Epochs after which the gaps are measured; 0 is before training."""
    ranks: tuple[int, ...] = (2, 3, 4, 5)
    """Ranks j of the gaps Delta_1j."""
    quantile: float = 0.01
    """Fraction of the images, those with the smallest gaps, to which the exponent is fitted."""
    samples: int = 5_000_000
    """Number of vectors of independent uniform logits, as in the paper."""


PRESETS = {
    "smoke": Config(
        "digits",
        models=("MLP",),
        hidden=(32,),
        epochs=2,
        batch_size=64,
        at_epochs=(0, 2),
        ranks=(2, 3),
        quantile=0.1,
        samples=20_000,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        models=("MLP", "CNN", "ResNet"),
        hidden=(1000, 1000),
        channels=(32, 64),
        dense=1024,
        stages=(64, 128, 256, 512),
        epochs=50,
        at_epochs=(0, 1, 5, 20, 50),
        seeds=(0, 1, 2, 3, 4),
    ),
}


def check(config: Config) -> None:
    """Check the settings.

    Raises:
        ValueError: the epochs do not ascend up to `epochs`, or a rank is not in 2..10.
    """
    networks.check_models(config.models)
    if list(config.at_epochs) != sorted(set(config.at_epochs)) or config.at_epochs[-1] > config.epochs:
        raise ValueError(f"at_epochs must ascend up to epochs={config.epochs} at most; got {config.at_epochs}")
    if not config.ranks or min(config.ranks) < 2 or max(config.ranks) > 10:
        raise ValueError(f"ranks must lie in 2..10 for ten classes; got {config.ranks}")


def exponents(config: Config, logits: np.ndarray) -> dict[str, list[float]]:
    """The exponent of the density of the gap of each rank, and its interval."""
    # float32 logits near 10 have a spacing of about 1e-6, so smaller gaps are not resolved
    resolution = 1e-6 * float(np.abs(logits).max())
    laws = {j: gap_power_law(logits, j, quantile=config.quantile, resolution=resolution) for j in config.ranks}
    return {str(j): [law.exponent, law.low, law.high] for j, law in laws.items()}


def one_model(config: Config, name: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train one network and measure its gaps during training."""
    train, test = data
    net = networks.network(config, name)

    def look(epoch: int) -> tuple[dict, dict]:
        params = networks.train(config, net, seed, train, folder, until=epoch, description=f"{name}, seed {seed}")
        logits = networks.logits_of(net, params, networks.images_of(test))
        error = float((logits.argmax(1) != test.labels).mean())
        gaps = np.asarray(logit_gaps(logits))[:, [j - 2 for j in config.ranks]]
        return {"exponents": exponents(config, logits), "error": error}, {"gaps": gaps}

    numbers, arrays = {}, {}
    for epoch in config.at_epochs:
        # each is kept at once, because earlier parameters are lost when training continues
        numbers[str(epoch)], found = common.stage(folder / f"epoch-{epoch}", partial(look, epoch))
        arrays[f"gaps_{epoch}"] = found["gaps"]
    return numbers, arrays


def independent(config: Config) -> tuple[dict, dict]:
    """The gaps of independent uniform logits."""
    logits = np.random.default_rng(0).uniform(size=(config.samples, 10)).astype(np.float32)
    gaps = np.asarray(logit_gaps(logits))[:, [j - 2 for j in config.ranks]]
    shown = np.quantile(gaps, np.linspace(0, 1, 20_001)[1:-1], axis=0)  # enough of the millions of gaps for a curve
    return {"exponents": exponents(config, logits)}, {"gaps": shown}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all networks, draw the distributions, and return the exponents."""
    check(config)
    data = networks.datasets(config)
    uniform, sampled = common.stage(folder / "independent", partial(independent, config))
    grid = np.geomspace(1e-4, 1, 200)
    exact = {j: uniform_gap_law(10, j).cdf(grid) for j in config.ranks}
    results: dict[str, list[dict]] = {}
    for name in config.models:
        results[name] = []
        for seed in config.seeds:
            place = folder / f"{name}-seed{seed}"
            numbers, arrays = common.stage(place, partial(one_model, config, name, seed, data, place))
            results[name].append(numbers)
            if seed == config.seeds[0]:
                panels = {
                    ("before training" if epoch == 0 else f"{epoch} epoch" + "s" * (epoch > 1)): arrays[f"gaps_{epoch}"]
                    for epoch in config.at_epochs
                }
                chart = figures.gap_distributions(
                    panels | {"independent, uniform": sampled["gaps"]},
                    config.ranks,
                    {"independent, uniform": (grid, exact)},
                    f"{config.dataset}, {name}: gaps from the largest logit to the j-th",
                )
                figures.save(chart, folder / "figures" / f"gaps-{name.lower()}.png")
    return rows(config, results, uniform)


def rows(config: Config, results: dict[str, list[dict]], uniform: dict) -> list[common.Row]:
    """The exponents; independent logits have j - 2."""
    share = f"{100 * config.quantile:g} % smallest gaps"
    table = [
        common.row(
            f"independent uniform logits: exponent of the density of Delta_1{j}",
            float(j - 2),
            [uniform["exponents"][str(j)][0]],
            "",
            f"{share} of {config.samples:,}; published, and exact: the limit of small gaps",
        )
        for j in config.ranks
    ]
    for name, runs in results.items():
        for epoch in config.at_epochs:
            when = "before training" if epoch == 0 else f"after {epoch} epoch" + "s" * (epoch > 1)
            for j in config.ranks:
                found = [n[str(epoch)]["exponents"][str(j)] for n in runs]
                width = float(np.mean([(high - low) / 2 for _, low, high in found]))
                differs = f"{share} of a test set; a seed's 95 % interval is ± {width:.2f}"
                values = [value for value, _, _ in found]
                # the paper gives a number only for the second-largest logit
                published = 0.0 if j == 2 else None
                what = f"{name}, {when}: exponent of the density of Delta_1{j}"
                table.append(common.row(what, published, values, "", differs))
        last = str(config.at_epochs[-1])
        table.append(common.row(f"{name}: clean error", None, [100 * n[last]["error"] for n in runs], "%"))
    return table


EXPERIMENT = common.Experiment(
    name="intriguing_properties/logit_gaps",
    item="P2 section 5: the distributions of logit gaps before, in and after training, and of independent logits",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "13 minutes on 2 busy CPU cores", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

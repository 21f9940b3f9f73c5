"""P2 section 5: the distributions of logit gaps before, in and after training, and of independent logits.

For each network, seed and a few epochs, the experiment measures the gaps `Delta_1j` between the largest and the j-th
logit of all test images, and the exponent of their density at small gaps. It compares them with simulated independent
uniform logits and with the exact law of these.
"""

import dataclasses
from functools import partial
from itertools import product

import numpy as np

from experiments import common
from experiments.intriguing_properties import networks, published
from invjax import figures
from invjax.analysis import gap_power_law, logit_gaps, uniform_gap_law

UNIFORM = "independent uniform logits"  # the place of the simulation beside the networks


@dataclasses.dataclass(frozen=True)
class Config(networks.Config):
    models: tuple[networks.Name, ...] = common.axis(("MLP", "CNN"))  # Networks to train, by name.
    at_epochs: tuple[int, ...] = (0, 1, 5)  # Epochs after which the gaps are measured; 0 is before training.
    ranks: tuple[int, ...] = (2, 3, 4, 5)  # Ranks j of the gaps Delta_1j.
    quantile: float = 0.01  # Fraction of the images, those with the smallest gaps, to which the exponent is fitted.
    samples: int = 5_000_000  # Number of vectors of independent uniform logits, as in the paper.


PRESETS = {
    "smoke": Config(
        common.Data("digits"), common.Train(2, 64), networks.Widths((32,)), seeds=(0,), models=("MLP",),
        at_epochs=(0, 2), ranks=(2, 3), quantile=0.1, samples=20_000,
    ),
    "paper": Config(
        train=common.Train(50), widths=networks.PAPER, seeds=(0, 1, 2, 3, 4), models=("MLP", "CNN", "ResNet"),
        at_epochs=(0, 1, 5, 20, 50),
    ),
}  # fmt: skip


def trials(config: Config):
    """The networks and the simulation, with each seed."""
    epochs = config.at_epochs
    if list(epochs) != sorted(set(epochs)) or not epochs or epochs[-1] > config.train.epochs:
        raise ValueError(f"at_epochs must ascend up to train.epochs={config.train.epochs} at most; got {epochs}")
    if not config.ranks or min(config.ranks) < 2 or max(config.ranks) > 10:
        raise ValueError(f"ranks must lie in 2..10 for ten classes; got {config.ranks}")
    return common.grid(model=(*config.models, UNIFORM), seed=config.seeds)


def measured(config: Config, logits: np.ndarray) -> tuple[dict[str, list[float]], np.ndarray]:
    """By rank, the exponent of the density of the gap and its 95 % interval; and the gaps, `[N, ranks]`."""
    # float32 logits near 10 have a spacing of about 1e-6, so smaller gaps are not resolved
    resolution = 1e-6 * float(np.abs(logits).max())
    laws = {j: gap_power_law(logits, j, quantile=config.quantile, resolution=resolution) for j in config.ranks}
    gaps = np.asarray(logit_gaps(logits))[:, [j - 2 for j in config.ranks]]
    return {str(j): [law.exponent, law.low, law.high] for j, law in laws.items()}, gaps


def trial(config: Config, data, *, model, seed, folder):
    if model == UNIFORM:
        logits = np.random.default_rng(seed).uniform(size=(config.samples, 10)).astype(np.float32)
        exponents, gaps = measured(config, logits)
        # enough of the millions of gaps for a curve
        return {"exponents": exponents}, {"gaps": np.quantile(gaps, np.linspace(0, 1, 20_001)[1:-1], axis=0)}
    (train, test), net = data, config.widths.network(model)
    images, labels = common.arrays_of(test)

    def look(epoch):
        loss_fn = common.plain_loss(net.apply)
        params = common.trained(net, loss_fn, train, config.train, seed=seed, folder=folder, epochs=epoch)
        logits = common.logits_of(net.apply, params, images)
        exponents, gaps = measured(config, logits)
        return {"exponents": exponents, "error": float((logits.argmax(1) != labels).mean())}, {"gaps": gaps}

    # each look is kept at once, because earlier parameters are lost when training continues
    looks = {epoch: common.stage(folder / f"epoch-{epoch}", partial(look, epoch)) for epoch in config.at_epochs}
    arrays = {f"gaps_{epoch}": arrays["gaps"] for epoch, (_, arrays) in looks.items()}
    return {str(epoch): numbers for epoch, (numbers, _) in looks.items()}, arrays


def when(epoch: int) -> str:
    return "before training" if epoch == 0 else f"after {epoch} epoch{'s' * (epoch > 1)}"


def draw(config: Config, results):
    """Of the first seed: the distributions of the gaps beside those of independent logits."""
    at = np.geomspace(1e-4, 1, 200)
    simulated = results.select(model=UNIFORM).arrays()["gaps"]
    exact = {UNIFORM: (at, {j: uniform_gap_law(10, j).cdf(at) for j in config.ranks})}
    charts = {}
    for model in config.models:
        arrays = results.select(model=model).arrays()
        panels = {when(epoch): arrays[f"gaps_{epoch}"] for epoch in config.at_epochs} | {UNIFORM: simulated}
        title = f"{config.data.dataset}, {model}: small gaps from the largest logit to the j-th follow power laws"
        charts[f"gaps-{model.lower()}"] = figures.gap_distributions(panels, config.ranks, exact, title, config.quantile)
    return charts


def table(config: Config, results):
    """The exponents; those of independent logits are j - 2 in the limit of small gaps."""
    share, what = f"{100 * config.quantile:g} % smallest gaps", "exponent of the density of Delta_1"
    about = f"{share} of {config.samples:,}; exact in the limit of small gaps"
    for j in config.ranks:
        exponents = results.select(model=UNIFORM)["exponents", str(j)][:, 0]
        yield common.row(f"{UNIFORM}: {what}{j}", exponents, "", about, expected=j - 2)
    for model in config.models:
        at = results.select(model=model)
        for epoch, j in product(config.at_epochs, config.ranks):
            exponents, low, high = at[str(epoch), "exponents", str(j)].T
            differs = f"{share} of a test set; a seed's 95 % interval is ± {np.mean(high - low) / 2:.2f}"
            name, goal = f"{model}, {when(epoch)}: {what}{j}", published.GAP_EXPONENTS.get(j)
            yield common.row(name, exponents, "", differs, published=goal)
        yield common.percent(f"{model}: clean error", at[str(config.at_epochs[-1]), "error"])


EXPERIMENT = common.experiment(__name__, "13 minutes on 2 busy CPU cores")

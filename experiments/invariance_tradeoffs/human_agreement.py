"""P4 tables 2 and 3: agreement with people on invariance examples, and robust accuracies.

The experiment compares networks that it trains (standard, adversarial, and with the l0-sparse defence) and networks
that others released. It measures how often each predicts the class that people see, and its accuracy under attack. A
star in the table marks images outside of the ball for which a network was made robust.

Random search alone attacks networks without a useful gradient. Analysis by synthesis runs a search for each prediction,
so it is tested on fewer images, with fewer queries.
"""

import dataclasses
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import published
from experiments.invariance_tradeoffs import robust_networks as networks
from experiments.invariance_tradeoffs.pretrained import Pretrained, present, pretrained, readers
from invjax import figures
from invjax.attacks import pgd, square
from invjax.data import Dataset, HumanLabelled
from invjax.losses import margin
from invjax.models import l0_sparse, largest_frequencies

BALLS = {"linf 0.3": ("linf", 0.3), "linf 0.4": ("linf", 0.4), "l2 2": ("l2", 2.0), "l0 25": ("l0", 25)}
"""The balls of the attacks, by name: norm and radius."""

SPARSE = "CNN, l0-sparse"
TRAINED: dict[str, tuple[str, float] | None] = {
    "CNN": None, "ResNet": None, "CNN, linf-PGD 0.3": ("linf", 0.3), "CNN, l2-PGD 2": ("l2", 2.0), SPARSE: None
}  # fmt: skip
"""The networks trained here, by name, with the ball of adversarial training."""

NAMES = {re.sub("[ ,&]+", "-", name): name for name in (*TRAINED, *readers())}
"""The names of all networks in the table, by those on the axis, which need no quotes on a command line."""


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    released: tuple[str, ...] = common.axis(tuple(key for key, name in NAMES.items() if name not in TRAINED))
    """Networks that others released; those without files are left out, and without names there are none."""
    pretrained_dir: str | None = common.for_machine(None)
    """Folder of the released networks; by default `pretrained` in the data folder."""
    resnet: Literal["ResNet-8", "ResNet-18"] = "ResNet-8"  # Undefended residual network.
    attacked: tuple[Literal["linf 0.3", "linf 0.4", "l2 2", "l0 25"], ...] = ("linf 0.3", "linf 0.4", "l2 2", "l0 25")
    """Balls of the attacks: the columns of table 3, and l2."""
    images: int = 100  # Number of test images that are attacked; the first ones are used.
    attack_steps: int = 40  # Number of steps of the gradient attacks in AutoAttack, and of PGD in l0.
    queries: int = 500  # Number of queries of random search, in AutoAttack and against networks without gradients.
    frequencies: int = 80
    """l0-sparse defence: number of coefficients of an image that are kept; the value of the paper is not known."""
    outliers: int = 10  # l0-sparse defence: number of pixels treated as noise; larger values lower the clean accuracy.
    draws: int = 8000  # Analysis by synthesis: number of latents that each class tries first.
    search_steps: int = 50  # Analysis by synthesis: number of gradient steps from the best latent.
    search_test_size: int = 500  # Analysis by synthesis: number of test images for the clean accuracy.
    search_images: int = 20  # Analysis by synthesis: number of test images that are attacked.
    search_queries: int = 20  # Analysis by synthesis: number of steps of PGD, or of queries of random search.


PRESETS = {
    "smoke": Config(
        **networks.SMOKE, attacked=("l0 25",), images=16, attack_steps=2, queries=5, draws=100, search_steps=2,
        search_test_size=64, search_images=8, search_queries=3,
    ),
    "paper": Config(
        **networks.PAPER, resnet="ResNet-18", images=200, attack_steps=100, queries=5000,
        search_test_size=10_000, search_images=200, search_queries=1000,
    ),
}  # fmt: skip


def datasets(config: Config):
    """The data of all trials, and the released networks that are there; missing data raise an error at once."""
    data = networks.datasets(config)
    if not config.released:
        return data, {}
    return data, pretrained(config.pretrained_dir, config.data.data_dir, draws=config.draws, steps=config.search_steps)


# one object for equal arguments, so that all seeds share its compiled functions
pgd_of, square_of, sparse_of = cache(pgd), cache(square), cache(l0_sparse)


@cache
def only_frequencies(count: int) -> Callable:
    return lambda key, x: largest_frequencies(x, count=count)


def under_attack(config: Config, net: Pretrained, ball: str, data: common.Arrays, seed: int) -> dict[str, Any] | None:
    """The accuracy under AutoAttack, or under another attack that suits the network, and the name of the attack.

    AutoAttack does not exist in l0, and takes too long for networks that search. Without gradients no attack is in l0.
    """
    norm, eps = BALLS[ball]
    threat, queries = common.threat(norm), config.search_queries if net.searches else config.queries
    attack, how = None, "the standard ensemble"
    if not net.has_gradients:
        if norm == "l0":
            return None
        attack, how = square_of(threat, queries=queries), f"random search of {queries} queries, a weak attack,"
    elif net.searches:
        attack, how = pgd_of(threat, steps=queries, loss=margin), f"PGD of {queries} steps"
    elif norm == "l0":
        attack, how = pgd_of(threat, steps=config.attack_steps), f"PGD of {config.attack_steps} steps"
    if attack:
        accuracy = common.withstood(net.apply, net.params, attack, eps, data, seed)
    else:
        found = common.ensemble(net.apply, net.params, data, norm=norm, eps=eps, steps=config.attack_steps,
                                queries=config.queries, seed=seed)  # fmt: skip
        accuracy = 1 - float(found.broken.mean())
    return {"accuracy": accuracy, "attack": f"{how} on {len(data[1])} images"}


def trained(config: Config, name: str, data: Dataset, seed: int, folder: Path) -> Pretrained:
    """Train a network of `TRAINED`; that behind the l0-sparse defence trains on the frequencies that it keeps."""
    architecture, ball = config.resnet if name == "ResNet" else config.cnn, TRAINED[name]
    net = networks.network(architecture)
    train = partial(networks.train, config, architecture, data=data, seed=seed, folder=folder)
    if name == SPARSE:
        params = train(None, 0, prepare=only_frequencies(config.frequencies))
        behind = sparse_of(net, config.frequencies, config.outliers)
        return Pretrained(behind.apply, params, ("l0", config.outliers))
    norm, eps = ball or (None, 0.0)
    attack = networks.adversary(norm, config.train_steps) if norm else None
    return Pretrained(net.apply, train(attack, eps), ball)


def outside(of_set: HumanLabelled, ball: tuple[str, float] | None) -> float:
    """The fraction of the changed images of a set that lie outside of a ball around their originals.

    Published images are rounded to bytes, so a distance up to this rounding above the radius counts as inside.
    """
    if ball is None:
        return 0.0
    norm, eps = ball
    change = (of_set.images - of_set.originals)[of_set.changed].reshape(int(of_set.changed.sum()), -1)
    return float((np.linalg.norm(change, {"linf": np.inf, "l2": 2, "l0": 0}[norm], axis=1) > eps + 1 / 255).mean())


def measured(config: Config, net: Pretrained, test: Dataset, human: dict[str, HumanLabelled], seed: int) -> dict:
    test = common.first(test, config.search_test_size) if net.searches else test
    shown = common.arrays_of(test, config.search_images if net.searches else config.images)
    attacks = {ball: under_attack(config, net, ball, shown, seed) for ball in config.attacked}
    return networks.seen(net.apply, net.params, test, human) | {
        "images": len(test.labels),
        "outside": {name: outside(of_set, net.ball) for name, of_set in human.items()},
        "attacks": {ball: found for ball, found in attacks.items() if found},
    }


def trial(config: Config, data, *, network, seed, folder, shared):
    """Train and measure a network. A released one is measured once for all seeds, and attacked with seed 0."""
    ((train, test, human), released), name = data, NAMES[network]
    if name in TRAINED:
        return measured(config, trained(config, name, train, seed, folder), test, human, seed)
    net = released[name]
    return common.stage(shared / f"{network}-{net.digest}", lambda: (measured(config, net, test, human, 0), {}))[0]


def by_name(results: common.Results) -> dict[str, common.Results]:
    """The trials of each network, and one trial of each released network."""
    found = {NAMES[at.network]: at for at in results.each("network")}
    return {name: at if name in TRAINED else at.select(seed=at.values("seed")[0]) for name, at in found.items()}


def table(config: Config, results):
    for name, at in by_name(results).items():
        goals = published.TABLE_2.get(name, {})
        architecture = config.resnet if name == "ResNet" else config.cnn
        differs = f"{architecture} network, {config.data.size} images, {config.train.epochs} epochs"
        differs += f", {config.frequencies} frequencies and {config.outliers} outliers" if name == SPARSE else ""
        differs = f"{differs if name in TRAINED else 'as released'}; {at['images'][0]:,} test images"
        yield common.percent(f"{name}: clean accuracy", at["clean"], differs, published=goals.get("clean"))
        for of_set, beyond in at["outside"][0].items():
            note = f"{100 * beyond:.0f} % of them outside of its ball" if beyond else ""
            row = networks.agreement_row(name, of_set, at["agrees", of_set], note, goals.get(of_set))
            yield row._replace(name=row.name + ("*" if beyond else ""))
    for name, at in by_name(results).items():
        for ball, found in at["attacks"][0].items():
            accuracy = at["attacks", ball, "accuracy"]
            yield common.percent(f"{name}: accuracy under {ball}", accuracy, found["attack"])


def draw(config: Config, results):
    panels: dict[str, dict[str, Any]] = {}
    stars: dict[str, dict[str, float]] = {}
    for of_set in results["agrees"][0]:
        panels[of_set] = {n: networks.interval(at["agrees", of_set]) for n, at in by_name(results).items()}
        stars[of_set] = {n: goals[of_set] / 100 for n, goals in published.TABLE_2.items() if of_set in goals}
    title = "Agreement with people on images that an attack changed for them"
    return {"agreement": figures.interval_dots(panels, stars, "agrees with people", title)}


def trials(config: Config):
    """The networks trained here, and the released ones whose files are there; a line says which are missing."""
    ours = [key for key, name in NAMES.items() if name in TRAINED]
    theirs = [key for key in NAMES if key not in ours]
    unknown = [key for key in config.released if key not in theirs]
    if unknown:
        raise ValueError(f"released must be of {', '.join(theirs)}; got {', '.join(unknown)}")
    _, found = present(config.pretrained_dir, config.data.data_dir) if config.released else ("", [])
    missing = [key for key in config.released if NAMES[key] not in found]
    if missing:
        print(f"left out, because their files were not found: {', '.join(missing)}; --pretrained-dir names the folder")
    return common.grid(network=[*ours, *(key for key in config.released if key not in missing)], seed=config.seeds)


EXPERIMENT = common.experiment(__name__, {"smoke": "a minute", "default": "21 CPU minutes"})

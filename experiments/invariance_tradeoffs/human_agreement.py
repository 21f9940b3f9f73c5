"""Do models see what people see? Agreement on images that invariance attacks changed for people. Tables 2 and 3.

    python -m experiments.invariance_tradeoffs.human_agreement [smoke|default|paper] [--pretrained-dir FOLDER]

The experiment compares networks that it trains (standard, adversarial, and with the l0-sparse defence) and networks
that others released. It measures how often each predicts the class that people see, and its accuracy under attack. A
star marks images outside of the ball for which a network was made robust.

Random search alone attacks networks without a useful gradient. Analysis by synthesis runs a search for each prediction,
so it is tested on fewer images, with fewer queries.
"""

import dataclasses
import functools
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import robust_networks
from experiments.invariance_tradeoffs.pretrained import Pretrained, pretrained
from invjax import figures
from invjax.attacks import Attack, Threat, autoattack_stages, jit_attack, l0, l2, linf, pgd, square
from invjax.data import Dataset, HumanLabelled, as_float
from invjax.evaluation import Options, benchmark, over_batches
from invjax.losses import margin
from invjax.training import data_mesh
from invjax.types import ApplyFn, Params

ATTACKED: dict[str, tuple[Threat, float]] = {
    "linf 0.3": (linf(), 0.3),
    "linf 0.4": (linf(), 0.4),
    "l2 2": (l2(), 2.0),
    "l0 25": (l0(), 25),
}
"""The attacks, by name: threat and radius."""

PUBLISHED = {
    "ResNet": {"clean": 99, "l0": 80, "linf 0.3": 33, "linf 0.4": 51},
    "CNN, linf-PGD 0.3": {"clean": 99, "l0": 56, "linf 0.3": 0, "linf 0.4": 16},
    "CNN, l2-PGD 2": {"clean": 99, "l0": 27, "linf 0.3": 5, "linf 0.4": 19},
    "CNN, l0-sparse": {"clean": 99, "l0": 38, "linf 0.3": 19, "linf 0.4": 27},
    "Schott et al., ABS": {"clean": 99, "l0": 58, "linf 0.3": 14, "linf 0.4": 18},
    "Schott et al., Binary-ABS": {"clean": 99, "l0": 47, "linf 0.3": 0, "linf 0.4": 8},
}
"""Table 2; its undefended network is a ResNet-18. The values of table 3 are not available here."""


@dataclasses.dataclass(frozen=True)
class Config(robust_networks.Settings):
    """Settings of the comparison."""

    pretrained_dir: str | None = None
    """Folder of released networks; by default `pretrained` in the data folder, if it exists."""
    resnet: str = "ResNet-8"
    """Undefended residual network: ResNet-8 or ResNet-18."""
    attacked: tuple[str, ...] = ("linf 0.3", "linf 0.4", "l2 2", "l0 25")
    """Balls of the attacks: the columns of table 3, and l2."""
    images: int = 100
    """Number of test images that are attacked; the first ones are used."""
    attack_steps: int = 40
    """Number of steps of the gradient attacks in AutoAttack, and of PGD in l0."""
    queries: int = 500
    """Number of queries of random search, in AutoAttack and against networks without a useful gradient."""
    frequencies: int = 80
    """l0-sparse defence: number of coefficients of an image that are kept; the value of the paper is not known."""
    outliers: int = 10
    """l0-sparse defence: number of pixels treated as noise; larger values lower the clean accuracy."""
    draws: int = 8000
    """Analysis by synthesis: number of latents that each class tries first."""
    search_steps: int = 50
    """Analysis by synthesis: number of gradient steps from the best latent."""
    search_test_size: int = 500
    """Analysis by synthesis: number of test images for the clean accuracy."""
    search_images: int = 20
    """Analysis by synthesis: number of test images that are attacked."""
    search_queries: int = 20
    """Analysis by synthesis: number of steps of PGD, or of queries of random search."""


PRESETS = {
    "smoke": Config(
        train_size=512,
        epochs=1,
        batch_size=64,
        train_steps=1,
        test_size=256,
        attacked=("l0 25",),
        images=16,
        attack_steps=2,
        queries=5,
        draws=100,
        search_steps=2,
        search_test_size=64,
        search_images=8,
        search_queries=3,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        cnn="CNN",
        resnet="ResNet-18",
        train_size=None,
        epochs=10,
        batch_size=100,
        learning_rate=1e-3,
        train_steps=40,
        images=200,
        attack_steps=100,
        queries=5000,
        search_test_size=10_000,
        search_images=200,
        search_queries=1000,
    ),
}


class Recipe(NamedTuple):
    """How a network is trained here.

    Attributes:
        architecture: its name in `robust_networks.NETWORKS`.
        ball: the ball `(norm, eps)` of its training; None without one.
    """

    architecture: str
    ball: tuple[str, float] | None = None


def trained(config: Config) -> dict[str, Recipe]:
    """The networks trained here, by name. For an l0 ball the defence is l0-sparse, for others adversarial training."""
    return {
        "CNN": Recipe(config.cnn),
        "ResNet": Recipe(config.resnet),
        "CNN, linf-PGD 0.3": Recipe(config.cnn, ("linf", 0.3)),
        "CNN, l2-PGD 2": Recipe(config.cnn, ("l2", 2.0)),
        "CNN, l0-sparse": Recipe(config.cnn, ("l0", config.outliers)),
    }


@functools.cache
def attack_on(apply_fn: ApplyFn, name: str, steps: int, queries: int) -> Any:
    """AutoAttack; PGD in l0, where AutoAttack does not exist. Compiled once a network.

    Returns:
        `(key, params, images, labels, *, eps) -> broken [N]`.
    """
    threat, _ = ATTACKED[name]
    if threat.name == "l0":
        return _in_batches(pgd(threat, steps=steps), apply_fn)
    stages = autoattack_stages(threat, num_classes=10, steps=steps, queries=queries)

    def attacked(key, params, images, labels, *, eps):
        return benchmark(key, apply_fn, params, images, labels, threat=threat, eps=eps, stages=stages,
                         options=Options(256, data_mesh())).broken  # fmt: skip

    return attacked


@functools.cache
def short_attack_on(apply_fn: ApplyFn, name: str, queries: int, has_gradients: bool) -> Any:
    """PGD on the margin, or Square for networks without gradients; compiled once for each network."""
    threat, _ = ATTACKED[name]
    attack = pgd(threat, steps=queries, loss=margin) if has_gradients else square(threat, queries=queries)
    return _in_batches(attack, apply_fn)


def _in_batches(attack: Attack, apply_fn: ApplyFn) -> Any:
    run = jit_attack(attack, apply_fn)

    def attacked(key, params, images, labels, *, eps):
        def part(x, y, ids):
            return run(key, params, x, y, eps=eps, ids=ids).success

        ids = np.arange(len(images), dtype=np.uint32)
        return over_batches(part, [images, labels, ids], min(250, len(images)), data_mesh())

    return attacked


def chosen_attack(config: Config, net: Pretrained, name: str) -> tuple[Any, str] | None:
    """The attack on a network in one of the balls, and its text in the table; None if no attack applies."""
    of_l0 = ATTACKED[name][0].name == "l0"
    if net.has_gradients and not net.searches:
        how = f"PGD of {config.attack_steps} steps" if of_l0 else "the standard ensemble"
        return attack_on(net.apply, name, config.attack_steps, config.queries), how
    if of_l0 and not net.has_gradients:
        return None
    queries = config.search_queries if net.searches else config.queries
    how = f"PGD of {queries} steps" if net.has_gradients else f"random search of {queries} queries, a weak attack,"
    return short_attack_on(net.apply, name, queries, net.has_gradients), how


def measured(config: Config, net: Pretrained, seed: int, test: Dataset, human: dict[str, HumanLabelled]) -> dict:
    """Measure clean accuracy, agreement with people, and accuracy under each attack."""
    test = robust_networks.first(test, config.search_test_size) if net.searches else test
    numbers = robust_networks.seen(net.apply, net.params, test, human)
    shown = robust_networks.first(test, config.search_images if net.searches else config.images)
    images, labels = as_float(shown.images[:]), np.asarray(shown.labels)
    numbers |= {"clean_images": len(test.labels), "robust": {}, "attack": {}}
    for name in config.attacked:
        chosen = chosen_attack(config, net, name)
        if chosen is not None:
            attack, how = chosen
            broken = attack(jax.random.key(seed), net.params, images, labels, eps=ATTACKED[name][1])
            numbers["robust"][name] = 1 - float(broken.mean())
            numbers["attack"][name] = f"{how} on {len(images)} images"
    return numbers


def one_trained(
    config: Config, name: str, seed: int, data: tuple[Dataset, Dataset, dict[str, HumanLabelled]], folder: Path
) -> tuple:
    """Train a network and measure it."""
    train, test, human = data
    architecture, ball = trained(config)[name]
    if ball and ball[0] == "l0":
        prepare = robust_networks.of_frequencies(config.frequencies)
        params: Params = robust_networks.train(config, architecture, None, 0, seed, train, folder, prepare)
        apply_fn = robust_networks.defended(architecture, config.frequencies, config.outliers).apply
    else:
        attack = robust_networks.adversary(ball[0], config.train_steps) if ball else None
        params = robust_networks.train(config, architecture, attack, ball[1] if ball else 0, seed, train, folder)
        apply_fn = robust_networks.network(architecture).apply
    return measured(config, Pretrained(apply_fn, params, ball), seed, test, human), {}


def one_released(config: Config, net: Pretrained, data: tuple[Dataset, Dataset, dict[str, HumanLabelled]]) -> tuple:
    """Measure a network that others trained."""
    return measured(config, net, 0, *data[1:]), {}


def outside(of_set: HumanLabelled, ball: tuple[str, float] | None) -> float:
    """The fraction of the changed images of a set that lie outside of a ball around their originals.

    Published images are rounded to bytes, so a distance up to this rounding above the radius counts as inside.
    """
    if ball is None:
        return 0.0
    norm, eps = ball
    change = (of_set.images - of_set.originals)[of_set.changed].reshape(int(of_set.changed.sum()), -1)
    return float((np.linalg.norm(change, {"linf": np.inf, "l2": 2, "l0": 0}[norm], axis=1) > eps + 1 / 255).mean())


def check(config: Config) -> None:
    """Check the names of the attacks.

    Raises:
        ValueError: a name is unknown.
    """
    if not set(config.attacked) <= set(ATTACKED):
        raise ValueError(f"attacked must be some of {', '.join(ATTACKED)}; got {', '.join(config.attacked)}")


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train, read and measure all networks, draw the figure, and return the table."""
    check(config)
    data = robust_networks.datasets(config)
    released = pretrained(config.pretrained_dir, config.data_dir, draws=config.draws, steps=config.search_steps)
    results: dict[str, list[dict]] = {}
    for name in trained(config):
        results[name] = []
        for seed in config.seeds:
            place = folder / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"
            results[name].append(common.stage(place, partial(one_trained, config, name, seed, data, place))[0])
    for name, net in released.items():
        place = folder / name.replace(" & ", "-").replace(", ", "-").replace(" ", "-")
        results[name] = [common.stage(place, partial(one_released, config, net, data))[0]]
    balls = {name: recipe.ball for name, recipe in trained(config).items()}
    balls |= {name: net.ball for name, net in released.items()}
    draw(results, data[2], folder)
    return rows(config, results, balls, data[2])


def draw(results: dict[str, list[dict]], human: dict[str, HumanLabelled], folder: Path) -> None:
    """Table 2 as a figure."""
    panels = {
        of_set: {
            name: robust_networks.interval(human, of_set, [n["agrees"][of_set] for n in runs])
            for name, runs in results.items()
        }
        for of_set in human
    }
    marks = {of_set: {who: p[of_set] / 100 for who, p in PUBLISHED.items() if of_set in p} for of_set in human}
    title = "agreement with people on images that an attack changed for them; 95 % intervals, published: stars"
    figures.save(
        figures.interval_dots(panels, marks, "agrees with people", title), folder / "figures" / "agreement.png"
    )


def rows(config: Config, results: dict, balls: dict, human: dict[str, HumanLabelled]) -> list[common.Row]:
    """Table 2, then table 3."""
    size = "all" if config.train_size is None else f"{config.train_size:,}"
    ours = f"{size} images, {config.epochs} epochs"
    table = []
    for name, runs in results.items():
        published = PUBLISHED.get(name, {})
        recipe = trained(config).get(name)
        differs = f"{recipe.architecture} network, {ours}" if recipe else "as released"
        if recipe and recipe.ball and recipe.ball[0] == "l0":
            differs += f", {config.frequencies} frequencies and {config.outliers} outliers"
        differs += f"; {runs[0]['clean_images']:,} test images"
        table.append(common.row(f"{name}: clean accuracy", published.get("clean"), [100 * n["clean"] for n in runs],
                                "%", differs))  # fmt: skip
        for of_set, examples in human.items():
            beyond = outside(examples, balls[name])
            star = "*" if beyond else ""
            note = f"{100 * beyond:.0f} % of them outside of its ball" if beyond else ""
            row = robust_networks.agreement_row(
                human, name, of_set, [n["agrees"][of_set] for n in runs], published.get(of_set), note
            )
            table.append(row._replace(name=row.name + star))
    for name, runs in results.items():
        for attacked, how in runs[0]["attack"].items():
            robust = [100 * n["robust"][attacked] for n in runs]
            table.append(common.row(f"{name}: accuracy under {attacked}", None, robust, "%", how))
    return table


EXPERIMENT = common.Experiment(
    name="invariance_tradeoffs/human_agreement",
    item="P4 tables 2 and 3: agreement with people on invariance examples, and robust accuracies",
    presets=PRESETS,
    times={"smoke": "a minute", "default": "21 minutes of CPU time", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""Search for convolutional cells that withstand FGSM, and what correlates with adversarial accuracy.

    python -m experiments.intriguing_properties.architecture_search [smoke|default|paper] [--dataset digits|mnist]

A random search comes first, then regularised evolution (Real et al. 2018: see `cells`). The reward is the accuracy
under FGSM on images that are held out of the training set. Children are masked networks of one padded shape. So a
generation trains as one population, with half of each batch attacked by step l.l., and the search compiles once. A run
that is killed loses its current generation only. At the end the best cell by reward and the best by clean accuracy are
enlarged and trained longer.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.intriguing_properties import cells
from experiments.intriguing_properties.cells import Cell, Space
from experiments.intriguing_properties.populations import in_batches, one_image, rank_correlation, trainer
from invjax import figures
from invjax.attacks import Attack, fgsm, linf, pgd, step_ll
from invjax.data import Dataset, batches, load
from invjax.models import Convolutions, MaskedNet, masked_cnn, masked_size
from invjax.training import adversarial_loss, member_of, over_population

POOLED = 2
"""Layers followed by 2x2 pooling."""

ARMS = ("random", "evolved")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search."""

    dataset: Literal["digits", "mnist"] = "mnist"
    """Data set of the images."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    layers: int = 3
    """Number of convolutions of a cell; pooling follows the first two, a linear layer the last one."""
    channels: tuple[int, ...] = (2, 4, 8)
    """Numbers of channels that a layer may have."""
    kernels: tuple[int, ...] = (3, 5)
    """Sides that a kernel may have; odd numbers."""
    random: int = 40
    """Number of children of the random search (paper: 9,360 children of a learned controller)."""
    evolved: int = 40
    """Number of children of the evolution, which starts from the first ones of the random search."""
    generation: int = 8
    """Number of children that are trained together."""
    alive: int = 24
    """Number of the youngest cells, from which the evolution chooses parents."""
    tournament: int = 6
    """Number of cells in a tournament; the best becomes a parent."""
    train_images: int = 5000
    """Number of images on which children are trained; the first ones of the training set."""
    held_out: int = 2000
    """Number of images that give the reward; the last ones of the training set."""
    epochs: int = 3
    """Number of passes over the images of the children (paper: 10)."""
    batch_size: int = 100
    """Number of images in a training step; half of them are attacked."""
    learning_rate: float = 5e-3
    """Initial learning rate of Adam for children; it decays to zero along a cosine."""
    eps: float = 0.1
    """Radius of every attack in linf."""
    enlarge: int = 2
    """Factor by which the channels of the best cells are enlarged at the end."""
    final_images: int = 10_000
    """Number of images on which the enlarged cells are trained; the first ones that are not held out."""
    final_epochs: int = 3
    """Number of passes of the enlarged cells over their images (paper: 100)."""
    final_learning_rates: tuple[float, ...] = (2e-3, 6e-3)
    """Learning rates of the enlarged cells; the best under FGSM on held-out images is tested (paper: 12 settings)."""
    test_images: int = 2000
    """Number of test images; the first ones are used."""
    attack_steps: int = 20
    """Number of steps of PGD."""
    seed: int = 0
    """Random seed of cells, weights and batches."""


PRESETS = {
    "smoke": Config(
        "digits",
        layers=2,
        channels=(2, 4),
        random=8,
        evolved=8,
        generation=4,
        alive=6,
        tournament=3,
        train_images=600,
        held_out=200,
        epochs=5,
        batch_size=20,
        learning_rate=1e-2,
        final_images=1000,
        final_epochs=3,
        final_learning_rates=(1e-2,),
        test_images=200,
        attack_steps=5,
    ),
    "default": Config(),
    "paper": Config(
        channels=(8, 16, 32, 64), random=4800, evolved=4800, generation=48, alive=240, tournament=24,
        train_images=50_000, held_out=10_000, epochs=10, enlarge=4, final_images=50_000, final_epochs=100,
        final_learning_rates=(3e-4, 1e-3, 2e-3, 4e-3), test_images=10_000, attack_steps=40,
    ),
}  # fmt: skip


def space(config: Config) -> Space:
    """The space of cells that is searched."""
    return Space(config.layers, config.channels, config.kernels, POOLED)


def next_cells(config: Config, arm: str, generation: int, history: list[dict]) -> list[Cell]:
    """The children of a generation, a function of what came before it.

    Args:
        config: the settings.
        arm: one of `ARMS`.
        generation: its number in that arm.
        history: all children of the evolution so far, oldest first, those from the random search included.
    """
    rng = np.random.default_rng((config.seed, ARMS.index(arm), generation))
    count = min(config.generation, getattr(config, arm) - generation * config.generation)
    if arm == "random":
        return [cells.random_cell(space(config), rng) for _ in range(count)]
    alive = history[-config.alive :]
    parents = [cells.parent(alive, config.tournament, rng) for _ in range(count)]
    return [cells.mutated(space(config), parent, rng) for parent in parents]


def stacked(chosen: list[Cell], times: int = 1) -> Convolutions:
    """Cells with a leading population axis and `times` as many channels."""
    fields = {gene: np.array([cell[gene] for cell in chosen], np.int32) for gene in chosen[0]}
    fields["channels"] *= times
    return Convolutions(**fields, dropout=np.zeros(len(chosen), np.float32))


def network(config: Config, times: int = 1) -> MaskedNet:
    """The padded network that contains every cell."""
    return masked_cnn(10, times * max(config.channels), config.layers, max(config.kernels), POOLED)


def cell_trainer(config: Config, net: MaskedNet, data: Dataset, num_steps: int) -> Any:
    """Trains populations of `(Convolutions, learning rate)`, half of each batch attacked by step l.l."""
    attack = step_ll(linf())

    def loss_fn(member, params, key, batch, step):
        loss = adversarial_loss(lambda p, x: net.apply(p, member[0], x), attack, eps=config.eps, fraction=0.5)
        return loss(params, key, batch, step)

    def optimizer_for(member):
        return optax.adam(lambda step: member[1] * optax.cosine_decay_schedule(1.0, num_steps)(step))

    return trainer(net, data, loss_fn, optimizer_for, architecture=lambda member: member[0])


def judge(net: MaskedNet, attacks: dict[str, Attack], eps: float) -> Any:
    """`((params, members), images, labels, key) -> {"clean" and by attack: accuracy [N]}`."""

    def of_network(trained, images, labels, key):
        params, (architecture, _) = trained
        logits_fn = partial(net.apply, params, architecture)

        def of_batch(batch):
            number, x, y = batch
            of_it = jax.random.fold_in(key, number)
            right = {"clean": logits_fn(x).argmax(-1) == y}
            return right | {name: ~attack(of_it, logits_fn, x, y, eps=eps).success for name, attack in attacks.items()}

        return jax.tree.map(jnp.mean, jax.lax.map(of_batch, (jnp.arange(len(images)), images, labels)))

    return over_population(of_network)


def generation_trainer(config: Config, data: Dataset) -> Callable[[list[Cell], str, int], tuple[dict, dict]]:
    """`(cells, arm, number) -> numbers, arrays`: trains and judges a generation; all of them are compiled once."""
    net, per_epoch = network(config), config.train_images // config.batch_size
    train = cell_trainer(config, net, data, config.epochs * per_epoch)
    judged = judge(net, {"FGSM": fgsm(linf())}, config.eps)
    kept = slice(config.train_images)
    draw = batches([data.images[kept], data.labels[kept]], config.batch_size, config.seed)
    held_out = in_batches(data, slice(-config.held_out, None))
    image = one_image(data)

    def generation(children, arm, number):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), ARMS.index(arm)), number)
        train_key, judge_key = jax.random.split(key)
        rates = np.full(len(children), config.learning_rate, np.float32)
        members = jax.tree.map(jnp.asarray, (stacked(children), rates))
        params, losses = train(
            jax.random.split(train_key, len(children)), members, draw, config.epochs * per_epoch,
            chunk_steps=per_epoch, description=f"{arm} {number}",
        )  # fmt: skip
        found = judged((params, members), *held_out, judge_key)
        sizes = [masked_size(net.mask(member_of(members[0], i), image)) for i in range(len(children))]
        judged_children = [
            {"arm": arm, "cell": cell, "parameters": size, "clean": float(clean), "reward": float(reward)}
            for cell, size, clean, reward in zip(children, sizes, found["clean"], found["FGSM"], strict=True)
        ]
        return {"children": judged_children}, {"losses": losses}

    return generation


def search(config: Config, train: Dataset, folder: Path) -> list[dict]:
    """All children, random ones first; generations in `folder` are not trained again."""
    train_generation = generation_trainer(config, train)
    children: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for arm in ARMS:
        for number in range(-(-getattr(config, arm) // config.generation)):
            history = children["random"][: config.alive] + children["evolved"]
            born = next_cells(config, arm, number, history)
            values, _ = common.stage(folder / f"{arm}-{number:03d}", partial(train_generation, born, arm, number))
            children[arm] += values["children"]
    return children["random"] + children["evolved"]


def enlarged(config: Config, data: tuple[Dataset, Dataset], children: list[dict]) -> tuple[dict, dict]:
    """Enlarge the best cells by reward and by clean accuracy, train them longer, and test them."""
    train, test = data
    net, kept = network(config, config.enlarge), min(config.final_images, len(train.labels) - config.held_out)
    best = {by: max(children, key=lambda child: child[by]) for by in ("reward", "clean")}
    settings = [(by, rate) for by in best for rate in config.final_learning_rates]
    architectures = stacked([best[by]["cell"] for by, _ in settings], config.enlarge)
    members = jax.tree.map(jnp.asarray, (architectures, np.array([rate for _, rate in settings], np.float32)))
    per_epoch = kept // config.batch_size
    train_key, held_key, test_key = jax.random.split(jax.random.key(config.seed), 3)
    params, _ = cell_trainer(config, net, train, config.final_epochs * per_epoch)(
        jax.random.split(train_key, len(settings)),
        members,
        batches([train.images[:kept], train.labels[:kept]], config.batch_size, config.seed),
        config.final_epochs * per_epoch,
        chunk_steps=per_epoch,
        description="the best, enlarged",
    )
    trained = params, members
    held = judge(net, {"FGSM": fgsm(linf())}, config.eps)(
        trained, *in_batches(train, slice(-config.held_out, None)), held_key
    )
    attacks = {"FGSM": fgsm(linf()), "PGD": pgd(linf(), steps=config.attack_steps)}
    tested = judge(net, attacks, config.eps)(trained, *in_batches(test, slice(config.test_images)), test_key)
    numbers: dict[str, Any] = {}
    image = one_image(train)
    for by, child in best.items():
        rows = [i for i, setting in enumerate(settings) if setting[0] == by]
        chosen = max(rows, key=lambda i: float(held["FGSM"][i]))
        numbers[by] = {
            "cell": child["cell"],
            "learning_rate": settings[chosen][1],
            "parameters": masked_size(net.mask(member_of(architectures, chosen), image)),
            "test": {name: float(values[chosen]) for name, values in tested.items()},
        }
    return numbers, {}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Search, train the best, draw the figures, and return the table."""
    check(config)
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    if config.train_images + config.held_out > len(train.labels):
        raise ValueError(
            f"train_images and held_out must be at most the {len(train.labels)} training images together; got "
            f"{config.train_images} and {config.held_out}; lower one of them"
        )
    children = search(config, train, folder)
    finals, _ = common.stage(folder / "enlarged", partial(enlarged, config, (train, test), children))
    groups = {arm: [child for child in children if child["arm"] == arm] for arm in ARMS}
    reward = {arm: 100 * np.array([child["reward"] for child in of_arm]) for arm, of_arm in groups.items()}
    clean = {arm: 100 * np.array([child["clean"] for child in of_arm]) for arm, of_arm in groups.items()}
    sizes = {arm: np.array([child["parameters"] for child in of_arm]) for arm, of_arm in groups.items()}
    chart = figures.scatter_panels(
        {
            "clean accuracy, %": {arm: (clean[arm], reward[arm]) for arm in ARMS},
            "parameters": {arm: (sizes[arm], reward[arm]) for arm in ARMS},
        },
        f"accuracy under FGSM, eps = {config.eps:g}, %",
        f"{config.dataset}: {len(children)} cells on held-out images",
    )
    figures.save(chart, folder / "figures" / "cells.png")
    return rows(config, groups, finals)


def check(config: Config) -> None:
    """Check the settings of the search.

    Raises:
        ValueError: children, a generation or a tournament of none; fewer random children than are alive.
    """
    for name in ("random", "evolved", "generation", "alive", "tournament"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be 1 or more; got {getattr(config, name)}")
    if config.alive > config.random:
        raise ValueError(
            f"alive={config.alive} is more than random={config.random}, from which the evolution starts; lower it"
        )


def rows(config: Config, groups: dict[str, list[dict]], finals: dict[str, Any]) -> list[common.Row]:
    """The table: rank correlations over the children, the two searches, and the enlarged cells."""
    every = [child for of_arm in groups.values() for child in of_arm]
    table = []
    for name, children in (("all children", every), ("random search only", groups["random"])):
        for what, finding in (("clean", "published: strong"), ("parameters", "published: almost none")):
            found = rank_correlation([c[what] for c in children], [c["reward"] for c in children])
            if found is not None:
                label = {"clean": "clean accuracy", "parameters": "number of parameters"}[what]
                table.append(
                    common.row(f"rank correlation of FGSM accuracy and {label}, {name}", None, [found], "",
                               f"{finding}; {len(children)} cells")
                )  # fmt: skip
    half = np.median([c["clean"] for c in every])
    top = sorted(every, key=lambda c: c["reward"])[-max(len(every) // 10, 1) :]
    upper = [c["reward"] for c in every if c["clean"] >= half]
    table += [
        common.row("best tenth by FGSM accuracy: of above-median clean accuracy", None,
                   [100 * np.mean([c["clean"] >= half for c in top])], "%", "published: high clean accuracy necessary"),
        common.row("cells of above-median clean accuracy: lowest FGSM accuracy", None, [100 * min(upper)], "%",
                   "published: not sufficient"),
        common.row("the same: highest FGSM accuracy", None, [100 * max(upper)], "%"),
    ]  # fmt: skip
    for arm, children in groups.items():
        count = f"{len(children)} cells of {config.epochs} epochs, held-out images"
        count += f"; bred from {config.alive} random ones" if arm == "evolved" else ""
        best, middle = max(c["reward"] for c in children), np.median([c["reward"] for c in children])
        table.append(common.row(f"{arm}: best FGSM accuracy", None, [100 * best], "%", count))
        table.append(common.row(f"{arm}: median FGSM accuracy", None, [100 * middle], "%"))
    for by, title in (("reward", "FGSM accuracy"), ("clean", "clean accuracy")):
        final = finals[by]
        about = f"channels x {config.enlarge}, {config.final_epochs} epochs, {config.test_images} test images"
        for name, value in final["test"].items():
            attacked = "clean accuracy" if name == "clean" else f"accuracy under {name}, eps = {config.eps:g}"
            table.append(common.row(f"best cell by {title}, enlarged: {attacked}", None, [100 * value], "%", about))
        table.append(common.row(f"best cell by {title}, enlarged: parameters", None, [final["parameters"]], ""))
    return table


EXPERIMENT = common.Experiment(
    name="intriguing_properties/architecture_search",
    item="P2: search for robust architectures; clean accuracy, size and FGSM accuracy of all children",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "18 minutes beside other work",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

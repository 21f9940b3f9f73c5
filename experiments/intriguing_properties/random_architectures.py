"""P2: power-law exponents of random architectures on MNIST.

Networks of 1 to 4 hidden layers and small convolutional networks, with random sizes and dropout, are trained in groups
of one padded shape. For each network and test image, the experiment finds the smallest eps along the directions of
FGSM, of the L2 attack and of step l.l., without clipping. It fits the power law to the smallest fiftieth of them.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.intriguing_properties.populations import in_batches, one_image, over_seeds, rank_correlation, trainer
from experiments.intriguing_properties.published import EXPONENTS
from invjax import figures
from invjax.analysis import attack_direction, power_law
from invjax.attacks import line_search
from invjax.data import Dataset
from invjax.losses import cross_entropy
from invjax.models import Convolutions, Layers, MaskedNet, groups_of_one_shape, masked_cnn, masked_mlp, masked_size
from invjax.training import member_of, over_population

ATTACKS = {"FGSM": "sign", "L2": "l2", "step l.l.": "least_likely"}  # the kind of `attack_direction` of each attack


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[common.Data] = common.Data()  # The images.
    connected: int = 56  # Number of fully connected networks (paper: thousands of networks in all).
    convolutional: int = 8  # Number of convolutional networks: two 5x5 convolutions, 2x2 max pooling, a linear layer.
    layers: int = 4  # Largest number of hidden layers; every number from 1 is equally likely.
    units: tuple[int, int] = (30, 300)
    """Smallest and largest number of units of a hidden layer, drawn for each layer (paper: 30 to 2000)."""
    channels: tuple[int, int] = (4, 12)  # Smallest and largest number of channels of a convolution.
    dropout: float = 0.5  # Largest rate of dropout; the smallest is 0.
    group: int = 14  # Largest number of networks that are trained together.
    train: common.Train = common.Train(epochs=2)  # Training of the networks.
    images: int = 10_000  # Number of test images; the first ones are used.
    largest: tuple[float, float, float] = (0.15, 1.5, 0.4)
    """Largest eps along FGSM, L2 and step l.l.; a tenth of the images must be misclassified there."""
    points: int = 12  # Number of points up to the largest eps that are tested before bisection.
    bisections: int = 12  # Number of bisections between two points.
    quantile: float = 0.02  # Fraction of images below the cutoff of the power law.
    seeds: tuple[int, ...] = common.axis((0,))  # Random seeds; each seed draws and trains one sample of architectures.


PRESETS = {
    "smoke": Config(
        common.Data("digits"), connected=10, convolutional=2, layers=2, units=(8, 32), channels=(2, 4), group=10,
        train=common.Train(8, 64, 4e-3), images=360, largest=(0.4, 2.0, 1.0), points=8, bisections=8, quantile=0.2,
    ),
    "paper": Config(
        connected=900, convolutional=100, units=(30, 2000), channels=(8, 64), group=50, train=common.Train(20),
        points=50, bisections=16,
    ),
}  # fmt: skip


def sampled(config: Config, seed: int) -> tuple[Layers, Convolutions]:
    """The architectures, each with a leading population axis."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(1, config.layers + 1, config.connected)
    widths = rng.integers(config.units[0], config.units[1] + 1, (config.connected, config.layers))
    widths[np.arange(config.layers)[None] >= depth[:, None]] = 0
    dropout = rng.uniform(0, config.dropout, config.connected + config.convolutional).astype(np.float32)
    shape = (config.convolutional, 2)
    channels = rng.integers(config.channels[0], config.channels[1] + 1, shape)
    kernel, activation, pooling, skip = (np.full(shape, value) for value in (5, 0, 1, 0))
    return Layers(widths.astype(np.int32), dropout[: config.connected]), Convolutions(
        channels.astype(np.int32), kernel, activation, pooling, skip, dropout[config.connected :]
    )


def grouped(config: Config, seed: int) -> dict[str, tuple[np.ndarray, Layers | Convolutions]]:
    """`{name: (ids, architectures)}`, each a group of one padded shape; an id is a network's number in the sample."""
    connected, convolutional = sampled(config, seed)
    groups: dict[str, tuple[np.ndarray, Any]] = {}
    for i, rows in enumerate(groups_of_one_shape(connected.widths, config.group)):
        depth = int(np.count_nonzero(connected.widths[rows[-1]]))
        groups[f"connected-{i:03d}"] = rows, Layers(connected.widths[rows, :depth], connected.dropout[rows])
    for i, rows in enumerate(groups_of_one_shape(convolutional.channels, config.group)):
        groups[f"convolutional-{i:03d}"] = rows + config.connected, member_of(convolutional, rows)
    return groups


def trials(config: Config):
    return [{"group": name, "seed": seed} for seed in config.seeds for name in grouped(config, seed)]


def network(members: Layers | Convolutions) -> MaskedNet:
    """The network with the padded shape of a group."""
    if isinstance(members, Layers):
        return masked_mlp(10, members.widths.shape[1], int(members.widths.max()))
    return masked_cnn(10, int(members.channels.max()))


def smallest_eps(config: Config, net: MaskedNet, params: Any, members: Any, data: Dataset) -> dict[str, np.ndarray]:
    """By attack, `[N, images]`: the smallest eps; infinite without one, or if the image is misclassified unchanged."""

    def of_network(trained, images, labels):
        params, member = trained
        logits_fn = partial(net.apply, params, member)

        def of_batch(batch):
            x, y = batch
            directions = jnp.stack([attack_direction(logits_fn, x, y, kind=kind) for kind in ATTACKS.values()])

            def search(direction_largest):
                direction, eps = direction_largest
                return line_search(logits_fn, x, y, direction, eps=eps, points=config.points, steps=config.bisections)

            eps = jax.lax.map(search, (directions, jnp.asarray(config.largest)))
            found = dict(zip(ATTACKS, jnp.where(eps > 0, eps, jnp.inf), strict=True))
            return found | {"correct": logits_fn(x).argmax(-1) == y}

        return jax.tree.map(lambda values: values.reshape(-1), jax.lax.map(of_batch, (images, labels)))

    return over_population(of_network)((params, members), *in_batches(data, slice(config.images)))


def law_of(config: Config, attack: int, radii: np.ndarray) -> dict[str, float] | None:
    """The fitted law, or None where too few images flip within the largest eps."""
    if np.isfinite(radii).mean() <= config.quantile:
        return None
    # radii are float32, so a radius that bisection did not separate from zero may lie slightly above this
    resolution = (1 + 1e-6) * config.largest[attack] / config.points / 2**config.bisections
    return power_law(radii, quantile=config.quantile, resolution=resolution)._asdict()


def trial(config: Config, data, *, group, seed, folder):
    ids, members = grouped(config, seed)[group]
    net, members = network(members), jax.tree.map(jnp.asarray, members)

    def loss_fn(member, params, key, batch, step):
        return cross_entropy(net.apply(params, member, batch[0], key), batch[1]).mean(), {}

    train = trainer(net, data[0], loss_fn, lambda member, steps: common.adam_cosine(config.train, steps), config.train)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.asarray(ids))
    params = train(keys, members, seed, f"training {group}", folder)
    radii = smallest_eps(config, net, params, members, data[1])
    found = []
    for i in range(len(ids)):
        member = member_of(members, i)
        numbers = {
            "accuracy": float(radii["correct"][i].mean()),
            "parameters": masked_size(net.mask(member, one_image(data[0]))),
            "dropout": float(member.dropout),
            "laws": {attack: law_of(config, k, radii[attack][i]) for k, attack in enumerate(ATTACKS)},
        }
        if isinstance(member, Layers):
            widths = np.asarray(member.widths)
            numbers |= {"hidden layers": int((widths > 0).sum()), "mean width": float(widths[widths > 0].mean())}
        found.append(numbers)
    return {"networks": found}


def networks(results: common.Results) -> list[dict]:
    return [network for group in results["networks"] for network in group]


def laws_of(among: list[dict], attack: str, number: str) -> np.ndarray:
    """A number of the law of each network that has a law."""
    return np.array([network["laws"][attack][number] for network in among if network["laws"][attack]])


def draw(config: Config, results):
    among = networks(results)
    exponents = {attack: laws_of(among, attack, "exponent") for attack in ATTACKS}
    title = f"Exponents of {len(among)} random architectures, {config.data.dataset}"
    label = r"exponent $B$ of adversarial error $= A\,\epsilon^B$"
    return {"exponents": figures.histograms(exponents, label, "networks", title, EXPONENTS)}


def rows_of(config: Config, among: list[dict]) -> Iterator[common.Row]:
    about = (
        f"{config.units[0]} to {config.units[1]} units in up to {config.layers} layers, {config.connected} fully "
        f"connected and {config.convolutional} convolutional networks, {config.train.epochs} epochs"
    )
    yield common.percent("median clean accuracy", [np.median([n["accuracy"] for n in among])], about)
    for attack in ATTACKS:
        exponent, low, high = (laws_of(among, attack, number) for number in ("exponent", "low", "high"))
        yield common.row(f"{attack}: networks with a power law", [len(exponent)], "networks")
        if not exponent.size:
            continue
        span = "published {:g} to {:g}".format(*EXPONENTS[attack]) if attack in EXPONENTS else ""
        yield common.row(f"{attack}: median exponent", [np.median(exponent)], "", span)
        for name, value in (
            ("lower quartile of the exponent", np.quantile(exponent, 0.25)),
            ("upper quartile of the exponent", np.quantile(exponent, 0.75)),
            ("median half-width of an exponent's 95 % interval", np.median((high - low) / 2)),
        ):
            yield common.row(f"{attack}: {name}", [value])
        if attack != "step l.l.":
            note = "published: 0.9 to 1.1 for thousands of networks" if attack == "FGSM" else ""
            inside, meets = (exponent >= 0.9) & (exponent <= 1.1), (low <= 1.1) & (high >= 0.9)
            yield common.percent(f"{attack}: exponents within 0.9 to 1.1", [inside.mean()], note)
            yield common.percent(f"{attack}: 95 % intervals that meet 0.9 to 1.1", [meets.mean()], note)
    both = [n for n in among if n["laws"]["FGSM"] and n["laws"]["step l.l."]]
    if both:
        gaps = laws_of(both, "step l.l.", "exponent") - laws_of(both, "FGSM", "exponent")
        yield common.row("step l.l. less FGSM: median difference of the exponents", [np.median(gaps)])
    for attack, name in product(ATTACKS, ("accuracy", "parameters", "dropout", "hidden layers", "mean width")):
        having = [n for n in among if name in n and n["laws"][attack]]
        found = rank_correlation([n[name] for n in having], laws_of(having, attack, "exponent"))
        if found is not None:
            row = f"{attack}: rank correlation of exponent and {name}"
            yield common.row(row, [found], "", f"{len(having)} networks")


def table(config: Config, results):
    return over_seeds(rows_of(config, networks(at)) for at in results.each("seed"))


EXPERIMENT = common.experiment(__name__, "27 minutes beside other work")

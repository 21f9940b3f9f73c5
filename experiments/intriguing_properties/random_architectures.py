"""The exponent of the power law for random architectures: is it the same for all of them?

    python -m experiments.intriguing_properties.random_architectures [smoke|default|paper] [--dataset digits|mnist]

Networks of 1 to 4 hidden layers and small convolutional networks, with random sizes and dropout, are trained as
populations of one padded shape. For each network and test image, the experiment finds the smallest eps along the
directions of FGSM, of the L2 attack and of step l.l., without clipping. It fits the power law to the smallest fiftieth
of them. A run that is killed loses its current group only.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.intriguing_properties.populations import in_batches, one_image, rank_correlation, trainer
from invjax import figures
from invjax.analysis import attack_direction, power_law
from invjax.attacks import line_search
from invjax.data import Dataset, batches, load
from invjax.losses import cross_entropy
from invjax.models import Convolutions, Layers, MaskedNet, groups_of_one_shape, masked_cnn, masked_mlp, masked_size
from invjax.training import member_of, over_population

ATTACKS = {"FGSM": "sign", "L2": "l2", "step l.l.": "least_likely"}
"""The kind of `attack_direction` of each attack."""

PUBLISHED = {"FGSM": (0.9, 1.1), "step l.l.": (1.8, 2.5)}
"""Ranges of the exponent on MNIST; the second is given for MNIST and CIFAR-10 together."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the random architectures."""

    dataset: Literal["digits", "mnist"] = "mnist"
    """Data set of the images."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    connected: int = 56
    """Number of fully connected networks (paper: thousands of networks in all)."""
    convolutional: int = 8
    """Number of convolutional networks: two 5x5 convolutions with 2x2 max pooling and a linear layer."""
    layers: int = 4
    """Largest number of hidden layers; every number from 1 is equally likely."""
    units: tuple[int, int] = (30, 300)
    """Smallest and largest number of units of a hidden layer, drawn for each layer (paper: 30 to 2000)."""
    channels: tuple[int, int] = (4, 12)
    """Smallest and largest number of channels of a convolution."""
    dropout: float = 0.5
    """Largest rate of dropout; the smallest is 0."""
    group: int = 14
    """Largest number of networks that are trained together."""
    epochs: int = 2
    """Number of passes over the training set."""
    batch_size: int = 128
    """Number of images in a training step."""
    learning_rate: float = 2e-3
    """Initial learning rate of Adam; it decays to zero along a cosine."""
    images: int = 10_000
    """Number of test images; the first ones are used."""
    largest: tuple[float, float, float] = (0.15, 1.5, 0.4)
    """Largest eps along FGSM, L2 and step l.l.; a tenth of the images must be misclassified there."""
    points: int = 12
    """Number of points up to the largest eps that are tested before bisection."""
    bisections: int = 12
    """Number of bisections between two points."""
    quantile: float = 0.02
    """Fraction of images below the cutoff of the power law."""
    seed: int = 0
    """Random seed of architectures, weights and batches."""


PRESETS = {
    "smoke": Config(
        "digits",
        connected=14,
        convolutional=2,
        layers=2,
        units=(8, 64),
        channels=(2, 4),
        group=8,
        epochs=12,
        batch_size=64,
        images=360,
        largest=(0.4, 2.0, 1.0),
        points=8,
        bisections=8,
        quantile=0.2,
    ),
    "default": Config(),
    "paper": Config(
        connected=900, convolutional=100, units=(30, 2000), channels=(8, 64), group=50, epochs=20, images=10_000,
        points=50, bisections=16,
    ),
}  # fmt: skip


def sampled(config: Config) -> tuple[Layers, Convolutions]:
    """The architectures, each with a leading population axis."""
    rng = np.random.default_rng(config.seed)
    depth = rng.integers(1, config.layers + 1, config.connected)
    widths = rng.integers(config.units[0], config.units[1] + 1, (config.connected, config.layers))
    widths[np.arange(config.layers)[None] >= depth[:, None]] = 0
    dropout = rng.uniform(0, config.dropout, config.connected + config.convolutional).astype(np.float32)
    shape = (config.convolutional, 2)
    channels = rng.integers(config.channels[0], config.channels[1] + 1, shape)
    same = partial(np.full, shape)
    connected = Layers(widths.astype(np.int32), dropout[: config.connected])
    return connected, Convolutions(
        channels.astype(np.int32), same(5), same(0), same(1), same(0), dropout[config.connected :]
    )


def grouped(config: Config) -> dict[str, tuple[np.ndarray, Layers | Convolutions]]:
    """`{name: (ids, architectures)}`, each a group of one padded shape; an id is a network's number in the sample."""
    connected, convolutional = sampled(config)
    groups: dict[str, tuple[np.ndarray, Any]] = {}
    for i, rows in enumerate(groups_of_one_shape(connected.widths, config.group)):
        depth = int(np.count_nonzero(connected.widths[rows[-1]]))
        groups[f"connected-{i:03d}"] = (
            rows, Layers(connected.widths[rows, :depth], connected.dropout[rows])
        )  # fmt: skip
    if config.convolutional:
        for i, rows in enumerate(groups_of_one_shape(convolutional.channels, config.group)):
            groups[f"convolutional-{i:03d}"] = rows + config.connected, member_of(convolutional, rows)
    return groups


def network(members: Layers | Convolutions) -> MaskedNet:
    """The network with the padded shape of a group."""
    if isinstance(members, Layers):
        return masked_mlp(10, members.widths.shape[1], int(members.widths.max()))
    return masked_cnn(10, int(members.channels.max()))


def train_group(config: Config, data: Dataset, ids: np.ndarray, members: Any, net: MaskedNet, name: str) -> Any:
    """Train the networks of a group together: their parameters, with a leading axis."""
    per_epoch = len(data.labels) // config.batch_size
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.epochs * per_epoch)

    def loss_fn(member, params, key, batch, step):
        return cross_entropy(net.apply(params, member, batch[0], key), batch[1]).mean(), {}

    train = trainer(net, data, loss_fn, lambda member: optax.adam(schedule))
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(config.seed)))(jnp.asarray(ids))
    draw = batches([data.images, data.labels], config.batch_size, config.seed)
    params, _ = train(
        keys, members, draw, config.epochs * per_epoch, chunk_steps=per_epoch, description=f"training {name}"
    )
    return params


def smallest_eps(config: Config, net: MaskedNet, params: Any, members: Any, data: Dataset) -> dict[str, np.ndarray]:
    """By attack, `[N, images]`: the smallest eps; infinite without one, or if the image is misclassified unchanged."""
    images, labels = in_batches(data, slice(config.images))

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

    found = over_population(of_network)((params, members), images, labels)
    return {name: np.asarray(values) for name, values in found.items()}


def one_group(config: Config, data: tuple[Dataset, Dataset], name: str, ids: np.ndarray, members: Any) -> tuple:
    """Train a group and fit the laws of its networks."""
    net = network(members)
    members = jax.tree.map(jnp.asarray, members)
    params = train_group(config, data[0], ids, members, net, name)
    radii = smallest_eps(config, net, params, members, data[1])
    image = one_image(data[0])
    numbers = []
    for row, number in enumerate(ids):
        member = member_of(members, row)
        sizes = np.asarray(member.widths if isinstance(member, Layers) else member.channels)
        numbers.append(
            {
                "id": int(number),
                "kind": name.partition("-")[0],
                "sizes": sizes[sizes > 0].tolist(),
                "dropout": float(member.dropout),
                "parameters": masked_size(net.mask(member, image)),
                "accuracy": float(radii["correct"][row].mean()),
                "laws": {attack: law_of(config, i, radii[attack][row]) for i, attack in enumerate(ATTACKS)},
            }
        )
    return {"networks": numbers}, radii


def law_of(config: Config, attack: int, radii: np.ndarray) -> dict[str, float] | None:
    """The fitted law, or None where too few images flip within the largest eps."""
    if np.isfinite(radii).mean() <= config.quantile:
        return None
    # radii are float32, so a radius that bisection did not separate from zero may lie slightly above this
    resolution = (1 + 1e-6) * config.largest[attack] / config.points / 2**config.bisections
    return power_law(radii, quantile=config.quantile, resolution=resolution)._asdict()


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all groups, draw the histograms, and return the table."""
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    networks: list[dict] = []
    for name, (ids, members) in grouped(config).items():
        found, _ = common.stage(folder / name, partial(one_group, config, (train, test), name, ids, members))
        networks += found["networks"]
    networks.sort(key=lambda network: network["id"])
    title = f"{config.dataset}: power laws of {len(networks)} random architectures"
    values = {attack: np.array(exponents(networks, attack)) for attack in ATTACKS}
    chart = figures.histograms(values, "exponent B of adversarial error = A eps^B", "networks", title, PUBLISHED)
    figures.save(chart, folder / "figures" / "exponents.png")
    return rows(config, networks)


def exponents(networks: list[dict], attack: str) -> list[float]:
    """The values of the networks that have one."""
    return [n["laws"][attack]["exponent"] for n in networks if n["laws"][attack]]


def rows(config: Config, networks: list[dict]) -> list[common.Row]:
    """The table: exponents, published ranges, and rank correlations."""
    cut = (
        f"{config.units[0]} to {config.units[1]} units in up to {config.layers} layers, "
        f"{config.connected} fully connected and {config.convolutional} convolutional networks, {config.epochs} epochs"
    )
    table = [common.row("median clean accuracy", None, [100 * np.median([n["accuracy"] for n in networks])], "%", cut)]
    for attack in ATTACKS:
        values = exponents(networks, attack)
        low, high = PUBLISHED.get(attack, (None, None))
        span = "" if low is None else f"published {low:g} to {high:g}"
        table.append(common.row(f"{attack}: networks with a power law", None, [len(values)], "networks"))
        if not values:
            continue
        table.append(common.row(f"{attack}: median exponent", None, [float(np.median(values))], "", span))
        quarters = np.quantile(values, [0.25, 0.75])
        table += [
            common.row(f"{attack}: {name} quartile of the exponent", None, [value], "")
            for name, value in zip(("lower", "upper"), quarters, strict=True)
        ]
        errors = [half_interval(n["laws"][attack]) for n in networks if n["laws"][attack]]
        table.append(common.row(f"{attack}: median half-width of an exponent's 95 % interval", None,
                                [float(np.median(errors))], ""))  # fmt: skip
        if attack != "step l.l.":
            inside = float(100 * np.mean([0.9 <= value <= 1.1 for value in values]))
            within = 100 * np.mean([n["laws"][attack]["low"] <= 1.1 and n["laws"][attack]["high"] >= 0.9
                                    for n in networks if n["laws"][attack]])  # fmt: skip
            note = "published: 0.9 to 1.1 for thousands of networks" if attack == "FGSM" else ""
            table.append(common.row(f"{attack}: exponents within 0.9 to 1.1", None, [inside], "%", note))
            table.append(common.row(f"{attack}: 95 % intervals that meet 0.9 to 1.1", None, [within], "%", note))
    pairs = [n for n in networks if n["laws"]["FGSM"] and n["laws"]["step l.l."]]
    if pairs:
        gaps = [n["laws"]["step l.l."]["exponent"] - n["laws"]["FGSM"]["exponent"] for n in pairs]
        table.append(
            common.row("step l.l. less FGSM: median difference of the exponents", None, [float(np.median(gaps))], "")
        )
    return table + correlations(networks)


def half_interval(law: dict[str, float]) -> float:
    """Half the width of the interval of an exponent."""
    return (law["high"] - law["low"]) / 2


def correlations(networks: list[dict]) -> list[common.Row]:
    """Rank correlations of the exponents with properties of the networks; depth and width for fully connected ones."""
    table = []
    for attack in ATTACKS:
        measured = [n for n in networks if n["laws"][attack]]
        connected = [n for n in measured if n["kind"] == "connected"]
        for name, among, value in (
            ("accuracy", measured, lambda n: n["accuracy"]),
            ("parameters", measured, lambda n: n["parameters"]),
            ("dropout", measured, lambda n: n["dropout"]),
            ("hidden layers", connected, lambda n: len(n["sizes"])),
            ("mean width", connected, lambda n: float(np.mean(n["sizes"]))),
        ):
            found = rank_correlation([value(n) for n in among], [n["laws"][attack]["exponent"] for n in among])
            if found is not None:
                table.append(
                    common.row(f"{attack}: rank correlation of exponent and {name}", None, [found], "",
                               f"{len(among)} networks")
                )  # fmt: skip
    return table


EXPERIMENT = common.Experiment(
    name="intriguing_properties/random_architectures",
    item="P2: power-law exponents of random architectures on MNIST",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "27 minutes beside other work, 36 minutes of CPU time",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

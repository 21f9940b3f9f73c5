"""The MNIST table: errors of fresh classifiers on the nuisance after cross-entropy (CE), and after the information
about the class was removed from the nuisance.

    python -m experiments.excessive_invariance.nuisance_classifier [smoke|default|paper] [--dataset digits|mnist]

One coupling layer makes a convolutional network invertible (`models.coupled_classifier`), and CE trains it. Then
`models.gaussianize` maps the nuisance of each decision to the standard normal and does not change the logits. Fresh
heads read the nuisance before and after this map, from images with dequantisation noise. Their training set has several
draws of the noise.
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
from experiments.excessive_invariance import classifiers
from invjax import figures
from invjax.analysis import reading, train_head
from invjax.attacks import metamers
from invjax.data import Dataset, as_float, batches, load
from invjax.evaluation import over_batches
from invjax.losses import bits_per_dim, cross_entropy, dequantize, error_rate
from invjax.models import Code, InvertibleClassifier, coupled_classifier, gaussianize, mlp, mnist_cnn
from invjax.training import data_mesh, fit, init_state, make_train_step
from invjax.types import Net, Params

SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1)}
PUBLISHED = {
    ("CE", "logits"): (0.00, 0.39),
    ("iCE", "logits"): (0.37, 0.38),
    ("CE", "MLP"): (0.00, 0.34),
    ("iCE", "MLP"): (40.21, 27.70),
}
"""Training and test errors in %, Jacobsen et al. 2019; their head on the nuisance is an MLP."""
NAMES = {"CE": "CE", "iCE": "iCE in closed form"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the nuisance classifiers."""

    dataset: Literal["digits", "mnist"] = "mnist"
    """Data set of the images."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the network."""
    dense: int = 128
    """Width of the hidden dense layer of the convolutional network."""
    epochs: int = 8
    """Number of passes over the training set."""
    batch_size: int = 128
    """Number of images in a training step."""
    learning_rate: float = 2e-3
    """Initial learning rate of Adam; it decays to zero along a cosine."""
    shift: int = 2
    """Random shifts of the training images, in pixels, at most."""
    rounds: int = 3
    """Rounds of whitening and marginals in `gaussianize`."""
    draws: int = 1
    """Draws of dequantisation noise in the training set of a head."""
    head_epochs: int = 6
    """Number of passes over the training images for each head, for any number of draws."""
    ensemble: int = 0
    """Number of MLPs in an ensemble whose mean log-probabilities are measured, too; 0 for none."""
    columns: int = 8
    """Number of metamers in the figure."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one network."""


PRESETS = {
    "smoke": Config(
        "digits",
        channels=(8,),
        dense=16,
        epochs=2,
        batch_size=64,
        shift=0,
        rounds=1,
        head_epochs=1,
        columns=4,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(channels=(32, 64), dense=1024, epochs=30, draws=10, head_epochs=30, ensemble=5),
}


def shifted(key: jax.Array, x: jax.Array, most: int) -> jax.Array:
    """Each image shifted by up to `most` pixels; the border is filled with black."""
    padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)))
    offsets = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)
    return jax.vmap(lambda image, o: jax.lax.dynamic_slice(image, (o[0], o[1], 0), x.shape[1:]))(padded, offsets)


def train(config: Config, model: InvertibleClassifier, data: Dataset, seed: int, folder: Path) -> Params:
    """Train with cross-entropy alone, or continue the training."""

    def loss_fn(params, key, batch, step):
        images, labels = batch
        move_key, noise_key = jax.random.split(key)
        x = shifted(move_key, as_float(images, data.levels), config.shift)
        logits = model.apply(params, dequantize(noise_key, x, data.levels))
        return cross_entropy(logits, labels).mean(), {"error": error_rate(logits, labels)}

    num_steps = config.epochs * (len(data.labels) // config.batch_size)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, num_steps))
    params = jax.jit(model.init)(init_key, jnp.asarray(as_float(data.images[:8], data.levels)))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        make_train_step(loss_fn, optimizer),
        batches([data.images, data.labels], config.batch_size, seed),
        num_steps,
        mesh=data_mesh(),
        directory=folder,
        description=f"seed {seed}",
    )
    return state.params


def heads(config: Config, classes: int) -> dict[str, Net]:
    """The heads that read the nuisance, by name."""
    conv = mnist_cnn(classes, config.channels, config.dense)
    more = {f"MLP {i}": mlp(classes, (512, 512)) for i in range(2, config.ensemble + 1)}
    return {"linear": mlp(classes, ()), "MLP": mlp(classes, (512, 512)), "conv": conv, **more}


def readers(config: Config) -> list[str]:
    """The rows of the table: the heads, and the ensemble in place of its other members."""
    return ["linear", "MLP", "conv", *([f"ensemble of {config.ensemble} MLPs"] if config.ensemble else [])]


def one_seed(config: Config, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train, make the nuisance Gaussian, and train fresh heads on it."""
    train_data, test_data = data
    mesh = data_mesh()
    model = coupled_classifier(
        lambda outputs: mnist_cnn(outputs, config.channels, config.dense), SHAPES[config.dataset], 10
    )
    params = train(config, model, train_data, seed, folder)
    key = jax.random.key(seed)
    independent = gaussianize(key, model, params, classifiers.noisy(train_data, 100), rounds=config.rounds, mesh=mesh)
    # one copy of the labels for each draw of noise
    labels = {"train": np.tile(train_data.labels, config.draws), "test": test_data.labels}
    x = {
        "train": np.concatenate([classifiers.noisy(train_data, 200 + draw) for draw in range(config.draws)]),
        "test": classifiers.noisy(test_data, 300),
    }
    first, second = pairs(test_data.labels, config.columns)
    originals = np.asarray(as_float(test_data.images[:], test_data.levels))
    numbers: dict[str, Any] = {}
    arrays = {"logits_from": originals[first], "nuisance_from": originals[second]}
    for loss, (classifier, fitted) in {"CE": (model, params), "iCE": independent}.items():
        encode = partial(jax.jit(classifier.encode), fitted)
        codes, logdets = {}, {}
        for split in x:
            codes[split], logdets[split] = over_batches(encode, [x[split]], mesh=mesh)
        numbers[loss] = read_all(config, key, codes, labels, classifier, folder / "heads" / loss.lower())
        bits = bits_per_dim(codes["test"], logdets["test"], test_data.levels)
        numbers[loss]["bits_per_dim"] = float(np.median(bits))
        made = metamers(classifier, fitted, originals[first], originals[second])
        logits, again = classifier.apply(fitted, originals[first]), classifier.apply(fitted, made)
        numbers[loss]["logit_error"] = float(jnp.abs(logits - again).max())
        arrays |= {f"metamers_{loss}": made, f"logits_{loss}": logits, f"metamer_logits_{loss}": again}
    return numbers, {name: np.asarray(value, np.float32) for name, value in arrays.items()}


def read_all(
    config: Config, key: jax.Array, codes: dict[str, Code], labels: dict[str, np.ndarray],
    classifier: InvertibleClassifier, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Error and information of the logits and of each head, on both sets; each finished head is kept."""
    found: dict[str, Any] = {
        "logits": {split: reading(np.asarray(codes[split].logits), labels[split])._asdict() for split in codes}
    }
    logits = {}
    for number, (name, net) in enumerate(heads(config, classifier.num_classes).items()):
        head_key = jax.random.fold_in(key, number)

        def compute(name=name, net=net, head_key=head_key):
            # the conv head reads the nuisance at the positions of its pixels, with zeros in place of the logits
            features = {
                split: np.pad(code.nuisance, ((0, 0), (classifier.num_classes, 0))).reshape(-1, *classifier.shape)
                if name == "conv"
                else np.asarray(code.nuisance)
                for split, code in codes.items()
            }
            head = jax.jit(
                train_head(
                    head_key,
                    net,
                    (features["train"], labels["train"]),
                    epochs=max(1, config.head_epochs // config.draws),
                    mesh=data_mesh(),
                    description=f"fresh {name} head",
                )
            )
            logits = {split: over_batches(head, [features[split]], mesh=data_mesh()) for split in codes}
            return {split: reading(logits[split], labels[split])._asdict() for split in codes}, logits

        found[name], logits[name] = common.stage(folder / name.replace(" ", "-"), compute)
    if config.ensemble:
        members = [logits[name] for name in logits if name.startswith("MLP")]
        means = {split: np.mean([jax.nn.log_softmax(member[split]) for member in members], 0) for split in codes}
        found[readers(config)[-1]] = {split: reading(means[split], labels[split])._asdict() for split in codes}
    return found


def pairs(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first image of each class in turn, and for each an image of the class four further on."""
    of_class = [np.flatnonzero(labels == c) for c in range(10)]
    return (
        np.array([of_class[i % 10][i // 10] for i in range(count)]),
        np.array([of_class[(i + 4) % 10][1 + i // 10] for i in range(count)]),
    )


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train all seeds, draw the figures, and return the table."""
    train_data, test_data = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    results = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        numbers, arrays = common.stage(place, partial(one_seed, config, seed, (train_data, test_data), place))
        results.append(numbers)
        if seed == config.seeds[0]:
            for loss in ("CE", "iCE"):
                of_loss = {name: arrays[f"{name}_{loss}"] for name in ("metamers", "logits", "metamer_logits")}
                chart = figures.metamer_grid(
                    logits_from=arrays["logits_from"],
                    nuisance_from=arrays["nuisance_from"],
                    **of_loss,
                    title=f"{config.dataset}, {NAMES[loss]}: the logits of row 1, everything else from row 3",
                )
                figures.save(chart, folder / "figures" / f"metamers-{loss.lower()}.png")
    names = readers(config)
    errors = {
        NAMES[loss]: {name: [n[loss][name]["test"]["error"] for n in results] for name in names}
        for loss in ("CE", "iCE")
    }
    chart = figures.readings(
        errors, chance=0.9, title=f"{config.dataset}: what fresh classifiers read from the nuisance"
    )
    figures.save(chart, folder / "figures" / "nuisance-readings.png")
    return rows(config, results)


def rows(config: Config, results: list[dict]) -> list[common.Row]:
    """The table: errors with the published ones."""
    table = []
    for loss in ("CE", "iCE"):
        for name in ("logits", *readers(config)):
            published = PUBLISHED.get((loss, name), (None, None)) if config.dataset == "mnist" else (None, None)
            what = "the logits" if name == "logits" else f"a fresh {name} head on the nuisance"
            differs = {
                ("CE", "logits"): f"a convolutional network behind one coupling, {config.epochs} epochs",
                ("iCE", "logits"): "the same network: Gaussianising does not touch the logits",
                ("iCE", "MLP"): "independence in closed form after the training, not by an adversary in it",
            }.get((loss, name), "")
            for split, value in zip(("train", "test"), published, strict=True):
                table.append(
                    common.row(
                        f"{NAMES[loss]}: {split} error of {what}",
                        value,
                        [100 * n[loss][name][split]["error"] for n in results],
                        "%",
                        differs,
                    )
                )
        information = [max(n[loss][name]["test"]["information"] for name in readers(config)) for n in results]
        table.append(
            common.row(
                f"{NAMES[loss]}: information about the class in the nuisance, the best head's bound",
                None,
                information,
                "nats of 2.303",
            )
        )
        bits = [n[loss]["bits_per_dim"] for n in results]
        table.append(common.row(f"{NAMES[loss]}: median test bits per dimension", None, bits, "bits"))
        errors = [n[loss]["logit_error"] for n in results]
        table.append(
            common.row(f"{NAMES[loss]}: max logit error of {config.columns} metamers, float32", None, errors, "")
        )
    return table


EXPERIMENT = common.Experiment(
    name="excessive_invariance/nuisance_classifier",
    item="P1, the MNIST table: errors of logits and of fresh nuisance classifiers, and how to take the class out",
    presets=PRESETS,
    times={"smoke": "half a minute", "default": "20 minutes on 2 CPU cores", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""The fully invertible RevNet at ImageNet's resolution: memory of a training step, and metamers; figures 5 and 9.

    python -m experiments.excessive_invariance.imagenet --data-dir FOLDER
    python -m experiments.excessive_invariance.imagenet paper --data-dir TFDS_FOLDER

FOLDER has photographs named `<class index>_*.jpg`. A few photographs do not teach a classifier. A run on them shows
that the network of 48 convolutions trains and inverts at 224 x 224 pixels, how much memory it needs and how exact it
is.

The figures show the photographs, whose licence may allow research only. The run keeps them in `pictures/`, which
`python -m experiments publish` does not copy.
"""

import dataclasses
import math
import zlib
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import common
from experiments.excessive_invariance.metamers import exactness, pair_up
from invjax import figures
from invjax.attacks import metamers
from invjax.data import Dataset, LazyImages, as_float, batches, load
from invjax.evaluation import correct, over_batches
from invjax.losses import cross_entropy, dequantize, error_rate
from invjax.models import InvertibleClassifier, num_params, preset
from invjax.training import TrainStep, data_mesh, fit, init_state, make_train_step
from invjax.types import Params

MODES = {"memory saving": True, "chain": False}
PUBLISHED = 29.50
"""Top-1 error in % of the published network of 48 layers: Jacobsen et al. 2019, the ImageNet table."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run at ImageNet's resolution."""

    dataset: Literal["folder", "imagenet2012", "crops"] = "folder"
    """folder: photographs `<class index>_*.jpg`; imagenet2012: by TFDS; crops: of scikit-learn's two photographs."""
    data_dir: str | None = None
    """Folder of the photographs, or for imagenet2012 the folder of TFDS."""
    side: int = 224
    """Height and width of an image, a multiple of 32; values other than 224 are for crops only."""
    blocks: tuple[int, ...] = (0, 3, 4, 6, 3)
    """Number of blocks of each level; a block has three convolutions."""
    steps: int = 16
    """Number of training steps."""
    batch_size: int = 4
    """Number of images in a training step."""
    learning_rate: float = 1e-4
    """Learning rate of Adam after a warm-up over a tenth of the steps; it then decays to zero along a cosine."""
    memory_batch: int = 32
    """Number of images in the training step whose memory is measured; the step is compiled and not run."""
    pairs: int = 4
    """Number of metamers, in float32 and in float64."""
    columns: int = 4
    """Number of metamers in figure 5."""
    batch: int = 16
    """Number of metamers in figure 9."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds; each seed trains one network."""


PRESETS = {
    "smoke": Config("crops", side=64, blocks=(0, 0, 0, 1, 0), steps=4, memory_batch=4, batch=8),
    "default": Config(),
    "paper": Config("imagenet2012", steps=600_000, batch_size=256, memory_batch=256, pairs=64, columns=8, batch=64),
}


class Files(list[Path]):
    """Photographs on disk as records; each is read when it is indexed."""

    def __getitem__(self, row: Any) -> Any:
        return {"image": super().__getitem__(row).read_bytes()}


def photographs(folder: Path) -> Dataset:
    """The photographs `<class index>_*.jpg` of a folder, sorted by name and cropped to the central square.

    Raises:
        FileNotFoundError: there are none.
        ValueError: an index that is not one of ImageNet's 1,000.
    """
    paths = sorted(path for path in folder.glob("*_*.jp*g") if path.name.partition("_")[0].isdigit())
    if not paths:
        raise FileNotFoundError(f"{folder} holds no <class index>_*.jpg; pass --data-dir with a folder that does")
    labels = np.array([int(path.name.partition("_")[0]) for path in paths], np.int32)
    if labels.max() > 999:
        raise ValueError(f"class indices must be below 1000; got {labels.max()} in {folder}; rename that file")
    return Dataset(LazyImages(Files(paths), np.arange(len(paths))), labels, 1000, 256)


def crops(side: int, count: int = 64) -> Dataset:
    """Random crops of the two photographs in scikit-learn, as classes 0 and 1, for runs without a data set."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    sources = load_sample_images().images
    labels = np.arange(count, dtype=np.int32) % len(sources)
    images = np.empty((count, side, side, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = (rng.integers(0, room - side) for room in sources[label].shape[:2])
        image[:] = sources[label][top : top + side, left : left + side]
    return Dataset(images, labels, 1000, 256)


def datasets(config: Config) -> tuple[Dataset, Dataset]:
    """The training images and the images for metamers: the two splits of ImageNet, otherwise the same images."""
    if config.side != 224 and config.dataset != "crops":
        raise ValueError(f"side must be 224 for {config.dataset}; got {config.side}; use --dataset crops")
    if config.dataset == "imagenet2012":
        return load("imagenet2012", "train", config.data_dir), load("imagenet2012", "test", config.data_dir)
    if config.dataset == "crops":
        return (crops(config.side),) * 2
    if config.data_dir is None:
        raise ValueError("--dataset folder needs --data-dir, a folder of photographs named <class index>_*.jpg")
    return (photographs(Path(config.data_dir).expanduser()),) * 2


def model_for(config: Config, save_memory: bool) -> InvertibleClassifier:
    """The `imagenet-48` preset at the configured side and depth."""
    shape = (config.side, config.side, 3)
    return preset("imagenet-48", shape=shape, blocks=config.blocks, save_memory=save_memory)


def training_for(config: Config, save_memory: bool) -> tuple[TrainStep, optax.GradientTransformation]:
    """The step of training with cross-entropy, and its optimiser; a batch is (bytes, labels)."""
    model = model_for(config, save_memory)
    warm_up = max(config.steps // 10, 1)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warm_up, max(config.steps, 2))
    optimizer = optax.adam(rate)

    def loss_fn(params: Params, key: Any, batch: Any, step):
        logits = model.apply(params, dequantize(key, as_float(batch[0])))
        return cross_entropy(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    return make_train_step(loss_fn, optimizer), optimizer


def step_memory(config: Config) -> tuple[dict[str, float], dict]:
    """XLA's temporary memory in MiB of a training step of `memory_batch` images: all but arguments and results."""
    shape = (config.memory_batch, config.side, config.side, 3)
    batch = jax.ShapeDtypeStruct(shape, jnp.uint8), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    found = {}
    for name, save_memory in MODES.items():
        step, optimizer = training_for(config, save_memory)
        init = model_for(config, save_memory).init
        state = jax.eval_shape(
            lambda x, init=init, optimizer=optimizer: init_state(
                jax.random.key(0), init(jax.random.key(0), x), optimizer
            ),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
        memory: Any = jax.jit(step).lower(state, batch).compile().memory_analysis()
        found[name] = memory.temp_size_in_bytes / 2**20
    return found, {}


def train(config: Config, seed: int, data: Dataset, folder: Path) -> tuple[Params, list[dict]]:
    """Train with the memory-saving backward pass, or continue the training; the parameters fit both kinds of model."""
    init_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"imagenet")))
    step, optimizer = training_for(config, save_memory=True)
    draw = batches([data.images, data.labels], config.batch_size, seed)
    first = dequantize(init_key, jnp.asarray(as_float(draw(0)[0])))
    params = jax.jit(model_for(config, save_memory=False).init)(init_key, first)
    state, history = fit(
        init_state(run_key, params, optimizer),
        step,
        draw,
        config.steps,
        mesh=mesh_for(config),
        directory=folder,
        log_every=max(config.steps // 200, 1),
        description=f"{config.side}x{config.side}, seed {seed}",
    )
    return state.params, history


def mesh_for(config: Config) -> Mesh:
    """A mesh of the largest number of devices that divides a batch."""
    return data_mesh(jax.devices()[: math.gcd(config.batch_size, jax.device_count())])


def one_seed(config: Config, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train, then make metamers and measure how exact they are."""
    train_set, test = data
    params, history = train(config, seed, train_set, folder)
    model = model_for(config, save_memory=False)

    def logits(params: Params, images: jax.Array) -> Any:
        return model.apply(params, as_float(images))

    first, second = (test.images[ids] for ids in pair_up(test.labels, max(config.pairs, config.batch)))
    first, second = np.asarray(as_float(first)), np.asarray(as_float(second))
    made = over_batches(jax.jit(partial(metamers, model, params)), [first, second], batch_size=config.batch_size)
    share = float(((made < 0) | (made > 1)).mean())
    numbers: dict[str, Any] = {"losses": [row["loss"] for row in history], "outside": share, "size": num_params(params)}
    numbers["float32"], _ = exactness(model, params, first[: config.pairs], second[: config.pairs])
    with jax.enable_x64(True):
        numbers["float64"], _ = exactness(model, params, first[: config.pairs], second[: config.pairs])
    if config.dataset == "imagenet2012":
        right = correct(logits, params, test.images, test.labels, mesh=mesh_for(config))
        numbers["test_error"] = float(1 - right.mean())
    return numbers, {"first": first, "second": second, "metamers": made}


def draw(config: Config, arrays: dict[str, np.ndarray], folder: Path) -> None:
    """Figure 5 and figure 9."""
    n = config.columns
    rows = {
        "logits from": arrays["first"][:n],
        "metamer": arrays["metamers"][:n],
        "nuisance from": arrays["second"][:n],
    }
    about = f"fi-RevNet-48 after {config.steps} steps"
    figures.save(
        figures.image_grid(rows, f"{about}: 1,000 logits of row 1, all else of row 3", 1.6), folder / "metamers.png"
    )
    made = arrays["metamers"][: config.batch // n * n].reshape(-1, n, *arrays["metamers"].shape[1:])
    lines = {f"{1 + i * n}–{(i + 1) * n}": line for i, line in enumerate(made)}
    figures.save(figures.image_grid(lines, f"{about}: a batch of metamers, none left out", 1.6), folder / "batch.png")


def pictures_of(config: Config, folder: Path) -> Path:
    """The folder of the figures: figures of photographs do not go to `figures/`, which is published."""
    return folder / ("figures" if config.dataset == "crops" else "pictures")


def run(config: Config, folder: Path) -> list[common.Row]:
    """Measure the memory, train, draw the figures, and return the table."""
    data = datasets(config)
    memory, _ = common.stage(folder / "memory", partial(step_memory, config))
    numbers = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        values, arrays = common.stage(place, partial(one_seed, config, seed, data, place))
        numbers.append(values)
        if seed == config.seeds[0]:
            draw(config, arrays, pictures_of(config, folder))
    return rows(config, memory, numbers)


def rows(config: Config, memory: dict[str, float], numbers: list[dict]) -> list[common.Row]:
    """The table: memory, exactness, and the loss."""
    what = {
        "folder": "photographs of a folder, too few to learn from",
        "crops": "crops of two photographs, nothing to learn from",
        "imagenet2012": "no augmentation",
    }[config.dataset]
    setup = (
        f"{config.side}x{config.side}, {sum(config.blocks)} blocks, {config.steps} steps of {config.batch_size}; {what}"
    )
    saving, chain = memory["memory saving"], memory["chain"]
    step = f"a training step of {config.memory_batch} images: temporary memory"
    table = [
        common.row(f"{step}, memory saving", None, [saving], "MiB", setup),
        common.row(f"{step}, chain", None, [chain], "MiB", setup),
        common.row(f"{step}, memory saving / chain", None, [saving / chain], ""),
    ]
    for precision in ("float32", "float64"):
        for measure, name in (
            ("logit_error", "max logit error of the metamers"),
            ("round_trip", "max round-trip error"),
        ):
            values = [n[precision][measure] for n in numbers]
            table.append(common.row(f"{name}, {precision}", None, values, "", "published as exact"))
    if config.dataset == "imagenet2012":
        errors = [100 * n["test_error"] for n in numbers]
        table.append(common.row("top-1 error on the validation set", PUBLISHED, errors, "%", setup))
    outside = [100 * n["outside"] for n in numbers]
    table += [
        common.row("values of the metamers outside of [0, 1]", None, outside, "%"),
        common.row("training loss, first", None, [n["losses"][0] for n in numbers], "nats", "log 1000 = 6.908"),
        common.row("training loss, last", None, [n["losses"][-1] for n in numbers], "nats", what),
        common.row("parameters", None, [n["size"] / 1e6 for n in numbers], "million"),
    ]
    return table


EXPERIMENT = common.Experiment(
    name="excessive_invariance/imagenet",
    item="P1 figures 5 and 9 at 224x224: memory of a training step, exactness and metamers of the fi-RevNet-48",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "3 minutes on 2 CPU cores, with --data-dir FOLDER",
        "paper": "accelerators, not run yet",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""P1 figures 5 and 9 at 224x224: memory of a training step, exactness and metamers of the fi-RevNet-48.

FOLDER has photographs named `<class index>_*.jpg`. A few photographs do not teach a classifier. A run on them shows
that the network of 48 convolutions trains and inverts at 224 x 224 pixels, how much memory it needs and how exact it
is.

The figures show the photographs, whose licence may allow research only. They go to `pictures/`, which `python -m
experiments publish` does not copy.
"""

import dataclasses
import zlib
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.excessive_invariance.classifiers import dequantized_loss, pair_up
from experiments.excessive_invariance.metamers import exactness
from experiments.excessive_invariance.published import IMAGENET_ERROR
from invjax import figures
from invjax.attacks import metamers
from invjax.data import Dataset, LazyImages, as_float, batches, load
from invjax.evaluation import correct, over_batches
from invjax.losses import dequantize
from invjax.models import InvertibleClassifier, num_params, preset
from invjax.training import TrainStep, fit, init_state, make_train_step
from invjax.types import Params

WHAT = {
    "folder": "photographs of a folder, too few to learn from",
    "crops": "crops of two photographs, nothing to learn from",
    "imagenet2012": "no augmentation",
}


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: Literal["folder", "imagenet2012", "crops"] = "folder"
    """folder: photographs `<class index>_*.jpg`; imagenet2012: by TFDS; crops: of scikit-learn's two photographs."""
    data_dir: str | None = common.for_machine(None)  # Folder of the photographs, or for imagenet2012 that of TFDS.
    side: int = 224  # Height and width of an image, a multiple of 32; values other than 224 are for crops only.
    blocks: tuple[int, ...] = (0, 3, 4, 6, 3)  # Number of blocks of each level; a block has three convolutions.
    steps: int = 16  # Number of training steps.
    batch_size: int = 4  # Number of images in a training step.
    learning_rate: float = 1e-4
    """Learning rate of Adam after a warm-up over a tenth of the steps; it then decays to zero along a cosine."""
    memory_batch: int = 32
    """Number of images in the training step whose memory is measured; it is compiled and not run."""
    pairs: int = 4  # Number of metamers whose exactness is measured, in float32 and in float64.
    columns: int = common.for_figures(4)  # Number of metamers in figure 5.
    batch: int = 16  # Number of metamers in figure 9.
    seeds: tuple[int, ...] = common.axis((0,))  # Random seeds; each seed trains one network.


PRESETS = {
    "smoke": Config("crops", side=64, blocks=(0, 0, 0, 1, 0), steps=4, memory_batch=4, batch=8),
    "paper": Config("imagenet2012", steps=600_000, batch_size=256, memory_batch=256, pairs=64, columns=8, batch=64),
}


class Files(list[Path]):
    """Photographs on disk as records; each is read when it is indexed."""

    def __getitem__(self, row: Any) -> Any:
        return {"image": super().__getitem__(row).read_bytes()}


def photographs(folder: Path) -> Dataset:
    """The photographs `<class index>_*.jpg` of a folder, sorted by name and cropped to the central square."""
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


def datasets(config: Config):
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


@cache
def model_for(config: Config, save_memory: bool) -> InvertibleClassifier:
    shape = (config.side, config.side, 3)
    return preset("imagenet-48", shape=shape, blocks=config.blocks, save_memory=save_memory)


@cache
def training_for(config: Config, save_memory: bool) -> tuple[TrainStep, optax.GradientTransformation]:
    """The step of training with cross-entropy, and its optimiser; a batch is (bytes, labels)."""
    optimizer = common.adam_warm_up(common.Train(learning_rate=config.learning_rate), config.steps)
    loss_fn = common.on_bytes(dequantized_loss(model_for(config, save_memory).apply, 256), 256)
    return make_train_step(loss_fn, optimizer), optimizer


def step_memory(config: Config) -> tuple[dict[str, float], dict]:
    """XLA's temporary memory in MiB of a training step of `memory_batch` images: all but arguments and results."""
    shape = (config.memory_batch, config.side, config.side, 3)
    batch = jax.ShapeDtypeStruct(shape, jnp.uint8), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    found = {}
    for name, save_memory in (("memory saving", True), ("chain", False)):
        model, (step, optimizer) = model_for(config, save_memory), training_for(config, save_memory)

        def start(x, model=model, optimizer=optimizer):
            return init_state(jax.random.key(0), model.init(jax.random.key(0), x), optimizer)

        state = jax.eval_shape(start, jax.ShapeDtypeStruct(shape, jnp.float32))
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
    start, mesh, every = init_state(run_key, params, optimizer), common.mesh_for(config.batch_size), config.steps // 200
    state, history = fit(start, step, draw, config.steps, mesh=mesh, directory=folder, log_every=max(every, 1))
    return state.params, history


def trial(config: Config, data, *, seed, folder, shared):
    memory, _ = common.stage(shared / "memory", partial(step_memory, config))
    params, history = train(config, seed, data[0], folder)
    model, test = model_for(config, save_memory=False), data[1]
    ids = pair_up(test.labels, max(config.pairs, config.batch))
    first, second = (common.images_of(test, of) for of in ids)
    made = over_batches(jax.jit(partial(metamers, model, params)), [first, second], batch_size=config.batch_size)
    numbers: dict[str, Any] = {
        "memory": memory,
        "losses": {"first": history[0]["loss"], "last": history[-1]["loss"]},
        "outside": float(((made < 0) | (made > 1)).mean()),
        "size": num_params(params),
    }
    for precision in ("float32", "float64"):
        with jax.enable_x64(precision == "float64"):
            numbers[precision], _ = exactness(model, params, first[: config.pairs], second[: config.pairs])
    if config.dataset == "imagenet2012":

        def logits(params, images):
            return model.apply(params, as_float(images))

        right = correct(logits, params, test.images, test.labels, mesh=common.mesh_for(config.batch_size))
        numbers["test_error"] = float(1 - right.mean())
    return numbers, {"first": first, "second": second, "metamers": made}


def draw(config: Config, results):
    """Figures 5 and 9; those of photographs go to `pictures/`, because all of `figures/` is published."""
    place, n = "" if config.dataset == "crops" else "../pictures/", config.columns
    arrays = results.arrays()
    rows = {"logits from": arrays["first"], "metamer": arrays["metamers"], "nuisance from": arrays["second"]}
    rows = {name: images[:n] for name, images in rows.items()}
    lines = [arrays["metamers"][i : i + n] for i in range(0, config.batch // n * n, n)]
    batch = {f"{1 + i * n}–{(i + 1) * n}": images for i, images in enumerate(lines)}
    about = f"fi-RevNet-48 after {config.steps} steps"
    return {
        f"{place}metamers": figures.image_grid(rows, f"{about}: 1,000 logits of row 1, all else of row 3", 1.6),
        f"{place}batch": figures.image_grid(batch, f"{about}: a batch of metamers, none left out", 1.6),
    }


def table(config: Config, results):
    size = f"{config.side}x{config.side}, {sum(config.blocks)} blocks"
    setup = f"{size}, {config.steps} steps of {config.batch_size}; {WHAT[config.dataset]}"
    step = f"a training step of {config.memory_batch} images: temporary memory"
    saving, chain = results["memory", "memory saving"], results["memory", "chain"]
    yield common.row(f"{step}, memory saving", saving, "MiB", setup)
    yield common.row(f"{step}, chain", chain, "MiB", setup)
    yield common.row(f"{step}, memory saving / chain", saving / chain)
    for precision in ("float32", "float64"):
        for key, name in (("logit_error", "logit error of the metamers"), ("round_trip", "round-trip error")):
            yield common.row(f"max {name}, {precision}", results[precision, key], "", "published as exact")
    if config.dataset == "imagenet2012":
        error = results["test_error"]
        yield common.percent("top-1 error on the validation set", error, setup, published=IMAGENET_ERROR)
    yield common.percent("values of the metamers outside of [0, 1]", results["outside"])
    yield common.row("training loss, first", results["losses", "first"], "nats", "log 1000 = 6.908")
    yield common.row("training loss, last", results["losses", "last"], "nats", WHAT[config.dataset])
    yield common.row("parameters", results["size"] / 1e6, "million")


EXPERIMENT = common.experiment(__name__, "3 minutes on 2 CPU cores, with --data-dir FOLDER")

"""Errors of a deep trained net: its round trip, and the logits of its metamers.

`python -m experiments.benchmarks.exactness [--quick] [--out FILE] [--data-dir FOLDER]`

The net is the MNIST preset with 32 blocks on each level, trained with cross-entropy on MNIST. The errors are maxima
over test images and seeds. A metamer decodes a code that no image has, so its error exceeds that of a round trip.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.benchmarks import timing
from experiments.excessive_invariance.classifiers import pair_up
from experiments.excessive_invariance.metamers import exactness
from invjax.data import Dataset, as_float, batches, load
from invjax.losses import cross_entropy, dequantize, error_rate
from invjax.models import preset
from invjax.training import data_mesh, fit, init_state, make_train_step

GOALS = {
    ("round_trip", "float32"): 1e-4,
    ("round_trip", "float64"): 1e-9,
    ("logit_error", "float32"): 1e-3,
    ("logit_error", "float64"): 1e-9,
}
NAMES = {"round_trip": "round trip", "logit_error": "logits of metamers"}


def measure(train: Dataset, test: Dataset, blocks: int, steps: int, pairs: int, seed: int) -> dict:
    """Train one net, and measure its test error and its inversion errors in both precisions."""
    model = preset("mnist", blocks=(blocks, blocks))
    plain = preset("mnist", blocks=(blocks, blocks), save_memory=False)

    def loss_fn(params, key, batch, step):
        logits = model.apply(params, dequantize(key, as_float(batch[0])))
        return cross_entropy(logits, batch[1]).mean(), {}

    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, max(steps // 10, 1), max(steps, 2)))
    params = model.init(jax.random.key(seed), jnp.asarray(as_float(train.images[:256])))
    draw = batches([train.images, train.labels], 64, seed)
    state, _ = fit(
        init_state(jax.random.key(seed), params, optimizer),
        make_train_step(loss_fn, optimizer),
        draw,
        steps,
        mesh=data_mesh(jax.devices()[:2]),
        description=f"depth {2 * blocks}, seed {seed}",
    )
    images = np.asarray(as_float(test.images[:2000]))
    found: dict[Any, float] = {
        "test error": float(error_rate(jax.jit(plain.apply)(state.params, images), test.labels[:2000]))
    }
    first, second = pair_up(test.labels[:2000], pairs)
    for precision in ("float32", "float64"):
        with jax.enable_x64(precision == "float64"):
            errors, _ = exactness(plain, state.params, images[first], images[second])
        found |= {(kind, precision): error for kind, error in errors.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", help="folder of MNIST; the default is that of the experiments")
    options = timing.parse(__doc__, parser)
    common.use_all_cores()
    train, test = (load("mnist", split, options.data_dir) for split in ("train", "test"))
    blocks, steps, pairs, seeds = (2, 2, 8, [0]) if options.quick else (32, 360, 128, [0, 1, 2])
    runs = [measure(train, test, blocks, steps, pairs, seed) for seed in seeds]
    about = f"mnist preset, depth {2 * blocks}, {steps} steps, {len(seeds)} seed(s)"
    rows = [timing.row(f"{about}: test error", 100 * max(run["test error"] for run in runs), "%")]
    rows += [
        timing.row(f"{about}: {NAMES[kind]}, {precision}", max(run[kind, precision] for run in runs), "max error", goal)
        for (kind, precision), goal in GOALS.items()
    ]
    timing.report("exactness", rows, options)


if __name__ == "__main__":
    main()

"""AutoAttack and the smallest radii against PyTorch, on the same adversarially trained network and images.

`python -m experiments.benchmarks.reference_ensemble [--quick] [--out FILE] [--data-dir FOLDER] [--out-dir FOLDER]
[--images N] [--radius-images N] [--steps N] [--queries N]`; needs the `bench` extra

The peer of AutoAttack is the port of Croce & Hein's code in torchattacks. The benchmark runs the four attacks of its
standard `AutoAttack` with the number of steps of this library; by default `AutoAttack` of torchattacks takes 10 steps,
but the published ensemble takes 100. The peer of the smallest radii is, for each image, the best of several attacks of
foolbox.

The benchmark keeps the trained network and every finished part in `--out-dir`, and an interrupted run continues there.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.benchmarks import timing
from invjax import attacks, evaluation
from invjax.data import as_float, batches, load
from invjax.models import mnist_cnn
from invjax.training import adversarial_loss, data_mesh, fit, init_state, make_train_step, shard_batch
from invjax.types import Params

try:
    import foolbox
    import torch
    import torchattacks
except ModuleNotFoundError as error:
    raise SystemExit('this benchmark needs its extra: pip install "invjax[bench]"') from error
from experiments.benchmarks import torch_nets

CORES = 2
EPS = 0.3
CLASSES = 10
PART = 200
"""Number of images that are attacked and kept together."""
NET = mnist_cnn(channels=(16, 32), dense=128)
FARTHEST = {"linf": 1.0, "l2": 8.0}
"""Radii at the start of the bisections, far beyond the median."""
NORMS: dict[str, Any] = {"linf": np.inf, "l2": 2}
PACKAGES = ("torch", "torchattacks", "foolbox")
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`(images, labels) -> images found`."""


def train(folder: Path, data_dir: str | None, steps: int) -> Params:
    """Parameters after training against PGD; the radius grows over the first half of the steps."""

    def compute():
        data = load("mnist", "train", data_dir)
        draw = batches([data.images, data.labels], 100, 0)
        optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
        attack = attacks.pgd(attacks.linf(), steps=10)
        growing = max(steps // 2, 1)
        loss_fn = adversarial_loss(NET.apply, attack, eps=lambda step: EPS * jnp.minimum(1, step / growing))

        def batch_of(step):
            images, labels = draw(step)
            return as_float(images), labels

        params = jax.jit(NET.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        state = init_state(jax.random.key(1), params, optimizer)
        start = time.perf_counter()
        state, history = fit(state, make_train_step(loss_fn, optimizer), batch_of, steps,
                             mesh=data_mesh(jax.devices()[:CORES]))  # fmt: skip
        leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state.params))}
        print(f"trained {steps} steps in {time.perf_counter() - start:.0f} s: {history[-1]}", flush=True)
        return {"last": history[-1], "seconds": time.perf_counter() - start}, leaves

    _, arrays = common.stage(folder / f"trained-{steps}", compute)
    shapes = jax.eval_shape(NET.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(arrays[str(i)]) for i in range(len(arrays))])


def in_parts(folder: Path, run: Run, images: np.ndarray, labels: np.ndarray, part: int = PART) -> np.ndarray:
    """Apply `run` to one part of the images after another, and keep each result in `folder`.

    The times are printed but not reported: the sides do not alternate, so other load may affect only one side.
    """
    found = []
    for start in range(0, len(images), part):
        chosen = slice(start, start + part)

        def compute(chosen=chosen, start=start):
            begin = time.perf_counter()
            x = run(images[chosen], labels[chosen])
            spent = time.perf_counter() - begin
            rest = (len(images) - start - len(x)) / len(x)
            print(f"{folder.name}: {start + len(x)} of {len(images)} images, this part {spent:.0f} s; "
                  f"about {spent * rest / 60:.1f} minutes left", flush=True)  # fmt: skip
            return {"seconds": spent}, {"x": x}

        found.append(common.stage(folder / str(start), compute)[1]["x"])
    return np.concatenate(found)


def lengths(change: np.ndarray, norm: str) -> np.ndarray:
    """Length of the change of each image, in float64."""
    return np.linalg.norm(change.reshape(len(change), -1).astype(np.float64), NORMS[norm], axis=1)


def invjax_ensemble(params: Params, steps: int, queries: int) -> Run:
    """AutoAttack by this library."""
    stages = attacks.autoattack_stages(attacks.linf(), num_classes=CLASSES, steps=steps, queries=queries)
    options = evaluation.Options(PART, data_mesh(jax.devices()[:CORES]))
    run = partial(evaluation.benchmark, jax.random.key(0), NET.apply, params)
    return lambda images, labels: run(images, labels, threat=attacks.linf(), eps=EPS, stages=stages, options=options).x


def torch_ensemble(module: torch.nn.Module, steps: int, queries: int) -> Run:
    """The attacks of `torchattacks.AutoAttack(version="standard")` with the given steps and queries."""
    shared = {"eps": EPS, "norm": "Linf", "seed": 0}
    attack = torchattacks.MultiAttack([
        torchattacks.APGD(module, steps=steps, loss="ce", **shared),
        torchattacks.APGDT(module, steps=steps, n_classes=CLASSES, **shared),
        torchattacks.FAB(module, steps=steps, multi_targeted=True, n_classes=CLASSES, **shared),
        torchattacks.Square(module, n_queries=queries, **shared),
    ])  # fmt: skip

    def run(images, labels):
        found = attack(torch_nets.images(images), torch.from_numpy(labels).long())
        return found.detach().permute(0, 2, 3, 1).numpy()

    return run


def ensemble_table(
    folder: Path, params: Params, module: torch.nn.Module, images: np.ndarray, labels: np.ndarray, steps: int,
    queries: int,
) -> list[timing.Row]:  # fmt: skip
    """Robust accuracy on both sides."""
    logits = jax.jit(partial(NET.apply, params))

    def predicted(x):
        """Predictions of both frameworks, which may differ after a tie or a rounding error."""
        with torch.no_grad():
            return np.asarray(logits(x)).argmax(1), module(torch_nets.images(x)).argmax(1).numpy()

    clean = predicted(images)[0] == labels
    fallen, elsewhere = {}, {}
    for name, run in {
        "invjax": invjax_ensemble(params, steps, queries),
        "torchattacks": torch_ensemble(module, steps, queries),
    }.items():
        x = in_parts(folder / f"{name}-{steps}-{queries}", run, images, labels)
        distance = lengths(x - images, "linf").max()
        assert distance <= EPS + 1e-6 and x.min() >= 0 and x.max() <= 1, f"{name} left the ball: {distance}"
        wrong = [prediction != labels for prediction in predicted(x)]
        own = 0 if name == "invjax" else 1
        fallen[name], elsewhere[name] = wrong[own], int((wrong[0] != wrong[1]).sum())
    accuracy = {name: 100 * (1 - hits.mean()) for name, hits in fallen.items()}
    above = accuracy["invjax"] - accuracy["torchattacks"]
    about = f"{len(images)} MNIST images, linf {EPS}, {steps} steps, {queries} queries"
    return [
        timing.row(f"{about}: clean accuracy", 100 * clean.mean(), "%"),
        *(timing.row(f"{about}: robust accuracy, {name}", value, "%") for name, value in accuracy.items()),
        timing.row(f"{about}: robust accuracy, invjax above torchattacks", above, "points", goal=0.5),
        timing.row(f"{about}: robust accuracy, difference", abs(above), "points", goal=0.5),
        *(
            timing.row(f"{about}: fallen to {a} alone", int((fallen[a] & ~fallen[b]).sum()), "images")
            for a, b in (("invjax", "torchattacks"), ("torchattacks", "invjax"))
        ),
        *(
            timing.row(f"{about}: found by {name}, judged differently by JAX and PyTorch", count, "images")
            for name, count in elsewhere.items()
        ),
    ]


def invjax_smallest(norm: str, params: Params, steps: int) -> dict[str, Run]:
    """Searches of this library for the nearest adversarial image."""
    threat = {"linf": attacks.linf, "l2": attacks.l2}[norm]()
    searches = {
        "smallest(apgd)": attacks.smallest(attacks.apgd(threat, steps=steps), steps=10),
        "fab": attacks.fab(threat, steps=steps),
    }
    mesh = data_mesh(jax.devices()[:CORES])

    def runner(attack):
        run = attacks.jit_attack(attack, NET.apply)

        def found(images, labels):
            x, classes = shard_batch(mesh, (images, labels))
            return np.asarray(run(jax.random.key(0), params, x, classes, eps=FARTHEST[norm]).x)

        return found

    return {name: runner(attack) for name, attack in searches.items()}


def bisected_pgd(attack: Any, model: Any, x: torch.Tensor, classes: torch.Tensor, farthest: float) -> torch.Tensor:
    """Ten bisections of each image's radius. As `epsilon`, foolbox's PGD also accepts a tensor of radii."""
    low, high = torch.zeros(len(x), 1, 1, 1), torch.full((len(x), 1, 1, 1), farthest)
    best = x.clone()
    for i in range(11):
        radius = high if i == 0 else (low + high) / 2
        found = attack.run(model, x, foolbox.criteria.Misclassification(classes), epsilon=radius)
        wrong = (model(found).argmax(1) != classes)[:, None, None, None]
        best, high = torch.where(wrong, found, best), torch.where(wrong, radius, high)
        low = torch.where(wrong, low, radius)
    return best


def foolbox_smallest(norm: str, module: torch.nn.Module, steps: int) -> dict[str, Run]:
    """Searches of foolbox: FMN and DDN with `5 * steps` steps, DeepFool and PGD with `steps` steps."""
    model, of = foolbox.PyTorchModel(module, (0, 1), "cpu"), foolbox.attacks
    searches: dict[str, Any] = {
        "linf": {
            "LInfFMNAttack": of.LInfFMNAttack(steps=5 * steps),
            "LinfDeepFoolAttack": of.LinfDeepFoolAttack(steps=steps),
            "LinfPGD, bisected": of.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=False),
        },
        "l2": {
            "L2FMNAttack": of.L2FMNAttack(steps=5 * steps),
            "DDNAttack": of.DDNAttack(steps=5 * steps),
            "L2DeepFoolAttack": of.L2DeepFoolAttack(steps=steps),
        },
    }[norm]

    def runner(name, attack):
        def found(images, labels):
            x, classes = torch_nets.images(images), torch.from_numpy(labels).long()
            if "bisected" in name:
                raw = bisected_pgd(attack, model, x, classes, FARTHEST[norm])
            else:
                raw = attack(model, x, foolbox.criteria.Misclassification(classes), epsilons=None)[0]
            return raw.detach().permute(0, 2, 3, 1).numpy()

        return found

    return {name: runner(name, attack) for name, attack in searches.items()}


def radius_table(
    norm: str, folder: Path, params: Params, module: torch.nn.Module, images: np.ndarray, labels: np.ndarray, steps: int
) -> list[timing.Row]:
    """Medians of the smallest radius on both sides; the PyTorch network checks every adversarial image."""
    sides = {"invjax": invjax_smallest(norm, params, steps), "foolbox": foolbox_smallest(norm, module, steps)}
    about, rows, nearest = f"{len(images)} MNIST images, median of the smallest {norm} radius", [], {}
    for side, searches in sides.items():
        radii = []
        for name, run in searches.items():
            x = in_parts(folder / f"{norm}-{name}-{steps}", run, images, labels)
            assert x.min() >= 0 and x.max() <= 1, f"{name} left the box"
            with torch.no_grad():
                wrong = module(torch_nets.images(x)).argmax(1).numpy() != labels
            radii.append(np.where(wrong, lengths(x - images, norm), np.inf))
            rows.append(timing.row(f"{about}: {side}, {name}", float(np.median(radii[-1])), norm))
        nearest[side] = np.minimum.reduce(radii)
    ratio = float(np.median(nearest["invjax"]) / np.median(nearest["foolbox"]))
    return [*rows, timing.row(f"{about}: invjax's best / foolbox's best", ratio, goal=1.02)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", help="folder of MNIST; the default is that of the experiments")
    parser.add_argument("--out-dir", type=Path, default=Path("runs/benchmarks"), help="folder of the finished parts")
    parser.add_argument("--images", type=int, default=1000, help="number of test images for AutoAttack")
    parser.add_argument(
        "--radius-images", type=int, default=200, help="number of correctly classified images for the smallest radii"
    )
    parser.add_argument("--steps", type=int, default=100, help="number of steps of APGD and FAB, on both sides")
    parser.add_argument("--queries", type=int, default=5000, help="number of queries of Square, on both sides")
    parser.add_argument("--train-steps", type=int, default=1500, help="number of steps of adversarial training")
    options = timing.parse(__doc__, parser)
    jax.config.update("jax_num_cpu_devices", CORES)
    torch.set_num_threads(CORES)
    images, radius_images, steps, queries, train_steps = (
        (8, 4, 4, 10, 4)
        if options.quick
        else (options.images, options.radius_images, options.steps, options.queries, options.train_steps)
    )
    folder = options.out_dir / ("reference_ensemble-quick" if options.quick else "reference_ensemble")
    params = train(folder, options.data_dir, train_steps)
    module = torch_nets.MnistCnn(params["params"]).eval().requires_grad_(False)
    test = load("mnist", "test", options.data_dir)
    x, labels = np.asarray(as_float(test.images[:])), test.labels
    with torch.no_grad():
        theirs = module(torch_nets.images(x[:100])).numpy()
    difference = float(np.abs(theirs - np.asarray(NET.apply(params, jnp.asarray(x[:100])))).max())
    assert difference < 1e-4, f"logits differ by {difference}"
    kept = folder / f"attacked-{train_steps}"
    rows = ensemble_table(kept, params, module, x[:images], labels[:images], steps, queries)
    with torch.no_grad():  # a misclassified image has no smallest radius
        some = slice(2 * radius_images + 200)
        right = module(torch_nets.images(x[some])).argmax(1).numpy() == labels[some]
    chosen = np.flatnonzero(right)[:radius_images]
    for norm in FARTHEST:
        rows += radius_table(norm, kept, params, module, x[chosen], labels[chosen], steps)
    timing.report("reference_ensemble", rows, options, PACKAGES)


if __name__ == "__main__":
    main()

"""How sensitive a network is: errors under attack in four norms, and the distance of the nearest adversarial example.

    python -m experiments.sensitivity.report [smoke|default|paper] [--dataset digits|mnist]

For a network with standard and one with adversarial training and for each seed, the experiment runs `evaluation.report`
on test images, AutoAttack in linf, and `attacks.diagnose`.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.sensitivity import networks
from invjax import evaluation, figures
from invjax.attacks import autoattack_stages, diagnose, l0, l1, l2, linf, pgd
from invjax.data import Dataset, as_float
from invjax.evaluation import Options, ThreatModel
from invjax.training import data_mesh

THREATS = {"linf": linf, "l2": l2, "l1": l1, "l0": l0}


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of the sensitivity report."""

    images: int = 200
    """Number of test images; the first ones are used."""
    attack_steps: int = 40
    """Number of steps of PGD."""
    bisections: int = 6
    """Number of bisections in the search for the smallest radius."""
    epsilons: tuple[float, ...] = (0.3, 2.0, 10.0, 15.0)
    """Radii in linf, l2, l1 and l0 (pixels); a shorter list leaves out the last norms."""
    ensemble_steps: int = 50
    """Number of steps of each gradient attack in AutoAttack (its authors use 100)."""
    queries: int = 1000
    """Number of queries of the random search in AutoAttack (its authors use 5000)."""
    columns: int = 8
    """Number of images in the figure."""


PRESETS = {
    "smoke": Config(
        "digits",
        channels=(8,),
        dense=16,
        epochs=1,
        batch_size=64,
        train_eps=0.1,
        train_steps=2,
        images=16,
        attack_steps=4,
        bisections=2,
        epsilons=(0.1, 0.5),
        ensemble_steps=4,
        queries=20,
        columns=4,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        channels=(32, 64), dense=1024, epochs=30, train_steps=40, images=10_000, ensemble_steps=100, queries=5000
    ),
}


def radii(config: Config) -> dict[str, float]:
    """The radius of each threat."""
    return dict(zip(THREATS, config.epsilons, strict=False))


def one_network(config: Config, kind: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple:
    """Train one network and measure it."""
    train, test = data
    params = networks.train(config, train, kind, seed, folder)
    apply_fn = networks.network(config).apply
    images = np.asarray(as_float(test.images[: config.images], test.levels))
    labels = np.asarray(test.labels[: config.images])
    key, mesh = jax.random.key(seed), data_mesh()
    threats = [
        ThreatModel(
            pgd(THREATS[name](), steps=config.attack_steps), eps, bisections=config.bisections, keep_examples=True
        )
        for name, eps in radii(config).items()
    ]
    measured = (key, apply_fn, params, images, labels)
    found = evaluation.report(*measured, threats=threats, options=Options(mesh=mesh, directory=folder / "report"))
    stages = autoattack_stages(linf(), num_classes=10, steps=config.ensemble_steps, queries=config.queries)
    strongest = evaluation.benchmark(
        *measured, threat=linf(), eps=config.epsilons[0], stages=stages, options=Options(256, mesh, folder / "report")
    )
    suspicions = diagnose(key, apply_fn, params, images[:32], labels[:32], eps=config.epsilons[0], show=None)
    numbers: dict[str, Any] = {
        "table": [entry._asdict() for entry in evaluation.table(found)],
        "ensemble": {
            "robust_accuracy": float(1 - strongest.broken.mean()),
            "interval": strongest.interval,
            "found_by": strongest.counts(),
        },
        "diagnosis": [finding._asdict() for finding in suspicions],
    }
    arrays = {f"smallest_{name}": s.smallest_eps for name, s in found.sensitivity.items()}
    shown = images[: config.columns]
    arrays |= {"original": shown, "original_prediction": np.asarray(apply_fn(params, jnp.asarray(shown))).argmax(1)}
    for name, s in found.sensitivity.items():
        nearest = np.asarray(s.nearest)[: config.columns]
        arrays |= {
            f"nearest_{name}": nearest,
            f"nearest_{name}_distance": s.smallest_eps[: config.columns],
            f"nearest_{name}_prediction": np.asarray(apply_fn(params, jnp.asarray(nearest))).argmax(1),
        }
    return numbers, arrays


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all networks, draw the figures, and return the table."""
    data = networks.datasets(config)
    numbers: dict[str, list[dict]] = {kind: [] for kind in networks.TRAININGS}
    first: dict[str, dict[str, np.ndarray]] = {}
    for kind in networks.TRAININGS:
        for seed in config.seeds:
            place = folder / f"{kind}-seed{seed}"
            values, arrays = common.stage(place, partial(one_network, config, kind, seed, data, place))
            numbers[kind].append(values)
            first.setdefault(kind, arrays)
    epsilons = radii(config)
    title = f"{config.dataset}, {config.images} test images: distance of the nearest adversarial example found"
    smallest_of = {kind: {name: arrays[f"smallest_{name}"] for name in epsilons} for kind, arrays in first.items()}
    figures.save(figures.sensitivity(smallest_of, epsilons, title), folder / "figures" / "sensitivity.png")
    for kind, arrays in first.items():
        captions = {"original": [f"{k}" for k in arrays["original_prediction"]]} | {
            name: [
                "none found" if np.isinf(d) else f"{k}, at {d:.3g}"
                for k, d in zip(arrays[f"nearest_{name}_prediction"], arrays[f"nearest_{name}_distance"], strict=True)
            ]
            for name in epsilons
        }
        changed = {name: arrays[f"nearest_{name}"] for name in epsilons}
        title = f"{config.dataset}, {kind} training: the nearest adversarial examples, with prediction and distance"
        grid = figures.adversarial_grid(arrays["original"], changed, captions, title)
        figures.save(grid, folder / "figures" / f"nearest-{kind}.png")
    return rows(config, numbers)


def rows(config: Config, numbers: dict[str, list[dict]]) -> list[common.Row]:
    """The table: one row for each network and measure."""
    table = []
    for kind, runs in numbers.items():
        for lines in zip(*(n["table"] for n in runs), strict=True):
            share = lines[0]["interval"] is not None
            values = [(100 if share else 1) * line["value"] for line in lines]
            table.append(
                common.row(f"{kind}: {lines[0]['name']}", None, values, "%" if share else "eps", _interval(lines[0]))
            )
        values = [100 * n["ensemble"]["robust_accuracy"] for n in runs]
        about = f"{config.ensemble_steps} steps, {config.queries} queries"
        table.append(
            common.row(
                f"{kind}: robust accuracy, linf, standard ensemble",
                None,
                values,
                "%",
                f"{about}{_interval(runs[0]['ensemble'], '; ')}",
            )
        )
        named = ", ".join(sorted({finding["name"] for n in runs for finding in n["diagnosis"]}))
        table.append(common.row(f"{kind}: findings of diagnose", None, [len(n["diagnosis"]) for n in runs], "", named))
    return table


def _interval(line: dict, before: str = "") -> str:
    if line["interval"] is None:
        return ""
    low, high = line["interval"]
    return f"{before}95 % interval of the first seed: {100 * low:.1f} to {100 * high:.1f}"


EXPERIMENT = common.Experiment(
    name="sensitivity/report",
    item="errors under attack in linf, l2, l1 and l0, smallest eps, and the standard ensemble",
    presets=PRESETS,
    times={
        "smoke": "86 seconds on 2 busy CPU cores",
        "default": "not run to its end yet; on digits 18 minutes on 2 busy CPU cores",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

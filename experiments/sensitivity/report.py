"""Errors under attack in linf, l2, l1 and l0, smallest eps, and the standard ensemble.

For a network with standard and one with adversarial training and for each seed, the experiment runs `evaluation.report`
on test images, AutoAttack in linf, and `attacks.diagnose`.
"""

import dataclasses

import jax
import numpy as np

from experiments import common
from experiments.sensitivity.networks import TRAININGS, Network, trained
from invjax import evaluation, figures
from invjax.attacks import THREATS, diagnose, pgd
from invjax.evaluation import Entry, Options, ThreatModel
from invjax.training import data_mesh

ENSEMBLE = "robust accuracy, linf, standard ensemble"
SHOWN = 20  # largest number of images in the figure


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[common.Data] = common.Data()  # The images.
    network: common.Flat[Network] = dataclasses.field(default_factory=Network)  # The networks.
    images: int = 200  # Number of test images; the first ones are used.
    attack_steps: int = 40  # Number of steps of PGD.
    bisections: int = 6  # Number of bisections in the search for the smallest radius.
    epsilons: tuple[float, ...] = (0.3, 2.0, 10.0, 15.0)
    """Radii in linf, l2, l1 and l0 (pixels); a shorter list leaves out the last norms."""
    ensemble_steps: int = 50  # Number of steps of each gradient attack in AutoAttack (its authors use 100).
    queries: int = 1000  # Number of queries of the random search in AutoAttack (its authors use 5000).
    columns: int = common.for_figures(5)  # Number of images in the figure, at most 20.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one copy of every network.

    @property
    def radii(self) -> dict[str, float]:
        """The radius of each norm."""
        return dict(zip(THREATS, self.epsilons, strict=False))


PRESETS = {
    "smoke": Config(
        common.Data("digits"), Network((8,), 16, common.Train(8, 64, 5e-3), train_eps=0.1, train_steps=2), images=32,
        attack_steps=4, bisections=2, epsilons=(0.1,), ensemble_steps=4, queries=20, columns=4, seeds=(0,),
    ),
    "paper": Config(
        network=Network((32, 64), 1024, common.Train(30), train_steps=40), images=10_000, ensemble_steps=100,
        queries=5000,
    ),
}  # fmt: skip


def trial(config: Config, data, *, training, seed, folder):
    images, labels = shown = common.arrays_of(data[1], config.images)
    apply_fn, params = config.network.net.apply, trained(config.network, data[0], training, seed, folder)
    model = jax.random.key(seed), apply_fn, params
    threats = [
        ThreatModel(pgd(THREATS[norm](), steps=config.attack_steps), eps, None, config.bisections, keep_examples=True)
        for norm, eps in config.radii.items()
    ]
    options, eps = Options(mesh=data_mesh(), directory=folder / "report"), config.epsilons[0]
    found = evaluation.report(*model, *shown, threats=threats, options=options)
    broken = common.ensemble(apply_fn, params, shown, norm="linf", eps=eps, steps=config.ensemble_steps,
                                queries=config.queries, seed=seed, folder=folder / "report")  # fmt: skip
    strongest = Entry(ENSEMBLE, float(1 - broken.broken.mean()), broken.interval)
    numbers = {
        "entries": [entry._asdict() for entry in [*evaluation.table(found), strongest]],
        "findings": [finding.name for finding in diagnose(*model, images[:32], labels[:32], eps=eps, show=None)],
    }
    predicted = jax.jit(lambda params, x: apply_fn(params, x).argmax(1))
    rows = {"original": images} | {norm: np.asarray(s.nearest) for norm, s in found.sensitivity.items()}
    arrays = {"labels": labels[:SHOWN]} | {f"smallest {norm}": s.smallest_eps for norm, s in found.sensitivity.items()}
    for name, x in rows.items():
        arrays |= {name: x[:SHOWN], f"predicted {name}": np.asarray(predicted(params, x[:SHOWN]))}
    return numbers, arrays


def draw(config: Config, results):
    """Of the first seed: the distances of the nearest adversarial examples, and some of these examples."""
    radii, dataset = config.radii, config.data.dataset
    charts, smallest = {}, {}
    for at in results.each("training"):
        smallest[at.training] = {norm: at.arrays()[f"smallest {norm}"] for norm in radii}
        found = at.arrays(config.columns)
        title = f"{dataset}, {at.training} training: nearest adversarial examples, prediction and distance"
        nearest, texts = {norm: found[norm] for norm in radii}, captions(found, radii)
        charts[f"nearest-{at.training}"] = figures.adversarial_grid(found["original"], nearest, texts, title)
    title = f"Images without an adversarial example found within the radius: {dataset}"
    return charts | {"sensitivity": figures.sensitivity(smallest, radii, title)}


def captions(found, norms):
    classes = zip(found["labels"], found["predicted original"], strict=True)
    originals = [f"class {label}, predicted {prediction}" for label, prediction in classes]
    return {"original": originals} | {
        norm: [
            f"{k}, at {eps:.3g}" if np.isfinite(eps) else "none found"
            for k, eps in zip(found[f"predicted {norm}"], found[f"smallest {norm}"], strict=True)
        ]
        for norm in norms
    }


def table(config: Config, results):
    for at in results.each("training"):
        for entries in zip(*at["entries"], strict=True):
            name, interval = f"{at.training}: {entries[0]['name']}", entries[0]["interval"]
            values = [entry["value"] for entry in entries]
            if interval is None:
                yield common.row(name, values, "pixels" if name.endswith("l0") else "")
                continue
            about = f"{config.ensemble_steps} steps, {config.queries} queries; " if name.endswith(ENSEMBLE) else ""
            about += "95 % interval of the first seed: {:.1f} to {:.1f}".format(*(100 * end for end in interval))
            yield common.percent(name, values, about)
        names = ", ".join(sorted({name for found in at["findings"] for name in found}))
        yield common.row(f"{at.training}: findings of diagnose", map(len, at["findings"]), "", names)


EXPERIMENT = common.experiment(
    __name__,
    "not run to its end yet; on digits, with the flags of the published run, 18 minutes on 2 busy CPU cores",
    training=TRAININGS,
)

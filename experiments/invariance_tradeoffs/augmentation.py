"""P4 figures 7 and 8: rotation and shift in the adversary, robust accuracy and agreement with people.

At several radii, networks are trained against linf-PGD alone, and against linf-PGD through the worst of a few rotations
and shifts. The experiment measures their accuracy under both adversaries at the radius of training. It also measures
how often they agree with people on images whose class an linf attack changed.
"""

import dataclasses

import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import robust_networks as networks
from invjax import figures

ARMS = {"linf": "linf", "moves": "linf, rotation, shift"}  # the adversaries: the arm, and its name in the table

SETS = ("manual linf 0.4", "linf 0.4")


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    radii: tuple[float, ...] = common.axis((0.0, 0.1, 0.2, 0.3))  # Ascending linf radii of training.
    train_tries: int = 4  # Number of rotations and shifts from which the adversary chooses in training.
    tries: int = 10  # Number of rotations and shifts from which the adversary chooses in the evaluation.
    images: int = 500  # Number of test images for the accuracy under attack; the first ones are used.
    attack_steps: int = 20  # Number of steps of the attack in the evaluation.


PRESETS = {
    "smoke": Config(**networks.SMOKE, radii=(0.0, 0.3), train_tries=2, tries=2, images=32, attack_steps=2),
    "paper": Config(
        **networks.PAPER, radii=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4), train_tries=10, tries=100,
        images=10_000, attack_steps=100,
    ),
}  # fmt: skip


def trials(config: Config):
    if len(config.radii) < 2:
        raise ValueError(f"radii must be two or more, the smallest first, to compare its ends; got {config.radii}")
    return common.grid(eps=config.radii, arm=ARMS, seed=config.seeds)


def trial(config: Config, data, *, eps, arm, seed, folder):
    (train, test, human), moves = data, arm == "moves"
    attack = networks.adversary("linf", config.train_steps, config.train_tries if moves else 0)
    used = attack if eps or moves else None
    params = networks.train(config, config.cnn, used, eps, train, seed=seed, folder=folder)
    apply_fn, shown = networks.network(config.cnn).apply, common.arrays_of(test, config.images)
    robust = {}
    for name, tries in (("linf", 0), ("moves", config.tries)):
        adversary = networks.adversary("linf", config.attack_steps, tries)
        robust[name] = common.withstood(apply_fn, params, adversary, eps, shown, seed)
    return networks.seen(apply_fn, params, test, human) | {"robust": robust}


def table(config: Config, results):
    for of_arm in results.each("arm"):
        smallest, *_, largest = of_arm.each("eps")
        what = f"accuracy under that adversary falls from eps {smallest.eps:g} to {largest.eps:g} by"
        falls = 100 * (smallest["robust", of_arm.arm] - largest["robust", of_arm.arm])
        yield common.row(f"trained on {ARMS[of_arm.arm]}: {what}", falls, "points", "published as a curve")
    for at in results.each("eps", "arm"):
        who = f"trained on {ARMS[at.arm]}, eps {at.eps:g}"
        yield common.percent(f"{who}: clean accuracy", at["clean"])
        for arm, adversary in ARMS.items():
            yield common.percent(f"{who}: accuracy under {adversary}", at["robust", arm])
        yield from networks.agreement_rows(who, at)


def failed(at: common.Results, values) -> tuple[np.ndarray, np.ndarray]:
    """The radius and the value of each network whose clean accuracy is below 50 %; `values [E, seeds]`."""
    clean = at.by("eps", "clean")
    low = np.array([*clean.values()]) < 0.5
    return np.array([*clean])[low.nonzero()[0]], np.asarray(values)[low]


def draw(config: Config, results):
    """Figures 7 and 8, with marks for trainings that failed: networks with a clean accuracy below 50 %."""
    eps = np.array(results.values("eps"))
    accuracy, agreement, dots, crosses = {}, {}, {}, {}
    lines = {f"trained on {name}": results.select(arm=arm) for arm, name in ARMS.items()}
    for arm, adversary in ARMS.items():
        robust = {line: np.array([*at.by("eps", "robust", arm).values()]) for line, at in lines.items()}
        accuracy[f"under {adversary}"] = {line: values.T for line, values in robust.items()}
        dots[f"under {adversary}"] = {line: failed(lines[line], values) for line, values in robust.items()}
    for name in SETS:
        counts = {line: np.array([*at.by("eps", "agrees", name).values()]) for line, at in lines.items()}
        panel = f"eps of the training, linf\n{networks.IMAGES[name]}"
        agreement[panel] = eps, {line: np.array([*map(networks.interval, of)]) for line, of in counts.items()}
        crosses[panel] = {line: failed(lines[line], of[..., 0] / of[..., 1]) for line, of in counts.items()}
    note = "\n({}: networks with a clean accuracy below 50 %)" if min(results["clean"]) < 0.5 else ""
    under_attack = figures.curves(
        eps, accuracy, "eps of the training and of the attack, linf", "accuracy",
        f"Accuracy under attack at the radius of the training, mean and range{note.format('dots')}", dots,
    )  # fmt: skip
    title = f"Agreement with people, mean and 95 % interval{note.format('crosses')}"
    with_people = figures.interval_curves(agreement, "agrees with people", title, crosses)
    return {"accuracy": under_attack, "agreement": with_people}


EXPERIMENT = common.experiment(__name__, {"smoke": "a minute", "default": "20 CPU minutes"}, data=networks.datasets)

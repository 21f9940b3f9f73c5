"""Charts of certified accuracy below attacked accuracy: the fractions of certified, broken and undecided images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank
from invjax.figures._interval_charts import Interval

Steps = tuple[np.ndarray, np.ndarray]
"""`(radii [E], accuracies [E] in [0, 1])`, radii ascending."""

STAR: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": INK, "markersize": 9, "linestyle": ""}


def sandwich(
    certified: Steps,
    attacked: Mapping[str, Steps],
    agreement: Mapping[str, Interval],
    title: str,
    published: Mapping[str, float] | None = None,
    published_certified: Mapping[float, float] | None = None,
) -> Any:
    """Certified accuracy below attacked accuracy on the same images, and beside them the agreement with people.

    A certificate at one radius implies one at every smaller radius, and an adversarial example at one radius is one at
    every larger radius. Between two radii the lower line therefore takes the value at the larger one, and the upper
    lines take the value at the smaller one. The true accuracy lies between the lines everywhere. For a report by
    `evaluation.report(..., certify="crown-ibp")`:

        s, i = found.sensitivity["linf"], found.invariance["people"]
        radii = np.linspace(0, s.eps, 50)
        figures.sandwich(
            (np.array([0, s.eps]), np.array([found.correct.mean(), found.certified["linf"].mean()])),
            {"PGD": (radii, (s.smallest_eps > radii[:, None]).mean(1))},
            {"people": (i.agrees[i.changed].mean(), *evaluation.wilson(i.agrees[i.changed].sum(), i.changed.sum()))},
            "certified, and wrong",
        )

    Args:
        certified: l-infinity radii and certified accuracies; at radius 0 this is the clean accuracy.
        attacked: `{attack: (radii, accuracies)}`.
        agreement: `{name: interval}`, the agreement with people on each set of images. If empty, there is no panel.
        title: title of the figure.
        published: `{name: fraction}`, the published agreements, drawn as hollow stars.
        published_certified: `{radius: fraction}`, the published certified accuracies, drawn as hollow stars.

    Raises:
        ValueError: there is no attack, or more images are certified at some radius than withstand an attack, so the two
            accuracies are not of the same images.
    """
    if not attacked:
        raise ValueError("attacked must hold one attack or more; got none; pass the accuracies of an attack")
    for name, steps in attacked.items():
        _check_order(certified, name, steps)
    published, published_certified = published or {}, published_certified or {}
    every = np.concatenate([radii for radii, _ in (certified, *attacked.values())])
    last = float(every.max())
    wide = 1 + 0.75 * len(agreement)
    figure = blank(5.2 + (wide if agreement else 0), 3.8)
    shape = {"ncols": 2, "width_ratios": [4.6, wide]} if agreement else {"ncols": 1}
    axes, *aside = np.ravel(figure.subplots(sharey=True, **shape))
    fine = np.union1d(np.linspace(0, last, 1001), every)
    low, high = _next(certified, fine), np.min([_last(steps, fine) for steps in attacked.values()], 0)
    for bottom, top, color, alpha, name in (
        (0 * fine, low, PALETTE[2], 0.25, "certified"),
        (low, np.maximum(low, high), GRID, 0.9, "undecided"),
    ):
        axes.fill_between(fine, 100 * bottom, 100 * top, color=color, alpha=alpha, linewidth=0, label=name)
    axes.step(certified[0], 100 * np.asarray(certified[1]), where="pre", color=PALETTE[2], linewidth=1.6)
    axes.plot(certified[0], 100 * np.asarray(certified[1]), "s", color=PALETTE[2], markersize=3)
    for i, (name, (radii, accuracies)) in enumerate(attacked.items()):
        color, style = PALETTE[(1, 0, 3)[i % 3]], ("-", "--", ":")[i // 3 % 3]
        line = {"where": "post", "color": color, "linewidth": 1.6, "label": f"withstands {name}"}
        axes.step(radii, 100 * np.asarray(accuracies), style, **line)
    if published_certified:
        percents = [100 * fraction for fraction in published_certified.values()]
        axes.plot(list(published_certified), percents, "*", label="published", clip_on=False, **STAR)
    axes.set_xlim(0, last)
    axes.set_ylim(0, 102)
    axes.set_xlabel("radius eps (linf)")
    axes.set_ylabel("images, %")
    if aside:
        _dots(aside[0], agreement, published)
    for panel in (axes, *aside):
        panel.grid(color=GRID, linewidth=0.5, axis="y")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    named = dict(
        pair for panel in (axes, *aside) for pair in zip(*panel.get_legend_handles_labels()[::-1], strict=True)
    )
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def _dots(axes, agreement, published):
    for i, (name, interval) in enumerate(agreement.items()):
        percent, low, high = (100 * value for value in interval)
        axes.plot([i, i], [low, high], color=PALETTE[3], linewidth=1.6, alpha=0.6)
        axes.plot(i, percent, "o", color=PALETTE[3], markersize=5, label="agreement and its interval")
        axes.annotate(
            f"{percent:.0f}", (i, percent), xytext=(6, 0), textcoords="offset points", fontsize=7, va="center"
        )
        if name in published:
            axes.plot(i - 0.2, 100 * published[name], "*", label="published", **STAR)
    axes.set_xlim(-0.5, len(agreement) - 0.5)
    axes.set_xticks(range(len(agreement)), list(agreement), fontsize=7)
    axes.set_title("the answer agrees with", fontsize=9, color=INK)
    axes.tick_params(left=False)


def _last(steps: Steps, at: np.ndarray) -> np.ndarray:
    """The accuracy at the largest radius up to `at`; 1 below the smallest radius."""
    radii, accuracies = steps
    return np.concatenate([[1.0], accuracies])[np.searchsorted(radii, at, side="right")]


def _next(steps: Steps, at: np.ndarray) -> np.ndarray:
    """The accuracy at the smallest radius from `at` on; 0 above the largest radius."""
    radii, accuracies = steps
    return np.concatenate([accuracies, [0.0]])[np.searchsorted(radii, at, side="left")]


def _check_order(certified: Steps, name: str, attacked: Steps) -> None:
    for radii, accuracies in (certified, attacked):
        if np.shape(radii) != np.shape(accuracies) or not np.size(radii) or (np.diff(radii) <= 0).any():
            raise ValueError(
                f"radii must ascend, with one accuracy each; got {np.asarray(radii)} and {np.asarray(accuracies)}"
            )
    at = np.concatenate([certified[0], attacked[0]])
    low, high = _next(certified, at), _last(attacked, at)
    worst = int(np.argmax(low - high))
    if low[worst] > high[worst] + 1e-9:
        raise ValueError(
            f"at radius {at[worst]:g}, a fraction {low[worst]:.4g} of the images is certified, but only "
            f"{high[worst]:.4g} withstand {name}; pass both accuracies of the same images"
        )

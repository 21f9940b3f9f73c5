"""Figures from arrays. The only module that knows matplotlib, which it imports when a figure is drawn.

Each function takes host arrays and returns a `matplotlib.figure.Figure`; `save` writes it whole or not at all.
"""

from invjax.figures._canvas import save
from invjax.figures._charts import bar_panels, curves, histograms, line_panels, pareto, readings, scatter_panels
from invjax.figures._interval_charts import interval_curves, interval_dots
from invjax.figures._pictures import adversarial_grid, image_grid, metamer_grid
from invjax.figures._planes import decision_arrows, decision_slices, plane_panels
from invjax.figures._sandwiches import sandwich
from invjax.figures._sensitivity_charts import (
    gap_distributions,
    logits_along,
    power_laws,
    predictions,
    robustness_curves,
    sensitivity,
)
from invjax.figures._shares import stacked_shares

__all__ = [
    "adversarial_grid",
    "bar_panels",
    "curves",
    "decision_arrows",
    "decision_slices",
    "gap_distributions",
    "histograms",
    "image_grid",
    "interval_curves",
    "interval_dots",
    "line_panels",
    "logits_along",
    "metamer_grid",
    "pareto",
    "plane_panels",
    "power_laws",
    "predictions",
    "readings",
    "robustness_curves",
    "sandwich",
    "save",
    "scatter_panels",
    "sensitivity",
    "stacked_shares",
]

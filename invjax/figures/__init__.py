"""Figures from arrays. This is the only package that uses matplotlib, which it imports when a figure is drawn.

Each function takes host arrays and returns a `matplotlib.figure.Figure`; `save` writes it completely or not at all.
"""

from invjax.figures._bars import bar_panels, readings
from invjax.figures._canvas import save
from invjax.figures._decision_planes import decision_arrows, decision_slices
from invjax.figures._fractions import stacked_fractions
from invjax.figures._histograms import histograms
from invjax.figures._interval_charts import interval_curves, interval_dots
from invjax.figures._lines import curves, line_panels
from invjax.figures._logit_bars import logit_bars
from invjax.figures._pictures import adversarial_grid, image_grid, metamer_grid
from invjax.figures._plane_panels import plane_panels
from invjax.figures._points import pareto, scatter_panels
from invjax.figures._power_laws import power_laws
from invjax.figures._response_charts import gap_distributions, logits_along, predictions
from invjax.figures._robustness_charts import robustness_curves, sensitivity
from invjax.figures._sandwiches import sandwich

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
    "logit_bars",
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
    "stacked_fractions",
]

"""Analytic models of the papers: closed forms, each with a function that checks it.

`gaussian` is the model of robust features, `spheres` and `information` are models of excessive invariance, and
`overly_robust` is a model of the tradeoff between invariance and sensitivity.
"""

from invjax.theory import gaussian, information, overly_robust, spheres

__all__ = ["gaussian", "information", "overly_robust", "spheres"]

"""The analytic models of the papers: closed forms, each beside a way to check it.

Each module is one model: `gaussian` (robust features), `spheres` and `information` (invariance), `overly_robust`
(invariance against sensitivity).
"""

from invjax.theory import gaussian, information, overly_robust, spheres

__all__ = ["gaussian", "information", "overly_robust", "spheres"]

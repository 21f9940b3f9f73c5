"""Published numbers: Tramèr et al. 2020, *Fundamental Tradeoffs between Invariance and Sensitivity*."""

ATTACK_SUCCESS = {"l0": 55, "linf 0.3": 21, "linf 0.4": 37}
"""Table 1: success of the automatic invariance attacks by people, in %; that of hand-made images at linf 0.4 is 88."""

ATTACK_PIXELS = 25  # section 4: median number of pixels that the l0 attack changed

CERTIFIED_ACCURACY = {0.4: 87}  # section 4: certified accuracy of a network by CROWN-IBP, by linf radius, in %

CERTIFIED_ORIGINAL_LABELS = {"linf 0.4": 96}
"""Section 4: examples to which this network gives the label of the original, by set, in % of all of the set."""

CERTIFIED_AGREES = {"linf 0.4": 63, "manual linf 0.4": 12}
"""Section 4: examples on which this network agrees with people, by set, in % of all images of the set.

The images in which people see no other class are included; the paper has no fraction of the changed images alone.
"""

TABLE_2: dict[str, dict[str, float]] = {
    "ResNet": {"clean": 99, "l0": 80, "linf 0.3": 33, "linf 0.4": 51},
    "CNN, linf-PGD 0.3": {"clean": 99, "l0": 56, "linf 0.3": 0, "linf 0.4": 16},
    "CNN, l2-PGD 2": {"clean": 99, "l0": 27, "linf 0.3": 5, "linf 0.4": 19},
    "CNN, l0-sparse": {"clean": 99, "l0": 38, "linf 0.3": 19, "linf 0.4": 27},
    "Schott et al., ABS": {"clean": 99, "l0": 58, "linf 0.3": 14, "linf 0.4": 18},
    "Schott et al., Binary-ABS": {"clean": 99, "l0": 47, "linf 0.3": 0, "linf 0.4": 8},
}
"""Table 2: clean accuracy, and agreement with people on the changed images of each set, in %; "ResNet" is a ResNet-18.

The values of table 3 are not available here.
"""

"""Published numbers of Jacobsen et al. 2019, *Excessive Invariance Causes Adversarial Vulnerability*."""

MNIST_ERRORS = {
    ("CE", "logits"): {"train": 0.00, "test": 0.39},
    ("iCE", "logits"): {"train": 0.37, "test": 0.38},
    ("CE", "MLP"): {"train": 0.00, "test": 0.34},
    ("iCE", "MLP"): {"train": 40.21, "test": 27.70},
}
"""Errors of the logits, and of an MLP that reads the nuisance, in % on MNIST: the MNIST table."""

SHIFT_GAIN = 38
"""Largest reduction of the error on D_Adv by iCE, in points: figure 8. The values of its cells are not available."""

SPHERES = {
    "misaligned: error on the outer sphere and on inner points moved there": 50,
    "misaligned: error on inner points moved to the outer sphere": 100,
    "inner points that the last coordinate moves to the outer sphere": 100,
    "misaligned: clean error, inner sphere": 0,
    "max margin: clean error": 0,
    "max margin: decisions changed by a nuisance perturbation, another direction": 0,
    "max margin: decisions changed by a semantic perturbation, the other radius": 100,
    "misaligned: mean change of the logits of moved points": 0,
}
"""Errors and fractions of points in %, and a change of logits: examples 7 and 8, for two concentric spheres."""

SPHERES_NETWORK = 0.0  # clean error of the trained invertible network in %: example 8, on spheres of 100 dimensions

IMAGENET_ERROR = 29.50  # top-1 error of the network of 48 layers on ImageNet in %: the ImageNet table

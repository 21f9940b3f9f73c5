"""Published numbers of *Adversarial Examples Are Not Bugs, They Are Features* and of the responses to it."""

LEARNT: dict[str, dict[str, dict[str, float]]] = {
    "standard": {"D": {"accuracy": 95.3}, "D_rand": {"accuracy": 63.3}, "D_det": {"accuracy": 43.7, "next": 16.2}},
    "robust": {"D_rand": {"accuracy": 25.2}, "D_det": {"accuracy": 5.8, "next": 65.5}},
}
"""Tables 1, 9 and 10, a ResNet-50 on CIFAR-10, in percent by the model that made the data and the training set: test
accuracy, and accuracy on the next class."""

LEAKAGE = {"D_rand": 23.5, "D_det": 6.81}
"""Goh's response, CIFAR-10: test accuracy in percent of a linear head on robust linear features, by training set."""

BUGS_TOO = {
    "PGD": {"reached": 99.9, "transfer": 82.5, "accuracy": 33.2, "next": 27.3},
    "non-transferable": {"reached": 99.3, "transfer": 1.7, "accuracy": 2.8, "next": 70.8},
}
"""Nakkiran's response, a ResNet-18 on CIFAR-10, l2, in percent by attack: images of D_det that fool their model and
another model, and the accuracy on the original and on the next class after training on D_det."""

ROBUST_DATASET: dict[str, dict[float, float]] = {
    "standard": {0: 95.25, 0.25: 4.49, 0.5: 0.0},
    "robust": {0: 90.83, 0.25: 82.48, 0.5: 70.90},
    "D_R": {0: 85.40, 0.25: 48.20, 0.5: 21.85},
    "D_NR": {0: 87.68, 0.25: 0.82, 0.5: 0.0},
    "D_R from noise": {0: 84.10, 0.25: 48.27, 0.5: 29.40},
    "D_NR from noise": {0: 45.60, 0.25: 1.50, 0.5: 0.0},
}
"""Table 7, a ResNet-50 on CIFAR-10: accuracy in percent by model or training set and by l2 radius, under PGD."""

ROBUST_SPLITS = {0.25: {"D_R, training": 77.33, "D_R, test": 62.49, "original test": 48.27}}
"""Table 8, the network trained on D_R: accuracy in percent under PGD by l2 radius and images."""

WRONG_LABELS: dict[str, dict[str, dict[str, float]]] = {
    "cifar10": {"errors": {"teacher": 63.1, "pupil": 49.7, "images": 18_768}},
    "mnist": {"answers": {"teacher": 99.1, "pupil": 91.04}},
}
"""Wallace's response: test accuracy in percent of the network that labels and of the one that learns its labels, and
the number of these images. CIFAR-10: errors of a ResNet-18; MNIST: answers of a CNN on images of FashionMNIST."""

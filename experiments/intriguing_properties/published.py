"""Published numbers of Cubuk et al. 2017, "Intriguing Properties of Adversarial Examples" (arXiv 1711.02846)."""

EXPONENTS = {"FGSM": (0.9, 1.1), "step l.l.": (1.8, 2.5)}
"""Ranges of the exponent B of adversarial error = A eps^B: FGSM for thousands of random networks on MNIST and many on
ImageNet, step l.l. for MNIST and CIFAR-10 together."""

EXPONENTS_PERFECT = {"FGSM": 1.2, "L2": 1.1, "PGD": 1.3, "step l.l.": 2.3}
"""Exponent B of a fully connected network without errors on the test set of MNIST, by attack (listed with the
figure of the attacks on MNIST)."""

GAP_EXPONENTS = {2: 0.0}
"""Exponent of the density of the gap Delta_1j between logits in trained networks, by rank j (section 5); the paper
says of higher ranks only that theirs are no integers."""

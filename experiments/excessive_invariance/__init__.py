"""Jacobsen, Behrmann, Zemel, Bethge 2019, *Excessive Invariance Causes Adversarial Vulnerability*."""

"""Invariance against sensitivity: what robustness to small changes costs where the class itself changes."""

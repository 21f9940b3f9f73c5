"""Invariance and sensitivity: the cost of robustness to small changes if a change alters the class."""

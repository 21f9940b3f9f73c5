"""Timings and memory, as ratios to a named peer within one run."""

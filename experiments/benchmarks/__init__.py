"""Benchmarks of time and memory, as ratios to a named peer within one run."""

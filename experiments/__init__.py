"""Experiments: one folder for each paper, one module and one command for each result.

`python -m experiments list` prints them.
"""

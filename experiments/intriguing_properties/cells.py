"""Cells of the architecture search: what they may be, random ones, mutated ones, and who has children.

Source: regularised evolution (Real et al. 2018): of a few, chosen at random among the youngest, the best has a child
with one gene changed.
"""

from typing import NamedTuple

import numpy as np

from invjax.models import ACTIVATIONS, POOLINGS

Cell = dict[str, list[int]]
"""Of each gene, its values by layer."""


class Space(NamedTuple):
    """What a cell may be.

    Attributes:
        layers: its convolutions.
        channels: what each of them may have.
        kernels: sides that a kernel may have.
        pooled: the first ones of the layers, which are followed by pooling.
    """

    layers: int
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    pooled: int


def genes(space: Space) -> dict[str, tuple[int, ...]]:
    """What each layer may have of each gene."""
    return {
        "channels": space.channels,
        "kernel": space.kernels,
        "activation": tuple(range(len(ACTIVATIONS))),
        "pooling": tuple(range(len(POOLINGS))),
        "skip": (0, 1),
    }


def places(space: Space) -> list[tuple[str, int]]:
    """The genes that have an effect: the first layer has nothing to skip, the last ones are not pooled."""
    return [
        (gene, layer)
        for gene in genes(space)
        for layer in range(space.layers)
        if not (gene == "skip" and layer == 0) and not (gene == "pooling" and layer >= space.pooled)
    ]


def random_cell(space: Space, rng: np.random.Generator) -> Cell:
    """Every gene that has an effect at random."""
    cell = {gene: [choices[0]] * space.layers for gene, choices in genes(space).items()}
    for gene, layer in places(space):
        cell[gene][layer] = int(rng.choice(genes(space)[gene]))
    return cell


def mutated(space: Space, cell: Cell, rng: np.random.Generator) -> Cell:
    """The cell with one gene of one layer changed."""
    open_places = [(gene, layer) for gene, layer in places(space) if len(genes(space)[gene]) > 1]
    gene, layer = open_places[rng.integers(len(open_places))]
    others = [value for value in genes(space)[gene] if value != cell[gene][layer]]
    child = {name: list(values) for name, values in cell.items()}
    child[gene][layer] = int(rng.choice(others))
    return child


def parent(alive: list[dict], tournament: int, rng: np.random.Generator) -> Cell:
    """The best of `tournament` cells, chosen at random among `alive`, each with its "cell" and its "reward"."""
    chosen = rng.choice(len(alive), min(tournament, len(alive)), replace=False)
    return max((alive[i] for i in chosen), key=lambda child: child["reward"])["cell"]

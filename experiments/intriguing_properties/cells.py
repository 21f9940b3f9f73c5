"""Cells of the architecture search: the search space, random cells, mutations, and the choice of parents.

Source: regularised evolution (Real et al. 2018). The best of a few cells, chosen at random from the youngest ones, gets
a child with one changed gene.
"""

from typing import NamedTuple

import numpy as np

from invjax.models import ACTIVATIONS, POOLINGS

Cell = dict[str, list[int]]
"""The values of each gene, by layer."""


class Space(NamedTuple):
    """The space of cells.

    Attributes:
        layers: the number of convolutions.
        channels: numbers of channels that a convolution may have.
        kernels: sides that a kernel may have.
        pooled: the number of layers, from the first, that are followed by pooling.
    """

    layers: int
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    pooled: int


def genes(space: Space) -> dict[str, tuple[int, ...]]:
    """The values that each gene may have."""
    return {
        "channels": space.channels,
        "kernel": space.kernels,
        "activation": tuple(range(len(ACTIVATIONS))),
        "pooling": tuple(range(len(POOLINGS))),
        "skip": (0, 1),
    }


def places(space: Space) -> list[tuple[str, int]]:
    """The genes that have an effect: the first layer has no skip connection, and the last ones have no pooling."""
    return [
        (gene, layer)
        for gene in genes(space)
        for layer in range(space.layers)
        if not (gene == "skip" and layer == 0) and not (gene == "pooling" and layer >= space.pooled)
    ]


def random_cell(space: Space, rng: np.random.Generator) -> Cell:
    """A cell whose genes are random, as far as they have an effect."""
    cell = {gene: [choices[0]] * space.layers for gene, choices in genes(space).items()}
    for gene, layer in places(space):
        cell[gene][layer] = int(rng.choice(genes(space)[gene]))
    return cell


def mutated(space: Space, cell: Cell, rng: np.random.Generator) -> Cell:
    """The cell with a change of one gene of one layer."""
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

"""Random search and evolution of cells: the space of cells, mutations, and the choice of parents.

Source: regularised evolution (Real et al. 2018). The best of a few cells, chosen at random from the youngest ones, gets
a child with one changed gene.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from invjax.models import ACTIVATIONS, POOLINGS, Convolutions

POOLED = 2  # number of layers, from the first, that are followed by 2x2 pooling
ARMS = ("random", "evolved")
Cell = dict[str, list[int]]  # the values of each gene, by layer
Space = dict[tuple[str, int], tuple[int, ...]]
"""The values that each gene of each layer may have; one value where a gene has no effect."""
Child = dict[str, Any]  # the numbers of a child, with its "arm", its "cell" and its "reward"


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings of the search."""

    layers: int = 3  # Number of convolutions of a cell; pooling follows the first two, a linear layer the last one.
    channels: tuple[int, ...] = (2, 4, 8)  # Numbers of channels that a layer may have.
    kernels: tuple[int, ...] = (3, 5)  # Sides that a kernel may have; odd numbers.
    random: int = 40  # Number of children of the random search (paper: 9,360 children of a learned controller).
    evolved: int = 40  # Number of children of the evolution, which starts from the first ones of the random search.
    generation: int = 8  # Number of children that are trained together.
    alive: int = 24  # Number of the youngest cells, from which the evolution chooses parents.
    tournament: int = 6  # Number of cells in a tournament; the best becomes a parent.

    def check(self) -> None:
        """Refuse children, a generation or a tournament of none, and fewer random children than are alive."""
        for name in ("random", "evolved", "generation", "alive", "tournament"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")
        if self.alive > self.random:
            raise ValueError(
                f"alive={self.alive} is more than random={self.random}, from which the evolution starts; lower it"
            )

    def space(self) -> Space:
        """The space of cells. The first layer has no skip connection, and the last ones have no pooling."""
        genes = {"channels": self.channels, "kernel": self.kernels, "activation": tuple(range(len(ACTIVATIONS))),
                 "pooling": tuple(range(len(POOLINGS))), "skip": (0, 1)}  # fmt: skip
        without = {("skip", 0)} | {("pooling", layer) for layer in range(POOLED, self.layers)}
        return {
            (gene, layer): values[:1] if (gene, layer) in without else values
            for gene, values in genes.items()
            for layer in range(self.layers)
        }


def random_cell(space: Space, rng: np.random.Generator) -> Cell:
    """A cell whose genes are random, as far as they have an effect."""
    cell: Cell = {gene: [] for gene, _ in space}
    for (gene, _), values in space.items():
        cell[gene].append(int(rng.choice(values)) if len(values) > 1 else values[0])
    return cell


def mutated(space: Space, cell: Cell, rng: np.random.Generator) -> Cell:
    """The cell with a change of one gene of one layer."""
    places = [place for place, values in space.items() if len(values) > 1]
    gene, layer = places[rng.integers(len(places))]
    child = {name: list(values) for name, values in cell.items()}
    child[gene][layer] = int(rng.choice([value for value in space[gene, layer] if value != cell[gene][layer]]))
    return child


def parent(alive: list[Child], tournament: int, rng: np.random.Generator) -> Cell:
    """The best of `tournament` cells, chosen at random among `alive`."""
    chosen = rng.choice(len(alive), min(tournament, len(alive)), replace=False)
    return max((alive[i] for i in chosen), key=lambda child: child["reward"])["cell"]


def next_cells(settings: Search, seed: int, arm: str, generation: int, history: list[Child]) -> list[Cell]:
    """The cells of a generation of an arm, a function of the children before it, oldest first."""
    space, rng = settings.space(), np.random.default_rng((seed, ARMS.index(arm), generation))
    count = min(settings.generation, getattr(settings, arm) - generation * settings.generation)
    if arm == "random":
        return [random_cell(space, rng) for _ in range(count)]
    parents = [parent(history[-settings.alive :], settings.tournament, rng) for _ in range(count)]
    return [mutated(space, cell, rng) for cell in parents]


def search(settings: Search, seed: int, folder: Path, evaluate: Callable[..., list[Child]]) -> list[Child]:
    """All children, random ones first; a generation that is kept in `folder` is not evaluated again.

    `evaluate` takes the cells of a generation, its arm and its number, and gives its children.
    """
    children: dict[str, list[Child]] = {arm: [] for arm in ARMS}

    def kept(cells: list[Cell], arm: str, number: int) -> list[Child]:
        place = folder / f"{arm}-{number:03d}"
        return common.stage(place, lambda: ({"children": evaluate(cells, arm, number)}, {}))[0]["children"]

    for arm in ARMS:
        for number in range(-(-getattr(settings, arm) // settings.generation)):
            history = children["random"][: settings.alive] + children["evolved"]
            children[arm] += kept(next_cells(settings, seed, arm, number, history), arm, number)
    return children["random"] + children["evolved"]


def stacked(chosen: list[Cell], times: int = 1) -> Convolutions:
    """Cells with a leading population axis and `times` as many channels."""
    fields = {gene: np.array([cell[gene] for cell in chosen], np.int32) for gene in chosen[0]}
    fields["channels"] *= times
    return Convolutions(**fields, dropout=np.zeros(len(chosen), np.float32))

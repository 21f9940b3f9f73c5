"""The invariance attack in linf: move an image as far towards an image of another class as the ball allows."""

import numpy as np

from invjax import _check
from invjax.attacks._invariance import InvarianceExamples, Judge, checked, decisions
from invjax.attacks._neighbours import Neighbours
from invjax.types import Images


def linf_invariance(
    x: Images, neighbours: Neighbours, *, eps: float | int, judge: Judge | None = None, batch_size: int = 256
) -> InvarianceExamples:
    """Move each image as far towards an aligned neighbour as the ball allows.

        x' = x + clip(x* - x, -eps, eps)

    The attack chooses the neighbour x* for which x' is nearest to x* (in l2). With a judge, the attack
    prefers the neighbours whose class the judge sees in x'.

    Args:
        x: `[B, H, W, C]` in [0, 1].
        neighbours: the neighbours of x, from `aligned_neighbours`.
        eps: the radius of the ball, in (0, 1].
        judge: `x [B, H, W, C] -> logits [B, K]`, or labels `[B]` with -1 where the judge sees no class. Pass
            a jitted function.
        batch_size: the number of images in one call of the judge.

    Returns:
        One example for each image; `success` is None without a judge.

    Raises:
        ValueError: `eps` is outside (0, 1], the images are not finite floats in [0, 1], or the neighbours belong to
            other images.

    Source: Tramèr et al. 2020, section 4.1. Their code keeps the background where the neighbour differs by less than
    eps, and chooses, among a few classes, the one for which the image loses least brightness.
    """
    _check.number("eps", eps)
    if not 0 < eps <= 1:
        raise ValueError(f"eps must be above 0 and at most 1, the range of the images; got eps={eps}")
    x = checked(x, neighbours)
    moved = np.clip(neighbours.images, x[:, None] - np.float32(eps), x[:, None] + np.float32(eps))
    left = np.sqrt(((neighbours.images - moved) ** 2).sum((2, 3, 4)))
    seen = None
    if judge is not None:
        decided = decisions(judge, moved.reshape(-1, *x.shape[1:]), batch_size)
        seen = decided.reshape(left.shape) == neighbours.classes
        left = np.where(seen, left, left + left.max() + 1)
    rows, best = np.arange(len(x)), left.argmin(1)
    chosen = moved[rows, best]
    return InvarianceExamples(
        chosen,
        neighbours.classes[rows, best],
        None if seen is None else seen[rows, best],
        np.abs(chosen - x).max((1, 2, 3)),
        best,
    )

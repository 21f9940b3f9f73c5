r"""Images that mean something else within the ball in which a robust model's prediction may not change.

From the image x towards x*, an image of another class that was moved onto it (`aligned_neighbours`):

    linf:  x' = x + clip(x* - x, -eps, eps)
    l0:    x' = x* in some of the connected regions in which the two differ, x elsewhere

No model under attack is asked: whoever is robust within the ball has to be wrong on x' as often as its meaning has
changed. Whether it has is for people to say, or for a judge that stands in for them.

Source: Tramèr et al. 2020, section 4.1. They chose target classes by hand, and l0 candidates by an AC-GAN or by eye.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from invjax import _check
from invjax._batching import over_batches
from invjax.attacks._neighbours import Neighbours
from invjax.types import Images

Judge = Callable[[jax.Array], Any]
"""`x [B, H, W, C] -> logits [B, K]`, or labels `[B]` with -1 where there is no saying."""


class InvarianceExamples(NamedTuple):
    """One image each.

    Attributes:
        x: `[B, H, W, C]`.
        target: `[B]`, the class that they were moved to.
        success: `[B]`, whether the judge sees that class; None without a judge.
        distance: `[B]`, how far they are from the original: the largest change, or the number of pixels changed.
        neighbour: `[B]`, which of the K - 1 neighbours they were moved to.
    """

    x: Float[np.ndarray, "batch height width channel"]
    target: Int[np.ndarray, " batch"]
    success: Bool[np.ndarray, " batch"] | None
    distance: Float[np.ndarray, " batch"]
    neighbour: Int[np.ndarray, " batch"]


def linf_invariance(
    x: Images, neighbours: Neighbours, *, eps: float | int, judge: Judge | None = None, batch_size: int = 256
) -> InvarianceExamples:
    """As far towards an aligned neighbour as the ball allows: the neighbour itself, clipped to x - eps .. x + eps.

    Of the other classes, that one is taken of which least is left to go (in l2); with a judge, among those which the
    judge sees in the image, if there are any.

    Args:
        x: `[B, H, W, C]` in [0, 1].
        neighbours: of x, from `aligned_neighbours`.
        eps: radius, in (0, 1].
        judge: `x [B, H, W, C] -> logits [B, K]`, or labels `[B]` with -1 where there is no saying; jit it first.
        batch_size: images judged at once.

    Raises:
        ValueError: eps outside (0, 1], images that are not finite floats in [0, 1], neighbours of other images.

    Source: Tramèr et al. 2020, section 4.1. Their code leaves the background as it is where the neighbour differs by
    less than eps, and chooses, among a few classes, the one for which least ink is removed.
    """
    _check.number("eps", eps)
    if not 0 < eps <= 1:
        raise ValueError(f"eps must be above 0 and at most 1, the range of the images; got eps={eps}")
    x = _checked(x, neighbours)
    moved = np.clip(neighbours.images, x[:, None] - np.float32(eps), x[:, None] + np.float32(eps))
    left = np.sqrt(((neighbours.images - moved) ** 2).sum((2, 3, 4)))
    seen = None
    if judge is not None:
        decided = _decisions(judge, moved.reshape(-1, *x.shape[1:]), batch_size)
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


def l0_invariance(
    x: Images, neighbours: Neighbours, judge: Judge, *, regions: int = 6, batch_size: int = 256
) -> InvarianceExamples:
    """The fewest pixels of an aligned neighbour that turn the image into one of its class, as the judge sees it.

    Where the two differ by more than 1/2 they fall into connected regions (corners connect). Every subset of regions,
    of every neighbour, is a candidate; they are judged from small to large, until one is accepted. Where none is, the
    image is the nearest neighbour, all regions of it. Taking the first of many candidates that a judge accepts finds
    its mistakes too: the judge should be better than any model that is measured with the result.

    Args:
        x: `[B, H, W, C]` in [0, 1]; the published attack takes black and white images.
        neighbours: of x, from `aligned_neighbours`, best of a bank for l0.
        judge: `x [B, H, W, C] -> logits [B, K]`, or labels `[B]` with -1 where there is no saying; jit it first.
        regions: told apart at most; the smallest are one region if there are more.
        batch_size: images judged at once.

    Returns:
        `InvarianceExamples` whose distance is the number of pixels that changed.

    Raises:
        ValueError: regions outside 1 .. 16, images that are not finite floats in [0, 1], neighbours of other images.

    Source: Tramèr et al. 2020, section 4.1. Their text clusters the pixels spectrally, their code by DBSCAN, which
    drops isolated pixels.
    """
    if not 1 <= regions <= 16:
        raise ValueError(f"regions must be from 1 to 16, for there are 2^regions subsets; got regions={regions}")
    x = _checked(x, neighbours)
    others = neighbours.classes.shape[1]
    differ = (np.abs(neighbours.images - x[:, None]) > 0.5).any(-1)
    region, sizes = _regions(differ.reshape(-1, *differ.shape[2:]), regions)
    subsets = (np.arange(1, 2**regions)[:, None] >> np.arange(regions)[None]) & 1
    pixels = sizes @ subsets.T
    # a subset counts once: without regions that are not there
    pair, subset = np.nonzero((sizes == 0).astype(int) @ subsets.T == 0)
    pixels = pixels[pair, subset]
    image, which = pair // others, pair % others

    def built(chosen):
        inside = np.pad(subsets, ((0, 0), (0, 1)))[subset[chosen][:, None, None], region[pair[chosen]]] > 0
        return np.where(inside[..., None], neighbours.images[image[chosen], which[chosen]], x[image[chosen]])

    accepted = np.full(len(x), -1)
    waiting = np.argsort(pixels, kind="stable")
    while waiting.size:
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        seen = _decisions(judge, built(chosen), batch_size)
        # the smallest comes first, also within a batch; the assignment keeps the last
        good = chosen[seen == neighbours.classes[image[chosen], which[chosen]]][::-1]
        accepted[image[good]] = good
        waiting = waiting[accepted[image[waiting]] < 0]
    # all of the nearest neighbour, where nothing was accepted
    best, rows, done = sizes.sum(1).reshape(-1, others).argmin(1), np.arange(len(x)), accepted >= 0
    best[done] = which[accepted[done]]
    changed = differ[rows, best]
    result = np.where(changed[..., None], neighbours.images[rows, best], x)
    distance = changed.sum((1, 2)).astype(np.float32)
    if done.any():
        result[done], distance[done] = built(accepted[done]), pixels[accepted[done]]
    return InvarianceExamples(result, neighbours.classes[rows, best], done, distance, best)


def _regions(differ, most):
    """Connected regions of each image `[P, H, W]`: `(region [P, H, W], size [P, most])`, large ones first, else -1."""
    touching = np.zeros((3, 3, 3), int)
    touching[1] = 1  # within an image, with corners; never from one image to the next
    numbered, count = ndimage.label(differ, touching)
    size = np.bincount(numbered.ravel(), minlength=count + 1)
    owner = np.zeros(count + 1, int)
    owner[numbered] = np.arange(len(differ))[:, None, None]
    owner[0] = -1
    # regions of an image by falling size: their ranks, of which the last ones are one
    order = np.lexsort((-size, owner))[1:]
    first = np.searchsorted(owner[order], np.arange(len(differ)))
    rank = np.full(count + 1, -1)
    rank[order] = np.minimum(np.arange(count) - first[owner[order]], most - 1)
    sizes = np.zeros((len(differ), most), int)
    np.add.at(sizes, (owner[order], rank[order]), size[order])
    return rank[numbered], sizes


def _checked(x, neighbours):
    _check.within("x", x, (0.0, 1.0))
    if x.shape != (len(neighbours.images), *neighbours.images.shape[2:]):
        raise ValueError(
            f"neighbours must be those of x {x.shape}; got neighbours of {len(neighbours.images)} images of "
            f"{neighbours.images.shape[2:]}; call aligned_neighbours(x, ...) first"
        )
    return np.asarray(x, np.float32)


def _decisions(judge, images, batch_size):
    answers = over_batches(judge, [images], batch_size)
    if answers.ndim == 2:
        _check.finite("the judge's logits", answers)
        return answers.argmax(1)
    if answers.shape != (len(images),) or not np.issubdtype(answers.dtype, np.integer):
        raise ValueError(
            f"the judge must give logits [{len(images)}, classes] or integer labels [{len(images)}]; got "
            f"{answers.dtype} {answers.shape}"
        )
    return answers

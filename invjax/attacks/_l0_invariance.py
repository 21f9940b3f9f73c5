"""The invariance attack in l0: copy the smallest part of an image of another class that changes the meaning."""

import numpy as np
from scipy import ndimage

from invjax.attacks._invariance import InvarianceExamples, Judge, checked, decisions
from invjax.attacks._neighbours import Neighbours
from invjax.types import Images


def l0_invariance(
    x: Images, neighbours: Neighbours, *, judge: Judge, regions: int = 6, batch_size: int = 256
) -> InvarianceExamples:
    """Copy the fewest pixels of an aligned neighbour for which the judge sees the neighbour's class.

    The pixels in which the image and the neighbour differ by more than 1/2 form connected regions (corners connect).
    Every subset of regions, of every neighbour, is a candidate. The judge sees the candidates from small to large,
    until it accepts one. If the judge accepts none, the attack returns the nearest neighbour with all its regions. The
    accepted candidate may be a mistake of the judge, because the judge sees many candidates. The judge should
    therefore be more accurate than any model that is evaluated on the result.

    Args:
        x: `[B, H, W, C]` in [0, 1]; the published attack takes black and white images.
        neighbours: the neighbours of x, from `aligned_neighbours`, preferably with a bank for l0.
        judge: `x [B, H, W, C] -> logits [B, K]`, or labels `[B]` with -1 where the judge sees no class. Pass
            a jitted function.
        regions: the largest number of regions; the attack joins the smallest ones if there are more.
        batch_size: the number of images in one call of the judge.

    Returns:
        One example for each image; `distance` is the number of pixels that changed.

    Raises:
        ValueError: `regions` is outside 1 .. 16, the images are not finite floats in [0, 1], or the neighbours belong
            to other images.

    Source: Tramèr et al. 2020, section 4.1. Their text clusters the pixels spectrally; their code uses DBSCAN, which
    drops isolated pixels.
    """
    if not 1 <= regions <= 16:
        raise ValueError(f"regions must be from 1 to 16, because there are 2^regions subsets; got regions={regions}")
    x = checked(x, neighbours)
    others = neighbours.classes.shape[1]
    differ = (np.abs(neighbours.images - x[:, None]) > 0.5).any(-1)
    region, sizes = _regions(differ.reshape(-1, *differ.shape[2:]), regions)
    subsets = (np.arange(1, 2**regions)[:, None] >> np.arange(regions)[None]) & 1
    pixels = sizes @ subsets.T
    # Each subset counts once: subsets with empty regions are left out.
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
        seen = decisions(judge, built(chosen), batch_size)
        # The smallest accepted candidate wins: the order is reversed, and NumPy keeps the last of equal indices.
        good = chosen[seen == neighbours.classes[image[chosen], which[chosen]]][::-1]
        accepted[image[good]] = good
        waiting = waiting[accepted[image[waiting]] < 0]
    # Without an accepted candidate the result is the whole nearest neighbour.
    best, rows, done = sizes.sum(1).reshape(-1, others).argmin(1), np.arange(len(x)), accepted >= 0
    best[done] = which[accepted[done]]
    changed = differ[rows, best]
    result = np.where(changed[..., None], neighbours.images[rows, best], x)
    distance = changed.sum((1, 2)).astype(np.float32)
    if done.any():
        result[done], distance[done] = built(accepted[done]), pixels[accepted[done]]
    return InvarianceExamples(result, neighbours.classes[rows, best], done, distance, best)


def _regions(differ, most):
    """The connected regions of each image `[P, H, W]`, the largest first.

    Returns:
        The region of each pixel, `[P, H, W]`, -1 where there is none, and the size of each region, `[P, most]`.
    """
    touching = np.zeros((3, 3, 3), int)
    touching[1] = 1  # pixels of one image touch, also at corners; pixels of different images do not
    numbered, count = ndimage.label(differ, touching)
    size = np.bincount(numbered.ravel(), minlength=count + 1)
    owner = np.zeros(count + 1, int)
    owner[numbered] = np.arange(len(differ))[:, None, None]
    owner[0] = -1
    # rank the regions of an image by decreasing size; the smallest ones share the last rank
    order = np.lexsort((-size, owner))[1:]
    first = np.searchsorted(owner[order], np.arange(len(differ)))
    rank = np.full(count + 1, -1)
    rank[order] = np.minimum(np.arange(count) - first[owner[order]], most - 1)
    sizes = np.zeros((len(differ), most), int)
    np.add.at(sizes, (owner[order], rank[order]), size[order])
    return rank[numbered], sizes

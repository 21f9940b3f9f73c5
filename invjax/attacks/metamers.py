r"""Logit metamers: images that a classifier cannot tell from another image, down to the last logit.

With an exact inverse there is nothing to search for. Take the logits of one image and everything else from another:

    x* = decode(z_s(a), z_n(b))    so that    logits(x*) = logits(a)

while x* looks like b, as far as the nuisance is what one sees.

Source: Jacobsen et al. 2019, section 2.1, metameric sampling.
"""

from invjax.models.fi_revnet import Code, InvertibleClassifier
from invjax.types import Images, Params


def metamers(model: InvertibleClassifier, params: Params, logits_from: Images, nuisance_from: Images) -> Images:
    """One image for each pair: the logits of `logits_from`, all else from `nuisance_from`.

    Values may leave [0, 1]; clipping them breaks the equality of the logits. In float32 the logits agree to about 1e-5,
    in float64 to about 1e-12.

    Args:
        model: an invertible classifier.
        params: its parameters.
        logits_from: `[B, H, W, C]`.
        nuisance_from: `[B, H, W, C]`.

    Returns:
        `[B, H, W, C]`.

    Raises:
        ValueError: the two batches differ in shape; images with NaN, of another shape or dtype.
    """
    if logits_from.shape != nuisance_from.shape:
        raise ValueError(
            f"metamers pairs images one to one; got logits_from {logits_from.shape} and "
            f"nuisance_from {nuisance_from.shape}; repeat the smaller batch"
        )
    logits, _ = model.encode(params, logits_from)
    nuisance, _ = model.encode(params, nuisance_from)
    return model.decode(params, Code(logits.logits, nuisance.nuisance))

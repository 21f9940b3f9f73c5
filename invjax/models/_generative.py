r"""A classifier that must explain every pixel: logits that are log densities, one bijection a class.

Cross-entropy is content with one cue. Once a single pixel tells the class its gradient is gone, and what else tells the
class stays unread, in the nuisance; an adversary on the nuisance has to chase it from there. A density has to account
for all of the image: each cue enters the logits with the nats that it is worth,

    z_s,c = x_c + log p(c) + log N(g_c(x_n)) + log |det dg_c / dx_n|,    g_c = whiten (. marginals . whiten)^rounds,

with x_c one of the K pixels that carry the logits and x_n all others. So where one cue is missing, all classes lose the
same by it, and the others decide. Every g_c is fitted to the images of class c in closed form.

Source: for generative classifiers by conditional bijections, Ardizzone, Mackowiak, Rother, Köthe 2020, *Training
Normalizing Flows with the Information Bottleneck for Competitive Generative Classification*; for the fit, see
`gaussianized.py`. That shiftMNIST yields to it is ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Int, Shaped

from invjax import _check
from invjax.bijectors import chain, decision_marginals, decision_whitening, flatten, logit_coupling, reverse
from invjax.models._fi_revnet import InvertibleClassifier, invertible_classifier
from invjax.types import Array, Key, Net, Params


def generative_classifier(
    key: Key,
    x: Shaped[Array, "count ..."],
    labels: Int[Array, " labels"],
    num_classes: int,
    *,
    min_std: float = 0.1,
    rounds: int = 0,
    knots: int = 64,
) -> tuple[InvertibleClassifier, Params]:
    """Fit a generative classifier: fully invertible, no gradient, no step size, no seed but that of the noise in `x`.

    Its logits enter the last K pixels of an image, as those of `coupled_classifier` enter the first, and all others are
    the nuisance; follow it by `gaussianize` to take the class out of that.

    Args:
        key: random key, for layers that draw from it; those of today do not.
        x: `[N, *shape]` training images, with dequantisation noise.
        labels: `[N]` their classes; each class at least twice.
        num_classes: K.
        min_std: no direction is trusted to vary less than this, in units of `x`. The smaller, the more one cue can
            outvote: a pixel that is off by 1 costs a class `1 / (2 min_std^2)` nats.
        rounds: of marginals and whitening after the first whitening; with 0 each class is a normal distribution
            (quadratic discriminant analysis), which is what a few thousand images a class can bear.
        knots: of the marginals.

    Returns:
        The classifier and its parameters; each whitening holds a D x D matrix a class.

    Raises:
        ValueError: labels out of range or of another number than images; a class without two images; images of
            an integer dtype, with NaN, or of fewer than K + 2 values; `min_std` not positive.
    """
    _check.positive(num_classes=num_classes, min_std=min_std)
    _check.floating("x", x)
    _check.finite("x", x)
    if len(labels) != len(x):
        raise ValueError(f"x and labels must be of one length; got {len(x)} images and {len(labels)} labels")
    _check.labels(labels, num_classes)
    counts = np.bincount(np.asarray(labels), minlength=num_classes)
    if counts.min() < 2:
        raise ValueError(f"each class needs two images or more; class {counts.argmin()} has {counts.min()}")
    if rounds < 0:
        raise ValueError(f"rounds must be 0 (normal distributions) or more; got {rounds}")

    def maps(classes):
        whitening = decision_whitening(classes, min_std)
        return chain([*[whitening, decision_marginals(classes, knots)] * rounds, whitening])

    def log_densities(params, rest):
        one_class = maps(1)

        def of_class(class_params):
            # all leaves have a leading axis of classes: here one, which the logit that the layers want then names
            alone = jax.tree.map(lambda leaf: leaf[None], class_params)
            z, logdet = one_class.forward(alone, jnp.pad(rest, ((0, 0), (1, 0))))
            return norm.logpdf(z[:, 1:]).sum(1) + logdet

        return params["log_prior"][None] + jax.lax.map(of_class, params["maps"]).T

    shape = x.shape[1:]
    to_vector = chain([flatten(shape), reverse()])
    vectors = to_vector.forward(to_vector.init(key, x[:2]), jnp.asarray(x))[0]
    decided = jnp.concatenate([jax.nn.one_hot(labels, num_classes, dtype=vectors.dtype), vectors[:, num_classes:]], 1)
    net = Net(lambda key, rest: fitted, log_densities)
    fitted = {
        "maps": maps(num_classes).init(key, decided),
        "log_prior": jnp.log(jnp.asarray(counts / counts.sum(), vectors.dtype)),
    }
    whole = chain([to_vector, logit_coupling(lambda outputs: net, num_classes)])
    return invertible_classifier(whole, shape, num_classes), whole.init(key, jnp.asarray(x[:2]))

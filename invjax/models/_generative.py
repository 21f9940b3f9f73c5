r"""A generative classifier: its logits are log densities, which one bijection for each class gives.

Once one cue determines the class, the gradient of cross-entropy vanishes, and a network learns no other cue. A density
describes the whole image, so every cue contributes its log-likelihood to the logits:

    z_s,c = x_c + log p(c) + log N(g_c(x_n)) + log |det dg_c / dx_n|,    g_c = whiten (. marginals . whiten)^rounds,

where x_c is one of the K pixels that carry the logits, and x_n are all others. If one cue is missing, all classes lose
the same log-likelihood, and the other cues decide. Every g_c is fitted to the images of class c in closed form.

Source: for generative classifiers by conditional bijections, Ardizzone, Mackowiak, Rother, Köthe 2020, *Training
Normalizing Flows with the Information Bottleneck for Competitive Generative Classification*; for the fit, the source of
`gaussianize`. The application to shiftMNIST is ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Int, Shaped

from invjax import _check
from invjax.bijectors import chain, decision_marginals, decision_whitening, flatten, logit_coupling, reverse
from invjax.models._invertible import InvertibleClassifier, invertible_classifier
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
    """Fit a fully invertible generative classifier in closed form.

    The logits replace the last K pixels of an image (those of `coupled_classifier` replace the first K), and all other
    pixels are the nuisance. `gaussianize` can then remove the class from the nuisance.

    Args:
        key: random key for `init` of the layers. The current layers draw no random numbers.
        x: `[N, *shape]` training images, with dequantisation noise.
        labels: `[N]` classes of the images. Each class needs at least two images.
        num_classes: number of classes K.
        min_std: lower bound of the standard deviation along any direction, in units of `x`. With a small value one cue
            can outweigh all others: a change of one pixel by 1 changes a log density by up to `1 / (2 min_std^2)` nats.
        rounds: rounds of marginals and whitening after the first whitening. With 0 each class is a normal distribution
            (quadratic discriminant analysis), which suits data sets of a few thousand images for each class.
        knots: number of knots of each marginal.

    Returns:
        The classifier and its parameters. Each whitening has a D x D matrix for each class.

    Raises:
        ValueError: labels are out of range, or not one for each image; a class has fewer than two images; images have
            an integer dtype, NaN, or fewer than K + 2 values; `min_std` is not positive; `rounds` is negative.
    """
    _check.positive(num_classes=num_classes, min_std=min_std)
    _check.real("x", x)
    _check.one_each("labels", labels, x)
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
            # the layers expect an axis for the classes and a logit for each class; here both have length one
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

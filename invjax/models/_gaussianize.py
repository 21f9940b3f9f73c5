r"""Independence without an adversary: the nuisance of a trained invertible classifier becomes normal in closed form.

The goal of independence cross-entropy is `p(z_s, z_n) = p(z_s) p(z_n)`. Training against a nuisance classifier does not
reach it: the model learns to fool this classifier, and a new one still reads the class from the nuisance. The decision
is part of the code, however, so the nuisance of each class may have its own bijection. Each one is fitted to the
standard normal distribution without gradients:

    z_s = x_s,    z_n = g_c(x_n),    c = argmax x_s,    g_c = whiten . (marginals to normal . whiten)^rounds.

Here x_s are the logits and x_n is the nuisance of the trained model, and `soft_tails` follows g_c in the returned
model. Each factor of g_c lowers the negative log-likelihood of the code (the third term of iCE). The logits do not
change, so the cross-entropy does not change either. After the last whitening, all classes have the same mean and
covariance of the nuisance, and linear and quadratic classifiers cannot tell them apart. Differences remain only in
joint moments of third and higher order.

Source: Laparra, Camps-Valls, Malo 2011, *Iterative Gaussianization: from ICA to Random Rotations*. One bijection for
each decision is ours.
"""

from functools import partial

import jax
from jax.sharding import Mesh
from jaxtyping import Float

from invjax._batching import on_device, over_batches
from invjax.bijectors import chain, decision_marginals, decision_whitening, flatten, soft_tails
from invjax.models._invertible import InvertibleClassifier, invertible_classifier
from invjax.types import Array, Key, Params


def gaussianize(
    key: Key,
    classifier: InvertibleClassifier,
    params: Params,
    x: Float[Array, "count ..."],
    *,
    rounds: int = 3,
    knots: int = 64,
    mesh: Mesh | None = None,
) -> tuple[InvertibleClassifier, Params]:
    """A classifier with the same logits, and with a nuisance that is close to normal for each decision.

    Args:
        key: random key for `init` of the layers. The current layers draw no random numbers.
        classifier: a trained invertible classifier.
        params: parameters of the classifier.
        x: `[N, *shape]` images for the fit: the whole training set, with dequantisation noise. A pixel without
            noise has discrete values, which cannot become normal and could reveal the class. Each class needs many
            times more images than an image has values.
        rounds: rounds of whitening and marginals; one more whitening follows. Use 0 (whitening alone) if classes have
            fewer than some thousand examples, because the inverse of a marginal fitted to few examples explodes in its
            tails.
        knots: number of knots of each marginal.
        mesh: devices over which the images are distributed.

    Returns:
        A classifier and its parameters, a list that starts with `params`. Each whitening has a D x D matrix for each
        class.

    Raises:
        ValueError: `rounds` is negative.
    """
    if rounds < 0:
        raise ValueError(f"rounds must be 0 (whitening alone) or more; got {rounds}")
    num_classes = classifier.num_classes

    def through(layer, layer_params, value):
        # parameters are an argument, because XLA would spend minutes on folding constant matrices
        forward = jax.jit(lambda layer_params, value: layer.forward(layer_params, value)[0])
        return over_batches(partial(on_device(forward), layer_params), [value], mesh=mesh)

    code = through(classifier.bijector, params, x)
    layers = [
        flatten(code.shape[1:]),
        *[decision_whitening(num_classes), decision_marginals(num_classes, knots)] * rounds,
    ]
    layers += [decision_whitening(num_classes), soft_tails(num_classes)]
    fitted = []
    for layer in layers:
        fitted.append(layer.init(key, code))
        code = through(layer, fitted[-1], code)
    whole = chain([classifier.bijector, *layers])
    return invertible_classifier(whole, classifier.shape, num_classes), [params, *fitted]

r"""Independence without an adversary: make the nuisance of a trained invertible classifier factorial, afterwards.

Independence cross-entropy wants `p(z_s, z_n) = p(z_s) p(z_n)`. A nuisance classifier inside the training does not get
there: the model learns to fool that one, and a fresh one still reads the class. But the decision is part of the code,
so the nuisance of each class may have a bijection of its own, and each can be fitted to the standard normal in closed
form, without a gradient:

    z_s = x_s,    z_n = g_c(x_n),    c = argmax x_s,    g_c = whiten . (marginals to normal . whiten)^rounds.

Each factor lowers the code's negative log-likelihood (the third term of iCE) and leaves the cross-entropy alone, since
the logits stay as they are, bit for bit. After the last one all classes have the same mean and covariance, so linear
and quadratic critics read nothing; what is left lies in joint moments of third and higher order.

Source: Laparra, Camps-Valls, Malo 2011, *Iterative Gaussianization: from ICA to Random Rotations*; that each decision
has its own is ours.
"""

from functools import partial

import jax
from jax.sharding import Mesh
from jaxtyping import Float

from invjax._batching import over_batches
from invjax.bijectors import chain, decision_marginals, decision_whitening, flatten, soft_tails
from invjax.models._fi_revnet import InvertibleClassifier, invertible_classifier
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
    """The same logits, and a nuisance that is normal for each decision as far as `rounds` rounds make it.

    Args:
        key: random key, for layers that draw from it; those of today do not.
        classifier: trained.
        params: its parameters.
        x: `[N, *shape]` images to fit to: all of the training set, with dequantisation noise (what has no noise cannot
            become normal, and shows its class by that). Many times more of each class than values in an image.
        rounds: of whitening and marginals; one more whitening comes last. 0, whitening alone, where a class has less
            than some thousand examples: the tails of marginals that few examples gave explode in the inverse.
        knots: of the marginals.
        mesh: spread the images over these devices.

    Returns:
        A classifier and its parameters, those of `classifier` first; each whitening holds a D x D matrix a class.
    """
    if rounds < 0:
        raise ValueError(f"rounds must be 0 (whitening alone) or more; got {rounds}")
    classes = classifier.num_classes

    def through(layer, layer_params, value):
        # parameters are an argument: as constants of the program, XLA would spend minutes on folding the matrices
        forward = jax.jit(lambda layer_params, value: layer.forward(layer_params, value)[0])
        return over_batches(partial(forward, layer_params), [value], mesh=mesh)

    code = through(classifier.bijector, params, x)
    layers = [flatten(code.shape[1:]), *[decision_whitening(classes), decision_marginals(classes, knots)] * rounds]
    layers += [decision_whitening(classes), soft_tails(classes)]
    fitted = []
    for layer in layers:
        fitted.append(layer.init(key, code))
        code = through(layer, fitted[-1], code)
    whole = chain([classifier.bijector, *layers])
    return invertible_classifier(whole, classifier.shape, classes), [params, *fitted]

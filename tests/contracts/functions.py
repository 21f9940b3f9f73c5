"""The functions that must work wherever JAX runs them: each attack, bound and measurement of a batch.

A new function is one line. The linear model sums over features and not over images, so that its logits have
the same bits in any batch, and so must everything that is computed from them.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from invjax import analysis, attacks, bounds, features, losses
from invjax.attacks import linf, pgd
from tests.contracts.test_attacks import ATTACKS as MEMBERS

KEY, BATCH, CLASSES, IMAGE = jax.random.key(3), 4, 5, (4, 4, 1)

Function = Callable[..., object]
"""`(model, x [B, ...], labels [B], ids [B]) -> pytree of arrays [B, ...]`."""


def logits(weights, x):
    flat = x.reshape(len(x), -1)
    return (flat[:, :, None] * weights.astype(x.dtype)[None]).sum(1)


def network(weights, x):
    """A model that is not linear, for bounds."""
    return logits(weights, jax.nn.softplus(x) - jax.nn.relu(x - jnp.asarray(0.5, x.dtype)))


def problem(shape=IMAGE, classes=CLASSES, batch=BATCH, dtype=np.float32):
    """Weights, images, labels that the linear model gives to most images, and positions in the data set."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(int(np.prod(shape)), classes)).astype(np.float32)
    x = rng.uniform(0.2, 0.8, (batch, *shape)).astype(dtype)
    labels = (x.reshape(batch, -1).astype(np.float32) @ weights).argmax(1).astype(np.int32)
    return weights, x, labels, np.arange(7, 7 + batch, dtype=np.int32)


def attacked(attack, eps) -> Function:
    return lambda model, x, labels, ids: attack(KEY, model, x, labels, eps=eps, ids=ids)


# masks and ranges of features have the shape of the images of `test_attacks`
ATTACKS: dict[str, Function] = {
    name: attacked(member.make(2), member.eps)
    for name, member in MEMBERS.items()
    if "mask" not in name and "ranges" not in name
} | {
    "autoattack": attacked(attacks.autoattack(linf(), num_classes=CLASSES, steps=2, queries=2), 0.1),
    "transformed": attacked(attacks.transformed(pgd(steps=2), tries=2), 0.1),
    "feature_adversary": lambda model, x, labels, ids: attacks.feature_adversary(
        model, x, model(x)[:, ::-1], eps=0.5, steps=2
    ),
}  # fmt: skip

REGIONS = {"box": bounds.linf_box, "ball": bounds.l2_ball}
BOUNDS: dict[str, Function] = {
    f"margins-{method}-{region}": lambda model, x, labels, ids, method=method, region=region: bounds.margins(
        model, REGIONS[region](x, 0.1), labels, method=method
    )
    for method in bounds.METHODS
    for region in REGIONS
} | {
    "crown": lambda model, x, labels, ids: bounds.crown(model, bounds.l2_ball(x, 0.1)),
    "ibp": lambda model, x, labels, ids: bounds.ibp(model, bounds.linf_box(x, 0.1)),
}  # fmt: skip

MEASURES: dict[str, Function] = {
    "gamma": lambda model, x, labels, ids: analysis.linear_response(model, x, labels),
    "gamma-least_likely": lambda model, x, labels, ids: analysis.gamma(model, x, labels, direction="least_likely"),
    "linear_epsilon": lambda model, x, labels, ids: analysis.linear_epsilon(
        model(x), analysis.gamma(model, x, labels)
    ),
    "true_epsilon": lambda model, x, labels, ids: analysis.true_epsilon(
        model, x, labels, analysis.attack_direction(model, x, labels), eps=1.0, points=4, steps=2
    ),
    "logit_gaps": lambda model, x, labels, ids: analysis.logit_gaps(model(x)),
    "jacobian-rev": lambda model, x, labels, ids: analysis.logit_jacobian(model, x),
    "jacobian-fwd": lambda model, x, labels, ids: analysis.logit_jacobian(model, x, mode="fwd"),
    "losses": lambda model, x, labels, ids: [
        loss(model(x), labels) for loss in (losses.cross_entropy, losses.log_odds, losses.margin, losses.dlr)
    ],
    "robustify": lambda model, x, labels, ids: features.robustify(KEY, model, x, steps=2, ids=ids),
    "smoothed": lambda model, x, labels, ids: bounds.smoothed(
        KEY, model, x, sigma=0.5, trials=20, selection=5, ids=ids
    ),
    "dequantize": lambda model, x, labels, ids: losses.dequantize(KEY, x, ids=ids),
}  # fmt: skip

FUNCTIONS: dict[str, Function] = ATTACKS | BOUNDS | MEASURES
ONLY_IMAGES = ("square", "transformed", "autoattack")
"""Functions of images `[B, H, W, C]`, by the beginnings of their names."""


def model_of(name: str):
    return network if name in BOUNDS else logits


def of_weights(name: str) -> Function:
    """`(weights, x, labels, ids) -> result`."""
    return lambda weights, *batch: FUNCTIONS[name](partial(model_of(name), weights), *batch)

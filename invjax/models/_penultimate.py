"""The representation that a network computes before its logits."""

from flax import linen as nn

from invjax.types import ApplyFn, Net


def penultimate(net: Net) -> ApplyFn:
    """The input of a network's last dense layer, its representation: `(params, x [B, ...]) -> [B, F]`.

    >>> import jax
    >>> from invjax.models import mlp
    >>> net, x = mlp(10, hidden=(7,)), jax.ShapeDtypeStruct((2, 4), "float32")
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(penultimate(net), params, x).shape
    (2, 7)

    Args:
        net: a network that ends in a dense layer of flax: `mlp`, `mnist_cnn`, `resnet`, or the `Net(init, apply)` of a
            linen module. Its `apply` must not be jitted. The representation is the input of that layer, after the
            ReLU before it, if there is one.

    Raises:
        ValueError: the network does not end in a dense layer of flax (raised by the returned function).
    """

    def features(params, x):
        seen = []

        def record_dense(call, arguments, keywords, context):
            out = call(*arguments, **keywords)
            if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
                seen.append((arguments[0], out))
            return out

        with nn.intercept_methods(record_dense):
            logits = net.apply(params, x)
        if not seen or seen[-1][1] is not logits:
            raise ValueError(
                f"penultimate needs a network whose logits are those of a dense layer of flax; got {net.apply}; "
                "pass a network that is not jitted, or write your own function (params, x) -> representation"
            )
        return seen[-1][0]

    return features

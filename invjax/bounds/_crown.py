r"""Linear bounds: CROWN-IBP, CROWN and alpha-CROWN, for any function whose operations `ibp` knows.

All methods enclose every operation between two affine functions and carry weights backwards to the input. The
enclosures need an interval for every input of a nonlinear operation. CROWN computes each interval by a backward pass of
its own; CROWN-IBP takes the intervals of `ibp`, at the cost of about two forward passes, and computes only
those of normalizations and of attention with at most 512 values each as CROWN does. alpha-CROWN is CROWN with
optimized slopes. If all enclosures are intervals, the backward pass gives the bounds of `ibp`, with the last affine
layers merged into one.

The weights are those of a single example, because the functions here bound `fn(x[None])[0]`. A model's outputs for an
image must therefore depend on that image alone (no batch norm in training mode).

Sources: Zhang et al. 2018, *Efficient Neural Network Robustness Certification with General Activation Functions*;
Zhang et al. 2020, *Towards Stable and Efficient Training of Verifiably Robust Neural Networks*; Xu et al. 2021, *Fast
and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete Verifiers*.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from invjax import _check, _logits
from invjax._sharding import beside, mesh_of, typed
from invjax.bounds._backwards import both_ends, least
from invjax.bounds._batch_axis import check_independent
from invjax.bounds._graph import Graph, trace
from invjax.bounds._operations import wide
from invjax.bounds._regions import Interval, Region, box_of, check_region
from invjax.types import Array, Labels, LogitsFn

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
"""The methods of `margins`, from fastest and loosest to slowest and tightest."""

Margins = Float[Array, "batch others"]
"""The logit of the label minus that of each other class, in the order of the classes: `[B, K - 1]`."""


def margins(
    logits_fn: LogitsFn, region: Region, labels: Labels, *, method: str = "crown-ibp", steps: int = 20
) -> Margins:
    """Lower bounds of `h_label(x) - h_k(x)` over the region, for every other class k.

    The difference of two logits is merged into the last affine layers and bounded as one output. This bound is tighter
    than the difference of the bounds of the two logits. No method gives a smaller margin than an earlier one of
    `METHODS`.

    >>> linear_model = lambda x: x @ jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> region = Interval(jnp.array([[0.4, 0.0]]), jnp.array([[0.6, 0.5]]))
    >>> jax.jit(lambda region: margins(linear_model, region, jnp.array([0]), method="ibp"))(region).tolist()
    [[0.30000001192092896]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`; the logits of an image depend on that image alone.
        region: a box or ball around each image, from `linf_box` or `l2_ball`.
        labels: `[B]`, class indices.
        method: one of `METHODS`. "ibp" costs two forward passes; "crown-ibp" adds a backward pass for each other
            class; "crown" adds one for each end of each input of a nonlinear operation and suits small networks;
            "alpha-crown" also optimizes the slopes of the lines around ReLU and other functions with one kink, for
            each image and each other class.
        steps: the number of steps of the optimization of "alpha-crown", each as costly as about three backward passes
            for each other class. The gradient of its margins treats the slopes that it finds as constants.

    Returns:
        `[B, K - 1]`, in the order of the classes without the label. `certified` interprets them.

    Raises:
        ValueError: the method is unknown, or `steps` is no whole number above 0; the ends of the region are out of
            order; the labels are out of range or have another shape; the output of the model is not `[B, K]`, or the
            model draws random numbers.
        NotImplementedError: a primitive has no rule; the message names it. See `register_rule`.
    """
    _check.one_of("method", method, METHODS)
    _check.count(steps=steps)
    check_region(region)
    num_classes = _logits.num_classes(logits_fn, box_of(region).lower, labels)
    _check.labels(labels, num_classes)
    region, graph = prepared(logits_fn, region)

    def of_example(region, label):
        others = jnp.arange(num_classes - 1)
        others = others + (others >= label).astype(others.dtype)
        own, other = (jax.nn.one_hot(k, num_classes, dtype=graph.outputs[0].dtype) for k in (label, others))
        return least(graph, region, method, steps)(own[None] - other)

    with mesh_of(box_of(region).lower):
        return jax.vmap(of_example)(region, beside(box_of(region).lower, jnp.asarray(labels)))


def certified(margins: Margins, *, slack: float = 1e-4) -> Bool[Array, " batch"]:
    """Whether the label has the largest logit for all inputs of the region.

    Bounds are computed with ordinary rounding, not outward. The float32 bounds of this library's networks differ from
    the same bounds in float64 by less than 1e-5 of the largest logit or bound (`tests/contracts/test_bounds.py`). A
    margin therefore counts only if it exceeds `slack`, which suffices for logits and bounds up to 10. A NaN
    margin does not count.

    >>> certified(jnp.array([[0.5, 0.1], [0.5, -0.1]])).tolist()
    [True, False]

    Args:
        margins: `[B, K - 1]`, lower bounds of the logit of the label minus each other logit, from `margins`.
        slack: the tolerance for rounding, in units of the logits, not negative.

    Returns:
        `[B]`, booleans.

    Raises:
        ValueError: the slack is negative or NaN.
    """
    _check.number("slack", slack)
    return (jnp.asarray(margins) > slack).all(-1)


def crown(fn: Callable[[jax.Array], jax.Array], region: Region, *, intermediate: str = "crown") -> Interval:
    """Bounds of every output of `fn` over the region, never looser than those of `ibp`.

    >>> run = jax.jit(lambda box: crown(lambda x: jax.nn.relu(x) - x, box, intermediate="ibp"))
    >>> found = run(Interval(jnp.full((1, 1), -1.0), jnp.full((1, 1), 3.0)))
    >>> found.lower.tolist(), found.upper.tolist()  # `ibp` gives -3 and 4
    ([[0.0]], [[1.0]])

    Args:
        fn: `x [B, ...] -> [B, ...]`; the outputs of an example depend on that example alone.
        region: a box or ball around each example, from `linf_box` or `l2_ball`.
        intermediate: the bounds of the inputs of nonlinear operations: "crown" computes each by a backward pass, "ibp"
            takes those of `ibp` (CROWN-IBP).

    Returns:
        An `Interval` of the shape of `fn(x)`.

    Raises:
        ValueError: `intermediate` is unknown; `fn` does not return one array with the batch first; otherwise as for
            `margins`.
        NotImplementedError: a primitive has no rule; the message names it. See `register_rule`.
    """
    _check.function("fn", fn, "x -> outputs")
    _check.one_of("intermediate", intermediate, ("crown", "ibp"))
    check_region(region)
    box = box_of(region).lower
    found = jax.eval_shape(fn, typed(box))
    if not isinstance(found, jax.ShapeDtypeStruct) or found.shape[:1] != box.shape[:1]:
        raise ValueError(
            f"crown needs a function that returns one array, batch axis first; got {found}; use ibp for pytrees"
        )
    region, graph = prepared(fn, region)
    (output,) = graph.outputs

    def of_example(region):
        return Interval(*both_ends(least(graph, region, "crown" if intermediate == "crown" else "crown-ibp"), output))

    with mesh_of(box_of(region).lower):
        return jax.vmap(of_example)(region)


def prepared(fn: Callable, region: Region) -> tuple[Region, Graph]:
    """The region as JAX arrays, and the graph of `fn` for one example."""
    check_region(region)
    lower = box_of(region).lower
    with mesh_of(lower):
        check_independent(fn, lower)
        graph, _ = trace(lambda x: fn(x[None])[0], typed(lower, lower.shape[1:]))
        return beside(lower, jax.tree.map(lambda array: jnp.asarray(array, wide(array.dtype)), region)), graph

r"""Complete verification of ReLU networks by branch and bound.

A margin that CROWN cannot certify is split: the input of one ReLU is negative, or it is not. Each half is a smaller
problem with a tighter bound, and is certified or split again. In a subproblem where all signs are known the network is
affine, and a linear program gives the best multipliers and the point of least margin. The search ends with a
certificate of all subproblems, with an image that the model misclassifies, or with the budget.

Source: Bunel et al. 2020, *Branch and Bound for Piecewise Linear Neural Network Verification*; Wang et al. 2021 for the
bounds of subproblems.
"""

import heapq
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float, Int, Shaped

from invjax import _check, _logits
from invjax._batching import cached
from invjax.bounds import _splits
from invjax.bounds._counterexamples import misclassified
from invjax.bounds._crown import prepared
from invjax.bounds._regions import Ball, Interval, Region, box_of, check_region
from invjax.bounds._splits import Subproblems
from invjax.types import ApplyFn, Array, Labels, Params

_SLOTS = 32
"""The number of subproblems that are bounded together."""
_STEPS = 20
"""The number of steps of the optimization of slopes and multipliers."""
_PRICE = 10.0
"""The largest sum of the multipliers from a linear program, in units of the margin's weights."""


class Verdict(NamedTuple):
    """What `verify` found, as host arrays.

    Attributes:
        verdict: `[B]`, "certified" if the model predicts the label everywhere in the region, "attacked" if it does not,
            "unknown" if the budget was too small.
        x: `[B, ...]`, an image of the region that the model misclassifies where the verdict is "attacked", and
            otherwise the given image.
        bound: `[B]`, a lower bound of the least margin in the region; minus infinity where an attack from the given
            image succeeded, before any bound.
        splits: `[B]`, the number of splits that were made, including linear programs of subproblems without a split.
    """

    verdict: Shaped[np.ndarray, " batch"]
    x: Float[np.ndarray, "batch ..."]
    bound: Float[np.ndarray, " batch"]
    splits: Int[np.ndarray, " batch"]


def verify(
    apply_fn: ApplyFn,
    params: Params,
    x: Array,
    labels: Labels,
    region: Region,
    *,
    budget: int,
    slack: float = 1e-4,
) -> Verdict:
    """Decide for each image whether a ReLU network predicts the label everywhere in the region.

    The search starts from the bounds of `margins` by CROWN, and splits the subproblem of the worst bound first. Signs
    of ReLU inputs enter the bounds by Lagrange multipliers (beta-CROWN) and by cutting off the interval of that input.
    The result depends on the arguments alone. With enough splits, every image with a box is decided whose least margin
    is not between 0 and `slack`. Their number can grow exponentially with the number of ReLUs whose sign varies, so
    `verify` suits small networks. Over a ball, where the linear programs below bound the box alone, some images with a
    least margin near 0 may stay unknown.

    >>> params = jnp.array([[1.0, -1.0], [-0.5, 0.5]])
    >>> model = lambda params, x: jax.nn.relu(x) @ params
    >>> x, labels = jnp.array([[0.6, 0.0], [0.1, 0.0]]), jnp.array([0, 0])
    >>> from invjax import bounds
    >>> verify(model, params, x, labels, bounds.linf_box(x, 0.2), budget=10).verdict.tolist()
    ['certified', 'attacked']

    Args:
        apply_fn: `(params, x) -> logits [B, K]`, a function whose only nonlinear operation is ReLU, `max(x, 0)`; each
            image's logits depend on that image alone.
        params: parameters of the model.
        x: `[B, ...]`, images of the region, from which the attack starts.
        labels: `[B]`, the true classes.
        region: a box or ball around each image, from `linf_box` or `l2_ball`.
        budget: the largest number of splits for each image.
        slack: the tolerance for rounding, see `certified`.

    Returns:
        The verdicts. An attacked image is found by projected gradient descent on the margins, from `x` and from the
        points where the bounds are least.

    Raises:
        ValueError: the model has another nonlinear operation, which the message names; the budget is not a whole number
            above 0, images lie outside of the region; otherwise as for `margins`.
        NotImplementedError: a primitive has no rule; the message names it.
    """
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    _check.count(budget=budget)
    _check.number("slack", slack)
    check_region(region)
    _check_inside(x, region)
    num_classes = _logits.num_classes(partial(apply_fn, params), jnp.asarray(x), labels)
    _check.labels(labels, num_classes)
    x, labels = np.asarray(x), np.asarray(labels)
    region = jax.tree.map(np.asarray, region)
    programs = _programs(apply_fn)
    jax.eval_shape(programs.intervals, params, jax.tree.map(lambda a: a[0], region))  # refuses other operations
    found = [
        _search(
            programs, params, x[i], labels[i], jax.tree.map(lambda a, i=i: a[i], region), num_classes, budget, slack
        )
        for i in range(len(x))
    ]
    verdicts, images, bound, splits = ([result[part] for result in found] for part in range(4))
    return Verdict(np.array(verdicts, "<U9"), np.stack(images), np.array(bound, float), np.array(splits, int))


def _check_inside(x: Array, region: Region) -> None:
    box = box_of(region)
    _check.examples("x", x)
    _check.floating("x", x)
    if np.shape(x) != np.shape(box.lower):
        raise ValueError(
            f"x must have the shape of the region; got {np.shape(x)} and {np.shape(box.lower)}; pass one region for "
            "each image"
        )
    x = np.asarray(x)
    outside = ((x < np.asarray(box.lower)) | (x > np.asarray(box.upper))).reshape(len(x), -1).any(1)
    if isinstance(region, Ball):
        change = (x - np.asarray(region.center)).reshape(len(x), -1)
        outside |= np.linalg.norm(change, axis=1) > np.asarray(region.radius) * (1 + 1e-5)
    if outside.any():
        raise ValueError(
            f"x must lie in the region; {int(outside.sum())} of {len(x)} images are outside; make the region from x "
            "by linf_box or l2_ball"
        )


def _search(programs, params, x, label, region, num_classes, budget, slack):
    """The verdict, the image, the bound and the number of splits for one image."""
    targets = np.delete(np.arange(num_classes), label)
    problem = params, region, label
    fooling = _attack(programs, problem, np.broadcast_to(x, (len(targets), *x.shape)), targets)
    if fooling is not None:
        return "attacked", fooling, -np.inf, 0
    intervals = Interval(*map(np.asarray, programs.intervals(params, region)))
    queue: list[tuple[Any, ...]] = []  # the worst bound first, and the oldest of equal ones
    splits, made, certified = 0, 0, np.inf
    start, parents, solutions = _roots(intervals, targets), [-np.inf] * len(targets), [None] * len(targets)
    while True:
        found = _in_slots(partial(programs.bounded, *problem, intervals), start)
        points = np.stack([x if at is None else at for x, at in zip(found.x, solutions, strict=True)])
        fooling = _attack(programs, problem, points, start.target)
        for i, bound in enumerate(np.maximum(found.bound, parents).tolist()):
            if bound > slack:
                certified = min(certified, bound)
            else:
                subproblem = jax.tree.map(lambda a, i=i: a[i], found.subproblems)
                heapq.heappush(queue, (bound, made, subproblem, int(found.unit[i]), found.weight[i]))
                made += 1
        bound = queue[0][0] if queue else certified
        if fooling is not None:
            return "attacked", fooling, bound, splits
        if not queue:
            return "certified", x, bound, splits
        if splits == budget:
            return "unknown", x, bound, splits
        chosen = [heapq.heappop(queue) for _ in range(min(len(queue), budget - splits, _SLOTS // 2))]
        splits += len(chosen)
        children = [
            (bound, *child)
            for bound, _, *parent in chosen
            for child in _children(programs, problem, intervals, *parent)
        ]
        parents, halves, solutions = map(list, zip(*children, strict=True))
        start = jax.tree.map(lambda *leaves: np.stack(leaves), *halves)


def _roots(intervals: Interval, targets: np.ndarray) -> Subproblems:
    """The subproblem of each target without a sign, with the slopes of CROWN."""
    slopes = np.where(intervals.upper > -intervals.lower, 1, 0).astype(intervals.lower.dtype)
    nothing = np.zeros_like(slopes)
    of_units = (np.broadcast_to(values, (len(targets), slopes.size)) for values in (nothing, slopes, nothing))
    return Subproblems(targets, *of_units)


def _children(programs, problem, intervals, parent: Subproblems, unit: int, weight: Any) -> list[tuple[Any, Any]]:
    """Both halves of a subproblem, or the solution of one whose signs are all known: subproblems, each with a point.

    The new multiplier gives each half the bound of the whole: the line of the unit keeps its slope. The point is the
    solution of a linear program, and None for halves.
    """
    if unit < 0:
        program = jax.tree.map(np.asarray, programs.leaf(*problem, intervals, parent.target, parent.signs))
        return [_solved(program, box_of(problem[1]), parent)]
    halves = []
    for sign in (-1, 1):
        signs, multipliers, slope = parent.signs.copy(), parent.multipliers.copy(), parent.slopes[unit]
        signs[unit] = sign
        multipliers[unit] = max(weight, 0) * (1 - slope if sign > 0 else slope)
        halves.append((parent._replace(signs=signs, multipliers=multipliers), None))
    return halves


def _solved(leaf: _splits.Leaf, box: Interval, parent: Subproblems) -> tuple[Subproblems, Any]:
    """A subproblem whose signs are all known with the best multipliers over the box, and the point of least margin.

    The linear program may violate all signs by one number, at a price. It so has a solution if the signs contradict
    each other, and the price limits the multipliers, with which rounding grows.
    """
    known = parent.signs != 0
    price = _PRICE * max(1.0, np.abs(leaf.weight).sum())
    ends = [*zip(box.lower.ravel(), box.upper.ravel(), strict=True), (0, None)]
    rows = np.pad(leaf.matrix[known], ((0, 0), (0, 1)), constant_values=-1)
    solved = scipy.optimize.linprog(np.append(leaf.weight, price), rows, -leaf.offset[known], bounds=ends)
    if not solved.success:
        return parent, None
    multipliers = parent.multipliers.copy()
    multipliers[known] = np.maximum(-solved.ineqlin.marginals, 0)
    point = np.clip(solved.x[:-1].reshape(box.lower.shape), box.lower, box.upper)
    return parent._replace(multipliers=multipliers), point


def _attack(programs, problem, points, targets) -> np.ndarray | None:
    """An image of the region that the model misclassifies, from one of the points; None if there is none."""
    _, region, _ = problem
    points = np.asarray(points, box_of(region).lower.dtype)
    images, found = _in_slots(lambda part: programs.misclassified(*problem, *part), (points, targets))
    return images[found.argmax()] if found.any() else None


def _in_slots(run, arrays):
    """The results of a compiled function of arrays `[_SLOTS, ...]` for any number of rows, as host arrays."""
    count = len(jax.tree.leaves(arrays)[0])
    parts = []
    for first in range(0, count, _SLOTS):
        rows = np.minimum(np.arange(first, first + _SLOTS), count - 1)  # the last row fills empty slots
        found = jax.tree.map(np.asarray, run(jax.tree.map(lambda a, rows=rows: np.asarray(a)[rows], arrays)))
        parts.append(jax.tree.map(lambda a, n=count - first: a[:n], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


# the compiled programs


class _Programs(NamedTuple):
    """The compiled functions of one model: intervals of its units, bounds, linear programs, and the attack."""

    intervals: Any
    bounded: Any
    leaf: Any
    misclassified: Any


@cached
def _programs(apply_fn: ApplyFn) -> _Programs:
    def graph_of(params, region):
        """The region of one image in the dtype of the bounds, and the network as a function of one image."""
        batch, graph = prepared(partial(apply_fn, params), jax.tree.map(lambda a: a[None], region))
        region = jax.tree.map(lambda a: a[0], batch)
        _splits.check_relus(graph, region)
        return graph, region

    def intervals(params, region):
        return _splits.intervals_of_relus(*graph_of(params, region))

    def bounded(params, region, label, intervals, subproblems):
        return _splits.bounded(*graph_of(params, region), label, Interval(*intervals), subproblems, _STEPS)

    def leaf(params, region, label, intervals, target, signs):
        return _splits.leaf(*graph_of(params, region), label, Interval(*intervals), target, signs)

    return _Programs(jax.jit(intervals), jax.jit(bounded), jax.jit(leaf), jax.jit(partial(misclassified, apply_fn)))

"""Agreement of a model with people, on images that invariance attacks made."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from invjax import _check, _explain, _logits
from invjax._batching import on_device, over_batches
from invjax._dtypes import placeholder
from invjax.data import HumanLabelled
from invjax.evaluation._intervals import wilson
from invjax.evaluation._options import Options, check_options
from invjax.types import ApplyFn, Params


class Agreement(NamedTuple):
    """The predictions of a model on images in which people see another class than in their originals.

    Attributes:
        with_humans: `[M]`, whether the model predicts the class that people see.
        with_originals: `[M]`, whether the model predicts the class of the original, and so is too invariant.
    """

    with_humans: np.ndarray
    with_originals: np.ndarray

    def fraction(self) -> float:
        """The fraction of images on which the model agrees with people."""
        return float(self.with_humans.mean())

    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of `fraction`."""
        return wilson(int(self.with_humans.sum()), self.with_humans.size)


def agreement(
    apply_fn: ApplyFn,
    params: Params,
    examples: Mapping[str, HumanLabelled],
    *,
    options: Options = Options(),  # noqa: B008  an immutable record
) -> dict[str, Agreement]:
    """How often a model and people see the same class in invariance examples.

        agreement(net.apply, params, data.human_labelled())["linf 0.4"].fraction()

    Only the images in which people see another class count. In the others people see the original class, so agreement
    there says nothing about invariance. The sets are small: report a fraction together with its interval.

    Args:
        apply_fn: `(params, x [B, 28, 28, 1] in [0, 1]) -> logits [B, 10]`.
        params: parameters of the model.
        examples: sets by name, such as `data.human_labelled()`.
        options: batch size and mesh; `directory` has no effect.

    Returns:
        The agreement on each set, by its name.

    Raises:
        ValueError: there are no sets, a set has no image in which people see another class, or the model does not
            return 10 finite logits.

    Source: Tramèr et al. 2020, table 2.
    """
    check_options(options)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    if not isinstance(examples, Mapping) or not all(isinstance(of, HumanLabelled) for of in examples.values()):
        raise ValueError(
            f"examples must be sets by name; got {_explain.described(examples)}; pass data.human_labelled(), or "
            '{"mine": data.HumanLabelled(...)}'
        )
    if not examples:
        raise ValueError("examples must hold one set or more; got none; pass data.human_labelled()")
    for name, of_set in examples.items():
        if not of_set.changed.any():
            raise ValueError(f"people see the original class in every image of {name!r}; leave this set out")
    images = np.concatenate([of_set.images[of_set.changed] for of_set in examples.values()])
    model = partial(jax.jit(apply_fn), params)
    batch = placeholder((options.batch_size, *images.shape[1:]), images.dtype)
    classes = _logits.num_classes(model, batch, None)
    if classes != 10:
        raise ValueError(
            f"the model must return logits [{len(images)}, 10]; got {(len(images), classes)}; use a model of ten digits"
        )
    logits = over_batches(on_device(model), [images], options.batch_size, options.mesh)
    _check.finite("the model's logits", logits)
    ends = np.cumsum([of_set.changed.sum() for of_set in examples.values()])
    seen = dict(zip(examples, np.split(logits.argmax(1), ends[:-1]), strict=True))
    return {
        name: Agreement(seen[name] == of_set.human[of_set.changed], seen[name] == of_set.labels[of_set.changed])
        for name, of_set in examples.items()
    }

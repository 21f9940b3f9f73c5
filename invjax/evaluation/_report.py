r"""One report on a model: both failures, measured on the same images.

    adversarial error = fraction of images that are classified correctly, and misclassified under the attack
    invariance error  = fraction of images that are classified correctly, and whose prediction stays the same after
                        their true class was changed

Source: Cubuk et al. 2018, section 2; Tramèr et al. 2020, definitions 1 and 2.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from invjax import _check, _explain
from invjax._batching import correct, on_host
from invjax._progress import progress
from invjax.evaluation._certificate import certificate_curve
from invjax.evaluation._invariance import ChangedImages, Invariance, check_changed, invariance
from invjax.evaluation._options import Options, check_options
from invjax.evaluation._sensitivity import Sensitivity, ThreatModel, check_threat, sensitivity
from invjax.types import ApplyFn, Array, Key, Params


class Report(NamedTuple):
    """The failures of a model on one set of images, image by image.

    Attributes:
        correct: `[N]`, whether the model classifies the unchanged image correctly.
        sensitivity: the `Sensitivity` to each threat, by its name.
        invariance: the `Invariance` on each set of changed images, by its name; empty without sets.
        certified: `[N]` for each threat with `certify`, by its name: whether the label wins everywhere in the ball.
    """

    correct: np.ndarray
    sensitivity: Mapping[str, Sensitivity]
    invariance: Mapping[str, Invariance]
    certified: Mapping[str, np.ndarray]

    def failures(self, threat: str, changed: str) -> dict[str, np.ndarray]:
        """The images by failure: `{"wrong", "sensitive", "both", "invariant", "neither": [N]}`.

        Each image counts once. "wrong" images are misclassified without a change. The others are sensitive to the
        threat, invariant to the change of their class, both, or neither.

        Args:
            threat: the name of a threat.
            changed: the name of a set of changed images.
        """
        sensitive, invariant = self.sensitivity[threat].success, self.too_invariant(changed)
        return {"wrong": ~self.correct} | {
            name: self.correct & chosen
            for name, chosen in (
                ("sensitive", sensitive & ~invariant),
                ("both", sensitive & invariant),
                ("invariant", ~sensitive & invariant),
                ("neither", ~sensitive & ~invariant),
            )
        }

    def too_invariant(self, changed: str) -> np.ndarray:
        """`[N]`, whether the prediction is correct, and stays the same although the true class was changed.

        Args:
            changed: the name of a set of changed images.
        """
        found = self.invariance[changed]
        return self.correct & found.changed & found.kept


def report(
    key: Key,
    apply_fn: ApplyFn,
    params: Params,
    images: Array,
    labels: Array,
    *,
    threats: Sequence[ThreatModel],
    changed: Mapping[str, ChangedImages] | None = None,
    options: Options = Options(),  # noqa: B008  an immutable record
) -> Report:
    """Measure clean error, invariance error, and for each threat adversarial error, smallest radii and certificates.

        threats = [ThreatModel(attacks.pgd(attacks.linf()), 0.1, certify="crown-ibp")]
        for entry in table(report(key, net.apply, params, images, labels, threats=threats)):
            print(entry)

    Args:
        key: random key; image i draws from `fold_in(key, i)`.
        apply_fn: `(params, x) -> logits [B, K]`.
        params: parameters of the model.
        images: `[N, ...]` floats in the box of every threat.
        labels: `[N]`, the true classes.
        threats: attacks and radii, for threats of different names.
        changed: modified copies of the images, by name, in which people may see another class.
        options: batch size, mesh, and the folder that keeps the results of each threat in one file. A folder with
            another key, attack (by its recipe), radius, model or data raises an error.

    Returns:
        The report; `table` gives its numbers.

    Raises:
        ValueError: there are no threats or two of one name; changed images are not one for each image, or have a class
            that the model does not have; otherwise as for `robustness_curve` and `certificate_curve`.
    """
    check_options(options)
    _check.key(key)
    if isinstance(threats, ThreatModel) or not isinstance(threats, Sequence):
        raise ValueError(f"threats must be a list; got {_explain.described(threats)}; write [ThreatModel(...)]")
    _check.examples("images", images)
    _check.one_each("labels", labels, images)
    images, labels = on_host(images), on_host(labels)
    for model in threats:
        check_threat(model, images)
    names = [model.attack.threat.name for model in threats]
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"threats must be one or more, of different names; got {names}; report on each by itself")
    changed = {} if changed is None else changed
    for name, given in changed.items():
        check_changed(name, given, images)
    right = correct(apply_fn, params, images, labels, options.batch_size, options.mesh)
    # predictions come before attacks, so that bad input raises an error before a long computation
    answers = {name: invariance(name, given, apply_fn, params, labels, options) for name, given in changed.items()}
    certified = {}
    for name, model in zip(names, threats, strict=True):
        if model.certify is not None:
            curve = certificate_curve(apply_fn, params, images, labels, epsilons=[model.eps], norm=name,
                                      method=model.certify, box=model.attack.threat.box,
                                      options=options._replace(directory=None))  # fmt: skip
            certified[name] = curve.broken_at > model.eps
    found = {}
    bar = progress(0, len(names), "report")
    for name, model in zip(names, threats, strict=True):
        found[name] = sensitivity(key, model, apply_fn, params, images, labels, right, options)
        bar.update()
    bar.close()
    return Report(right, found, answers, certified)

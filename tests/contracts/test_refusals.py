"""Bad input of public functions is refused at once, in one line that names the value and the fix.

`CALLS` holds a valid call of each function, and `BAD` the wrong values of each argument, by its name. Every wrong value
replaces the valid one in every call that has the argument. `OTHERS` lists wrong calls of another form. The model of
the valid calls can be traced but not run, so a refusal that comes after a computation fails here.
"""

import importlib
import inspect
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from invjax import analysis, attacks, bijectors, bounds, data, evaluation, features, interop, losses, models, training

KEY = jax.random.key(0)
CLASSES, SHAPE, COUNT = 3, (4, 4, 1), 6
RNG = np.random.default_rng(0)
X = RNG.random((COUNT, *SHAPE)).astype(np.float32)
LABELS = (np.arange(COUNT) % CLASSES).astype(np.int32)
PARAMS = {"w": RNG.normal(size=(16, CLASSES)).astype(np.float32)}


def ran(_):
    raise AssertionError("the model ran before the input was refused")


def model(params, x):
    """A linear model that can be traced for its shapes, and fails when it runs."""
    w = jax.pure_callback(ran, jax.ShapeDtypeStruct((16, CLASSES), np.float32), params["w"])
    return x.reshape(len(x), 16) @ w


MODEL = partial(model, PARAMS)


class Tensor:
    """Stands in for a tensor of torch, which has a shape and a dtype of its own."""

    __module__ = "torch"

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, "torch.float32", array.ndim

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        return Tensor(self.array[index])


def attacked(attack):
    """The call of an attack, with its arguments by name."""
    return lambda key, logits_fn, x, labels, eps, ids: attack(key, logits_fn, x, labels, eps=eps, ids=ids)


def jitted(attack):
    def call(key, apply_fn, params, x, labels, eps, ids):
        return attacks.jit_attack(attack, apply_fn)(key, params, x, labels, eps=eps, ids=ids)

    return call


TARGETED = attacks.pgd(steps=2, targeted=True)
COMMON: dict[str, Any] = {
    "key": KEY, "apply_fn": model, "logits_fn": MODEL, "params": PARAMS, "x": X, "images": X, "labels": LABELS,
    "eps": 0.1, "ids": None, "targets": LABELS, "attack": attacks.fgsm(), "threat": attacks.linf(),
    "epsilons": [0.1, 0.2], "features_fn": MODEL, "num_classes": CLASSES, "direction": X, "sigma": 0.5, "seed": 0,
    "threats": [evaluation.ThreatModel(attacks.fgsm(), 0.1)], "logits": X[:, :3, 0, 0], "batch_size": 2, "steps": 2,
    "options": evaluation.Options(),
}  # fmt: skip
CALLS = {  # name: a function whose arguments are taken from COMMON by their names, or that and further arguments
    "pgd": attacked(attacks.pgd(steps=2)),
    "apgd": attacked(attacks.apgd(steps=2)),
    "fab": attacked(attacks.fab(steps=2, targets=1)),
    "square": attacked(attacks.square(queries=2)),
    "autoattack": attacked(attacks.autoattack(attacks.linf(), num_classes=CLASSES, steps=2, queries=2)),
    "smallest": attacked(attacks.smallest(attacks.fgsm(), steps=2)),
    "transformed": attacked(attacks.transformed(attacks.fgsm(), tries=2)),
    "worst_of": attacked(attacks.worst_of([attacks.fgsm()])),
    "jit_attack": jitted(attacks.fgsm()),
    "line_search": lambda logits_fn, x, labels, direction, eps: attacks.line_search(
        logits_fn, x, labels, direction, eps=eps
    ),
    "diagnose": lambda key, apply_fn, params, x, labels, eps, threat, attack: attacks.diagnose(
        key, apply_fn, params, x, labels, eps=eps, threat=threat, attack=attack
    ),
    "feature_adversary": lambda features_fn, x, eps, threat: attacks.feature_adversary(
        features_fn, x, jnp.zeros((COUNT, CLASSES)), eps=eps, threat=threat
    ),
    "reference_bank": lambda images, labels: attacks.reference_bank(images, labels, norm="l2"),
    "benchmark": lambda key, apply_fn, params, images, labels, threat, eps, options: evaluation.benchmark(
        key, apply_fn, params, images, labels, threat=threat, eps=eps, options=options
    ),
    "robustness_curve": lambda key, attack, apply_fn, params, images, labels, epsilons, options: (
        evaluation.robustness_curve(key, attack, apply_fn, params, images, labels, epsilons=epsilons, options=options)
    ),
    "certificate_curve": lambda apply_fn, params, images, labels, epsilons, options: evaluation.certificate_curve(
        apply_fn, params, images, labels, epsilons=epsilons, options=options
    ),
    "smoothed_curve": lambda key, apply_fn, params, images, labels, epsilons, options: evaluation.smoothed_curve(
        key, apply_fn, params, images, labels, epsilons=epsilons, sigma=0.5, trials=2, selection=1, options=options
    ),
    "report": lambda key, apply_fn, params, images, labels, threats, options: evaluation.report(
        key, apply_fn, params, images, labels, threats=threats, options=options
    ),
    "correct": lambda apply_fn, params, images, labels: evaluation.correct(apply_fn, params, images, labels),
    "linf_box": lambda x, eps: bounds.linf_box(x, eps),
    "l2_ball": lambda x, eps: bounds.l2_ball(x, eps),
    "margins": lambda logits_fn, labels: bounds.margins(logits_fn, bounds.linf_box(X, 0.1), labels),
    "verify": lambda apply_fn, params, x, labels: bounds.verify(
        apply_fn, params, x, labels, bounds.linf_box(x, 0.1), budget=1
    ),
    "smoothed": lambda key, logits_fn, x, ids: bounds.smoothed(key, logits_fn, x, sigma=0.5, trials=2, ids=ids),
    "attack_direction": lambda logits_fn, x, labels: analysis.attack_direction(logits_fn, x, labels),
    "linear_response": lambda logits_fn, x, labels: analysis.linear_response(logits_fn, x, labels),
    "gamma": lambda logits_fn, x, labels: analysis.gamma(logits_fn, x, labels),
    "true_epsilon": lambda logits_fn, x, labels, direction, eps: analysis.true_epsilon(
        logits_fn, x, labels, direction, eps=eps
    ),
    "dataset_response": lambda apply_fn, params, images, labels: analysis.dataset_response(
        apply_fn, params, images, labels
    ),
    "logit_jacobian": lambda logits_fn, x: analysis.logit_jacobian(logits_fn, x),
    "relabel_by_attack": lambda key, logits_fn, x, targets, eps, ids: features.relabel_by_attack(
        key, TARGETED, logits_fn, x, targets, eps=eps, ids=ids
    ),
    "relabelled_dataset": lambda key, apply_fn, params, images, targets, eps: features.relabelled_dataset(
        key, TARGETED, apply_fn, params, images, targets, eps=eps
    ),
    "robustify": lambda key, features_fn, x, ids: features.robustify(key, features_fn, x, steps=2, ids=ids),
    "robust_dataset": lambda key, images, labels: features.robust_dataset(key, model, PARAMS, images, labels, steps=1),
    "errors_of": lambda logits_fn, images, labels: features.errors_of(logits_fn, images, labels),
    "random_targets": lambda key: features.random_targets(key, LABELS, num_classes=CLASSES),
    "cross_entropy": lambda logits, labels: losses.cross_entropy(logits, labels),
    "log_odds": lambda logits, labels: losses.log_odds(logits, labels),
    "margin": lambda logits, labels: losses.margin(logits, labels),
    "error_rate": lambda logits, labels: losses.error_rate(logits, labels),
    "reading": lambda logits, labels: analysis.reading(logits, labels),
    "dequantize": lambda key, x: losses.dequantize(key, x),
    "augment": lambda key, images: data.augment(key, images),
    "batches": lambda batch_size, seed: data.batches([X, LABELS], batch_size, seed),
}
RANGES = ("0 to 255", "-1 to 1")
ALLOWED = {  # wrong elsewhere, but not in these functions
    **dict.fromkeys(
        ["smoothed", "smoothed_curve", "attack_direction", "linear_response", "gamma", "logit_jacobian"], RANGES
    ),
    **dict.fromkeys(["true_epsilon", "line_search", "diagnose", "augment"], RANGES),
    **dict.fromkeys(["correct", "errors_of"], (*RANGES, "bytes", "NaN")),  # models may take bytes
    "dataset_response": (*RANGES, "NaN"),  # images may be read from the disk in batches
    **dict.fromkeys(["reference_bank", "robust_dataset"], ("from 1",)),  # the number of classes is unknown
}

NO_ARRAY = "must be an array; got"
ONE_EACH = "must have shape [6], one for each"
BAD: dict[str, dict[str, tuple[Any, str]]] = {
    "key": {
        "a seed": (0, "key must be a random key; got 0; write jax.random.key(0)"),
        "parameters": (PARAMS, "key must be a random key; got a mapping of ['w']; it comes before"),
        "nothing": (None, "key must be a random key; got None; write jax.random.key(seed)"),
        "of torch": (Tensor(LABELS), "key must be a random key; got a torch.Tensor; it comes before functions"),
        "several keys": (jax.random.split(KEY, 4), "key must be one random key; got 4 of them; take one"),
    },
    "apply_fn": {
        "parameters": (PARAMS, "apply_fn must be a function (params, x) -> logits; got a mapping of ['w']; the order"),
        "a record": (models.mlp(3), "apply_fn must be a function (params, x) -> logits; got a Net; pass its field"),
        "one logit": (lambda p, x: x.reshape(len(x), 16).sum(1), "two classes need two logits, such as [-z, z]"),
        "one class": (lambda p, x: x.reshape(len(x), 16) @ p["w"][:, :1], "two classes need two logits, such as"),
        "a model of one image": (lambda p, x: x.reshape(16) @ p["w"], "the model takes one image; map it with jax.vm"),
        "two outputs": (lambda p, x: (model(p, x), x), "got 2 outputs; return the logits alone"),
    },
    "logits_fn": {
        "parameters": (PARAMS, "logits_fn must be a function x -> logits; got a mapping of ['w']"),
        "one logit": (lambda x: x.reshape(len(x), 16).sum(1), "two classes need two logits, such as [-z, z]"),
        "one class": (lambda x: x.reshape(len(x), 16)[:, :1], "two classes need two logits, such as [-z, z]"),
        "a model of one image": (lambda x: x.reshape(16) @ PARAMS["w"], "the model takes one image; map it with jax"),
        "channels first": (
            lambda x: jnp.zeros((len(x), 3)) + jax.lax.squeeze(x, (1,)).sum((1, 2))[:, None],
            "the model takes images with the channel first; pass lambda x: model(jnp.moveaxis(x, -1, 1))",
        ),
        "two outputs": (lambda x: (MODEL(x), x), "got 2 outputs; return the logits alone"),
    },
    "images": {},
    "labels": {
        "a list": (LABELS.tolist(), f"labels {NO_ARRAY} a list of 6; convert it with numpy.asarray(labels)"),
        "of torch": (Tensor(LABELS), f"labels {NO_ARRAY} a torch.Tensor; convert it with labels.numpy()"),
        "a column": (LABELS[:, None], f"labels {ONE_EACH} image; got (6, 1); use labels[:, 0]"),
        "one-hot": (np.eye(3, dtype=np.int32)[LABELS], f"labels {ONE_EACH} image; got (6, 3); use labels.argmax(1)"),
        "too few": (LABELS[:2], f"labels {ONE_EACH} image; got (2,); pass those of the same"),
        "of one image": (LABELS[0], f"labels {ONE_EACH} image; got (); "),
        "floats": (LABELS * 1.0, "labels must be integer class indices; got dtype float64; "),
        "from 1": (LABELS + 1, "labels must be in [0, 3); got values from 1 to 3; check num_classes"),
    },
    "eps": {
        "None": (None, "eps must be one number; got None; give the radius, such as 8 / 255"),
        "text": ("8/255", "eps must be one number; got '8/255'"),
        "negative": (-0.1, "eps must not be negative; got eps=-0.1"),
        "several": ([0.1, 0.2], "eps must be one number"),
    },
    "ids": {
        "a list": ([0, 1, 2, 3, 4, 5], f"ids {NO_ARRAY} a list of 6; convert it with numpy.asarray(ids)"),
        "floats": (np.arange(6.0), "ids must be integers; got dtype float64"),
        "too few": (np.arange(3), f"ids {ONE_EACH} image; got (3,)"),
    },
    "threat": {
        "a name": ("linf", "threat must be an attacks.Threat; got 'linf'; write attacks.linf()"),
        "a factory": (attacks.l2, "threat must be an attacks.Threat; got the function l2; call it: attacks.l2()"),
        "an attack": (attacks.fgsm(), "threat must be an attacks.Threat; got an Attack; pass attack.threat"),
    },
    "attack": {
        "a name": ("pgd", "attack must be an attacks.Attack; got 'pgd'; write attacks.pgd()"),
        "a factory": (attacks.pgd, "attack must be an attacks.Attack; got the function pgd; call it: attacks.pgd()"),
        "a threat": (attacks.linf(), "attack must be an attacks.Attack; got a Threat; make an attack in it, such as"),
        "compiled": (attacks.jit_attack(attacks.fgsm(), model), "got a result of jit_attack; pass the attack itself"),
        "a function": (MODEL, "attack must be an attacks.Attack; got a functools.partial; wrap a function as"),
    },
    "threats": {
        "names": (["linf"], "threats must hold evaluation.ThreatModel(attack, eps); got 'linf'; such as"),
        "a threat": ([attacks.linf()], "threats must hold evaluation.ThreatModel(attack, eps); got a Threat; such as"),
        "an attack": ([attacks.fgsm()], "threats must hold evaluation.ThreatModel(attack, eps); got an Attack; such"),
        "no list": (evaluation.ThreatModel(attacks.fgsm(), 0.1), "threats must be a list; got a ThreatModel; write ["),
        "no radius": ([evaluation.ThreatModel(attacks.fgsm(), None)], "eps of linf must be one number; got None; give"),
        "an attack without a radius": (
            [evaluation.ThreatModel(attacks.fgsm())],
            "eps of linf must be one number; got None",
        ),
        "a name as attack": ([evaluation.ThreatModel("pgd", 0.1)], "attack must be an attacks.Attack; got 'pgd'"),
    },
    "epsilons": {
        "one": (0.1, "epsilons must be a list of non-negative numbers; got 0.1; write [0.1]"),
        "None": (None, "epsilons must be a list of non-negative numbers; got None"),
        "none": ([], "epsilons must be a list of non-negative numbers; got []"),
        "texts": (["8/255"], "epsilons must be a list of non-negative numbers; got ['8/255']"),
        "negative": ([0.1, -0.1], "epsilons must be a list of non-negative numbers; got [0.1, -0.1]"),
    },
    "options": {
        "a mapping": ({"batch_size": 2}, "options must be evaluation.Options; got a mapping of ['batch_size']; write"),
        "a batch size": (evaluation.Options(batch_size=0), "batch_size must be positive; got batch_size=0"),
    },
    "seed": {
        "negative": (-1, "seed must be a whole number, 0 or more; got -1"),
        "a fraction": (0.5, "seed must be a whole number, 0 or more; got 0.5"),
        "None": (None, "seed must be a whole number, 0 or more; got None"),
        "a key": (KEY, "seed must be a whole number, 0 or more; got a random key"),
    },
    "batch_size": {
        "None": (None, "batch_size must be a whole number; got None"),
        "a fraction": (2.5, "batch_size must be a whole number; got 2.5"),
        "none": (0, "batch_size must be positive; got batch_size=0"),
    },
}
for _name in ("x", "images"):
    BAD[_name] = {
        "a list": (X.tolist(), f"{_name} {NO_ARRAY} a list of 6; convert it with numpy.asarray({_name})"),
        "of torch": (Tensor(X), f"{_name} {NO_ARRAY} a torch.Tensor; convert it with {_name}.numpy()"),
        "bytes": (np.uint8(255 * X), f"{_name} must be floating point; got dtype uint8; convert bytes with"),
        "none": (X[:0], f"{_name} must hold at least one example; got shape (0, 4, 4, 1); "),
        "a number": (np.float32(0.5), f"{_name} must hold at least one example; got shape (); "),
        "0 to 255": (255 * X, f"{_name} must lie in (0.0, 1.0); got values from"),
        "-1 to 1": (2 * X - 1, "for images in [-1, 1] that the model takes so, box=(-1, 1)"),
        "NaN": (np.where(X > 0.5, np.nan, X), "NaN or infinite values of 96; remove them"),
    }
BAD["targets"] = {
    label: (value, message.replace("labels", "targets")) for label, (value, message) in BAD["labels"].items()
}
BAD["features_fn"] = {
    "parameters": (PARAMS, "features_fn must be a function x -> features; got a mapping of ['w']; the order")
}


def arguments_of(function):
    return list(inspect.signature(function).parameters)


CASES = [
    (name, argument, label)
    for name, function in CALLS.items()
    for argument in arguments_of(function)
    for label in BAD.get(argument, {})
    if label not in ALLOWED.get(name, ())
]


@pytest.fixture(autouse=True)
def as_users_run(monkeypatch):
    """Users run without the checks of jaxtyping."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(("name", "argument", "label"), CASES)
def test_a_wrong_argument_is_refused_before_anything_runs(name, argument, label):
    function, (wrong, message) = CALLS[name], BAD[argument][label]
    given = {argument: COMMON[argument] for argument in arguments_of(function)} | {argument: wrong}
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        function(**given)
    assert "\n" not in str(refused.value)


# Wrong calls of another form


class NoAux:
    """The losses of a training, which lack something."""

    alone = staticmethod(lambda params, key, batch, step: (params[None] * batch).mean())
    each = staticmethod(lambda params, key, batch, step: ((params[None] * batch).sum(1), {}))
    metric = staticmethod(lambda params, key, batch, step: ((params[None] * batch).mean(), {"error": batch.sum(1)}))


def invertible():
    return models.coupled_classifier(lambda outputs: models.mlp(outputs, (3,)), SHAPE, CLASSES)


def state():
    return training.init_state(KEY, jnp.zeros(3), optax.sgd(0.1))


def trained(loss_fn):
    step = training.make_train_step(loss_fn, optax.sgd(0.1))
    return jax.eval_shape(step, state(), np.zeros((4, 3), np.float32))


def played(model_loss):
    sgd = optax.sgd(0.1)
    game = training.Game(lambda params, key, batch: params[None] * batch, model_loss, lambda critic, code, batch: 0.0)
    start = training.init_game(KEY, jnp.zeros(3), jnp.zeros(3), sgd, sgd)
    return jax.eval_shape(training.make_game_step(game, sgd, sgd, 1), start, np.zeros((4, 3), np.float32))


def fit(**change):
    usual = {"state": state(), "train_step": ran, "batches": ran, "num_steps": 3}
    return training.fit(**usual | change)


CNN = models.mnist_cnn(CLASSES, (2, 2), 3)
CNN_PARAMS = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), jax.eval_shape(CNN.init, KEY, jnp.zeros((1, 8, 8, 1))))
WIDE = RNG.random((COUNT, 8, 8, 1)).astype(np.float32)
RUN = attacks.jit_attack(attacks.fgsm(), model)
NAMED = "threat must be an attacks.Threat; got 'linf'; write attacks.linf()"
FACTORY = "threat must be an attacks.Threat; got the function linf; call it: attacks.linf()"
OTHERS = {  # name: (call, what the message says)
    "pgd by name": (lambda: attacks.pgd("linf"), NAMED),
    "fgsm by name": (lambda: attacks.fgsm("linf"), NAMED),
    "iterated_ll by name": (lambda: attacks.iterated_ll("linf"), NAMED),
    "step_ll by name": (lambda: attacks.step_ll("linf"), NAMED),
    "apgd by name": (lambda: attacks.apgd("linf"), NAMED),
    "apgd_targeted by name": (lambda: attacks.apgd_targeted("linf"), NAMED),
    "fab by name": (lambda: attacks.fab("linf"), NAMED),
    "square by name": (lambda: attacks.square("linf"), NAMED),
    "autoattack by name": (lambda: attacks.autoattack("linf", num_classes=3), NAMED),
    "stages by name": (lambda: attacks.autoattack_stages("linf", num_classes=3), NAMED),
    "non_transferable by name": (lambda: features.non_transferable(MODEL, LABELS, "linf"), NAMED),
    "pgd of a factory": (lambda: attacks.pgd(attacks.linf), FACTORY),
    "autoattack of a factory": (lambda: attacks.autoattack(attacks.linf, num_classes=3), FACTORY),
    "pgd of a model": (lambda: attacks.pgd(MODEL), "make the attack first, as in pgd(linf()), and give it the model"),
    "a loss by name": (lambda: attacks.pgd(loss="dlr"), "loss must be a function (logits, labels) -> [B]; got 'dlr'"),
    "a mean loss": (
        lambda: attacks.pgd(loss=lambda h, y: losses.margin(h, y).mean())(KEY, MODEL, X, LABELS, eps=0.1),
        "the loss must give one value for each image, [6]; got (); leave out the mean",
    ),
    "half a step": (lambda: attacks.pgd(steps=2.5), "steps must be a whole number; got 2.5"),
    "steps as text": (lambda: attacks.apgd(steps="10"), "steps must be a whole number; got '10'"),
    "no steps": (lambda: attacks.square(queries=None), "queries must be a whole number; got None"),
    "half a restart": (lambda: attacks.restarts(attacks.pgd(), 2.5), "n must be a whole number; got 2.5"),
    "worst_of one": (lambda: attacks.worst_of(attacks.pgd()), "worst_of needs a list of attacks; got an Attack; write"),
    "jit_attack swapped": (lambda: attacks.jit_attack(model, attacks.fgsm()), "got the function model; wrap a"),
    "key and params swapped": (lambda: RUN(PARAMS, KEY, X, LABELS, eps=0.1), "key must be a random key; got a mapping"),
    "step_size as text": (
        lambda: RUN(KEY, PARAMS, X, LABELS, eps=0.1, step_size="0.1"), "step_size must be one number; got '0.1'"
    ),
    "one image": (
        lambda: attacks.fgsm()(KEY, MODEL, X[0], LABELS[:1], eps=0.1),
        "labels must have shape [4], one for each image; got (1,); a single image needs a batch axis, x[None]",
    ),
    "a curve of one image": (
        lambda: evaluation.robustness_curve(KEY, attacks.fgsm(), model, PARAMS, X[0], LABELS[0], epsilons=[0.1]),
        "a single image needs a batch axis, x[None], and its label, too",
    ),
    "a Jacobian of one image": (
        lambda: analysis.logit_jacobian(partial(CNN.apply, CNN_PARAMS), WIDE[0]), "a batch axis, x[None]"
    ),
    "channels first": (
        lambda: attacks.jit_attack(attacks.fgsm(), CNN.apply)(
            KEY, CNN_PARAMS, WIDE.transpose(0, 3, 1, 2), LABELS, eps=0.1
        ),
        "the images have the channel first; pass jnp.moveaxis(x, 1, -1)",
    ),
    "channels first, invertible": (
        lambda: invertible().apply(None, np.zeros((2, 1, 4, 4), np.float32)), "so pass jnp.moveaxis(images, 1, -1)"
    ),
    "no channel, invertible": (
        lambda: invertible().apply(None, np.zeros((2, 4, 4), np.float32)), "the axis of the channel, images[..., None]"
    ),
    "one image, invertible": (lambda: invertible().apply(None, X[0]), "image needs a batch axis, images[None]"),
    "channels first, abs": (
        lambda: models.analysis_by_synthesis().apply(None, np.zeros((2, 1, 28, 28), np.float32)),
        "x must have shape [batch, 28, 28, 1]; got (2, 1, 28, 28); the channel is the last axis, so pass jnp.moveaxis",
    ),
    "metamers of lists": (
        lambda: attacks.metamers(invertible(), None, X.tolist(), X), "logits_from must be an array; got a list of 6"
    ),
    "weights as a list": (
        lambda: attacks.interpolate(invertible(), None, X, X, [0.0, 1.0]), "weights must be an array; got a list of 2"
    ),
    "bytes of a normalized model": (
        lambda: interop.normalized(model, 127.0, 64.0), "of images in [0, 1]; got mean=127.0 and std=64.0; divide both"
    ),
    "targets one-hot": (
        lambda: features.next_targets(np.eye(3, dtype=np.int32), num_classes=3), "labels must be [B], one for each"
    ),
    "targets of a list": (lambda: features.next_targets([0, 1], num_classes=3), "labels must be an array; got a list"),
    "one logit in a loss": (
        lambda: losses.cross_entropy(jnp.zeros(6), LABELS), "two classes need two logits, such as [-z, z]"
    ),
    "one class in a loss": (
        lambda: losses.margin(jnp.zeros((6, 1)), LABELS), "two classes need two logits, such as [-z, z]"
    ),
    "one logit, gaps": (lambda: analysis.logit_gaps(np.zeros((6, 1))), "two classes need two logits, such as [-z, z]"),
    "agreement on one set": (
        lambda: evaluation.agreement(model, PARAMS, data.HumanLabelled(X, LABELS, X, LABELS, LABELS, "l0", None)),
        "examples must be sets by name; got a HumanLabelled; pass data.human_labelled()",
    ),
    "agreement without a model": (
        lambda: evaluation.agreement(PARAMS, model, {}), "apply_fn must be a function (params, x) -> logits; got a"
    ),
    "margins of images": (lambda: bounds.margins(MODEL, X, LABELS), "region must be an Interval or a Ball; got an"),
    "a slice without a model": (
        lambda: analysis.decision_slice(PARAMS, X[0], X[1], X[2]), "logits_fn must be a function x -> logits; got a"
    ),
    "a crossing of lists": (
        lambda: analysis.linear_epsilon([[1.0, 0.0]], [[1.0, 0.0]]), "logits must be an array; got a list of 1; convert"
    ),
    "a bootstrap with a seed": (
        lambda: analysis.power_law(np.arange(1.0, 9), quantile=0.5, key=0), "key must be a random key; got 0; write"
    ),
    "bounds of parameters": (
        lambda: bounds.ibp(PARAMS, bounds.linf_box(X, 0.1)), "fn must be a function x -> outputs; got a mapping"
    ),
    "linear bounds of parameters": (
        lambda: bounds.crown(PARAMS, bounds.linf_box(X, 0.1)), "fn must be a function x -> outputs; got a mapping"
    ),
    "a segment of lists": (
        lambda: analysis.decision_segment(MODEL, X.tolist(), X), "first must be an array; got a list of 6; convert it"
    ),
    "a head with a seed": (
        lambda: analysis.train_head(0, models.mlp(3), (X, LABELS), epochs=1), "key must be a random key; got 0; write"
    ),
    "a head of one logit": (
        lambda: analysis.train_head(KEY, models.mlp(1), (X, LABELS), epochs=1), "two classes need two logits, such as"
    ),
    "a voter of one logit": (
        lambda: attacks.judge([lambda x: x.sum((1, 2, 3))])(X), "two classes need two logits, such as [-z, z]"
    ),
    "agreement on one logit": (
        lambda: evaluation.agreement(
            lambda p, x: x.sum((1, 2, 3)), None, {"a": data.HumanLabelled(X, LABELS + 1, X, LABELS, LABELS, "l0", None)}
        ),
        "two classes need two logits, such as [-z, z]",
    ),
    "a head of columns": (
        lambda: analysis.train_head(KEY, models.mlp(3), (X, LABELS[:, None]), epochs=1), "got (6, 1); use labels[:, 0]"
    ),
    "construct without a function": (
        lambda: features.construct(KEY, PARAMS, model, [X], recipe={}), "make must be a function (params, key, ids"
    ),
    "construct with a seed": (
        lambda: features.construct(0, ran, PARAMS, [X], recipe={}), "key must be a random key; got 0; write"
    ),
    "a loss alone": (
        lambda: trained(NoAux.alone), "loss_fn must return (loss, metrics); got a number; write return loss, {}"
    ),
    "a loss of each": (
        lambda: trained(NoAux.each), "the metric 'loss' of loss_fn must be one number; got shape (4,); return"
    ),
    "a metric of each": (
        lambda: trained(NoAux.metric), "the metric 'error' of loss_fn must be one number; got shape (4,)"
    ),
    "a metric of each in a game": (
        lambda: played(lambda code, critic, key, batch, step: (code.mean(), {"error": batch.sum(1)})),
        "the metric 'error' of model_loss must be one number; got shape (4,); return its mean",
    ),
    "a game without metrics": (
        lambda: played(lambda code, critic, key, batch, step: code.mean()), "model_loss must return (loss, metrics)"
    ),
    "a game of functions": (
        lambda: training.make_game_step(ran, optax.sgd(1), optax.sgd(1), 1), "game must be a training.Game; got the"
    ),
    "a state of parameters": (lambda: fit(state=PARAMS), "state must be a TrainState; got a mapping of ['w']; use"),
    "a step with a metric of each": (
        lambda: fit(train_step=lambda state, batch: (state, {"loss": batch}), batches=lambda step: np.zeros(4)),
        "the metric 'loss' of train_step must be one number; got shape (4,); return its mean over the batch",
    ),
    "no step": (lambda: fit(train_step=None), "train_step must be a function (state, batch) -> (state, metrics); use"),
    "arrays as batches": (
        lambda: fit(batches=[X, LABELS]), "batches must be a function step -> batch; use data.batches([x, y]"
    ),
    "a float of steps": (lambda: fit(num_steps=1e4), "num_steps must be a whole number; got 10000.0"),
    "a learning rate": (
        lambda: training.init_state(KEY, PARAMS, 1e-3), "optimizer must be made by optax; got 0.001; such as optax.adam"
    ),
    "an optimizer not called": (
        lambda: training.make_train_step(ran, optax.adam), "optimizer must be made by optax; got the function adam"
    ),
    "a state with a seed": (
        lambda: training.init_state(0, PARAMS, optax.sgd(1)), "key must be a random key; got 0; write jax.random.key(0)"
    ),
    "a loss that is none": (
        lambda: training.make_train_step(PARAMS, optax.sgd(1)), "loss_fn must be a function (params, key, batch, step)"
    ),
    "training on an attack by name": (
        lambda: training.adversarial_loss(model, "pgd", eps=0.1), "attack must be an attacks.Attack; got 'pgd'"
    ),
    "training without a model": (
        lambda: training.certified_loss(PARAMS, eps=0.1), "apply_fn must be a function (params, x) -> logits; got a map"
    ),
    "training without a radius": (
        lambda: training.certified_loss(model, eps=None), "eps must be one number; got None; give the radius, such as"
    ),
    "a negative seed": (lambda: bijectors.permute(-1), "seed must be a whole number, 0 or more; got -1"),
    "a shift with a negative seed": (
        lambda: data.binary_shift(data.Dataset(np.zeros((1, 8, 8, 1), np.uint8), LABELS[:1], 3), "coded", -1),
        "seed must be a whole number, 0 or more; got -1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_wrong_call_is_refused_in_one_line(name):
    call, message = OTHERS[name]
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_seeds_may_be_arrays_of_one_number():
    first, second = (data.batches([LABELS], 2, seed)(0)[0] for seed in (3, np.array(3)))
    np.testing.assert_array_equal(first, second)


KEYED = {
    f"{package}.{name}": function
    for package in ("analysis", "attacks", "bounds", "data", "evaluation", "features", "losses", "training",
                    "theory.gaussian", "theory.overly_robust", "theory.spheres")
    for name, function in vars(importlib.import_module(f"invjax.{package}")).items()
    if inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "key"
    and function not in losses.ADVERSARIES.values()
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_an_integer_is_no_key(name):
    """The key is the first argument that is checked."""
    needed = [p for p in inspect.signature(KEYED[name]).parameters.values() if p.default is p.empty]
    by_name = {p.name: COMMON.get(p.name) for p in needed[1:] if p.kind is not p.VAR_KEYWORD}
    with pytest.raises(ValueError, match=re.escape("key must be a random key; got 0; write jax.random.key(0)")):
        KEYED[name](0, **by_name)

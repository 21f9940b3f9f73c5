"""Each check finds the faulty model that was built for it, and a healthy model passes all checks."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from invjax.attacks import diagnose, fgsm, l2, linf, pgd
from invjax.attacks._checks import CHECKS, Evidence
from invjax.data import as_float, load
from invjax.losses import cross_entropy
from invjax.models import mlp

KEY = jax.random.key(0)
NET = mlp(10, (24,))
COUNT = 24


@cache
def digits():
    """A network after a few steps on handwritten digits, and images that it gets right."""
    data = load("digits", "train")
    images, labels = jnp.asarray(as_float(data.images, data.levels)), jnp.asarray(data.labels)
    optimizer = optax.adam(1e-2)
    params = NET.init(KEY, images[:1])

    @jax.jit
    def train(params):
        def step(state, _):
            params, opt_state = state
            gradient = jax.grad(lambda p: cross_entropy(NET.apply(p, images), labels).mean())(params)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=60)[0][0]

    params = train(params)
    right = np.flatnonzero(NET.apply(params, images).argmax(-1) == labels)
    assert len(right) > 0.9 * len(labels)
    return params, np.asarray(images)[right[:COUNT]], np.asarray(labels)[right[:COUNT]]


def look(apply_fn=NET.apply, x=None, **given):
    """`{name: message}` of what is found, and the lines shown; on flat images, where there are no squares to search."""
    params, images, labels = digits()
    x = images.reshape(COUNT, -1) if x is None else x
    shown, given = [], {"eps": 0.1, "attack": pgd(steps=10), "queries": 40} | given
    found = diagnose(KEY, apply_fn, params, x, labels, show=shown.append, **given)
    return {finding.name: finding.message for finding in found}, shown


@pytest.mark.slow
def test_a_healthy_network_gives_no_finding():
    assert look(x=digits()[1]) == ({}, ["nothing suspicious was found; this is not a proof of robustness"])


def rounded(params, x):
    """A staircase: its gradient is zero everywhere."""
    return NET.apply(params, jnp.round(4 * x) / 4)


def saturated(params, x):
    return 1e4 * NET.apply(params, x)


def with_probabilities(params, x):
    return jax.nn.softmax(NET.apply(params, x))


def random_logits(params, x):
    """A defence that adds noise behind the compiler's back."""
    rng = np.random.default_rng()
    shape = jax.ShapeDtypeStruct((len(x), 10), jnp.float32)
    draw = lambda _: rng.normal(size=shape.shape).astype(np.float32)  # noqa: E731
    return NET.apply(params, x) + 0.01 * jax.pure_callback(draw, shape, jax.lax.stop_gradient(x[:, 0]))


def with_nan(params, x):
    return jnp.log(NET.apply(params, x))


def only_near(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
    """One step of a fixed length: it wins at eps and gets nowhere at larger radii."""
    return fgsm()(key, logits_fn, x, labels, eps=jnp.where(eps > 0.2, 0.0, 2 * eps), ids=ids)


ONLY_NEAR = replace(fgsm(), run=only_near)

BLINDLY = {"attack": pgd(steps=2, loss=cross_entropy, random_start=False)}
CASES = {  # name: (the fault, the check that finds it, its message)
    "probabilities": ({"apply_fn": with_probabilities, "attack": fgsm()}, "probabilities", "return the logits"),
    "saturation": ({"apply_fn": saturated, **BLINDLY}, "gradients", "cross-entropy has a gradient of zero"),
    "randomness": (
        {"apply_fn": random_logits, "attack": fgsm()},
        "randomness",
        "attack their mean over the randomness",
    ),
    "a worse attack": (
        {"attack": replace(fgsm(), run=only_near)},
        "monotone",
        "the attack succeeds less often at a larger radius",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_check_finds_the_model_made_for_it(name):
    given, check, message = CASES[name]
    found, shown = look(**given)
    assert message in found[check]
    assert [line for line in shown if line.startswith(f"{check}: ") and message in line]
    assert len(shown) == len(found)


def test_a_staircase_is_found_by_its_gradients_its_attack_and_a_random_search():
    found, _ = look(rounded, digits()[1], eps=0.4, **BLINDLY)
    assert "a gradient of exactly zero on 100% of the images" in found["gradients"]
    assert "the attack succeeds on only 0% of the images" in found["unbounded"]
    assert "the attack on 0%: the gradients are masked" in found["blind search"]


def test_a_flat_softmax_that_spreads_the_gradient_over_all_classes_is_found():
    flat = lambda params, x: 1e-3 * NET.apply(params, x)  # noqa: E731
    found, _ = look(flat, eps=0.07, attack=pgd(steps=40))
    assert "maximise losses.margin or dlr" in found["other loss"]


def test_images_as_bytes_in_floats_are_found():
    found, shown = look(x=255 * digits()[1].reshape(COUNT, -1), attack=fgsm())
    assert "pixel values range from 0 to 255, outside the box (0.0, 1.0)" in found["image range"]
    assert shown[0].startswith("image range: ")


def test_images_in_a_corner_of_the_box_are_found():
    found, _ = look(threat=linf((0.0, 255.0)), attack=fgsm(linf((0.0, 255.0))))
    assert "pixel values range only from 0 to 1 in the box (0.0, 255.0)" in found["image range"]


def test_diagnose_accepts_another_threat():
    assert look(eps=0.5, threat=l2(), attack=pgd(l2(), steps=10))[0] == {}


@pytest.mark.slow
def test_diagnose_prints_its_findings_only_if_asked(capsys):
    params, images, labels = digits()
    flat = images.reshape(COUNT, -1)
    run = lambda **how: diagnose(KEY, with_nan, params, flat, labels, eps=0.1, attack=fgsm(), **how)  # noqa: E731
    found = run(show=None)
    assert capsys.readouterr().out == ""
    assert [finding.message for finding in found if finding.name == "finite logits" and "NaN or inf" in finding.message]
    assert run() == found
    assert capsys.readouterr().out.splitlines() == [f"{finding.name}: {finding.message}" for finding in found]


# the limits of each check

LOGITS = np.random.default_rng(0).normal(size=(10, 3))
HEALTHY = Evidence(
    box=(0.0, 1.0),
    low=0.0,
    high=1.0,
    logits=LOGITS,
    logits_again=LOGITS,
    loss_gradient=np.ones(10),
    logit_gradient=np.ones(10),
    radii=(0.1, 0.2, 0.4, 1.0),
    success=(0.1, 0.3, 0.6, 1.0),
    blind=0.2,
    by_margin=0.3,
    labels=LOGITS.argmax(1),
    finite_gradients=1.0,
)
ONE_HOT = np.eye(3)[np.arange(10) % 3]
LIMITS = [  # change of the healthy evidence, checks that fire
    ({}, set()),
    ({"labels": (LOGITS.argmax(1) + 1) % 3}, {"labels"}),  # shifted by one: no image is right
    ({"labels": np.where(np.arange(10) < 7, LOGITS.argmax(1), (LOGITS.argmax(1) + 1) % 3)}, set()),
    ({"labels": np.where(np.arange(10) < 6, LOGITS.argmax(1), (LOGITS.argmax(1) + 1) % 3)}, {"labels"}),
    (
        {"logits": LOGITS[:2, :2], "logits_again": LOGITS[:2, :2], "labels": LOGITS[:2, :2].argmax(1)},
        set(),
    ),  # all right
    ({"radii": (4.0, 8.0, 16.0, 1.0)}, {"radius"}),
    ({"radii": (0.5, 1.0, 2.0, 1.0)}, set()),
    ({"finite_gradients": 0.9}, {"finite_gradients"}),
    ({"high": 0.51}, set()),
    ({"high": 0.49}, {"image_range"}),
    ({"high": 0.49, "box": (-np.inf, np.inf)}, set()),
    ({"low": -0.01}, {"image_range"}),
    ({"logits": ONE_HOT, "logits_again": ONE_HOT}, {"probabilities"}),
    ({"logits": 2 * ONE_HOT, "logits_again": 2 * ONE_HOT}, set()),
    ({"logits_again": HEALTHY.logits + 1e-6}, {"randomness"}),
    ({"loss_gradient": np.eye(10)[0]}, {"gradients"}),
    ({"logit_gradient": 1 - np.eye(10)[0]}, {"gradients"}),
    ({"success": (0.1, 0.3, 0.2, 1.0)}, set()),  # one image of ten is not enough evidence
    ({"success": (0.1, 0.4, 0.2, 1.0)}, {"monotone"}),
    ({"success": (0.1, 0.3, 0.6, 0.9)}, set()),
    ({"success": (0.1, 0.3, 0.6, 0.8)}, {"unbounded"}),
    ({"blind": 0.4}, set()),
    ({"blind": 0.5}, {"blind_search"}),
    ({"blind": None}, set()),
    ({"blind": 0.5, "by_margin": 0.4}, set()),
    ({"by_margin": 0.5}, {"other_loss"}),
]


@pytest.mark.parametrize(("change", "fires"), LIMITS, ids=lambda value: ",".join(value) if value else "none")
def test_each_check_fires_at_its_limits(change, fires):
    right = change.get("logits", LOGITS).argmax(1)
    evidence = HEALTHY._replace(**({"labels": right} | change))
    assert {check.__name__ for check in CHECKS if check(evidence) is not None} == fires


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, "eps must not be negative"),
        ({"eps": jnp.ones(2)}, "eps must be one number"),
        ({"x": np.zeros((COUNT, 8, 8, 1), np.uint8)}, "x must be floating point"),
        ({"x": np.zeros((3, 8, 8, 1), np.float32)}, "labels must have shape"),
        ({"apply_fn": lambda params, x: x[None]}, "the model must map images"),
    ],
    ids=["negative", "array", "bytes", "labels", "model"],
)
def test_bad_input_is_refused(monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=message):
        look(**change)


def test_randomness_that_is_drawn_while_tracing_is_found():
    rng = np.random.default_rng(0)
    found, _ = look(
        lambda params, x: NET.apply(params, x) + rng.normal(size=10).astype(np.float32)[None], attack=fgsm()
    )
    assert "differ" in found["randomness"]


def test_a_model_that_looks_at_its_whole_batch_is_found():
    found, _ = look(lambda params, x: NET.apply(params, x - x.mean(0, keepdims=True)), attack=fgsm())
    assert "other images of its batch" in found["batch dependence"]


@pytest.mark.slow
def test_a_masked_class_is_no_vanishing_gradient():
    w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    x = np.random.default_rng(1).uniform(size=(20, 16)).astype(np.float32)
    masked = lambda w, x: jnp.concatenate([x @ w, jnp.full((len(x), 1), -jnp.inf)], 1)  # noqa: E731
    found = diagnose(KEY, masked, w, x, (x @ w).argmax(1), eps=0.3, queries=5, show=None)
    assert "gradients" not in [finding.name for finding in found]
    rounded = lambda w, x: jnp.round(x * 4) / 4 @ w  # noqa: E731
    found = diagnose(KEY, rounded, w, x, rounded(w, x).argmax(1), eps=0.3, queries=5, show=None)
    assert "gradients" in [finding.name for finding in found]

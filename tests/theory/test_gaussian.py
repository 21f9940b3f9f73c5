"""Gaussians: closed forms against golden values, optimisers, samples; the exact attack against what it must fulfil."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats

from invjax.attacks import l2, linf, pgd
from invjax.theory import gaussian

KEY = jax.random.key(0)
DIAGONAL = np.diag([0.25, 1.0, 4.0])
MEAN = np.array([0.3, -0.5, 1.0])
EVERYWHERE = (-math.inf, math.inf)


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def turned(variances, seed=0):
    axes = rotation(len(variances), seed)
    return axes @ np.diag(variances) @ axes.T


TURNED = turned([0.25, 1.0, 4.0])


def within_four_errors(values, expected):
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - expected) <= 4 * values.std() / math.sqrt(len(values)) + 1e-12


# compiled once for all tests; separate operations would compile for minutes
l2_attack, average_attack = jax.jit(gaussian.l2_attack), jax.jit(gaussian.average_attack)
likelihood = jax.jit(gaussian.negative_log_likelihood)


@cache
def drawn():
    """Samples of the two classes, in double precision."""
    assert jax.config.read("jax_enable_x64")
    return jax.tree.map(np.asarray, jax.jit(lambda key: gaussian.sample(key, MEAN, TURNED, count=40_000))(KEY))


def draw(count):
    return [array[:count] for array in drawn()]


def signed(count):
    x, labels = draw(count)
    return x * (2 * labels - 1)[:, None]


# samples ------------------------------------------------------------------------------------------------------------


def test_samples_have_the_moments_of_their_class(float64):
    x, labels = draw(40_000)
    assert x.shape == (40_000, 3) and labels.dtype == jnp.int32
    within_four_errors(labels, 0.5)
    for label, sign in ((0, -1), (1, 1)):
        points = np.asarray(x)[np.asarray(labels) == label]
        for i in range(3):
            within_four_errors(points[:, i], sign * MEAN[i])
            for j in range(i + 1):
                v = points - sign * MEAN
                within_four_errors(v[:, i] * v[:, j], TURNED[i, j])
    z = jax.jit(gaussian.signed)(x, labels)
    np.testing.assert_array_equal(z, np.asarray(x) * np.where(np.asarray(labels) == 1, 1, -1)[:, None])


def test_the_logits_are_the_posterior_of_the_model(float64):
    x = np.random.default_rng(0).normal(size=(5, 3))
    logits = np.asarray(jax.jit(gaussian.classifier(MEAN, TURNED))(x))
    densities = np.stack([scipy.stats.multivariate_normal(sign * MEAN, TURNED).pdf(x) for sign in (-1, 1)], -1)
    np.testing.assert_allclose(
        scipy.special.softmax(logits, -1), densities / densities.sum(-1, keepdims=True), rtol=1e-12
    )


def test_the_loss_is_minus_the_log_density(float64):
    z = np.random.default_rng(0).normal(size=(5, 3))
    found = likelihood(z, MEAN, TURNED)
    np.testing.assert_allclose(found, -scipy.stats.multivariate_normal(MEAN, TURNED).logpdf(z), rtol=1e-12)


# theorem 1 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", [DIAGONAL, TURNED])
@pytest.mark.parametrize(
    ("penalty", "golden"), [(5, 24.67053324099723), (8, 3.371679160738176), (20, 0.696009927425687)]
)
def test_vulnerability_has_its_golden_values(covariance, penalty, golden):
    found = gaussian.vulnerability(covariance, penalty=penalty)
    assert found.loss == pytest.approx(golden, rel=1e-12)
    halved = gaussian.vulnerability(covariance, penalty=penalty, convention="halved")
    assert halved == pytest.approx((found.loss / 2, found.value / 2, found.squared_radius), rel=1e-12)
    literal = gaussian.vulnerability(covariance, penalty=penalty / 2, convention="literal")
    assert literal == pytest.approx(halved, rel=1e-12)  # the same objective, its C half as large
    if penalty == 5:
        assert found[1:] == pytest.approx((4.302631578947368, 4.073580332409972), rel=1e-12)


OBJECTIVES = {"quadratic": (1.0, 1.0), "halved": (0.5, 0.5), "literal": (0.5, 1.0)}  # of Q, of C |delta|^2


@pytest.mark.parametrize("convention", OBJECTIVES)
def test_the_attack_of_theorem_1_maximises_its_objective_and_has_the_gain_of_the_theorem(convention, float64):
    of_q, of_length = OBJECTIVES[convention]
    penalty, inverse = 5.0, np.linalg.inv(TURNED)
    q = lambda v: np.einsum("bi,ij,bj->b", v, inverse, v)  # noqa: E731
    z = signed(20_000)
    v = z - MEAN
    delta = np.asarray(gaussian.lagrangian_attack(z, MEAN, TURNED, penalty=penalty, convention=convention))
    objective = lambda d: of_q * q(v[:1] + d[None])[0] - of_length * penalty * (d**2).sum()  # noqa: E731
    best = scipy.optimize.minimize(lambda d: -objective(d), np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(delta[0], best.x, atol=1e-6)
    gain, square = of_q * (q(v + delta) - q(v)), (delta**2).sum(-1)
    expected = gaussian.vulnerability(TURNED, penalty=penalty, convention=convention)
    within_four_errors(gain, expected.loss)
    within_four_errors(gain - of_length * penalty * square, expected.value)
    within_four_errors(square, expected.squared_radius)


def test_a_penalty_on_the_unsquared_length_leaves_the_gain_unbounded(float64):
    far = np.array([[10.0**power, 0, 0] for power in range(4)])
    loss = likelihood(far, np.zeros(3), DIAGONAL)
    gain = np.asarray(loss) - 5 * np.linalg.norm(far, axis=1)
    assert (np.diff(gain[1:]) > 0).all() and gain[-1] > 1e6


def test_a_multiple_of_the_identity_is_the_least_vulnerable_covariance_of_its_trace():
    rng = np.random.default_rng(0)
    for size in (2, 3, 10):
        for _ in range(50):
            variances = rng.gamma(2, size=size) + 0.1
            penalty = 1.5 / variances.min()
            equal = np.eye(size) * variances.mean()
            least, found = (gaussian.vulnerability(s, penalty=penalty) for s in (equal, np.diag(variances)))
            assert least.loss < found.loss and least.value < found.value
            strength = penalty * variances.mean()
            assert least.loss == pytest.approx(size * ((strength / (strength - 1)) ** 2 - 1), rel=1e-12)


# theorem 2 ----------------------------------------------------------------------------------------------------------

GOLDEN = {  # eps: lambda, eigenvalues, condition number, the worst cosine: to the digits given
    0.1: (20.201928, (0.3418324, 1.096766364, 4.0984025915), 11.98950887, None),
    1.0: (1.115321048, (1.5112717981, 2.4673982383, 5.6509468987), 3.73919960, 0.81604540),
    10.0: (0.02507122956, (43.1716118863, 46.7216825738, 54.6748445231), 1.26645363, 0.99306529),
}


@pytest.mark.parametrize("eps", GOLDEN)
def test_the_robust_covariance_has_its_golden_values(eps):
    multiplier, eigenvalues, condition, cosine = GOLDEN[eps]
    digits = 3e-8 if eps == 0.1 else 1e-9
    for covariance in (DIAGONAL, TURNED):
        found = gaussian.robust_covariance(covariance, eps=eps)
        assert found.multiplier == pytest.approx(multiplier, rel=digits)
        np.testing.assert_allclose(np.linalg.eigvalsh(found.covariance), eigenvalues, rtol=digits)
        assert np.linalg.cond(found.covariance) == pytest.approx(condition, rel=1e-8)
        assert cosine is None or gaussian.worst_alignment(found.covariance).cosine == pytest.approx(cosine, rel=1e-8)
    attack = gaussian.robust_covariance(DIAGONAL, eps=eps).attack
    assert float(np.trace(attack @ DIAGONAL @ attack)) == pytest.approx(eps**2, rel=1e-12)


@pytest.mark.parametrize("eps", [1e-3, 0.1, 1.0, 10.0, 1e3])
def test_the_robust_covariance_is_the_formula_of_the_theorem_and_stationary(eps):
    found = gaussian.robust_covariance(TURNED, eps=eps)
    inverse = np.eye(3) / found.multiplier
    root = scipy.linalg.sqrtm(TURNED @ inverse + TURNED @ TURNED / 4)
    np.testing.assert_allclose(found.covariance, TURNED / 2 + inverse + root, rtol=1e-10, atol=1e-10)
    worst = gaussian.linear_attack(found.covariance, TURNED, eps=eps)  # the attack is a root of another equation
    assert worst.multiplier == pytest.approx(found.multiplier, rel=1e-9)
    np.testing.assert_allclose(worst.matrix, found.attack, rtol=1e-9, atol=1e-9 * found.attack.max())
    moved = np.eye(3) + worst.matrix
    np.testing.assert_allclose(moved @ TURNED @ moved, found.covariance, rtol=1e-9, atol=1e-9 * found.covariance.max())


@pytest.mark.parametrize("eps", [0.1, 1.0, 10.0])
def test_no_model_has_less_robust_risk(eps):
    robust = gaussian.robust_covariance(DIAGONAL, eps=eps).covariance
    least = gaussian.risk(MEAN, robust, MEAN, DIAGONAL, eps=eps)

    def at(theta):
        return gaussian.risk(theta[:3], np.diag(np.exp(theta[3:])), MEAN, DIAGONAL, eps=eps)

    found = scipy.optimize.minimize(at, np.zeros(6), options={"gtol": 1e-7})
    assert found.fun == pytest.approx(least, abs=1e-10)
    np.testing.assert_allclose(found.x[:3], MEAN, atol=1e-5)
    np.testing.assert_allclose(np.exp(found.x[3:]), np.diag(robust), rtol=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(50):  # a random orientation
        root = np.linalg.cholesky(robust) + 0.1 * rng.normal(size=(3, 3))
        assert gaussian.risk(MEAN, root @ root.T, MEAN, DIAGONAL, eps=eps) > least
        assert gaussian.risk(MEAN + 0.1 * rng.normal(size=3), robust, MEAN, DIAGONAL, eps=eps) > least


def test_the_linear_attack_meets_its_budget_and_no_other_matrix_gains_more():
    rng, model, data = np.random.default_rng(0), turned([0.3, 0.5, 3.0], 1), TURNED
    found = gaussian.linear_attack(model, data, eps=0.7)
    loss = lambda m: np.trace(np.linalg.solve(model, (np.eye(3) + m) @ data @ (np.eye(3) + m).T))  # noqa: E731
    cost = lambda m: np.trace(m @ data @ m.T)  # noqa: E731
    assert cost(found.matrix) == pytest.approx(0.7**2, rel=1e-12)
    assert found.multiplier > 1 / 0.3
    for scale in (0.01, 0.1, 1):
        for _ in range(300):
            other = found.matrix + scale * rng.normal(size=(3, 3))
            assert loss(other * 0.7 / math.sqrt(cost(other))) <= loss(found.matrix)
    off = np.array([0.4, 0.0, -1.0])
    risk = gaussian.risk(MEAN + off, model, MEAN, data, eps=0.7)
    moment = data + np.outer(off, off)
    moved = np.eye(3) + gaussian.linear_attack(model, moment, eps=0.7).matrix
    expected = (np.trace(np.linalg.inv(model) @ moved @ moment @ moved) + np.linalg.slogdet(2 * np.pi * model)[1]) / 2
    assert risk == pytest.approx(expected, rel=1e-12)


def test_the_risk_is_the_mean_loss_of_samples(float64):
    model, mean = turned([0.3, 0.5, 3.0], 1), np.array([0.5, 0.0, 0.5])
    z = signed(40_000)
    within_four_errors(likelihood(z, mean, model), gaussian.risk(mean, model, MEAN, TURNED))
    off = mean - MEAN
    attack = gaussian.linear_attack(model, TURNED + np.outer(off, off), eps=0.7).matrix
    moved = z + (z - mean[None]) @ attack.T
    within_four_errors(
        likelihood(moved, mean, model),
        gaussian.risk(mean, model, MEAN, TURNED, eps=0.7),
    )


def test_the_robust_covariance_has_its_limits_for_small_and_large_eps():
    none = gaussian.robust_covariance(TURNED, eps=0)
    np.testing.assert_allclose(none.covariance, TURNED, rtol=1e-14, atol=1e-14)
    assert none.multiplier == math.inf and not none.attack.any()
    assert gaussian.linear_attack(TURNED, TURNED, eps=0).multiplier == math.inf
    small = gaussian.robust_covariance(TURNED, eps=1e-6)
    assert small.multiplier == pytest.approx(math.sqrt(5.25) / 1e-6, rel=1e-5)
    np.testing.assert_allclose(small.covariance, TURNED, atol=1e-5)
    large = gaussian.robust_covariance(TURNED, eps=1e5)
    np.testing.assert_allclose(large.covariance, 1e10 / 3 * np.eye(3), rtol=1e-4, atol=1e6)


def test_the_multiplier_lies_between_its_bounds():
    rng = np.random.default_rng(0)
    for _ in range(500):
        variances = np.exp(rng.normal(size=rng.integers(1, 12)) * rng.uniform(0, 3))
        eps = math.exp(rng.uniform(-6, 6))
        low, high = gaussian.multiplier_bounds(np.diag(variances), eps=eps)
        assert low < gaussian.robust_covariance(np.diag(variances), eps=eps).multiplier < high
    # for a variance of 1 they are within constants of the orders of the theorem, for the square of eps
    for eps in (1e-4, 1e-2, 1, 1e2, 1e4):
        low, high = gaussian.multiplier_bounds(np.eye(1), eps=eps)
        assert 0.3 < low / ((1 + eps) / (eps + eps**3)) < 1.1
        assert high == pytest.approx((1 + eps) / eps)


# theorem 3 ----------------------------------------------------------------------------------------------------------


def test_the_worst_alignment_is_attained_and_no_mean_has_less():
    found = gaussian.worst_alignment(TURNED)
    assert found.cosine == pytest.approx(8 / 17, rel=1e-12)
    assert np.linalg.norm(found.mean) == pytest.approx(1, rel=1e-12)
    assert gaussian.alignment(found.mean, TURNED) == pytest.approx(found.cosine, rel=1e-12)
    means = np.random.default_rng(0).normal(size=(2000, 3))
    cosines = [gaussian.alignment(mean, TURNED) for mean in means]
    assert found.cosine <= min(cosines) < found.cosine + 0.02
    assert gaussian.worst_alignment(np.eye(1)).cosine == 1


def test_the_gradient_of_every_mean_turns_towards_it_as_eps_grows():
    rng = np.random.default_rng(0)
    for _ in range(100):
        variances = np.exp(rng.normal(size=rng.integers(2, 12)) * rng.uniform(0.1, 3))
        covariance, mean = turned(variances), rng.normal(size=len(variances)) * np.exp(rng.normal(size=len(variances)))
        radii = np.geomspace(0.01, 10, 6) * math.sqrt(variances.mean())
        models = [covariance, *(gaussian.robust_covariance(covariance, eps=eps).covariance for eps in radii)]
        assert (np.diff([gaussian.alignment(mean, model) for model in models]) > 0).all()
        assert (np.diff([gaussian.worst_alignment(model).cosine for model in models]) > 0).all()
    robust = gaussian.robust_covariance(TURNED, eps=1).covariance
    for axis in rotation(3).T:
        assert gaussian.alignment(axis, TURNED) == pytest.approx(1, abs=1e-12)
        assert gaussian.alignment(axis, robust) == pytest.approx(1, abs=1e-12)


def test_alignment_is_that_of_the_gradient_of_the_classifier(float64):
    logits_fn = gaussian.classifier(MEAN, TURNED)
    gradient = np.asarray(jax.jit(jax.grad(lambda x: logits_fn(x[None])[0, 1]))(np.ones(3)))
    cosine = MEAN @ gradient / np.linalg.norm(MEAN) / np.linalg.norm(gradient)
    assert gaussian.alignment(MEAN, TURNED) == pytest.approx(cosine, rel=1e-12)


# errors and usefulness ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threat", "norm"), [(l2, 2), (linf, math.inf)])
def test_the_error_is_that_of_samples_under_an_attack_of_the_library(threat, norm, float64):
    robust = gaussian.robust_covariance(TURNED, eps=1).covariance
    x, labels = draw(20_000)
    attack = pgd(threat(EVERYWHERE), steps=1, random_start=False)

    @jax.jit
    def errors(x, labels):
        classifiers = [gaussian.classifier(MEAN, model) for model in (TURNED, robust)]
        attacked = [attack(KEY, logits_fn, x, labels, eps=0.5, step_size=0.5) for logits_fn in classifiers]
        return [(f(x).argmax(-1) != labels, found.success) for f, found in zip(classifiers, attacked, strict=True)]

    for model, (clean, attacked) in zip((TURNED, robust), errors(x, labels), strict=True):
        direction = np.linalg.solve(model, MEAN)
        within_four_errors(clean, gaussian.error_rate(direction, MEAN, TURNED))
        within_four_errors(attacked, gaussian.error_rate(direction, MEAN, TURNED, eps=0.5, norm=norm))


def test_usefulness_is_the_mean_of_the_worst_feature(float64):
    direction = np.array([1.0, -2.0, 0.5])
    scale = math.sqrt(direction @ (TURNED + np.outer(MEAN, MEAN)) @ direction)
    z = signed(20_000)
    within_four_errors((z @ direction / scale) ** 2, 1)
    step = {2: direction / np.linalg.norm(direction), math.inf: np.sign(direction), 1: np.array([0, -1, 0])}
    for norm, towards in step.items():
        assert np.linalg.norm(towards, norm) == pytest.approx(1)
        for eps in (0, 0.3):
            found = gaussian.robust_usefulness(direction, MEAN, TURNED, eps=eps, norm=norm)
            within_four_errors((z - eps * towards) @ direction / scale, found)
            assert found == pytest.approx(direction @ (MEAN - eps * towards) / scale, rel=1e-12)


# the exact attack ---------------------------------------------------------------------------------------------------


def check_optimal(v, covariance, eps, tolerance=1e-9):
    """The conditions that only a global maximum of a quadratic in a ball fulfils."""
    delta, multiplier = map(np.asarray, l2_attack(v, np.zeros(v.shape[1]), covariance, eps=eps))
    np.testing.assert_allclose(np.linalg.norm(delta, axis=1), eps, rtol=tolerance)
    inverse = np.linalg.inv(covariance)
    gradient = (v + delta) @ inverse
    np.testing.assert_allclose(
        gradient, multiplier[:, None] * delta, rtol=tolerance, atol=tolerance * np.abs(gradient).max()
    )
    assert (multiplier >= np.linalg.eigvalsh(inverse)[-1] * (1 - tolerance)).all()
    return delta


@pytest.mark.parametrize("eps", [1e-4, 0.3, 5.0, 1e4])
@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_the_attack_fulfils_the_conditions_of_a_global_maximum(size, eps, float64):
    rng = np.random.default_rng(size)
    check_optimal(rng.normal(size=(50, size)), turned(np.exp(2 * rng.normal(size=size))), eps)


def test_the_attack_is_the_best_of_all_points_of_a_circle(float64):
    covariance, eps = np.array([[2.0, 0.7], [0.7, 0.5]]), 0.8
    v = np.random.default_rng(0).normal(size=(20, 2))
    angles = np.linspace(0, 2 * np.pi, 20_001)
    circle = eps * np.stack([np.cos(angles), np.sin(angles)], -1)
    inverse = np.linalg.inv(covariance)
    q = lambda w: np.einsum("...i,ij,...j", w, inverse, w)  # noqa: E731
    delta = np.asarray(l2_attack(v, np.zeros(2), covariance, eps=eps).delta)
    np.testing.assert_allclose(q(v + delta), q(v[:, None] + circle[None]).max(1), rtol=1e-7)


@pytest.mark.parametrize("small", [0.0, 1e-300, -1e-40, 1e-20, -1e-12, 1e-8, -1e-4])
@pytest.mark.parametrize("eps", [0.1, 1.0, 3.0])
def test_the_attack_is_optimal_in_and_near_the_hard_case(small, eps, float64):
    """v has nearly no part along the smallest variance, which then takes the rest of a large budget."""
    v = np.array([[small, 0.5, -0.2]])
    delta = check_optimal(v, DIAGONAL, eps, tolerance=1e-8)[0]
    others = v[0, 1:] / (4 * np.array([1.0, 4.0]) - 1)
    if np.linalg.norm(others) < eps:
        np.testing.assert_allclose(delta[1:], others, rtol=1e-2 if abs(small) > 1e-5 else 1e-6)
        assert delta[0] * (small or 1) > 0
    both = check_optimal(v[:, [0, 0, 2]], np.diag([0.25, 0.25, 4.0]), eps, tolerance=1e-8)  # a double eigenvalue
    assert np.linalg.norm(both) == pytest.approx(eps)


def test_a_point_at_the_mean_goes_along_the_smallest_variance(float64):
    np.testing.assert_allclose(check_optimal(np.zeros((1, 3)), DIAGONAL, 2.0), [[2, 0, 0]], atol=1e-12)


def test_an_attack_with_eps_zero_changes_nothing():
    z = np.ones((2, 3), np.float32)
    for attack in (l2_attack, average_attack):
        found = attack(z, MEAN, DIAGONAL, eps=0)
        assert not np.asarray(found.delta).any() and np.isinf(found.multiplier).all()


def test_the_attack_in_float32_is_accurate_and_compiles_with_traced_numbers():
    z = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = l2_attack(z, MEAN, TURNED, eps=0.7)
    with jax.enable_x64(True):
        exact = l2_attack(z.astype(np.float64), MEAN, TURNED, eps=0.7)
    assert found.delta.dtype == jnp.float32
    np.testing.assert_allclose(found.delta, exact.delta, atol=3e-5)


def test_the_average_attack_is_the_linear_attack_on_the_moments_of_the_points(float64):
    z = np.random.default_rng(0).normal(size=(200, 3)) @ rotation(3, 2)
    v = z - MEAN
    found = average_attack(z, MEAN, TURNED, eps=0.7)
    expected = gaussian.linear_attack(TURNED, v.T @ v / len(v), eps=0.7)
    np.testing.assert_allclose(found.delta, v @ expected.matrix, rtol=1e-10, atol=1e-12)
    assert float(found.multiplier) == pytest.approx(expected.multiplier, rel=1e-12)
    exact = l2_attack(z, MEAN, TURNED, eps=0.7)
    loss, bound = (np.mean(likelihood(z + np.asarray(worst.delta), MEAN, TURNED)) for worst in (exact, found))
    assert loss < bound  # an average budget allows a larger loss


# robust maximum likelihood ------------------------------------------------------------------------------------------


five_hundred_steps = jax.jit(partial(gaussian.robust_fit, steps=500))


@pytest.mark.parametrize(("eps", "step_size"), [(0.0, 0.5), (0.5, 0.5), (5.0, 0.1)])
def test_gradient_descent_ends_at_the_closed_form(eps, step_size, float64):
    z = signed(300)
    start = np.zeros(3), np.eye(3)
    found = five_hundred_steps(z, *start, eps=eps, step_size=step_size)
    np.testing.assert_allclose(found.mean, z.mean(0), atol=1e-9)
    own = np.cov(z.T, bias=True)
    expected = gaussian.robust_covariance(own, eps=eps).covariance
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-8, atol=1e-8)
    assert float(found.loss[-1]) == pytest.approx(gaussian.risk(z.mean(0), expected, z.mean(0), own, eps=eps), abs=1e-8)
    assert float(found.loss[0]) == pytest.approx(gaussian.risk(*start, z.mean(0), own, eps=eps), abs=1e-8)


@pytest.mark.parametrize("attack", [gaussian.average_attack, gaussian.l2_attack])
def test_a_step_is_the_natural_gradient_of_the_loss_at_the_worst_points(attack, float64):
    z, start = signed(50), (np.zeros(3), turned([0.3, 0.5, 3.0], 1))

    def loss(mean, root, moved):  # the gradient by a covariance must be symmetric
        return gaussian.negative_log_likelihood(moved, mean, (root + root.T) / 2).mean()

    @jax.jit
    def gradients_and_fit(z, mean, covariance):
        moved = z + attack(z, mean, covariance, eps=0.7).delta
        fit = gaussian.robust_fit(z, mean, covariance, eps=0.7, steps=1, step_size=0.1, attack=attack)
        return jax.grad(loss, (0, 1))(mean, covariance, moved), fit

    (by_mean, by_covariance), found = jax.tree.map(np.asarray, gradients_and_fit(z, *start))
    np.testing.assert_allclose(found.mean, start[0] - 0.1 * start[1] @ by_mean, rtol=1e-10)
    np.testing.assert_allclose(found.covariance, start[1] - 0.2 * start[1] @ by_covariance @ start[1], rtol=1e-10)


def test_training_against_the_exact_attack_ends_near_the_relaxed_optimum_in_high_dimension(float64):
    size, count = 50, 400
    z = np.random.default_rng(0).normal(size=(count, size)) * np.linspace(0.5, 2, size)
    own, eps = np.cov(z.T, bias=True), 0.5 * math.sqrt(size)
    fit = jax.jit(partial(gaussian.robust_fit, steps=60, step_size=0.4, attack=gaussian.l2_attack))
    found = fit(z, z.mean(0), own, eps=eps)
    expected = gaussian.robust_covariance(own, eps=eps).covariance
    assert np.linalg.norm(found.covariance - expected) < 0.03 * np.linalg.norm(expected)
    assert np.linalg.norm(found.covariance - own) > 0.3 * np.linalg.norm(own)


# bad input ----------------------------------------------------------------------------------------------------------

Z = np.ones((4, 3), np.float32)
ATTACKS = (gaussian.l2_attack, gaussian.average_attack)
ERRORS = {  # name: (the fault, the value and the fix in the message)
    "not symmetric": (
        lambda: gaussian.robust_covariance(np.array([[1.0, 0.5], [0.0, 1.0]]), eps=1),
        r"covariance must be symmetric; got entries 0\.5 apart; average it with its transpose",
    ),
    "singular": (
        lambda: gaussian.vulnerability(np.ones((2, 2)), penalty=5),
        r"positive definite; got an eigenvalue of .*; add a small multiple of the identity",
    ),
    "negative": (
        lambda: gaussian.negative_log_likelihood(Z, np.zeros(3), np.diag([1.0, -1.0, 2.0])),
        r"positive definite; got an eigenvalue of -1",
    ),
    "no matrix": (lambda: gaussian.worst_alignment(np.ones((2, 3))), r"\[d, d\]; got \(2, 3\); numpy.diag"),
    "NaN": (lambda: gaussian.multiplier_bounds(np.full((2, 2), np.nan), eps=1), r"covariance holds 4 NaN"),
    "matrices that do not fit": (
        lambda: gaussian.linear_attack(np.eye(2), np.eye(3), eps=1),
        r"second_moment must have shape \[2, 2\]; got \(3, 3\)",
    ),
    "a mean that does not fit": (
        lambda: gaussian.risk(np.zeros(2), np.eye(3), np.zeros(3), np.eye(3)),
        r"mean must have shape \(3,\), as the covariance is \[3, 3\]; got \(2,\)",
    ),
    "a mean of no points": (
        lambda: gaussian.l2_attack(Z, np.zeros(2), np.eye(3), eps=1),
        r"points \(4, 3\) need a mean \(3,\) and a covariance \(3, 3\); got \(2,\) and \(3, 3\)",
    ),
    "no points": (
        lambda: gaussian.negative_log_likelihood(Z[:0], np.zeros(3), np.eye(3)),
        r"neither of the two zero; got \(0, 3\)",
    ),
    "points NaN": (lambda: gaussian.l2_attack(Z * np.nan, np.zeros(3), np.eye(3), eps=1), r"holds 12 NaN"),
    "eps negative": (lambda: gaussian.robust_covariance(np.eye(2), eps=-1), r"eps must not be negative; got eps=-1"),
    "eps NaN": (lambda: gaussian.linear_attack(np.eye(2), np.eye(2), eps=math.nan), r"not be negative; got eps=nan"),
    "eps endless": (lambda: gaussian.robust_covariance(np.eye(2), eps=math.inf), r"eps must be finite; got eps=inf"),
    "eps zero": (lambda: gaussian.multiplier_bounds(np.eye(2), eps=0), r"eps must be positive; got eps=0"),
    "eps of an attack": (lambda: ATTACKS[0](Z, np.zeros(3), np.eye(3), eps=-0.5), r"not be negative; got eps=-0\.5"),
    "eps of the other": (lambda: ATTACKS[1](Z, np.zeros(3), np.eye(3), eps=math.inf), r"finite; got eps=inf"),
    "penalty at the limit": (
        lambda: gaussian.vulnerability(DIAGONAL, penalty=4),
        r"above 4 = 1 / \(smallest eigenvalue.*got penalty=4",
    ),
    "penalty below the literal limit": (
        lambda: gaussian.lagrangian_attack(Z, MEAN, DIAGONAL, penalty=1.9, convention="literal"),
        r"above 2 = 0\.5 / \(smallest eigenvalue.*got penalty=1\.9",
    ),
    "penalty endless": (lambda: gaussian.vulnerability(DIAGONAL, penalty=math.inf), r"must be finite.*got penalty=inf"),
    "no such convention": (
        lambda: gaussian.vulnerability(DIAGONAL, penalty=5, convention="paper"),
        r"one of 'quadratic', 'halved', 'literal'; got 'paper'",
    ),
    "no direction": (lambda: gaussian.alignment(np.zeros(2), np.eye(2)), r"mean must not be zero"),
    "no such norm": (
        lambda: gaussian.error_rate(np.ones(2), np.ones(2), np.eye(2), norm=3),
        r"norm must be 1, 2 or math.inf; got 3",
    ),
    "eps of an error": (
        lambda: gaussian.robust_usefulness(np.ones(2), np.ones(2), np.eye(2), eps=-1),
        r"eps must not be negative",
    ),
    "no samples": (lambda: gaussian.sample(KEY, MEAN, DIAGONAL, count=0), r"count must be positive"),
    "labels of others": (lambda: gaussian.signed(Z, np.zeros(3, np.int32)), r"shape \[4\].*got \(3,\)"),
    "labels 1 and -1": (lambda: gaussian.signed(Z, np.array([1, -1, 1, 1])), r"labels must be in \[0, 2\)"),
    "no steps": (
        lambda: gaussian.robust_fit(Z, np.zeros(3), np.eye(3), eps=1, steps=0, step_size=0.1),
        r"steps must be positive",
    ),
    "too large a step": (
        lambda: gaussian.robust_fit(Z, np.zeros(3), np.eye(3), eps=1, steps=1, step_size=1.5),
        r"step_size must be in \(0, 1\].*got 1\.5",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_value_and_the_fix(name):
    wrong, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        wrong()

"""The logit of pixel values, compared with SciPy and with its range."""

import jax.numpy as jnp
import numpy as np
from scipy.special import logit

from invjax.bijectors import logit_box


def test_it_is_the_logit_of_the_shrunk_values():
    x = np.random.default_rng(0).uniform(-1, 3, (4, 3, 2)).astype(np.float32)
    v, logdet = logit_box(0.1, (-1, 3)).forward((), x)
    u = 0.1 + 0.8 * (x + 1) / 4
    np.testing.assert_allclose(v, logit(u), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logdet, np.log(0.2 / (u * (1 - u))).sum((1, 2)), rtol=1e-5)


def test_every_number_is_decoded_to_a_value_within_the_margin_of_the_box():
    v = jnp.array([[-100.0, -3.0, 0.0, 3.0, 100.0]])
    x, logdet = logit_box(0.05).inverse((), v)
    assert np.isfinite(logdet).all()
    limit = 0.05 / 0.9
    np.testing.assert_allclose(x[0, [0, 2, 4]], [-limit, 0.5, 1 + limit], atol=1e-6)
    assert (np.diff(x[0]) > 0).all()

"""Networks that learn from a cue which is absent or wrong at test time."""

import pytest

from experiments.excessive_invariance import classifiers, shift_mnist


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_shift_mnist_has_every_variant_of_both_cues(smoke):
    measured = smoke.measured
    assert len(smoke.rows) == 2 * 2 + 2 * 4 * 3 and [row.published for row in smoke.rows] == [38] * 4 + [None] * 24
    for shift, adversarial in (("binary", "removed (D_Adv)"), ("texture", "random (D_Adv)")):
        ce, ice = (measured[f"{shift}: fi-RevNet, {loss}: test error, {adversarial}"] for loss in classifiers.LOSSES)
        assert measured[f"{shift}: iCE lowers the D_Adv error of the fi-RevNet by"] == pytest.approx(ce - ice)
        generative = measured[f"{shift}: generative: test error, {adversarial}"]
        gain = f"{shift}: a generative classifier's D_Adv error is lower than that of the fi-RevNet with CE by"
        assert measured[gain] == pytest.approx(ce - generative)
        for arm in shift_mnist.ARMS.values():
            assert 0 < measured[f"{shift}: {arm}: test error, coded"] <= 100
    pictures = {f"{kind}-{shift}" for kind in ("examples", "errors") for shift in ("binary", "texture")}
    assert smoke.pictures == pictures

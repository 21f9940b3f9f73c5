"""Robustness curves of a plain and of an adversarially trained network."""

import pytest

from experiments.sensitivity import curves


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_stronger_attacks_leave_less_accuracy_and_adversarial_training_more(smoke):
    plain, adversarial = (
        [smoke.measured[f"{kind}: mean robust accuracy over linf radii up to 0.2, {name}"] for name in
         ("Square", "step l.l.", "FGSM", "PGD")] for kind in ("plain", "adversarial")
    )  # fmt: skip
    assert plain == sorted(plain, reverse=True) and adversarial == sorted(adversarial, reverse=True)
    assert all(a < b for a, b in zip(plain, adversarial, strict=True))
    assert smoke.pictures == {"plain-linf", "adversarial-linf"}


def test_the_default_curves_begin_at_zero_and_end_at_the_largest_radii():
    radii = curves.Config().radii
    assert {norm: (grid[0], grid[-1], len(grid)) for norm, grid in radii.items()} == {
        "linf": (0, 0.4, 11), "l2": (0, 4, 11),
    }  # fmt: skip

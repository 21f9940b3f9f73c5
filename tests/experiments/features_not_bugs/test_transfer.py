"""Transfer of adversarial examples between architectures."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import common
from experiments.features_not_bugs import transfer


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_transfer_is_measured_for_each_architecture(smoke):
    measured = smoke.measured
    for goal, figure in transfer.GOALS.items():
        name = f"rank correlation of transfer and accuracy learnt from D_det, {goal} ({figure})"
        rates = [measured[f"{net}: {goal} transfer"] for net in ("linear", "MLP", "deep MLP")]
        learnt = [measured[f"{net}: accuracy learnt from D_det"] for net in ("linear", "MLP", "deep MLP")]
        assert measured[name] == pytest.approx(np.corrcoef(np.argsort(np.argsort([rates, learnt])))[0, 1])
        assert min(rates) > 10
    assert measured["MLP: untargeted transfer"] > measured["MLP: targeted transfer"]
    assert smoke.pictures == {"transfer"}


@pytest.mark.parametrize(
    ("goal", "before", "after", "share"),
    [
        ("untargeted", [0, 1, 2, 3, 9, 9], [0, 5, 2, 7, 4, 8], 0.5),  # two of the four images that were correct
        ("targeted", [1, 0, 0, 0, 0, 0], [0, 2, 3, 0, 0, 0], 0.4),  # two of five that had not reached the target
    ],
)
def test_transfer_counts_only_images_that_could_change(goal, before, after, share, monkeypatch):
    config = dataclasses.replace(transfer.PRESETS["smoke"], network="linear", images=6, eps=8.0, eval_steps=20)
    net, labels = config.net(), np.arange(6)
    x = np.random.default_rng(0).uniform(0.4, 0.6, (6, 8, 8, 1)).astype(np.float32)
    source = net.init(jax.random.key(0), x)
    script, seen = [np.array(before), np.array(after)], []
    scripted = lambda apply_fn, params, x: (seen.append(x), np.eye(10)[script.pop(0)])[1]  # noqa: E731
    monkeypatch.setattr(common, "logits_of", scripted)
    assert transfer.transferred(config, goal, source, "MLP", None, (x, labels), 0) == pytest.approx(share)
    np.testing.assert_array_equal(seen[0], x)
    reached = np.asarray(net.apply(source, seen[1])).argmax(1)
    assert (reached == (labels + 1) % 10).all() if goal == "targeted" else (reached != labels).all()


def test_rank_correlations_know_order_ties_and_constants():
    assert transfer.rank_correlation([1, 2, 30], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert transfer.rank_correlation([3, 2, 1], [1, 2, 4]) == pytest.approx(-1)
    assert transfer.rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(np.sqrt(3) / 2)
    assert transfer.rank_correlation([1, 1, 1], [1, 2, 3]) == 0

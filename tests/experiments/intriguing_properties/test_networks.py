"""Settings that are refused."""

import dataclasses

import pytest

from experiments import common
from experiments.intriguing_properties import linear_response, logit_gaps, power_laws


@pytest.mark.parametrize(("flags", "experiment"), [("VGG", power_laws), ("perfect", linear_response)])
def test_unknown_models_are_refused_on_the_command_line(flags, experiment, tmp_path, capsys):
    with pytest.raises(SystemExit):
        common.main(experiment.EXPERIMENT, ["smoke", "--models", flags, "--out", str(tmp_path), "--dry-run"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"at_epochs": (0, 9)}, "at_epochs must ascend"), ({"ranks": (1, 2)}, "ranks must lie in")],
)
def test_gaps_of_impossible_epochs_and_ranks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        logit_gaps.trials(dataclasses.replace(logit_gaps.PRESETS["smoke"], **changes))

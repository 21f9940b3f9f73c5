"""Results without training, for the tables of published numbers."""

import pytest

from experiments import common
from experiments.common._trials import places
from invjax.data import write_json


@pytest.fixture
def fake_results(tmp_path):
    """`(experiment, config, numbers) -> Results`, in which all trials have the same numbers."""

    def make(experiment, config, numbers):
        trials = places(experiment.trials(config), tmp_path)
        for trial in trials:
            write_json(trial.folder / "numbers.json", numbers)
        return common.Results(trials)

    return make


@pytest.fixture
def published_rows(fake_results):
    """`(experiment, config, numbers) -> {name: published number}`, the rows with a published number."""

    def find(experiment, config, numbers):
        rows = experiment.table(config, fake_results(experiment, config, numbers))
        return {row.name: row.published for row in rows if row.published is not None}

    return find

"""The main result in two minutes on a laptop: `python -m experiments quickstart`.

It is the metamer experiment on the 1,797 handwritten digits that scikit-learn ships, so it needs no download.
"""

import dataclasses

from experiments import common
from experiments.excessive_invariance import metamers

EXPERIMENT = common.Experiment(
    name="quickstart",
    item="P1 in two minutes: metamers and iCE on scikit-learn's digits, no download",
    presets={
        "smoke": metamers.PRESETS["smoke"],
        "default": dataclasses.replace(
            metamers.PRESETS["default"],
            dataset="digits",
            epochs=16,
            batch_size=64,
            critic_hidden=(256, 256),
            nuisance_weight=1.0,
            head_epochs=12,
        ),
    },
    times={"smoke": "under a minute", "default": "two minutes on 2 CPU cores"},
    run=metamers.run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)

"""Training: a loop that resumes bit for bit, and the losses of robust and certified training.

`fit` repeats a training step. `make_train_step` makes such a step from a loss, and `make_game_step` from the losses of
two players. `adversarial_loss` and `certified_loss` are losses, and `population_trainer` trains many networks in one
compiled program.
"""

from invjax._batching import data_mesh, shard_batch
from invjax.training._adversarial import adversarial_loss
from invjax.training._certified import certified_loss, worst_cross_entropy
from invjax.training._checkpoints import restore as restore_checkpoint
from invjax.training._checkpoints import save as save_checkpoint
from invjax.training._fit import TrainState, TrainStep, fit, init_state, make_train_step
from invjax.training._game import Game, init_game, make_game_step
from invjax.training._interrupts import Interrupted
from invjax.training._over_population import Member, member_of, over_population, population_mesh, population_size
from invjax.training._population import population_trainer

__all__ = [
    "Game",
    "Interrupted",
    "Member",
    "TrainState",
    "TrainStep",
    "adversarial_loss",
    "certified_loss",
    "data_mesh",
    "fit",
    "init_game",
    "init_state",
    "make_game_step",
    "make_train_step",
    "member_of",
    "over_population",
    "population_mesh",
    "population_size",
    "population_trainer",
    "restore_checkpoint",
    "save_checkpoint",
    "shard_batch",
    "worst_cross_entropy",
]

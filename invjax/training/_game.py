"""Training of two players: a model that produces a code, and a critic that reads it, updated in turns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from invjax import _check
from invjax._dtypes import canonical
from invjax._explain import described
from invjax.training._fit import Batch, Metrics, TrainState, TrainStep, check_optimizer, named, with_metrics
from invjax.types import Key, Params


class Game(NamedTuple):
    """The losses of two players that share one code.

    Attributes:
        encode: `(model params, key, batch) -> code`; the code is any pytree.
        model_loss: `(code, critic params, key, batch, step) -> (loss, metrics)`, which the model minimises.
        critic_loss: `(critic params, code, batch) -> loss`, which the critic minimises.
    """

    encode: Callable[[Params, Key, Batch], Any]
    model_loss: Callable[[Any, Params, Key, Batch, jax.Array], tuple[jax.Array, Metrics]]
    critic_loss: Callable[[Params, Any, Batch], jax.Array]


def make_game_step(
    game: Game,
    model_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    critic_steps: int,
) -> TrainStep:
    """Make a training step: `critic_steps` updates of the critic on the fixed code, then one update of the model.

    The model is updated against the new critic. The code is computed once and differentiated once in each step,
    whatever `critic_steps` is.

    Args:
        game: the losses of the two players. The params of the state are `{"model": ..., "critic": ...}`.
        model_optimizer: optimizer of the model; its schedule counts training steps.
        critic_optimizer: optimizer of the critic; its schedule counts `critic_steps` for each training step.
        critic_steps: updates of the critic in one training step, on the same batch; at least 1.

    Returns:
        `(state, batch) -> (state, metrics)`; the metrics also hold "loss" and "critic_loss".

    Raises:
        ValueError: `critic_steps` is not positive, or `game` is no `Game`. When the step is traced: the loss of the
            model is not one number with a dictionary of metrics, each one number.
    """
    _check.count(critic_steps=critic_steps)
    if not isinstance(game, Game):
        raise ValueError(f"game must be a training.Game; got {described(game)}; use Game(encode, model_loss, ...)")
    check_optimizer(model_optimizer, "model_optimizer")
    check_optimizer(critic_optimizer, "critic_optimizer")
    model_loss = with_metrics(game.model_loss, "model_loss")

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        model, critic = state.params["model"], state.params["critic"]
        code, pull_back = jax.vjp(lambda params: game.encode(params, key, batch), model)

        def critic_step(carry, _):
            params, opt_state = carry
            loss, gradients = jax.value_and_grad(game.critic_loss)(params, code, batch)
            updates, opt_state = critic_optimizer.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        start = critic, state.opt_state["critic"]
        (critic, critic_state), critic_losses = jax.lax.scan(critic_step, start, None, length=critic_steps)

        (loss, metrics), d_code = jax.value_and_grad(model_loss, has_aux=True)(code, critic, key, batch, state.step)
        updates, model_state = model_optimizer.update(pull_back(d_code)[0], state.opt_state["model"], model)
        params = {"model": optax.apply_updates(model, updates), "critic": critic}
        state = TrainState(state.step + 1, params, {"model": model_state, "critic": critic_state}, state.key)
        return state, named(metrics, loss=loss, critic_loss=critic_losses[-1])

    return train_step


def init_game(
    key: Key,
    model: Params,
    critic: Params,
    model_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state of a game before its first step, for `make_game_step`.

    Args:
        key: random key of the run.
        model: initial parameters of the model.
        critic: initial parameters of the critic.
        model_optimizer: optimizer of the model.
        critic_optimizer: optimizer of the critic.

    Raises:
        ValueError: `key` is no random key, or an optimizer is none of optax.
    """
    _check.key(key)
    check_optimizer(model_optimizer, "model_optimizer")
    check_optimizer(critic_optimizer, "critic_optimizer")
    params = canonical({"model": model, "critic": critic})
    opt_state = {
        "model": model_optimizer.init(params["model"]),
        "critic": critic_optimizer.init(params["critic"]),
    }
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key)

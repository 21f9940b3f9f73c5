"""States that only some users train: on another device than the first, or with random keys among the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from invjax.training import TrainState, fit, init_state, make_train_step, restore_checkpoint, save_checkpoint


def loss_fn(params, key, batch, step):
    return ((batch @ params["w"] - 1) ** 2).mean(), {}


def batches(step):
    return np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)


def test_a_training_on_another_device_resumes_there(tmp_path):
    """JAX moves the step and the key to the parameters' device, until a checkpoint binds them to the first one."""
    device, optimizer = jax.devices()[1], optax.adam(0.1)
    step = make_train_step(loss_fn, optimizer)

    def run(num_steps, **options):
        params = {"w": jax.device_put(jnp.zeros(3), device)}
        return fit(init_state(jax.random.key(0), params, optimizer), step, batches, num_steps, **options)[0]

    whole = run(4)
    run(2, directory=tmp_path)
    again = run(4, directory=tmp_path)
    assert again.params["w"].devices() == {device}
    np.testing.assert_array_equal(again.params["w"], whole.params["w"])


def test_restored_arrays_are_bound_to_devices_as_those_of_the_given_state(tmp_path):
    bound = jax.device_put(jnp.ones(2, jnp.bfloat16), jax.devices()[1])
    state = {"bound": bound, "free": jnp.ones(2, jnp.bfloat16), "key": jax.random.key(1, impl="rbg")}
    save_checkpoint(tmp_path, 1, state)
    found = restore_checkpoint(tmp_path, state)
    assert found["bound"].committed and found["bound"].devices() == {jax.devices()[1]}
    assert not found["free"].committed and not found["key"].committed
    assert found["free"].dtype == jnp.bfloat16 and found["key"].dtype == state["key"].dtype


def test_parameters_with_keys_and_integers_are_saved(tmp_path):
    """Modules of nnx hold keys and counters beside their weights."""

    def step(state, batch):
        params = {"w": state.params["w"] + 1, "key": jax.random.fold_in(state.params["key"], 0), "count": state.step}
        return TrainState(state.step + 1, params, (), state.key), {"loss": jnp.zeros(())}

    params = {"w": jnp.zeros(2), "key": jax.random.key(1), "count": jnp.zeros((), jnp.int32)}
    state = TrainState(jnp.zeros((), jnp.int32), params, (), jax.random.key(0))
    whole, _ = fit(state, step, batches, 3)
    fit(state, step, batches, 2, directory=tmp_path)
    again, _ = fit(state, step, batches, 3, directory=tmp_path)
    assert (jax.random.key_data(again.params["key"]) == jax.random.key_data(whole.params["key"])).all()
    assert int(again.params["count"]) == 2

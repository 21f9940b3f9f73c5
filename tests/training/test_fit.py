"""Training: a killed run ends in the same bits, devices do not matter, and bad input is refused."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax import training
from invjax.data import batches
from invjax.losses import cross_entropy
from invjax.models import mlp

REPOSITORY = Path(__file__).parents[2]


def problem(seed=0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    net = mlp(2, (8,))

    def loss_fn(params, key, batch, step):
        noisy = batch[0] + 0.1 * jax.random.normal(key, batch[0].shape)
        return cross_entropy(net.apply(params, noisy), batch[1]).mean(), {}

    optimizer = optax.adam(1e-2)
    key = jax.random.key(seed)
    state = training.init_state(key, jax.jit(net.init)(key, jnp.asarray(x)), optimizer)
    return state, training.make_train_step(loss_fn, optimizer), batches([x, y], 16, seed=1)


def test_fit_lowers_the_loss_and_logs_every_interval():
    state, step, draw = problem()
    state, history = training.fit(state, step, draw, 60, log_every=25)
    assert [row["step"] for row in history] == [25, 50, 60]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert int(state.step) == 60


def test_a_step_draws_its_noise_from_its_number():
    state, step, draw = problem()
    step = jax.jit(step)
    once = step(state, draw(0))[0].params
    other = step(state._replace(step=jnp.int32(1)), draw(0))[0].params
    chex.assert_trees_all_equal(once, step(state, draw(0))[0].params)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(once, other)


def test_resuming_from_a_folder_gives_the_same_bits_and_the_same_metrics(tmp_path):
    state, step, draw = problem()
    whole, history = training.fit(state, step, draw, 40, directory=tmp_path / "a", save_every=10, log_every=5)
    training.fit(state, step, draw, 20, directory=tmp_path / "b", save_every=10, log_every=5)
    resumed, again = training.fit(state, step, draw, 40, directory=tmp_path / "b", save_every=10, log_every=5)
    chex.assert_trees_all_equal(jax.random.key_data(whole.key), jax.random.key_data(resumed.key))
    chex.assert_trees_all_equal(whole._replace(key=0), resumed._replace(key=0))
    assert history == again
    texts = [(tmp_path / run / "metrics.jsonl").read_text() for run in "ab"]
    assert texts[0] == texts[1]
    assert [json.loads(line)["step"] for line in texts[0].splitlines()] == list(range(5, 41, 5))


CHILD = """
    import sys, time
    import jax, numpy as np, optax
    from invjax import training
    from invjax.data import batches, load, as_float
    from invjax.losses import cross_entropy, dequantize
    from invjax.models import fi_revnet

    folder, pause = sys.argv[1], float(sys.argv[2])
    data = load("digits", "train")
    model = fi_revnet((8, 8, 1), 10, blocks=(2,), hidden=((8,),))
    def loss_fn(params, key, batch, step):
        x = dequantize(key, as_float(batch[0], data.levels), data.levels)
        return cross_entropy(model.apply(params, x), batch[1]).mean(), {}
    optimizer = optax.adam(1e-3)
    key = jax.random.key(0)
    params = model.init(key, as_float(jax.numpy.asarray(data.images[:64]), data.levels))
    draw = batches([data.images, data.labels], 32, seed=0)
    def slow(step):
        time.sleep(pause)
        return draw(step)
    state, _ = training.fit(training.init_state(key, params, optimizer), training.make_train_step(loss_fn, optimizer),
                            slow, 40, directory=folder, save_every=5, log_every=5)
    np.savez(folder + "/final.npz", *[np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state))])
"""


def spawn(folder, pause):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), str(folder), str(pause)], env=environment)


@pytest.mark.slow
def test_a_process_killed_while_training_resumes_to_the_same_bits(tmp_path):
    whole = spawn(tmp_path / "whole", 0.0)
    killed = spawn(tmp_path / "killed", 0.1)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed" / "checkpoints").glob("[0-9]*")):
        assert killed.poll() is None and time.monotonic() < deadline, "the run ended before its first checkpoint"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "final.npz").exists()
    assert spawn(tmp_path / "killed", 0.0).wait() == 0
    assert whole.wait() == 0
    with np.load(tmp_path / "whole" / "final.npz") as a, np.load(tmp_path / "killed" / "final.npz") as b:
        assert a.files == b.files and len(a.files) > 10
        for name in a.files:
            assert a[name].tobytes() == b[name].tobytes()


@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_does_not_change_the_losses(devices):
    state, step, draw = problem()
    _, alone = training.fit(state, step, draw, 12, log_every=1)
    _, spread = training.fit(state, step, draw, 12, log_every=1, mesh=training.data_mesh(jax.devices()[:devices]))
    np.testing.assert_allclose([row["loss"] for row in alone], [row["loss"] for row in spread], rtol=1e-5)


def test_an_invertible_convolutional_model_trains_alike_on_one_and_two_devices():
    from invjax.models import fi_revnet

    model = fi_revnet((8, 8, 1), 3, blocks=(3,), hidden=((4,),))
    x = np.random.default_rng(0).random((32, 8, 8, 1), np.float32)
    y = np.arange(32, dtype=np.int32) % 3

    def loss_fn(params, key, batch, step):
        return cross_entropy(model.apply(params, batch[0]), batch[1]).mean(), {}

    optimizer = optax.sgd(0.01)  # unlike Adam, it takes other steps where gradients are scaled
    key, rng = jax.random.key(0), np.random.default_rng(1)
    noisy = lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731  no coupling is zero
    params = jax.tree.map(noisy, jax.jit(model.init)(key, jnp.asarray(x)))
    state = training.init_state(key, params, optimizer)
    step, draw = training.make_train_step(loss_fn, optimizer), batches([x, y], 16, seed=0)
    losses = [
        [row["loss"] for row in training.fit(state, step, draw, 6, log_every=1, mesh=mesh)[1]]
        for mesh in (None, training.data_mesh(jax.devices()[:2]))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_parameters_are_replicated_and_batches_are_spread():
    mesh = training.data_mesh(jax.devices()[:4])
    (batch,) = training.shard_batch(mesh, (np.arange(8.0, dtype=np.float32),))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2,)}
    state, step, draw = problem()
    state, _ = training.fit(state, step, draw, 2, mesh=mesh)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))


def test_the_game_updates_the_critic_first_and_holds_it_fixed_for_the_model():
    """Scalars by hand: code = m * x, critic loss (c - code)^2, model loss code * c, plain gradient descent."""
    rate, x, steps = 0.1, 2.0, 3
    game = training.Game(
        encode=lambda params, key, batch: params * batch,
        model_loss=lambda code, critic, key, batch, step: (code * critic, {}),
        critic_loss=lambda critic, code, batch: (critic - code) ** 2,
    )
    optimizer = optax.sgd(rate)
    state = training.init_game(jax.random.key(0), jnp.float32(1.5), jnp.float32(0.5), optimizer, optimizer)
    state, metrics = training.make_game_step(game, optimizer, optimizer, steps)(state, jnp.float32(x))
    critic = 0.5
    for _ in range(steps):
        last_loss = (critic - 1.5 * x) ** 2
        critic -= rate * 2 * (critic - 1.5 * x)
    np.testing.assert_allclose(state.params["critic"], critic, rtol=1e-6)
    np.testing.assert_allclose(state.params["model"], 1.5 - rate * x * critic, rtol=1e-6)
    np.testing.assert_allclose(metrics["critic_loss"], last_loss, rtol=1e-6)


def test_a_game_checkpoint_resumes(tmp_path):
    game = training.Game(
        encode=lambda params, key, batch: params * batch[0],
        model_loss=lambda code, critic, key, batch, step: ((code * critic).mean(), {}),
        critic_loss=lambda critic, code, batch: ((critic - code) ** 2).mean(),
    )
    optimizer = optax.adam(1e-2)
    start = training.init_game(jax.random.key(0), jnp.float32(1.5), jnp.float32(0.5), optimizer, optimizer)
    step, draw = (
        training.make_game_step(game, optimizer, optimizer, 2),
        batches([np.linspace(1, 2, 8, dtype=np.float32)], 4, seed=0),
    )
    whole, _ = training.fit(start, step, draw, 8)
    training.fit(start, step, draw, 4, directory=tmp_path)
    resumed, _ = training.fit(start, step, draw, 8, directory=tmp_path)
    chex.assert_trees_all_equal(whole.params, resumed.params)


def test_each_player_of_a_game_counts_its_own_steps():
    """With one schedule for both, the critic's would run out after 1 / critic_steps of the training."""
    game = training.Game(
        encode=lambda params, key, batch: params * batch,
        model_loss=lambda code, critic, key, batch, step: (code * critic, {}),
        critic_loss=lambda critic, code, batch: (critic - code) ** 2,
    )
    steps, inner = 10, 5
    optimizers = [optax.sgd(optax.linear_schedule(0.1, 0.0, n)) for n in (steps, steps * inner)]
    state = training.init_game(jax.random.key(0), jnp.float32(1.5), jnp.float32(0.5), *optimizers)
    step = training.make_game_step(game, *optimizers, inner)
    for _ in range(steps):
        before, (state, _) = state, step(state, jnp.float32(2.0))
        assert state.params["critic"] != before.params["critic"], "the critic stopped before the end"


def test_asking_for_fewer_steps_than_are_done_is_refused(tmp_path):
    state, step, draw = problem()
    training.fit(state, step, draw, 4, directory=tmp_path)
    with pytest.raises(ValueError, match=r"num_steps=3, but .* is at step 4"):
        training.fit(state, step, draw, 3, directory=tmp_path)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    state, step, draw = problem()

    def exploding(state, batch):
        after, metrics = step(state, batch)
        return after._replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, after.params)), metrics

    with pytest.raises(FloatingPointError, match="parameters are not finite at step 1"):
        training.fit(state, exploding, draw, 1, directory=tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_labels_out_of_range_and_nan_images_stop_the_run_with_a_hint():
    state, step, draw = problem()
    for spoil in (lambda x, y: (x, y - 1), lambda x, y: (x, y + 5), lambda x, y: (x * np.float32(np.nan), y)):
        with pytest.raises(FloatingPointError, match="images are finite and labels in range"):
            training.fit(state, step, lambda s, spoil=spoil: spoil(*draw(s)), 2, log_every=1)


def test_a_mesh_of_another_kind_is_refused():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    with pytest.raises(ValueError, match=r"named data; got .*; use data_mesh\(\)"):
        training.shard_batch(mesh, (np.zeros(4, np.float32),))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_steps": 0}, "num_steps=0"), ({"save_every": 0}, "save_every=0"), ({"log_every": -1}, "log_every=-1")],
)
def test_numbers_that_are_not_positive_are_refused(change, message):
    state, step, draw = problem()
    with pytest.raises(ValueError, match=message):
        training.fit(state, step, draw, **{"num_steps": 3, **change})


def test_a_game_needs_critic_steps():
    with pytest.raises(ValueError, match="critic_steps=0"):
        training.make_game_step(training.Game(*[lambda: None] * 3), optax.sgd(1), optax.sgd(1), 0)


def test_a_batch_that_does_not_divide_by_the_devices_is_refused():
    with pytest.raises(ValueError, match=r"8 devices.*\(12,\).*change the batch size"):
        training.shard_batch(training.data_mesh(), (np.zeros((12, 3), np.float32),))


def test_a_loss_that_is_not_finite_stops_the_run():
    state, step, draw = problem()
    broken = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
    with pytest.raises(FloatingPointError, match="loss is nan at step 1; lower the learning rate"):
        training.fit(broken, step, draw, 3, log_every=1)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    state, step, draw = problem()
    training.fit(state, step, draw, 2, directory=tmp_path)
    wider = mlp(2, (9,))
    other = training.init_state(state.key, wider.init(state.key, jnp.zeros((1, 6))), optax.adam(1e-2))
    with pytest.raises(ValueError, match=r"of another model: .*Dense_0.*float32\[8\] there and float32\[9\] here"):
        training.fit(other, step, draw, 4, directory=tmp_path)


def test_the_step_reaches_the_loss_also_after_a_resume(tmp_path):
    """The loss is the step itself, so the history shows which steps the losses of one player and of two players saw."""
    optimizer = optax.sgd(0.0)
    key, zero, batch = jax.random.key(0), jnp.zeros(()), (np.zeros(8, np.float32),)
    game = training.Game(
        encode=lambda params, key, batch: params * batch[0],
        model_loss=lambda code, critic, key, batch, step: (code.mean() + step, {}),
        critic_loss=lambda critic, code, batch: critic + code.mean(),
    )
    one = training.make_train_step(lambda params, key, batch, step: (params + step, {}), optimizer)
    two = training.make_game_step(game, optimizer, optimizer, 1)
    for name, step, start in [
        ("one", one, training.init_state(key, zero, optimizer)),
        ("two", two, training.init_game(key, zero, zero, optimizer, optimizer)),
    ]:
        run = partial(training.fit, start, step, lambda _: batch, log_every=1, directory=tmp_path / name)
        run(num_steps=2)
        assert [row["loss"] for row in run(num_steps=4)[1]] == [0, 1, 2, 3]


def test_the_step_reaches_the_loss_of_a_population_in_every_chunk():
    train = training.population_trainer(
        lambda key, member: jnp.zeros(()),
        lambda member, params, key, batch, step: (params + member * step, {}),
        lambda member: optax.sgd(0.0),
    )
    keys = jax.random.split(jax.random.key(0), 2)
    _, losses = train(keys, jnp.array([1.0, 10.0]), lambda step: np.zeros(1, np.float32), 4, chunk_steps=2)
    np.testing.assert_allclose(losses, [[0.5, 5], [2.5, 25]])


def test_a_training_with_numbers_and_float64_parameters_resumes(tmp_path):
    params = {"scale": 2.0, "weights": np.arange(3.0), "bias": np.float64(1)}
    optimizer = optax.adam(0.1)

    def loss_fn(params, key, batch, step):
        return ((params["scale"] * params["weights"] + params["bias"] - batch[0].mean()) ** 2).sum(), {}

    batch = (np.full((2, 1), 0.5, np.float32),)
    run = partial(training.fit, train_step=training.make_train_step(loss_fn, optimizer), batches=lambda _: batch)

    def begin():
        return training.init_state(jax.random.key(0), params, optimizer)

    whole = run(begin(), num_steps=4)[0]
    run(begin(), num_steps=2, directory=tmp_path)
    resumed = run(begin(), num_steps=4, directory=tmp_path)[0]
    chex.assert_trees_all_equal(resumed.params, whole.params)


@pytest.fixture
def heard():
    """SIGINT raises KeyboardInterrupt, also in tests that were started in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def counting(folder, num_steps, batches=lambda step: (np.zeros(1, np.float32),), **options):
    """A training whose parameter is the number of steps done."""
    optimizer = optax.sgd(1.0)
    step = training.make_train_step(lambda params, key, batch, step: (-params, {}), optimizer)
    start = training.init_state(jax.random.key(0), jnp.zeros(()), optimizer)
    return training.fit(start, step, batches, num_steps, directory=folder, log_every=1, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_it_and_says_how_to_go_on(tmp_path, number, heard):
    def at_step_3(step):
        if step == 2:
            os.kill(os.getpid(), number)
        return (np.zeros(1, np.float32),)

    handler = signal.getsignal(number)
    with pytest.raises(training.Interrupted, match=f"stopped by {number.name} after step 3; the same call") as stopped:
        counting(tmp_path, 6, at_step_3)
    assert float(stopped.value.state.params) == 3 and [row["step"] for row in stopped.value.history] == [1, 2, 3]
    assert signal.getsignal(number) is handler
    state, history = counting(tmp_path, 6)
    assert float(state.params) == 6 and [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]


def test_a_training_without_a_folder_gives_its_state_to_who_interrupts_it(heard):
    def at_step_2(step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return (np.zeros(1, np.float32),)

    with pytest.raises(KeyboardInterrupt, match="the exception holds the state") as stopped:
        counting(None, 5, at_step_2)
    assert float(stopped.value.state.params) == 2


def test_a_second_signal_stops_at_once(heard):
    def twice(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        pytest.fail("the second signal did not stop the training")

    with pytest.raises(KeyboardInterrupt):
        counting(None, 5, twice)


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    def second(step):
        with pytest.raises(ValueError, match=r"another run writes to .*; wait for it, or use another folder"):
            counting(tmp_path, 5)
        return (np.zeros(1, np.float32),)

    assert float(counting(tmp_path, 1, second)[0].params) == 1
    assert float(counting(tmp_path, 2)[0].params) == 2  # the lock ended with the first training


def test_a_finished_training_writes_nothing(tmp_path):
    _, history = counting(tmp_path, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    state, again = counting(tmp_path, 2)
    assert float(state.params) == 2 and again == history
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "no folder"])
def test_a_signal_in_the_last_step_is_not_lost(tmp_path, folder, heard):
    def at_the_end(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return (np.zeros(1, np.float32),)

    with pytest.raises(training.Interrupted, match="after step 3"):
        counting(tmp_path if folder else None, 3, at_the_end)
    if folder:
        assert float(counting(tmp_path, 3)[0].params) == 3


def test_ignored_signals_stay_ignored():
    def ignored(step):
        os.kill(os.getpid(), signal.SIGINT)
        return (np.zeros(1, np.float32),)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert float(counting(None, 2, ignored)[0].params) == 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_training_is_read_where_nothing_can_be_written(tmp_path, read_only):
    state, history = counting(tmp_path, 2)
    with read_only():
        again, read = counting(tmp_path, 2)
    assert float(again.params) == float(state.params) and read == history


@pytest.mark.parametrize("devices", [None, 2])
def test_steps_write_over_their_state_and_leave_the_callers_own(devices):
    mesh = None if devices is None else training.data_mesh(jax.devices()[:devices])
    step, shape = training.make_train_step(lambda params, key, batch, step: (params.sum(), {}), optax.sgd(1.0)), (13,)
    start, seen = training.init_state(jax.random.key(0), jnp.zeros(shape), optax.sgd(1.0)), []

    def batches(number):
        seen.extend(leaf for leaf in jax.live_arrays() if leaf.shape == shape and leaf is not start.params)
        return (np.zeros(2, np.float32),)

    found = [training.fit(start, step, batches, 3, mesh=mesh)[0] for _ in range(2)]
    assert not start.params.is_deleted() and float(start.params.sum()) == 0 and int(start.step) == 0
    assert {float(state.params[0]) for state in found} == {-3.0}
    before = {id(leaf): leaf for leaf in seen if all(leaf is not state.params for state in found)}
    assert len(before) >= 6 and all(leaf.is_deleted() for leaf in before.values())
    again = training.fit(found[0], step, batches, 5, mesh=mesh)[0]  # a state on the mesh is also the caller's own
    assert float(found[0].params[0]) == -3 and float(again.params[0]) == -5


def test_a_state_that_holds_one_array_twice_is_trained():
    optimizer, params = optax.sgd(1.0), jnp.ones(3)
    plain = training.make_train_step(lambda params, key, batch, step: (params.sum(), {}), optimizer)

    def step(state, batch):  # the optimizer's state is the newest parameters
        after, metrics = plain(state._replace(opt_state=optimizer.init(params)), batch)
        return after._replace(opt_state=after.params), metrics

    start = training.init_state(jax.random.key(0), params, optimizer)._replace(opt_state=params)
    state, _ = training.fit(start, step, lambda _: (np.zeros(1, np.float32),), 3)
    np.testing.assert_array_equal([state.params, state.opt_state], -2)


@pytest.mark.parametrize("metrics", [{"loss": 1.0, "step": 99}, {"error": 0.0}], ids=["step", "no loss"])
def test_metrics_that_the_log_cannot_hold_are_refused(metrics):
    def step(state, batch):
        return state._replace(step=state.step + 1), {name: jnp.asarray(value) for name, value in metrics.items()}

    state = training.init_state(jax.random.key(0), jnp.ones(2), optax.sgd(0.1))
    with pytest.raises(ValueError, match="must hold 'loss' and not 'step'"):
        training.fit(state, step, lambda step: np.zeros(1), 2)

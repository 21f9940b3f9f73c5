"""Processes that are killed at random moments, and started again, end in the bytes of an undisturbed one."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = '''
    """Run a job in children that are forked after the imports and before JAX starts, and kill them."""
    import dataclasses, json, os, random, shutil, signal, sys, time, traceback, warnings
    from pathlib import Path

    import jax, jax.numpy as jnp, numpy as np, optax, orbax.checkpoint
    from experiments import common
    from invjax import data, features, training
    from invjax.losses import cross_entropy
    from invjax.models import mlp

    warnings.simplefilter("ignore")  # of forks, before which JAX has started no thread
    RNG = np.random.default_rng(0)
    X, Y = RNG.random((48, 4), np.float32), RNG.integers(0, 2, 48).astype(np.int32)
    NET = mlp(2, (4,))

    def loss_fn(params, key, batch, step):
        return cross_entropy(NET.apply(params, batch[0] + jax.random.normal(key, (4,))[None]), batch[1]).mean(), {}

    def train(folder):
        optimizer, key = optax.adam(1e-2), jax.random.key(0)
        state = training.init_state(key, NET.init(key, X[:1]), optimizer)
        step, draw = training.make_train_step(loss_fn, optimizer), data.batches([X, Y], 16, seed=0)
        state, _ = training.fit(state, step, draw, 80, directory=folder, save_every=4, log_every=3)
        leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
        data.write_arrays(folder / "state.npz", {str(i): leaf for i, leaf in enumerate(leaves)})

    def construct(folder):
        def make(params, key, ids, x):
            noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (4,)))(ids)
            return {"images": x + noise, "labels": ids}

        features.construct(jax.random.key(0), make, None, [X], recipe={}, path=folder / "made.npz", batch_size=2,
                           part_size=2)

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Settings."""

        train: common.Train = common.Train(epochs=3, batch_size=16)
        """Training."""
        seeds: tuple[int, ...] = common.axis((0, 1, 2))
        """Seeds."""

    def trial(config, images, *, seed, folder):
        key = jax.random.key(seed)
        params = common.train(NET.init(key, X[:1]), loss_fn, [X, Y], config.train, key=key, seed=seed, folder=folder)
        return {"sum": float(NET.apply(params, X).sum())}, {"logits": np.asarray(NET.apply(params, X))}

    def experiment(folder):
        made = common.Experiment("intriguing_properties/logit_gaps", "", {"smoke": Config()}, {"smoke": ""},
                                 trials=lambda config: common.grid(seed=config.seeds), trial=trial, data=lambda _: None,
                                 table=lambda config, results: [common.row("sum", results["sum"])])
        common.main(made, ["smoke", "--out", str(folder)])

    KEPT = {
        "train": (train, ["state.npz", "metrics.jsonl"]),
        "construct": (construct, ["made.npz"]),
        "experiment": (experiment, ["table.json", *(f"trials/seed={i}/{name}" for i in range(3)
                                    for name in ("numbers.json", "arrays.npz", "metrics.jsonl"))]),
    }

    def attempt(job, folder, seconds):
        """Whether the job ends within these seconds; otherwise it is killed."""
        sys.stdout.flush()
        child, start = os.fork(), time.monotonic()
        if child == 0:
            with open(os.devnull, "w") as sys.stdout:
                try:
                    job(folder)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
        while time.monotonic() < start + seconds:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0, f"the job failed with status {status}"
                return True
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1] == 0

    name, kills, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    (job, files), rng = KEPT[name], random.Random(0)
    whole, folder, ends, resumed = place / "whole", place / "killed", 0, 0
    assert attempt(job, whole, 120)
    shutil.rmtree(whole)
    start = time.monotonic()
    assert attempt(job, whole, 120)
    usual = time.monotonic() - start
    while kills or folder.exists():
        resumed += folder.exists()
        if not attempt(job, folder, rng.uniform(0.2, 1) * usual if kills else 120):
            kills -= 1
            continue
        for file in files:
            assert (folder / file).read_bytes() == (whole / file).read_bytes(), file
        steps = [json.loads(line)["step"] for path in folder.rglob("metrics.jsonl") for line in open(path)]
        left = sorted(path.name for path in folder.rglob("*") if path.suffix == ".part" or ".parts" in path.name)
        assert not left, left
        shutil.rmtree(folder)
        ends += 1
    print(json.dumps({"ends": ends, "resumed": resumed, "steps": steps}))
'''


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize(("job", "kills"), [("train", 20), ("construct", 20), ("experiment", 20)])
def test_a_run_that_is_killed_again_and_again_ends_in_the_bytes_of_an_undisturbed_one(job, kills, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), job, str(kills), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ends"] >= 1 and found["resumed"] >= 5
    if job == "train":
        assert found["steps"] == [*range(3, 80, 3), 80]

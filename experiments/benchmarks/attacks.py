"""Attacks against their PyTorch peers on the same weights: torchattacks, foolbox, ART and loops written by hand.

`python -m experiments.benchmarks.attacks [--quick] [--out FILE] [--data-dir FOLDER]`; needs the `bench` extra

Both sides use two cores: PyTorch has two threads, and JAX has two CPU devices that share the batch. Each peer is called
as in its documentation, in eval mode and without normalisation. "Frozen" parameters have `requires_grad` off; otherwise
foolbox and ART compute gradients of the weights that no step uses. "Channels last" is the memory format. On a busy
machine PyTorch can be slower with two threads than with one. The table then has no goals, and the benchmark must be
repeated.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks import timing
from invjax import attacks
from invjax.data import as_float, batches, load
from invjax.evaluation import Options, robustness_curve
from invjax.losses import cross_entropy
from invjax.models import mnist_cnn, resnet
from invjax.training import data_mesh, fit, init_state, make_train_step, shard_batch
from invjax.types import Net, Params

try:
    import art.attacks.evasion
    import art.estimators.classification
    import foolbox
    import torch
    import torchattacks
except ModuleNotFoundError as error:
    raise SystemExit('this benchmark needs its extra: pip install "invjax[bench]"') from error
from experiments.benchmarks import torch_nets

CORES = 2
PACKAGES = ("torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox")
CURVE = np.linspace(0, 0.2, 20).tolist()
"""Radii over which the robust accuracy of a briefly trained network falls."""
L1_EPS = 12.0
CALLS = 20


class Case(NamedTuple):
    """A network on both sides.

    Attributes:
        net: network in JAX.
        module: function `weights -> torch module`.
        shape: shape of an image.
        same_at: shape of an image for which both networks are the same function.
        eps: linf radius.
        goals: largest ratio of times that meets the goal, by peer.
        stretch: largest ratio of times that meets a harder goal, by peer.
    """

    net: Net
    module: Callable[[Any], torch.nn.Module]
    shape: tuple[int, int, int]
    same_at: tuple[int, int, int]
    eps: float
    goals: dict[str, float]
    stretch: dict[str, float]


CASES = {
    "MNIST CNN": Case(
        mnist_cnn(),
        torch_nets.MnistCnn,
        (28, 28, 1),
        (28, 28, 1),
        0.3,
        {"torchattacks": 0.85, "ART": 0.65, "foolbox": 0.65},
        {"torchattacks": 0.6},
    ),
    "ResNet-8": Case(
        resnet(channels=(16, 32, 64), blocks=(1, 1, 1)),
        torch_nets.ResNet,
        (32, 32, 3),
        (33, 33, 3),
        8 / 255,
        {"torchattacks": 1.1, "ART": 0.75, "foolbox": 0.75},
        {"torchattacks": 0.8},
    ),
}


class UserBlock(nn.Module):
    """A basic block with the usual flax convolutions."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x):
        """`[B, H, W, C] -> [B, H / stride, W / stride, channels]`."""
        y = nn.Conv(self.channels, (3, 3), self.stride, use_bias=False)(x)
        y = nn.relu(nn.GroupNorm(8)(y))
        y = nn.GroupNorm(8)(nn.Conv(self.channels, (3, 3), use_bias=False)(y))
        if self.stride > 1:
            x = nn.GroupNorm(8)(nn.Conv(self.channels, (1, 1), self.stride, use_bias=False)(x))
        return nn.relu(x + y)


class UserResNet(nn.Module):
    """The layers of the library's ResNet-8 with the usual flax convolutions."""

    @nn.compact
    def __call__(self, x):
        """`[B, H, W, C] -> [B, 10]`."""
        x = nn.relu(nn.GroupNorm(8)(nn.Conv(16, (3, 3), use_bias=False)(x)))
        for channels, stride in ((16, 1), (32, 2), (64, 2)):
            x = UserBlock(channels, stride)(x)
        return nn.Dense(10)(x.mean((1, 2)))


def random_params(net: Net, shape: tuple[int, ...]) -> Params:
    """Random parameters of the usual scale. The compilation of the network's own initialisation would dominate."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        if leaf.ndim > 1:
            noise *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(noise if leaf.ndim > 1 else (path[-1].key == "scale") + 0.1 * noise, leaf.dtype)

    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_batch(shape: tuple[int, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of uniform noise, and random labels."""
    rng = np.random.default_rng(1)
    return rng.random((size, *shape), np.float32), rng.integers(0, 10, size).astype(np.int32)


def check_same(name: str, case: Case, params: Params, module: torch.nn.Module) -> None:
    """Both sides give the same logits.

    Raises:
        AssertionError: the logits differ, so the comparison would be invalid.
    """
    x, _ = random_batch(case.same_at, 8)
    with torch.no_grad():
        theirs = module(torch_nets.images(x)).numpy()
    ours = np.asarray(case.net.apply(params, jnp.asarray(x)))
    difference = float(np.abs(ours - theirs).max())
    assert difference < 1e-4 and np.ptp(ours) > 0.1, f"{name}: logits differ by {difference}, range {np.ptp(ours)}"


def frozen(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the module whose parameters need no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def channels_last(value: Any) -> Any:
    """A module or a batch of images in the memory format "channels last"."""
    return copy.deepcopy(value).to(memory_format=torch.channels_last)


def hand_loop(module: Callable, x: torch.Tensor, labels: torch.Tensor, eps: float, steps: int) -> torch.Tensor:
    """PGD as a plain loop in PyTorch."""
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    z = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        z.requires_grad_()
        loss = torch.nn.functional.cross_entropy(module(z), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        with torch.no_grad():
            z = torch.minimum(torch.maximum(z + 2.5 * eps / steps * gradient.sign(), low), high)
    return z


def compiled(module: torch.nn.Module, x: torch.Tensor) -> Callable | None:
    """The module through `torch.compile`, or None if PyTorch cannot compile it."""
    try:
        fast = torch.compile(module)
        z = x.clone().requires_grad_()
        torch.autograd.grad(fast(z).sum(), z)
    except Exception as error:  # there is no compiler, or PyTorch does not support it
        print(f"no torch.compile here: {type(error).__name__}: {str(error).splitlines()[0]}")
        return None
    return fast


def torch_peers(
    module: torch.nn.Module, x: np.ndarray, labels: np.ndarray, eps: float, steps: int
) -> dict[str, Callable[[], Any]]:
    """PGD with a random start by every peer, on two threads; torchattacks also runs on one thread."""
    still, last = frozen(module), channels_last(frozen(module))
    images, classes = torch_nets.images(x), torch.from_numpy(labels).long()
    images_last = channels_last(images)
    size = 2.5 * eps / steps

    def of_torchattacks(module, images):
        return partial(torchattacks.PGD(module, eps=eps, alpha=size, steps=steps, random_start=True), images, classes)

    def of_foolbox(module):
        attack = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
        return partial(attack, foolbox.PyTorchModel(module, (0, 1), "cpu"), images, classes, epsilons=eps)

    def of_art(module):
        classifier = art.estimators.classification.PyTorchClassifier(
            module, torch.nn.CrossEntropyLoss(), x.shape[:0:-1], 10, clip_values=(0, 1), preprocessing=None,
            device_type="cpu",
        )  # fmt: skip
        attack = art.attacks.evasion.ProjectedGradientDescentPyTorch(
            classifier, eps=eps, eps_step=size, max_iter=steps, num_random_init=1, batch_size=len(x), verbose=False
        )
        return partial(attack.generate, images.numpy(), labels)

    peers: dict[str, Callable[[], Any]] = {
        "torchattacks": of_torchattacks(still, images),
        "ART": of_art(copy.deepcopy(module)),
        "foolbox": of_foolbox(copy.deepcopy(module)),
        "torchattacks, channels last": of_torchattacks(last, images_last),
        "ART, frozen": of_art(frozen(module)),
        "foolbox, frozen": of_foolbox(still),
        "a loop by hand": partial(hand_loop, still, images, classes, eps, steps),
        "a loop by hand, channels last": partial(hand_loop, last, images_last, classes, eps, steps),
    }
    fast = compiled(still, images)
    if fast is not None:
        peers["a loop by hand, torch.compile"] = partial(hand_loop, fast, images, classes, eps, steps)

    def threads(count, run):
        torch.set_num_threads(count)
        return run()

    timed: dict[str, Callable[[], Any]] = {name: partial(threads, CORES, run) for name, run in peers.items()}
    return timed | {"torchattacks, 1 thread": partial(threads, 1, peers["torchattacks"])}


def sharded(params: Params, *batch: np.ndarray) -> tuple:
    """Parameters on both devices, and a batch that is split between them."""
    mesh = data_mesh(jax.devices()[:CORES])
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec())), *shard_batch(mesh, batch)


def ours(net: Net, params: Params, x: np.ndarray, labels: np.ndarray, eps: float, steps: int) -> Callable[[], Any]:
    """PGD by this library."""
    run = attacks.jit_attack(attacks.pgd(attacks.linf(), steps=steps), net.apply)
    params, images, classes = sharded(params, x, labels)
    return partial(run, jax.random.key(0), params, images, classes, eps=eps)


def gradients(net: Net, params: Params, x: np.ndarray, labels: np.ndarray, steps: int) -> Callable[[], Any]:
    """`steps` jitted input gradients one after another: a lower bound of the time of a loop of separate calls."""
    gradient = jax.jit(jax.grad(lambda x, params, labels: cross_entropy(net.apply(params, x), labels).sum()))
    params, images, classes = sharded(params, x, labels)

    def run():
        for _ in range(steps):
            jax.block_until_ready(gradient(images, params, classes))

    return run


def pgd_table(name: str, batch: int, steps: int, repeats: int) -> list[timing.Row]:
    """The time of PGD on both sides."""
    case = CASES[name]
    params, (x, labels) = random_params(case.net, case.shape), random_batch(case.shape, batch)
    module = case.module(params["params"]).eval()
    check_same(name, case, params, module)
    peers = torch_peers(module, x, labels, case.eps, steps)
    candidates = {"invjax": ours(case.net, params, x, labels, case.eps, steps), **peers}
    candidates["bound"] = gradients(case.net, params, x, labels, steps)
    if name == "ResNet-8":
        user: Any = UserResNet()
        net = Net(user.init, user.apply)
        candidates["user"] = ours(net, random_params(net, case.shape), x, labels, case.eps, steps)
    times = timing.alternate(candidates, repeats)
    about = f"{name}, PGD, {steps} steps, batch {batch}"
    trusted = median(times["torchattacks"]) < median(times["torchattacks, 1 thread"])
    goals, stretch = (case.goals, case.stretch) if trusted else ({}, {})

    def ratio(name, peer, **goal):
        return timing.row(f"{about}: {name} / {peer}", timing.ratio(times, name, peer), **goal)

    rows = [timing.milliseconds(f"{about}: {side}", times[side]) for side in ("invjax", "torchattacks")]
    rows += [ratio("invjax", peer, goal=goals.get(peer)) for peer in peers]
    rows += [
        timing.row(f"{about}: invjax / {peer}, stretch", timing.ratio(times, "invjax", peer), goal=goal)
        for peer, goal in stretch.items()
    ]
    bound = f"{about}: invjax / {steps} separate jitted gradients"
    rows.append(timing.row(bound, timing.ratio(times, "invjax", "bound")))
    if "user" in times:
        user_row = f"{about}: a user's flax ResNet / the library's"
        rows.append(timing.row(user_row, timing.ratio(times, "user", "invjax")))
    return rows


def trained(data_dir: str | None, steps: int, net: Net) -> Params:
    """Parameters after a few steps of ordinary training on MNIST."""
    data = load("mnist", "train", data_dir)

    def loss_fn(params, key, batch, step):
        return cross_entropy(net.apply(params, as_float(batch[0])), batch[1]).mean(), {}

    optimizer = optax.adam(1e-3)
    state = init_state(jax.random.key(0), random_params(net, (28, 28, 1)), optimizer)
    draw = batches([data.images, data.labels], 128, 0)
    mesh = data_mesh(jax.devices()[:CORES])
    return jax.device_get(fit(state, make_train_step(loss_fn, optimizer), draw, steps, mesh=mesh)[0].params)


def curve_table(data_dir: str | None, images: int, steps: int, train_steps: int, epsilons: list[float]) -> list:
    """A curve of robust accuracy against foolbox with all radii in one call, in batches of the same size."""
    case, batch = CASES["MNIST CNN"], min(128, images)
    params = trained(data_dir, train_steps, case.net)
    module = frozen(case.module(params["params"]).eval())
    check_same("MNIST CNN, trained", case, params, module)
    test = load("mnist", "test", data_dir)
    x, labels = np.asarray(as_float(test.images[:images])), test.labels[:images]
    mesh = data_mesh(jax.devices()[:CORES])
    peer = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
    model = foolbox.PyTorchModel(module, (0, 1), "cpu")

    def invjax_curve(radii, count):
        attack = attacks.pgd(attacks.linf(), steps=steps)
        curve = robustness_curve(jax.random.key(0), attack, case.net.apply, params, x[:count], labels[:count],
                                 epsilons=radii, options=Options(batch, mesh))  # fmt: skip
        return curve.accuracy()

    def foolbox_curve(radii, count, threads=CORES):
        torch.set_num_threads(threads)
        fallen = []
        for start in range(0, count, batch):
            part = slice(start, min(start + batch, count))
            classes = torch.from_numpy(labels[part]).long()
            fallen.append(peer(model, torch_nets.images(x[part]), classes, epsilons=radii)[2])
        return 1 - torch.cat(fallen, 1).double().mean(1).numpy()

    seconds, curves = {}, {}
    some = {threads: partial(foolbox_curve, epsilons[-1:], batch, threads) for threads in (CORES, 1)}
    first = timing.alternate({str(threads): run for threads, run in some.items()}, 1)
    trusted = first[str(CORES)] < first["1"]
    for name, run in {"invjax": invjax_curve, "foolbox": foolbox_curve}.items():
        run(epsilons[-1:], batch)  # warm-up
        time.sleep(timing.PAUSE)
        start = time.perf_counter()
        curves[name] = run(epsilons, images)
        seconds[name] = time.perf_counter() - start
    mean = float(curves["foolbox"].mean())
    apart = 100 * np.abs(curves["invjax"] - curves["foolbox"])
    about = f"curve of {len(epsilons)} radii to {epsilons[-1]:.2g}, {images} MNIST images, {steps} steps"
    print("| eps | invjax | foolbox |\n|---|---|---|")
    for eps, a, b in zip(epsilons, curves["invjax"], curves["foolbox"], strict=True):
        print(f"| {eps:.3f} | {a:.3f} | {b:.3f} |")
    print()
    return [
        *(timing.row(f"{about}: time of {name}", value, "s") for name, value in seconds.items()),
        timing.row(f"{about}: mean robust accuracy", 100 * mean, "%"),
        timing.row(f"{about}: invjax, with compilation / foolbox, frozen; goal min(0.95, 1.2 mean robust accuracy)",
                   seconds["invjax"] / seconds["foolbox"], goal=min(0.95, 1.2 * mean) if trusted else None),
        timing.row(f"{about}: largest difference of the curves", float(apart.max()), "points"),
        timing.row(f"{about}: mean of invjax above foolbox", 100 * float((curves["invjax"] - curves["foolbox"]).mean()),
                   "points"),
    ]  # fmt: skip


def sorted_projection(z: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    """The nearest point of the l1 ball, by sorting. Source: Duchi et al. 2008, figure 1."""
    change = z - x
    size = change.abs()
    ordered = size.sort(1, descending=True).values
    excess = ordered.cumsum(1) - eps
    rank = torch.arange(1, 1 + z.shape[1], dtype=z.dtype)
    active = (ordered * rank > excess).sum(1, keepdim=True)
    threshold = (excess.gather(1, active - 1) / active).clamp(min=0)
    return x + change.sign() * (size - threshold).clamp(min=0)


def several(run: Callable, times: int = CALLS) -> Callable[[], None]:
    """Run `times` calls as one, because a single call ends before the caches are warm."""

    def calls():
        for _ in range(times):
            jax.block_until_ready(run())

    return calls


def time_projections(cores: int, repeats: int) -> dict[str, dict[str, float]]:
    """Ratios to the projection that sorts, by size of an example. Call it in a new process with `cores` cores."""
    torch.set_num_threads(cores)
    found = {}
    for size in (784, 3072):
        rng = np.random.default_rng(0)
        x = rng.random((128, size), np.float32)
        z = (x + 0.3 * rng.standard_normal((128, size))).astype(np.float32)
        peer = partial(sorted_projection, torch.from_numpy(z), torch.from_numpy(x), L1_EPS)
        candidates: dict[str, Callable] = {"torch": peer}
        for name, bounds in {"ball": (-jnp.inf, jnp.inf), "ball and box": (0.0, 1.0)}.items():
            project = jax.jit(jax.vmap(attacks.l1(box=bounds).project, (0, 0, None)))
            candidates[name] = partial(project, *shard_batch(data_mesh(), (z, x)), L1_EPS)
        difference = float(np.abs(np.asarray(candidates["ball"]()) - peer().numpy()).max())
        assert difference < 1e-4, f"the two projections of {size} values differ by {difference}"
        times = timing.alternate({name: several(run) for name, run in candidates.items()}, repeats)
        ratios = {name: timing.ratio(times, name, "torch") for name in candidates if name != "torch"}
        found[str(size)] = {"torch": 1e3 / CALLS * median(times["torch"])} | ratios
    return found


def projection_table(quick: bool) -> list[timing.Row]:
    """The l1 projection on one core and on two, in a process that is restricted to these cores."""
    rows: list[timing.Row] = []
    alone: dict[str, float] = {}
    for cores in (1, CORES):
        command = [sys.executable, "-m", "experiments.benchmarks.attacks", "--projection", str(cores)]
        command += ["--quick"] if quick else []
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for size, values in found.items():
            about = f"l1 projection of 128 x {size}, {cores} thread(s)"
            peer = "sorting in torch"
            trusted = values["torch"] < 1.2 * alone.setdefault(size, values["torch"])
            rows += [
                timing.row(f"{about}: {peer}", values["torch"], "ms"),
                timing.row(f"{about}: invjax / {peer}", values["ball"], goal=0.15 if trusted else None),
                timing.row(f"{about}: invjax, ball and box / {peer}, ball", values["ball and box"]),
            ]
    return rows


def compile_table(steps: int, repeats: int) -> list[timing.Row]:
    """Time to compile the first call, without any cache."""
    case = CASES["ResNet-8"]
    attack = attacks.pgd(attacks.linf(), steps=steps)
    params, (x, labels) = random_params(case.net, case.shape), random_batch(case.shape, 128)
    seconds = []
    for _ in range(repeats):

        @jax.jit
        def run(params, key, x, labels, eps):
            return attack(key, partial(case.net.apply, params), x, labels, eps=eps)

        jax.clear_caches()
        start = time.perf_counter()
        lowered = run.lower(params, jax.random.key(0), x, labels, case.eps)
        middle = time.perf_counter()
        lowered.compile()
        seconds.append((middle - start, time.perf_counter() - middle))
    lower, compile_ = (median(values) for values in zip(*seconds, strict=True))
    about = f"ResNet-8, PGD, {steps} steps, batch 128, no cache"
    return [
        timing.row(f"{about}: trace and lower", lower, "s"),
        timing.row(f"{about}: compile", compile_, "s"),
        timing.row(f"{about}: trace, lower and compile", lower + compile_, "s", goal=1.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", help="folder of MNIST; the default is that of the experiments")
    parser.add_argument("--projection", type=int, help=argparse.SUPPRESS)
    options = timing.parse(__doc__, parser)
    if options.projection:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.projection])  # before JAX counts the cores
        jax.config.update("jax_num_cpu_devices", options.projection)
        print(json.dumps(time_projections(options.projection, 3 if options.quick else 10)))
        return
    jax.config.update("jax_num_cpu_devices", CORES)
    jax.config.update("jax_enable_compilation_cache", False)
    batch, steps, repeats = (4, 2, 2) if options.quick else (128, 10, 7)
    rows = [row for name in CASES for row in pgd_table(name, batch, steps, repeats)]
    if options.quick:
        rows += curve_table(options.data_dir, images=16, steps=2, train_steps=3, epsilons=CURVE[::9])
    else:
        rows += curve_table(options.data_dir, images=512, steps=20, train_steps=150, epsilons=CURVE)
    rows += projection_table(options.quick) + compile_table(40, 1 if options.quick else 3)
    timing.report("attacks", rows, options, PACKAGES)


if __name__ == "__main__":
    main()

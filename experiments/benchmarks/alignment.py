"""Aligned neighbours: one digit under 775 rotations and shifts against the 54,000 training digits of other classes.

`python -m experiments.benchmarks.alignment [--quick] [--out FILE] [--data-dir FOLDER]`

The peer repeats the steps of the published code: warps by scipy.ndimage with cubic splines, then scikit-learn's
brute-force `NearestNeighbors` for each class. Given the same warps, all searches must find neighbours at the same
distance. The l0 search is timed for pairs of black and white images, on one core and on all cores, in a process that
is restricted to these cores. `--released FOLDER` names the `linf_attack` folder of
`github.com/ftramer/Excessive-Invariance`; the table then compares our neighbours of 100 digits with the published ones.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import jax
import numpy as np
from scipy import ndimage
from sklearn.neighbors import NearestNeighbors

from experiments import common
from experiments.benchmarks import timing
from invjax.attacks import affine_grid, aligned_neighbours, nearest_of, pixels_of, reference_bank, warp
from invjax.data import as_float, load


def digits(data_dir, count):
    """Training images and labels, and the first 20 test images and labels; images are in [0, 1]."""
    train, test = load("mnist", "train", data_dir), load("mnist", "test", data_dir)
    images = np.asarray(as_float(train.images[:count], train.levels))
    return images, train.labels[:count], np.asarray(as_float(test.images[:20], test.levels)), test.labels[:20]


def published_warps(image):
    """The 775 rotations and shifts by cubic splines, `[775, 784]`."""
    turned = {angle: ndimage.rotate(image[..., 0], angle, reshape=False) for angle in range(-30, 31, 2)}
    shifts = (-3, -1.5, 0, 1.5, 3)
    warped = [ndimage.shift(turned[a], (down, right)) for a in turned for down in shifts for right in shifts]
    return np.stack(warped).reshape(len(warped), -1).astype(np.float32)


_warped = jax.jit(jax.vmap(warp, (None, 0)))


def linf_table(data_dir: str | None, count: int, queries: int) -> list[timing.Row]:
    """The search for linf neighbours, in l2 as published. Queries run one after another on all cores."""
    images, labels, x, y = digits(data_dir, count)
    started = time.perf_counter()
    bank = reference_bank(images, labels, norm="linf")
    jax.block_until_ready(bank.lower_bounds(bank.pixels[:1]))
    build = time.perf_counter() - started
    classes = range(10)
    members = {c: np.flatnonzero(labels == c) for c in classes}
    brute = {c: NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank.pixels[members[c]]) for c in classes}
    grid = affine_grid()

    def warps(i):
        return pixels_of(np.asarray(_warped(x[i], grid)), "linf")

    def ours(i):
        rows, columns = nearest_of(bank, [members[c] for c in classes if c != y[i]], warps(i), 1)
        return rows[:, 0], columns[:, 0]

    def peer(queries_of, i):
        return [brute[c].kneighbors(queries_of(i))[0].min() for c in classes if c != y[i]]

    def exhaustive(i):
        t = warps(i)
        squares = (t**2).sum(1)
        for c in classes:
            if c != y[i]:
                p = bank.pixels[members[c]]
                ((p**2).sum(1)[:, None] - 2 * p @ t.T + squares[None]).min()

    seen: dict[str, list[float]] = {"ours": [], "scipy and scikit-learn": [], "exhaustive": [], "whole": []}
    for i in range(queries + 1):  # the first query is a warm-up
        runs = {
            "ours": lambda i=i: ours(i),
            "scipy and scikit-learn": lambda i=i: peer(lambda j: published_warps(x[j]), i),
            "exhaustive": lambda i=i: exhaustive(i),
            "whole": lambda i=i: aligned_neighbours(x[i : i + 1], y[i : i + 1], bank),
        }
        for name, run in runs.items():
            time.sleep(timing.PAUSE)
            start = time.perf_counter()
            run()
            seen[name].append(time.perf_counter() - start)
        rows, columns = ours(i)
        found = np.linalg.norm(bank.pixels[rows] - warps(i)[columns], axis=1)
        np.testing.assert_allclose(found, peer(warps, i), rtol=1e-4)
    times = {name: of_name[1:] for name, of_name in seen.items()}
    about = f"linf, {len(grid)} warps x {count} images, a query"
    return [
        timing.row("index for linf, seconds to build", build, "s", goal=2),
        timing.row(f"{about}: warps and exact search", median(times["ours"]), "s", goal=0.15),
        timing.row(f"{about}: the same / scipy and scikit-learn", timing.ratio(times, "ours", "scipy and scikit-learn"),
                   goal=0.1),
        timing.row(f"{about}: the same / one matrix product for each class", timing.ratio(times, "ours", "exhaustive")),
        timing.row(f"{about}: aligned_neighbours, with re-rank and refinement", median(times["whole"]), "s"),
    ]  # fmt: skip


def released_table(data_dir: str | None, released: Path) -> list[timing.Row]:
    """Compare our neighbours of the 100 digits with the published ones, in l2, the norm of the published search."""
    x, stored = (
        np.load(released / f"{name}.npy")[..., None].astype(np.float32) / 255 for name in ("X_test_100", "all_nns")
    )
    classes = np.load(released / "all_y_nns.npy")
    labels = 45 - classes.sum(1)  # the nine neighbours have all classes but that of the digit
    train = load("mnist", "train", data_dir)
    bank = reference_bank(np.asarray(as_float(train.images[:], train.levels)), train.labels, norm="l2")
    found = aligned_neighbours(x, labels, bank)
    order = np.argsort(classes, 1)
    np.testing.assert_array_equal(np.take_along_axis(classes, order, 1), found.classes)
    theirs = np.sqrt(((stored - x[:, None]) ** 2).sum((2, 3, 4)))
    theirs = np.take_along_axis(theirs, order, 1)
    farther = 100 * float((found.distance > theirs).mean())
    about = f"{theirs.size} released neighbours"
    return [
        timing.row(f"{about}: ours is farther, l2", farther, "%", goal=1),
        timing.row(f"{about}: median distance of ours / theirs", float(np.median(found.distance / theirs))),
    ]


def l0_seconds(data_dir: str | None, count: int, transforms: int, repeats: int) -> list[float]:
    """Seconds for `count * transforms` pairs of black and white images."""
    images, labels, x, _ = digits(data_dir, count)
    bank = reference_bank(images, labels, norm="l0")
    grid = affine_grid(rotation=np.linspace(-20, 20, transforms // 25))
    queries = pixels_of(np.asarray(_warped(x[0], grid)), "l0")
    return timing.alternate({"": lambda: bank.lower_bounds(queries)}, repeats)[""]


def l0_table(data_dir: str | None, count: int, transforms: int, repeats: int) -> list[timing.Row]:
    """Nanoseconds for one pair of images, on one core and on all cores."""
    rows = []
    cores = len(os.sched_getaffinity(0))
    for used in (1, cores):
        command = [sys.executable, "-m", "experiments.benchmarks.alignment", "--cores", str(used)]
        command += ["--sizes", str(count), str(transforms), str(repeats)]
        command += ["--data-dir", data_dir] if data_dir else []
        seconds = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        value = 1e9 * median(seconds) / (count * transforms)
        about = f"l0, {transforms} warps x {count} images, {used} core(s): a pair of images"
        rows.append(timing.row(about, value, "ns", goal=2.5 if used == 1 else None))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", help="folder of MNIST")
    parser.add_argument("--released", type=Path, help="folder of the published neighbours")
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=3, help=argparse.SUPPRESS)
    options = timing.parse(__doc__, parser)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # before JAX counts the cores
        print(json.dumps(l0_seconds(options.data_dir, *options.sizes)))
        return
    common.use_all_cores()
    count, queries, transforms, repeats = (3000, 2, 50, 2) if options.quick else (60_000, 12, 775, 9)
    rows = linf_table(options.data_dir, count, queries) + l0_table(options.data_dir, count, transforms, repeats)
    rows += released_table(options.data_dir, options.released) if options.released else []
    timing.report("alignment", rows, options, ("scikit-learn", "scipy"))


if __name__ == "__main__":
    main()

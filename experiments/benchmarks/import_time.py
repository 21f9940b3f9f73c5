"""Time of `import invjax` against that of `import jax, flax, optax`.

`python -m experiments.benchmarks.import_time [--quick] [--out FILE]`

Each import runs in a fresh interpreter, and the time includes the start of the interpreter.
"""

import subprocess
import sys
from functools import partial

from experiments.benchmarks import timing

OURS, PEER = "import invjax", "import jax, flax, optax"


def run(statement: str) -> None:
    """Execute a statement in a new interpreter."""
    subprocess.run([sys.executable, "-c", statement], check=True)


def main() -> None:
    options = timing.parse(__doc__)
    times = timing.alternate({code: partial(run, code) for code in (OURS, PEER)}, 1 if options.quick else 7)
    rows = [
        timing.milliseconds(f"`{PEER}`", times[PEER]),
        timing.row(f"`{OURS}` / `{PEER}`", timing.ratio(times, OURS, PEER), goal=1.5),
    ]
    timing.report("import_time", rows, options)


if __name__ == "__main__":
    main()

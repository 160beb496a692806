"""`python -m benchmarks [NAME …]`: measure, print the table, and keep it."""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from benchmarks import table
from benchmarks.rows import BenchmarkError, Options, Row
from vbs.run import descriptors
from vbs.run.stack import StackError

BENCHMARKS = (
    "engine",
    "default",
    "models",
    "eta",
    "many",
    "adapters",
    "chat",
    "pipeline",
    "intake",
    "waiting",
    "read",
    "pages",
    "sockets",
    "structured",
    "gpu",
)
NAMED = ("structured", "gpu")  # run only when they are named
BUSY = 0.5  # load per core from which on we say so


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all but structured and gpu when left out"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all works; nothing is kept")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side in comparisons (%(default)s)")
    parser.add_argument("--model", type=Path, help="folder of the chat model; else the demo model")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    descriptors.raise_limit()
    options = Options(given.quick, given.pairs, given.model.resolve() if given.model else None)
    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1):
        _say(f"The load of this machine is {load:.1f} already: the figures will be worse than they are.")

    measured: dict[str, list[Row]] = {}
    failed = False
    for name in [one for one in BENCHMARKS if one in given.names or not (given.names or one in NAMED)]:
        module = importlib.import_module(f"benchmarks.{name}")
        _say(f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}")
        began = time.monotonic()
        try:
            measured[name] = module.run(options)
        except (BenchmarkError, StackError) as error:
            failed = True
            _say(f"{name} failed: {error}")
        else:
            _say(f"{name}: done in {time.monotonic() - began:.0f} s")
    if measured:
        print(table.screen_table(measured))
        if not given.quick:
            _say(f"Kept in {table.keep(measured, BENCHMARKS)}")
    return int(failed)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

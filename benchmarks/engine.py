"""The same engine arguments and environment on both sides: what HTTP, the database and durability cost."""

import os
from pathlib import Path

from benchmarks.rows import Options, Row
from benchmarks.versus import compare
from models_registry.engine import defaults, server

LEAST = 0.97
ARGS = {"max-model-len": 2048}


def run(options: Options) -> list[Row]:
    return compare(options, LEAST, ARGS, flags, os.environ | defaults.environment())


def flags(model: Path) -> list[str]:
    """What our engine is started with, for this model, as run_batch takes it."""
    made = defaults.options(dict(ARGS), "chat", str(model))
    made.pop("api-server-count", None)  # it has none
    return ["--disable-log-stats", *server.flags(made)]

"""Nothing set on either side: what a user gets who has read no manual."""

import os

from benchmarks.rows import Options, Row
from benchmarks.versus import compare
from models_registry.engine import defaults

LEAST = 1.3


def run(options: Options) -> list[Row]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    least = LEAST if os.cpu_count() == 2 and not defaults.gpu_memory() else None  # it is a claim about two cores
    return compare(options, least, {}, lambda model: [], plain)

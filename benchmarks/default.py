"""Nothing set on either side: what a user gets who has read no manual.

But for run_batch's share of memory on a CPU: it asks for 92 % of it, and does not start where files are cached in some.
"""

import os

from benchmarks.rows import Options, Row
from benchmarks.versus import compare
from models_registry.engine import defaults

LEAST = 1.3


def run(options: Options) -> list[Row]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    least = LEAST if os.cpu_count() == 2 and not defaults.gpu_memory() else None  # it is a claim about two cores
    flags = [] if defaults.gpu_memory() else ["--gpu-memory-utilization=0.5"]
    return compare(options, least, {}, lambda model: flags, plain)

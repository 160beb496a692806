"""How long until something happens: from creating a batch to its first request at a warm and idle engine."""

import random
import time
from pathlib import Path

import orjson

from benchmarks.rows import Options, Row, median, percentile
from benchmarks.system import scratch, scripted, tell
from benchmarks.workload import plain

MOST_SECONDS = 0.5


def run(options: Options) -> list[Row]:
    count = options.size(30, 5)
    waits = []
    with scratch() as folder, scripted(folder, journal=str(folder / "journal")) as system:
        file_id = system.upload(plain(folder / "in.jsonl", 1))
        for _ in range(count):
            time.sleep(random.uniform(0.2, 1.2))  # in step with nothing
            before = _received(folder / "journal")
            began = time.time()
            system.wait(system.create(file_id))
            waits.append(_received(folder / "journal")[len(before)] - began)
    tell(", ".join(f"{wait * 1000:.0f}" for wait in waits) + " ms")
    note = f"{count} batches, one after the other"
    return [
        Row("Create to first request, median", median(waits), "s", at_most=MOST_SECONDS, note=note),
        Row("Create to first request, p95", percentile(waits, 95), "s", at_most=MOST_SECONDS),
        Row("Create to first request, longest", max(waits), "s"),
    ]


def _received(journal: Path) -> list[float]:
    """When the engine got each request, in Unix seconds."""
    return [orjson.loads(line)["at"] for line in journal.read_bytes().splitlines()]

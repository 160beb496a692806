"""Taking in: upload and validation of 50,000 requests (40 MB), and what that costs in memory; then of 200,000."""

import time
from pathlib import Path

from benchmarks.memory import Watch
from benchmarks.rows import Options, Row
from benchmarks.system import System, scratch, scripted, tell
from benchmarks.workload import plain

MOST_SECONDS = 6.0
LIMIT = 200_000


def run(options: Options) -> list[Row]:
    with scratch() as folder, scripted(folder, {"VBS_MAX_BATCH_REQUESTS": str(LIMIT)}) as system:
        small = take_in(system, folder / "in.jsonl", options.size(50_000, 1000), MOST_SECONDS)
        large = take_in(system, folder / "in.jsonl", options.size(LIMIT, 4000))
    return small + large


def take_in(system: System, path: Path, count: int, most: float | None = None) -> list[Row]:
    size = plain(path, count).stat().st_size / 1e6
    tell(f"{count:,} requests, {size:.0f} MB")
    with Watch(system.processes) as memory:
        began = time.time()
        file_id = system.upload(path)
        uploaded = time.time()
        batch_id = system.create(file_id)
        batch = system.wait(batch_id, "in_progress")
    system.cancel(batch_id)
    upload, validation = uploaded - began, batch.seconds("created", "validated")
    note = f"{size:.0f} MB; upload {upload:.2f} s, validation {validation:.2f} s"
    return [
        Row(
            f"{count:,} requests: upload to in_progress", batch.at["in_progress"] - began, "s", at_most=most, note=note
        ),
        memory.row(f"{count:,} requests"),
    ]

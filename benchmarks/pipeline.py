"""Everything but the model: 50,000 requests end to end, with an engine that answers at once on the same cores."""

import time

from benchmarks.memory import Watch
from benchmarks.rows import Options, Row
from benchmarks.system import scratch, scripted, tell
from benchmarks.workload import plain

LEAST = 800.0


def run(options: Options) -> list[Row]:
    count = options.size(50_000, 1000)
    with scratch() as folder, scripted(folder) as system:
        path = plain(folder / "in.jsonl", count)
        with Watch(system.processes, hertz=2) as memory:
            began = time.time()
            batch_id = system.create(system.upload(path))
            batch = system.wait(batch_id)
    phases = {
        "upload": batch.at["created"] - began,
        "validation": batch.seconds("created", "validated"),
        "requests": batch.seconds("in_progress", "finalizing"),
        "output file": batch.seconds("finalizing", "completed"),
    }
    note = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items())
    tell(note)
    return [
        Row("Create to completed", count / batch.seconds("created", "completed"), "requests/s", LEAST, note=note),
        Row("Upload to completed", count / (batch.at["completed"] - began), "requests/s", LEAST),
        Row("In progress to finalizing", count / phases["requests"], "requests/s"),
        memory.row(f"{count:,} requests"),
    ]

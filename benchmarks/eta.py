"""How far off the time left is, over a run: of a model that was never measured, and after each further batch.

The error at an instant is the difference between when the batch was said to end then and when it did, as a share of
how long it ran. A row is the mean over the instants, two a second, at which something was said.
"""

import time
from pathlib import Path

from benchmarks.rows import Options, Row
from benchmarks.system import System, scratch, system, tell
from benchmarks.versus import NAME, demo_model
from benchmarks.workload import mixed

ROUNDS = ("first batch, nothing measured", "second batch", "third batch")
LOOK_SECONDS = 0.5


def run(options: Options) -> list[Row]:
    count = options.size(400, 12)
    rows = []
    with scratch() as folder:
        model = options.model or demo_model(folder)
        with system(folder) as running:
            running.add_model(NAME, str(model), **{"max-model-len": 2048})
            for number, name in enumerate(ROUNDS):
                rows += _round(running, mixed(folder / f"{number}.jsonl", count, NAME, number), name)
    return rows


def _round(running: System, path: Path, name: str) -> list[Row]:
    created = running.create_object(running.upload(path))
    said: list[tuple[float, float]] = []  # when, and how many seconds were left
    looks = 0
    while "completed" not in (batch := running.look(created["id"])).at:
        now = time.time()
        eta = running.get(f"/batches/{created['id']}")["progress"]["eta_seconds"]
        if "in_progress" in batch.at and "finalizing" not in batch.at:
            looks += 1
            if eta is not None:
                said.append((now, eta))
        time.sleep(LOOK_SECONDS)
    begin, end = batch.at["in_progress"], batch.at["finalizing"]
    length = end - begin
    errors = [(at, abs(at + left - end) / length * 100) for at, left in said]
    silent = f"said nothing at {looks - len(said)} of {looks} instants" if looks > len(said) else ""
    rows = [Row(f"{name}: error of the ETA", _mean([error for _, error in errors]), "%", note=silent)]
    if early := [error for at, error in errors if at < begin + length / 4]:
        rows.append(Row(f"{name}: in its first quarter", _mean(early), "%"))
    guess = created["estimate"]["seconds"]
    if guess is not None:
        note = f"{guess:.0f} s said, {length:.0f} s taken"
        rows.append(Row(f"{name}: error when it was created", abs(guess - length) / length * 100, "%", note=note))
    for row in rows:
        tell(f"{row.name} {row.figure:.1f} % {row.note}")
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 100.0

"""vbs against vLLM's `run_batch`: the same files in turn, output tokens per second of the generation phase.

Ours is from the first request sent to the last answer committed, on an engine that is warm. The engine is unloaded
while run_batch runs, so that neither takes memory or a core from the other. Two files make a round of
run_batch, vbs, vbs, run_batch: the two runs of a pair follow each other, and neither side is always the first.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Options, Row, median, spread
from benchmarks.run_batch import run_batch
from benchmarks.system import System, scratch, system, tell
from benchmarks.workload import mixed, prefix

NAME = "benchmark"
FILES: dict[str, Callable[[Path, int, str, int], Path]] = {"mixed": mixed, "prefix": prefix}


def compare(
    options: Options,
    least: float | None,
    args: Mapping[str, Any],
    flags: Callable[[Path], Sequence[str]],
    environment: Mapping[str, str],
) -> list[Row]:
    """`args`: of the model in our registry. `flags` of a model, and `environment`: what run_batch gets."""
    count, pairs = options.size(300, 12), options.size(options.pairs, 1)
    theirs: dict[str, list[float]] = {file: [] for file in FILES}
    ours: dict[str, list[float]] = {file: [] for file in FILES}
    with scratch() as folder:
        model = options.model or demo_model(folder)
        with system(folder) as running:
            running.add_model(NAME, str(model), **args)

        def run_theirs(file: str) -> None:
            seconds, tokens = run_batch(paths[file], model, NAME, flags(model), environment)
            _note(theirs[file], f"run_batch, {file}", seconds, tokens)

        for pair in range(pairs):
            paths = {file: make(folder / f"{file}.jsonl", count, NAME, pair) for file, make in FILES.items()}
            run_theirs("mixed")
            with system(folder) as running:
                running.run(mixed(folder / "warm-up.jsonl", options.size(64, 2), NAME, -1 - pair))
                for file in FILES:
                    _note(ours[file], f"vbs, {file}", *_generation(running, paths[file]))
            run_theirs("prefix")
    return [row for file in FILES for row in _rows(file, ours[file], theirs[file], least)]


def _generation(running: System, path: Path) -> tuple[float, int]:
    batch = running.run(path)
    return batch.seconds("in_progress", "finalizing"), batch.output_tokens


def _note(rates: list[float], who: str, seconds: float, tokens: int) -> None:
    rates.append(tokens / seconds)
    tell(f"{who}: {tokens:,} tokens in {seconds:.2f} s: {rates[-1]:,.1f} tokens/s")


def _rows(file: str, ours: list[float], theirs: list[float], least: float | None) -> list[Row]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        Row(f"{file}: vbs ÷ run_batch", median(ratios), "×", at_least=least, note=spread(ratios)),
        Row(f"{file}: vbs", median(ours), "tokens/s", note=spread(ours, 0)),
        Row(f"{file}: run_batch", median(theirs), "tokens/s", note=spread(theirs, 0)),
    ]


def demo_model(folder: Path) -> Path:
    tell("fetching and converting the demo model (--model FOLDER to use your own)")
    with system(folder) as running:
        running.manage("model", "add-demo", "smollm2")
        return Path(json.loads(running.manage("model", "show", "smollm2-135m"))["source"])

"""Many small batches against one large batch of the same lines: what it costs that an engine's work is in pieces."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.rows import Options, Row, median, spread
from benchmarks.system import System, scratch, scripted, system, tell, token_rate
from benchmarks.versus import NAME, demo_model
from benchmarks.workload import mixed, slow, split

LEAST = 0.95
PLACES, LATENCY_MS = 256, 500  # of the scripted engine


def run(options: Options) -> list[Row]:
    lines, parts = options.size(1000, 40), options.size(40, 4)
    rows = []
    with scratch() as folder, scripted(folder, latency_ms=LATENCY_MS, max_num_seqs=PLACES) as running:

        def of_turn(turn: int) -> Path:
            return slow(folder / "in.jsonl", lines, "scripted", turn // 2)

        rows += _compare(running, of_turn, parts, options.size(options.pairs, 1), "scripted")
    with scratch() as folder:
        model = options.model or demo_model(folder)
        with system(folder) as running:
            running.add_model(NAME, str(model), **{"max-model-len": 2048})
            running.run(mixed(folder / "warm-up.jsonl", options.size(64, 2), NAME, -1))

            def of_real_turn(turn: int) -> Path:
                return mixed(folder / "in.jsonl", lines, NAME, turn // 2, turn)

            rows += _compare(running, of_real_turn, parts, options.size(max(1, options.pairs // 2), 1), model.name)
    return rows


def _compare(running: System, of_turn: Callable[[int], Path], parts: int, pairs: int, name: str) -> list[Row]:
    """of_turn: makes the file of a turn. Two turns are a pair, with the same lines; who is first changes."""
    rates: dict[int, list[float]] = {1: [], parts: []}
    for turn in range(2 * pairs):
        count = (1, parts, parts, 1)[turn % 4]
        path = of_turn(turn)
        rates[count].append(token_rate(running.run_together(split(path, count))))
        tell(f"{name}, {count} of the same lines: {rates[count][-1]:,.1f} tokens/s")
    ratios = [many / one for many, one in zip(rates[parts], rates[1], strict=True)]
    return [
        Row(f"{name}: {parts} batches ÷ one", median(ratios), "×", LEAST, note=spread(ratios)),
        *(
            Row(f"{name}: {count} batch{'es' * (count > 1)}", median(one), "tokens/s", note=spread(one, 0))
            for count, one in rates.items()
        ),
    ]

"""What a GPU alone can tell: sequences against graphs, API servers, swaps, sleep and adapters. Left out without one.

Each pair of settings runs the same file in turn, forwards and back, so that neither side is always the first. With a
model of some billion parameters (`--model FOLDER`) the figures say something; the demo model is small.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.adapters import make_adapter
from benchmarks.rows import BenchmarkError, Options, Row, median, spread
from benchmarks.system import System, scratch, system, tell
from benchmarks.versus import demo_model
from benchmarks.workload import mixed, short
from models_registry.engine import defaults

SERVERS = {f"{count} API server{'s' * (count > 1)}": {"api-server-count": count} for count in (1, 2, 4)}


def run(options: Options) -> list[Row]:
    if not defaults.gpu_memory():
        raise BenchmarkError("there is no GPU here")
    with scratch() as folder:
        model = options.model or demo_model(folder)
        rows = [*_graphs(folder, model, options), *_servers(folder, model, options)]
        return [*rows, *_swaps(folder, model, options), *_adapters(folder, model, options)]


def _graphs(folder: Path, model: Path, options: Options) -> list[Row]:
    """Output tokens per second of many requests at once, with each of `defaults.GRAPHS`."""
    rates = _compare(folder, model, options, defaults.GRAPHS, options.size(4000, 20))
    return [Row(f"Graphs: {name}", median(one), "tokens/s", note=spread(one, 0)) for name, one in rates.items()]


def _servers(folder: Path, model: Path, options: Options) -> list[Row]:
    """Requests per second of answers of eight tokens, which one API server holds up."""
    cores = defaults.cores()
    kinds = {name: args for name, args in SERVERS.items() if args["api-server-count"] * 2 <= cores}
    rates = _compare(folder, model, options, kinds, options.size(10_000, 50), of_requests=True)
    return [
        Row(f"Short requests: {name}", median(one), "requests/s", note=spread(one, 0)) for name, one in rates.items()
    ]


def _compare(
    folder: Path,
    model: Path,
    options: Options,
    kinds: Mapping[str, Mapping[str, Any]],
    count: int,
    of_requests: bool = False,
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    names = {name: f"bench-{place}" for place, name in enumerate(kinds)}
    with system(folder) as running:
        for name, args in kinds.items():
            _add(running, names[name], model, args)
        for turn in range(options.size(options.pairs, 1)):
            for name in list(kinds)[:: -1 if turn % 2 else 1]:
                make = short if of_requests else mixed
                running.manage("model", "load", names[name], "--now")
                running.run(make(folder / "warm-up.jsonl", options.size(64, 2), names[name], -1 - turn))
                batch = running.run(make(folder / "in.jsonl", count, names[name], turn))
                seconds = batch.seconds("in_progress", "finalizing")
                rates[name].append((batch.total if of_requests else batch.output_tokens) / seconds)
                tell(f"{name}: {rates[name][-1]:,.1f}/s")
        _remove(running, names.values())
    return rates


def _swaps(folder: Path, model: Path, options: Options) -> list[Row]:
    """From the unloading of one model until the first token of the other: started anew, and woken."""
    rows = []
    for kind, sleep in (("started anew", "false"), ("woken", "true")):
        seconds, tokens = [], []
        with system(folder, VBS_SLEEP_MODE=sleep) as running:
            for name in ("bench-a", "bench-b"):
                _add(running, name, model, {})
                running.manage("model", "load", name, "--now")
            for turn in range(options.size(2 * options.pairs, 2)):
                name = ("bench-a", "bench-b")[turn % 2]
                loaded = json.loads(running.manage("model", "load", name, "--now", "--json"))
                seconds.append(loaded["result"]["seconds"])
                batch = running.run(mixed(folder / "in.jsonl", options.size(64, 2), name, turn))
                tokens.append(batch.seconds("validated", "completed"))
                tell(f"{kind}: {seconds[-1]:.1f} s (woken: {loaded['result']['woken']})")
            _remove(running, ("bench-a", "bench-b"))
        rows.append(Row(f"Swap, {kind}", median(seconds), "s", note=spread(seconds, 1)))
        rows.append(Row(f"A batch after it, {kind}", median(tokens), "s", note=spread(tokens, 1)))
    return rows


def _adapters(folder: Path, model: Path, options: Options) -> list[Row]:
    """The same requests to the base, and to an adapter of random weights that its engine serves."""
    rates: dict[str, list[float]] = {"base": [], "adapter": []}
    adapter = make_adapter(folder / "adapter", model)
    with system(folder) as running:
        _add(running, "bench-base", model, {})
        running.manage("model", "add", "bench-adapter", str(adapter), "--base", "bench-base")
        for turn in range(options.size(options.pairs, 1)):
            for kind in list(rates)[:: -1 if turn % 2 else 1]:
                running.run(mixed(folder / "warm-up.jsonl", options.size(64, 2), f"bench-{kind}", -1 - turn))
                batch = running.run(mixed(folder / "in.jsonl", options.size(2000, 10), f"bench-{kind}", turn))
                rates[kind].append(batch.output_tokens / batch.seconds("in_progress", "finalizing"))
        _remove(running, ("bench-adapter", "bench-base"))
    return [Row(f"LoRA: {kind}", median(one), "tokens/s", note=spread(one, 0)) for kind, one in rates.items()]


def _add(running: System, name: str, model: Path, args: Mapping[str, Any]) -> None:
    running.add_model(name, os.fspath(model), **args)


def _remove(running: System, names: Any) -> None:
    for name in names:
        running.manage("model", "unload", name)
        running.manage("model", "remove", name)

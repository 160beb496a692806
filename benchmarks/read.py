"""Clients that poll: GET /v1/batches/{id} over 16 connections while the batch runs, about 300 requests/s of it."""

import asyncio
import time

import aiohttp

from benchmarks.rows import Options, Row, percentile
from benchmarks.system import System, scratch, scripted, tell
from benchmarks.workload import plain

CONNECTIONS = 16
MOST = 20_000  # GETs
LEAST_RATE, MOST_MS = 400.0, 80.0
WARM_UP_SECONDS = 1.0


def run(options: Options) -> list[Row]:
    seconds = options.size(20, 2)
    with scratch() as folder, scripted(folder, latency_ms=200, max_num_seqs=64) as system:
        path = plain(folder / "in.jsonl", 320 * (seconds + 15))
        batch_id = system.create(system.upload(path))
        before = system.wait(batch_id, "in_progress")
        times, elapsed = asyncio.run(load(system, batch_id, seconds))
        after = system.look(batch_id)
        system.cancel(batch_id)
    ran = (after.completed - before.completed) / (elapsed + WARM_UP_SECONDS)
    tell(f"{len(times):,} GETs in {elapsed:.1f} s")
    name = f"GET /v1/batches/{{id}}, {CONNECTIONS} connections"
    return [
        Row(
            f"{name}, rate",
            len(times) / elapsed,
            "requests/s",
            LEAST_RATE,
            note=f"while the batch ran at {ran:,.0f} requests/s",
        ),
        Row(f"{name}, p50", 1000 * percentile(times, 50), "ms"),
        Row(f"{name}, p99", 1000 * percentile(times, 99), "ms", at_most=MOST_MS),
    ]


async def load(system: System, batch_id: str, seconds: float) -> tuple[list[float], float]:
    """Every GET's time in seconds, and how long they took together, without the warm-up."""
    url, headers = f"{system.stack.url}/v1/batches/{batch_id}", {"Authorization": f"Bearer {system.key}"}
    times: list[float] = []
    began = time.monotonic() + WARM_UP_SECONDS
    end = began + seconds

    async def client() -> None:
        while (sent := time.monotonic()) < end and len(times) < MOST:
            async with session.get(url) as answer:
                await answer.read()
                answer.raise_for_status()
            if sent > began:
                times.append(time.monotonic() - sent)

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return times, time.monotonic() - began

"""Interactive requests: how soon they begin beside a batch, what that costs the batch, and what the web server adds.

The time until the first token is until the first piece of text that a stream brings.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson

from benchmarks.rows import BenchmarkError, Options, Row, median, percentile, spread
from benchmarks.system import System, scratch, scripted, system, tell, token_rate
from benchmarks.versus import NAME, demo_model
from benchmarks.workload import SAID, mixed
from models_registry.engine.server import read_state
from models_registry.engine.spec import Address

MOST_TIMES, MOST_LOSS, MOST_ADDED_MS = 2.0, 5.0, 15.0
TOKENS = 8  # of each answer beside a batch
STREAMS, WORDS, WORD_MS, PLACES = 100, 20, 100, 256  # of what the web server adds
PATH = "/chat/completions"


class Timed(NamedTuple):
    """Seconds until the first piece of text, and until the end."""

    first: float
    whole: float


Ask = Callable[[str], Coroutine[Any, Any, Timed]]


def run(options: Options) -> list[Row]:
    with scratch() as folder:
        model = options.model or demo_model(folder)
        with system(folder) as running:
            running.add_model(NAME, str(model), **{"max-model-len": 2048})
            running.run(mixed(folder / "warm-up.jsonl", options.size(64, 2), NAME, -1))
            rows = _beside_a_batch(running, folder, options)
    with scratch() as folder, scripted(folder, token_ms=WORD_MS, max_num_seqs=PLACES) as running:
        return [*rows, *asyncio.run(_added(running, options.size(20, 3)))]


def _beside_a_batch(running: System, folder: Path, options: Options) -> list[Row]:
    """One request a second, on an idle engine and while a batch runs; and the same batch without them."""
    idle = asyncio.run(_one_a_second(running, seconds=options.size(30, 3)))
    tell(f"idle engine: p95 {1000 * percentile(idle, 95):.0f} ms to the first token")
    busy: list[float] = []
    alone: list[float] = []
    beside: list[float] = []
    for turn in range(options.size(2 * options.pairs, 2)):
        path = mixed(folder / "in.jsonl", options.size(300, 8), NAME, turn // 2, turn)
        batch_id = running.create(running.upload(path))
        if turn % 4 in (1, 2):
            running.wait(batch_id, "in_progress")
            busy += asyncio.run(_one_a_second(running, beside=batch_id))
        rates = beside if turn % 4 in (1, 2) else alone
        rates.append(token_rate([running.wait(batch_id)]))
        tell(f"batch {'beside requests' if rates is beside else 'alone'}: {rates[-1]:,.1f} tokens/s")
    if not busy:
        raise BenchmarkError("The batches ended before a request was sent beside them.")
    times = percentile(busy, 95) / percentile(idle, 95)
    losses = [100 * (1 - with_them / without) for with_them, without in zip(beside, alone, strict=True)]
    note = f"p95 {1000 * percentile(busy, 95):,.0f} ms, median {1000 * median(busy):,.0f} ms, {len(busy)} requests"
    return [
        Row("first token beside a batch ÷ on an idle engine, p95", times, "×", at_most=MOST_TIMES, note=note),
        Row("first token on an idle engine, p95", 1000 * percentile(idle, 95), "ms"),
        Row("the batch loses at one request a second", median(losses), "%", at_most=MOST_LOSS, note=spread(losses)),
    ]


async def _one_a_second(running: System, seconds: float = 0, beside: str = "") -> list[float]:
    """Seconds to the first token of each, for so long, or as long as this batch runs. The first is not counted."""

    def goes_on() -> bool:
        return "finalizing" not in running.look(beside).at if beside else time.monotonic() - started < seconds

    begun: list[asyncio.Task[Timed]] = []
    started = time.monotonic()
    async with _through_the_web(running, NAME, TOKENS) as ask:
        await ask("warm")
        while goes_on():
            number = random.randrange(10**9)
            begun.append(asyncio.create_task(ask(f"{number} What is a {SAID.split()[number % 30]}?")))
            await asyncio.sleep(1)
        return [(await one).first for one in begun]


async def _added(running: System, seconds: float) -> list[Row]:
    """Streams through the web server, and the same directly from the engine's socket, in turn."""
    through: list[Timed] = []
    directly: list[Timed] = []
    for turn in range(4):
        if turn in (1, 2):
            async with _through_the_web(running, "scripted") as ask:
                through += await _many(ask, seconds / 2)
        else:
            async with _directly(running) as ask:
                directly += await _many(ask, seconds / 2)
    rows = []
    for name, of in (("first token", lambda one: one.first), ("whole answer", lambda one: one.whole)):
        ours, theirs = 1000 * median(map(of, through)), 1000 * median(map(of, directly))
        note = f"{ours:,.0f} against {theirs:,.0f} ms, {len(through):,} and {len(directly):,} requests"
        rows.append(
            Row(
                f"{STREAMS} streams at once: the web adds to the {name}, median",
                ours - theirs,
                "ms",
                at_most=MOST_ADDED_MS,
                note=note,
            )
        )
    return rows


async def _many(ask: Ask, seconds: float) -> list[Timed]:
    """By so many clients, each asking again at once; the first round is not counted."""
    text = " ".join((SAID.split() * 2)[:WORDS])
    timed: list[Timed] = []
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(WORDS * WORD_MS / 1000 * number / STREAMS)
        await ask(text)
        while time.monotonic() < end:
            timed.append(await ask(text))

    await asyncio.gather(*(client(number) for number in range(STREAMS)))
    return timed


@asynccontextmanager
async def _through_the_web(running: System, model: str, tokens: int = 0) -> AsyncIterator[Ask]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield _asker(session, Address(f"{running.stack.url}/v1", key=running.key), model, tokens)


@asynccontextmanager
async def _directly(running: System) -> AsyncIterator[Ask]:
    engine = read_state(running.stack.data / "run" / "gpu")
    if engine is None:
        raise BenchmarkError("No engine is loaded.")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(engine.address.socket, limit=0)) as session:
        yield _asker(session, engine.address, "scripted", 0)


def _asker(session: aiohttp.ClientSession, address: Address, model: str, tokens: int) -> Ask:
    headers = {"Authorization": f"Bearer {address.key}", "Content-Type": "application/json"}
    limits = {"max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True, "temperature": 0} if tokens else {}

    async def ask(text: str) -> Timed:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True}
        sent, first = time.monotonic(), None
        async with session.post(address.url + PATH, data=orjson.dumps(body | limits), headers=headers) as response:
            if response.status != 200:
                raise BenchmarkError(f"{address} answers {await response.text()}")
            async for line in response.content:
                if first is None and line.startswith(b"data: {"):
                    choices = orjson.loads(line[6:])["choices"]
                    first = time.monotonic() - sent if choices and choices[0]["delta"].get("content") else None
        if first is None:
            raise BenchmarkError(f"{address} sent no text.")
        return Timed(first, time.monotonic() - sent)

    return ask

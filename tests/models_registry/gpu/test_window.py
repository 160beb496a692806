"""The window follows the engine's own figures: the rule by itself, and on the scripted engine."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import timedelta

import pytest
from aiohttp import web
from django.utils import timezone

from models_registry.api.wire import gpu_object
from models_registry.engine import server
from models_registry.engine.client import Call, Client, Limits
from models_registry.engine.remote.pool import START, Pool
from models_registry.engine.server import Engine
from models_registry.engine.spec import Address, EngineKind, EngineSpec
from models_registry.engine.watch import figures
from models_registry.engine.watch.figures import Figures
from models_registry.gpu import window, worker_process
from models_registry.gpu.window import Sizing, Window
from models_registry.models import Worker
from models_registry.pages.machines import machines
from tests.engines import line
from vbs.pages.viewer import Viewer

PLACES, USUAL = 256, 320


def seen(running: int = PLACES, waiting: int = 64, cache: float = 0.5, preempted: int = 0) -> Figures:
    return Figures(running, waiting, cache, preempted, tokens=0)


@pytest.fixture
def sizing() -> Sizing:
    made = Sizing(PLACES, USUAL, most=4 * USUAL)
    made.take(seen(), USUAL)
    return made


def test_a_full_engine_with_a_short_queue_keeps_its_window(sizing: Sizing) -> None:
    for _ in range(50):
        sizing.take(seen(), USUAL)
    assert (sizing.size, sizing.why) == (USUAL, "")


def test_it_grows_while_the_engines_queue_runs_dry_although_the_window_is_full(sizing: Sizing) -> None:
    sizes = []
    for _ in range(40):
        sizing.take(seen(sizing.size, 0), sizing.size)
        sizes.append(sizing.size)
    assert sizes[0] == USUAL, "one look may be a chance"
    assert sizes == sorted(sizes) and sizes[-1] == 4 * USUAL
    assert sizing.why == "its queue ran dry with less"


@pytest.mark.parametrize(
    ("figures", "in_flight"),
    [
        (seen(USUAL, 1), USUAL),  # the queue is not empty
        (seen(200, 0), 200),  # the batch has no more to send
        (seen(100, 0), USUAL),  # what is in flight is on its way to the engine and back, so more would be too
        (seen(USUAL, 0, cache=0.95), USUAL),  # the cache has no room for more
    ],
)
def test_it_does_not_grow_for_nothing(sizing: Sizing, figures: Figures, in_flight: int) -> None:
    for _ in range(20):
        sizing.take(figures, in_flight)
    assert sizing.size == USUAL


def test_it_shrinks_to_less_than_what_preempted_and_grows_again_slowly(sizing: Sizing) -> None:
    sizing.take(seen(180, 140, cache=1, preempted=10), USUAL)
    assert sizing.size == 171
    sizing.take(seen(90, 80, cache=1, preempted=50), USUAL)
    assert sizing.size == 85
    assert "its cache was too small" in sizing.why
    sizing.take(seen(80, 5, cache=0.95, preempted=50), 85)
    assert sizing.size == 85, "as long as the cache is full"
    for _ in range(10):
        sizing.take(seen(sizing.size, 0, cache=0.8, preempted=50), sizing.size)
    assert 90 < sizing.size < 100
    for number in range(100):
        sizing.take(seen(5, 0, cache=1, preempted=51 + number), sizing.size)
    assert sizing.size == window.LEAST


def test_once_it_is_back_nothing_is_said_of_it(sizing: Sizing) -> None:
    sizing.take(seen(90, 220, cache=1, preempted=10), USUAL)
    for _ in range(20):
        sizing.take(seen(sizing.size, 0, cache=0.2, preempted=10), sizing.size)
    assert sizing.size >= USUAL and "too small" not in sizing.why


def test_a_long_queue_in_the_engine_gets_no_more_until_it_is_short(sizing: Sizing) -> None:
    sizing.take(seen(100, 220), USUAL)
    assert sizing.size == 164, "what runs, and a queue of 64"
    sizing.take(seen(255, 64), USUAL)
    assert sizing.size == USUAL


def test_counters_that_begin_anew_are_no_preemptions(sizing: Sizing) -> None:
    sizing.take(seen(preempted=500), USUAL)
    shrunk = sizing.size
    sizing.take(seen(preempted=3), USUAL)
    assert sizing.size == shrunk < USUAL


def test_without_figures_it_is_what_suits_max_num_seqs(sizing: Sizing) -> None:
    sizing.take(seen(90, 220, cache=1, preempted=10), USUAL)
    shrunk = sizing.size
    sizing.take(None, USUAL)
    assert sizing.size == shrunk, "an answer may come late"
    for _ in range(window.LOST_LOOKS):
        sizing.take(None, USUAL)
    assert (sizing.size, sizing.why) == (USUAL, "")


def test_with_a_full_cache_people_find_a_place_at_once(sizing: Sizing) -> None:
    for _ in range(2):
        sizing.take(seen(100, 30, cache=0.95), 130, asked=True)
    assert sizing.size == 92, "eight of the places are kept"
    sizing.take(seen(100, 30, cache=0.5), 130, asked=True)
    assert sizing.size == 92


@pytest.mark.parametrize(("places", "free"), [(1, 0), (2, 1), (8, 2), (256, 8), (1024, 31)])
def test_places_that_are_kept(places: int, free: int) -> None:
    assert window.kept(places) == free


def text(**values: float) -> str:
    named = {"num_requests_running": 3.0, "num_requests_waiting": 0.0} | values
    lines = [f'vllm:{name}{{engine="0",model_name="a}} b"}} {value}\n' for name, value in named.items()]
    return "# HELP vllm:num_requests_running Of it.\n" + "".join(lines) + 'vllm:e2e_bucket{le="0.3"} 4.0\n'


def test_figures_are_read() -> None:
    found = text(kv_cache_usage_perc=0.25, num_preemptions_total=7, prompt_tokens_total=1e6, generation_tokens_total=2)
    assert figures.read(found) == Figures(3, 0, 0.25, 7, 1_000_002)
    assert figures.read(found + found) == Figures(6, 0, 0.25, 14, 2_000_004), "of two engines"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "<html>",
        "vllm:num_requests_running 3",
        text(num_requests_waiting=float("nan")),
        text().replace("3.0", "x"),
        text(num_preemptions_total=-1),
    ],
)
def test_nonsense_is_no_figures(wrong: str) -> None:
    assert figures.read(wrong) is None


@pytest.fixture
def started(home, monkeypatch):
    """Starts scripted engines with these options; figures are looked at ten times as often."""
    monkeypatch.setattr(window, "LOOK_SECONDS", 0.1)
    engines = []

    def start(**options) -> Engine:
        spec = EngineSpec("model", "", kind=EngineKind.SCRIPTED, args=tuple(options.items()))
        engines.append(server.start(spec, home, 30, lambda doing: None))
        return engines[-1]

    yield start
    for engine in engines:
        server.stop(engine, home, grace=0)


async def run(
    engine: Engine,
    text: str,
    most: int,
    size: Callable[[Window], int],
    enough: Callable[[Window], bool] = lambda of: False,
) -> tuple[float, Window]:
    """Send this text so often, or until it is enough, in the window of this size. Returns the answers per second."""
    client = Client(engine, Limits())
    of = Window(engine, lambda: len(client.in_flight))
    answered, statuses = asyncio.Event(), []

    async def calls() -> AsyncIterator[Call]:
        for number in range(most):
            if enough(of):
                return
            while len(client.in_flight) >= size(of):
                answered.clear()
                await answered.wait()
            body = {"model": "model", "messages": [{"role": "user", "content": text}]}
            yield Call(number, "/chat/completions", json.dumps(body).encode())

    following = asyncio.create_task(of.follow())
    began = time.monotonic()
    async with aclosing(client.answers(calls(), of.most)) as answers:
        async for answer in answers:
            statuses.append(answer.status)
            answered.set()
    assert set(statuses) == {200}
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    return len(statuses) / (time.monotonic() - began), of


def test_where_the_cache_is_small_less_is_preempted_and_more_is_answered(started) -> None:
    rates, preempted = [], []
    for size in (lambda of: of.sizing.usual, lambda of: of.size):
        engine = started(**{"max-num-seqs": 64, "kv-tokens": 1500, "token-ms": 1, "read-ms": 0.1})
        rate, of = asyncio.run(run(engine, "[[words 100]]", 250, size))
        rates.append(rate)
        told = figures.ask(engine.address, 5)
        assert told
        preempted.append(told.preempted)
    assert preempted[1] < preempted[0] / 2
    assert rates[1] > 1.1 * rates[0]
    assert window.LEAST < of.size < 64


def test_an_engine_that_takes_more_than_we_thought_gets_more(started) -> None:
    engine = started(**{"max-num-seqs": 64, "latency-ms": 100})
    engine.max_num_seqs = 8
    _, of = asyncio.run(run(engine, "hello", 10_000, lambda of: of.size, lambda of: of.size == of.most))
    assert of.size == of.most == 40


def test_places_are_kept_for_a_minute_after_somebody_asked() -> None:
    engine = Engine(EngineSpec("model", ""), Address(""), 256, pid=None)
    asked = None
    of = Window(engine, asked_at=lambda: asked)
    assert (of.size, of.why) == (USUAL, "")
    asked = timezone.now()
    assert (of.size, of.why) == (248, "places are kept for those who ask it directly")
    asked = timezone.now() - timedelta(minutes=2)
    assert of.size == USUAL


def test_a_remote_engine_has_what_its_addresses_bear() -> None:
    spec = EngineSpec("model", "http://a/v1", kind=EngineKind.REMOTE)
    pool = Pool([Address("http://a/v1"), Address("http://b/v1")], most=100)
    of = Window(Engine(spec, Address("http://a/v1"), 200, pool=pool), asked_at=timezone.now)
    assert (of.size, of.most, of.why) == (2 * START, 200, "")
    for one in pool.addresses:
        one.busy(time.monotonic(), 429, 60)
    assert (of.size, of.why) == (1, "it answered 429 and asked for patience")


def test_a_worker_tells_of_its_window(add_model, gpu, monkeypatch) -> None:
    asked = None
    monkeypatch.setattr(worker_process, "GPU", gpu)

    def beat() -> str:
        gpu.worker.set(health=worker_process._reading())
        (shown,) = machines(Worker.objects.all(), Viewer(frozenset(), None)).children[0].context["workers"]
        return shown.window

    assert beat() == ""
    engine = gpu.load(add_model(**{"max-num-seqs": 256}), lambda words: None)
    gpu.window = Window(engine, asked_at=lambda: asked)
    assert beat() == "320 requests at once"
    asked = timezone.now()
    assert beat() == "248 requests at once, not 320: places are kept for those who ask it directly"
    assert gpu_object(gpu.worker)["window"]["size"] == 248


def test_a_turn_tells_of_its_window_while_it_lasts(add_model, submitted, gpu, close, monkeypatch) -> None:
    """The batch has more lines than an engine takes at once, whose cache holds few of them."""
    monkeypatch.setattr(window, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(worker_process, "GPU", gpu)
    readings = []
    take = Sizing.take

    def taken(*arguments) -> None:
        take(*arguments)
        readings.append(worker_process._reading()["window"])

    monkeypatch.setattr(Sizing, "take", taken)
    add_model(**{"max-num-seqs": 64, "kv-tokens": 1000, "token-ms": 2, "read-ms": 0.1})
    batch = submitted([line(f"{number}", "[[words 100]]") for number in range(150)])
    gpu.serve()
    assert len(close(batch)[0]) == 150
    assert readings[0] == {"size": 80, "usual": 80, "why": ""}
    assert min(reading["size"] for reading in readings) < 40
    assert any("its cache was too small" in reading["why"] for reading in readings)
    assert worker_process._reading()["window"] is None


@pytest.mark.parametrize("answer", ["absent", "garbage", "slow", "gone"])
def test_an_engine_without_figures_keeps_its_window(home, monkeypatch, answer: str) -> None:
    async def metrics(request: web.Request) -> web.Response:
        if answer == "slow":
            await asyncio.sleep(0.2)
        if answer == "garbage":
            return web.Response(body=b"vllm:num_requests_running \xff\n" * 1000)
        raise web.HTTPNotFound

    async def followed() -> Window:
        app = web.Application()
        app.router.add_get("/metrics", metrics)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        if answer != "gone":
            await web.UnixSite(runner, str(home / "socket")).start()
        engine = Engine(
            EngineSpec("model", ""), Address("http://engine/v1", str(home / "socket"), "key"), 256, os.getpid()
        )
        of = Window(engine)
        following = asyncio.create_task(of.follow())
        await asyncio.sleep(0.5)
        assert not following.done()
        following.cancel()
        await asyncio.wait((following,))
        await runner.cleanup()
        return of

    monkeypatch.setattr(window, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(window, "ANSWER_SECONDS", 0.02)
    of = asyncio.run(followed())
    assert (of.size, of.why) == (USUAL, "")
    assert of.sizing._lost >= window.LOST_LOOKS, "it has gone on asking"

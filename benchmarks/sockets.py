"""Pages that are looked at: how soon a change is on the screen, and what 200 open pages cost the batch they show."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import aiohttp

from benchmarks.browser import SEEN, Browser
from benchmarks.rows import BenchmarkError, Options, Row, median, percentile, spread
from benchmarks.system import Run, System, scratch, scripted, tell
from benchmarks.workload import plain

ONE_PAGE = "/batches/{id}/"  # of one batch; where there is none yet, that of all batches is looked at
ALL_PAGE = "/batches/"
SOCKETS = 200
MOST_SECONDS = 1.0
MOST_SLOWER = 3.0
OPENED_AT_ONCE = 8  # people do not come all in one moment, and a handshake that takes 5 s is given up
APART = 0.7  # seconds between two changes: longer than a room rests


def run(options: Options) -> list[Row]:
    changes, sockets = options.size(50, 3), options.size(SOCKETS, 5)
    count, pairs = options.size(50_000, 1_000), options.size(options.pairs, 1)
    with scratch() as folder, scripted(folder) as system:
        browser = Browser(system)
        try:
            path = plain(folder / "in.jsonl", count)
            rows = asyncio.run(_latency(system, browser, folder, changes))
            rows += _load(system, browser, path, count, sockets, pairs)
        finally:
            browser.close()
    return rows


# How soon


async def _latency(system: System, browser: Browser, folder: Path, count: int) -> list[Row]:
    """From before the commit that changes a batch's row until the push that shows it has come."""
    batch_id = system.create(system.upload(plain(folder / "one.jsonl", 1)))
    system.wait(batch_id)
    page = _page(browser, batch_id)
    waits = []
    async with (
        aiohttp.ClientSession(headers=browser.socket_headers) as session,
        session.ws_connect(_socket(browser, page)) as socket,
    ):
        await socket.send_json({"seen": SEEN.findall(browser.get(page).text)})
        for number in range(count):
            await _drained(socket, APART + number % 10 / 20)  # in step with nothing
            total = 1_000_000 + number
            began = time.monotonic()
            statement = b"UPDATE batches_batch SET total = %s WHERE id = %s"
            await asyncio.to_thread(system.database.execute, statement, [total, batch_id])
            while f"{total:,}" not in await socket.receive_str(timeout=20):
                pass
            waits.append(time.monotonic() - began)
    tell(", ".join(f"{1000 * wait:.0f}" for wait in waits) + " ms")
    note = f"{count} changes of a batch, seen at {page.replace(batch_id, '{id}')}"
    return [
        Row("Commit to push, median", 1000 * median(waits), "ms", at_most=1000 * MOST_SECONDS, note=note),
        Row("Commit to push, p99", 1000 * percentile(waits, 99), "ms", at_most=1000 * MOST_SECONDS),
    ]


async def _drained(socket: "aiohttp.ClientWebSocketResponse", seconds: float) -> None:
    """Take what comes for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            await socket.receive(timeout=left)
        except TimeoutError:
            return


def _page(browser: Browser, batch_id: str) -> str:
    page = ONE_PAGE.format(id=batch_id)
    if (status := browser.get(page).status_code) == 200:
        return page
    tell(f"{page} answers {status}: {ALL_PAGE} is looked at instead")
    return ALL_PAGE


def _socket(browser: Browser, page: str) -> str:
    return f"{browser.url.replace('http', 'ws', 1)}{page}live"


# What it costs


def _load(system: System, browser: Browser, path: Path, count: int, sockets: int, pairs: int) -> list[Row]:
    """Of each pair one is looked at, first or second in turns. Its pages are open before its first request runs."""
    file_id = system.upload(path)
    rates: dict[bool, list[float]] = {False: [], True: []}
    pushes = 0
    for number in range(pairs):
        for looked_at in (number % 2 == 1, number % 2 == 0):
            batch_id = _held(system, file_id)
            if looked_at:
                with looking(browser, _page(browser, batch_id), sockets) as seen:
                    batch = _released(system, batch_id)
                pushes += seen.pushes
            else:
                batch = _released(system, batch_id)
            rates[looked_at].append(count / batch.seconds("in_progress", "completed"))
            tell(f"{'looked at' if looked_at else 'alone'}: {rates[looked_at][-1]:,.0f} requests/s")
    slower = [100 * (1 - with_them / without) for without, with_them in zip(rates[False], rates[True], strict=True)]
    note = f"{spread(slower, 1)}; {pushes / pairs / sockets:.0f} pushes to each"
    return [
        Row(f"{sockets} open pages: slower by", median(slower), "%", at_most=MOST_SLOWER, note=note),
        Row("looked at by them", median(rates[True]), "requests/s", note=spread(rates[True], 0)),
        Row("looked at by nobody", median(rates[False]), "requests/s", note=spread(rates[False], 0)),
    ]


def _held(system: System, file_id: str) -> str:
    """A batch that no worker takes up until it is released: they take its lease for one of somebody else."""
    batch_id = system.create(file_id)
    hold = b"UPDATE batches_batch SET leased_until = now() + interval '1 hour' WHERE id = %s AND leased_by IS NULL"
    if not system.database.execute(hold, [batch_id]).rowcount:
        raise BenchmarkError(f"{batch_id} was taken up before it could be held.")
    system.wait(batch_id, "validated")
    return batch_id


def _released(system: System, batch_id: str) -> Run:
    system.database.execute(b"UPDATE batches_batch SET leased_until = NULL WHERE id = %s", [batch_id])
    system.manage("shell", "-v", "0", "-c", "from vbs.broker import wake; wake('gpu')")
    return system.wait(batch_id)


class Looking:
    """So many sockets of one page, in a thread with a loop of its own."""

    def __init__(self, url: str, headers: dict[str, str], seen: list[str], count: int) -> None:
        self.url, self.headers, self.seen, self.count = url, headers, seen, count
        self.pushes, self.open = 0, 0
        self.error: BaseException | None = None
        self.ready = Event()

    def work(self) -> None:
        self.loop = asyncio.new_event_loop()
        try:
            self.loop.run_until_complete(self._look())
        except BaseException as error:
            self.error = error
        finally:
            self.ready.set()

    async def _look(self) -> None:
        self.stop = asyncio.Event()
        self.opening = asyncio.Semaphore(OPENED_AT_ONCE)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(headers=self.headers, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(self._socket(session)) for _ in range(self.count)]
            await self.stop.wait()
            for task in tasks:
                task.cancel()

    async def _socket(self, session: aiohttp.ClientSession) -> None:
        async with self.opening:
            socket = await session.ws_connect(self.url)
        async with socket:
            await socket.send_json({"seen": self.seen})
            self.open += 1
            if self.open == self.count:
                self.ready.set()
            async for message in socket:
                self.pushes += message.type == aiohttp.WSMsgType.TEXT
            raise BenchmarkError(f"A socket of {self.url} was closed with {socket.close_code}.")


@contextmanager
def looking(browser: Browser, page: str, count: int) -> Iterator[Looking]:
    """Raises BenchmarkError when not all could be opened, or one was closed meanwhile."""
    seen = SEEN.findall(browser.get(page).text)
    looked = Looking(_socket(browser, page), browser.socket_headers, seen, count)
    thread = Thread(target=looked.work, name="sockets", daemon=True)
    thread.start()
    try:
        if not looked.ready.wait(60) or looked.error:
            raise BenchmarkError(f"Of {count} sockets {looked.open} could be opened: {looked.error!r}")
        yield looked
    finally:
        if not looked.error:
            looked.loop.call_soon_threadsafe(looked.stop.set)
        thread.join(20)
    if looked.error:
        raise BenchmarkError(f"The sockets did not stay open: {looked.error!r}")

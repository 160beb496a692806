"""Pages over 100,000 batches and 5,000,000 requests: how long each takes to answer, and how much a first visit loads.

One after the other, over one connection, on a machine where nothing else runs: what is measured is the server's work.
"""

import time
from typing import Any
from urllib.parse import urlencode

from benchmarks.browser import Browser
from benchmarks.rows import Options, Row, median, percentile
from benchmarks.seed import seed
from benchmarks.system import System, scratch, system, tell

MOST_MS = 150.0
MOST_KB = 100.0
PATIENCE_MS = 30_000.0  # a page that takes so long is not asked often


def run(options: Options) -> list[Row]:
    batches, requests = options.size(100_000, 2_000), options.size(5_000_000, 20_000)
    with scratch() as folder, system(folder) as running:
        began = time.monotonic()
        seed(running.database, batches, requests)
        tell(f"{batches:,} batches and about {requests:,} requests made in {time.monotonic() - began:.0f} s")
        browser = Browser(running)
        try:
            rows = [
                row
                for name, address in _addresses(running)
                if (row := _timed(browser, name, address, options.size(100, 5)))
            ]
            rows += _loaded(browser, ("/", "/batches/"))
        finally:
            browser.close()
    return rows


def _addresses(running: System) -> list[tuple[str, str]]:
    """What is asked for, and what it is called in the table."""
    (project,) = _one(running, "SELECT min(id) FROM accounts_project WHERE name LIKE 'seeded %'")
    large, total = _one(running, "SELECT id, total FROM batches_batch ORDER BY total DESC, id LIMIT 1")
    (middle,) = _one(
        running, "SELECT id FROM batches_batch ORDER BY id OFFSET (SELECT count(*) / 2 FROM batches_batch)"
    )
    filters = {
        "a state": {"state": "failed"},
        "live": {"state": "live"},
        "a common model": {"model": "common"},
        "a rare model": {"model": "rare"},
        "a common word": {"words": "nightly"},
        "a rare word": {"words": "dataset-77"},
        "no such word": {"words": "absent"},
        "a project and a state": {"project": str(project), "state": "cancelled"},
        "from the middle": {"before": middle},
    }
    searches = {
        "a word of all": "word",
        "a word of few": "seldom77",
        "a word of one": f"{total - 7}",
        "the beginning of a word": "sel",
        "a phrase": f'"word {total // 2}"',
        "no such word": "absent",
    }
    return [
        *((one, one) for one in ("/", "/queue/", "/batches/")),
        *((f"/batches/, {name}", f"/batches/?{urlencode(query)}") for name, query in filters.items()),
        (f"one batch of {total:,}", f"/batches/{large}/"),
        ("its requests", f"/batches/{large}/requests"),
        *(
            (f"its requests, {name}", f"/batches/{large}/requests?{urlencode({'words': words})}")
            for name, words in searches.items()
        ),
        ("its last request", f"/batches/{large}/requests/{total}"),
        *((one, one) for one in ("/batches/new", "/models/", "/system/", "/system/log", "/system/audit", "/help/")),
    ]


def _one(running: System, statement: str) -> tuple[Any, ...]:
    row = running.database.execute(statement.encode()).fetchone()
    assert row is not None
    return row


def _timed(browser: Browser, name: str, address: str, count: int) -> Row | None:
    """None for a page that there is not."""
    times = []
    for _ in range(count + 1):
        sent = time.monotonic()
        answer = browser.get(address)
        times.append(1000 * (time.monotonic() - sent))
        if answer.status_code != 200:
            tell(f"LEFT OUT: {address} answers {answer.status_code}, so {name} was not measured")
            return None
        if sum(times) > PATIENCE_MS:
            break
    first, times = times[0], times[1:] or times
    tell(f"{name}: {median(times):.0f} ms, p99 {percentile(times, 99):.0f} ms")
    note = f"p99 {percentile(times, 99):.0f} ms, the first time {first:.0f} ms; {len(times)} times"
    return Row(f"{name}, median", median(times), "ms", at_most=MOST_MS, note=note)


def _loaded(browser: Browser, addresses: tuple[str, ...]) -> list[Row]:
    rows = []
    for address in addresses:
        if browser.get(address).status_code == 200:
            sizes = browser.first_visit(address)
            note = ", ".join(f"{name} {size / 1000:.1f}" for name, size in sizes.items())
            rows.append(Row(f"{address}, first visit", sum(sizes.values()) / 1000, "kB", at_most=MOST_KB, note=note))
    return rows

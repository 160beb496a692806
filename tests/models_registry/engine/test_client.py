"""The client of an engine: a window of calls, each answered once, whatever becomes of the engine."""

import asyncio
import contextlib
import json

import httpx2
import pytest

from models_registry.engine import control
from models_registry.engine.client import Call, Client, EngineDied, Limits
from tests.models_registry.engine.started import calls, collect, spec, until


def test_every_call_is_answered_and_the_window_is_kept(start, home):
    engine = start(spec(journal=f"{home}/journal", **{"latency-ms": 5}))
    answers = collect(engine, [f"{n}" for n in range(50)])
    assert sorted(one.key for one in answers) == list(range(50)) and {one.status for one in answers} == {200}


def test_no_calls_at_all(start):
    assert collect(start(), []) == []


def test_a_death_names_what_was_in_flight(start):
    engine = start()
    with pytest.raises(EngineDied) as died:
        collect(engine, ["[[hang]]", "[[hang]]", "[[delay-ms 300]]", "[[crash]]"])
    assert sorted(died.value.in_flight) == [0, 1, 2, 3]


def test_stopping_in_the_middle_aborts_what_runs(start):
    engine = start()

    async def run():
        async with contextlib.aclosing(
            Client(engine, Limits()).answers(calls("a", "[[hang]]", "[[hang]]", "[[hang]]"), 4)
        ) as answers:
            async for _ in answers:
                break

    asyncio.run(run())

    def aborted():
        with contextlib.suppress(httpx2.HTTPError):
            return json.loads(control.request(engine.address, "GET", "/stats")[1])["aborted"]

    until(lambda: aborted() == 3)


def test_an_error_of_the_source_reaches_the_caller(start):
    async def broken():
        yield Call(0, "/chat/completions", b'{"model": "one", "messages": []}')
        raise ZeroDivisionError

    async def run():
        return [one async for one in Client(start(), Limits()).answers(broken(), 2)]

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())

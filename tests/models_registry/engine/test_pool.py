"""A remote model with several addresses: who gets the next call, how many at once, and what happens when one fails.

The servers are scripted engines on ports of this machine, which fail as each test wants.
"""

import asyncio
import email.utils
import json
import os
import signal
import time

import httpx2
import pytest

from models_registry.engine import client
from models_registry.engine.client import Answer, Call, Client, Limits
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.remote import pool, servers
from models_registry.engine.remote.pool import AddressState, Pool, PoolAddress, retry_after
from models_registry.engine.spec import Address, EngineKind, EngineSpec
from tests.hostile import http, serving
from tests.models_registry.engine.started import scripted


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(pool, "HOLD_SECONDS", 0.02)
    monkeypatch.setattr(pool, "HOLD_MOST", 0.1)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.02)


def stats(url):
    return httpx2.get(url.removesuffix("/v1") + "/stats").json()


def engine(*urls, most=64):
    spec = EngineSpec("far", urls[0], kind=EngineKind.REMOTE, private=True, pool=urls[1:])
    return servers.remote(spec, {}, most)


async def calls(texts):
    for number, text in enumerate(texts):
        body = {"model": "far", "messages": [{"role": "user", "content": text}]}
        yield Call(number, "/chat/completions", json.dumps(body).encode())


def ask(remote, texts, window=64, **limits) -> list[Answer]:
    async def run():
        return [one async for one in Client(remote, Limits(**limits)).answers(calls(texts), window)]

    return sorted(asyncio.run(run()), key=lambda one: one.key)


def test_all_addresses_get_calls():
    with scripted("--latency-ms", "20") as (_, one), scripted("--latency-ms", "20") as (_, other):
        answers = ask(engine(one, other), [f"{n}" for n in range(300)])
        assert {answer.status for answer in answers} == {200} and len(answers) == 300
        shares = [stats(url)["answered"] for url in (one, other)]
        assert min(shares) > 90, shares


def test_one_that_dies_loses_nothing():
    with scripted("--latency-ms", "30") as (process, one), scripted("--latency-ms", "30") as (_, other):
        remote = engine(one, other)

        async def run():
            answers = []
            async for answer in Client(remote, Limits()).answers(calls([f"{n}" for n in range(200)]), 64):
                answers.append(answer)
                if len(answers) == 40:
                    process.kill()
            return answers

        answers = asyncio.run(run())
        assert len(answers) == 200 and {answer.status for answer in answers} == {200}
        assert [one.state for one in remote.pool.addresses] == [AddressState.LOST, AddressState.OPEN]


def test_one_that_is_there_again_gets_calls_again():
    with serving() as first, scripted("--latency-ms", "20") as (_, other):
        good = http(json.dumps({"choices": [{"message": {"content": "ok"}}]}).encode())
        first.answers = {"*": http(b"{}"), "/v1/chat/completions": b""}  # it closes the connection
        remote = engine(first.url, other)

        async def run():
            count = 0
            async for answer in Client(remote, Limits()).answers(calls([f"{n}" for n in range(400)]), 64):
                assert answer.status == 200
                count += 1
                if count == 50:
                    first.answers["/v1/chat/completions"] = good
            return count

        assert asyncio.run(run()) == 400
        assert remote.pool.addresses[0].state is AddressState.OPEN
        assert len(first.bodies) > 20


def test_one_that_hangs_is_noticed_and_its_calls_go_elsewhere(monkeypatch):
    """It accepts and never answers: its process is stopped, with calls in flight."""
    monkeypatch.setattr(pool, "QUIET_SECONDS", 0.3)
    monkeypatch.setattr(client, "PROBE_SECONDS", 0.2)
    with scripted("--latency-ms", "50") as (process, one), scripted("--latency-ms", "50") as (_, other):
        remote = engine(one, other)

        async def run():
            answers = []
            async for answer in Client(remote, Limits()).answers(calls([f"{n}" for n in range(200)]), 64):
                answers.append(answer)
                if len(answers) == 20:
                    os.kill(process.pid, signal.SIGSTOP)
            return answers

        began = time.monotonic()
        answers = asyncio.run(run())
        assert len(answers) == 200 and {answer.status for answer in answers} == {200}
        assert time.monotonic() - began < 15
        assert remote.pool.addresses[0].state is AddressState.LOST
        assert remote.pool.addresses[0].why == "it gives no sign of life"


def test_an_engine_that_hangs_behind_a_server_that_answers(monkeypatch):
    """Its list of models comes, but no answer: the lane's own latency says that it takes too long."""
    monkeypatch.setattr(pool, "SLOW_SECONDS", 0.5)
    with serving() as hostile, scripted("--latency-ms", "20") as (_, other):
        hostile.of_body = lambda body: hostile.drip(b"", b"")
        answers = ask(engine(hostile.url, other), [f"{n}" for n in range(150)])
        assert len(answers) == 150 and {answer.status for answer in answers} == {200}


def test_a_storm_of_429_uses_up_no_attempts(tmp_path):
    """Each request is refused more often than there are attempts."""
    with scripted("--counters") as (_, one):
        texts = [f"[[status-times 429 6 {tmp_path}/{n}]] {n}" for n in range(12)]
        answers = ask(engine(one), texts, attempts=2)
        assert {answer.status for answer in answers} == {200}


def test_a_storm_of_503_with_retry_after_uses_up_no_attempts():
    began = time.monotonic()
    good = http(b'{"choices": []}')
    with serving() as hostile:
        busy = http(b"{}", "Retry-After: 1", status="503 Busy")
        hostile.of_body = lambda body: busy if time.monotonic() - began < 1.5 else good
        answers = ask(engine(hostile.url), [f"{n}" for n in range(20)], attempts=1)
    assert {answer.status for answer in answers} == {200} and time.monotonic() - began > 1.5
    assert len(hostile.bodies) < 80, "it was left alone for as long as it asked"


def test_patience_has_an_end_where_one_is_given():
    with serving() as hostile:
        hostile.of_body = lambda body: http(b"{}", "Retry-After: 100", status="429 Busy")
        answers = ask(engine(hostile.url), ["a", "b"], patience=0.5)
    assert {answer.status for answer in answers} == {429}


def test_retry_after_holds_one_address_and_not_the_others():
    with serving() as hostile, scripted() as (_, other):
        hostile.of_body = lambda body: http(b"{}", "Retry-After: 3600", status="429 Busy")
        remote = engine(hostile.url, other)
        began = time.monotonic()
        answers = ask(remote, [f"{n}" for n in range(50)], attempts=1)
        assert {answer.status for answer in answers} == {200} and time.monotonic() - began < 10
        assert sum(map(bool, hostile.bodies)) <= pool.START, "nothing after its first answers"
        held = remote.pool.reading()[0]
        assert held.state == "held" and held.why == "it answered 429 and asked for patience"
        assert 3000 < held.until - time.time() <= 3600


def test_a_wrong_key_at_one_address_fails_no_call():
    with serving() as hostile, scripted() as (_, other):
        hostile.of_body = lambda body: http(b"{}", status="401 Unauthorized")
        answers = ask(engine(hostile.url, other), [f"{n}" for n in range(50)], attempts=1)
        assert {answer.status for answer in answers} == {200}


def test_a_model_is_loaded_when_one_of_its_addresses_answers(caplog):
    with scripted() as (_, there):
        remote = engine("http://127.0.0.1:9/v1", there)
        assert [one.state for one in remote.pool.addresses] == [AddressState.LOST, AddressState.OPEN]
        assert "Model far: one of its 2 addresses does not answer" in caplog.text
        assert {answer.status for answer in ask(remote, ["a", "b"])} == {200}
    with pytest.raises(LoadError, match=r"127.0.0.1:9/v1 cannot be reached"):
        engine("http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1")


def test_each_address_gets_the_key_of_its_origin():
    with serving() as one, serving() as other:
        spec = EngineSpec("far", one.url, kind=EngineKind.REMOTE, private=True, pool=(other.url,))
        remote = servers.remote(spec, {one.root: "for-one"}, 4)
        ask(remote, [f"{n}" for n in range(8)])
        assert set(one.keys()) == {"Bearer for-one"} and other.keys() == [] and other.bodies
        assert "for-one" not in repr(remote.pool.reading())


def test_no_address_is_asked_that_is_not_allowed(monkeypatch):
    """Neither when the model is loaded, nor when a name stands for another address later."""
    with serving() as one, serving() as other:
        spec = EngineSpec("far", one.url, kind=EngineKind.REMOTE, pool=(other.url,))
        with pytest.raises(LoadError, match="not a public address"):
            servers.remote(spec, {}, 4)
        monkeypatch.setattr(servers, "_not_reached", lambda url, keys, private: (None, False))
        answers = ask(servers.remote(spec, {}, 4), ["a"], attempts=3)
        assert [answer.error_code for answer in answers] == ["address_refused"]
        assert one.heard == other.heard == []


# The limit of one address, without a server.


def at_full(one, times):
    """So many answers come, each when as many calls are in flight as may be; its own place is given back before."""
    for _ in range(times):
        fill(one)
        one.in_flight -= 1
        one.answered(time.monotonic() - 0.1)


def fill(one):
    while one.in_flight < int(one.limit):
        one.count()


def test_the_limit_doubles_and_then_grows_by_one_a_round_trip():
    one = PoolAddress(Address("u"), most=100)
    at_full(one, pool.START)
    assert one.limit == 2 * pool.START
    one.busy(time.monotonic(), 429, None)
    assert one.limit == pool.START
    at_full(one, pool.START)
    assert pool.START + 0.9 < one.limit <= pool.START + 1
    at_full(one, 10_000)
    assert one.limit == 100


def test_the_limit_does_not_grow_when_it_is_not_used():
    one = PoolAddress(Address("u"))
    for _ in range(100):
        for _ in range(3):
            one.count()
        for _ in range(3):
            one.in_flight -= 1
            one.answered(time.monotonic())
    assert one.limit == pool.START


def test_the_limit_grows_as_well_when_the_answers_come_all_at_once():
    one = PoolAddress(Address("u"), most=200)
    for limit in (32, 64, 128, 200, 200):
        fill(one)
        for _ in range(one.in_flight):
            one.in_flight -= 1
            one.answered(time.monotonic() - 1.5)
        assert one.limit == limit


def test_after_a_storm_half_of_what_was_borne_is_found_again_soon():
    one = PoolAddress(Address("u"), most=64)
    at_full(one, 48)
    assert one.limit == 64
    while one.limit > 1:
        one.busy(time.monotonic(), 503, None)
    at_full(one, 31)
    assert one.limit == 32, "one more with each answer"
    at_full(one, 32)
    assert 32.9 < one.limit < 33.1, "and one with each round trip from there"


def test_calls_grow_to_what_is_allowed():
    with scripted("--latency-ms", "100") as (_, url):
        remote = engine(url)
        answers = ask(remote, [f"{n}" for n in range(500)])
        assert {answer.status for answer in answers} == {200}
        assert remote.pool.addresses[0].limit == 64


def test_the_limit_is_halved_once_a_round_trip():
    one = PoolAddress(Address("u"))
    sent = time.monotonic()
    for _ in range(pool.START):
        one.busy(sent, 503, None)
    assert one.limit == pool.START / 2
    one.lose(time.monotonic(), "the connection was lost")
    assert one.limit == pool.START / 4 and one.state is AddressState.LOST
    for _ in range(20):
        one.lose(time.monotonic(), "the connection was lost")
    assert one.limit == 1


def test_what_an_address_has_borne_before_it_was_lost_is_found_again_soon():
    one = PoolAddress(Address("u"), most=100)
    at_full(one, 44)
    assert one.limit == 60
    for _ in range(3):  # it is lost, and its trials fail
        one.lose(time.monotonic(), "the connection was lost")
        one.heard()
    assert one.limit == 7.5
    at_full(one, 53)
    assert one.limit == 60.5, "one more with each answer"
    at_full(one, 60)
    assert 61 < one.limit < 62, "and one with each round trip from there"


def test_a_lost_address_gets_one_call_before_it_gets_more():
    one = PoolAddress(Address("u"))
    one.lose(time.monotonic(), "the connection was lost")
    assert one.free(time.monotonic() + 3600) == 0, "it has to be heard first"
    one.heard()
    assert one.state is AddressState.TRIAL and one.free(time.monotonic()) == 1
    one.in_flight = 1
    assert one.free(time.monotonic()) == 0
    one.answered(time.monotonic())
    assert one.state is AddressState.OPEN and one.free(time.monotonic()) == pool.START // 2 - 1


def test_the_limit_shrinks_gently_when_latency_rises(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pool.time, "monotonic", lambda: now[0])
    one = PoolAddress(Address("u"), most=64)

    def round_trip(seconds):
        for _ in range(int(one.limit) + 1):
            fill(one)
            one.in_flight -= 1
            one.answered(now[0] - seconds)

    for _ in range(3):
        round_trip(0.1)
    high = one.limit
    round_trip(1.0)
    assert 0.8 * high < one.limit < high
    for _ in range(3):
        round_trip(0.2)
    low = one.limit
    for _ in range(8):
        round_trip(5.0)  # longer answers from now on, whatever the limit is
    assert one.limit > 0.6 * low, "it learns that this is as fast as it gets"


def test_no_call_goes_to_the_same_address_twice_in_a_row():
    async def run():
        both = Pool([Address("a"), Address("b")])
        first = await both.take()
        second = await both.take([first])
        assert second is not first
        both.addresses[1].lose(time.monotonic(), "")
        assert await both.take([both.addresses[0]]) is both.addresses[0], "unless no other gets calls"
        both.addresses[0].lose(time.monotonic(), "")
        assert await both.take(seconds=0.01) is None

    asyncio.run(run())


@pytest.mark.parametrize(
    "said, seconds",
    [("3", 3), ("0", 0), ("999999999999", 3600), ("", None), ("soon", None), ("-1", None), ("nan", None), ("²", None)],
)
def test_retry_after(said, seconds):
    assert retry_after(said) == seconds


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < retry_after(date) <= 30
    assert retry_after(email.utils.formatdate(0, usegmt=True)) == 0
    assert retry_after(email.utils.formatdate(time.time() + 10**6, usegmt=True)) == pool.MOST_ASKED

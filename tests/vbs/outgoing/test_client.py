"""What goes out: connected to the address that was checked, no further than it was sent, no more than was asked for."""

import asyncio
import gzip
import time

import aiohttp
import httpx2
import pytest

from tests.hostile import http, names
from vbs.outgoing import client as outgoing
from vbs.outgoing.client import AddressError, AsyncTransport, Rule, SendError, Transport, send


def test_one_request(hostile):
    hostile.answers["/v1/x"] = http(b"hello", "X-Some: thing", status="418 Teapot")
    reply = send("POST", f"{hostile.url}/x", headers={"X-Ours": "1"}, body=b"{}", private=True)
    assert (reply.status, reply.body, reply.headers["x-some"]) == (418, b"hello", "thing")
    assert hostile.heard[0].startswith("POST /v1/x HTTP/1.1") and "X-Ours: 1" in hostile.heard[0]


def by_aiohttp(url, private=False):
    async def ask():
        session = aiohttp.ClientSession(connector=outgoing.connector(private))
        async with session, session.get(url, allow_redirects=False) as response:
            return response.status

    return asyncio.run(ask())


def by_httpx(url, private=False, **rule):
    with httpx2.Client(transport=Transport(Rule(private, **rule), 10), trust_env=False) as client:
        return client.get(url).status_code


def by_async_httpx(url, private=False, **rule):
    async def ask():
        async with httpx2.AsyncClient(transport=AsyncTransport(Rule(private, **rule)), trust_env=False) as client:
            return (await client.get(url)).status_code

    return asyncio.run(ask())


def by_send(url, private=False):
    return send("GET", url, private=private).status


WAYS = pytest.mark.parametrize("ask", [by_aiohttp, by_httpx, by_async_httpx, by_send])


@WAYS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_private_addresses_are_not_connected_to(hostile, ask, host):
    with pytest.raises(AddressError, match="not a public address"):
        ask(f"http://{host}:{hostile.port}/v1")
    assert hostile.heard == []


@WAYS
def test_where_they_are_allowed(hostile, ask):
    assert ask(hostile.url, private=True) == 200


@WAYS
def test_a_name_that_stands_for_something_else_by_now(hostile, monkeypatch, ask):
    """It is looked at when it is connected to, and what was looked at is what is connected to."""
    asked = names(monkeypatch, {"turncoat.example": ["93.184.215.14", "127.0.0.1"]})
    url = f"http://turncoat.example:{hostile.port}/v1"
    outgoing.check_url(url)
    with pytest.raises(AddressError, match=r"127.0.0.1, which is not a public"):
        ask(url)
    assert hostile.heard == [] and len(asked) == 2, "no look-up after the check"


@WAYS
def test_proxies_of_the_environment_are_left_alone(hostile, monkeypatch, ask):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, hostile.root)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AddressError):
        ask("http://127.0.0.1:9/v1")
    assert hostile.heard == []


@pytest.mark.parametrize("ask", [by_httpx, by_async_httpx])
def test_a_proxy_for_who_asks_for_it(hostile, monkeypatch, ask):
    monkeypatch.setenv("http_proxy", hostile.root.removeprefix("http://"))
    monkeypatch.setenv("no_proxy", "spared.example")
    assert ask("http://any.example/v1", proxies=True) == 200
    assert hostile.heard[0].startswith("GET http://any.example/v1")
    with pytest.raises(AddressError, match="not a public address"):
        ask("http://10.0.0.1/v1", proxies=True)
    with pytest.raises(AddressError, match="could not be resolved"):
        ask("http://spared.example/v1", proxies=True)


def test_an_own_server_may_be_anywhere_and_leads_nowhere_else(hostile):
    hostile.answers["/other"] = http(b"", "Location: http://localhost:9/v1", status="302 Found")
    own = ("127.0.0.1", hostile.port)
    assert by_httpx(hostile.url, own=own) == by_async_httpx(hostile.url, own=own) == 200
    client = httpx2.Client(transport=Transport(Rule(own=own), 10), follow_redirects=True)
    with client, pytest.raises(AddressError, match="localhost is at"):
        client.get(f"{hostile.root}/other")


def test_a_redirect_is_an_answer(hostile):
    hostile.answers["/v1/a"] = http(b"", f"Location: {hostile.url}/b", status="307 Temporary Redirect")
    assert send("POST", f"{hostile.url}/a", headers={"Authorization": "Bearer k"}, private=True).status == 307
    assert [head.split()[1] for head in hostile.heard] == ["/v1/a"]


def refused(hostile, answer, match, **limits):
    hostile.answers["*"] = answer
    began = time.monotonic()
    with pytest.raises(SendError, match=match):
        send("GET", hostile.url, private=True, **{"seconds": 1, "most_bytes": 1000} | limits)
    assert time.monotonic() - began < 4


def test_sizes_have_an_end(hostile):
    refused(hostile, http(b"x" * 1001), "more than 1,000 bytes")
    refused(hostile, hostile.flood(b"HTTP/1.1 200 OK\r\n\r\n"), "more than 1,000 bytes", seconds=5)
    refused(hostile, http(gzip.compress(b"0" * 10**6), "Content-Encoding: gzip"), "compressed .'gzip'")
    refused(hostile, hostile.flood(b"HTTP/1.1 200 OK\r\nX-Long: "), ".", seconds=5)
    refused(hostile, hostile.flood(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000), ".", seconds=5)


SLOW = "too long in all|timed out"


def test_times_have_an_end(hostile):
    """Also where something comes all the time."""
    refused(hostile, hostile.drip(b"", b""), SLOW)
    refused(hostile, hostile.drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"), SLOW)
    refused(hostile, hostile.drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), SLOW)
    refused(hostile, hostile.drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), SLOW)


@pytest.mark.parametrize(
    "answer",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"HTTP/1.1 999999 x\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_what_is_no_http(hostile, answer):
    refused(hostile, answer, ".")

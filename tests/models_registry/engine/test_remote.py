"""Engines that somebody else runs, and who may mean us no good."""

import asyncio
import socket
import time

import pytest

from batches.run.outcomes import outcome
from models_registry.catalog import add, sources
from models_registry.catalog.folders import ModelError
from models_registry.engine.client import Answer, Call, Client, Limits
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.remote import servers
from models_registry.engine.server import Engine
from models_registry.engine.spec import Address, EngineKind, EngineSpec
from models_registry.models import Model
from tests.hostile import http, names
from vbs.outgoing.addresses import origin

AWAY = ("Location: http://127.0.0.1:9/secret",)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("models_registry.engine.client.BACKOFF_SECONDS", 0.01)


def engine(url, private=True, key=""):
    spec = EngineSpec("far", url, kind=EngineKind.REMOTE, private=private)
    return Engine(spec, Address(url, key=key), 4)


def ask(remote, count=1, **limits) -> list[Answer]:
    async def calls():
        for number in range(count):
            yield Call(number, f"/{number}", b"{}", f"req_{number}")

    async def run():
        return [
            one async for one in Client(remote, Limits(**{"seconds": 2, "attempts": 2} | limits)).answers(calls(), 4)
        ]

    return sorted(asyncio.run(run()), key=lambda one: one.key)


def test_a_redirect_is_not_followed_and_read(hostile):
    """Otherwise whoever may add a model could read what only this machine can reach."""
    hostile.answers["/v1/0"] = http(b"", f"Location: {hostile.root}/secret", status="307 Temporary Redirect")
    (one,) = ask(engine(hostile.url, key="k"))
    assert (one.status, one.body) == (307, b"")
    assert [head.split()[1] for head in hostile.heard] == ["/v1/0"]


def test_the_address_is_looked_at_at_each_connection(hostile, monkeypatch):
    names(monkeypatch, {"turncoat.example": ["93.184.215.14", "127.0.0.1"]})
    model = f"http://turncoat.example:{hostile.port}/v1"
    sources.check_remote_url(model, on_server=True)
    (one,) = ask(engine(model, private=False, key="k"))
    assert (one.status, one.error_code) == (None, "address_refused") and "no public address" in one.error_message
    assert "turncoat" not in one.error_message and "127.0.0.1" not in one.error_message
    with pytest.raises(LoadError, match=r"not asked: turncoat.example is at 127.0.0.1.*VBS_PRIVATE_URLS"):
        servers.remote(EngineSpec("far", model, kind=EngineKind.REMOTE), {origin(model): "k"}, 4)
    assert hostile.heard == []


LOG = """\
(APIServer pid=6) INFO 11-27 12:00:00 [launcher.py:1] Started server process [6]
(EngineCore pid=7) ERROR 11-27 12:00:00 [__init__.py:208] Failed to compile grammar for request chatcmpl-req_0-0a1b2c3d
(EngineCore pid=7) ERROR 11-27 12:00:00 [__init__.py:208] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-27 12:00:00 [__init__.py:208]   File "backend.py", line 1, in compile_grammar
(EngineCore pid=7) ERROR 11-27 12:00:00 [__init__.py:208] ValueError: no items in the array
"""


def test_the_engine_s_log_says_why(hostile, tmp_path):
    """Of the request that it was, not of its neighbour; and it is not tried for ever."""
    hostile.answers["*"] = http(b'{"error": {"message": "Internal server error"}}', status="500 Error")
    ours = engine(hostile.url)
    ours.log = tmp_path / "engine.log"
    ours.log.write_text(LOG)
    one, other = ask(ours, count=2, attempts=5)
    assert (one.status, one.reason, other.reason) == (500, "ValueError: no items in the array", None)
    assert len(hostile.heard) == 4
    assert outcome(1, one, "m").error_message == (
        "Internal server error The engine's log says: ValueError: no items in the array"
    )
    assert outcome(1, other, "m").error_message == "Internal server error"


def test_a_remote_has_no_cookies_of_ours(hostile):
    hostile.answers["*"] = http(b"{}", "Set-Cookie: a=b; Path=/")
    ask(engine(hostile.url), count=3)
    assert not any("cookie" in head.lower() for head in hostile.heard)


@pytest.mark.django_db
def test_who_adds_a_model_decides_where_its_server_may_be(settings):
    assert add.add("ours", "http://127.0.0.1:9/v1").spec().private
    theirs = add.add("theirs", "http://8.8.8.8/v1", on_server=True)
    assert not theirs.spec().private
    settings.VBS_PRIVATE_URLS = True
    assert Model.objects.get(name="theirs").spec().private


@pytest.mark.django_db
@pytest.mark.parametrize("on_server", [True, False])
@pytest.mark.parametrize("url", ["http://8.8.8.8\r\n/v1", "http://8.8.8.8/\t/v1", "http://8.8.8.8 /v1",
                                 "http://a@8.8.8.8/v1", "http://2130706433/v1", "http://8.8.8.8/v1?",
                                 "http://8.8.8.8/x"])  # fmt: skip
def test_urls_that_are_none(url, on_server):
    with pytest.raises(ModelError, match="cannot be a remote server"):
        add.add("m", url, on_server=on_server)


def test_the_key_goes_to_the_servers_that_it_is_for(hostile):
    keys = {origin(hostile.url): "k"}
    there = servers.remote(EngineSpec("far", hostile.url, kind=EngineKind.REMOTE, private=True), keys, 4)
    assert there.address.key == "k" and hostile.keys() == ["Bearer k"]
    for other in (f"http://localhost:{hostile.port}/v1", f"{hostile.root}//v1"):
        found = servers.remote(
            EngineSpec("far", other, kind=EngineKind.REMOTE, private=True), {"https://x:443": "k"}, 4
        )
        assert found.address.key == ""
    ask(found)
    assert hostile.keys() == ["Bearer k"]


@pytest.mark.parametrize(
    "answer, said",
    [
        (http(b"", *AWAY, status="302 Found"), "302, a redirect"),
        (http(b"x" * (servers.MOST_LISTED + 1)), "more than"),
        (http(b"", "Content-Encoding: gzip"), "compressed"),
        (b"garbage\r\n\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
def test_odd_answers_when_it_is_looked_for(hostile, answer, said):
    hostile.answers["*"] = answer
    with pytest.raises(LoadError, match=said) as raised:
        servers.remote(engine(hostile.url).spec, {}, 4)
    assert "127.0.0.1" in str(raised.value)
    assert "127.0.0.1" not in raised.value.public and "the model's server" in raised.value.public


def test_a_name_that_is_not_known_for_a_moment(hostile, monkeypatch):
    """It is looked for again, as a server that does not answer is."""
    real, failures = socket.getaddrinfo, [socket.gaierror(-3, "Temporary failure in name resolution")] * 2

    def resolve(host, *more, **others):
        if failures:
            raise failures.pop()
        return real(host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert servers.remote(engine(f"http://localhost:{hostile.port}/v1").spec, {}, 4)
    assert failures == []
    with pytest.raises(LoadError, match=r"cannot be reached .*could not be resolved"):
        servers.remote(engine("http://nowhere.invalid/v1").spec, {}, 4)


def test_a_slow_list_of_models(hostile, monkeypatch):
    monkeypatch.setattr(servers, "REACH_SECONDS", 0.3)
    hostile.answers["*"] = hostile.drip(b"HTTP/1.1 200 OK\r\n\r\n", b" ")
    began = time.monotonic()
    with pytest.raises(LoadError, match=r"too long in all|timed out"):
        servers.remote(engine(hostile.url).spec, {}, 4)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("key, words", [
    ("k", "check the key in VBS_REMOTE_KEY"),
    ("", "set VBS_REMOTE_KEY, and name its address in VBS_REMOTE_ORIGINS"),
])  # fmt: skip
def test_who_refuses_our_key_is_told_with_the_settings_that_help(hostile, key, words):
    hostile.answers["*"] = http(b"{}", status="403 Forbidden")
    with pytest.raises(LoadError, match="VBS_REMOTE_KEY") as refused:
        servers.remote(EngineSpec("far", hostile.url, kind=EngineKind.REMOTE, private=True), {hostile.root: key}, 4)
    assert "the model's server answers 403" in refused.value.public and words in refused.value.public
    assert str(hostile.port) in str(refused.value) and str(hostile.port) not in refused.value.public

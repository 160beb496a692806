"""What is asked of a hub and what its answers mean; where a token goes, how it is kept."""

import asyncio
import logging
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from models_registry.catalog.folders import ModelError
from models_registry.hub import client as hub
from models_registry.hub import downloads, tokens
from models_registry.hub.client import HubRepository, TemporaryError
from models_registry.hub.scripted import Fault
from models_registry.models import HubToken
from tests import hostile
from tests.hostile import http
from tests.models_registry.hubs import repository
from vbs.outgoing import client as outgoing

TOKEN = "hf_0123456789abcdefABCDEF"


def refused(words, id="org/tiny", revision="", token=""):
    with pytest.raises(ModelError, match=words) as error:
        hub.listing(HubRepository(id, revision, token))
    assert TOKEN not in str(error.value)
    return str(error.value)


@contextmanager
def answering(status=200, headers=(), body=b""):
    """A server that says the same to everybody; yields its URL and the headers that it was sent."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


def test_what_a_repository_has(served):
    content = repository(served)
    found = hub.listing(HubRepository("org/tiny", "main"))
    assert found.commit == served.commit("org/tiny")
    assert (found.license, found.gated) == ("apache-2.0", False)
    assert {file.path: file.size for file in found.files} == {path: len(data) for path, data in content.items()}
    sums = {file.path: (file.sha256, file.blob) for file in found.files}
    sha256, _ = served.sums(served.folder / "org/tiny/model.safetensors")
    _, blob = served.sums(served.folder / "org/tiny/config.json")
    assert sums["model.safetensors"] == (sha256, None)
    assert sums["config.json"] == (None, blob)


def test_an_unknown_id(served):
    said = refused("org/none", "org/none")
    assert served.url in said
    served.tokens = {TOKEN}
    assert served.url in refused("no model org/none", "org/none", token=TOKEN)


def test_an_unknown_revision(served):
    repository(served)
    assert "org/tiny" in refused("no revision 'v2'", revision="v2")


def test_a_private_model_needs_a_token(served):
    repository(served)
    served.private, served.tokens = {"org/tiny"}, {TOKEN}
    assert "HF_TOKEN" in refused("private")
    assert hub.listing(HubRepository("org/tiny", "", TOKEN)).commit


def test_a_token_that_is_wrong(served):
    repository(served)
    served.tokens = {"another"}
    refused("does not accept the access token", token=TOKEN)


def test_a_gated_model_says_how_to_get_access(served):
    repository(served)
    served.gated = {"org/tiny"}
    place = HubRepository("org/tiny", "main")
    assert hub.listing(place).gated
    with pytest.raises(ModelError, match="gated") as error:
        hub.check_access(place, "config.json")
    said = str(error.value)
    assert f"{served.url}/org/tiny" in said
    assert "HF_TOKEN" in said
    assert "model token" in said
    served.tokens = {TOKEN}
    hub.check_access(HubRepository("org/tiny", "main", TOKEN), "model.safetensors")


def test_a_gated_model_and_a_token_without_access():
    answer = httpx2.Response(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "not on the list"})
    with pytest.raises(ModelError, match=r"has no access \(not on the list\): ask for") as error:
        hub.check(answer, HubRepository("org/tiny", "main", TOKEN))
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "refuses access"), (404, "no model org/tiny"), (418, "418"), (451, "451")],
)
def test_other_refusals(status, words):
    with pytest.raises(ModelError, match=words):
        hub.check(httpx2.Response(status), HubRepository("org/tiny", "main"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass(status):
    with pytest.raises(TemporaryError) as error:
        hub.check(httpx2.Response(status, headers={"Retry-After": "7"}), HubRepository("org/tiny", "main"))
    assert error.value.wait == 7


@pytest.mark.parametrize(("asked", "wait"), [("99999", hub.MOST_WAIT), ("soon", None), ("-1", None), ("", None)])
def test_a_hub_cannot_make_us_wait_for_ever(asked, wait):
    with pytest.raises(TemporaryError) as error:
        hub.check(httpx2.Response(429, headers={"Retry-After": asked}), HubRepository("org/tiny", "main"))
    assert error.value.wait == wait


def test_no_network(settings):
    settings.VBS_HUB_URL = "http://127.0.0.1:9"
    said = refused("cannot be reached")
    assert "http://127.0.0.1:9" in said
    assert "VBS_HUB_URL" in said


def test_a_hub_that_is_busy(served):
    repository(served)
    served.faults = [Fault("status", "api", status=503)]
    refused("answers 503.*later")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"id": 1, "sha": "../..", "siblings": []}',
        b'{"id": "x", "sha": "abc", "siblings": [1]}',
        b'{"id": "x", "sha": "abc", "siblings": [{"rfilename": "a", "lfs": 5}]}',
        b"[" * 100_000,
    ],
)
def test_something_that_is_no_hub(settings, body):
    with answering(body=body) as (url, _):
        settings.VBS_HUB_URL = url
        refused("does not answer as a hub does")


def test_an_error_whose_body_is_nonsense(settings):
    with answering(404, body=b"[1, 2]") as (url, _):
        settings.VBS_HUB_URL = url
        refused("no model org/tiny")


def test_no_other_server_without_https(settings):
    with answering() as (other, seen), answering(302, [("Location", f"{other}/x")]) as (url, _):
        settings.VBS_HUB_URL = url
        refused("without https", token=TOKEN)
        assert seen == []


def test_a_hub_leads_to_no_private_address(settings, monkeypatch):
    """It may itself have one, but not send us on to others."""
    with answering() as (url, seen):
        settings.VBS_HUB_URL = url
        own = outgoing.Rule(own=("hub.test", 443))
        client = httpx2.Client(transport=outgoing.Transport(own, 5))
        with client, pytest.raises(ModelError, match="not a public address"), hub.errors():
            client.get(url)
        assert seen == []


def test_a_hub_whose_name_is_not_known_for_a_moment(settings):
    """A download waits for it, as for a hub that does not answer."""
    settings.VBS_HUB_URL = "https://hub.invalid"
    with pytest.raises(TemporaryError, match=r"cannot be reached: hub.invalid could not be resolved"), hub.errors():
        outgoing.Rule().addresses("hub.invalid", 443)
    refused("Try again later")


def test_a_description_without_an_end(settings, monkeypatch):
    monkeypatch.setattr(hub, "MOST_LISTED", 1000)
    monkeypatch.setattr(hub, "ASK_SECONDS", 0.5)
    with hostile.serving() as server:
        settings.VBS_HUB_URL = server.root
        for answer, said in (
            (server.flood(b"HTTP/1.1 200 OK\r\n\r\n"), "more than 1,000 bytes"),
            (http(b"", "Content-Encoding: gzip"), "compressed"),
            (http(b'{"id": ' + b"[" * 900 + b"]" * 900 + b"}")[:-1], "does not answer|cannot be reached"),
            (server.drip(b"HTTP/1.1 200 OK\r\n\r\n", b" "), "does not answer .ReadTimeout"),
            (server.drip(b"HTTP/1.1 200 OK\r\nX: ", b" "), "does not answer .ReadTimeout"),
        ):
            server.answers["*"] = answer
            refused(said)


def test_the_token_stays_with_the_hub(settings, monkeypatch):
    """To another host, over https, only the request goes."""
    settings.VBS_HUB_URL = "https://hub.test"
    seen = []

    def answer(request):
        seen.append((request.url.host, request.headers.get("Authorization"), request.headers.get("Range")))
        if request.url.host == "hub.test":
            return httpx2.Response(302, headers={"Location": "https://cdn.test/file"})
        return httpx2.Response(206, content=b"content")

    monkeypatch.setattr(hub.outgoing, "AsyncTransport", lambda rule: httpx2.MockTransport(answer))

    async def ask():
        place = HubRepository("org/tiny", "abc", TOKEN)
        async with hub.client() as client:
            await client.get(place.file_url("a b.json"), headers=place.headers() | {"Range": "bytes=5-"})

    asyncio.run(ask())
    assert seen == [("hub.test", f"Bearer {TOKEN}", "bytes=5-"), ("cdn.test", None, "bytes=5-")]


def test_the_client_that_fetches_follows_as_little(settings):
    async def ask(url):
        async with hub.client() as client:
            await client.get(url)

    with answering() as (other, seen), answering(302, [("Location", other)]) as (url, _):
        settings.VBS_HUB_URL = url
        with pytest.raises(ModelError, match="without https"):
            asyncio.run(ask(url))
        assert seen == []


def test_a_token_is_in_no_repr_and_no_log(served, caplog):
    repository(served)
    served.tokens = {"another"}
    caplog.set_level(logging.DEBUG)
    place = HubRepository("org/tiny", "", TOKEN)
    refused("does not accept", token=TOKEN)
    assert TOKEN not in repr(place)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("token", ["with blank", "line\nbreak", "ümlaut", "x" * 2000])
def test_a_token_that_no_header_can_carry_is_not_shown(served, token):
    repository(served)
    with pytest.raises(ModelError, match="not an access token") as error:
        hub.listing(HubRepository("org/tiny", "", token))
    assert token not in str(error.value)


# Tokens that are kept


@pytest.mark.django_db
def test_a_kept_token_is_encrypted_and_comes_back():
    token = tokens.keep("mine", f" {TOKEN}\n")
    assert TOKEN not in HubToken.objects.get().secret
    assert TOKEN not in repr(token)
    assert tokens.reveal(HubToken.objects.get()) == TOKEN
    tokens.keep("mine", "hf_other")
    assert tokens.reveal(HubToken.objects.get()) == "hf_other"


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "token"), [("", TOKEN), ("a b", TOKEN), ("x" * 101, TOKEN), ("m", ""), ("m", "a b")])
def test_what_cannot_be_kept(name, token):
    with pytest.raises(ModelError):
        tokens.keep(name, token)
    assert not HubToken.objects.exists()


@pytest.mark.django_db
def test_another_secret_key(settings):
    token = tokens.keep("mine", TOKEN)
    settings.SECRET_KEY = "another"
    with pytest.raises(ModelError, match=r"mine cannot be read.*model token mine"):
        tokens.reveal(token)


@pytest.mark.django_db
def test_the_models_own_token_is_used_before_that_of_the_settings(settings):
    settings.HF_TOKEN = "hf_of_all"
    model = downloads.add("m", "org/tiny")
    assert downloads.repository_of(model).token == "hf_of_all"
    model.hub_token = tokens.keep("mine", TOKEN)
    assert downloads.repository_of(model).token == TOKEN

"""Interactive requests to remote models: their servers are strangers, and get nothing that is not for them."""

import json
import time

import pytest

from models_registry.api import wire
from models_registry.catalog import add
from models_registry.models import Model
from models_registry.serving import engines, forward
from tests.hostile import http
from tests.models_registry.serving.conftest import chat
from tests.models_registry.serving.test_forward import CHAT, error_of

GOOD = {"id": "x", "object": "chat.completion", "model": "theirs", "choices": [], "usage": {"prompt_tokens": 7}}


@pytest.fixture
def far(transactional_db, hostile):
    """A remote model that is named otherwise there."""
    return add.add("far", hostile.url, remote_name="theirs")


def test_it_goes_to_its_own_server_with_the_operators_key(web, far, hostile, settings):
    settings.VBS_REMOTE_KEY, settings.VBS_REMOTE_ORIGINS = "far-key", [hostile.root]
    hostile.answers["*"] = http(json.dumps(GOOD).encode(), "Set-Cookie: a=b", "X-Theirs: 1", "Keep-Alive: timeout=5")
    headers = {"x_vllm_priority": "-5", "cookie": "c=d", "openai_organization": "o", "x_forwarded_for": "1.2.3.4"}
    answer = web.ask(CHAT, chat(model="far", priority=-5, cache_salt="s", temperature=0.10), **headers)
    assert answer.status == 200 and answer.json() == GOOD | {"model": "far"}
    assert not {"set-cookie", "x-theirs", "keep-alive", "connection"} & answer.headers.keys()
    head, sent = hostile.heard[-1], json.loads(hostile.bodies[-1])
    assert head.startswith("POST /v1/chat/completions ") and "Authorization: Bearer far-key" in head
    for word in ("vllm", "cookie", "organization", "forwarded", web.key):
        assert word.lower() not in head.lower().replace("vbs", ""), word
    assert sent == {"model": "theirs", "messages": chat()["messages"], "temperature": 0.1}


def test_a_key_of_its_own_goes_to_its_own_server_alone(web, transactional_db, hostile, settings):
    settings.VBS_REMOTE_KEY, settings.VBS_REMOTE_ORIGINS = "far-key", [hostile.root]
    elsewhere = hostile.url.replace("127.0.0.1", "localhost")
    model = add.add("far", hostile.url, pool=[elsewhere], key="sk-its-own")
    hostile.answers["*"] = http(json.dumps(GOOD).encode())
    found = engines.remote(model)
    assert [address.key for address in found.addresses] == ["sk-its-own", ""]
    add.edit(model, pool=[])
    assert web.ask(CHAT, chat(model="far")).status == 200
    assert "Authorization: Bearer sk-its-own" in hostile.heard[-1]
    hostile.answers["*"] = http(b'{"error": {"message": "what is sk-its-own?", "code": "x_y"}}', status="400 Bad")
    error = error_of(web.ask(CHAT, chat(model="far")), 400, "x_y")
    assert error["message"].endswith("what is ***?")
    engines.forget()
    settings.SECRET_KEY = "another"
    assert "cannot be read" in error_of(web.ask(CHAT, chat(model="far")), 503, "model_not_loaded")["message"]


def test_a_server_that_is_not_named_gets_no_key(web, far, hostile, settings):
    settings.VBS_REMOTE_KEY = "far-key"
    hostile.answers["*"] = http(json.dumps(GOOD).encode())
    assert web.ask(CHAT, chat(model="far")).status == 200
    assert "Authorization" not in hostile.heard[-1]


@pytest.mark.parametrize(
    "odd, status, code, words",
    [
        (http(b"", "Location: http://127.0.0.1:9/v1", status="307 Temporary Redirect"), 502, "bad_gateway", "redirect"),
        (http(b'{"error": "no"}', status="401 Unauthorized"), 502, "bad_gateway", "set VBS_REMOTE_KEY, and name its"),
        (
            http(b'{"error": {"message": "too long", "code": "x_y", "param": "p"}}', status="400 Bad"),
            400,
            "x_y",
            "The server of far answered 400: too long",
        ),
        (
            http(b'{"error": {"message": "theirs is not loaded now.", "code": "model_not_loaded"}}', status="503 Away"),
            503,
            "model_not_loaded",
            "The server of far answered 503: theirs is not loaded now.",
        ),
        (http(b"<html>", status="503 Away", kind="text/html"), 503, "server_error", "The server of far answered 503."),
        (http(b"x" * 10, "Content-Encoding: br"), 502, "bad_gateway", "compressed"),
        (http(b'{"a": "' + b"x" * 2_000_000 + b'"}'), 502, "bad_gateway", "VBS_MAX_ANSWER_MB"),
        (b"nonsense\r\n\r\n", 503, "engine_unavailable", "does not answer"),
    ],
)
def test_what_strangers_answer(web, far, hostile, settings, odd, status, code, words):
    settings.VBS_MAX_ANSWER_MB = 1
    hostile.answers["*"] = odd
    error = error_of(web.ask(CHAT, chat(model="far")), status, code)
    assert words in error["message"] and str(hostile.port) not in error["message"]


def test_another_address_where_one_is_busy_or_away(web, far, hostile):
    Model.objects.update(pool=["http://127.0.0.1:9/v1"])
    hostile.answers["*"] = http(json.dumps(GOOD).encode())
    for _ in range(6):
        engines.forget()
        assert web.ask(CHAT, chat(model="far")).status == 200


def test_a_private_address_needs_the_operators_word(web, far, hostile):
    Model.objects.update(private_address=False)
    before = len(hostile.heard)
    error_of(web.ask(CHAT, chat(model="far")), 502, "bad_gateway")
    assert len(hostile.heard) == before


def test_a_stream_that_does_not_end_an_event(web, far, hostile, settings):
    settings.VBS_MAX_ANSWER_MB = 1
    hostile.answers["*"] = http(b"data: " + b"x" * 2_000_000, kind="text/event-stream")
    answer = web.ask(CHAT, chat(model="far", stream=True))
    assert answer.events()[-1]["error"]["code"] == "bad_gateway"


def told(model="far"):
    """What `GET /v1/models` says of a remote model, to everybody and to an operator."""
    row, available = Model.objects.get(name=model), engines.Availability()
    return [wire.model_object(row, set(), availability=available, for_operator=one) for one in (False, True)]


def test_whether_its_server_answered_is_kept_and_told(web, far, hostile, settings):
    """As it was when somebody asked last: nothing is known before that."""
    for shown in told():
        assert shown["server"] == {"state": "unchecked", "asked_at": None, "failed_at": None, "reason": None}
        assert shown["interactive"] == {"available": True, "reason": "Its server has not been asked yet."}
    hostile.answers["*"] = http(b'{"error": "no"}', status="401 Unauthorized")
    settings.VBS_REMOTE_KEY, settings.VBS_REMOTE_ORIGINS = "far-key", [hostile.root]
    refused = error_of(web.ask(CHAT, chat(model="far")), 502, "bad_gateway")
    assert "check the key in VBS_REMOTE_KEY" in refused["message"]
    forward.ledger.write()
    everybody, operator = told()
    assert everybody["server"]["state"] == operator["server"]["state"] == "failed" and not everybody["loaded"]
    since = everybody["server"]["failed_at"]
    assert since == everybody["server"]["asked_at"] and abs(since - time.time()) < 60
    assert str(hostile.port) in operator["server"]["reason"] and str(hostile.port) not in str(everybody)
    assert not everybody["interactive"]["available"] and "VBS_REMOTE_KEY" in everybody["interactive"]["reason"]
    Model.objects.update(source="http://127.0.0.1:9/v1")
    engines.forget()
    error_of(web.ask(CHAT, chat(model="far")), 503, "engine_unavailable")
    forward.ledger.write()
    assert "cannot be reached" in told()[0]["server"]["reason"] and told()[0]["server"]["failed_at"] == since
    Model.objects.update(source=hostile.url)
    engines.forget()
    hostile.answers["*"] = http(json.dumps(GOOD).encode())
    assert web.ask(CHAT, chat(model="far")).status == 200
    forward.ledger.write()
    [shown, _] = told()
    assert shown["server"] | {"asked_at": 0} == {"state": "ready", "asked_at": 0, "failed_at": None, "reason": None}
    assert shown["interactive"] == {"available": True, "reason": None}
    changed = add.edit(Model.objects.get(name="far"), on_server=False, pool=["http://127.0.0.1:9/v1"])
    assert changed.server_state == "unchecked"


def test_of_what_is_no_remote_no_server_is_told(db):
    Model.objects.create(name="here", kind="scripted")
    Model.objects.all().server_fails("no", "no")
    assert told("here")[0]["server"] is None

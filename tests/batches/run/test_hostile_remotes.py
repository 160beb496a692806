"""A batch on a server that answers as none should: each line gets its own end, and no other line notices."""

import gzip
import json

import orjson
import pytest

from batches.models import BatchRequest
from models_registry.catalog import add
from models_registry.engine import client
from models_registry.engine.remote import pool, servers
from models_registry.gpu import operations
from models_registry.models import Measurement, OperationKind
from tests.engines import line
from tests.hostile import http

GOOD = http(orjson.dumps({"model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}]}))
URL = "/v1/chat/completions"


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def answering(hostile, odd):
    """Good answers for all, and this one for whoever says "odd"."""
    hostile.of_body = lambda body: odd if b'"odd"' in body else GOOD


@pytest.fixture
def far(transactional_db, hostile, monkeypatch, settings):
    """A remote model; everything in a hurry."""
    settings.VBS_MAX_ANSWER_MB, settings.VBS_REQUEST_SECONDS, settings.VBS_REQUEST_ATTEMPTS = 1, 30, 3
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(pool, "HOLD_SECONDS", 0.01)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(client, "LARGE", 100_000)
    return add.add("far", hostile.url)


def test_who_made_a_batch_is_not_told_where_its_model_is(transactional_db, submitted, lane, close, monkeypatch, caplog):
    """Nor by its log. The worker's log, which is its operators', says it."""
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    add.add("far", "http://localhost:9/v1")
    batch = submitted([line("a", model="far")])
    lane("far").serve()
    batch.refresh_from_db()
    told = f"{batch.errors} {[str(event) for event in batch.events.all()]}"
    assert batch.status == "failed" and "the model's server cannot be reached (it does not answer)" in told
    assert not any(place in told for place in ("localhost", "127.0.0.1", ":9"))
    assert "http://localhost:9/v1 cannot be reached" in caplog.text


def run(hostile, odd, submitted, lane, close, neighbours=6):
    """The error line of the odd one; its neighbours are answered."""
    answering(hostile, odd)
    batch = submitted([line(f"{n}", "good", "far") for n in range(neighbours)] + [line("odd", "odd", "far")])
    lane("far").serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in bad] == ["odd"]
    assert sorted(one["custom_id"] for one in good) == [f"{n}" for n in range(neighbours)]
    assert not batch.events.filter(message__contains="Unforeseen").exists()
    return bad[0]


CLOSED = b"Content-Length: 0\r\nConnection: close\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


ODD = [
    (http(nested(300)), "invalid_response", "nests too deeply"),
    (http(nested(2000)), "invalid_response", "depth limit"),
    (http(b'{"model": "m", "a": "\\ud800"}'), "invalid_response", "no low surrogate"),
    (http(b'{"a": NaN}'), "invalid_response", "not a JSON object"),
    (http(b'{"a": "\xff\xfe"}'), "invalid_response", "not a JSON object"),
    (http(b""), "invalid_response", "was empty"),
    (http(b"null"), "invalid_response", "but null"),
    (http(b"[1]"), "invalid_response", "but list"),
    (http(b"\0" * 1000, kind="application/octet-stream"), "invalid_response", "1,000 bytes of appl"),
    (http(b"data: {}\n\n", kind="text/event-stream"), "invalid_response", "leave out 'stream'"),
    (http(b"<!doctype html>", kind="text/html; charset=utf-8"), "invalid_response", "a web page"),
    (http(gzip.compress(b"{}"), "Content-Encoding: gzip"), "invalid_response", "compressed (gzip"),
    (http(b"x" * (2**20 + 1)), "response_too_large", "VBS_MAX_ANSWER_MB"),
    (http(b"", "Location: http://127.0.0.1:1/", status="302 Found"), "redirected", "not followed"),
    (http(nested(300), status="400 Bad"), "invalid_request", "answered with status 400"),
    (http(b'{"error": {"message": ' + nested(300) + b"}}", status="400 Bad"), "invalid_request", "with status 400"),
    (http(b'{"error": {"message": {"a": [1]}}}', status="422 Bad"), "invalid_request", '{"a":[1]}'),
    (http(b'{"error": {"code": "%s", "message": "a\\u0000b"}}' % (b"c" * 500), status="400 Bad"), "c" * 99 + "…", "a"),
    (http(b'{"error": {"message": "%s"}}' % (b"m" * 500_000), status="400 Bad"), "invalid_request", "m…"),
    (http(b"\xff\0" * 100_000, status="404 Not"), "not_found", "status 404"),
    (http(b'{"error": "same"}', status="500 Error"), "server_error", "same"),
    (http(b"{}", status="999 Odd"), "http_999", "status 999"),
    (HEAD + b"X-Long: " + b"x" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}", "connection_lost", "cannot be read"),
    (HEAD + b"X-Many: 1\r\n" * 500 + b"Content-Length: 2\r\n\r\n{}", "connection_lost", "cannot be read"),
    (HEAD + b"Content-Length: 100\r\n\r\n{}", "connection_lost", "cannot be read"),
    (HEAD + b"Content-Length: zwei\r\n\r\n{}", "connection_lost", "cannot be read"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", "connection_lost", "cannot be read"),
    (b"SSH-2.0-OpenSSH\r\n", "connection_lost", "cannot be read"),
    (b"", "connection_lost", "was lost"),
    # What stands in headers goes nowhere.
    (b"HTTP/1.1 500 \xff\r\n" + b"X-Request-Id: \xff\xfe\r\n" + CLOSED, "", ""),
    (b"HTTP/1.1 500 \xff\r\n" + b"X-Request-Id: " + b"x" * 5000 + b"\r\n" + CLOSED, "", ""),
    (b"HTTP/1.1 500 \xff\r\n" + b"Content-Type: \xff\x01\r\n" + CLOSED, "", ""),
    (b"HTTP/1.1 500 \xff\r\n" + b"Set-Cookie: \xff\r\n" + CLOSED, "", ""),
    (b"HTTP/1.1 500 \xff\r\n" + b"Retry-After: nan\r\n" + CLOSED, "", ""),
]  # fmt: skip


def test_an_odd_answer_fails_its_line(far, hostile, submitted, lane, close):
    """All of them in one batch, so that each has the others for neighbours."""

    def answer(body):
        text = orjson.loads(body)["messages"][0]["content"]
        return GOOD if text == "good" else ODD[int(text)][0]

    hostile.of_body = answer
    odd = [line(f"odd-{number}", f"{number}", "far") for number in range(len(ODD))]
    batch = submitted([*odd, *(line(f"{number}", "good", "far") for number in range(len(ODD)))])
    lane("far").serve()
    good, bad = close(batch)
    assert (len(good), len(bad)) == (len(ODD), len(ODD))
    assert not batch.events.filter(message__contains="Unforeseen").exists()
    where = far.source
    assert where not in json.dumps(bad) and not batch.events.filter(message__contains=where).exists()
    for one in bad:
        answer, code, said = ODD[int(one["custom_id"].removeprefix("odd-"))]
        error = one["error"]
        assert (code or error["code"]) == error["code"] and said in error["message"], (answer[:200], error)
        assert len(error["message"]) <= 5000


@pytest.mark.parametrize("first, piece", [(b"", b""), (b"HTTP/1.1 200 OK\r\nX: ", b"x"), (HEAD + b"\r\n", b" ")])
def test_a_slow_answer(far, hostile, submitted, lane, close, settings, first, piece):
    settings.VBS_REQUEST_SECONDS = 2
    error = run(hostile, hostile.drip(first, piece), submitted, lane, close)["error"]
    assert error["code"] == "request_timeout"


def test_answers_without_an_end(far, hostile, submitted, lane, close):
    """More of them than may be large at once."""
    hostile.of_body = lambda body: hostile.flood(HEAD + b"\r\n") if b'"odd"' in body else GOOD
    batch = submitted([line(f"{n}", "odd" if n < 12 else "good", "far") for n in range(16)])
    lane("far").serve()
    good, bad = close(batch)
    assert {one["error"]["code"] for one in bad} == {"response_too_large"}
    assert (len(good), len(bad)) == (4, 12)


def test_large_answers_wait_for_each_other(far, hostile, submitted, lane, close):
    large = b'{"model": "m", "a": "%s"}' % (b"x" * 300_000)
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
    hostile.of_body = lambda body: chunked
    batch = submitted([line(f"{n}", "good", "far") for n in range(20)])
    lane("far").serve()
    assert len(close(batch)[0]) == 20


def test_a_body_of_bytes_that_are_none_of_json_is_shown_in_part(far, hostile, submitted, lane, close):
    one = run(hostile, http(b"\xff" * 500_000, kind="audio/wav"), submitted, lane, close)
    assert one["response"]["status_code"] == 200 and len(one["response"]["body"]) < 70_000


def test_the_same_failure_twice_is_not_tried_again(far, hostile, submitted, lane, close, settings):
    settings.VBS_REQUEST_ATTEMPTS = 9
    run(hostile, http(b'{"error": "the schema is no schema"}', status="500 Error"), submitted, lane, close)
    assert sum('"odd"' in one for one in hostile.bodies) == 2


def test_a_busy_server_is_tried_as_often_as_is_set(far, hostile, submitted, lane, close):
    run(hostile, http(b"", status="503 Busy"), submitted, lane, close)
    assert sum('"odd"' in one for one in hostile.bodies) == 3


def test_a_request_has_one_id_everywhere(far, hostile, submitted, lane, close, caplog):
    bad = run(hostile, http(b"{}", "X-Request-Id: theirs", status="500 Error"), submitted, lane, close)
    ids = [text.partition("X-Request-Id: ")[2].split("\r\n")[0] for text in hostile.heard if text.startswith("POST")]
    assert len(set(ids)) == 7 and bad["response"]["request_id"] in ids
    assert set(BatchRequest.objects.values_list("request_id", flat=True)) == set(ids), "of good answers too"
    assert f"batch_{bad['response']['request_id']}" == bad["id"]
    assert f"Request {bad['response']['request_id']}: it failed after 2 attempts" in caplog.text


@pytest.mark.parametrize("kind", [OperationKind.TEST, OperationKind.BENCHMARK])
@pytest.mark.parametrize(
    "odd, said",
    [
        (http(nested(300)), "not a JSON object"),
        (http(b"x" * (2**20 + 1)), "VBS_MAX_ANSWER_MB"),
        (http(b"<html>", status="502 Bad"), "<html>"),
        (http(b"\xff\0", status="400 Bad"), "400"),
        (http(b'{"error": {"message": "a\\u0000b"}}', status="400 Bad"), "a"),
    ],
)
def test_operations(far, hostile, lane, kind, odd, said):
    hostile.of_body = lambda body: odd
    options = {"requests": 2} if kind == OperationKind.BENCHMARK else {}
    operation = operations.ask(kind, far, options)
    lane("far").serve()
    operation.refresh_from_db()
    assert operation.state == "failed" and said in operation.error, operation.error
    json.dumps(operation.log)


def test_false_usage_spoils_neither_the_sums_nor_the_speed(far, hostile, submitted, lane, close):
    """A number that cannot be is not counted: in the batch, in its requests, in the speed of its model."""
    claims = [10**9, -5, "many", None]
    true = {"prompt_tokens": 7, "completion_tokens": 3}

    def answer(body):
        text = orjson.loads(body)["messages"][0]["content"]
        count = None if text == "good" else claims[int(text)]
        usage = true if text == "good" else {"prompt_tokens": count, "completion_tokens": count}
        message = {"role": "assistant", "content": "ok"}
        return http(orjson.dumps({"model": "m", "choices": [{"index": 0, "message": message}], "usage": usage}))

    hostile.of_body = answer
    batch = submitted(
        [line("good", "good", "far")] + [line(f"{number}", f"{number}", "far") for number in range(len(claims))]
    )
    lane("far").serve()
    good, bad = close(batch)
    assert (len(good), bad) == (1 + len(claims), [])
    assert (batch.input_tokens, batch.output_tokens) == (7, 3)
    measured = Measurement.objects.get(model=far, kind="batch")
    assert (measured.input_tokens, measured.output_tokens) == (7, 3)


@pytest.mark.parametrize("key, words", [
    ("k", "The model's server answers 401: check the key in VBS_REMOTE_KEY, or the model's own."),
    ("", "The model's server answers 401 and got no key: set VBS_REMOTE_KEY, and name its address in "
         "VBS_REMOTE_ORIGINS, or give the model a key of its own."),
])  # fmt: skip
def test_a_line_for_which_our_key_is_refused_names_the_settings_that_help(
    far, hostile, submitted, lane, close, key, words
):
    add.edit(far, key=key)
    odd = http(b'{"error": {"message": "Bad key."}}', status="401 Unauthorized")
    assert run(hostile, odd, submitted, lane, close)["error"]["message"] == f"Bad key. {words}"

"""What an engine's answer becomes in a request's row. No database."""

import json

import pytest

from batches.models import RequestState
from batches.run.outcomes import outcome
from models_registry.engine.client import Answer


def made(status, body, **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return outcome(1, Answer(1, status, data, "req", **more), "asked")


def test_an_answer_bears_the_name_that_was_asked_for():
    one = made(200, {"model": "served", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    assert one.state == RequestState.COMPLETED and json.loads(one.response)["model"] == "asked"
    assert (one.input_tokens, one.output_tokens, one.error_code) == (3, 4, None)


def test_an_answer_is_one_line():
    assert "\n" not in made(200, b'{\n  "text": "a\\nb"\n}').response


def test_usage_of_the_responses_api_and_details():
    usage = {
        "input_tokens": 5,
        "output_tokens": 6,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    one = made(200, {"usage": usage})
    assert (one.input_tokens, one.cached_tokens, one.output_tokens, one.reasoning_tokens) == (5, 2, 6, 1)


@pytest.mark.parametrize(
    "usage", [None, [], "x", {"prompt_tokens": "many"}, {"prompt_tokens_details": 3}, {"prompt_tokens": -5}]
)
def test_odd_usage_counts_nothing(usage):
    assert made(200, {"usage": usage}).input_tokens == 0


@pytest.mark.parametrize(
    "body, code, message",
    [
        ({"error": {"message": "no", "type": "BadRequestError", "code": 400}}, "invalid_request", "no"),
        ({"error": {"message": "no", "type": "Bad Request", "code": 400}}, "invalid_request", "no"),
        ({"error": {"message": "no", "type": "invalid_request_error", "code": None}}, "invalid_request", "no"),
        ({"error": {"message": "no", "type": "insufficient_quota"}}, "insufficient_quota", "no"),
        ({"error": {"message": "no", "code": "too_long"}}, "too_long", "no"),
        ({"message": "no", "type": "T"}, "invalid_request", "no"),
        ({"error": "plain"}, "invalid_request", "plain"),
        ([1], "invalid_request", "The engine answered with status 400."),
        (b"<html>", "invalid_request", "The engine answered with status 400."),
        ({"error": {"message": "a\0b"}}, "invalid_request", "a\ufffdb"),
    ],
)
def test_a_refusal_keeps_its_body_and_gets_code_and_message(body, code, message):
    one = made(400, body)
    assert (one.state, one.status_code, one.error_code, one.error_message) == (RequestState.FAILED, 400, code, message)
    assert json.loads(one.response) == ("<html>" if body == b"<html>" else body)


@pytest.mark.parametrize(
    "status, code",
    [
        (404, "not_found"),
        (422, "invalid_request"),
        (429, "rate_limit_exceeded"),
        (503, "server_error"),
        (418, "http_418"),
    ],
)
def test_what_has_no_code_has_that_of_its_status(status, code):
    assert made(status, {"error": {"message": "no", "type": "SomeError", "code": "Some words"}}).error_code == code


@pytest.mark.parametrize(
    "claimed",
    [-1, -(10**30), 10**6, 2**31, 2**63, 10**30, 1e30, True, "12", "many", None, [5], {"a": 5}],
)
def test_what_a_remote_claims_is_counted_where_it_can_be(claimed):
    """Of a request of 500 bytes, and an answer of not many more."""
    usage = {
        "prompt_tokens": claimed,
        "completion_tokens": claimed,
        "prompt_tokens_details": {"cached_tokens": claimed},
        "completion_tokens_details": {"reasoning_tokens": claimed},
    }
    one = made(200, {"usage": usage}, sent=500)
    assert (one.input_tokens, one.cached_tokens, one.output_tokens, one.reasoning_tokens) == (0, 0, 0, 0)
    assert json.loads(one.response) == json.loads(json.dumps({"usage": usage})), "it is kept as it was said"
    assert made(200, {"usage": usage}).output_tokens in (0, 10**6), "our own engine skips special tokens"


def test_what_a_remote_truly_counts_is_counted():
    usage = {"prompt_tokens": 90_000, "completion_tokens": 20_004}  # it has fetched an image, and thought in secret
    usage["completion_tokens_details"] = {"reasoning_tokens": 20_000}
    one = made(200, {"usage": usage}, sent=500)
    assert (one.input_tokens, one.output_tokens, one.reasoning_tokens) == (90_000, 20_004, 20_000)
    usage["completion_tokens_details"] = {"reasoning_tokens": 0}
    assert made(200, {"usage": usage}, sent=500).output_tokens == 0


@pytest.mark.parametrize("body", [b"", b"garbage", b"\xff\xfe", b"[1]", b"3"])
def test_a_success_that_is_no_object_is_a_failure(body):
    one = made(200, body)
    assert (one.state, one.error_code) == (RequestState.FAILED, "invalid_response")
    json.loads(one.response)


def test_no_answer_at_all():
    one = made(None, b"", error_code="request_timeout", error_message="slow")
    assert (one.state, one.response, one.error_code, one.error_message) == (
        RequestState.FAILED, None, "request_timeout", "slow",
    )  # fmt: skip

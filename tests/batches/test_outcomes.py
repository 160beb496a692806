"""What an engine's answer becomes in a request's row. No database."""

import json

import pytest

from batches.models import RequestState
from batches.outcomes import outcome
from models_registry.engine.client import Answer


def made(status, body, **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return outcome(Answer(1, status, data, "req", **more), "asked")


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
        ({"error": {"message": "no", "type": "BadRequestError", "code": 400}}, "BadRequestError", "no"),
        ({"error": {"message": "no", "code": "too_long"}}, "too_long", "no"),
        ({"message": "no", "type": "T"}, "T", "no"),
        ({"error": "plain"}, "http_400", "plain"),
        ([1], "http_400", "The engine answered with status 400."),
        (b"<html>", "http_400", "The engine answered with status 400."),
        ({"error": {"message": "a\0b"}}, "http_400", "a\ufffdb"),
    ],
)
def test_a_refusal_keeps_its_body_and_gets_code_and_message(body, code, message):
    one = made(400, body)
    assert (one.state, one.status_code, one.error_code, one.error_message) == (RequestState.FAILED, 400, code, message)
    assert json.loads(one.response) == ("<html>" if body == b"<html>" else body)


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

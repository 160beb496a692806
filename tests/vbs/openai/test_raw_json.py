"""What a user sent reaches the engine digit by digit, and what the engine said the user. No database."""

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batches.intake.validate import Report, Rules, read
from batches.run.outcomes import outcome
from models_registry.engine.client import Answer
from vbs.openai import raw_json
from vbs.openai.raw_json import NotAnObject

SENT = [
    "18446744073709551616",
    "-9223372036854775809",
    "9" * 300,
    "1e-7",
    "-0.0",
    "-0",
    "1.0",
    "0.10",
    "1E+2",
    "5e-324",
]
NUMBERS = st.sampled_from(SENT) | st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["model", "body", 'a"b', "\u2028"]
)
SPACE = st.sampled_from(["", " ", "\t \r"])


@st.composite
def array(draw, inner):
    return "[" + ",".join(draw(SPACE) + one + draw(SPACE) for one in draw(st.lists(inner, max_size=4))) + "]"


@st.composite
def obj(draw, inner):
    """Names may stand there twice, or be written with escapes."""
    pairs = draw(st.lists(st.tuples(NAMES, inner), max_size=5))
    return (
        "{"
        + ",".join(
            draw(SPACE) + json.dumps(name, ensure_ascii=draw(st.booleans())) + draw(SPACE) + ":" + draw(SPACE) + value
            for name, value in pairs
        )
        + "}"
    )


SCALARS = NUMBERS | st.sampled_from(["true", "false", "null"]) | NAMES.map(json.dumps)
VALUES = st.recursive(SCALARS, lambda inner: array(inner) | obj(inner), max_leaves=12)


def digits(text):
    """Numbers as they are written."""
    return json.loads(text, parse_int=lambda one: ("number", one), parse_float=lambda one: ("number", one))


@given(obj(VALUES), SPACE)
@example('{"model":"a","model":"b","mod\\u0065l":"c","x":{"model":"d"}}', "")
@example('{"a":' + "[" * 250 + "0.10" + "]" * 250 + "}", " ")
def test_only_the_model_is_another(body, space):
    line = f'{{"body":{{"early": 1}},"custom_id":"a",{space}"bod\\u0079":{space}{body}}}'.encode()
    found = raw_json.request_of(line)[1]
    found["model"] = raw_json.raw("served")
    assert digits(raw_json.text_of(found)) == digits(body) | {"model": "served"}


@given(obj(VALUES))
def test_an_answer_keeps_its_digits_and_bears_the_model_that_was_asked_for(body):
    one = outcome(1, Answer(1, 200, body.encode(), "req"), "asked")
    wanted = digits(body)
    assert digits(one.response) == (wanted | {"model": "asked"} if "model" in wanted else wanted)
    assert one.response.isprintable() or len(one.response.splitlines()) == 1


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b'{"body":1}', b'{"a":1}', b'{"body":' + b"[" * 2000])
def test_what_is_no_request_is_told(line):
    with pytest.raises(NotAnObject):
        raw_json.request_of(line)


def test_an_answer_that_is_nested_too_deeply_fails_alone():
    deep = b'{"model":"m","x":' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert outcome(1, Answer(1, 200, deep, "req"), "asked").error_code == "invalid_response"
    assert outcome(1, Answer(1, 200, deep.replace(b"[" * 800, b"").replace(b"]" * 800, b""), "req"), "asked").response


@given(obj(VALUES))
def test_whatever_validation_lets_through_can_be_sent(extra):
    body = f'{{"model":"m","messages":[{{"role":"user","content":"x"}}],"extra":{extra}}}'
    line = f'{{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{body}}}'.encode()
    rules = Rules("/v1/chat/completions", lambda name: None, max_requests=9, max_line_bytes=2**20)
    report = Report()
    for one in read(io.BytesIO(line.replace(b"\n", b" ")), rules, report):
        body_sent = raw_json.request_of(line[one.offset : one.offset + one.length])[1]
        assert digits(raw_json.text_of(body_sent)) == digits(body)

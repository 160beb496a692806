"""Which lines are requests, and what is said of those that are not. No database."""

import io
import itertools
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batches.intake.validate import MAX_ERRORS, Report, Rules, read

CHAT = "/v1/chat/completions"
GOOD = {
    "custom_id": "a",
    "method": "POST",
    "url": CHAT,
    "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


def rules(**changes):
    def refuse(name):
        return None if name in ("m", "n") else ("model_not_found", f"'{name}' is not supported")

    return Rules(**{"endpoint": CHAT, "refuse_model": refuse, "max_requests": 100, "max_line_bytes": 2**20} | changes)


def check(content, **changes):
    report = Report()
    data = content if isinstance(content, bytes) else content.encode()
    lines = list(read(io.BytesIO(data), rules(**changes), report))
    return lines, [(one["code"], one["line"], one["param"]) for one in report.all()]


def text(**changes):
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not ...})


def body(**changes):
    return text(body={name: value for name, value in (GOOD["body"] | changes).items() if value is not ...})


@pytest.mark.parametrize(
    "line, code, param",
    [
        ("{oops", "invalid_json_line", None),
        ("[1]", "invalid_json_line", None),
        ("null", "invalid_json_line", None),
        ('{"a": NaN}', "invalid_json_line", None),
        ("[" * 2000, "invalid_json_line", None),
        ("{}", "missing_required_parameter", "custom_id"),
        (text(custom_id=...), "missing_required_parameter", "custom_id"),
        (text(method=...), "missing_required_parameter", "method"),
        (text(url=...), "missing_required_parameter", "url"),
        (text(body=...), "missing_required_parameter", "body"),
        (text(custom_id=7), "invalid_custom_id", "custom_id"),
        (text(custom_id=None), "invalid_custom_id", "custom_id"),
        (text(custom_id=""), "invalid_custom_id", "custom_id"),
        (text(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (text(custom_id="a\0b"), "invalid_custom_id", "custom_id"),
        (text(method="GET"), "invalid_method", "method"),
        (text(method=["POST"]), "invalid_method", "method"),
        (text(url="/v1/embeddings"), "invalid_url", "url"),
        (text(body=[]), "invalid_request", "body"),
        (body(model=...), "invalid_request", "body.model"),
        (body(messages=...), "invalid_request", "body.messages"),
        (body(model="x"), "model_not_found", "body.model"),
        (body(model=3), "model_not_found", "body.model"),
        (body(stream=True), "streaming_unsupported", "body.stream"),
        (body(stream="true"), "streaming_unsupported", "body.stream"),
        (body(deep=json.loads("[" * 400 + "]" * 400)), "invalid_json_line", None),
    ],
)
def test_each_kind_of_bad_line(line, code, param):
    lines, errors = check(line)
    assert (lines, errors) == ([], [(code, 1, param)])


def test_not_utf8():
    assert check(b'{"custom_id": "\xff"}')[1] == [("invalid_json_line", 1, None)]


def test_the_first_in_the_order_of_the_table_is_named():
    bad_in_every_way = json.dumps({"custom_id": 7, "method": "GET", "url": "/x", "body": {"stream": True}})
    assert check(bad_in_every_way)[1] == [("invalid_custom_id", 1, "custom_id")]


def test_every_bad_line_is_named_and_blank_lines_count_as_lines():
    content = "\n".join([text(), "", "  ", "oops", text(), "\t", text(custom_id="b", method="GET")])
    lines, errors = check(content)
    assert [line.number for line in lines] == [1]
    assert errors == [
        ("invalid_json_line", 4, None),
        ("duplicate_custom_id", 5, "custom_id"),
        ("invalid_method", 7, "method"),
    ]


def test_a_duplicate_names_the_earlier_line():
    report = Report()
    list(read(io.BytesIO(f"\n{text()}\n{text()}".encode()), rules(), report))
    assert "line 2" in report.errors[0]["message"] and report.errors[0]["line"] == 3


def test_a_good_line_says_where_it_is():
    content = f"\ufeff{text()}\r\n\n{text(custom_id='é')}".encode()
    lines, errors = check(content)
    assert not errors
    assert [content[line.offset : line.offset + line.length] for line in lines] == [
        text().encode(),
        text(custom_id="é").encode(),
    ]


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n\r\n"])
def test_no_lines(content):
    assert check(content)[1] == [("empty_file", None, None)]


def test_too_many_requests():
    content = "\n".join(text(custom_id=str(n)) for n in range(6))
    assert check(content, max_requests=6)[1] == []
    assert check(content, max_requests=5)[1] == [("too_many_requests", 6, None)]


def test_a_long_line_is_named_and_the_next_one_is_read():
    content = text() + "\n" + body(pad="x" * 2**20) + "\n" + text(custom_id="b")
    lines, errors = check(content)
    assert [line.custom_id for line in lines] == ["a", "b"] and errors == [("line_too_large", 2, None)]


def test_a_thousand_errors_and_then_how_many_more():
    errors = check("oops\n" * (MAX_ERRORS + 5), max_requests=5000)[1]
    assert len(errors) == MAX_ERRORS + 1 and errors[-1] == ("too_many_errors", None, None)


def test_the_default_model_is_for_lines_that_name_none():
    lines, errors = check(body(model=...) + "\n" + text(custom_id="b"), default_model="n")
    assert [line.model for line in lines] == ["n", "m"] and not errors


def test_prompts_that_begin_alike_are_neighbours():
    def line(number, system):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": str(number)}]
        return text(custom_id=str(number), body={"model": "m", "messages": messages})

    lines, _ = check("\n".join(line(number, "abc"[number % 3] * 2000) for number in range(30)))
    order = [int(line.custom_id) % 3 for line in sorted(lines, key=lambda line: line.prefix)]
    assert sum(first != second for first, second in itertools.pairwise(order)) == 2


def test_memory_does_not_grow_with_long_lines():
    content = io.BytesIO(b"".join(body(pad="x" * 900_000, n=n + 1).encode() + b"\n" for n in range(30)))
    tracemalloc.start()
    list(read(content, rules(), Report()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20  # of 27 MB, of which one line is 0.9


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["POST", CHAT, "m", "a", ""]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "model", "messages", "stream"]), inner),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()), max_size=6).map(b"\n".join)
)
def test_whatever_comes_is_good_or_has_an_error(data):
    report = Report()
    lines = list(read(io.BytesIO(data), rules(), report))
    written = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    assert len(lines) + report.count == max(1, len(written))
    for error in report.all():
        assert error["message"] and "\0" not in error["message"]

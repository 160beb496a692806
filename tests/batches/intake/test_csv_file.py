"""A table of prompts becomes an input file: any text survives, and what is wrong is said of the row."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches.intake import csv_file
from batches.intake.csv_file import CsvError
from batches.intake.validate import Report

CHAT, EMBED, COMPLETE, RESPOND = "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/responses"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def convert(content, endpoint=CHAT, model="m", row_bytes=2**20, most_bytes=2**24, most_rows=10_000):
    content = content.encode() if isinstance(content, str) else content
    target, report = io.BytesIO(), Report()
    csv_file.convert(
        io.BytesIO(content),
        target,
        endpoint=endpoint,
        default_model=model,
        row_bytes=row_bytes,
        most_bytes=most_bytes,
        most_rows=most_rows,
        report=report,
    )
    lines = target.getvalue().split(b"\n")[:-1]
    return {number: json.loads(line) for number, line in enumerate(lines, 1) if line}, report.errors


def table(rows, delimiter=",", **options):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, **options).writerows(rows)
    return out.getvalue()


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5),
    st.sampled_from(csv_file.DELIMITERS),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_text_survives(pairs, delimiter, end, marked):
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL  # else the writer forgets those of a lone \r
    content = table([("prompt", "system"), *pairs], delimiter, lineterminator=end, quoting=quoting).encode()
    found, errors = convert(b"\xef\xbb\xbf" * marked + content)
    assert not errors
    assert [[one["content"] for one in line["body"]["messages"]] for line in found.values()] == [
        [system, prompt] for prompt, system in pairs
    ]


@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_a_clear_error(content):
    try:
        found, errors = convert(b"prompt,model\n" + content)
    except CsvError as error:
        assert str(error)
    else:
        assert not {one["line"] for one in errors} & found.keys()


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_the_bytes_of_the_rows_are_those_of_the_file(pairs):
    content = table([("prompt", "system"), *pairs]).encode()
    assert b"".join(row.raw for row in csv_file.rows(io.BytesIO(content), 2**20)) == content


@pytest.mark.parametrize(
    "endpoint, columns, row, body",
    [
        (CHAT, "prompt,max_tokens,temperature", "hi,7,0.5",
         {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 7, "temperature": 0.5}),
        (CHAT, "messages,system", '"[{""role"":""user"",""content"":""hi""}]",be kind',
         {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]}),
        (EMBED, "input", "hi", {"input": "hi"}),
        (COMPLETE, "Prompt , MAX_TOKENS", "hi,7", {"prompt": "hi", "max_tokens": 7}),
        (RESPOND, "prompt,system,max_tokens", "hi,be kind,7",
         {"input": "hi", "instructions": "be kind", "max_output_tokens": 7}),
        ("/v1/score", "queries,documents", 'hi,"[""a"",""b""]"', {"queries": "hi", "documents": ["a", "b"]}),
        ("/v1/rerank", "query,documents,top_n", "[hi],[a],3", {"query": "[hi]", "documents": "[a]", "top_n": 3}),
        (CHAT, "prompt,model", "hi,other", {"messages": [{"role": "user", "content": "hi"}], "model": "other"}),
    ],
)  # fmt: skip
def test_requests(endpoint, columns, row, body):
    found, errors = convert(f"{columns}\n{row}\n", endpoint)
    assert not errors
    assert found == {2: {"custom_id": "row-2", "method": "POST", "url": endpoint, "body": {"model": "m"} | body}}


def test_rows_keep_their_number_and_their_name():
    found, errors = convert('custom_id,prompt\na,"two\nlines"\n\n,third\nc,\nd,end')
    assert {number: one["custom_id"] for number, one in found.items()} == {2: "a", 4: "row-4", 6: "d"}
    assert [(one["line"], one["param"]) for one in errors] == [(5, "prompt")]


@pytest.mark.parametrize(
    "content, endpoint, said",
    [
        ("prompt,colour\nhi,red\n", CHAT, "no column 'colour'. Known are: custom_id, input, max_tokens"),
        ("prompt,\nhi,\n", CHAT, "no column one without a name"),
        ("input,temperature\nhi,1\n", EMBED, "no column 'temperature' at /v1/embeddings"),
        ("query\na\n", "/v1/rerank", "No column is called 'documents', which /v1/rerank needs"),
        ("query,documents\na,b\n", CHAT, "no column 'query' at /v1/chat/completions"),
        ("prompt,prompt\na,b\n", CHAT, "Two columns are called 'prompt'"),
        ("prompt,input\na,b\n", CHAT, "prompt and input both give the prompt"),
        ("custom_id,system\na,b\n", CHAT, "No column holds what is asked"),
        ("", CHAT, "first row must name the columns"),
        ("\n\nprompt\n", CHAT, "first row must name the columns"),
        (b"prompt\nfine\ncaf\xe9\n", CHAT, "Line 3 is not UTF-8 (its byte 4)"),
        ('prompt\n"' + "x" * 2**20, CHAT, "begins on line 2 has more than 1 MB"),
    ],
)
def test_files_that_are_no_table(content, endpoint, said):
    with pytest.raises(CsvError) as error:
        convert(content, endpoint)
    assert said in str(error.value)


def test_a_model_is_needed_somewhere():
    with pytest.raises(CsvError, match="No column names the model"):
        convert("prompt\nhi\n", model="")
    found, errors = convert("prompt,model\nhi,m\nhi,\n", model="")
    assert list(found) == [2] and errors[0]["param"] == "model"


@pytest.mark.parametrize(
    "row, said",
    [
        ("hi,many,", "max_tokens is 'many'"),
        ("hi,0,", "max_tokens is '0'"),
        ("hi,٣,", "max_tokens is '٣'"),
        ("hi,,warm", "temperature is 'warm'"),
        ("hi,,nan", "temperature is 'nan'"),
        ("hi,,3", "temperature is '3'"),
        ("hi,1,1,1", "has 4 fields, and the header names 3"),
        ('"hi"there,1,1', "cannot be read"),
        (",1,1", "'prompt' is empty"),
    ],
)
def test_rows_that_are_wrong(row, said):
    found, errors = convert(f"prompt,max_tokens,temperature\n{row}\nfine,1,1\n")
    assert [one["line"] for one in errors] == [2] and said in errors[0]["message"]
    assert list(found) == [3], "the rows after it are read"


@pytest.mark.parametrize("messages", ["hi", "{}", "[]", "[1]", '[{"content": "hi"}]', "[" * 2000])
def test_messages_that_are_none(messages):
    _, errors = convert(table([("messages",), (messages,)]))
    assert "'messages'" in errors[0]["message"]


def test_limits():
    with pytest.raises(CsvError, match="limit of one batch"):
        convert("prompt\n" + "hello\n" * 100, most_bytes=2000)
    found, _ = convert("prompt\n" + "hello\n" * 100, most_rows=10)
    assert 10 < len(found) < 15

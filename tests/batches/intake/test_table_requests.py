"""The rows of a table become requests: any text survives, every column stays, and what is wrong is said of the row."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches.intake.tables.cells import Limits, TableError
from batches.intake.tables.delimited import DELIMITERS
from batches.intake.tables.reading import Reading, guess
from batches.intake.tables.requests import Making, make
from batches.intake.tables.rows import headings, rows
from batches.intake.tables.template import TemplateError
from batches.intake.validate import Report
from vbs.openai import raw_json

CHAT, EMBED, COMPLETE, RESPOND = "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/responses"
SCORE, RERANK = "/v1/score", "/v1/rerank"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
LIMITS = Limits(2**20, 2**24, 10_000)
EXAMPLE = Path(__file__).parents[3] / "examples" / "reviews.csv"


def made(content, endpoint=CHAT, model="m", limits=LIMITS, name="t.csv", reading=None, **making):
    """The requests by their numbers, and the errors."""
    source = io.BytesIO(content.encode() if isinstance(content, str) else content)
    target, report = io.BytesIO(), Report()
    reading = reading or guess(source, name, limits)
    how = Making(endpoint, model, **making)
    how.check(headings(source, reading, limits))
    make(rows(source, reading, limits), how, target, report, limits)
    lines = target.getvalue().split(b"\n")[:-1]
    return {number: json.loads(line) for number, line in enumerate(lines, 1) if line}, report.errors


def table(rows, delimiter=",", **options):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, **options).writerows(rows)
    return out.getvalue()


# With a prompt template


def test_the_example_with_a_template():
    found, errors = made(
        EXAMPLE.read_bytes(), template="Is this {PRODUCT} good? {Review}", system="Be short.", id_column="ID",
        parameters={"max_tokens": 20},
    )  # fmt: skip
    assert not errors and list(found) == list(range(2, 12))
    assert found[2] == {
        "custom_id": "r-01",
        "method": "POST",
        "url": CHAT,
        "body": {
            "model": "m",
            "max_tokens": 20,
            "messages": [
                {"role": "system", "content": "Be short."},
                {
                    "role": "user",
                    "content": "Is this kettle good? Boils fast, and it is quiet. I would buy it again.",
                },
            ],
        },
        "row": {
            "id": "r-01",
            "product": "kettle",
            "stars": "5",
            "review": "Boils fast, and it is quiet. I would buy it again.",
        },
    }


def test_no_engine_sees_the_row():
    found, _ = made("text\nhi\n", template="{text}")
    custom_id, body = raw_json.request_of(json.dumps(found[2]).encode())
    assert custom_id == "row-2" and set(body) == {"model", "messages"}


def test_with_a_template_columns_are_data_only():
    found, errors = made("model,max_tokens,custom_id,prompt,text\nother,many,a,b,hi\n", template="{text}")
    assert not errors and found[2]["body"] == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert found[2]["custom_id"] == "row-2" and found[2]["row"]["max_tokens"] == "many"


@pytest.mark.parametrize(
    "endpoint, given, body",
    [
        (COMPLETE, {}, {"prompt": "Say hi"}),
        (EMBED, {}, {"input": "Say hi"}),
        (RESPOND, {"system": "{n}", "parameters": {"max_tokens": 5}},
         {"input": "Say hi", "instructions": "1", "max_output_tokens": 5}),
        (SCORE, {"documents": ("{text}?", "b")}, {"queries": "Say hi", "documents": ["hi?", "b"]}),
        (RERANK, {"documents": ("b",)}, {"query": "Say hi", "documents": ["b"]}),
    ],
)  # fmt: skip
def test_templates_at_every_endpoint(endpoint, given, body):
    found, errors = made("text,n\nhi,1\n", endpoint, template="Say {text}", **given)
    assert not errors and found[2]["body"] == {"model": "m"} | body


def test_documents_of_a_column():
    found, _ = made('text,documents\nhi,"[""a"",""b""]"\n', SCORE, template="{text}")
    assert found[2]["body"] == {"model": "m", "queries": "hi", "documents": ["a", "b"]}


def test_the_filled_prompt_is_shown():
    for endpoint in (CHAT, COMPLETE, EMBED, RESPOND):
        how = Making(endpoint, "m", template="Say {text}", system="x" if endpoint in (CHAT, RESPOND) else "")
        (row,) = rows(io.BytesIO(b"text\nhi\n"), Reading("csv"), LIMITS)
        assert how.prompt_of(row) == "Say hi"


@pytest.mark.parametrize(
    "given, said",
    [
        ({"template": "{none}"}, "There is no column 'none': the columns are 'text', 'n'"),
        ({"template": "{text"}, "single {"),
        ({"template": "{text}", "system": "{none}"}, "no column 'none'"),
        ({"template": "{text}", "id_column": "none"}, "no column 'none'"),
        ({"template": "{text}", "model": ""}, "No model is named: choose one."),
        ({"template": "{text}", "parameters": {"messages": []}}, "'messages' is made of each row"),
        ({"template": "{text}", "endpoint": EMBED, "system": "x"}, "does not go with /v1/embeddings"),
        ({"template": "{text}", "endpoint": SCORE}, "No column is called 'documents'"),
    ],
)
def test_what_is_wrong_for_every_row_is_said_once(given, said):
    with pytest.raises(TableError) as error:
        made("text,n\nhi,1\n", **given)
    assert said in str(error.value)
    assert isinstance(error.value, TemplateError) == ("column 'none'" in said or "single" in said)


def test_rows_that_fill_nothing():
    found, errors = made("id,text\na,hi\n,ho\nb,\n", template="{text}", id_column="id")
    assert list(found) == [2]
    assert [(one["line"], one["message"]) for one in errors] == [
        (3, "The column 'id' gives no id: it is empty."),
        (4, "The filled prompt is empty: the columns that it names have no text."),
    ]


def test_json_rows_keep_their_values():
    content = '{"text": "hi", "n": 1.50, "deep": {"a": [null]}}\n{"n": 2}\n'
    found, errors = made(content, name="t.jsonl", template="{text} {n}")
    assert found[1]["row"] == {"text": "hi", "n": 1.5, "deep": {"a": [None]}}
    assert found[1]["body"]["messages"][0]["content"] == "hi 1.5"
    assert [(one["line"], one["code"]) for one in errors] == [(2, "invalid_row")]
    assert "no column 'text'" in errors[0]["message"]


# By the names of the columns


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5),
    st.sampled_from(DELIMITERS),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_text_survives(pairs, delimiter, end, marked):
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL  # else the writer forgets those of a lone \r
    content = table([("prompt", "system"), *pairs], delimiter, lineterminator=end, quoting=quoting).encode()
    reading = Reading("csv", delimiter=delimiter)
    found, errors = made(b"\xef\xbb\xbf" * marked + content, reading=reading)
    assert not errors
    assert [[one["content"] for one in line["body"]["messages"]] for line in found.values()] == [
        [system, prompt] for prompt, system in pairs
    ]
    assert [line["row"] for line in found.values()] == [
        {"prompt": prompt, "system": system} for prompt, system in pairs
    ]


@given(st.binary(max_size=300))
def test_any_bytes_are_requests_or_a_clear_error(content):
    try:
        found, errors = made(b"prompt,model\n" + content)
    except TableError as error:
        assert str(error)
    else:
        assert not {one["line"] for one in errors} & found.keys()


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_the_texts_of_the_rows_are_that_of_the_file(pairs):
    content = table([("prompt", "system"), *pairs])
    pieces = Reading("csv").pieces(io.BytesIO(content.encode()), 2**20)
    assert "".join(piece.raw for piece in pieces) == content


@pytest.mark.parametrize(
    "endpoint, columns, row, body",
    [
        (CHAT, "prompt,max_tokens,temperature", 'hi,7,"0,5"',
         {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 7, "temperature": 0.5}),
        (CHAT, "messages,system", '"[{""role"":""user"",""content"":""hi""}]",be kind',
         {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]}),
        (EMBED, "input,temperature", "hi,1", {"input": "hi"}),
        (COMPLETE, "Prompt , MAX_TOKENS", "hi,7", {"prompt": "hi", "max_tokens": 7}),
        (RESPOND, "prompt,system,max_tokens", "hi,be kind,7",
         {"input": "hi", "instructions": "be kind", "max_output_tokens": 7}),
        (SCORE, "queries,documents", 'hi,"[""a"",""b""]"', {"queries": "hi", "documents": ["a", "b"]}),
        (RERANK, "query,documents,top_n", "[hi],[a],3", {"query": "[hi]", "documents": "[a]", "top_n": 3}),
        (CHAT, "prompt,model,colour", "hi,other,red",
         {"messages": [{"role": "user", "content": "hi"}], "model": "other"}),
    ],
)  # fmt: skip
def test_requests(endpoint, columns, row, body):
    found, errors = made(f"{columns}\n{row}\n", endpoint)
    assert not errors
    assert len(found[2].pop("row")) == len(columns.split(",")), "every column is kept"
    assert found == {2: {"custom_id": "row-2", "method": "POST", "url": endpoint, "body": {"model": "m"} | body}}


def test_rows_keep_their_number_and_their_name():
    found, errors = made('custom_id,prompt\na,"two\nlines"\n\n,third\nc,\nd,end')
    assert {number: one["custom_id"] for number, one in found.items()} == {2: "a", 4: "row-4", 6: "d"}
    assert [(one["line"], one["param"]) for one in errors] == [(5, "prompt")]


@pytest.mark.parametrize(
    "content, endpoint, said",
    [
        ("query\na\n", RERANK, "No column is called 'documents', which /v1/rerank needs"),
        ("prompt,input\na,b\n", CHAT, "prompt and input both give the prompt: write a prompt template"),
        (
            "custom_id,system\na,b\n",
            CHAT,
            "No column holds what is asked: write a prompt template, such as “Summarise: ",
        ),
        ("", CHAT, "first row must name the columns"),
        ("\n\n\n", CHAT, "first row must name the columns"),
        ('prompt\n"' + "x" * 2**20, CHAT, "begins on line 2 has more than 1 MB"),
    ],
)
def test_files_that_are_no_table(content, endpoint, said):
    with pytest.raises(TableError) as error:
        made(content, endpoint)
    assert said in str(error.value)


def test_a_model_is_needed_somewhere():
    with pytest.raises(TableError, match="No model is named: choose one, or add a column 'model'"):
        made("prompt\nhi\n", model="")
    found, errors = made("prompt,model\nhi,m\nhi,\n", model="")
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
        ("hi,1,1,1", "has 4 cells, and the headings are 3"),
        ('"hi"there,1,1', "cannot be read"),
        (",1,1", "'prompt' is empty"),
    ],
)
def test_rows_that_are_wrong(row, said):
    found, errors = made(f"prompt,max_tokens,temperature\n{row}\nfine,1,1\n")
    assert [one["line"] for one in errors] == [2] and said in errors[0]["message"]
    assert list(found) == [3], "the rows after it are read"


@pytest.mark.parametrize("messages", ["hi", "{}", "[]", "[1]", '[{"content": "hi"}]', "[" * 2000])
def test_messages_that_are_none(messages):
    _, errors = made(table([("messages",), (messages,)]))
    assert "'messages'" in errors[0]["message"]


def test_limits():
    with pytest.raises(TableError, match="limit of one batch"):
        made("prompt\n" + "hello\n" * 100, limits=LIMITS._replace(table_bytes=2000))
    found, _ = made("prompt\n" + "hello\n" * 100, limits=LIMITS._replace(requests=10))
    assert 10 < len(found) < 15

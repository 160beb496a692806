"""`manage.py make_batch`: what its lines look like, what it refuses, and that a file is whole or not there."""

import json
import re
import tracemalloc
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from batches.cli import synthetic
from batches.intake.tables.template import Template, TemplateError
from batches.intake.validate import Report, Rules, read
from tests.batches.intake.wrong_tables import WRONG

CHAT = "/v1/chat/completions"


def make(*words, out="-"):
    """The requests written (to standard output unless told otherwise)."""
    stdout, stderr = StringIO(), StringIO()
    call_command("make_batch", "--out", str(out), *map(str, words), stdout=stdout, stderr=stderr)
    text = stdout.getvalue() if out == "-" else Path(out).read_text()
    return [json.loads(one) for one in text.splitlines()]


def table(tmp_path, text, name="rows.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(match, *words, out="-"):
    with pytest.raises(CommandError, match=match) as error:
        make(*words, out=out)
    assert "\n" not in str(error.value)


# Templates


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Summarise: {text}", "Summarise: {id} <b>"),
        ("{{text}} {n}%s{0}", "{text} 7%szero"),
        ("{{{n}}}", "{7}"),
        ("{First name}!", "Ann!"),
        ("{n.__class__}", "literally"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_templates(text, filled):
    row = {"text": "{id} <b>", "n": "7", "First name": "Ann", "n.__class__": "literally", "0": "zero"}
    assert Template(text).fill(row) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{text.__class__.__mro__}", r"no column 'text.__class__.__mro__': the columns are 'text', 'n'"),
        ("{text!r}", "no column 'text!r'"),
        ("{text:>9}", "no column 'text:>9'"),
        ("{text[0]}", "no column"),
        ("{}", "no column ''"),
        ('{"a": 1}', "as in JSON, write {{ and }}"),
        ("a { b", "single { at character 3: write {{"),
        ("a } b", "single } at character 3: write {{ and }}"),
        ("\udcff", "not text"),
    ],
)
def test_what_is_no_column_is_refused(text, message):
    with pytest.raises(TemplateError, match=message):
        Template(text).fill({"text": "x", "n": "1"})


# Rows


def test_csv(tmp_path):
    path = table(tmp_path, '\ufeffid,text\na,"He said ""hi"",\nand left"\n\nb,\u2028{id}\n')
    found = make("--from", path, "--prompt", "{text}!", "--id-column", "id", "--model", "m", "--system", "Of {id}")
    assert [one["custom_id"] for one in found] == ["a", "b"]
    assert found[0] == {
        "custom_id": "a",
        "method": "POST",
        "url": CHAT,
        "body": {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Of a"},
                {"role": "user", "content": 'He said "hi",\nand left!'},
            ],
        },
        "row": {"id": "a", "text": 'He said "hi",\nand left'},
    }
    assert found[1]["body"]["messages"][1]["content"] == "\u2028{id}!"


def test_jsonl(tmp_path):
    rows = [{"text": "a", "n": 1.5}, {"text": None, "n": [1, "x"]}]
    path = table(tmp_path, "\n\n".join(map(json.dumps, rows)), "rows.jsonl")
    found = make("--from", path, "--prompt", "{text}|{n}", "--max-tokens", 9, "--temperature", 0)
    assert [one["body"]["messages"][0]["content"] for one in found] == ["a|1.5", '|[1,"x"]']
    assert [one["custom_id"] for one in found] == ["row-1", "row-3"]
    assert {name: found[0]["body"][name] for name in ("max_tokens", "temperature")} == {
        "max_tokens": 9,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "x", "max_tokens": 3}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 3, "instructions": "s"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/score", {"queries": "x", "documents": ["x?", "y"]}),
        ("/v1/rerank", {"query": "x", "documents": ["x?", "y"]}),
    ],
)
def test_every_endpoint_has_its_body(tmp_path, endpoint, body):
    words = ["--max-tokens", 3] if "max" in "".join(body) else []
    words += ["--document", "{t}?", "--document", "y"] if "documents" in body else []
    words += ["--system", "s"] if "instructions" in body else []
    found = make("--from", table(tmp_path, "t\nx\n"), "--prompt", "{t}", "--endpoint", endpoint, *words)
    assert (found[0]["url"], found[0]["body"]) == (endpoint, body)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("id,text\na,x\nb,y\na,z\n", "rows.csv", "Rows 2 and 4 have the same id 'a'"),
        ('id,text\na,"x\ny"\na,z\n', "rows.csv", "Rows 2 and 3 have the same id 'a'"),
        ("id,text\n,x\n", "rows.csv", "Row 2 of .*gives no id"),
        ("id,text\n" + "i" * 513 + ",x\n", "rows.csv", "512 characters"),
        ("id,text\na,b,c\n", "rows.csv", "Row 2 of .*has 3 cells, and the headings are 2"),
        ('id,text\na,"x\n', "rows.csv", "Row 2 of .*is opened in the row and never closed"),
        ("id,text\n", "rows.csv", "has no rows"),
        ("", "rows.csv", "first row must name the columns"),
        (b"id,text\na,\xc3\xa9\nb,\xc3\xa9\nc,\xff\n", "rows.csv", "Line 4 is not UTF-8"),
        ("id,other\na,x\n", "rows.csv", "no column 'text': the columns are 'id', 'other'"),
        ("[1]\n", "rows.jsonl", "one JSON list"),
        ('{"id": "a", "text": "x"}\n[1]\n', "rows.jsonl", "Row 2 of .*not a JSON object"),
        ('{"id": "a"\n', "rows.jsonl", "not a table: its first line is already a request, or not a JSON object"),
        ('{"id": "a", "text": ' + "[" * 300 + "]" * 300 + "}", "rows.jsonl", "nested too deeply"),
        ('{"text": "x"}\n', "rows.jsonl", "no column 'id'"),
        (b"%PDF", "rows.csv", "This is a PDF document"),
    ],
)
def test_bad_rows_are_named_and_leave_no_file(tmp_path, content, name, message):
    path, out = table(tmp_path, content, name), tmp_path / "out.jsonl"
    out.write_text("from before")
    refused(message, "--from", path, "--prompt", "{text}", "--id-column", "id", out=out)
    assert out.read_text() == "from before"
    assert {one.name for one in tmp_path.iterdir()} == {name, "out.jsonl"}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_told_with_its_remedy(tmp_path, name):
    filename, content, template, said = WRONG[name]
    refused(re.escape(said), "--from", table(tmp_path, content(), filename), "--prompt", template)


def test_no_such_table(tmp_path):
    refused("No such file", "--from", tmp_path / "none.csv", "--prompt", "x")


# Options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", 2, "--prompt", "x"], "--prompt is for rows"),
        (["--count", 2, "--id-column", "x"], "--id-column is for rows"),
        (["--count", 0], "--count is 0"),
        (["--count", 50_001], "--count is 50,001: a batch has at most 50,000"),
        (["--count", 1, "--shared-prefix", -1], "--shared-prefix is -1"),
        (["--count", 1, "--temperature", "nan"], "--temperature is nan"),
        (["--count", 1, "--max-tokens", 0], "--max-tokens is 0"),
        (["--count", 1, "--system", "x", "--endpoint", "/v1/embeddings"], "does not go with /v1/embeddings"),
        (["--count", 1, "--max-tokens", 1, "--endpoint", "/v1/embeddings"], "do not go with /v1/embeddings"),
        (["--count", 1, "--max-tokens", 1, "--endpoint", "/v1/score"], "do not go with /v1/score"),
        (["--count", 1, "--document", "x"], "--document is for rows"),
        (["--from", "x.csv", "--prompt", "x", "--document", "x"], "--document does not go with /v1/chat/completions"),
        (["--count", 1, "--split"], "cannot be split"),
        (["--count", 1, "--model", ""], "--model is empty"),
        (["--count", 1, "--model", "\udcff"], "not text in UTF-8"),
        (["--count", 1, "--system", "{x}"], "no column 'x'"),
        (["--count", 1, "--from", "x.csv"], "not allowed with"),
        ([], "required"),
    ],
)
def test_options_that_do_not_go(words, message):
    refused(message, *words)


# Files


def test_a_device_or_a_folder_is_not_replaced(tmp_path):
    refused("is there and is not a file", "--count", 1, out="/dev/null")
    refused("is there and is not a file", "--count", 1, out=tmp_path)
    refused("make it first", "--count", 1, out=tmp_path / "none" / "out.jsonl")


def test_too_much_is_refused_or_split(tmp_path, settings):
    settings.VBS_MAX_BATCH_REQUESTS = 4
    path = table(tmp_path, "t\n" + "x\n" * 10)
    refused("Row 6 is too much: a batch has at most 4 requests", "--from", path, "--prompt", "{t}", out=tmp_path / "o")
    stdout, out = StringIO(), tmp_path / "out.jsonl"
    words = ["--from", str(path), "--prompt", "{t}", "--split", "--out", str(out)]
    call_command("make_batch", *words, stdout=stdout, stderr=StringIO())
    files = sorted(tmp_path.glob("out*"))
    assert [one.name for one in files] == ["out-001.jsonl", "out-002.jsonl", "out-003.jsonl"]
    ids = [json.loads(line)["custom_id"] for one in files for line in one.read_text().splitlines()]
    assert ids == [f"row-{number}" for number in range(2, 12)]

    settings.VBS_MAX_BATCH_REQUESTS = 5
    before = files[0].read_text()
    with pytest.raises(CommandError, match=r"out-003\.jsonl is left from an earlier run"):
        call_command("make_batch", *words, stdout=stdout, stderr=StringIO())
    assert files[0].read_text() == before


def test_bytes_are_limited_too(tmp_path, settings):
    settings.VBS_MAX_BATCH_MB = settings.VBS_MAX_LINE_MB = 1
    wide = table(tmp_path, "t\n" + "x" * (2**20 - 100) + "\n")
    refused("The request of row 2 has ", "--from", wide, "--prompt", "{t}")
    refused("begins on line 1 has more than 1 MB", "--from", table(tmp_path, "x" * 2**21), "--prompt", "{t}")
    three = table(tmp_path, "t\n" + ("x" * 200_000 + "\n") * 3)
    refused("Row 4 is too much: a batch has at most 1,048,576 bytes", "--from", three, "--prompt", "{t}")


def test_memory_does_not_grow_with_the_rows(tmp_path):
    path = table(tmp_path, "t\n" + ("x" * 1000 + "\n") * 20_000)
    tracemalloc.start()
    make_quietly = ["make_batch", "--from", str(path), "--prompt", "{t}", "--out", str(tmp_path / "out")]
    call_command(*make_quietly, stdout=StringIO(), stderr=StringIO())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * 2


# Synthetic


def test_synthetic_prompts_are_the_same_again_and_vary_in_length():
    prompts = list(synthetic.prompts(200, 1, 300))
    assert prompts == list(synthetic.prompts(200, 1, 300))
    assert prompts != list(synthetic.prompts(200, 2, 300))
    assert len({text[:300] for text in prompts}) == 1
    assert len(set(prompts)) == 200
    lengths = sorted(len(text) for text in prompts)
    assert lengths[-1] > 4 * lengths[0]


def test_what_is_made_is_valid(tmp_path):
    out = tmp_path / "out.jsonl"
    make("--count", 50, "--model", "m", "--max-tokens", 5, "--shared-prefix", 10, out=out)
    report = Report()
    with out.open("rb") as file:
        found = list(read(file, Rules(CHAT, lambda name: None, 1000, 2**20), report))
    assert not report.count
    assert len(found) == 50


@pytest.mark.parametrize("name", ["demo_batch_10.jsonl", "reviews.csv"])
def test_the_examples(name, settings, tmp_path):
    path = settings.BASE_DIR / "examples" / name
    if name.endswith(".csv"):
        words = ["--prompt", "Is this about {product} kind? {review}", "--id-column", "id", "--model", "smollm2-135m"]
        make("--from", path, *words, out=tmp_path / "made.jsonl")
        path = tmp_path / "made.jsonl"
    report = Report()
    with path.open("rb") as file:
        assert len(list(read(file, Rules(CHAT, lambda name: None, 1000, 2**20), report))) == 10
    assert not report.count

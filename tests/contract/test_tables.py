"""A table becomes a batch in one call of the API, and its rows stay beside the requests."""

import io
import json

import pytest
from openpyxl import Workbook

from tests.batches.intake.wrong_tables import WRONG
from vbs.run.stack import BASE_DIR

EXAMPLE = BASE_DIR / "examples" / "reviews.csv"
GIVEN = {"model": "scripted", "prompt": "Summarise: {Review}", "system": "Be short.", "id_column": "id"}


def send(vbs, name, content, **data):
    return vbs.http.post("/batches", files={"file": (name, content)}, data=data)


def requests_of(vbs, file_id):
    return [json.loads(one) for one in vbs.client.files.content(file_id).text.splitlines() if one]


def test_the_example_becomes_answers(vbs):
    answer = send(vbs, "reviews.csv", EXAMPLE.read_bytes(), **GIVEN, parameters='{"max_tokens": 5}')
    assert answer.status_code == 200, answer.text
    batch = vbs.wait(vbs.retrieve(answer.json()["id"]))
    good, _ = vbs.books(batch, [f"r-{number:02}" for number in range(1, 11)])
    assert len(good) == 10 and batch.endpoint == "/v1/chat/completions"
    sent = requests_of(vbs, batch.input_file_id)
    assert vbs.client.files.retrieve(batch.input_file_id).filename == "reviews.jsonl"
    assert sent[0]["body"]["messages"][0] == {"role": "system", "content": "Be short."}
    assert sent[0]["body"]["max_tokens"] == 5 and sent[0]["row"]["product"] == "kettle"
    assert sent[0]["body"]["messages"][1]["content"] == f"Summarise: {sent[0]['row']['review']}"


def test_a_workbook_of_embeddings_by_the_names_of_its_columns(vbs):
    book, out = Workbook(), io.BytesIO()
    book.active.append(["custom_id", "input", "note"])
    book.active.append(["a", "some text", 5])
    book.save(out)
    answer = send(vbs, "t.xlsx", out.getvalue(), model="vectors")
    assert answer.status_code == 200 and answer.json()["endpoint"] == "/v1/embeddings", answer.text
    (sent,) = requests_of(vbs, answer.json()["input_file_id"])
    assert sent["body"] == {"model": "vectors", "input": "some text"} and sent["row"]["note"] == "5"


@pytest.mark.parametrize(
    "name, content, data, param, said",
    [
        ("t.csv", b"a,b\n1,2\n", {"prompt": "{none}"}, "prompt", "no column 'none': the columns are 'a', 'b'"),
        ("t.csv", b"a,b\n1,2\n", {"prompt": "{a"}, "prompt", "single {"),
        ("t.csv", b"a,b\n1,2\n", {}, "file", "No column holds what is asked"),
        ("t.csv", b"a,b\n1,2\n", {"prompt": "{a}", "model": ""}, "model", "No model is named"),
        ("t.csv", b"a,b\n1,2\n", {"prompt": "{a}", "parameters": "[1]"}, "parameters", "must be an object"),
        ("t.csv", b"a,b\n1,2\n", {"prompt": "{a}", "parameters": "{"}, "parameters", "not valid JSON"),
        (
            "t.csv",
            b"a,b\n1,2\n",
            {"prompt": "{a}", "parameters": '{"input": 1}'},
            "parameters",
            "'input' is made of each row",
        ),
        ("t.csv", b"a,b\n1,2,3\n", {"prompt": "{a}"}, "file", "has 3 cells, and the headings are 2"),
        ("t.csv", b"a,b\n", {"prompt": "{a}"}, "file", "no rows below its headings"),
        ("t.pdf", b"%PDF-1.7", {"prompt": "{a}"}, "file", "This is a PDF document"),
        ("t.jsonl", b'{"body": {}}', {"prompt": "{a}"}, "prompt", "requests already"),
        ("t.jsonl", b'{"body": {}}', {"id_column": "a"}, "id_column", "is for tables"),
    ],
)
def test_what_is_refused(vbs, name, content, data, param, said):
    before = vbs.http.get("/files").json()["data"]
    answer = send(vbs, name, content, **{"model": "scripted"} | data)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and said in error["message"], answer.text
    assert vbs.http.get("/files").json()["data"] == before, "nothing is kept"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_told_with_its_remedy(vbs, name):
    filename, content, template, said = WRONG[name]
    answer = send(vbs, filename, content(), model="scripted", prompt=template)
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"], answer.text
    if not filename.endswith(".txt"):  # its name says that it is a table, without a prompt too
        again = send(vbs, filename, content(), model="scripted").json()["error"]
        assert "must be JSONL" not in again["message"], again


def test_every_wrong_row_is_told(vbs):
    content = "id,text\n" + "".join(f"{number},\n" for number in range(1, 4)) + "4,fine\n"
    error = send(vbs, "t.csv", content, model="scripted", prompt="{text}").json()["error"]
    assert "Row 2: " in error["message"] and "first of 3 errors" in error["message"]
    assert [one["line"] for one in error["errors"]["data"]] == [2, 3, 4]


def test_sent_twice_it_is_one_batch(vbs):
    def once():
        files, headers = {"file": ("reviews.csv", EXAMPLE.read_bytes())}, {"Idempotency-Key": "a table"}
        return vbs.http.post("/batches", files=files, data=GIVEN, headers=headers).json()["id"]

    assert once() == once()


def test_a_row_beside_a_request_is_let_through(vbs):
    for row in ({"a": 1}, [1], "x", None):
        request = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "row": row}
        request["body"] = {"model": "vectors", "input": "hi"}
        batch = vbs.run([request], endpoint="/v1/embeddings")
        assert batch.request_counts.completed == 1
        assert json.loads(vbs.client.files.content(batch.input_file_id).text)["row"] == row

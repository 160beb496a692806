"""The results of a batch in each format, read back as other programs read them."""

import csv
import io
import json
import tracemalloc

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from django.db import connection
from django.utils import timezone
from openpyxl.utils.escape import unescape

from batches.export import download, source, xlsx
from batches.files import blobs
from batches.models import Batch, BatchStatus, RequestState
from tests.amount import later
from tests.batches.pages.shown import answer, chat, made, request
from vbs.accounts.models import Project
from vbs.openai.errors import InvalidRequest, NotFound, Unavailable

OWN = ["answer", "status", "error", "status_code", "model", "finish_reason", "input_tokens", "output_tokens"]
FORMATS = ("jsonl", "csv", "xlsx", "parquet")


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


def write(batch, name, joins=True):
    return b"".join(download.written(batch, name, joins))


def read(content, name):
    """The headings and the rows, as texts and numbers. Of CSV numbers are texts."""
    if name == "jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        return list(rows[0]) if rows else [], rows
    if name == "csv":
        assert content.startswith(b"\xef\xbb\xbf")
        head, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    elif name == "xlsx":
        sheet = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
        assert not [cell for row in sheet for cell in row if cell.data_type == "f"]
        head, *rows = [[unescape(cell.value) if cell.data_type == "s" else cell.value for cell in row] for row in sheet]
    else:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        return table.column_names, table.to_pylist()
    return head, [dict(zip(head, row, strict=True)) for row in rows]


def results(batch, name, joins=True):
    return read(write(batch, name, joins), name)


def rowed(custom_id, row, **body):
    return request(custom_id, **body) | {"row": row}


@pytest.fixture
def ended(project):
    """A batch with a request in each state, from a table with two columns."""
    rows = [rowed(f"r{n}", {"review": f"text {n}", "stars": str(n)}) for n in range(1, 6)]
    batch = made(project, rows, status=BatchStatus.CANCELLED, outcome="cancelled")
    none = {"status_code": None, "input_tokens": None, "output_tokens": None}
    answer(batch, 1, chat('Good, "very" good.\nYes'))
    answer(
        batch, 2, {"error": {"message": "no"}}, RequestState.FAILED, status_code=400, error_code="invalid_request",
        error_message="max_tokens is -1", input_tokens=0, output_tokens=0,
    )  # fmt: skip
    answer(batch, 3, None, RequestState.EXPIRED, **none)
    answer(batch, 4, None, RequestState.CANCELLED, **none)
    return batch


GOLDEN = [
    ["r1", "text 1", "1", 'Good, "very" good.\nYes', "completed", None, 200, "m", "stop", 5, 4],
    ["r2", "text 2", "2", None, "failed", "invalid_request: max_tokens is -1", 400, "m", None, 0, 0],
    [
        "r3", "text 3", "3", None, "expired",
        "batch_expired: This request could not be executed before the completion window expired.",
        None, "m", None, None, None,
    ],
    [
        "r4", "text 4", "4", None, "cancelled",
        "batch_cancelled: This request was not executed because the batch was cancelled.",
        None, "m", None, None, None,
    ],
]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_for_each_request_that_has_ended(ended, name):
    head, rows = results(ended, name)
    assert head == ["custom_id", "review", "stars", *OWN]
    wanted = GOLDEN
    if name == "csv":
        wanted = [["" if value is None else str(value) for value in row] for row in GOLDEN]
    assert [[row[column] for column in head] for row in rows] == wanted


@pytest.mark.parametrize("name", FORMATS)
def test_without_the_input(ended, name):
    head, rows = results(ended, name, joins=False)
    assert head == ["custom_id", *OWN]
    assert [row["custom_id"] for row in rows] == ["r1", "r2", "r3", "r4"]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_has_ended_yet(project, name):
    head, rows = results(made(project, [rowed("a", {"x": "1"})]), name)
    assert rows == [] and (name == "jsonl" or head == ["custom_id", "x", *OWN])


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_was_not_read_has_no_columns(project, name):
    batch = made(project, [b"{}", b"no json"], total=0)
    batch.requests.all().delete()
    assert results(batch, name)[1] == []


# Columns


def test_a_column_of_the_input_keeps_its_name_and_ours_gets_another(project):
    row = {"custom_id": "7", "Answer": "theirs", "answer_2": "too", "STATUS": "new", "prompt": "p"}
    batch = made(project, [rowed("a", row)])
    answer(batch, 1, chat("ours"))
    for name in FORMATS:
        head, (found,) = results(batch, name)
        assert head[:7] == ["custom_id_2", *row, "answer_3"] and head[7] == "status_2"
        assert found["custom_id_2"] == "a" and found["answer_3"] == "ours" and found["Answer"] == "theirs"
        assert len({one.casefold() for one in head}) == len(head)


def test_lines_without_a_row_have_their_prompt(project):
    lines = [
        request("plain"),
        rowed("row", {"a": "1"}),
        rowed("wrong", ["no", "object"]),
        rowed("empty", {}),
        request("system", messages=[{"role": "system", "content": "Short."}, {"role": "user", "content": "Why?"}]),
    ]
    batch = made(project, lines)
    for number in range(1, 6):
        answer(batch, number, chat("x"))
    head, rows = results(batch, "parquet")
    assert head[:3] == ["custom_id", "prompt", "a"]
    assert [(row["prompt"], row["a"]) for row in rows] == [
        ("question of plain", None), (None, "1"), ("question of wrong", None), ("question of empty", None),
        ("system: Short.\n\nuser: Why?", None),
    ]  # fmt: skip


def test_rows_may_have_different_columns_and_values_of_any_kind(project):
    raw = b'{"custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{},"row":'
    raw += b'{"id": 12345678901234567890, "price":1.50,"ok":true,"none":null,"tags":["a", 1]}}'
    batch = made(project, [rowed("a", {"x": "1", "price": "?"}), raw])
    for number in (1, 2):
        answer(batch, number, chat("x"))
    for name in FORMATS[1:]:
        head, (_, row) = results(batch, name)
        assert head[1:7] == ["x", "price", "id", "ok", "none", "tags"]
        assert row["id"] == "12345678901234567890" and row["ok"] == "true" and row["tags"] == '["a", 1]'
        assert row["price"] == (1.5 if name == "xlsx" else "1.50")
        assert not row["x"] and not row["none"]
    line = write(batch, "jsonl").splitlines()[1]
    assert b'"id":12345678901234567890' in line and b'"price":1.50' in line and b'"tags":["a", 1]' in line


def test_too_many_columns_are_refused(project, monkeypatch):
    batch = made(project, [rowed(f"{n}", {f"c{n}": "x"}) for n in range(12)])
    monkeypatch.setattr(source, "MOST_COLUMNS", 11)
    with pytest.raises(InvalidRequest, match="different columns: at most 11 are written") as refused:
        write(batch, "csv")
    assert refused.value.code == "too_many_columns"
    monkeypatch.setattr(source, "MOST_COLUMNS", 12)
    monkeypatch.setattr(source, "MOST_CHARACTERS", 5)
    with pytest.raises(InvalidRequest, match="5 characters"):
        write(batch, "jsonl")


# What the cells hold


FORMULAS = ['=HYPERLINK("http://x","y")', "+1+1", "-2+3|cmd", "@SUM(A1)", "\t=1", " \n-x", "=1"]


def test_formulas_are_inert(project):
    rows = [rowed(f"{n}", {"=1+1": text, "number": "-5.5"}) for n, text in enumerate(FORMULAS)]
    batch = made(project, rows)
    for number, text in enumerate(FORMULAS, 1):
        answer(batch, number, chat(text))
    head, found = results(batch, "csv")
    assert head[1:3] == ["'=1+1", "number"]
    for row, text in zip(found, FORMULAS, strict=True):
        assert row["'=1+1"] == row["answer"] == f"'{text}" and row["number"] == "-5.5"
    head, found = results(batch, "xlsx")  # `read` has looked for formulas
    assert [row["answer"] for row in found] == FORMULAS
    assert results(batch, "parquet")[1][0]["answer"] == FORMULAS[0]


@pytest.mark.parametrize("number", ["-5", "+5", "-1,5", "-.5", "-1e-7", "-1.5E+3"])
def test_a_number_is_no_formula(project, number):
    batch = made(project, [rowed("a", {"n": number})])
    answer(batch, 1, chat(number))
    (row,) = results(batch, "csv")[1]
    assert row["n"] == row["answer"] == number


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("x" * 32_767, True),
        ("x" * 32_768, False),
        ("😀" * 16_383, True),
        ("😀" * 16_384, False),
        ("😀x" * 40_000, False),
    ],
)
def test_long_texts(project, text, whole):
    batch = made(project, [rowed("a", {"t": text})])
    answer(batch, 1, chat(text))
    for name in ("jsonl", "csv", "parquet"):
        (row,) = results(batch, name)[1]
        assert row["t"] == row["answer"] == text
    (row,) = results(batch, "xlsx")[1]
    for found in (row["t"], row["answer"]):
        assert len(found.encode("utf-16-le")) // 2 <= 32_767
        if whole:
            assert found == text
        else:
            kept, _, said = found.partition(" … (cut here: ")
            assert text.startswith(kept) and len(found.encode("utf-16-le")) // 2 >= 32_765
            assert said.startswith(f"this text has {len(text):,} characters")


def test_control_characters(project):
    text = "a\0b\x1b[31m\x7f\ttab\r\nnew\rold\n\u2028\ufffe\ufeff_x0041_é"
    batch = made(project, [rowed("a", {"t": text})])
    answer(batch, 1, chat(text))
    seen = "a␀b␛[31m␡\ttab\nnew\nold\n\u2028\ufffe\ufeff_x0041_é"
    for name, wanted in (("jsonl", text), ("parquet", text), ("csv", seen), ("xlsx", seen)):
        (row,) = results(batch, name)[1]
        assert row["t"] == row["answer"] == wanted, name
    assert len(write(batch, "jsonl").decode().splitlines()) == 1


# While it changes


def test_what_is_deleted_meanwhile_is_no_whole_file(ended):
    pieces = download.written(ended, "csv", True)
    Batch.objects.filter(pk=ended.pk).update(purged_at=timezone.now())
    with pytest.raises(NotFound) as refused:
        list(pieces)
    assert refused.value.code == "results_expired"


def test_an_input_file_that_is_lost_or_changed(ended):
    path = blobs.folder() / ended.input_file.blob
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    with pytest.raises(NotFound, match="has changed"):
        write(ended, "csv")
    path.unlink()
    with pytest.raises(NotFound, match="not in the storage") as refused:
        write(ended, "csv")
    assert refused.value.code == "input_file_unavailable"
    ended.input_file.delete_softly()
    with pytest.raises(NotFound, match="was deleted"):
        write(Batch.objects.get(pk=ended.pk), "csv")
    assert results(ended, "csv", joins=False)[1]


# Bounds


def left(settings):
    return list(settings.TMP_DIR.glob("vbs-*")) if settings.TMP_DIR.exists() else []


def test_a_workbook_is_made_within_a_time(ended, settings, monkeypatch):
    before = left(settings)
    monkeypatch.setattr(xlsx, "MOST_SECONDS", -1)
    for _ in range(xlsx.AT_ONCE + 1):  # each gives its place back
        with pytest.raises(Unavailable, match="not ready within") as refused:
            write(ended, "xlsx")
        assert refused.value.code == "export_too_slow"
    assert left(settings) == before


def test_so_many_workbooks_are_made_at_once(ended, settings, monkeypatch):
    before = left(settings)
    monkeypatch.setattr(xlsx, "WAIT_SECONDS", 0)
    making = [download.written(ended, "xlsx", False) for _ in range(xlsx.AT_ONCE)]
    assert [next(one) for one in making] == [b""] * xlsx.AT_ONCE
    with pytest.raises(Unavailable, match="2 other Excel files") as refused:
        write(ended, "xlsx")
    assert refused.value.code == "too_many_exports"
    for one in making:
        one.close()  # as when its client is gone
    assert write(ended, "xlsx").startswith(b"PK") and left(settings) == before


def test_a_batch_that_no_sheet_holds(ended):
    xlsx.check(2**20 - 1)
    with pytest.raises(InvalidRequest, match="at most 1,048,576 rows, and this batch has 1,048,576") as refused:
        xlsx.check(2**20)
    assert refused.value.code == "too_large_for_xlsx"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("count", "length"), [(3_000, 10_000), later((50_000, 2_000))])
def test_memory_does_not_grow_with_the_rows(project, count, length):
    """30 or 100 MB of texts in the input, and as many in the answers."""
    first = rowed("a", {"t": "x" * length})
    batch = made(project, [first])
    line = json.dumps(first).encode() + b"\n"
    (blobs.folder() / batch.input_file.blob).write_bytes(line * count)
    answer(batch, 1, chat("y" * length))
    names = (
        "batch_id, custom_id, model_index, prefix, state, crashes, status_code, response, input_tokens, output_tokens"
    )
    table = batch.requests.model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO {table} (line, "offset", length, {names}) SELECT n, (n - 1) * %s, length, {names} '
            f"FROM {table}, generate_series(2, %s) AS n WHERE batch_id = %s",
            [len(line), count, batch.pk],
        )
    for name in FORMATS:
        pyarrow.default_memory_pool().release_unused()
        tracemalloc.start()
        size = rows = 0
        for piece in download.written(batch, name, True):
            size += len(piece)
            rows += piece.count(b"\n")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size and peak < 40 * 2**20, name
        assert name in ("xlsx", "parquet") or rows == count + (name == "csv")
    assert pyarrow.default_memory_pool().max_memory() < 40 * 2**20

"""Which results are downloaded in which format: by the query, for what is there, with names and types."""

import pytest
from django.http import QueryDict
from django.test import RequestFactory
from django.utils import timezone

from batches.export import download
from batches.finish import downloads
from batches.models import RequestState
from tests.batches.pages.shown import answer, chat, made, request
from vbs.accounts.models import Project
from vbs.openai.errors import ApiError


@pytest.fixture
def batch(db):
    made_now = made(Project.objects.create(name="project"), [request("a"), request("b")])
    answer(made_now, 1, chat("x"))
    answer(made_now, 2, None, RequestState.FAILED, status_code=None, error_code="x", error_message="y")
    return made_now


def ask(batch, query):
    return download.results(RequestFactory().get("/"), batch, QueryDict(query))


def body(response):
    return b"".join(response.streaming_content)


@pytest.mark.parametrize(
    ("name", "kind", "begins"),
    [
        ("jsonl", "application/x-ndjson", b'{"custom_id":"a"'),
        ("csv", "text/csv; charset=utf-8", "\ufeffcustom_id,".encode()),
        ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", b"PK"),
        ("parquet", "application/vnd.apache.parquet", b"PAR1"),
    ],
)
def test_names_and_types(batch, name, kind, begins):
    response = ask(batch, f"format={name}&join=input")
    assert response.headers["Content-Type"] == kind and response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Disposition"] == f'attachment; filename="{batch.pk}_results.{name}"'
    assert body(response).startswith(begins)


@pytest.mark.parametrize(
    ("given", "kept"), [("my reviews", "my reviews"), ("../a\\b:\u202egnp", "_a_b__gnp"), (" .", "{id}"), ("é", "é")]
)
def test_a_file_is_called_as_its_batch(batch, given, kept):
    batch.name = given
    assert download.filename(batch, "csv") == f"{kept.format(id=batch.pk)}_results.csv"


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("query", ["", "format=jsonl", "x=1"])
def test_without_format_and_join_they_are_the_output_lines(batch, query):
    plain = downloads.output(RequestFactory().get("/"), batch)
    assert b"".join(ask(batch, query)) == b"".join(plain)


@pytest.mark.parametrize(
    ("query", "param", "code", "message"),
    [
        ("format=xls", "format", "invalid_value", "Supported values are: jsonl, csv, xlsx, parquet."),
        ("format=", "format", "invalid_value", "Supported values are"),
        ("format=csv&format=csv", "format", "duplicate_parameter", "2 times"),
        ("join=output", "join", "invalid_value", "Supported values are: input."),
        ("format=csv&join=", "join", "invalid_value", "Supported values are: input."),
    ],
)
def test_what_is_not_known_is_refused(batch, query, param, code, message):
    with pytest.raises(ApiError, match=message) as refused:
        ask(batch, query)
    assert (refused.value.status_code, refused.value.param, refused.value.code) == (400, param, code)


@pytest.mark.parametrize("query", ["format=parquet", "join=input", "format=csv&join=input"])
def test_what_is_no_longer_kept(batch, query):
    batch.purged_at = timezone.now()
    with pytest.raises(ApiError, match="no longer kept") as refused:
        ask(batch, query)
    assert (refused.value.status_code, refused.value.code) == (404, "results_expired")


def test_without_the_input_file_there_are_answers_alone(batch):
    batch.input_file.expires_at = timezone.now()
    with pytest.raises(ApiError, match=r"The input file has expired\. Leave out join=input\.") as refused:
        ask(batch, "format=csv&join=input")
    assert (refused.value.status_code, refused.value.code) == (404, "input_file_unavailable")
    assert body(ask(batch, "format=csv")).count(b"\n") == 3


def test_too_many_rows_for_a_sheet(batch):
    batch.total = 2**20
    with pytest.raises(ApiError, match="A sheet of Excel has at most 1,048,576 rows"):
        ask(batch, "format=xlsx")

"""The table of a batch's requests: what it shows, to whom, how it is paged and searched, and what it costs."""

import re

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches.models import Batch, BatchRequest, BatchStatus, RequestState
from batches.pages.new.beginning import beginning
from batches.pages.request import table as many
from batches.pages.request.chosen import limited
from tests.batches.pages.shown import HOSTILE, HTMX, answer, chat, made, member, other, request, text
from vbs.accounts.models import Project
from vbs.pages.viewer import Viewer

ALL = Viewer(frozenset(), None)


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture
def looker(project):
    return member(project)


@pytest.fixture
def batch(project):
    """120 requests: 1 to 100 answered, 101 to 110 failed, the rest pending."""
    made_ = made(project, [request(f"id-{n}") for n in range(1, 121)])
    rows = made_.requests
    rows.filter(line__lte=100).update(
        state=1, status_code=200, response='{"choices":[{"message":{"content":"Yes."}}]}', finished_at=timezone.now()
    )
    rows.filter(line__range=(101, 110)).update(state=2, error_code="engine_crashed", error_message="It died.")
    Batch.objects.filter(pk=made_.pk).update(completed=100, failed=10)
    made_.refresh_from_db()
    return made_


def part(batch, **query):
    return many.build(ALL, query, batch.pk)


def lines(part):
    return [row["line"] for row in part["rows"]]


def url(batch, query=""):
    return f"/batches/{batch.pk}/requests{query}"


def test_the_table(looker, batch):
    page = text(looker.get(url(batch)))
    assert "id-1<" in page and "Yes." in page and "id-51" not in page and "Later lines" in page
    assert f'href="/batches/{batch.pk}/requests/1"' in page
    assert re.findall(r'<span class="quiet">([\d,]+)</span></a>', page) == ["120", "10", "100", "10"]


def test_the_http_status_has_a_column(looker, batch):
    page = text(looker.get(url(batch, "?state=failed")))
    assert '<th scope="col" class="number">HTTP status</th>' in page and 'data-label="HTTP status">–<' in page
    batch.requests.filter(line=101).update(status_code=400)
    page = text(looker.get(url(batch, "?state=failed")))
    assert '<td class="number" data-label="HTTP status">400</td>' in page
    assert "Input tokens" in page and "Tokens in" not in page


def test_htmx_is_answered_with_the_table_alone(looker, batch):
    page = text(looker.get(url(batch), headers=HTMX))
    assert page.startswith('<section id="requests"') and "<html" not in page
    assert 'hx-target="#requests"' in page and page.count('id="requests"') == 1


def test_there_and_back_again(batch):
    first = part(batch)
    assert lines(first) == list(range(1, 51)) and not first["before"]
    second = part(batch, after="50")
    assert lines(second) == list(range(51, 101)) and second["before"] and second["after"]
    third = part(batch, after="100")
    assert lines(third) == list(range(101, 121)) and not third["after"]
    assert lines(part(batch, before="101")) == lines(second)
    back = part(batch, before="51")
    assert lines(back) == lines(first) and not back["before"] and back["after"]


def test_links_lead_to_the_next_page_with_what_was_chosen(looker, batch):
    page = text(looker.get(url(batch, "?state=completed&q=id-")))
    (later,) = set(re.findall(r'rel="next" href="([^"]+)"', page))
    assert later == f"/batches/{batch.pk}/requests?state=completed&amp;q=id-&amp;after=50"
    assert "id-51<" in text(looker.get(later.replace("&amp;", "&")))


def test_by_state_and_custom_id(batch):
    assert lines(part(batch, state="failed")) == list(range(101, 111))
    assert lines(part(batch, state="pending")) == list(range(111, 121))
    assert part(batch, state="failed")["rows"][0]["answer"] == "engine_crashed: It died."
    assert lines(part(batch, q="d-11")) == [11, *range(110, 120)]
    assert lines(part(batch, q="d-11", state="pending")) == list(range(111, 120))
    for nothing in ("%", "_", "\\", "'", "\0%", "x" * 600):
        assert part(batch, q=nothing)["why"] == "No request matches."
    assert len(part(batch, q="\0")["rows"]) == 50


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?before=", "?state=nope", "?after=1²", "?after=0"])
def test_what_cannot_be_understood_is_ignored(looker, batch, query):
    answer = looker.get(url(batch, query))
    assert answer.status_code == 200 and "id-1<" in text(answer)


def test_beyond_the_end(looker, batch):
    page = text(looker.get(url(batch, f"?after={10**30}")))
    assert "No request matches" in page and "Show all from the start" in page


def test_what_was_not_run_has_a_count_of_its_own(project):
    batch = made(project, [request("a"), request("b")], status=BatchStatus.EXPIRED, outcome="expired")
    answer(batch, 1, state=RequestState.EXPIRED)
    answer(batch, 2, state=RequestState.FAILED)
    Batch.objects.filter(pk=batch.pk).update(failed=2, not_run=1)
    shown = part(batch)
    assert {name: count for name, count, _, _ in shown["choices"]} == {
        "all": 2, "pending": 0, "completed": 0, "failed": 1, "expired": 1, "cancelled": 0,
    }  # fmt: skip
    assert lines(part(batch, state="expired")) == [1] and "window expired" in shown["rows"][0]["answer"]
    assert lines(part(batch, state="failed")) == [2]


def test_why_there_are_none(looker, project):
    batch = made(project, [], status=BatchStatus.VALIDATING, validated_at=None)
    assert "still being read" in text(looker.get(url(batch)))
    Batch.objects.update(status=BatchStatus.FAILED)
    assert "failed validation" in text(looker.get(url(batch)))


def test_what_was_deleted_is_said(looker, batch):
    batch.requests.all().delete()
    Batch.objects.update(purged_at=timezone.now(), status=BatchStatus.COMPLETED)
    page = text(looker.get(url(batch)))
    assert "No longer kept" in page and "were deleted" in page and "No request matches" not in page


def test_of_a_batch_that_has_ended_the_rest_was_not_run(batch):
    Batch.objects.update(status=BatchStatus.CANCELLED)
    assert part(batch, state="pending")["rows"][0]["state"] == "not run"


def test_hostile_text_stays_text(looker, project):
    batch = made(project, [request(HOSTILE), request("x")])
    answer(batch, 1, chat(HOSTILE))
    answer(batch, 2, state=RequestState.FAILED, error_code=HOSTILE, error_message=HOSTILE)
    page = text(looker.get(url(batch, "?q=<script>")))
    assert "<script>alert" not in page and "\x1b" not in page and "\u202e" not in page
    assert "⟨ESC⟩[31m⟨RLO⟩gnp.exe" in page and 'value="&lt;script&gt;"' in page


# How an answer begins


@pytest.mark.parametrize(
    "response, wanted",
    [
        (None, ""),
        ('{"choices":[{"message":{"content":"a\\n  b"}}]}', "a b"),
        ('{"choices":[{"message":{"reasoning":"hm","content":"so"}}]}', "so"),
        ('{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}',
         "tool call f: {}"),
        ('{"choices":[{"text":"once"}]}', "once"),
        ('{"data":[{"embedding":[' + ",".join(["0.1"] * 384) + "]}]}", "384 dimensions"),
        ('{"data":[{"index":0,"object":"score","score":0.5},{"index":1,"object":"score","score":-1}]}', "0.5 · -1"),
        ('{"results":[{"index":1,"document":{"text":"yes"},"relevance_score":0.5}]}', "yes"),
        ('{"data":[{"embedding":[1,2]},{"embedding":[1,2]}]}', "2 dimensions × 2"),
        ('{"data":[{"embedding":"AAAAAAAAAAA="}]}', "2 dimensions"),
        ('{"output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"hi"}]}]}', "hi"),
        ('{"error":{"message":"too long"}}', "too long"),
        ('"just text"', "just text"), ("no json", "no json"), ("[1]", "[1]"), ("{}", "{}"), ('{"choices":7}', None),
        ('{"choices":[7],"data":{"a":1},"output":"x"}', None), ('{"data":[7]}', None),
    ],
)  # fmt: skip
def test_beginnings(response, wanted):
    assert beginning(response) == wanted or (wanted is None and beginning(response))


def test_a_long_answer_is_told_by_its_beginning(project):
    batch = made(project, [request(f"{n}") for n in range(3)])
    answer(batch, 1, '{"choices":[{"message":{"role":"assistant","content":"long' + "\\u00e4" * 200_000 + '"}}]}')
    answer(batch, 2, '{"data":[{"embedding":[' + "0.123456789," * 20_000 + "1]}]}")
    answer(batch, 3, '{"x":"' + "y" * 200_000 + '"}')
    first, second, third = part(batch)["rows"]
    assert first["answer"] == "long" + "ä" * 115 + "…" and second["answer"] == "an embedding"
    assert third["answer"].startswith('{"x":"yyy')


def test_a_cut_answer_is_text_wherever_it_was_cut():
    response = r'{"choices":[{"message":{"content":"aä\u00e4\"\ud83d\ude00 b"}}]}'
    for end in range(response.index("a"), len(response)):
        shown = beginning(response[:end], whole=False)
        assert "choices" in shown or shown in 'aää"😀 b', shown


# Who may, and what it costs


def test_strangers_and_what_is_not_there(looker, batch):
    assert Client().get(url(batch)).url.startswith("/login?next=")
    assert member(other()).get(url(batch)).status_code == 404
    for nobody in ("batch_none", "%00", "a%00b"):
        assert looker.get(f"/batches/{nobody}/requests").status_code == 404
    assert looker.post(url(batch)).status_code == 405
    Batch.objects.update(hidden=True)
    assert looker.get(url(batch)).status_code == 404


def test_another_chosen_project_does_not_hide_what_is_asked_for_by_its_id(project, batch):
    second = other()
    client = member(project, second)
    client.post("/project", {"project": second.pk})
    assert client.get(url(batch)).status_code == 200


def test_it_runs_no_scripts_but_ours(looker, batch):
    answer = looker.get(url(batch))
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", text(answer))


@pytest.mark.parametrize("query", [{}, {"after": "50"}, {"state": "failed"}, {"q": "id-1", "state": "completed"}])
def test_what_it_costs(batch, query, django_assert_num_queries):
    with django_assert_num_queries(6 if {"state", "q"} & set(query) else 3):  # with savepoint, limit and release
        part(batch, **query)


def test_what_is_counted_as_none_is_not_looked_for(batch, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert not part(batch, state="expired")["rows"]


def test_no_answer_is_read_to_find_the_lines(batch):
    with CaptureQueriesContext(connection) as asked:
        part(batch, q="id")
    found = [query["sql"] for query in asked if 'FROM "batches_batchrequest"' in query["sql"]]
    assert ['"response"' in sql for sql in found] == [False, True]


def test_a_search_that_takes_too_long_is_given_up(batch, monkeypatch):
    def slow(*given):
        with limited(1), connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(30)")

    monkeypatch.setattr(many, "lines", slow)
    assert "was stopped" in part(batch, q="x")["why"]
    assert BatchRequest.objects.exists(), "the connection goes on"


def test_superusers_see_every_project(batch):
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(url(batch)).status_code == 200

"""The history of batches: what is found, page by page, by whom, whatever is typed; and that it costs the same."""

import html
import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches.models import TERMINAL, Batch, BatchStatus
from batches.pages.history import filters
from batches.queue.snapshot import Forecast
from models_registry.models import Alias, Model
from vbs.accounts.models import Project

BAD = "<script>alert('x')</script>"
HOSTILE = [
    "'", "''", "\\", "\\'", "a'b\\", "&", "|", "!", "!!", "a & b", "a | !b", "<->", "a <-> b", ":*", "a:*", "a:*B",
    "(", ")", "((a)", '"', "%", "%s", "_", "--", "; DROP TABLE batches_batch", "a\tb\nc", "\u202e", "🎉", "é" * 200,
    "*", ":", "'a':*&", "\\\\", "batch_", "batch_%", "batch_'", "batch_zz", "0", BAD, "$$", "{}", "\x01",
]  # fmt: skip


def batch(project, at=None, place=0, **fields):
    """At a moment, which is in its id."""
    at = at or timezone.now()
    pk = f"batch_{int(at.timestamp() * 1000):012x}{place:020x}"
    given = {
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "expires_at": at + timedelta(days=1),
        "created_at": at,
        "model_names": ["scripted"],
        "status": BatchStatus.COMPLETED,
        "total": 10,
        "completed": 10,
        "in_progress_at": at,
        "completed_at": at + timedelta(minutes=2),
    }
    return Batch.objects.create(id=pk, project=project, **given | fields)


@pytest.fixture
def mine(db):
    return Project.objects.create(name="mine")


@pytest.fixture
def other(db):
    return Project.objects.create(name="other")


@pytest.fixture
def member(mine):
    user = User.objects.create_user("member")
    mine.members.add(user)
    client = Client()
    client.force_login(user)
    return client


def text(response):
    return response.content.decode()


def shown(response):
    """The ids of a page, from its top."""
    assert response.status_code == 200, text(response)
    return re.findall(r'id="row-(batch_\w+)"', text(response))


def found(client, **query):
    return shown(client.get("/batches/", query))


def seen(response):
    return re.findall(r'name="seen" value="([^"]+)"', text(response))


def link(response, rel):
    match = re.search(rf'rel="{rel}" href="([^"]+)"', text(response))
    return match and f"/batches/{html.unescape(match[1])}"


# What a row says


def test_a_row_says_what_a_batch_is(root, mine):
    one = batch(
        mine, datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC), total=1200, completed=900, failed=300, priority=-7,
        model_names=["a", "b", "c"], metadata={"team": "search", "long": "x" * 512, "k": "v", "more": "w"},
    )  # fmt: skip
    page = text(root.get("/batches/"))
    assert f'href="/batches/{one.pk}/"' in page and "2026-03-01 12:00:05" in page and "2 min" in page
    assert "900 of 1,200" in page and "300 failed" in page and ">mine<" in page and ">-7<" in page
    assert 'class="completed" width="75.0"' in page and 'x="75.0" width="25.0"' in page
    assert "k: v" in page and "long: xxx" in page and "x" * 60 not in page and "+ 1</span>" in page


def test_deleted_batches_are_not_shown(root, mine):
    batch(mine, hidden=True)
    assert found(root) == []


def test_of_one_that_runs_it_is_said_when_it_will_end(root, mine, monkeypatch):

    one = batch(mine, status="in_progress", completed=1, completed_at=None)
    expected = Forecast(completion_at=timezone.now() + timedelta(minutes=30))
    monkeypatch.setattr("batches.queue.forecast.plan", lambda: {one.pk: expected})
    assert "≈ 30 min left" in text(root.get("/batches/"))


def test_what_has_hardly_begun_breaks_nothing(root, mine):
    batch(mine, status="validating", total=0, completed=0, model_names=[], metadata=None, completed_at=None)
    batch(mine, place=1, status="failed", total=0, completed=0, failed_at=None, completed_at=None)
    assert len(found(root)) == 2


# Filters


def held():
    return {"leased_by": uuid.uuid4(), "leased_until": timezone.now() + timedelta(minutes=1)}


def test_by_state(root, mine):
    ended = {state.value: batch(mine, place=n, status=state).pk for n, state in enumerate(TERMINAL)}
    live = {
        "validating": batch(mine, place=10, status="validating"),
        "queued": batch(mine, place=11, status="validating", validated_at=timezone.now(), completed=1),
        "loading": batch(mine, place=12, status="validating", validated_at=timezone.now(), **held()),
        "running": batch(mine, place=13, status="in_progress", validated_at=timezone.now(), **held()),
        "writing": batch(mine, place=14, status="finalizing"),
        "cancelling": batch(mine, place=15, status="cancelling"),
    }
    every = ended | {state: one.pk for state, one in live.items()}
    for state, pk in every.items():
        page = root.get("/batches/", {"state": state})
        assert shown(page) == [pk] and f'<span class="state {state}">{state}</span>' in text(page)
    assert set(found(root, state="live")) == {one.pk for one in live.values()}
    assert len(found(root, state="")) == len(every)


def test_by_model_exactly(root, mine):
    one, two = batch(mine, model_names=["org/a", "b"]), batch(mine, place=1, model_names=["org/a-large"])
    assert found(root, model="org/a") == [one.pk] == found(root, model="b")
    assert found(root, model="org/a-large") == [two.pk]
    assert found(root, model="org") == []


def test_models_and_aliases_are_offered(root):
    model = Model.objects.create(name="org/a", kind="scripted")
    Alias.objects.create(name="@production", model=model)
    page = text(root.get("/batches/"))
    assert '<option value="org/a">' in page and '<option value="@production">' in page


def test_by_days_of_a_zone_or_of_utc(root, mine):
    first = batch(mine, datetime(2026, 3, 1, 0, 0, tzinfo=UTC))
    last = batch(mine, datetime(2026, 3, 1, 23, 59, 59, 999000, tzinfo=UTC))
    next_day = batch(mine, datetime(2026, 3, 2, 0, 0, tzinfo=UTC))
    assert found(root, since="2026-03-01", until="2026-03-01") == [last.pk, first.pk]
    assert found(root, since="2026-03-02") == [next_day.pk]
    assert found(root, until="2026-02-28") == []
    assert found(root, until="2026-03-01", zone="Europe/Berlin") == [first.pk]
    assert found(root, since="2026-03-02", zone="Europe/Berlin") == [next_day.pk, last.pk]
    assert "zone=Europe%2FBerlin" in text(root.get("/batches/", {"since": "2026-03-01", "zone": "Europe/Berlin"}))
    assert root.get("/batches/", {"since": "2026-03-01", "zone": "Europe/Atlantis"}).status_code == 422


def test_by_words_of_the_metadata(root, mine):
    one = batch(mine, metadata={"team": "search", "run": "nightly-2026", "note": "it's café/ünï"})
    two = batch(mine, place=1, metadata={"team": "ads", "owner": "search party"})
    batch(mine, place=2, metadata=None)
    assert set(found(root, words="search")) == {one.pk, two.pk}
    assert found(root, words="SEARCH night") == [one.pk], "of the last word the beginning is enough"
    assert found(root, words="night search") == [], "of the others it is not"
    assert found(root, words="owner") == [two.pk], "keys count"
    assert found(root, words="it's") == found(root, words="nightly-2026") == found(root, words="café/ü") == [one.pk]
    assert found(root, words="search absent") == []


def test_by_words_of_the_name(root, mine):
    one = batch(mine, name="Reviews of March-2026.v2", metadata={"team": "search"})
    two = batch(mine, place=1, name="reviews_2025", metadata=None)
    assert found(root, words="review") == [two.pk, one.pk] and found(root, words="REVIEWS march") == [one.pk]
    for words in ("2026", "v2", "March-2026", "march-2026.v2", "reviews search", "search rev"):
        assert found(root, words=words) == [one.pk], words
    assert found(root, words="2025") == found(root, words="reviews_2025") == [two.pk]
    assert found(root, words="reviews ads") == []


def test_the_name_comes_first_and_the_id_beside_it(root, mine):
    one = batch(mine, name="Reviews " + BAD)
    page = text(root.get("/batches/"))
    assert f'title="{one.pk}"><bdi>Reviews &lt;script&gt;' in page and BAD not in page
    batch(mine, place=1, name="\u202ereversed" + "x" * 190)
    assert "<bdi>⟨RLO⟩reversed" in text(root.get("/batches/")) and "x" * 80 not in text(root.get("/batches/"))


def test_by_id(root, mine):
    one, two = batch(mine, datetime(2026, 3, 1, tzinfo=UTC)), batch(mine, place=1)
    assert found(root, words=one.pk) == found(root, words=f" {one.pk[:18]} ") == [one.pk]
    assert found(root, words="batch_") == [two.pk, one.pk]


def test_by_project(root, mine, other):
    one, two = batch(mine), batch(other, place=1)
    assert found(root, project=mine.pk) == [one.pk] and found(root) == [two.pk, one.pk]
    root.post("/project", {"project": other.pk})
    page = root.get("/batches/")
    assert shown(page) == [two.pk] and 'id="id_project"' not in text(page), "the choice at the top is the filter"


def test_filters_go_together(root, mine, other):
    one = batch(mine, status="failed", metadata={"a": "b"}, model_names=["m"])
    batch(mine, place=1, status="failed", model_names=["m"])
    batch(other, place=2, status="failed", metadata={"a": "b"}, model_names=["m"])
    assert found(root, state="failed", model="m", words="b", project=mine.pk) == [one.pk]


@pytest.mark.parametrize("given", HOSTILE)
def test_whatever_is_typed_is_only_looked_for(root, mine, given):
    batch(mine, metadata={"a": "b"}, model_names=["m"])
    for name in ("words", "model", "before", "after"):
        answer = root.get("/batches/", {name: given[:40], "project": mine.pk})
        assert answer.status_code == 200 and "<script>alert" not in text(answer)
        assert root.get("/batches/live", {name: given[:40]}).status_code == 200


@pytest.mark.parametrize(
    "query, said",
    [
        ({"since": "yesterday"}, "Enter a valid date"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "2026-03-01 is before 2026-03-02"),
        ({"state": BAD}, "&lt;script&gt;"),
        ({"words": "a\0b"}, "Null characters"),
        ({"model": "m" * 201}, "at most 200"),
        ({"before": "x" * 41}, "at most 40"),
    ],
)
def test_what_cannot_be_a_filter_is_said_and_lists_nothing(root, mine, query, said):
    batch(mine)
    answer = root.get("/batches/", query)
    assert answer.status_code == 422 and said in text(answer) and "row-batch" not in text(answer)
    assert BAD not in text(answer)
    assert root.get("/batches/live", query).status_code == 404


@pytest.mark.parametrize("day", ["0001-01-01", "1969-12-31", "9999-12-31"])
def test_days_at_the_ends_of_time(root, mine, day):
    batch(mine)
    for name in ("since", "until"):
        assert root.get("/batches/", {name: day}).status_code == 200


# Pages


@pytest.fixture
def many(mine, monkeypatch):
    """Pages of 5; of the same millisecond all, as after a burst. Every second one is asked for by `even`."""
    monkeypatch.setattr(filters, "PAGE", 5)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    made = [batch(mine, at, n, metadata={"word": ("even", "odd")[n % 2]}).pk for n in range(24)]
    return made[::-1]


@pytest.mark.parametrize("near", [1, 3, 10, 500])
@pytest.mark.parametrize("query", [{}, {"state": "completed"}, {"words": "even"}, {"words": "even", "state": "live"}])
def test_pages_have_each_batch_once_forth_and_back(root, many, near, query, monkeypatch):
    monkeypatch.setattr(filters, "NEAR", near)
    wanted = [] if "live" in query.values() else many[1::2] if "words" in query else many
    page, pages = root.get("/batches/", query), []
    while True:
        pages.append(shown(page))
        if not (older := link(page, "next")):
            break
        page = root.get(older)
    assert [pk for one in pages for pk in one] == wanted
    assert all(len(one) == 5 for one in pages[:-1])
    for back in reversed(pages[:-1]):
        page = root.get(link(page, "prev"))
        assert shown(page) == back
    assert link(page, "prev") is None


def test_a_page_stays_where_it_is_while_batches_come(root, many, mine):
    second = link(root.get("/batches/"), "next")
    before = shown(root.get(second))
    batch(mine)
    assert shown(root.get(second)) == before == many[5:10]


def test_a_page_that_begins_in_the_middle_of_a_first_one_is_the_first(root, many):
    page = root.get("/batches/", {"after": many[3]})
    assert shown(page) == many[:5] and link(page, "prev") is None and link(page, "next")


# Whose


def test_members_see_their_projects_alone(member, root, mine, other):
    theirs, hidden = batch(mine), batch(other, place=1, metadata={"secret": "word"}, model_names=["secret-model"])
    assert found(member) == [theirs.pk]
    for query in (
        {"words": "secret"},
        {"words": hidden.pk},
        {"model": "secret-model"},
        {"before": "c"},
        {"after": "a"},
    ):
        assert hidden.pk not in found(member, **query)
        assert shown(member.get("/batches/live", query)) in ([], [theirs.pk])
    answer = member.get("/batches/", {"project": other.pk})
    assert hidden.pk not in text(answer) and "other" not in text(answer)
    mine_too = Project.objects.create(name="mine too")
    mine_too.members.add(User.objects.get(username="member"))
    assert member.get("/batches/", {"project": other.pk}).status_code == 422
    assert found(member) == [theirs.pk] and found(member, project=mine.pk) == [theirs.pk]


def test_who_is_no_member_of_any_project_sees_nothing(mine):
    client = Client()
    client.force_login(User.objects.create_user("nobody"))
    batch(mine)
    page = client.get("/batches/")
    assert shown(page) == [] and "No batches yet" in text(page)


def test_strangers_are_sent_to_sign_in_and_nothing_is_posted(client, root):
    for address in ("/batches/", "/batches/live"):
        answer = client.get(address)
        assert answer.status_code == 302 and answer.url.startswith("/login?next=/batches/")
        assert root.post(address).status_code == 405


def test_only_who_may_create_has_the_button(root, member):
    assert 'href="/batches/new"' in text(root.get("/batches/"))
    assert 'href="/batches/new"' not in text(member.get("/batches/"))
    User.objects.get(username="member").user_permissions.add(Permission.objects.get(codename="add_batch"))
    assert 'href="/batches/new"' in text(member.get("/batches/"))


def test_what_users_wrote_is_text(root, mine):
    mine.name = BAD
    mine.save()
    batch(mine, metadata={BAD: BAD}, model_names=[BAD])
    Model.objects.create(name=BAD, kind="scripted")
    for address in ("/batches/", "/batches/live", f"/batches/?model={BAD}&words={BAD}"):
        page = text(root.get(address))
        assert BAD not in page and "&lt;script&gt;alert(" in page
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", page)


def test_what_moves_a_terminal_is_seen(root, mine):
    batch(mine, metadata={"a": "\x1b[31mred\x07"}, model_names=["m\x1b"])
    page = text(root.get("/batches/"))
    assert "a: ⟨ESC⟩[31mred⟨BEL⟩" in page and "m⟨ESC⟩" in page and "\x1b" not in page


# Empty


def test_an_empty_page_says_what_to_do(root, mine):
    page = text(root.get("/batches/"))
    assert "No batches yet" in page and "client.batches.create" in page
    batch(mine)
    page = text(root.get("/batches/", {"words": "absent"}))
    assert "No batch matches" in page and 'href="/batches/">Clear the filters' in page


# What is new since


def test_only_what_changed_is_sent(root, mine):
    one, two = batch(mine), batch(mine, place=1)
    page = root.get("/batches/?state=completed")
    assert 'data-url="/batches/live?state=completed"' in text(page)
    live = {"state": "completed", "seen": seen(page)}
    assert root.get("/batches/live", live).status_code == 204
    Batch.objects.filter(pk=one.pk).update(failed=1, completed=9)
    answer = text(root.get("/batches/live", live))
    assert f'id="row-{one.pk}"' in answer and f'id="row-{two.pk}"' not in answer and 'id="table"' not in answer
    three = batch(mine, place=2)
    answer = root.get("/batches/live", live)
    assert shown(answer)[0] == three.pk and 'id="table"' in text(answer)
    Batch.objects.update(hidden=True)
    assert "No batch matches" in text(root.get("/batches/live", live))


# What it costs


@pytest.mark.parametrize("query", [{}, {"words": "even"}, {"words": "absent", "model": "m"}, {"state": "live"}])
def test_as_many_queries_for_many_as_for_few(root, mine, query, monkeypatch):
    monkeypatch.setattr(filters, "NEAR", 2)
    monkeypatch.setattr("batches.queue.forecast.plan", dict)

    def queries():
        with CaptureQueriesContext(connection) as done:
            root.get("/batches/live", query)
        assert not any("COUNT(" in one["sql"] for one in done)
        return len(done)

    for n in range(4):
        batch(mine, place=n, metadata={"word": "even"}, status=("completed", "in_progress")[n % 2])
    few = queries()
    for n in range(4, 80):
        batch(mine, place=n, metadata={"word": "even"}, status=("completed", "in_progress")[n % 2])
    assert queries() <= few <= 9

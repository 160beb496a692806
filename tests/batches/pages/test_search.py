"""Search in the prompts and answers of a batch, on its pages: what is found and shown, how much of it is searched."""

import re

import pytest
from django.utils import timezone

from batches.models import Batch, BatchStatus, SearchIndex
from batches.pages.request import page as one
from batches.pages.request import table as many
from batches.pages.request.chosen import Chosen
from batches.search import finding, indexing
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
    """70 requests, all of them answered and indexed; every seventh is about kettles."""
    made_ = made(project, [request(f"id-{n}") for n in range(1, 71)])
    for line in range(1, 71):
        answer(made_, line, chat(f"Answer {line} about {'the kettle' if line % 7 == 0 else 'lamps'}."))
    return done(made_)


def done(batch):
    Batch.objects.filter(pk=batch.pk).update(status=BatchStatus.COMPLETED, completed_at=timezone.now())
    SearchIndex.objects.create(batch=batch)
    indexing.task()
    batch.refresh_from_db()
    return batch


def url(batch, query=""):
    return f"/batches/{batch.pk}/requests{query}"


def part(batch, **query):
    return many.build(ALL, query, batch.pk)


def lines(part):
    return [row["line"] for row in part["rows"]]


def test_words_in_prompts_and_answers(batch):
    assert lines(part(batch, words="kettle")) == list(range(7, 71, 7))
    assert lines(part(batch, words='"question of id" kettle', q="id-4")) == [42, 49]
    assert lines(part(batch, words="kettle", state="completed")) == list(range(7, 71, 7))
    assert part(batch, words="kettle", state="failed")["why"] == "No request matches."
    assert part(batch, words="absent")["why"] == "No request matches."


def test_pages_of_it(batch):
    first = part(batch, words="answer")
    assert lines(first) == list(range(1, 51)) and first["after"].endswith("?words=answer&after=50")
    second = part(batch, words="answer", after="50")
    assert lines(second) == list(range(51, 71)) and not second["after"]
    assert lines(part(batch, words="answer", before="51")) == lines(first)
    tabs = {name: address for name, _, address, _ in first["choices"]}
    assert tabs["completed"].endswith("?state=completed&words=answer")


def test_the_hit_is_marked_where_it_is(looker, batch):
    page = text(looker.get(url(batch, "?words=kettle")))
    assert re.search(r"Answer 7 about the <mark>kettle</mark>\.\s*</td>", page)
    assert page.count("<mark>") == 10 and "question of id-7<" in page
    assert 'name="words" value="kettle"' in page
    assert f'href="/batches/{batch.pk}/requests/7?words=kettle"' in page
    prompts = text(looker.get(url(batch, "?words=question"), headers=HTMX))
    assert "<mark>question</mark> of id-1" in prompts and "<html" not in prompts


def test_what_others_wrote_stays_text(looker, project):
    words = f"needle {HOSTILE} <mark>"
    batch = made(project, [request(HOSTILE, messages=[{"role": "user", "content": words}])])
    answer(batch, 1, chat(words))
    page = text(looker.get(url(done(batch), "?words=needle%20<script>&q=<script>")))
    assert page.count("<mark>needle</mark>") == 2 and page.count("&lt;<mark>script</mark>&gt;") >= 2
    assert "<script>alert" not in page and "\x1b" not in page and "\u202e" not in page and "&lt;mark&gt;" in page
    assert 'value="needle &lt;script&gt;"' in page


def test_how_much_is_searched_is_said(looker, batch):
    said = 'role="status">Searching'
    assert said not in text(looker.get(url(batch, "?words=kettle")))
    SearchIndex.objects.update(requests=30, is_complete=False)
    words = "Searching 30 of 70 requests; the rest is being indexed."
    assert words in text(looker.get(url(batch, "?words=kettle"))) and words in text(looker.get(url(batch, "?words=x")))
    assert said not in text(looker.get(url(batch)))
    Batch.objects.update(status=BatchStatus.IN_PROGRESS, completed_at=None)
    assert "; the others have no answer yet, or are being indexed." in text(looker.get(url(batch, "?words=x")))
    SearchIndex.objects.all().delete()
    assert "Searching 0 of 70 requests" in text(looker.get(url(batch, "?words=kettle")))


@pytest.mark.parametrize(
    "words, said",
    [("!?", "“!?” has no letter or digit to search for"), ("-kettle", "Add one that the requests have"),
     ("\0 ' \\", "has no letter or digit")],
)  # fmt: skip
def test_what_cannot_be_searched_for_says_why(looker, batch, words, said):
    assert said in part(batch, words=words)["why"]
    assert looker.get(url(batch), {"words": words}).status_code == 200


@pytest.mark.parametrize("words", ["x" * 100_000, "' OR 1=1; --", "a:*&!", '"' * 500, "%"])
def test_hostile_queries(looker, batch, words):
    assert looker.get(url(batch), {"words": words}).status_code == 200
    assert looker.get(url(batch)[: -len("requests")], {"words": words}).status_code == 200


def test_a_search_that_takes_too_long_says_what_to_do(batch, monkeypatch):
    def slow(*given):
        raise many.TooSlow

    monkeypatch.setattr(many, "lines", slow)
    assert "stopped after 5 seconds. Add a word that fewer have." in part(batch, words="kettle")["why"]


def test_on_the_page_of_the_batch(looker, batch):
    page = text(looker.get(f"/batches/{batch.pk}/?words=kettle"))
    assert page.count("<mark>kettle</mark>") == 10 and f"/batches/{batch.pk}/live?words=kettle" in page
    assert 'id="line-7"' in page and 'id="line-8"' not in page


def test_nobody_searches_in_what_they_may_not_see(batch):
    assert member(other()).get(url(batch, "?words=kettle")).status_code == 404


def test_without_words_nothing_is_asked_of_the_index(batch, django_assert_num_queries):
    with django_assert_num_queries(3):
        part(batch)
    with django_assert_num_queries(
        9
    ):  # the index; savepoint, limit, no whole table, near, everywhere, release; the rows
        part(batch, words="kettle")


# From one to the next


def test_the_next_one_is_the_next_that_was_found(looker, batch):
    chosen = Chosen(words="kettle")
    beside = one.neighbours(batch, 14, chosen)
    assert (beside.before, beside.after) == (7, 21)
    assert one.neighbours(batch, 70, chosen).after is None
    page = text(looker.get(url(batch, "/14?words=kettle")))
    assert f'rel="next" href="{url(batch, "/21?words=kettle")}"' in page
    assert f'rel="prev" href="{url(batch, "/7?words=kettle")}"' in page
    assert f'href="{url(batch, "?words=kettle")}"' in page and "among those of the search" in page
    plain = text(looker.get(url(batch, "/14")))
    assert f'rel="next" href="{url(batch, "/15")}"' in plain and "among those" not in plain


def test_the_next_one_of_a_state_or_a_custom_id(batch):
    assert one.neighbours(batch, 11, Chosen(custom_id="id-1")).before == 10
    assert one.neighbours(batch, 11, Chosen(state="failed")) == one.Neighbours()


def test_where_the_search_takes_too_long_there_is_no_next_one(batch, monkeypatch):
    def slow(*given):
        raise one.TooSlow

    monkeypatch.setattr(one, "lines", slow)
    assert one.neighbours(batch, 14, Chosen(words="kettle")) == one.Neighbours()


def test_keys_step_through_rows_and_requests(looker, batch):
    for address in (url(batch), url(batch, "/14"), f"/batches/{batch.pk}/"):
        page = text(looker.get(address))
        assert "steps.js" in page and "<kbd>J</kbd>" in page
    assert 'aria-keyshortcuts="J"' in text(looker.get(url(batch, "/14")))


def test_many_that_are_near_are_found_without_the_index_of_words(batch, django_assert_num_queries):
    with django_assert_num_queries(8):  # the same without `everywhere`
        assert len(part(batch, words="answer")["rows"]) == 50
    assert finding.NEAR >= 70

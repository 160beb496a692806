"""What is indexed, when and by whom, and what is found: whatever texts hold, and whoever dies."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from batches import sweep
from batches.files import blobs
from batches.models import Batch, BatchStatus, File, RequestState, SearchedRequest, SearchIndex
from batches.pages.request.chosen import limited
from batches.search import finding, indexing
from batches.search.words import terms
from tests.batches.models.test_migrations import migrated  # noqa: F401
from tests.batches.pages.shown import HOSTILE, answer, chat, made, request
from vbs.accounts.models import Project


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


def asks(text, name="a"):
    return request(name, messages=[{"role": "user", "content": text}])


def indexed(batch):
    """The batch has ended, and all of it is indexed."""
    Batch.objects.filter(pk=batch.pk).update(status=BatchStatus.COMPLETED, completed_at=timezone.now())
    index, _ = SearchIndex.objects.get_or_create(batch=batch)
    indexing.task()
    index.refresh_from_db()
    assert index.is_complete
    return index


def found(index, query, place=0, backwards=False, most=50, **also):
    with limited():
        return finding.lines(index, terms(query), place, backwards, most, **also)


@pytest.fixture
def kettles(project):
    batch = made(project, [asks("Is the kettle good?"), asks("Is the lamp good?"), asks("Wie groß ist 東京?")])
    answer(batch, 1, chat("It boils fast, a-b and a/b."))
    answer(batch, 2, chat("A lamp does not boil."))
    answer(batch, 3, state=RequestState.FAILED, error_code="bad", error_message="The context is too long.")
    return indexed(batch)


@pytest.mark.parametrize(
    "query, wanted",
    [
        ("kettle", [1]), ("KETT", [1]), ("ettle", []), ("is good", [1, 2]), ('"the kettle good"', [1]),
        ('"good kettle"', []), ("boil", [1, 2]), ('"boil"', [2]), ("boil -lamp", [1]), ("a-b", [1]), ("b", [1, 2]),
        ("GROSS", [3]), ("東京", [3]), ("京", [3]), ("京東", []), ("context too", [3]), ("kettle lamp", []),
        ("good? It", [1]), ('"good it"', []), ("absent", []), ("-lamp is -kettle", [3]),
    ],
)  # fmt: skip
def test_what_is_found(kettles, query, wanted):
    assert found(kettles, query) == wanted


def test_only_in_this_batch(kettles, project):
    other = made(project, [asks("Is the kettle new?")])
    answer(other, 1, chat("yes"))
    assert found(indexed(other), "kettle") == [1] and found(kettles, "kettle") == [1] and not found(kettles, "new")
    assert SearchedRequest.objects.count() == 4


def test_pages_of_what_is_found_both_ways(project, monkeypatch):
    monkeypatch.setattr(finding, "NEAR", 10)
    batch = made(project, [asks("even" if n % 2 == 0 else "odd", f"id-{n}") for n in range(1, 61)])
    batch.requests.filter(line__lte=30).update(state=1, response='{"choices":[{"text":"yes"}]}')
    batch.requests.filter(line__gt=30).update(state=2, error_message="no")
    index = indexed(batch)
    assert found(index, "even", most=3) == [2, 4, 6] and found(index, "even", 6, most=3) == [8, 10, 12]
    assert found(index, "even", 61, True, 3) == [60, 58, 56] and found(index, "odd", 2, True, 3) == [1]
    assert found(index, "even", most=50) == list(range(2, 61, 2)), "beyond those that are near"
    assert found(index, "even", state=RequestState.FAILED) == list(range(32, 61, 2))
    assert found(index, "even", custom_id="id-1") == [10, 12, 14, 16, 18]
    assert found(index, "even", state=RequestState.FAILED, custom_id="-4") == [40, 42, 44, 46, 48]


MANY = """
INSERT INTO batches_searchedrequest (index_id, line, words)
SELECT %s, line, format($$'%%s:w%%s':1 '%%s:all':2$$, %s::int, line %% 500, %s::int)::tsvector
FROM generate_series(1000, 30000) line; ANALYZE batches_searchedrequest
"""


@pytest.mark.parametrize("query", ["w77", "w7", '"w77 all"', "absent", "all -w7"])
def test_the_index_of_words_is_used_and_no_table_is_read_whole(kettles, query):
    with connection.cursor() as cursor:
        for key in (kettles.pk, SearchIndex.objects.create(batch=made(kettles.batch.project, [])).pk):
            cursor.execute(MANY, [key] * 3)
    with limited(), connection.cursor() as cursor, CaptureQueriesContext(connection) as asked:
        finding.lines(kettles, terms(query), 0, False, 10**6)
        (everywhere,) = [one["sql"] for one in asked if "OFFSET 0" in one["sql"]]
        cursor.execute(f"EXPLAIN {everywhere}")
        plan = "\n".join(row for (row,) in cursor.fetchall())
    assert "Bitmap Index Scan on search_words" in plan and "Seq Scan" not in plan, plan


HARD = [
    "'",
    "\\",
    "\0",
    "a" * 10_000,
    " ".join(f"w{n}" for n in range(3000)),
    "\ufdfa" * 8000,
    "\u0301",
    HOSTILE,
    "👩‍👩‍👧",
]


def test_whatever_texts_hold(project):
    batch = made(project, [asks(text) for text in HARD] + [b"no json", b"\xff"])
    for number, text in enumerate(HARD, 1):
        answer(batch, number, chat(text.replace("\0", "")))
    index = indexed(batch)
    assert index.requests == len(HARD) + 2
    assert found(index, "w1499") == [5] and found(index, "script") == [8] and found(index, "json") == [10]


@pytest.mark.parametrize(
    "query", ["' OR 1=1 --", "a:* & !b", "\\'\\", '"' * 199, "a" * 10**6, "\0x", "<->", "(a", "👩"]
)
def test_whatever_is_asked(kettles, query):
    if any(not term.excluded for term in terms(query)):
        assert isinstance(found(kettles, query), list)


# When


def test_a_batch_that_runs_is_searched_as_far_as_it_is_answered(project):
    batch = made(project, [asks("first"), asks("second"), asks("third")])
    index = SearchIndex.objects.create(batch=batch)
    indexing.task()
    index.refresh_from_db()
    assert (index.requests, index.is_complete) == (0, False) and not indexing._unfinished().exists()
    answer(batch, 2, chat("two"))
    indexing.task()
    index.refresh_from_db()
    assert (index.requests, index.is_complete) == (1, False) and found(index, "second") == [2]
    assert not found(index, "first")
    answer(batch, 1, chat("one"))
    assert indexed(batch).requests == 3, "what is pending now will not be run, and its prompt is there"
    assert found(index, "first") == [1] and found(index, "third") == [3]


def test_the_end_of_a_batch_and_the_upkeep_wake_it_while_anything_is_left(project):
    batch = made(project, [asks("first")])
    answer(batch, 1, chat("one"))
    SearchIndex.objects.create(batch=batch)
    OrmQ.objects.all().delete()
    indexing.sweep()
    assert [task.func() for task in OrmQ.objects.all()] == ["batches.tasks.index"]
    OrmQ.objects.all().delete()
    indexed(batch)
    indexing.sweep()
    assert not OrmQ.objects.exists()
    Batch.objects.update(status=BatchStatus.FINALIZING, outcome=BatchStatus.COMPLETED)
    assert batch.end(None, None)
    assert [task.func() for task in OrmQ.objects.all()] == ["batches.tasks.index"]


def test_a_task_does_so_much_and_the_next_one_goes_on(project, monkeypatch):
    monkeypatch.setattr(indexing, "AT_ONCE", 2)
    batch = made(project, [asks(f"number{n}") for n in range(5)])
    SearchIndex.objects.create(batch=batch)
    Batch.objects.update(status=BatchStatus.COMPLETED)
    index = SearchIndex.objects.select_related("batch__input_file").get()
    monkeypatch.setattr(indexing, "SECONDS", -1)
    indexing.task()
    assert not SearchedRequest.objects.exists() and [task.func() for task in OrmQ.objects.all()] == [
        "batches.tasks.index"
    ]
    assert indexing.step(index, 0) == 2 and indexing.step(index, 2) == 4
    monkeypatch.setattr(indexing, "SECONDS", 5)
    indexing.task()
    index.refresh_from_db()
    assert (index.requests, index.is_complete) == (5, True)


def test_while_an_engine_answers_requests_it_leaves_the_rest_to_the_upkeep(project, monkeypatch):
    batch = made(project, [asks("first")])
    answer(batch, 1, chat("one"))
    SearchIndex.objects.create(batch=batch)
    OrmQ.objects.all().delete()
    monkeypatch.setattr(indexing, "_is_busy", lambda: True)
    monkeypatch.setattr(indexing, "BUSY_SECONDS", -1)
    indexing.task()
    assert not SearchedRequest.objects.exists() and not OrmQ.objects.exists()


def test_large_lines_are_taken_a_few_at_a_time(project, monkeypatch):
    monkeypatch.setattr(indexing, "BYTES_AT_ONCE", 3000)
    batch = made(project, [asks("x " * 1000 + f"end{n}") for n in range(4)])
    SearchIndex.objects.create(batch=batch)
    Batch.objects.update(status=BatchStatus.COMPLETED)
    index = SearchIndex.objects.select_related("batch__input_file").get()
    assert indexing.step(index, 0) == 1 and indexing.step(index, 1) == 2
    assert found(indexed(batch), "end3") == [4]


# Failures


def test_done_twice_it_counts_once(kettles):
    kettles.batch.refresh_from_db()
    SearchIndex.objects.update(is_complete=False, requests=2)
    SearchedRequest.objects.filter(line=2).delete()
    indexing.task()
    kettles.refresh_from_db()
    assert (kettles.requests, kettles.is_complete) == (3, True)


def test_what_dies_in_the_middle_leaves_nothing_half_done(project, monkeypatch):
    batch = made(project, [asks("first"), asks("second")])
    SearchIndex.objects.create(batch=batch)
    Batch.objects.update(status=BatchStatus.COMPLETED)

    def dies(*given):
        raise SystemExit

    monkeypatch.setattr(indexing, "F", dies)  # the words are written then, and not counted
    with pytest.raises(SystemExit):
        indexing.step(SearchIndex.objects.select_related("batch__input_file").get(), 0)
    assert not SearchedRequest.objects.exists()
    monkeypatch.undo()
    index = indexed(batch)
    assert index.requests == 2 and found(index, "first") == [1]


def test_a_batch_that_cannot_be_indexed_holds_up_no_other(project, monkeypatch, caplog):
    good, bad = (made(project, [asks("question")]) for _ in range(2))
    for batch in (good, bad):
        SearchIndex.objects.create(batch=batch)
    Batch.objects.update(status=BatchStatus.COMPLETED)
    vector = indexing.words.vector
    key = SearchIndex.objects.get(batch=bad).pk
    monkeypatch.setattr(indexing.words, "vector", lambda one, said: "'no" if one == key else vector(one, said))
    indexing.task()
    assert dict(SearchIndex.objects.values_list("batch_id", "is_complete")) == {good.pk: True, bad.pk: False}
    assert f"The requests of {bad.pk} cannot be indexed" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_one_does_it():
    batch = made(Project.objects.create(name="p"), [asks("first")])
    index = SearchIndex.objects.create(batch=batch)
    Batch.objects.update(status=BatchStatus.COMPLETED)
    held, go_on = threading.Event(), threading.Event()

    def other():
        try:
            assert indexing.advisory.try_lock("search", 3, 100, session=True)
            held.set()
            go_on.wait(30)
            indexing.advisory.unlock("search", 3)
        finally:
            connection.close()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert held.wait(30)
        indexing.task()
        assert not SearchedRequest.objects.exists()
    finally:
        go_on.set()
        thread.join()
    indexing.task()
    index.refresh_from_db()
    assert index.is_complete


def test_without_its_input_file_the_answers_are_searched(project):
    gone, deleted = (made(project, [asks("question")]) for _ in range(2))
    for batch in (gone, deleted):
        answer(batch, 1, chat("reply"))
    blobs.remove(gone.input_file.blob)
    made(project, [asks("another")])  # so that the storage's folder is not empty
    File.objects.filter(pk=deleted.input_file.pk).update(status="deleted", deleted_at=timezone.now())
    for batch in (gone, deleted):
        index = indexed(batch)
        assert found(index, "reply") == [1] and not found(index, "question")


def test_a_storage_that_is_away_holds_up_no_other_batch(project, monkeypatch):
    first, second = (made(project, [asks("question")]) for _ in range(2))
    for batch in (first, second):
        answer(batch, 1, chat("reply"))
        SearchIndex.objects.create(batch=batch)
    Batch.objects.update(status=BatchStatus.COMPLETED)
    part = blobs.part

    def away(blob, *given):
        if blob == second.input_file.blob:
            raise OSError(5, "Input/output error")
        return part(blob, *given)

    monkeypatch.setattr(blobs, "part", away)
    indexing.task()
    assert dict(SearchIndex.objects.values_list("batch_id", "is_complete")) == {first.pk: True, second.pk: False}
    monkeypatch.undo()
    indexing.task()
    assert not SearchIndex.objects.filter(is_complete=False).exists()


# The end


def test_what_is_deleted_is_not_indexed(project):
    batch = made(project, [asks("first")])
    batch.hide()
    assert indexed(batch).requests == 0


def test_the_words_go_with_the_requests(kettles, project, monkeypatch):
    monkeypatch.setattr(sweep, "ROWS", 2)
    kept = made(project, [asks("kept")])
    index = indexed(kept)
    old = timezone.now() - timedelta(days=400)
    Batch.objects.filter(pk=kettles.batch_id).update(created_at=old, completed_at=old)
    sweep._purge_requests()
    assert list(SearchIndex.objects.values_list("batch_id", flat=True)) == [kept.pk]
    assert SearchedRequest.objects.count() == 1 and found(index, "kept") == [1]


def test_batches_from_before_are_indexed(migrated):  # noqa: F811
    old = migrated("0019_deaths").get_model("batches", "Batch")
    project, now = Project.objects.create(name="project"), timezone.now()
    given = {
        "project_id": project.pk,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "expires_at": now,
    }
    for pk, fields in {
        "batch_done": {"validated_at": now, "status": "completed", "total": 1},
        "batch_failed": {"status": "failed"},
        "batch_purged": {"validated_at": now, "status": "completed", "purged_at": now},
    }.items():
        old.objects.create(id=pk, input_file_id_given="x", **given, **fields)
    migrated(None)
    assert list(SearchIndex.objects.values_list("batch_id", "requests")) == [("batch_done", 0)]
    indexing.task()
    assert SearchIndex.objects.get().is_complete

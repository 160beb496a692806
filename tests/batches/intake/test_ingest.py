"""Taking a batch in: all of its rows or none, once, whoever else tries, and whatever happens on the way."""

import json
import threading
from pathlib import Path

import pytest
from django.db import connection, transaction

from batches import tasks
from batches.files import blobs, store
from batches.finish import outputs
from batches.intake import ingest, submit
from batches.models import Batch, BatchRequest, BatchStatus, File, RequestState
from batches.run import claims, commit
from batches.run.outcomes import failure
from models_registry.models import Model, Task, Worker
from tests.engines import CHAT, line
from vbs.accounts.models import Project
from vbs.openai.errors import Conflict

committed = pytest.mark.django_db(transaction=True)  # what other connections see; the other tests are faster


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture
def add_model(db):
    return lambda name="scripted": Model.objects.create(name=name, kind="scripted")


@pytest.fixture
def created(project, add_model):
    """A batch of these lines that nobody has validated yet."""
    add_model()

    def make(lines, **options):
        content = lines if isinstance(lines, bytes) else b"".join(json.dumps(one).encode() + b"\n" for one in lines)
        with blobs.scratch() as scratch:
            scratch.write(content)
            scratch.flush()
            file = store.store(project, Path(scratch.name), "in.jsonl", "user_data", None)
        File.objects.filter(pk=file.pk).update(purpose="batch")  # also what an upload would have refused
        return submit.create(project, file.pk, CHAT, "24h", **options)

    return make


def validated(batch):
    ingest.validate(batch.pk)
    batch.refresh_from_db()
    return batch


def codes(batch):
    return [(one["code"], one["line"]) for one in batch.errors]


def in_threads(work, count=4):
    """Do it in so many threads at once; what they raised."""
    start, raised = threading.Barrier(count), []

    def one():
        try:
            start.wait(10)
            work()
        except Exception as error:
            raised.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return raised


def test_a_row_for_each_line_with_its_place_in_the_file(created):
    content = b"\n" + json.dumps(line("a")).encode() + b"\r\n\n" + json.dumps(line("\u00e9", "x")).encode()
    batch = validated(created(content))
    assert (batch.status, batch.total, batch.model_names) == (BatchStatus.VALIDATING, 2, ["scripted"])
    assert batch.validated_at and batch.in_progress_at is None
    with blobs.open_blob(batch.input_file.blob) as file:
        data = file.read()
    for row in batch.requests.all():
        assert json.loads(data[row.offset : row.offset + row.length])["custom_id"] == row.custom_id
    assert [row.line for row in batch.requests.all()] == [2, 4]


def test_twice_is_harmless(created):
    batch = validated(created([line("a"), line("b")]))
    before = list(batch.requests.values())
    events = batch.events.count()
    validated(batch)
    assert list(batch.requests.values()) == before and batch.events.count() == events


@committed
def test_at_the_same_time_is_harmless(created):
    batch = created([line(f"{n}", max_tokens=5) for n in range(2000)])
    assert in_threads(lambda: ingest.validate(batch.pk)) == []
    batch.refresh_from_db()
    assert batch.total == batch.requests.count() == 2000
    assert [event.message for event in batch.events.all() if "Validated" in event.message] != []
    assert batch.events.count() == 2


def test_an_unknown_batch_is_nothing(db):
    ingest.validate("batch_nope")


def test_cancelled_before_it_was_read(created):
    batch = created([line("a")])
    batch.request_cancel()
    validated(batch)
    assert batch.status == BatchStatus.CANCELLING and not batch.requests.exists()
    outputs.finalize(batch.pk)
    batch.refresh_from_db()
    assert (batch.status, batch.total, batch.error_file) == (BatchStatus.CANCELLED, 0, None)


@committed
def test_cancelled_while_it_is_read_leaves_no_rows(created, monkeypatch):
    batch = created([line("a"), line("b")])
    read = ingest.read

    def read_and_cancel(*arguments):
        for number, one in enumerate(read(*arguments)):
            if number == 1:
                assert in_threads(lambda: Batch.objects.get(pk=batch.pk).request_cancel(), 1) == []
            yield one

    monkeypatch.setattr(ingest, "read", read_and_cancel)
    validated(batch)
    assert batch.status == BatchStatus.CANCELLING and not batch.requests.exists() and batch.errors is None


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, OSError])
def test_killed_in_the_middle_leaves_nothing_and_the_next_one_does_it(created, monkeypatch, error):
    batch = created([line("a"), line("b")])
    row = ingest._row

    def die(batch_id, one, index):
        if one.number == 2:
            raise error
        return row(batch_id, one, index)

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_row", die)
        with pytest.raises(error):
            ingest.validate(batch.pk)
    batch.refresh_from_db()
    assert (batch.status, batch.validated_at, batch.requests.count()) == (BatchStatus.VALIDATING, None, 0)
    assert validated(batch).total == 2


@committed
def test_a_connection_that_breaks_while_rows_are_copied(created, monkeypatch):
    """PostgreSQL is killed: an error of the database, and nothing is kept."""
    batch = created([line("a"), line("b")])
    read = ingest.read

    def read_and_break(*arguments):
        for one in read(*arguments):
            yield one
            with connection.wrap_database_errors:
                connection.connection.close()

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "read", read_and_break)
        with pytest.raises(Exception, match="clos"):
            ingest.validate(batch.pk)
    connection.close()
    assert BatchRequest.objects.filter(batch=batch).count() == 0
    assert validated(batch).total == 2


def test_every_bad_line_is_reported_and_nothing_is_kept(created):
    lines = [line("a"), {"custom_id": "b"}, line("a"), line("c", model="nope"), line("d", stream=True)]
    batch = validated(created(b"".join(json.dumps(one).encode() + b"\n" for one in lines) + b"{]\n\xff\n"))
    assert (batch.status, batch.total, batch.requests.count()) == (BatchStatus.FAILED, 0, 0)
    assert batch.failed_at >= batch.created_at
    assert codes(batch) == [
        ("missing_required_parameter", 2), ("duplicate_custom_id", 3), ("model_not_found", 4),
        ("streaming_unsupported", 5), ("invalid_json_line", 6), ("invalid_json_line", 7),
    ]  # fmt: skip
    log = batch.events.latest("id").message
    assert log.startswith("Failed: line 2: Missing required parameter") and log.endswith("in the batch's errors.")


def test_more_than_a_thousand_errors_end_with_how_many_more(created):
    batch = validated(created([line("same")] * 1 + [line("same")] * 1205))
    assert len(batch.errors) == 1001
    assert codes(batch)[0] == ("duplicate_custom_id", 2) and codes(batch)[999] == ("duplicate_custom_id", 1001)
    assert "205" in batch.errors[-1]["message"] and batch.errors[-1]["line"] is None
    assert batch.status == BatchStatus.FAILED and not batch.requests.exists()


def test_an_error_in_the_last_line_takes_the_rows_of_all_others_back(created):
    batch = validated(created([line(f"{n}") for n in range(3000)] + [{}]))
    assert codes(batch) == [("missing_required_parameter", 3001)] and not batch.requests.exists()


@pytest.mark.parametrize(
    "limit, value, code",
    [("VBS_MAX_BATCH_REQUESTS", 2, "too_many_requests"), ("VBS_MAX_BATCH_MB", 0, "file_too_large")],
)
def test_limits(created, settings, limit, value, code):
    setattr(settings, limit, value)
    batch = validated(created([line("a"), line("b"), line("c")]))
    assert batch.errors[0]["code"] == code and not batch.requests.exists()


def test_the_last_request_that_is_allowed(created, settings):
    settings.VBS_MAX_BATCH_REQUESTS = 3
    assert validated(created([line("a"), line("b"), line("c")])).total == 3


def test_no_lines(created):
    assert codes(validated(created(b"\n \n\r\n"))) == [("empty_file", None)]


@pytest.mark.parametrize("wrong", ["missing", "deleted", "of another project", "of another purpose"])
def test_an_input_file_that_cannot_be_found(created, project, wrong):
    given = created([line("a")]).input_file
    if wrong == "missing":
        batch = submit.create(project, "file-nope", CHAT, "24h")
    elif wrong == "deleted":
        given.delete_softly()
        batch = submit.create(project, given.pk, CHAT, "24h")
    elif wrong == "of another project":
        batch = submit.create(Project.objects.create(name="other"), given.pk, CHAT, "24h")
    else:
        File.objects.update(purpose="fine-tune")
        batch = submit.create(project, given.pk, CHAT, "24h")
    error = validated(batch).errors[0]
    assert (error["code"], error["param"], error["line"]) == ("invalid_request", "file_id", None)
    assert error["message"].startswith("Cannot find file 'file-") and batch.input_file_id_given in error["message"]


@pytest.mark.parametrize("how, words", [("gone", "not in the storage any more"), ("short", "has 20 bytes in the")])
def test_bytes_that_are_not_there_as_they_were_taken_in(created, how, words):
    created([line("another, so that the storage is there")])
    batch = created([line("a")])
    path = blobs.folder() / batch.input_file.blob
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:20])
    error = validated(batch).errors[0]
    assert batch.status == BatchStatus.FAILED
    assert (error["code"], error["param"]) == ("input_file_unavailable", "file_id") and words in error["message"]


def test_a_storage_that_cannot_be_read_is_tried_again_and_told_once(created):
    batch = created([line("a")])
    home = blobs.folder()
    home.rename(home.with_name("unmounted"))
    try:
        tasks.validate(batch.pk)
        tasks.validate(batch.pk)
    finally:
        home.with_name("unmounted").rename(home)
    assert batch.events.get(level="warning").message.startswith("Its input file is not read: the storage")
    assert validated(batch).total == 1


def test_deleted_after_it_was_accepted(created):
    batch = created([line("a")])
    batch.input_file.delete_softly()
    assert validated(batch).total == 1


def test_a_model_of_another_task(created):
    Model.objects.create(name="vectors", kind="scripted", task=Task.EMBEDDING)
    batch = validated(created([line("a", model="vectors")]))
    assert batch.errors[0]["code"] == "invalid_request" and "vectors" in batch.errors[0]["message"]


def test_a_default_model_fills_lines_that_name_none(created, add_model):
    add_model("other")
    bare = line("a")
    del bare["body"]["model"]
    assert validated(created([bare, line("b")], default_model="other")).model_names == ["other", "scripted"]


@pytest.fixture
def half_failed(created):
    """Ended: `b` failed, `c` expired, `a` completed."""
    batch = validated(created([line("a"), line("b"), line("c")]))
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1)
    claims.claim(batch.pk, worker.pk)
    batch.start(worker.pk, "scripted", Model.objects.get(name="scripted"))
    ids = dict(batch.requests.values_list("custom_id", "pk"))
    commit.commit(batch.pk, worker.pk, [failure(ids["b"], "x", "y")])
    batch.requests.filter(custom_id="a").update(state=RequestState.COMPLETED)
    batch.requests.filter(custom_id="c").update(state=RequestState.EXPIRED)
    Batch.objects.filter(pk=batch.pk).update(completed=1, failed=2)
    assert batch.finish(worker.pk) and batch.end(None, None)
    return batch


def test_a_retry_copies_just_what_failed_and_expired(half_failed):
    again = validated(half_failed.retry())
    assert (again.total, again.completed, again.failed, again.retry_of_id) == (2, 0, 0, half_failed.pk)
    rows = {row.custom_id: row for row in again.requests.all()}
    assert set(rows) == {"b", "c"}
    for custom_id, row in rows.items():
        before = half_failed.requests.get(custom_id=custom_id)
        assert (row.line, row.offset, row.length, row.prefix) == (
            before.line, before.offset, before.length, before.prefix,
        )  # fmt: skip
        assert (row.state, row.error_code, row.crashes, row.finished_at) == (RequestState.PENDING, None, 0, None)
        assert row.wire_id != before.wire_id


def test_a_retry_of_what_never_ran_because_its_model_could_not_be_loaded(created):
    batch = validated(created([line("a"), line("b")]))
    assert batch.fail([{"code": "model_load_failed", "line": None, "message": "no memory", "param": "body.model"}])
    assert validated(batch.retry()).total == 2


@committed
def test_a_retry_twice_and_at_the_same_time(half_failed):
    again = half_failed.retry()
    assert in_threads(lambda: ingest.validate(again.pk)) == []
    assert again.requests.count() == 2


@committed
def test_a_batch_is_retried_once_at_a_time(half_failed):
    """E.g. by a double click: what failed is not run twice."""
    refused = in_threads(lambda: Batch.objects.get(pk=half_failed.pk).retry())
    (again,) = half_failed.retries.all()
    assert refused and all(isinstance(error, Conflict) and again.pk in error.message for error in refused)
    again.request_cancel()
    assert again.end(None, None)
    assert half_failed.retry().pk != again.pk


def test_a_retry_whose_model_is_gone_fails(half_failed):
    Model.objects.all().delete()
    assert codes(validated(half_failed.retry())) == [("model_not_found", None)]


def test_nothing_to_retry(created, half_failed):
    with pytest.raises(Conflict, match="wait until it has ended"):
        created([line("a")]).retry()
    half_failed.requests.update(state=RequestState.COMPLETED)
    half_failed.total = 0
    with pytest.raises(Conflict, match="it has no requests"):
        half_failed.retry()
    half_failed.total = 3
    with pytest.raises(Conflict, match="nothing to retry: every request"):
        half_failed.retry()


def test_a_rollback_takes_the_wake_up_with_it(created):
    from django_q.models import OrmQ

    OrmQ.objects.all().delete()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        created([line("a")])
        raise ZeroDivisionError
    assert not OrmQ.objects.exists()

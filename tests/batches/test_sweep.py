"""What the sweep finds again, what it throws away, and what it leaves alone."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F
from django.test import RequestFactory
from django.utils import timezone
from django_q.models import OrmQ

from batches import sweep
from batches.files import blobs, purge, store
from batches.finish import downloads, outputs
from batches.intake import submit
from batches.models import Batch, BatchStatus, File, FileStatus, RequestState, Upload, UploadPart
from batches.queue import forecast, order, pauses
from batches.run import claims, commit
from batches.run.outcomes import failure
from batches.search import indexing
from models_registry.catalog import aliases
from models_registry.gpu import worker_process as worker_module
from models_registry.models import Model, Worker
from tests.engines import CHAT, line
from vbs import upkeep
from vbs.accounts.models import Project
from vbs.openai.errors import NotFound

DAY = timedelta(days=1)


@pytest.fixture
def project(db):
    """One transaction for each test is enough here, and ten times as fast."""
    return Project.objects.create(name="project")


@pytest.fixture
def add_model(db):
    return lambda name="scripted": Model.objects.create(name=name, kind="scripted")


def woken():
    """The queue's tasks, by the name of their function; the queue is empty afterwards."""
    tasks = [(task.func().split(".")[-1], *task.task["args"]) for task in OrmQ.objects.order_by("id")]
    OrmQ.objects.all().delete()
    return tasks


def stored(project, content=b'{"a": 1}\n', **fields):
    with blobs.scratch() as scratch:
        scratch.write(content)
        scratch.flush()
        file = store.store(project, Path(scratch.name), "a.jsonl", "batch", None)
    File.objects.filter(pk=file.pk).update(**fields)
    file.refresh_from_db()
    return file


def exists(blob):
    return (blobs.folder() / blob).exists()


def ended(batch, good=0):
    """Run by hand: the first `good` requests completed, the others failed."""
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1)
    claims.claim(batch.pk, worker.pk)
    batch.start(worker.pk, "scripted", Model.objects.get(name="scripted"))
    requests = list(batch.requests.order_by("line"))
    commit.commit(batch.pk, worker.pk, [failure(one.pk, "x", "y") for one in requests[good:]])
    batch.requests.filter(state=RequestState.PENDING).update(
        state=RequestState.COMPLETED, status_code=200, response='{"ok":true}'
    )
    Batch.objects.filter(pk=batch.pk).update(completed=good)
    assert batch.finish(worker.pk)
    outputs.finalize(batch.pk)
    batch.refresh_from_db()
    return batch


def test_lost_wake_ups_are_found_again(project, add_model, submitted):
    add_model()
    validating = submit.create(project, stored(project).pk, CHAT, "24h")
    waiting, closing = submitted([line("a")]), submitted([line("b")])
    closing.request_cancel()
    woken()
    upkeep.run()
    tasks = woken()
    assert ("validate", validating.pk) in tasks and ("finalize", closing.pk) in tasks and ("work",) in tasks
    assert ("validate", waiting.pk) not in tasks and ("finalize", waiting.pk) not in tasks


def test_nothing_to_do_wakes_nobody(project, add_model, submitted):
    add_model()
    ended(submitted([line("a")]))
    indexing.task()
    woken()
    upkeep.run()
    assert woken() == []


def test_what_a_worker_holds_is_left_to_it(add_model, submitted):
    add_model()
    batch = submitted([line("a")])
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1)
    claims.claim(batch.pk, worker.pk)
    Batch.objects.filter(pk=batch.pk).update(expires_at=timezone.now() - DAY)
    woken()
    upkeep.run()
    batch.refresh_from_db()
    assert (batch.status, batch.leased_by) == (BatchStatus.VALIDATING, worker.pk) and woken() == []


def a_minute_later(batch):
    Batch.objects.filter(pk=batch.pk).update(late_at=F("late_at") - timedelta(minutes=1))


def test_a_clock_that_came_back_is_forgotten(add_model, submitted):
    add_model()
    batch = submitted([line("a")])
    Batch.objects.filter(pk=batch.pk).update(late_at=timezone.now() + DAY)
    upkeep.run()
    batch.refresh_from_db()
    assert batch.late_at is None


def test_a_batch_whose_file_could_never_be_read_fails_when_its_time_is_over(project, add_model):
    add_model()
    batch = submit.create(project, stored(project).pk, CHAT, "24h")
    Batch.objects.filter(pk=batch.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    upkeep.run()
    a_minute_later(batch)
    upkeep.run()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.FAILED and batch.errors[0]["code"] == "batch_expired"


def test_a_batch_that_waits_expires(add_model, submitted):
    add_model()
    batch = submitted([line("a"), line("b")])
    Batch.objects.filter(pk=batch.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    upkeep.run()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.VALIDATING and batch.late_at, "one look is not enough"
    a_minute_later(batch)
    upkeep.run()
    batch.refresh_from_db()
    assert (batch.status, batch.outcome, batch.failed) == (BatchStatus.FINALIZING, BatchStatus.EXPIRED, 2)
    assert ("finalize", batch.pk) in woken()
    outputs.finalize(batch.pk)
    batch.refresh_from_db()
    assert batch.status == BatchStatus.EXPIRED and batch.error_file.bytes > 0 and batch.output_file is None


def test_a_batch_with_nothing_left_to_run_ends_without_a_gpu(add_model, submitted):
    """Its worker is frozen, or has died on another machine; or all of it had failed when an error sent it away."""
    add_model()
    batch = submitted([line("a")])
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1)
    claims.claim(batch.pk, worker.pk).start(worker.pk, "scripted", Model.objects.get(name="scripted"))
    commit.commit(batch.pk, worker.pk, [failure(batch.requests.get().pk, "x", "y")])
    upkeep.run()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.IN_PROGRESS and order.position(batch) == 0, "it is its worker's to end"
    Batch.objects.filter(pk=batch.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    batch.refresh_from_db()
    assert not Batch.objects.waiting().exists() and order.position(batch) is None
    told = forecast.of(batch)
    assert (batch.percent(), told.start_at) == (100, None) and "ended" in told.why
    woken()
    upkeep.run()
    batch.refresh_from_db()
    assert (batch.status, batch.outcome) == (BatchStatus.FINALIZING, BatchStatus.COMPLETED)
    assert woken() == [("finalize", batch.pk), ("index",)]


def changed(name, state):
    """A model that is in another state by now, or, without one, not registered any more."""
    found = Model.objects.filter(name=name)
    found.update(state=state, reason="no room") if state else found.delete()


@pytest.mark.parametrize(
    "state, words",
    [("draft", "is a draft"), ("failed", "has failed: 'manage.py model show"), ("", "is not registered any more")],
)
def test_a_batch_whose_model_cannot_be_loaded_waits_for_no_gpu(add_model, submitted, state, words):
    """Neither for its turn nor for the end of a pause."""
    add_model(), add_model("other")
    batch, fine = submitted([line("a")], priority=-5), submitted([line("a", model="other")])
    pauses.pause("ada")
    changed("scripted", state)
    upkeep.run()
    batch.refresh_from_db(), fine.refresh_from_db()
    assert (batch.status, batch.leased_by) == (BatchStatus.FAILED, None)
    (error,) = batch.errors
    assert (error["code"], error["param"]) == ("model_load_failed", "body.model") and words in error["message"]
    assert (fine.status, fine.attempts) == (BatchStatus.VALIDATING, 0), "the other one waits as before"


def test_of_a_batch_of_two_models_what_cannot_be_loaded_ends(add_model, submitted):
    add_model(), add_model("other")
    batch = submitted([line("a"), line("b", model="other"), line("c", model="other")])
    changed("other", "failed")
    for _ in range(2):
        upkeep.run()
        batch.refresh_from_db()
        assert (batch.status, batch.failed, batch.pending, batch.attempts) == (BatchStatus.VALIDATING, 2, 1, 1)
    assert Batch.objects.waiting().get() == batch
    changed("scripted", "draft")
    upkeep.run()
    batch.refresh_from_db()
    assert (batch.status, batch.failed, batch.pending) == (BatchStatus.FINALIZING, 3, 0)
    assert set(batch.requests.values_list("error_code", flat=True)) == {"model_load_failed"}


def test_what_has_started_keeps_its_answers_when_its_model_goes(add_model, submitted):
    model = Model.objects.create(name="tiny", kind="scripted")
    aliases.point("@best", model)
    batch = submitted([line("a", model="@best"), line("b", model="@best")])
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1)
    claims.claim(batch.pk, worker.pk).start(worker.pk, "@best", model)
    commit.commit(batch.pk, worker.pk, [failure(batch.requests.first().pk, "x", "y")])
    aliases.point("@best", add_model())
    changed("tiny", "failed")
    upkeep.run()
    batch.refresh_from_db()
    assert (batch.status, batch.failed) == (BatchStatus.IN_PROGRESS, 1), "its worker has it"
    Batch.objects.update(leased_by=None, leased_until=None)
    upkeep.run()
    batch.refresh_from_db()
    assert (batch.status, batch.failed) == (BatchStatus.FINALIZING, 2)
    assert set(batch.requests.values_list("error_code", flat=True)) == {"x", "model_load_failed"}


def test_what_is_being_fetched_is_waited_for(add_model, submitted):
    add_model()
    batch = submitted([line("a")])
    changed("scripted", "downloading")
    upkeep.run()
    batch.refresh_from_db()
    assert (batch.status, batch.attempts) == (BatchStatus.VALIDATING, 0)


def test_a_batch_of_a_draft_ends_as_soon_as_it_is_validated(add_model, submitted):
    add_model()
    changed("scripted", "draft")
    assert submitted([line("a")]).status == BatchStatus.FAILED


def test_a_hundred_percent_is_all_of_it():
    assert [Batch(total=2000, completed=n).percent() for n in (0, 1, 1999, 2000)] == [0, 0, 99.9, 100]
    assert Batch(total=200_000, completed=199_998, failed=1).percent(2) == 99.99


def test_bytes_go_when_nobody_can_see_the_file_any_more(project):
    now = timezone.now()
    gone = [stored(project, expires_at=now), stored(project, status="deleted", deleted_at=now - DAY)]
    kept = [stored(project), stored(project, status="deleted", deleted_at=now), stored(project, expires_at=now + DAY)]
    upkeep.run()
    assert [exists(one.blob) for one in gone] == [False, False] and all(exists(one.blob) for one in kept)
    assert File.objects.filter(pk__in=[one.pk for one in gone], purged_at=None).count() == 0
    assert File.objects.filter(pk__in=[one.pk for one in kept], purged_at=None).count() == 3


def test_bytes_stay_while_a_live_batch_needs_them(project, add_model, submitted):
    add_model()
    batch = submitted([line("a")])
    File.objects.filter(pk=batch.input_file_id).update(expires_at=timezone.now() - DAY)
    upkeep.run()
    assert exists(batch.input_file.blob)
    ended(batch)
    upkeep.run()
    assert not exists(batch.input_file.blob)


def test_a_file_that_died_while_it_was_taken_in_is_cleaned_up(project, monkeypatch):
    """Killed between the bytes and their being shown."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(File, "publish", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        stored(project)
    file = File.objects.get()
    upkeep.run()
    assert file.status == FileStatus.PENDING and exists(file.blob), "it may still be taken in"
    assert not File.objects.visible(project).exists()
    File.objects.update(expires_at=timezone.now())
    upkeep.run()
    assert not exists(file.blob)
    with pytest.raises(FileNotFoundError, match="cleaned up"):
        file.publish()
    assert not File.objects.visible(project).exists()


def test_uploads_expire_and_their_parts_go(project, tmp_path):
    made = []
    for status, seconds in (("pending", -1), ("cancelled", 60), ("pending", 60)):
        upload = Upload.objects.create(
            project=project, filename="a", purpose="batch", mime_type="x", bytes=2,
            expires_at=timezone.now() + timedelta(seconds=60),
        )  # fmt: skip
        for name in "ab":
            (tmp_path / name).write_text(name)
            store.add_part(upload, tmp_path / name)
        Upload.objects.filter(pk=upload.pk).update(
            status=status, expires_at=timezone.now() + timedelta(seconds=seconds)
        )
        made.append(upload)
    upkeep.run()
    assert [Upload.objects.get(pk=one.pk).status for one in made] == ["expired", "cancelled", "pending"]
    assert {part.upload_id for part in UploadPart.objects.all()} == {made[2].pk}
    assert [exists(f"parts/{one.pk}") for one in made] == [False, False, True], "their folders go too"
    assert all(exists(part.blob) for part in made[2].parts.all())


def test_old_request_rows_go_in_pieces_and_the_files_stay(project, add_model, submitted, monkeypatch):
    add_model()
    old, young = (ended(submitted([line(f"{n}") for n in range(7)]), good=5) for _ in range(2))
    long_ago = timezone.now() - timedelta(days=31)
    Batch.objects.filter(pk=old.pk).update(created_at=long_ago, completed_at=long_ago)
    monkeypatch.setattr(sweep, "ROWS", 3)
    upkeep.run()
    old.refresh_from_db()
    assert old.purged_at and not old.requests.exists() and young.requests.count() == 7
    request = RequestFactory().get("/")
    answer = downloads.results(request, old, old.output_file, [RequestState.COMPLETED])
    assert int(answer["Content-Length"]) == old.output_file.bytes > 0
    old.output_file.delete_softly()
    with pytest.raises(NotFound, match="no longer kept"):
        downloads.results(request, old, File.objects.get(pk=old.output_file_id), [RequestState.COMPLETED])


def test_a_batch_that_ran_for_long_keeps_its_rows_from_its_end_on(project, add_model, submitted):
    add_model()
    batch = ended(submitted([line("a")]))
    Batch.objects.filter(pk=batch.pk).update(created_at=timezone.now() - timedelta(days=40))
    upkeep.run()
    assert batch.requests.count() == 1


def test_temporary_files_of_dead_processes_go(db, settings):
    young, old, folder = (settings.TMP_DIR / name for name in ("young", "old", "folder"))
    folder.mkdir()
    for path in (young, old, folder / "part"):
        path.write_text("x")
    for path in (old, folder):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    upkeep.run()
    assert young.exists() and not old.exists() and not folder.exists()
    young.unlink()


def test_workers_that_fell_silent_are_forgotten(db):
    for minutes in (1, 61):
        at = timezone.now() - timedelta(minutes=minutes)
        Worker.objects.create(cluster="io", hostname="here", pid=minutes, heartbeat_at=at)
    upkeep.run()
    assert Worker.objects.get().pid == 1


def test_twice_in_a_row_is_harmless(project, add_model, submitted):
    add_model()
    ended(submitted([line("a")]))
    stored(project, expires_at=timezone.now() - DAY)
    upkeep.run()
    before = list(File.objects.values()), list(Batch.objects.values())
    upkeep.run()
    assert (list(File.objects.values()), list(Batch.objects.values())) == before


def test_one_part_that_fails_does_not_stop_the_others(project, monkeypatch, caplog):
    batch = submit.create(project, "file-none", CHAT, "24h")
    stored(project, expires_at=timezone.now() - DAY)
    old = Worker.objects.create(cluster="io", hostname="here", pid=1, heartbeat_at=timezone.now() - timedelta(hours=2))
    woken()

    def refuse(blob):
        raise PermissionError(13, "Permission denied", blob)

    monkeypatch.setattr(blobs, "remove", refuse)
    upkeep.run()
    assert ("validate", batch.pk) in woken() and not Worker.objects.filter(pk=old.pk).exists()
    assert "batches.files.purge.files" in caplog.text


def test_one_file_that_cannot_be_removed_does_not_stop_the_others(project, tmp_path, monkeypatch, caplog):
    upload = Upload.objects.create(
        project=project, filename="a", purpose="batch", mime_type="x", bytes=2,
        expires_at=timezone.now() + DAY,
    )  # fmt: skip
    for name in "abc":
        (tmp_path / name).write_text(name)
        store.add_part(upload, tmp_path / name)
    Upload.objects.update(status="cancelled")
    gone = [stored(project, expires_at=timezone.now() - DAY) for _ in range(3)]
    part = upload.parts.first()
    bad, whole = {gone[1].blob, part.blob}, blobs.remove

    def refuse(blob):
        if blob in bad:
            raise PermissionError(13, "Permission denied", blob)
        whole(blob)

    monkeypatch.setattr(blobs, "remove", refuse)
    upkeep.run()
    assert [exists(one.blob) for one in gone] == [False, True, False]
    assert File.objects.get(purged_at=None) == gone[1], "what is still there is not marked as gone"
    assert UploadPart.objects.get() == part
    assert gone[1].pk in caplog.text and part.pk in caplog.text and "batches.files.purge.files" in caplog.text


def test_a_file_that_is_needed_again_when_its_turn_comes_is_kept(project, add_model, submitted):
    add_model()
    old = stored(project, expires_at=timezone.now() - DAY)
    (found,) = purge.purgeable()
    File.objects.update(expires_at=timezone.now() + DAY)
    assert not purge.purge(found) and exists(old.blob)


def test_the_eldest_io_worker_that_lives_has_it_run(db):
    now = timezone.now()
    _dead, eldest, younger, _of_the_gpu = (
        Worker.objects.create(cluster=cluster, hostname="here", pid=1, started_at=now - age, heartbeat_at=now - silent)
        for cluster, age, silent in (
            ("io", 3 * DAY, DAY),
            ("io", 2 * DAY, 0 * DAY),
            ("io", DAY, 0 * DAY),
            ("gpu", 4 * DAY, 0 * DAY),
        )
    )
    woken()
    for worker, expected in ((younger, []), (eldest, [("task",)])):
        worker_module.sweep_again(worker)
        assert woken() == expected
    Worker.objects.filter(pk=eldest.pk).delete()
    worker_module.sweep_again(younger)
    assert woken() == [("task",)]
    Worker.objects.filter(pk=younger.pk).delete()  # its row was swept: it still is the only one there
    worker_module.sweep_again(younger)
    assert woken() == [("task",)]


def test_it_runs_again_with_the_heartbeats(db, monkeypatch):
    """As long as an io worker's heart beats, and no more often than that."""
    beats = iter(range(1000))

    def beat(seconds):
        if next(beats) == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(worker_module.time, "sleep", beat)
    monkeypatch.setattr(worker_module.time, "monotonic", lambda: next(clock) * 5.0)
    clock = iter(range(1000))
    woke: list[str] = []
    monkeypatch.setattr(worker_module, "wake", woke.append)  # the queue would keep one of several
    for cluster in ("io", "gpu"):
        worker = Worker.objects.create(cluster=cluster, hostname="here", pid=1)
        woke.clear()
        beats, clock = iter(range(1000)), iter(range(1000))
        with pytest.raises(KeyboardInterrupt):
            worker_module._beat(worker)
        assert woke == (["sweep"] * 2 if cluster == "io" else [])

"""Errors that nobody foresaw, bytes that are gone or damaged, and a storage that is out of reach."""

import errno
import threading
from datetime import timedelta

from django.db import connection
from django.db.models import F
from django.utils import timezone

from batches.files import blobs
from batches.models import Batch, BatchStatus
from batches.run import claims, engine_run
from batches.run.workload import BatchesWorkload
from models_registry.workloads import Work
from tests.engines import fresh, line, status_of, text_of, until
from vbs.database import outages


def test_an_unforeseen_error_is_noted_and_tried_again_later(add_model, submitted, gpu, monkeypatch):
    model = add_model()
    batch = submitted([line("a")])
    monkeypatch.setattr("batches.files.blobs.local", lambda blob: 1 / 0)
    BatchesWorkload().run(Work(BatchesWorkload(), batch.pk, model.name, 0, timezone.now()), gpu)
    assert "ZeroDivisionError" in batch.events.last().message
    assert fresh(batch).leased_by is None and not Batch.objects.waiting().exists()


def test_an_unforeseen_error_does_not_come_for_ever(add_model, submitted, gpu, monkeypatch, close):
    """Each line of the batch is accounted for in the end."""
    model = add_model()
    batch = submitted([line("a"), line("b")])
    monkeypatch.setattr("batches.run.engine_run.outcome", lambda *_: 1 / 0)
    waits = []
    monkeypatch.setattr(Batch, "postpone", lambda self, worker, seconds: waits.append(seconds) or self.release(worker))
    for _ in range(20):
        if fresh(batch).status == BatchStatus.FINALIZING:
            break
        BatchesWorkload().run(Work(BatchesWorkload(), batch.pk, model.name, 0, timezone.now()), gpu)
    assert waits == [30, 60, 120, 240, 480]
    good, bad = close(batch)
    assert (good, [one["error"]["code"] for one in bad]) == ([], ["internal_error"] * 2)
    assert "6 times, the last time: ZeroDivisionError" in bad[0]["error"]["message"]


def test_an_unforeseen_error_before_the_start(add_model, submitted, gpu, monkeypatch):
    model = add_model()
    batch = submitted([line("a")])
    monkeypatch.setattr(gpu, "load", lambda *_: 1 / 0)
    Batch.objects.update(stumbles=5)
    BatchesWorkload().run(Work(BatchesWorkload(), batch.pk, model.name, 0, timezone.now()), gpu)
    assert fresh(batch).status == BatchStatus.FAILED and fresh(batch).errors[0]["code"] == "internal_error"


def test_an_answer_that_cannot_be_kept_takes_no_other_with_it(add_model, submitted, gpu, close, monkeypatch):
    add_model()
    batch = submitted([line(f"{n}") for n in range(20)])
    real = engine_run.outcome

    def odd(request, answer, model):
        made = real(request, answer, model)
        if request % 7 == 0:
            made.error_message = ["a\0b", "a\ud800b"][request % 2]
        return made

    monkeypatch.setattr(engine_run, "outcome", odd)
    gpu.serve()
    good, bad = close(batch)
    assert len(good) + len(bad) == 20 and 2 <= len(bad) <= 3
    assert {one["error"]["code"] for one in bad} == {"invalid_response"}


def blob_of(batch):
    return blobs.folder() / batch.input_file.blob


def test_a_batch_whose_bytes_are_gone_fails_and_no_engine_is_loaded_for_it(add_model, submitted, gpu):
    add_model()
    submitted([line("another, so that the storage is there")])
    batch = submitted([line("a")], priority=1)
    blob_of(batch).unlink()
    gpu.serve()
    assert status_of(batch) == BatchStatus.FAILED and batch.failed_at and batch.leased_by is None
    (error,) = batch.errors
    assert error["code"] == "input_file_unavailable" and "not in the storage any more" in error["message"]
    assert not batch.events.filter(message__startswith="Loaded").exists()


def test_of_a_batch_that_loses_its_bytes_while_it_runs_what_is_done_stays(add_model, submitted, make_gpu, close):
    add_model(**{"max-num-seqs": 4, "latency-ms": 20})
    batch = submitted([line(f"{n}") for n in range(300)])
    first = make_gpu()
    thread = threading.Thread(target=lambda: (first.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5)
    outages.stopping.set()
    thread.join(10)
    outages.stopping.clear()
    blob_of(batch).unlink()
    make_gpu().serve()
    good, bad = close(batch)
    assert batch.status == BatchStatus.COMPLETED and len(good) > 5 and len(good + bad) == 300
    assert {one["error"]["code"] for one in bad} == {"input_file_unavailable"}
    assert batch.events.get(message__contains="requests failed").message == (
        f"{len(bad)} requests failed. The input file 'in.jsonl' ({batch.input_file_id}) is not in the storage any "
        "more. What was answered is kept; upload the file again, and create a batch of the lines that are in the error "
        "file."
    )


def test_a_file_that_is_removed_while_a_turn_lasts_is_read_to_its_end(add_model, submitted, gpu, close, home):
    """Also when the engine dies meanwhile, and another one goes on."""
    add_model(**{"max-num-seqs": 4, "latency-ms": 20, "crash-after": 50})
    batch = submitted([line(f"{n}", f"{n}") for n in range(120)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5)
    blob_of(batch).unlink()
    thread.join(60)
    assert len(close(batch)[0]) == 120 and batch.events.filter(message__startswith="The engine died").exists()


def test_a_file_that_cannot_be_read_in_mid_run_is_named_with_what_happens_now(add_model, submitted, gpu, monkeypatch):
    add_model()
    batch = submitted([line("a")])

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error", "/srv/data/files/x")

    monkeypatch.setattr(engine_run.os, "pread", broken)
    gpu.serve()
    assert fresh(batch).status == BatchStatus.IN_PROGRESS and not Batch.objects.waiting().exists()
    assert batch.events.last().message == (
        f"Interrupted: the input file 'in.jsonl' ({batch.input_file_id}) cannot be read, Input/output error. The rest "
        "is tried again automatically, less and less often, until the batch expires. The answers so far are kept. The "
        "log of the gpu worker has the whole error."
    )


def test_lines_that_are_damaged_fail_alone(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line(f"{n}", f"text {n}") for n in range(9)])
    rows = [*batch.requests.order_by("line")]
    with blob_of(batch).open("r+b") as file:
        file.seek(rows[1].offset)
        file.write(b"\0" * 10)
        file.seek(rows[5].offset + rows[5].length // 2)
        file.truncate()
    text = blob_of(batch).read_bytes().replace(b'"custom_id": "3"', b'"custom_id": "4"')
    blob_of(batch).write_bytes(text)
    gpu.serve()
    good, bad = close(batch)
    assert {one["custom_id"]: text_of(one) for one in good} == {f"{n}": f"text {n}" for n in (0, 2, 4)}
    assert {one["custom_id"] for one in bad} == {"1", "3", "5", "6", "7", "8"}
    assert {one["error"]["code"] for one in bad} == {"input_file_unavailable"}
    assert any("Line 6 of the input file" in one["error"]["message"] for one in bad)


def test_a_storage_that_is_out_of_reach_is_waited_for(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("a")])
    home = blobs.folder()
    home.rename(home.with_name("unmounted"))
    try:
        for _ in range(2):
            Batch.objects.update(leased_until=None)
            gpu.serve()
            assert fresh(batch).status == BatchStatus.VALIDATING and not Batch.objects.waiting().exists()
            batch.events.update(at=F("at") - timedelta(seconds=100))
        said = batch.events.get(message__startswith="Interrupted").message
        assert "folder is empty" in said and str(home) not in said, "once, and without the server's paths"
        left = fresh(batch).leased_until - timezone.now()
        assert timedelta(seconds=60) < left < timedelta(seconds=600), "it waits the longer the longer it lasts"
    finally:
        home.with_name("unmounted").rename(home)
    Batch.objects.update(leased_until=None)
    gpu.serve()
    assert len(close(batch)[0]) == 1


def test_what_was_postponed_is_cancelled_at_once(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("a")])
    claims.claim(batch.pk, gpu.worker.pk).postpone(gpu.worker.pk, 600)
    fresh(batch).request_cancel()
    close(batch)
    assert batch.status == BatchStatus.CANCELLED


def test_deleting_the_input_leaves_an_accepted_batch_its_bytes(add_model, submitted, gpu, close):
    from vbs.upkeep import run

    add_model()
    batch = submitted([line(f"{n}") for n in range(5)])
    batch.input_file.delete_softly()
    type(batch.input_file).objects.update(deleted_at=timezone.now() - timedelta(days=1))
    run()
    gpu.serve()
    assert len(close(batch)[0]) == 5
    run()
    batch.input_file.refresh_from_db()
    assert batch.input_file.purged_at

"""Batches that are cancelled, stopped, overtaken or late, and workers that are lost."""

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from batches.finish import outputs
from batches.intake import ingest
from batches.models import Batch, BatchStatus, LeaseLost, expiry
from batches.queue import pauses
from batches.run import claims, commit
from batches.run.outcomes import failure
from models_registry.models import Model, Worker
from tests.engines import fresh, line, sent, until
from vbs.database import outages


def test_what_a_dead_worker_has_run_through_ends_at_once(add_model, submitted, gpu):
    add_model()
    batch = submitted([line("a")])
    claims.claim(batch.pk, gpu.worker.pk).start(gpu.worker.pk, "scripted", Model.objects.get())
    commit.commit(batch.pk, gpu.worker.pk, [failure(batch.requests.get().pk, "x", "y")])
    assert fresh(batch).status == BatchStatus.IN_PROGRESS
    pauses.pause("ada")
    claims.release_all(gpu.worker.pk)
    assert fresh(batch).status == BatchStatus.FINALIZING


def test_cancel_stops_what_runs_and_keeps_what_is_done(add_model, submitted, gpu, close):
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    batch = submitted([line(f"{n}") for n in range(1000)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5)
    fresh(batch).request_cancel()
    asked = time.monotonic()
    thread.join(10)
    assert time.monotonic() - asked < 2
    good, bad = close(batch)
    assert batch.status == BatchStatus.CANCELLED and 5 < len(good) < 1000
    assert sorted(int(one["custom_id"]) for one in good + bad) == list(range(1000))
    undone = [one for one in bad if one["response"] is None]
    assert {one["error"]["code"] for one in undone} == {"batch_cancelled"} and len(undone) == batch.not_run
    again = validated_again(batch)
    gpu.serve()
    assert len(close(again)[0]) == again.total == len(bad), "a retry runs what was left undone"


def test_a_cancel_between_the_claim_and_the_start_does_not_wait_for_the_lease(
    add_model, submitted, gpu, close, monkeypatch
):
    start = Batch.start

    def cancelled_before(batch, *given):
        fresh(batch).request_cancel()
        return start(batch, *given)

    monkeypatch.setattr(Batch, "start", cancelled_before)
    add_model()
    batch = submitted([line("a"), line("b")])
    gpu.serve()
    assert fresh(batch).leased_by is None
    good, bad = close(batch)
    assert batch.status == BatchStatus.CANCELLED and not good and len(bad) == 2
    log = list(batch.events.values_list("message", flat=True))
    assert not any("is back" in message for message in log), log


def validated_again(batch):
    again = batch.retry()
    ingest.validate(again.pk)
    return fresh(again)


def test_a_worker_that_is_lost_while_it_cancels_cannot_answer_what_was_given_up(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("a"), line("b")])
    frozen = claims.claim(batch.pk, gpu.worker.pk).leased_by
    fresh(batch).request_cancel()
    outputs.finalize(batch.pk)
    assert fresh(batch).status == BatchStatus.CANCELLING, "its worker may still commit answers"
    Batch.objects.filter(pk=batch.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    late = [failure(pk, "x", "y") for pk in batch.requests.values_list("pk", flat=True)]
    commit.commit(batch.pk, frozen, late[:1])
    Batch.objects.filter(pk=batch.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    good, bad = close(batch)
    assert not good and [one["error"]["code"] for one in bad] == ["x", "batch_cancelled"]
    with pytest.raises(LeaseLost):
        commit.commit(batch.pk, frozen, late)
    assert fresh(batch).failed == 2


def test_what_is_left_is_given_up_in_one_statement(add_model, submitted, close, django_assert_max_num_queries):
    add_model()
    batch = submitted([line(f"{n}") for n in range(2000)])
    with django_assert_max_num_queries(15):
        batch.request_cancel()
        assert batch.close()
    assert (batch.failed, batch.not_run, batch.pending) == (2000, 2000, 0)
    assert len(close(batch)[1]) == 2000


def test_a_worker_that_is_told_to_stop_leaves_the_rest_to_the_next(add_model, submitted, make_gpu, close, home):
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 4, "latency-ms": 20})
    batch = submitted([line(f"{n}", f"{n}") for n in range(400)])
    first = make_gpu()
    thread = threading.Thread(target=lambda: (first.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5)
    outages.stopping.set()
    thread.join(10)
    assert fresh(batch).status == BatchStatus.IN_PROGRESS and fresh(batch).leased_by is None
    outages.stopping.clear()
    make_gpu().serve()
    good, _bad = close(batch)
    assert len(good) == 400 and batch.attempts == 2
    assert len(sent(home / "journal")) == 400, "what was in flight had time to end"


def test_past_its_time_the_finished_lines_are_kept_and_the_others_expire(add_model, submitted, gpu, close, monkeypatch):
    monkeypatch.setattr(expiry, "APART", timedelta(seconds=3))
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    batch = submitted([line(f"{n}") for n in range(1000)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5)
    Batch.objects.filter(pk=batch.pk).update(expires_at=timezone.now())
    thread.join(20)
    good, bad = close(batch)
    assert batch.status == BatchStatus.EXPIRED and batch.expired_at and 5 < len(good) < 200, "nothing new was sent"
    assert all(one["response"] is None and one["error"]["code"] == "batch_expired" for one in bad)


def test_a_clock_that_jumps_and_comes_back_expires_nothing(add_model, submitted, gpu, close, monkeypatch):
    """Seen from the batch it is the other way round: its end jumps into the past."""
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    batch = submitted([line(f"{n}") for n in range(200)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5)
    Batch.objects.filter(pk=batch.pk).update(expires_at=F("expires_at") - timedelta(hours=25))
    until(lambda: fresh(batch).late_at)
    time.sleep(2)
    Batch.objects.filter(pk=batch.pk).update(expires_at=F("expires_at") + timedelta(hours=25))
    thread.join(30)
    assert len(close(batch)[0]) == 200 and batch.status == BatchStatus.COMPLETED and batch.late_at is None


@pytest.mark.parametrize("seconds, over", [(9, False), (11, True), (3599, True), (3601, False), (-1, False)])
def test_two_looks_that_are_neither_too_near_nor_too_far_apart(add_model, submitted, seconds, over):
    add_model()
    batch = submitted([line("a")])
    now = timezone.now()
    assert expiry.is_over(Batch.objects.filter(pk=batch.pk), now, now - timedelta(seconds=seconds), now) == over
    assert bool(fresh(batch).late_at) == (seconds in (-1, 3601)), "this one counts as the first"


def test_two_workers_run_each_batch_once(add_model, submitted, make_gpu, close, home):
    add_model(journal=f"{home}/journal", **{"latency-ms": 1})
    batches = [submitted([line(f"{n}", f"{b}-{n}") for n in range(40)]) for b in range(8)]
    threads = [threading.Thread(target=lambda: (make_gpu().serve(), connection.close())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for batch in batches:
        assert len(close(batch)[0]) == 40 and batch.attempts == 1
    assert sorted(sent(home / "journal")) == sorted(f"{b}-{n}" for b in range(8) for n in range(40))


def test_a_lease_that_was_taken_over_cannot_commit(add_model, submitted, make_gpu):
    add_model()
    batch, first, second = submitted([line("a")]), make_gpu(), make_gpu()
    assert claims.claim(batch.pk, first.worker.pk)
    assert claims.claim(batch.pk, second.worker.pk) is None
    Batch.objects.filter(pk=batch.pk).update(leased_until=F("leased_until") - timedelta(hours=2))  # a clock that jumps
    assert claims.claim(batch.pk, second.worker.pk)
    request = batch.requests.get()
    with pytest.raises(LeaseLost):
        commit.commit(batch.pk, first.worker.pk, [failure(request.pk, "x", "y")])
    commit.commit(batch.pk, second.worker.pk, [failure(request.pk, "x", "y")])
    commit.commit(batch.pk, second.worker.pk, [failure(request.pk, "x", "y")])
    assert fresh(batch).failed == 1, "the same outcome twice counts once"


def test_a_worker_that_was_frozen_is_told_of_in_the_batchs_log(add_model, submitted, make_gpu, close, settings):
    """By whoever takes its batch over, with what that costs, and by itself when it is back."""
    add_model(**{"max-num-seqs": 4, "latency-ms": 50})
    batch, frozen, other = submitted([line(f"{n}") for n in range(200)]), make_gpu(), make_gpu()
    thread = threading.Thread(target=lambda: (frozen.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5 and fresh(batch).in_flight)
    Worker.objects.filter(pk=other.worker.pk).update(pid=2)
    until_then = timezone.now() - timedelta(seconds=1)
    with transaction.atomic():  # the frozen one does not come in between
        Batch.objects.filter(pk=batch.pk).update(leased_until=until_then, in_flight=5)
        assert claims.claim(batch.pk, other.worker.pk)
    thread.join(20)
    (taken,) = batch.events.filter(message__contains="takes this batch over")
    since = until_then - timedelta(seconds=settings.VBS_LEASE_SECONDS)
    assert (taken.level, taken.message) == (
        "warning",
        f"The gpu worker with pid 1 has not answered since {since:%Y-%m-%d %H:%M:%S} UTC, so the gpu worker with pid 2 "
        "takes this batch over. The requests that it had in flight, 5 when it was last heard of, run again.",
    )
    (back,) = batch.events.filter(message__contains="is back")
    assert back.message == (
        "The gpu worker with pid 1 is back, but the gpu worker with pid 2 has this batch. The answers to what it had "
        "in flight do not count."
    )
    Batch.objects.filter(pk=batch.pk).update(leased_by=None, leased_until=None)
    other.serve()
    assert len(close(batch)[0]) == 200 and not batch.events.filter(message__contains="has ended, or").exists()


def test_a_worker_that_was_killed_is_told_of_in_the_batchs_log(add_model, submitted, gpu):
    add_model()
    batch = submitted([line("a")])
    claims.claim(batch.pk, gpu.worker.pk)
    claims.release_all(gpu.worker.pk)
    said = batch.events.last()
    assert (
        said.message.startswith("The gpu worker with pid 1 has ended, or met an error, while it ran this batch")
        and said.level == "warning"
    )
    assert said.message.endswith("It had sent no request yet.")
    claims.release_all(gpu.worker.pk)
    assert batch.events.last() == said, "it is told once"


def test_who_gave_a_batch_back_is_not_said_to_have_been_silent(add_model, submitted, make_gpu):
    add_model()
    batch, first, second = submitted([line("a")]), make_gpu(), make_gpu()
    claims.claim(batch.pk, first.worker.pk).postpone(first.worker.pk, 0)
    assert claims.claim(batch.pk, second.worker.pk)
    assert not batch.events.filter(message__contains="not answered").exists()

"""Batches on the scripted engine: what goes right, and every size of failure."""

import errno
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta

import psutil
import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from batches.files import blobs
from batches.finish import outputs
from batches.intake import ingest, raw_json
from batches.models import Batch, BatchStatus, LeaseLost, expiry
from batches.queue import pauses
from batches.run import claims, commit, deaths, runner
from batches.run.outcomes import failure
from batches.run.workload import BatchesWorkload
from models_registry.catalog import add
from models_registry.engine.client import Answer, Client
from models_registry.gpu import window
from models_registry.models import Measurement, MeasurementKind, Model, Worker
from models_registry.workloads import Work
from tests.engines import CHAT, line, status_of
from vbs.database import outages
from vbs.run.stack import free_port


def text_of(one):
    return one["response"]["body"]["choices"][0]["message"]["content"]


def sent(journal):
    """The texts that the engine received, in order."""
    return [json.loads(one)["text"] for one in journal.read_text().splitlines()]


def test_every_request_gets_its_own_answer(add_model, submitted, gpu, close):
    add_model(**{"max-num-seqs": 16})
    batch = submitted([line(f"id {n}", f"text {n}") for n in range(300)])
    gpu.serve()
    good, bad = close(batch)
    assert status_of(batch) == BatchStatus.COMPLETED and not bad
    assert {one["custom_id"]: text_of(one) for one in good} == {f"id {n}": f"text {n}" for n in range(300)}
    assert all(one["response"]["body"]["model"] == "scripted" and one["error"] is None for one in good)
    assert batch.output_tokens == sum(one["response"]["body"]["usage"]["completion_tokens"] for one in good) > 0
    stamps = [batch.created_at, batch.validated_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert stamps == sorted(stamps)


def test_numbers_arrive_as_they_were_sent_and_come_as_they_were_answered(add_model, submitted, gpu, close, monkeypatch):
    add_model()
    bodies = [
        '{"model": "scripted", "messages": [{"role": "user", "content": "\\u00e9"}], "seed": 18446744073709551616}',
        '{"messages":[{"role":"user","content":"x"}],"temperature":0.10,"top_p":1E-0,"n":1,"model":"scripted"}',
    ]
    lines = [
        f'{{"custom_id": "{n}", "method": "POST", "url": "{CHAT}", "body": {body}}}' for n, body in enumerate(bodies)
    ]
    batch = submitted("\n".join(lines).encode())
    arrived = []

    async def answer(client, session, call):
        arrived.append(call.body.decode())
        return Answer(call.key, 200, b'{"id": 18446744073709551616, "logprob": -0.10, "model": "it"}')

    monkeypatch.setattr(Client, "_answer", answer)
    gpu.serve()
    exact = {"parse_int": str, "parse_float": str}
    assert sorted(arrived) == sorted(raw_json.text_of(raw_json.members(body.encode())).decode() for body in bodies)
    assert any('"seed":18446744073709551616' in one for one in arrived)
    assert any('"temperature":0.10,"top_p":1E-0' in one for one in arrived)
    close(batch)
    with blobs.open_blob(batch.output_file.blob) as output:
        for one in output.read().splitlines():
            assert json.loads(one, **exact)["response"]["body"] == {
                "id": "18446744073709551616", "logprob": "-0.10", "model": "scripted",
            }  # fmt: skip


def test_a_line_that_the_engine_refuses_fails_alone(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("good"), line("bad", max_tokens=-1)])
    gpu.serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in good] == ["good"]
    assert bad[0]["response"]["status_code"] == 400 and bad[0]["error"]["message"]
    assert bad[0]["response"]["body"]["error"]["message"]


def test_when_every_line_fails_the_batch_is_completed(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("bad", max_tokens=-1)])
    gpu.serve()
    close(batch)
    assert (batch.status, batch.output_file) == (BatchStatus.COMPLETED, None) and batch.error_file


def test_what_fails_for_a_moment_is_tried_again(add_model, submitted, gpu, close, home):
    add_model()
    batch = submitted(
        [
            line("503", f"[[status-times 503 2 {home}/a]] one"),
            line("429", f"[[retry-after-times 0 2 {home}/b]] two"),
            line("drop", f"[[drop-times 2 {home}/c]] three"),
        ]
    )
    gpu.serve()
    good, bad = close(batch)
    assert len(good) == 3 and not bad


@pytest.mark.parametrize(
    "directive, code, status", [("[[status 500]]", None, 500), ("[[drop]]", "connection_lost", None)]
)
def test_what_keeps_failing_goes_to_the_error_file(add_model, submitted, gpu, close, settings, directive, code, status):
    settings.VBS_REQUEST_ATTEMPTS = 2
    add_model()
    batch = submitted([line("a"), line("b", directive)])
    gpu.serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in good] == ["a"]
    assert (bad[0]["response"] or {}).get("status_code") == status
    assert bad[0]["error"]["message"] and (code is None or bad[0]["error"]["code"] == code)


def test_garbage_is_not_passed_off_as_an_answer(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("a", "[[garbage]]")])
    gpu.serve()
    assert close(batch)[1][0]["error"]["code"] == "invalid_response"


def test_a_request_without_end_is_given_up(add_model, submitted, gpu, close, settings):
    settings.VBS_REQUEST_SECONDS, settings.VBS_REQUEST_ATTEMPTS = 1, 1
    add_model()
    batch = submitted([line("a"), line("b", "[[hang]]")])
    gpu.serve()
    good, bad = close(batch)
    assert len(good) == 1 and bad[0]["error"]["code"] == "request_timeout" and bad[0]["response"] is None


def test_an_engine_that_dies_is_started_again(add_model, submitted, gpu, close, home):
    add_model()
    lines = [line(f"{n}", f"text {n}") for n in range(50)]
    lines[20] = line("20", f"[[crash-times 1 {home}/once]] text 20")
    batch = submitted(lines)
    gpu.serve()
    good, bad = close(batch)
    assert len(good) == 50 and not bad


def test_a_request_that_kills_the_engine_fails_alone(add_model, submitted, gpu, close, home):
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 16})
    lines = [line(f"{n}", f"text {n}") for n in range(60)]
    lines[30] = line("30", "[[crash]]")
    batch = submitted(lines)
    gpu.serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in bad] == ["30"] and len(good) == 59
    assert bad[0]["error"]["code"] == "engine_crashed" and bad[0]["response"] is None
    times = sent(home / "journal").count("[[crash]]")
    assert times == 4, "with the others, with half of them, with one other, alone"


def test_several_requests_that_kill_the_engine_fail_alone(add_model, submitted, gpu, close):
    add_model(**{"max-num-seqs": 16})
    poison = {7, 8, 33, 59}
    batch = submitted([line(f"{n}", "[[crash]]" if n in poison else f"text {n}") for n in range(60)])
    gpu.serve()
    good, bad = close(batch)
    assert {int(one["custom_id"]) for one in bad} == poison and len(good) == 56
    assert {one["error"]["code"] for one in bad} == {"engine_crashed"}
    assert batch.events.filter(message__startswith="The engine died").count() <= 4 * len(poison)


def test_a_death_slows_what_it_met_by_half_and_the_rest_not_at_all():
    assert [deaths.together(1280, seen) for seen in range(6)] == [1280, 640, 160, 20, 1, 1]
    assert [deaths.together(2, seen) for seen in range(3)] == [2, 1, 1]


def test_an_engine_that_dies_with_all_that_is_left_is_given_up(add_model, submitted, gpu, close, monkeypatch):
    """Only where nothing was answered from one death to the next; what was answered before is kept."""
    monkeypatch.setattr(deaths, "BARREN", 7)
    add_model(**{"max-num-seqs": 16})
    add_model("fine")
    lines = [
        line(f"{n}", "[[crash]]" if n < 40 else f"text {n}", model="fine" if n == 59 else "scripted") for n in range(60)
    ]
    batch = submitted(lines)
    gpu.serve()
    good, bad = close(batch)
    assert batch.status == BatchStatus.COMPLETED
    assert "59" in {one["custom_id"] for one in good}, "another model's engine is another matter"
    codes = Counter(one["error"]["code"] for one in bad)
    assert codes.keys() <= {"engine_crashed", "engine_keeps_dying"} and codes["engine_keeps_dying"] > 20
    message = next(one["error"]["message"] for one in bad if one["error"]["code"] == "engine_keeps_dying")
    assert "died 7 times in a row and answered nothing" in message and "retry this batch" in message
    assert (
        batch.events.filter(level="error", message__startswith=f"{codes['engine_keeps_dying']} requests failed").count()
        == 1
    )


def test_an_engine_that_lives_with_a_few_at_once_gets_a_few(add_model, submitted, gpu, close):
    """As where many at once need more memory than there is. Each is answered, and the deaths are few."""
    add_model(**{"max-num-seqs": 16, "crash-above": 4, "latency-ms": 5})
    batch = submitted([line(f"{n}", f"text {n}") for n in range(300)])
    gpu.serve()
    good, bad = close(batch)
    assert len(good) == 300 and not bad
    deaths_met = batch.events.filter(message__startswith="The engine died").count()
    assert deaths_met < 300 / 20, "fewer than if each window of those that no death has met began whole"


def test_after_a_death_fewer_run_at_once_until_enough_is_answered():
    met = deaths.Deaths()
    assert (met.size(1280, 0), met.trial(1280, 0)) == (1280, None)
    met.record(1280, in_flight=1280, answered=5)
    assert (met.size(1280, 0), met.trial(1280, 0), met.size(1280, 1), met.trial(1280, 1)) == (640, 2560, 640, None)
    met.narrow -= 1
    for times in range(1, 9):
        met.record(1280, in_flight=1, answered=0)
        assert (met.barren, met.total, met.idle) == (times, times + 1, 0)
    assert (met.size(1280, 0), met.narrow, met.trial(1280, 0)) == (1, 4, 36), "one at a time is as few as it gets"
    met.record(1280, in_flight=0, answered=1)
    assert (met.barren, met.idle) == (0, 1)


@pytest.mark.parametrize("most, times, code", [(1, 2, None), (16, 2, None), (1, 3, "engine_crashed")])
def test_a_request_that_was_there_twice_is_not_to_blame(
    add_model, submitted, gpu, close, home, monkeypatch, most, times, code
):
    """Even where it ran alone, because it was the last, or because no more than one may run."""
    monkeypatch.setattr(runner, "in_flight", lambda engine: most)
    add_model()
    batch = submitted([line("a", f"[[crash-times {times} {home}/crashed]]")])
    gpu.serve()
    good, bad = close(batch)
    assert [one["error"]["code"] for one in bad] == ([code] if code else []) and len(good + bad) == 1


def test_an_engine_that_cannot_live_fails_the_batch_and_the_next_one_runs(add_model, submitted, gpu, close):
    add_model("broken", **{"fail-start": "CUDA out of memory. Tried to allocate 2 GiB"})
    add_model()
    broken, fine = submitted([line("a", model="broken")]), submitted([line("a")])
    gpu.serve()
    assert status_of(broken) == BatchStatus.FAILED and broken.failed_at
    (error,) = broken.errors
    assert error["code"] == "model_load_failed" and "out of memory" in error["message"] and "Lower" in error["message"]
    close(fine)
    assert fine.status == BatchStatus.COMPLETED


def test_one_model_of_two_that_does_not_load_fails_only_its_lines(add_model, submitted, gpu, close):
    add_model("broken", **{"fail-start": "no"})
    add_model()
    batch = submitted([line("a", model="broken"), line("b"), line("c", model="broken")])
    gpu.serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in good] == ["b"]
    assert {one["error"]["code"] for one in bad} == {"model_load_failed"} and len(bad) == 2


def test_several_models_in_one_file_need_one_swap(add_model, submitted, gpu, close, home):
    add_model("one", journal=f"{home}/journal")
    add_model("two", journal=f"{home}/journal")
    batch = submitted([line(f"{n}", f"{n}", model=("one", "two")[n % 2]) for n in range(40)])
    gpu.serve()
    good, _bad = close(batch)
    assert {one["custom_id"]: one["response"]["body"]["model"] for one in good} == {
        f"{n}": ("one", "two")[n % 2] for n in range(40)
    }
    parity = [int(one) % 2 for one in sent(home / "journal")]
    assert sum(first != second for first, second in itertools.pairwise(parity)) == 1


def test_the_higher_priority_goes_first_and_overtakes(add_model, submitted, gpu, close):
    add_model(**{"max-num-seqs": 4, "latency-ms": 40})
    slow = submitted([line(f"{n}") for n in range(300)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(slow).completed > 5)
    low, high = submitted([line("low")], priority=-1), submitted([line("high")], priority=1)
    thread.join(60)
    for batch in (slow, low, high):
        close(batch)
        assert batch.status == BatchStatus.COMPLETED
    assert high.finalizing_at < slow.finalizing_at < low.finalizing_at
    assert slow.attempts == 2


def test_what_is_outranked_in_its_last_window_ends_without_another_turn(add_model, submitted, gpu, close, monkeypatch):
    monkeypatch.setattr(runner, "OUTRANKED_SECONDS", 0.1)
    add_model(**{"max-num-seqs": 4, "latency-ms": 1500})
    low = submitted([line(f"{n}") for n in range(4)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(low).status == BatchStatus.IN_PROGRESS)
    high = submitted([line("high")], priority=1)
    thread.join(60)
    assert len(close(low)[0]) == 4 and low.attempts == 1 and len(close(high)[0]) == 1
    assert low.finalizing_at < high.in_progress_at
    assert not low.events.filter(message__startswith="Interrupted").exists()


def test_no_engine_is_started_for_nothing(add_model, submitted, gpu, close):
    model = add_model()
    batch = submitted([line("a", "[[crash]]")])
    gpu.serve()
    assert close(batch)[1][0]["error"]["code"] == "engine_crashed"
    loads = Measurement.objects.filter(kind=MeasurementKind.LOAD, model=model).count()
    assert loads == batch.events.filter(message__startswith="The engine died").count()


def test_what_a_dead_worker_has_run_through_ends_at_once(add_model, submitted, gpu):
    add_model()
    batch = submitted([line("a")])
    claims.claim(batch.pk, gpu.worker.pk).start(gpu.worker.pk, "scripted", Model.objects.get())
    commit.commit(batch.pk, gpu.worker.pk, [failure(batch.requests.get().pk, "x", "y")])
    assert fresh(batch).status == BatchStatus.IN_PROGRESS
    pauses.pause("ada")
    claims.release_all(gpu.worker.pk)
    assert fresh(batch).status == BatchStatus.FINALIZING


def test_no_more_run_at_once_than_connections_may_be_open(add_model, submitted, gpu, close, monkeypatch):
    monkeypatch.setattr("vbs.run.descriptors.left", lambda: window.SPARE + 3)
    add_model(**{"max-num-seqs": 16, "latency-ms": 20})
    batch = submitted([line(f"{n}") for n in range(30)])
    began = time.monotonic()
    gpu.serve()
    assert len(close(batch)[0]) == 30 and time.monotonic() - began > 10 * 0.02
    said = batch.events.get(message__contains="run at once")
    assert "At most 3 requests run at once, not 20" in said.message and "ulimit -n" in said.message


@pytest.mark.parametrize("least", [0, 65])
def test_the_engine_too_must_be_able_to_have_the_connections(add_model, gpu, least):
    engine = gpu.load(add_model(**{"max-num-seqs": 1024}), lambda doing: None)
    open_there = psutil.Process(engine.pid).num_fds()
    assert (window.in_flight(engine), window.shortfall(engine, 1280)) == (1280, "")
    psutil.Process(engine.pid).rlimit(psutil.RLIMIT_NOFILE, (open_there + least, 4096))
    assert window.in_flight(engine) == 1, "never none at all"
    assert "not 1,280" in window.shortfall(engine, 1)


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


def test_a_model_on_a_remote_server(project, submitted, gpu, close):
    """Any OpenAI-compatible URL, with its key and its own name for the model; nothing is started or stopped here."""
    port = free_port()
    command = [sys.executable, "-m", "models_registry.engine.scripted.server", "--port", str(port)]
    environment = os.environ | {"VLLM_API_KEY": "its-key"}
    with subprocess.Popen([*command, "--served-model-name", "theirs"], env=environment) as server:
        try:
            until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            add.add("ours", f"http://127.0.0.1:{port}/v1", remote_name="theirs")
            gpu.resident.remote_keys = {f"http://127.0.0.1:{port}": "its-key"}
            batch = submitted([line(f"{n}", f"text {n}", model="ours") for n in range(50)])
            gpu.serve()
            good, bad = close(batch)
            assert not bad and {one["response"]["body"]["model"] for one in good} == {"ours"}
            gpu.resident.release()
            assert server.poll() is None
        finally:
            server.kill()


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
    monkeypatch.setattr("batches.run.runner.outcome", lambda *_: 1 / 0)
    waits = []
    monkeypatch.setattr(Batch, "postpone", lambda self, worker, seconds: waits.append(seconds) or self.release(worker))
    for _ in range(20):
        if fresh(batch).status == BatchStatus.FINALIZING:
            break
        BatchesWorkload().run(Work(BatchesWorkload(), batch.pk, model.name, 0, timezone.now()), gpu)
    assert waits == [30, 60, 120, 240, 480]
    good, bad = close(batch)
    assert (good, [one["error"]["code"] for one in bad]) == ([], ["internal_error"] * 2)
    assert "6 times, the last time ZeroDivisionError" in bad[0]["error"]["message"]


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
    real = runner.outcome

    def odd(answer, model):
        made = real(answer, model)
        if answer.key % 7 == 0:
            made.error_message = ["a\0b", "a\ud800b"][answer.key % 2]
        return made

    monkeypatch.setattr(runner, "outcome", odd)
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

    monkeypatch.setattr(runner.os, "pread", broken)
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


def fresh(batch):
    return Batch.objects.get(pk=batch.pk)


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)

"""Engines that die while a batch runs: nobody's answers are lost, and what kills engines is found."""

from collections import Counter

import pytest

from batches.models import BatchStatus
from batches.queue import forecast, snapshot
from batches.run import engine_deaths, turn
from models_registry.gpu import window
from models_registry.models import Worker
from tests.engines import fresh, in_thread, line, sent, status_of


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
    assert [engine_deaths.together(1280, seen) for seen in range(6)] == [1280, 640, 160, 20, 1, 1]
    assert [engine_deaths.together(2, seen) for seen in range(3)] == [2, 1, 1]


def test_an_engine_that_dies_with_all_that_is_left_is_given_up(add_model, submitted, gpu, close, monkeypatch):
    """Only where nothing was answered from one death to the next; what was answered before is kept."""
    monkeypatch.setattr(engine_deaths, "BARREN", 7)
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
    met = engine_deaths.Deaths()
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
    monkeypatch.setattr(window, "wanted", lambda engine: most)
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


def test_no_end_is_told_until_the_request_that_kills_engines_is_found(add_model, submitted, gpu, close, monkeypatch):
    """Each death costs a start, of which pages say so at once; how many there will be nobody knows."""
    monkeypatch.setattr(turn, "PROGRESS_SECONDS", 60.0)  # a load's beginning is shown at once all the same
    add_model(**{"max-num-seqs": 16, "latency-ms": 20})
    measured = submitted([line(f"{n}", f"text {n}") for n in range(40)])
    gpu.serve()
    close(measured)
    batch = submitted([line(f"{n}", "[[crash]]" if n == 30 else f"text {n}") for n in range(60)])
    serving, told, loads = in_thread(gpu), [], set()
    while serving.is_alive():
        before = fresh(batch).deaths
        snapshot.forget()
        expected = forecast.of(fresh(batch))
        if (after := fresh(batch)).pending:
            told.append((min(before, after.deaths), expected.completion_at, expected.why))
        if Worker.objects.get(pk=gpu.worker.pk).state == "loading":
            loads.add(before)
    searched = [(end, why) for deaths, end, why in told if deaths >= 2]
    assert searched and {end for end, _ in searched} == {None} and {why for _, why in searched} == {snapshot.SEARCHING}
    assert loads >= {1, 2}, "every start is shown"
    assert [one["custom_id"] for one in close(batch)[1]] == ["30"]

"""Several batches in one turn on an engine: each has its share, and what happens to one does not touch the others."""

import threading
import time
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from batches.models import Batch, BatchStatus, RequestState
from batches.queue import pauses
from batches.run import commit, engine_run
from batches.run.turn import Turn
from models_registry.models import Measurement, MeasurementKind, Worker
from tests.engines import fresh, line, sent, until


@pytest.fixture
def serving(gpu):
    """Serves in a thread, until nothing waits."""
    threads = []

    def start():
        thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def lines(name, count, text="hello", **body):
    return [line(f"{name} {n}", f"{name} {n} {text}", **body) for n in range(count)]


def answered(good):
    """The batch that each answer is for, by its own words."""
    return {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in good}


def test_many_small_batches_fill_the_window_together(add_model, submitted, gpu, close, monkeypatch):
    """They run in one turn, side by side."""
    turns = []
    run = Turn.run
    monkeypatch.setattr(Turn, "run", lambda turn: turns.append(turn) or run(turn))
    add_model(**{"max-num-seqs": 40, "latency-ms": 3000})
    batches = [submitted(lines(f"b{n}", 5)) for n in range(20)]
    gpu.serve()
    for number, batch in enumerate(batches):
        good, bad = close(batch)
        assert not bad and answered(good) == {f"b{number} {n}": f"b{number} {n} hello" for n in range(5)}
        assert batch.attempts == 1
    turn = Measurement.objects.filter(kind=MeasurementKind.BATCH)
    assert sum(one.requests for one in turn) == 100
    spans = [(batch.in_progress_at, batch.finalizing_at) for batch in batches]
    assert len(turns) == 1 and spans[5][0] < spans[0][1]


def test_a_small_batch_is_not_starved_by_a_large_one(add_model, submitted, serving, close, home):
    """While a batch with many long requests runs, one with a few comes: its requests are the next to be sent."""
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 4, "latency-ms": 20})
    large = submitted(lines("large", 400, "words " * 200))
    serving()
    until(lambda: fresh(large).completed > 20)
    small = submitted(lines("small", 20))
    until(lambda: fresh(small).status == BatchStatus.FINALIZING)
    assert fresh(large).status == BatchStatus.IN_PROGRESS, "the large one goes on beside it"
    texts = sent(home / "journal")
    first = next(place for place, text in enumerate(texts) if text.startswith("small"))
    last = max(place for place, text in enumerate(texts) if text.startswith("small"))
    assert last - first < 20 + 30, "it gets at least its share by tokens, and that is nearly all for so few"
    Batch.objects.filter(pk=large.pk).get().request_cancel()


def test_equals_that_come_after_the_first_has_all_places_share_them_at_once(add_model, submitted, serving, home):
    """Its answers are much shorter than was guessed when it took them."""
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 40, "latency-ms": 1500})
    first = submitted(lines("first", 2000))
    serving()
    until(lambda: (home / "journal").exists() and len(sent(home / "journal")) >= 50)
    others = [submitted(lines(name, 2000)) for name in ("second", "third")]
    until(lambda: len(sent(home / "journal")) >= 350)
    texts = [text.split()[0] for text in sent(home / "journal")]
    start = min(texts.index("second"), texts.index("third"))
    had = [texts[start : start + 150].count(name) for name in ("first", "second", "third")]
    assert all(30 <= one <= 75 for one in had), had
    for batch in (first, *others):
        fresh(batch).request_cancel()


def test_what_came_during_the_load_is_ordered_by_priority_before_the_first_request(
    add_model, submitted, gpu, close, monkeypatch, home
):
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 16, "latency-ms": 100})
    big, later = submitted(lines("big", 600)), []
    load = Turn._load

    def loaded(turn, members, on_progress):
        engine = load(turn, members, on_progress)
        if not later:
            later.extend([submitted(lines("small", 20)), submitted(lines("urgent", 30), priority=50)])
        return engine

    monkeypatch.setattr(Turn, "_load", loaded)
    gpu.serve()
    texts = [text.split()[0] for text in sent(home / "journal")]
    assert set(texts[:20]) == {"urgent"}, "all places are its own"
    assert texts.index("small") < 500, "it shares with the big one"
    assert [len(close(batch)[0]) for batch in (big, *later)] == [600, 20, 30]


def test_what_came_during_the_load_below_a_more_urgent_batch_shares_what_that_leaves(
    add_model, submitted, serving, monkeypatch, home
):
    monkeypatch.setattr(engine_run, "LOOK_SECONDS", 60)
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 16, "latency-ms": 500})
    big, later = submitted(lines("big", 600)), []
    load = Turn._load

    def loaded(turn, members, on_progress):
        engine = load(turn, members, on_progress)
        if not later:
            later.extend([submitted(lines("small", 600)), submitted(lines("urgent", 4, "[[hang]]"), priority=50)])
        return engine

    monkeypatch.setattr(Turn, "_load", loaded)
    serving()
    until(lambda: (home / "journal").exists() and len(sent(home / "journal")) >= 64)
    texts = [text.split()[0] for text in sent(home / "journal")][:64]
    assert texts[:20].count("urgent") == 4 and 15 <= texts.count("small") <= 45, texts
    for batch in (big, *later):
        fresh(batch).request_cancel()


def test_equals_share_what_a_more_urgent_batch_leaves_also_the_one_that_comes_then(add_model, submitted, serving):
    add_model(**{"max-num-seqs": 16, "latency-ms": 100})
    big = submitted(lines("big", 3000))
    serving()
    until(lambda: fresh(big).completed)
    urgent = submitted(lines("urgent", 4, "[[hang]]"), priority=50)
    until(lambda: fresh(urgent).in_flight == 4)
    small = submitted(lines("small", 1500))
    until(lambda: min(fresh(one).in_flight or 0 for one in (big, small)) >= 5)
    assert fresh(urgent).in_flight == 4
    for batch in (big, urgent, small):
        fresh(batch).request_cancel()


def test_a_higher_priority_overtakes_on_the_same_engine_at_once(add_model, submitted, serving, close, home):
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 4, "latency-ms": 30})
    low = submitted(lines("low", 300))
    serving()
    until(lambda: fresh(low).completed > 20)
    high = submitted(lines("high", 40), priority=1)
    until(lambda: fresh(high).status == BatchStatus.FINALIZING)
    texts = [text.split()[0] for text in sent(home / "journal")]
    first = texts.index("high")
    assert texts[first : first + 40] == ["high"] * 40, "nothing of the other is sent as long as it has requests left"
    assert fresh(low).attempts == 1 and fresh(low).leased_by is not None
    fresh(low).request_cancel()


def test_a_lower_priority_has_only_the_free_places(add_model, submitted, gpu, close, home):
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 8, "latency-ms": 500})
    high, low = submitted(lines("high", 40), priority=1), submitted(lines("low", 40))
    gpu.serve()
    close(high), close(low)
    texts = [text.split()[0] for text in sent(home / "journal")]
    assert texts[:40] == ["high"] * 40 and fresh(low).in_progress_at < fresh(high).finalizing_at, "beside its tail"


def test_one_of_several_is_cancelled(add_model, submitted, serving, close):
    add_model(**{"max-num-seqs": 8, "latency-ms": 60})
    batches = [submitted(lines(f"b{n}", 60 if n != 1 else 600)) for n in range(3)]
    serving()
    until(lambda: all(fresh(batch).completed for batch in batches))
    fresh(batches[1]).request_cancel()
    until(lambda: all(fresh(batch).status in (BatchStatus.FINALIZING, BatchStatus.CANCELLING) for batch in batches))
    until(lambda: fresh(batches[1]).leased_by is None)
    for number, batch in enumerate(batches):
        good, bad = close(batch)
        if number == 1:
            assert batch.status == BatchStatus.CANCELLED and 0 < len(good) < 600
            assert {one["error"]["code"] for one in bad} == {"batch_cancelled"}
        else:
            assert batch.status == BatchStatus.COMPLETED and len(good) == 60


def test_a_cancelled_batch_frees_its_places_at_once(add_model, submitted, serving, close):
    """Its requests in flight are aborted, and those of others are not."""
    add_model(**{"max-num-seqs": 4})
    hanging = submitted(lines("hanging", 5, "[[hang]]"))
    serving()
    until(lambda: fresh(hanging).in_flight == 5)
    other = submitted(lines("other", 30))
    until(lambda: fresh(other).status == BatchStatus.IN_PROGRESS)
    fresh(hanging).request_cancel()
    until(lambda: fresh(other).status == BatchStatus.FINALIZING)
    assert len(close(other)[0]) == 30 and not close(hanging)[0]


def test_the_lease_of_one_is_lost(add_model, submitted, serving, close, make_gpu):
    add_model(**{"max-num-seqs": 8, "latency-ms": 60})
    lost, kept = submitted(lines("lost", 600)), submitted(lines("kept", 60))
    serving()
    until(lambda: fresh(lost).completed and fresh(kept).completed)
    thief = uuid.uuid4()
    Batch.objects.filter(pk=lost.pk).update(leased_by=thief)
    until(lambda: fresh(lost).events.filter(message__contains="is back, but").exists())
    had = fresh(lost).completed
    until(lambda: fresh(kept).status == BatchStatus.FINALIZING)
    assert len(close(kept)[0]) == 60
    assert fresh(lost).completed == had and fresh(lost).leased_by == thief, "nothing is written for it any more"
    assert lost.requests.filter(state=RequestState.COMPLETED).count() == had


def test_a_commit_of_several_leaves_out_those_that_are_lost(add_model, submitted, gpu):
    from batches.run import claims
    from batches.run.outcomes import failure

    add_model()
    mine, theirs = submitted(lines("mine", 2)), submitted(lines("theirs", 2))
    claims.claim(mine.pk, gpu.worker.pk), claims.claim(theirs.pk, uuid.uuid4())
    entries = [
        commit.Entry(batch.pk, [failure(one.pk, "x", "a\0b" if one.line == 1 else "y") for one in batch.requests.all()])
        for batch in (mine, theirs)
    ]
    signals = commit.commit_all(gpu.worker.pk, [*entries, commit.Entry("batch_none")])
    assert [signals[pk].lost for pk in (mine.pk, theirs.pk, "batch_none")] == [False, True, True]
    assert (fresh(mine).failed, fresh(theirs).failed) == (2, 0)
    assert {one.error_code for one in mine.requests.all()} == {"x", "invalid_response"}
    assert sum(one.failed for one in mine.activity.all()) == 2 and not theirs.activity.exists()


def test_a_poison_line_among_four_batches_fails_alone(add_model, submitted, gpu, close):
    add_model(**{"max-num-seqs": 16, "latency-ms": 50})
    batches = [submitted(lines(f"b{n}", 200)) for n in range(3)]
    batches.append(submitted([*lines("bad", 100), line("poison", "[[crash]]"), *lines("more", 99)]))
    gpu.serve()
    for batch in batches[:3]:
        good, bad = close(batch)
        assert len(good) == 200 and not bad
    good, bad = close(batches[3])
    assert [one["custom_id"] for one in bad] == ["poison"] and bad[0]["error"]["code"] == "engine_crashed"
    assert len(good) == 199
    said = [event.message for batch in batches for event in batch.events.filter(message__startswith="The engine died")]
    assert any("of this batch, and others, in flight" in one for one in said), said
    assert not [one for one in said if batches[3].pk in one], "nobody is told of another's batch"


def test_what_has_seen_a_death_does_not_wait_for_ever(add_model, submitted, serving, close, monkeypatch, home):
    """Others come all the time, and their requests go before it; but after some windows it has its turn."""
    from batches.run import share

    monkeypatch.setattr(share, "SUSPECTS_WAIT", 4)
    add_model(**{"max-num-seqs": 4, "latency-ms": 20})
    suspects = submitted([*lines("first", 4), line("once", f"[[crash-times 1 {home}/once]]")])
    stream = submitted(lines("stream", 1000))
    serving()
    until(lambda: fresh(suspects).status == BatchStatus.FINALIZING)
    assert fresh(stream).pending > 200, "it has not waited for all of them"
    assert len(close(suspects)[0]) == 5
    fresh(stream).request_cancel()


def test_an_error_of_one_batch_does_not_touch_the_others(add_model, submitted, gpu, close, monkeypatch):
    add_model(**{"max-num-seqs": 8, "latency-ms": 10})
    odd, fine = submitted(lines("odd", 20)), submitted(lines("fine", 20))
    real = engine_run.outcome

    def outcome(request, answer, model):
        if b"odd 7 " in answer.body:
            raise ZeroDivisionError
        return real(request, answer, model)

    monkeypatch.setattr(engine_run, "outcome", outcome)
    gpu.serve()
    assert len(close(fine)[0]) == 20
    assert "ZeroDivisionError" in fresh(odd).events.last().message and fresh(odd).leased_by is None
    assert fresh(odd).stumbles == 1


def test_all_of_them_leave_in_a_pause_and_go_on(add_model, submitted, serving, gpu, close, monkeypatch):
    monkeypatch.setattr(engine_run, "LOOK_SECONDS", 0.1)
    add_model(**{"max-num-seqs": 4, "latency-ms": 100})
    batches = [submitted(lines(f"b{n}", 300)) for n in range(3)]
    thread = serving()
    until(lambda: all(fresh(batch).completed for batch in batches))
    pauses.pause("me")
    thread.join(30)
    assert not Batch.objects.running().exists() and all(fresh(batch).pending for batch in batches)
    pauses.resume("me")
    gpu.serve()
    assert all(len(close(batch)[0]) == 300 for batch in batches)


def test_other_work_that_is_more_urgent_displaces_only_what_is_less_so(add_model, submitted, serving, close, gpu):
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    add_model("other")
    high, low = submitted(lines("high", 150), priority=5), submitted(lines("low", 150))
    serving()
    until(lambda: fresh(high).completed > 5)
    other = submitted([line("x", model="other")], priority=1)
    until(lambda: fresh(other).status == BatchStatus.FINALIZING, 60)
    assert fresh(high).status == BatchStatus.FINALIZING, "it goes on to its end before that"
    assert fresh(low).pending > 100
    assert len(close(high)[0]) == 150 and high.attempts == 1
    until(lambda: fresh(low).status == BatchStatus.FINALIZING, 60)
    close(low)


def test_nobody_new_joins_while_other_work_is_due(add_model, submitted, serving, close):
    """Work for another engine that has waited too long ends the turn, however many come for this one."""
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    add_model("other")
    first = submitted(lines("first", 700))
    serving()
    until(lambda: fresh(first).completed > 5)
    other = submitted([line("x", model="other")])
    Batch.objects.filter(pk=other.pk).update(validated_at=timezone.now() - timedelta(hours=5))
    time.sleep(2 * engine_run.LOOK_SECONDS)
    late = submitted(lines("late", 5))
    until(lambda: fresh(late).status == BatchStatus.FINALIZING, 60)
    assert fresh(first).attempts == 1
    assert fresh(first).finalizing_at < fresh(other).in_progress_at < fresh(late).in_progress_at
    close(first), close(other), close(late)


def test_places_are_kept_while_somebody_asks_the_engine_directly(add_model, submitted, serving, gpu, monkeypatch):
    monkeypatch.setattr(engine_run, "LOOK_SECONDS", 0.1)
    add_model(**{"max-num-seqs": 20, "latency-ms": 300})
    batch = submitted(lines("a", 2000))
    serving()
    until(lambda: fresh(batch).in_flight and fresh(batch).in_flight >= 25)
    Worker.objects.filter(pk=gpu.worker.pk).update(asked_at=timezone.now())
    until(lambda: fresh(batch).in_flight == 18)
    fresh(batch).request_cancel()

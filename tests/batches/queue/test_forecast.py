"""When batches that wait will start and end, and what is said where that is not known."""

import random
import threading
import time
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches.api import wire
from batches.finish import outputs
from batches.intake import ingest
from batches.models import Batch, BatchStatus, RequestState
from batches.queue import forecast, order, pauses, snapshot
from batches.run import claims, commit
from batches.run.outcomes import Outcome, failure
from batches.run.pace import Pace
from batches.run.workload import BatchesWorkload
from models_registry.gpu import operations
from models_registry.gpu.arbiter import choose
from models_registry.models import Alias, Measurement, Worker
from models_registry.speed import speeds
from tests.batches.api.test_expected import created
from tests.batches.waiting import (
    FOREVER,
    lines,
    model,
    one_at_a_time,  # noqa: F401
)
from tests.engines import line


def since(now, forecast):
    return tuple(
        None if one is None else round((one - now).total_seconds(), 3)
        for one in (forecast.start_at, forecast.completion_at)
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_what_the_worker_will_do(seed, queued, worker, settings):
    """The queue in the tables is emptied as the worker would: its source says what waits, the arbiter chooses, and what
    the loaded engine serves is run together, one request at a time."""
    settings.VBS_MAX_WAIT_MINUTES = 10**6
    chance = random.Random(seed)
    paces = {name: chance.randint(1, 9) / 4 for name in "abc"}
    loads = {name: float(chance.randint(5, 50)) for name in "abc"}
    models = {name: model(name, paces[name], loads[name]) for name in "abc"}
    tuned = model("tuned", 0.5, base=models["a"])
    Alias.objects.create(name="@best", model=tuned)
    engines = {"@best": "a"}
    for _ in range(14):
        names = chance.sample(["a", "b", "c", "@best"], k=chance.choice([1, 1, 1, 2, 3]))
        queued(
            *[(name, chance.randint(1, 9)) for name in names],
            waited=chance.uniform(0, 100),
            priority=chance.choice([0, 0, 5]) if len(names) == 1 else 0,
        )
    loaded = chance.choice("abc")
    worker.set(model_name=loaded)
    found = forecast.plan()
    assert len(found) == 14 and not any(one.why for one in found.values())

    clock, start, end = 0.0, {}, {}

    def chosen():
        return choose(BatchesWorkload().waiting(loaded), loaded, timezone.now(), timezone.now(), FOREVER)

    while work := chosen():
        clock += loads[work.model] if work.model != loaded else 0
        loaded, left, pace = work.model, {}, {}
        while work and work.model == loaded:
            batch, requests = claims.claim(work.id, worker.pk), 0
            left[batch] = 0.0
            for index, name in enumerate(batch.model_names):
                rows = batch.requests.filter(model_index=index, state=RequestState.PENDING)
                if engines.get(name, name) == loaded and (count := rows.update(state=RequestState.COMPLETED)):
                    requests += count
                    left[batch] += count * paces.get(name, 0.5)
                    Batch.objects.filter(pk=batch.pk).update(completed=F("completed") + count)
            pace[batch] = left[batch] / requests  # each request has as many tokens, so who is slower has more time
            work = chosen()
        members = list(left)
        while left:
            top = max(batch.priority for batch in left)
            senders = [batch for batch in left if batch.priority == top]
            whole = sum(pace[batch] for batch in senders)
            step = min(left[batch] * whole / pace[batch] for batch in senders)
            clock += step
            for batch in senders:
                start.setdefault(batch.pk, clock - step)
                left[batch] -= step * pace[batch] / whole
                end[batch.pk] = clock
            left = {batch: seconds for batch, seconds in left.items() if seconds > 1e-9}
        for batch in members:
            batch.refresh_from_db()
            batch.release(worker.pk)
            if not batch.pending:
                Batch.objects.filter(pk=batch.pk).update(status=BatchStatus.COMPLETED)
    assert len(end) == 14
    origin = min(one.start_at for one in found.values()) - timedelta(seconds=min(start.values()))
    longest = max(paces.values())  # of a request
    for pk, one in found.items():
        assert since(origin, one) == pytest.approx((start[pk], end[pk]), abs=2 * longest), pk


def test_of_a_model_never_measured_it_says_so(queued, worker):
    model("new")
    model("known", 0.5, 10.0)
    known, new = queued(("known", 20), waited=3), queued(("new", 3), waited=2)
    behind, worse = queued(("known", 2), priority=-1), queued(("new", 2), priority=-2)
    found = forecast.plan()
    assert (found[known.pk].seconds, found[known.pk].measurements, found[known.pk].why) == (10.0, 1, "")
    assert (found[new.pk].seconds, found[new.pk].measurements, found[new.pk].start_at) == (None, 0, None)
    assert found[new.pk].why == "new has never been measured."
    assert (found[behind.pk].seconds, found[behind.pk].start_at) == (1.0, None)
    assert "new " in found[behind.pk].why and "never been measured" in found[behind.pk].why
    assert found[worse.pk].why == "new has never been measured."


UNLIMITED = "How long known takes for answers without a limit has never been measured."


def test_answers_without_a_limit_are_not_told_by_those_that_have_one(queued, worker, settings):
    known = model("known", 0.5, 10.0)
    batch, behind = queued(("known", 20), unlimited=5, waited=1), queued(("known", 2))
    found = forecast.plan()
    assert (found[batch.pk].seconds, found[batch.pk].completion_at, found[batch.pk].why) == (None, None, UNLIMITED)
    assert found[batch.pk].start_at and (found[behind.pk].why, found[behind.pk].seconds) == ("", 1.0)
    assert since(found[batch.pk].start_at, found[behind.pk])[1] == pytest.approx(2, abs=0.5), "half of it"
    settings.VBS_DEFAULT_MAX_TOKENS = 100
    snapshot.forget()
    assert (forecast.of(batch).seconds, forecast.of(batch).why) == (10.0, ""), "they have one"
    settings.VBS_DEFAULT_MAX_TOKENS = 0
    Measurement.objects.create(model=known, kind="batch", requests=4, unlimited=4, seconds=120, output_tokens=9)
    snapshot.forget()
    assert (forecast.of(batch).seconds, forecast.of(batch).why) == (pytest.approx(15 * 0.5 + 5 * 30), "")
    assert forecast.of(behind).seconds == 1.0, "those of others are as they were"


def test_answers_without_a_limit_are_told_by_the_batch_s_own_pace(queued, worker):
    model("known", 0.5, 10.0)
    worker.set(model_name="known")
    runs = leased(queued(("known", 20), unlimited=20), worker, attempts=1)
    assert (forecast.of(runs).seconds, forecast.of(runs).why) == (None, UNLIMITED)
    leased(runs, worker, completed=4, in_flight=1, in_flight_seconds=45.0)
    snapshot.forget()
    assert (forecast.of(runs).seconds, forecast.of(runs).why) == (pytest.approx(15 * 10 + 10), "")


def test_a_turn_measures_answers_without_a_limit(add_model, submitted, gpu, close, settings):
    """From the lines to the next estimate."""
    model = add_model()
    batch = submitted([line("a", max_tokens=2), line("b", max_tokens=None), line("c")])
    gpu.serve()
    written = {one["custom_id"]: one["response"]["body"]["usage"]["completion_tokens"] for one in close(batch)[0]}
    measured = Measurement.objects.get(model=model, kind="batch")
    assert (measured.requests, measured.unlimited) == (3, 2)
    assert measured.unlimited_tokens == written["b"] + written["c"] == measured.output_tokens - written["a"]
    settings.VBS_DEFAULT_MAX_TOKENS = 2
    again = submitted([line("a")])
    gpu.serve()
    close(again)
    assert Measurement.objects.get(batch_id=again.pk).unlimited == 0, "it had a limit"


def test_while_it_runs_it_is_known_since_when_the_oldest_is_in_flight(add_model, submitted, worker):
    add_model()
    batch = submitted([line("a")])
    claims.claim(batch.pk, worker.pk)
    commit.commit(batch.pk, worker.pk, [], Pace(oldest=40.0))
    batch.refresh_from_db()
    assert (timezone.now() - batch.oldest_sent_at).total_seconds() == pytest.approx(40, abs=5)
    commit.commit(batch.pk, worker.pk, [], Pace())
    batch.refresh_from_db()
    assert batch.oldest_sent_at is None
    commit.commit(batch.pk, worker.pk, [], Pace(oldest=40.0))
    batch.release(worker.pk)
    claims.claim(batch.pk, worker.pk)
    batch.refresh_from_db()
    assert batch.oldest_sent_at is None, "of its turn before"


def test_a_retry_has_as_many_without_a_limit_as_the_batch_before(add_model, submitted, worker):
    add_model()
    before = submitted([line("a", max_tokens=1), line("b"), line("c"), line("d")])
    claims.claim(before.pk, worker.pk)
    first = before.requests.get(line=1)
    commit.commit(before.pk, worker.pk, [failure(one.pk, "x", "y") for one in before.requests.exclude(pk=first.pk)])
    commit.commit(before.pk, worker.pk, [Outcome(first.pk, RequestState.COMPLETED, 200, "{}", None)])
    before.finish(worker.pk)
    outputs.finalize(before.pk)
    before.refresh_from_db()
    retry = before.retry()
    ingest.validate(retry.pk)
    retry.refresh_from_db()
    assert (before.unlimited, retry.total, retry.unlimited) == (3, 3, 3)


def test_a_model_that_is_not_ready_holds_nobody_up(queued, worker):
    model("coming", 1.0, 1.0, state="downloading")
    model("broken", 1.0, 1.0, state="failed", reason="no weights")
    model("here", 1.0, 1.0)
    coming, both = queued(("coming", 1), waited=9), queued(("here", 1), ("coming", 1), waited=8)
    broken, gone = queued(("broken", 1), waited=7), queued(("gone", 1), waited=6)
    partly, here = queued(("here", 4), ("broken", 1), waited=5), queued(("here", 2))
    found = forecast.plan()
    assert "coming" in found[coming.pk].why and "coming" in found[both.pk].why
    assert "model show broken' says why" in found[broken.pk].why and "'gone'" in found[gone.pk].why
    for one in (coming, both, broken, gone):
        assert found[one.pk].start_at is None and found[one.pk].completion_at is None
    assert found[partly.pk].seconds == 4.0 and "model show broken' says why" in found[partly.pk].why
    assert not any("no weights" in one.why for one in found.values()), "which may name folders and addresses"
    assert found[here.pk].start_at == found[partly.pk].start_at, "they run together"
    assert since(found[here.pk].start_at, found[partly.pk])[1] == pytest.approx(4.0 + 2.0)


def leased(batch, worker, **fields):
    until = timezone.now() + timedelta(seconds=30)
    Batch.objects.filter(pk=batch.pk).update(
        **{"leased_by": worker.pk, "leased_until": until, "status": "in_progress", "in_progress_at": timezone.now()}
        | fields
    )
    batch.refresh_from_db()
    return batch


def test_of_what_runs_what_is_overdue_counts(queued, worker):
    """Until it is so late that nobody knows: then the time left does not grow for ever."""
    known = model("known", 1.0, 10.0)
    Measurement.objects.filter(model=known).update(latency_p99=5.0)
    worker.set(model_name="known")
    runs = leased(queued(("known", 0), total=1000), worker, completed=999, in_flight=1)
    behind = queued(("known", 3), priority=-1)
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(2, abs=1)
    leased(runs, worker, oldest_sent_at=timezone.now() - timedelta(seconds=50))
    snapshot.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(45, abs=3)
    leased(runs, worker, oldest_sent_at=timezone.now() - timedelta(minutes=5))
    snapshot.forget()
    shown = wire.batch_object(runs)
    assert shown["progress"]["eta_seconds"] is None and shown["estimated_completion_at"] is None
    assert shown["estimate"]["reason"] == "A request has been in flight for 5 min, far longer than answers take."
    assert "far longer than answers take" in forecast.of(behind).why, "it waits for that"


def test_no_end_is_told_while_the_request_that_kills_engines_is_looked_for(queued, worker):
    model("known", 1.0, 10.0)
    worker.set(model_name="known")
    runs = leased(queued(("known", 0), total=100), worker, completed=90, in_flight_seconds=90.0, deaths=1)
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(10, abs=2), "it may have been the engine's own fault"
    leased(runs, worker, deaths=2)
    snapshot.forget()
    shown = wire.batch_object(runs)
    assert shown["progress"]["eta_seconds"] is None
    assert shown["estimate"]["reason"] == snapshot.SEARCHING
    leased(runs, worker, deaths=0)
    snapshot.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(10, abs=2)


def test_deaths_are_known_of_a_batch_as_long_as_a_request_that_has_seen_them_is_left(add_model, submitted, worker):
    add_model()
    batch = submitted([line("a"), line("b")])
    claims.claim(batch.pk, worker.pk)
    rows = [one.pk for one in batch.requests.all()]

    def deaths(given=None):
        commit.commit(batch.pk, worker.pk, [], Pace(deaths=given))
        batch.refresh_from_db()
        return batch.deaths

    assert deaths() == 0
    commit.mark_crashed(batch.pk, worker.pk, rows)
    assert deaths() == 1
    commit.mark_crashed(batch.pk, worker.pk, rows[:1])
    assert deaths() == 2, "of the one that has seen the most"
    commit.mark_crashed(batch.pk, worker.pk, [])
    assert deaths() == 2 and deaths(1) == 1 and deaths() == 1 and deaths(0) == 0


def test_of_what_runs_the_rest_is_as_measured_and_as_it_goes(queued, worker):
    known = model("known", 1.0, 10.0)
    worker.set(model_name="known")
    began = timezone.now() - timedelta(seconds=160)
    runs = leased(queued(("known", 0), total=1000), worker, completed=150, failed=10, in_flight_seconds=160.0)
    leased(runs, worker, in_flight=1, in_progress_at=began, oldest_sent_at=timezone.now(), last_sent_at=timezone.now())
    later = queued(("known", 1), priority=-1)
    shown = wire.batch_object(runs)
    assert shown["progress"]["eta_seconds"] == pytest.approx(840, abs=10)
    assert shown["estimate"]["starts_in_seconds"] == 0 and shown["estimate"]["requests"] == 840
    assert since(forecast.of(later).start_at, forecast.of(runs))[1] == pytest.approx(1.0, abs=0.1), "its last answer"
    leased(runs, worker, in_progress_at=began - timedelta(seconds=160), in_flight_seconds=320.0)
    snapshot.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(2 * 840, abs=30), "it is half as fast as it was"
    leased(runs, worker, in_progress_at=began - timedelta(hours=1), attempts=2)
    snapshot.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(2 * 840, abs=30), "that it has waited changes nothing"
    Measurement.objects.filter(model=known).delete()
    snapshot.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(2 * 840, abs=10)
    leased(runs, worker, in_flight_seconds=0.0)
    snapshot.forget()
    shown = wire.batch_object(runs)
    assert shown["progress"]["eta_seconds"] is None and shown["estimated_completion_at"] is None
    assert shown["estimate"]["reason"] == "known has never been measured."


def test_when_another_joins_or_leaves_the_time_left_follows_at_once(queued, worker):
    model("known", 1.0, 10.0)
    worker.set(model_name="known")
    ago = timezone.now() - timedelta(seconds=100)

    def running(name, answered, spent, **fields):
        batch = queued((name, 0), total=answered + 200)
        fields |= {"in_flight": 1, "oldest_sent_at": timezone.now(), "last_sent_at": timezone.now()}
        return leased(batch, worker, completed=answered, in_progress_at=ago, in_flight_seconds=spent, **fields)

    alone = running("known", 100, 100.0)
    assert wire.progress(alone)["eta_seconds"] == pytest.approx(200, abs=5)
    other = running("known", 50, 50.0)
    snapshot.forget()
    for batch in (alone, other):
        assert wire.progress(batch)["eta_seconds"] == pytest.approx(400, abs=10), "each has half of the engine"
    Batch.objects.filter(pk=other.pk).update(priority=1)
    snapshot.forget()
    assert wire.progress(other)["eta_seconds"] == pytest.approx(200, abs=5)
    assert wire.progress(alone)["eta_seconds"] == pytest.approx(400, abs=10)
    Batch.objects.get(pk=other.pk).release(worker.pk)
    Batch.objects.filter(pk=other.pk).update(status=BatchStatus.CANCELLED)
    snapshot.forget()
    assert wire.progress(alone)["eta_seconds"] == pytest.approx(200, abs=5)


def test_a_first_window_in_flight_is_not_told_by_the_pace_of_a_few(queued, worker, monkeypatch):
    """30 requests took 6 s together, 0.2 s each; of 1,000 in a window of 160 none has ended after 3 s."""
    monkeypatch.setattr(speeds, "WINDOW", 160)
    known = model("known", load=10.0)
    latencies = {"latency_p50": 6.0, "latency_p99": 6.0, "latency_mean": 6.0}
    Measurement.objects.create(model=known, kind="batch", requests=30, seconds=6.0, input_tokens=1, **latencies)
    worker.set(model_name="known")
    now = timezone.now() - timedelta(seconds=3)
    runs = leased(queued(("known", 0), total=1000), worker, in_flight=160, in_progress_at=now, oldest_sent_at=now)
    assert 20 < wire.progress(runs)["eta_seconds"] < 80, (
        "seven windows of 6 s to 9 s each; by the pace of 0.2 s it was 197"
    )


def test_while_the_queue_is_paused_nothing_is_known_but_the_order(queued, worker):
    model("known", 1.0, 10.0)
    first, second = queued(("known", 3), waited=5), queued(("known", 3))
    pauses.pause("somebody")
    found = forecast.plan()
    for batch in (first, second):
        assert (found[batch.pk].start_at, found[batch.pk].completion_at) == (None, None)
        assert (found[batch.pk].why, found[batch.pk].seconds) == ("The queue is paused.", 3.0)
    assert [turn.id for turn in order.placements()] == [first.pk, second.pk]
    pauses.resume("somebody")
    snapshot.forget()
    assert forecast.of(second).completion_at and not forecast.of(second).why


def test_operations_have_their_places(queued, worker):
    known = model("known", 1.0, 10.0)
    first, last = queued(("known", 3), waited=5), queued(("known", 3))
    Batch.objects.filter(pk=last.pk).update(validated_at=timezone.now() + timedelta(seconds=5))
    asked = operations.ask("load", known)
    urgent = operations.ask("test", known, now=True)
    assert [turn.id for turn in order.placements()] == [urgent.pk, first.pk, asked.pk, last.pk]
    assert set(forecast.plan()) == {first.pk, last.pk}


def test_a_worker_that_is_dead_or_that_waits_is_not_counted_on(queued, worker):
    model("known", 1.0, 10.0)
    batch = queued(("known", 1))
    worker.set(activity="The GPU has 95 °C")
    assert "95 °C" in forecast.of(batch).why and forecast.of(batch).start_at is None
    worker.set(activity="")
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    snapshot.forget()
    assert forecast.of(batch).why == "No GPU worker is running."


def queries(step):
    with CaptureQueriesContext(connection) as found:
        step()
    return len(found)


def test_the_number_of_queries_is_constant(queued, worker):
    for name in "ab":
        model(name, 1.0, 1.0)
    queued(("a", 1), ("b", 1))
    few = queries(forecast.plan)
    for number in range(20):
        model(f"m{number}", 1.0, 1.0)
        queued(("a", 1), ("b", 1))
        queued((f"m{number}", 1))
    snapshot.forget()
    assert queries(forecast.plan) == few <= 10
    assert queries(forecast.plan) == 0
    assert len(forecast.plan()) == 41


def test_requests_for_several_models_are_counted_up_to_a_limit(queued, worker, monkeypatch):
    monkeypatch.setattr(snapshot, "COUNTED", 5)
    for name in "ab":
        model(name, 1.0, 1.0)
    first, second = queued(("a", 2), ("b", 2), waited=2), queued(("a", 2), ("b", 2), waited=1)
    found = forecast.plan()
    assert found[first.pk].seconds == 4.0
    assert found[second.pk].seconds is None and "not counted" in found[second.pk].why


def test_only_the_first_of_a_long_queue_are_looked_at(queued, worker, monkeypatch, project, stored):
    monkeypatch.setattr(snapshot, "MOST", 2)
    model("a", 1.0, 1.0)
    batches = [queued(("a", 1), waited=9 - number) for number in range(3)]
    assert list(forecast.plan()) == [one.pk for one in batches[:2]]
    assert "more than 2 are" in forecast.of(batches[2]).why
    new = forecast.of_new(created(project, stored(lines(3, "a"))))
    assert (new.seconds, new.start_at) == (3.0, None) and "More than 2 batches" in new.why


def test_many_threads_work_it_out_once(queued, worker, monkeypatch):
    made = []
    real = snapshot.QueueSnapshot

    def slow():
        made.append(1)
        time.sleep(0.05)
        return real()

    monkeypatch.setattr(snapshot, "QueueSnapshot", slow)
    found = []

    def ask():
        found.append(forecast.plan())
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    [one.start() for one in threads]
    [one.join() for one in threads]
    assert len(found) == 8 and len(made) == 1


def test_a_remote_model_runs_beside_the_gpu_also_while_that_is_too_hot(queued, worker):
    model("known", 1.0, 10.0)
    far = model("far", 0.5)
    type(far).objects.filter(pk=far.pk).update(kind="remote", source="https://far.example/v1")
    worker.set(model_name="known")
    here, there, urgent = queued(("known", 30), waited=9), queued(("far", 20), waited=5), queued(("far", 4), priority=1)
    found = forecast.plan()
    assert found[here.pk].start_at == found[urgent.pk].start_at, "neither waits for the other"
    assert since(found[here.pk].start_at, found[here.pk])[1] == pytest.approx(30)
    assert since(found[here.pk].start_at, found[urgent.pk])[1] == pytest.approx(2)
    assert since(found[here.pk].start_at, found[there.pk])[1] == pytest.approx(12, abs=0.5)
    worker.set(activity="The GPU has 95 °C", lanes=[{"model": "far", "window": 10}])
    leased(there, worker, in_progress_at=None)
    snapshot.forget()
    found = forecast.plan()
    assert "95 °C" in found[here.pk].why and found[here.pk].start_at is None
    assert found[urgent.pk].completion_at and found[there.pk].completion_at
    assert since(found[there.pk].start_at, found[there.pk])[1] < 5, "ten at once, as its lane has now"


def test_the_window_is_the_one_that_the_worker_has_now(queued, worker):
    model("known", 1.0, 10.0)
    worker.set(model_name="known", health={"window": {"size": 4, "usual": 1, "why": "its queue ran dry with less"}})
    batch = queued(("known", 400))
    assert forecast.of(batch).seconds < 200, "of 400 where one runs at a time"

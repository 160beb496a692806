"""When batches start and end: against the arbiter itself, with reasons where nothing was measured, and on the wire."""

import json
import random
import threading
import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.core.files.base import ContentFile
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches.api import wire
from batches.files import blobs
from batches.files import store as files
from batches.finish import outputs
from batches.intake import ingest, sample, submit
from batches.management.commands.batch import expected
from batches.models import CANDIDATES, OF_A_KIND, Batch, BatchRequest, BatchStatus, File, RequestState
from batches.queue import forecast, pauses
from batches.queue.simulation import Segment, SimulatedWork, SimulatedWorker, simulate
from batches.run import claims, commit
from batches.run.outcomes import Outcome, failure
from batches.run.pace import Pace
from batches.run.workload import BatchesWorkload
from models_registry.gpu import operations
from models_registry.gpu.arbiter import choose
from models_registry.models import Alias, Measurement, Model, Worker
from models_registry.speed import speeds
from models_registry.workloads import Work
from tests.engines import CHAT, line
from vbs.accounts.models import Project

FOREVER = timedelta(days=365)
NOW = datetime(2026, 1, 1, tzinfo=timezone.get_fixed_timezone(0))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(speeds, "WINDOW", 1)  # one request after the other: a batch takes requests times pace
    forecast.forget()
    yield
    forecast.forget()


# The queue played through, against the arbiter itself


def brute(jobs, loaded, loads, now, patience):
    """Ask the arbiter about everything that waits, again and again."""
    left = {job.id: list(job.parts) for job in jobs}
    start, end, loaded_at = {}, {}, now
    while waiting := [job for job in jobs if left[job.id]]:
        works = []
        for job in waiting:
            part = next((part for part in left[job.id] if part.engine == loaded), left[job.id][0])
            works.append(Work(part, job.id, part.engine, job.priority, job.since, job.deadline))
        work = choose(works, loaded, loaded_at, now, patience)
        left[work.id].remove(work.source)
        if work.model != loaded:
            now += timedelta(seconds=loads[work.model])
            loaded_at = now
        loaded = work.model
        start.setdefault(work.id, now)
        now += timedelta(seconds=work.source.seconds)
        end[work.id] = now
    return {job.id: (start[job.id], end[job.id]) for job in jobs}, list(start)


def random_jobs(random, count, engines, priorities, several):
    jobs = []
    for number in range(count):
        names = random.sample(engines, k=random.randint(1, several))
        parts = tuple(Segment(name, float(random.randint(1, 900))) for name in names)
        since = NOW - timedelta(seconds=random.choice([0, random.randint(0, 5000)]))
        deadline = NOW + random.choice([FOREVER, timedelta(seconds=random.randint(0, 20_000))])
        jobs.append(SimulatedWork(f"{number:04}", random.randint(0, priorities), since, deadline, parts))
    return jobs


@pytest.mark.parametrize("patience", [FOREVER, timedelta(minutes=30)], ids=["no ageing", "with ageing"])
@pytest.mark.parametrize("seed", range(25))
def test_it_is_what_the_arbiter_does(seed, patience):
    chance = random.Random(seed)
    engines = [f"m{number}" for number in range(chance.randint(1, 5))]
    loads = {name: float(chance.randint(0, 300)) for name in engines}
    jobs = random_jobs(chance, chance.randint(1, 60), engines, chance.choice([0, 3]), min(len(engines), 3))
    loaded = chance.choice(["", *engines])
    played = simulate(jobs, [SimulatedWorker(loaded)], loads, NOW, patience)
    times, order = brute(jobs, loaded, loads, NOW, patience)
    assert {one: (found.start, found.end) for one, found in played.times.items()} == times
    assert [turn.id for turn in played.order] == order
    assert not any(found.why for found in played.times.values())


def job(name, engine="a", seconds=10.0, priority=0, waited=0, parts=None, why=""):
    parts = parts or (Segment(engine, seconds, why),)
    return SimulatedWork(name, priority, NOW - timedelta(seconds=waited), NOW + FOREVER, tuple(parts))


def seconds_of(found):
    return {
        name: tuple(None if one is None else (one - NOW).total_seconds() for one in (times.start, times.end))
        for name, times in found.items()
    }


LOADS = {"a": 100.0, "b": 200.0}


def test_what_runs_goes_first_unless_something_more_urgent_waits():
    jobs = [job("runs", "b"), job("waits", "a", waited=99)]
    found = simulate(jobs, [SimulatedWorker("b", "runs")], LOADS, NOW, FOREVER).times
    assert seconds_of(found) == {"runs": (0, 10), "waits": (110, 120)}
    jobs[1] = job("waits", "a", priority=1)
    found = simulate(jobs, [SimulatedWorker("b", "runs")], LOADS, NOW, FOREVER).times
    assert seconds_of(found) == {"waits": (100, 110), "runs": (310, 320)}


def test_two_workers_share_the_queue():
    jobs = [job(name, "a", waited=9 - number) for number, name in enumerate("wxyz")]
    found = simulate(jobs, [SimulatedWorker("a"), SimulatedWorker("a")], LOADS, NOW, FOREVER).times
    assert seconds_of(found) == {"w": (0, 10), "x": (0, 10), "y": (10, 20), "z": (10, 20)}


def test_behind_what_is_not_known_nothing_is_known_and_it_says_what():
    jobs = [
        job("first", "a", waited=3),
        job("new", "b", None, waited=2, why="b has never been measured."),
        job("behind", "c", waited=1),
        job("new too", "d", None, why="d has never been measured."),
    ]
    found = simulate(jobs, [SimulatedWorker("a")], {**LOADS, "c": 1.0, "d": 1.0}, NOW, FOREVER).times
    assert seconds_of(found) == {
        "first": (0, 10), "new": (210, None), "behind": (None, None), "new too": (None, None)
    }  # fmt: skip
    assert found["new"].why == "b has never been measured." and not found["first"].why
    assert "b has never been measured." in found["behind"].why
    assert found["new too"].why == "d has never been measured."


def test_a_time_to_load_that_is_not_known_is_not_guessed():
    found = simulate(
        [job("x", "new"), job("y", "a")], [SimulatedWorker("a")], {**LOADS, "new": None}, NOW, FOREVER
    ).times
    assert seconds_of(found) == {"y": (0, 10), "x": (None, None)}
    assert found["x"].why == "How long new takes to load has never been measured."


def test_the_second_model_of_a_batch_may_be_the_one_that_is_not_known():
    parts = (Segment("a", 10.0), Segment("b", None, "b has never been measured."))
    found = simulate([job("x", parts=parts)], [SimulatedWorker("a")], LOADS, NOW, FOREVER).times
    assert seconds_of(found) == {"x": (0, None)} and "b has never" in found["x"].why


def test_without_a_worker_nothing_starts():
    found = simulate([job("x")], [], LOADS, NOW, FOREVER).times
    assert seconds_of(found) == {"x": (None, None)} and found["x"].why == "No GPU worker is running."


def reasons(jobs, slots, loads=LOADS):
    found = simulate(jobs, slots, loads, NOW, timedelta(minutes=30), loaded="a")
    return [(turn.id, turn.reason.name.lower() + (" passed" if turn.passed else "")) for turn in found.order]


def test_each_has_a_reason_to_be_where_it_is():
    due = replace(job("due", "b", waited=1), deadline=NOW + timedelta(minutes=5))
    jobs = [
        job("low", priority=-1, waited=500), job("old", "b", waited=300), job("here", waited=9), due,
        job("same", "b"), job("overdue", "c", waited=1900), job("urgent", "a", priority=5),
    ]  # fmt: skip
    expected = [
        ("urgent", "priority"), ("overdue", "waited passed"), ("due", "deadline passed"), ("old", "arrival passed"),
        ("same", "loaded"), ("here", "priority passed"), ("low", "arrival passed"),
    ]  # fmt: skip
    found = reasons(jobs, [SimulatedWorker("a")], dict.fromkeys("abc", 1.0))
    assert [one for one, _ in found] == [one for one, _ in expected]
    assert found == expected


def test_the_order_is_known_where_the_times_are_not():
    jobs = [job("first", "a", None, waited=3), job("other", "b", waited=2), job("same", "a", waited=1)]
    expected = [("first", "arrival"), ("same", "loaded"), ("other", "arrival")]
    assert reasons(jobs, [SimulatedWorker("a")]) == reasons(jobs, []) == expected


def test_what_runs_is_not_in_the_order_and_an_operation_is():
    asked = SimulatedWork("asked", 0, NOW, None, (Segment("new", 0.0),), uncounted=True)
    jobs = [job("runs", waited=9), job("waits", "b", waited=1), asked]
    found = simulate(jobs, [SimulatedWorker("a", "runs")], LOADS, NOW, FOREVER)
    assert [turn.id for turn in found.order] == ["waits", "asked"]
    assert seconds_of(found.times)["waits"] == (210, 220)


def test_all_that_are_looked_at_take_no_time():
    most = CANDIDATES + 4 * OF_A_KIND
    jobs = random_jobs(random.Random(1), most, ["a", "b", "c", "d"], 3, 3)
    began = time.perf_counter()
    found = simulate(jobs, [SimulatedWorker("a")], dict.fromkeys("abcd", 9.0), NOW, timedelta(minutes=30)).times
    assert len(found) == most and time.perf_counter() - began < 1


# With the tables


def model(name, pace=None, load=None, **fields):
    """`pace`: seconds per request. `load`: seconds."""
    made = Model.objects.create(name=name, kind="scripted", **fields)
    if pace is not None:
        Measurement.objects.create(model=made, kind="batch", requests=100, seconds=100 * pace, input_tokens=1)
    if load is not None:
        Measurement.objects.create(model=made, kind="load", load_seconds=load)
    return made


@pytest.fixture
def worker(transactional_db):
    return Worker.objects.create(cluster="gpu", hostname="test", pid=1)


@pytest.fixture
def queued(project):
    """A batch in the queue, with so many requests for each of these models."""
    made = []

    def make(*counts, waited=0.0, **fields):
        now = timezone.now()
        batch = Batch.objects.create(
            project=project,
            input_file_id_given="x",
            endpoint=CHAT,
            completion_window="24h",
            expires_at=now + FOREVER,
            validated_at=now - timedelta(seconds=waited),
            model_names=[name for name, _ in counts],
            **{"total": sum(count for _, count in counts)} | fields,
        )
        rows = [index for index, (_, count) in enumerate(counts) for _ in range(count)]
        BatchRequest.objects.bulk_create(
            BatchRequest(
                batch=batch, line=number, offset=0, length=1, custom_id=f"{number}", model_index=index,
                prefix=uuid.UUID(int=0),
            )
            for number, index in enumerate(rows, 1)
        )  # fmt: skip
        made.append(batch)
        return batch

    return make


def since(now, forecast):
    return tuple(
        None if one is None else round((one - now).total_seconds(), 3)
        for one in (forecast.start_at, forecast.completion_at)
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_what_the_worker_will_do(seed, queued, worker, settings):
    """The queue in the tables is emptied as the worker would: its source says what waits, the arbiter chooses."""
    settings.VBS_MAX_WAIT_MINUTES = 10**6
    chance = random.Random(seed)
    paces = {name: chance.randint(1, 9) / 4 for name in "abc"}
    loads = {name: float(chance.randint(5, 50)) for name in "abc"}
    models = {name: model(name, paces[name], loads[name]) for name in "abc"}
    tuned = model("tuned", 0.5, base=models["a"])
    Alias.objects.create(name="@best", model=tuned)
    engines = {"tuned": "a", "@best": "a"}
    for _ in range(14):
        names = chance.sample(["a", "b", "c", "@best"], k=chance.choice([1, 1, 1, 2, 3]))
        queued(
            *[(name, chance.randint(1, 4)) for name in names],
            waited=chance.uniform(0, 100),
            priority=chance.choice([0, 0, 5]),
        )
    loaded = chance.choice("abc")
    worker.set(model_name=loaded)
    found = forecast.plan()
    assert len(found) == 14 and not any(one.why for one in found.values())

    clock, start, end = 0.0, {}, {}
    while work := choose(BatchesWorkload().waiting(loaded), loaded, timezone.now(), timezone.now(), FOREVER):
        batch = Batch.objects.get(pk=work.id)
        name = batch.model_names[work.segment]
        rows = batch.requests.filter(model_index=work.segment, state=RequestState.PENDING)
        count = rows.update(state=RequestState.COMPLETED)
        clock += loads[work.model] if work.model != loaded else 0
        loaded = work.model
        assert loaded == engines.get(name, name)
        start.setdefault(batch.pk, clock)
        clock += count * paces.get(name, 0.5)
        end[batch.pk] = clock
        Batch.objects.filter(pk=batch.pk).update(completed=F("completed") + count)
        batch.refresh_from_db()
        if not batch.pending:
            Batch.objects.filter(pk=batch.pk).update(status=BatchStatus.COMPLETED)
    assert len(end) == 14
    origin = min(one.start_at for one in found.values()) - timedelta(seconds=min(start.values()))
    for pk, one in found.items():
        assert since(origin, one) == pytest.approx((start[pk], end[pk]), abs=0.01), pk


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
    assert found[batch.pk].start_at and "without a limit" in found[behind.pk].why and found[behind.pk].seconds == 1.0
    settings.VBS_DEFAULT_MAX_TOKENS = 100
    forecast.forget()
    assert (forecast.of(batch).seconds, forecast.of(batch).why) == (10.0, ""), "they have one"
    settings.VBS_DEFAULT_MAX_TOKENS = 0
    Measurement.objects.create(model=known, kind="batch", requests=4, unlimited=4, seconds=120, output_tokens=9)
    forecast.forget()
    assert (forecast.of(batch).seconds, forecast.of(batch).why) == (pytest.approx(15 * 0.5 + 5 * 30), "")
    assert forecast.of(behind).seconds == 1.0, "those of others are as they were"


def test_answers_without_a_limit_are_told_by_the_batch_s_own_pace(queued, worker):
    model("known", 0.5, 10.0)
    worker.set(model_name="known")
    runs = leased(queued(("known", 20), unlimited=20), worker, attempts=1)
    assert (forecast.of(runs).seconds, forecast.of(runs).why) == (None, UNLIMITED)
    leased(runs, worker, requests_per_second=0.1)
    forecast.forget()
    assert (forecast.of(runs).seconds, forecast.of(runs).why) == (200.0, "")


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
    assert "model show broken says why" in found[broken.pk].why and "'gone'" in found[gone.pk].why
    for one in (coming, both, broken, gone):
        assert found[one.pk].start_at is None and found[one.pk].completion_at is None
    assert found[partly.pk].seconds == 4.0 and "model show broken says why" in found[partly.pk].why
    assert not any("no weights" in one.why for one in found.values()), "which may name folders and addresses"
    assert (found[here.pk].start_at - found[partly.pk].start_at).total_seconds() == pytest.approx(4.0)


def leased(batch, worker, **fields):
    until = timezone.now() + timedelta(seconds=30)
    Batch.objects.filter(pk=batch.pk).update(
        **{"leased_by": worker.pk, "leased_until": until, "status": "in_progress", "in_progress_at": timezone.now()}
        | fields
    )
    batch.refresh_from_db()
    return batch


def test_of_what_runs_what_is_overdue_counts(queued, worker):
    known = model("known", 1.0, 10.0)
    Measurement.objects.filter(model=known).update(latency_p99=5.0)
    worker.set(model_name="known")
    runs = leased(queued(("known", 0), total=1000), worker, completed=999, requests_per_second=0.0, attempts=2)
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(1, abs=1)
    leased(runs, worker, requests_per_second=1.0, oldest_sent_at=timezone.now() - timedelta(minutes=5))
    forecast.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(295, abs=3)


def test_of_what_runs_the_rest_is_as_measured_and_as_it_goes(queued, worker):
    known = model("known", 1.0, 10.0)
    worker.set(model_name="known")
    began = timezone.now() - timedelta(seconds=160)
    runs = leased(queued(("known", 0), total=1000), worker, completed=150, failed=10, requests_per_second=1.0)
    leased(runs, worker, attempts=1, in_progress_at=began, oldest_sent_at=timezone.now())
    waits = queued(("known", 1))
    shown = wire.batch_object(runs)
    assert shown["progress"]["eta_seconds"] == pytest.approx(840, abs=10)
    assert shown["estimate"]["starts_in_seconds"] == 0 and shown["estimate"]["requests"] == 840
    assert forecast.of(waits).start_at == forecast.of(runs).completion_at
    leased(runs, worker, in_progress_at=began - timedelta(seconds=160))
    forecast.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(2 * 840, abs=30), "it is half as fast as it was"
    leased(runs, worker, in_progress_at=began, attempts=2, requests_per_second=0.5)
    forecast.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(1.5 * 840, abs=10), "how long it ran before is not known"
    Measurement.objects.filter(model=known).delete()
    forecast.forget()
    assert wire.progress(runs)["eta_seconds"] == pytest.approx(840 * 2, abs=1)
    leased(runs, worker, requests_per_second=0.0)
    forecast.forget()
    shown = wire.batch_object(runs)
    assert shown["progress"]["eta_seconds"] is None and shown["estimated_completion_at"] is None
    assert shown["estimate"]["reason"] == "known has never been measured."


def test_a_first_window_in_flight_is_not_told_by_the_pace_of_a_few(queued, worker, monkeypatch):
    """30 requests took 6 s together, 0.2 s each; of 1,000 in a window of 160 none has ended after 3 s."""
    monkeypatch.setattr(speeds, "WINDOW", 160)
    known = model("known", load=10.0)
    latencies = {"latency_p50": 6.0, "latency_p99": 6.0, "latency_mean": 6.0}
    Measurement.objects.create(model=known, kind="batch", requests=30, seconds=6.0, input_tokens=1, **latencies)
    worker.set(model_name="known")
    now = timezone.now() - timedelta(seconds=3)
    runs = leased(queued(("known", 0), total=1000), worker, attempts=1, in_progress_at=now, oldest_sent_at=now)
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
    assert [turn.id for turn in forecast.order()] == [first.pk, second.pk]
    pauses.resume("somebody")
    forecast.forget()
    assert forecast.of(second).completion_at and not forecast.of(second).why


def test_operations_have_their_places(queued, worker):
    known = model("known", 1.0, 10.0)
    first, last = queued(("known", 3), waited=5), queued(("known", 3))
    Batch.objects.filter(pk=last.pk).update(validated_at=timezone.now() + timedelta(seconds=5))
    asked = operations.ask("load", known)
    urgent = operations.ask("test", known, now=True)
    assert [turn.id for turn in forecast.order()] == [urgent.pk, first.pk, asked.pk, last.pk]
    assert set(forecast.plan()) == {first.pk, last.pk}


def test_a_worker_that_is_dead_or_that_waits_is_not_counted_on(queued, worker):
    model("known", 1.0, 10.0)
    batch = queued(("known", 1))
    worker.set(activity="The GPU has 95 °C")
    assert "95 °C" in forecast.of(batch).why and forecast.of(batch).start_at is None
    worker.set(activity="")
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    forecast.forget()
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
    forecast.forget()
    assert queries(forecast.plan) == few <= 10
    assert queries(forecast.plan) == 0
    assert len(forecast.plan()) == 41


def test_requests_for_several_models_are_counted_up_to_a_limit(queued, worker, monkeypatch):
    monkeypatch.setattr(forecast, "COUNTED", 5)
    for name in "ab":
        model(name, 1.0, 1.0)
    first, second = queued(("a", 2), ("b", 2), waited=2), queued(("a", 2), ("b", 2), waited=1)
    found = forecast.plan()
    assert found[first.pk].seconds == 4.0
    assert found[second.pk].seconds is None and "not counted" in found[second.pk].why


def test_only_the_first_of_a_long_queue_are_looked_at(queued, worker, monkeypatch, project, stored):
    monkeypatch.setattr(forecast, "MOST", 2)
    model("a", 1.0, 1.0)
    batches = [queued(("a", 1), waited=9 - number) for number in range(3)]
    assert list(forecast.plan()) == [one.pk for one in batches[:2]]
    assert "more than 2" in forecast.of(batches[2]).why
    new = forecast.of_new(created(project, stored(lines(3, "a"))))
    assert (new.seconds, new.start_at) == (3.0, None) and "More than 2" in new.why


def test_many_threads_work_it_out_once(queued, worker, monkeypatch):
    made = []
    real = forecast.QueueSnapshot

    def slow():
        made.append(1)
        time.sleep(0.05)
        return real()

    monkeypatch.setattr(forecast, "QueueSnapshot", slow)
    found = []

    def ask():
        found.append(forecast.plan())
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    [one.start() for one in threads]
    [one.join() for one in threads]
    assert len(found) == 8 and len(made) == 1


# The beginning of a file


@pytest.fixture
def stored(project):
    def store(content, purpose="batch"):
        with blobs.scratch() as scratch:
            scratch.write(content)
            scratch.flush()
            return files.store(project, Path(scratch.name), "in.jsonl", purpose, None)

    return store


def lines(count, model="known", text="hello", **body):
    """Their answers have a limit, unless `max_tokens` is None."""
    made = [line(str(number), text, model, **{"max_tokens": 9} | body) for number in range(count)]
    return b"".join(json.dumps(one).encode() + b"\n" for one in made)


def test_a_small_file_is_counted_exactly(stored):
    content = lines(7)
    for one in (content, content[:-1], b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n\n")):
        assert sample.look(stored(one)) == sample.Sample("known", 7)


def test_answers_without_a_limit_are_counted(stored, project, worker):
    file = stored(lines(3) + lines(2, max_tokens=None))
    assert sample.look(file, endpoint=CHAT) == sample.Sample("known", 5, unlimited=2)
    model("known", 0.5, 10.0)
    new = forecast.of_new(created(project, file))
    assert (new.requests, new.seconds, new.completion_at, new.why) == (5, None, None, UNLIMITED)
    found = sample.look(stored((lines(1) + lines(1, max_tokens=None)) * 2000), endpoint=CHAT)
    assert (found.requests, found.unlimited) == (pytest.approx(4000, rel=0.1), pytest.approx(2000, rel=0.1))


def test_a_large_file_is_estimated(stored):
    chance = random.Random(3)
    content = b"".join(lines(1, text="x" * chance.randint(10, 500)) for _ in range(5000))
    found = sample.look(stored(content))
    assert found.model == "known" and found.requests == pytest.approx(5000, rel=0.1)


@pytest.mark.parametrize(
    "content",
    [b'{"a": 1}\n{', b"[1]\n", b'{"body": 3}\n', b'{"body": {"model": {"x": 1}}}\n', b'{"body": {}}\n', b"\n \n",
     b'{"body": {"model": "' + b"x" * 70_000 + b'"}}\n' * 2],
)  # fmt: skip
def test_what_cannot_be_read_has_a_reason(stored, content):
    found = sample.look(stored(content))
    assert found.why and not found.requests


def test_a_file_that_is_not_there_has_a_reason(stored):
    file = stored(lines(1))
    blobs.remove(file.blob)
    assert sample.look(file).why and sample.look(None).why
    assert sample.look(stored(b"x", "user_data")).why


def test_of_a_file_in_a_bucket_only_the_beginning_is_fetched(monkeypatch):
    import boto3  # type: ignore[import-untyped]
    from moto import mock_aws
    from storages.backends.s3 import S3Storage

    for name in ("aws_access_key_id", "aws_secret_access_key"):
        monkeypatch.setenv(name.upper(), "test")
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="vbs")
        storage = S3Storage(bucket_name="vbs", region_name="us-east-1")
        content = lines(3000)
        storage.save("aa/file", ContentFile(content))
        opened = []
        monkeypatch.setattr(blobs, "open_blob", lambda blob: opened.append(storage.open("aa/file", "rb")) or opened[-1])
        found = sample.look(File(id="file-aa", purpose="batch", bytes=len(content)))
        assert found.model == "known" and found.requests == pytest.approx(3000, rel=0.05)
        assert opened[0]._file is None, "nothing else was read"


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (None, ""),
        ({"reason": "It is not counted."}, "It is not counted."),
        (
            {"requests": 1500, "seconds": 45, "starts_in_seconds": 10, "measurements": 1},
            "about 1,500 requests, expected to take 45 s and to start in 10 s (1 measurement)",
        ),
        (
            {"requests": 2, "seconds": 45, "measurements": 3, "reason": "No GPU worker is running."},
            "about 2 requests, expected to take 45 s (3 measurements); No GPU worker is running.",
        ),
    ],
)
def test_the_command_says_it(estimate, words):
    blank = {"seconds": None, "starts_in_seconds": None, "requests": None, "model": None, "measurements": 0}
    assert expected({"estimate": estimate and blank | {"reason": None} | estimate}) == words
    assert expected({}) == "", "a server of an earlier version"


def test_the_default_model_is_for_lines_that_name_none(stored):
    content = b'{"custom_id": "a", "body": {"messages": []}}\n'
    assert sample.look(stored(content), "known").model == "known" and sample.look(stored(content)).why


# On the wire


def created(project, file, **options):
    return submit.create(project, file.pk, CHAT, "24h", **options)


def test_from_creation_to_the_end(project, stored, worker):
    model("known", 0.5, 10.0)
    batch = created(project, stored(lines(20)))
    shown = wire.batch_object(batch, expected=forecast.of_new(batch))
    assert shown["estimate"] == {
        "seconds": 10, "starts_in_seconds": 10, "requests": 20, "model": "known", "measurements": 1, "reason": None
    }  # fmt: skip
    assert shown["estimated_start_at"] == pytest.approx(time.time() + 10, abs=2)
    assert shown["estimated_completion_at"] == pytest.approx(time.time() + 20, abs=2)
    shown = wire.batch_object(batch)  # in a list, nobody reads files
    assert shown["estimate"]["reason"] and shown["estimate"]["seconds"] is None
    ingest.validate(batch.pk)
    batch.refresh_from_db()
    forecast.forget()
    shown = wire.batch_object(batch)
    assert shown["estimate"]["seconds"] == 10 and shown["estimate"]["reason"] is None
    assert shown["progress"]["eta_seconds"] is None and shown["queue_position"] == 1
    item = wire.queue_item(batch, 1, own=False)
    assert item["estimated_start_at"] == shown["estimated_start_at"] and item["id"] is None
    assert item["estimated_completion_at"] == shown["estimated_completion_at"]
    Batch.objects.filter(pk=batch.pk).update(status="completed", completed=20)
    batch.refresh_from_db()
    shown = wire.batch_object(batch)
    assert shown["estimate"] is None and shown["estimated_completion_at"] is None


def test_a_new_batch_is_behind_those_that_wait(project, stored, worker, queued):
    model("known", 0.5, 10.0)
    worker.set(model_name="known")
    queued(("known", 100))
    file = stored(lines(4))
    assert forecast.of_new(created(project, file)).start_at == next(iter(forecast.plan().values())).completion_at
    urgent = wire.batch_object(batch := created(project, file, priority=9), expected=forecast.of_new(batch))
    assert urgent["estimate"]["starts_in_seconds"] == 0


@pytest.mark.parametrize("content", [b"[]\n", lines(3, "nobody"), lines(3, "x" * 5000), lines(3, "new")])
def test_creation_never_fails_for_want_of_an_estimate(project, stored, worker, content):
    model("new")
    batch = created(project, stored(content))
    estimate = wire.batch_object(batch, expected=forecast.of_new(batch))["estimate"]
    assert estimate["reason"] and estimate["seconds"] is None and len(estimate["reason"]) < 300


def test_the_routes_show_it(project, stored, worker, queued, settings, client):
    settings.VBS_API_AUTH = "open"
    model("known", 0.5, 10.0)
    file = stored(lines(20))
    type(file).objects.update(project=Project.objects.get_or_create(name="default")[0])
    worker.set(health={"celsius": 61.0}, activity="The GPU is full")
    Worker.objects.create(cluster="io", hostname="test", pid=2)
    queued(("known", 4))
    given = {"input_file_id": file.pk, "endpoint": CHAT, "completion_window": "24h"}
    shown = client.post("/v1/batches", json.dumps(given), content_type="application/json").json()
    assert shown["estimate"]["requests"] == 20 and "The GPU is full" in shown["estimate"]["reason"]
    assert client.get(f"/v1/batches/{shown['id']}").json()["estimate"]["reason"]
    assert client.get("/v1/batches").json()["data"][0]["estimate"]["reason"]
    queue = client.get("/v1/queue").json()
    assert queue["gpu"] == [{"celsius": 61.0, "waiting_because": "The GPU is full"}]
    assert queue["waiting"][0]["estimated_start_at"] is None
    worker.set(activity="")
    forecast.forget()
    queue = client.get("/v1/queue").json()
    assert queue["gpu"] == [{"celsius": 61.0, "waiting_because": None}]
    assert queue["waiting"][0]["estimated_start_at"] == pytest.approx(time.time() + 10, abs=2)

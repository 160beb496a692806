"""The queue played through: as the arbiter would do it, with reasons where nothing was measured. No database."""

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from batches.models import CANDIDATES, OF_A_KIND
from batches.queue.simulation import Segment, SimulatedWork, SimulatedWorker, simulate
from models_registry.gpu.arbiter import choose
from models_registry.workloads import Work
from tests.batches.waiting import FOREVER

NOW = datetime(2026, 1, 1, tzinfo=timezone.get_fixed_timezone(0))


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


def test_the_arbiter_is_asked_once_for_each_segment(monkeypatch):
    asked = 0

    def counted(*given):
        nonlocal asked
        asked += 1
        return choose(*given)

    monkeypatch.setattr("batches.queue.simulation.choose", counted)
    most = CANDIDATES + 4 * OF_A_KIND
    jobs = random_jobs(random.Random(1), most, ["a", "b", "c", "d"], 3, 3)
    found = simulate(jobs, [SimulatedWorker("a")], dict.fromkeys("abcd", 9.0), NOW, timedelta(minutes=30)).times
    segments = sum(len(job.parts) for job in jobs)
    assert len(found) == most and segments <= asked <= segments + 2, "and whether there is more, at the end"

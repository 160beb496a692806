"""The queue played through: as the arbiter would do it, with reasons where nothing was measured. No database."""

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from batches.models import CANDIDATES, OF_A_KIND
from batches.queue import sharing
from batches.queue.remaining import Rest
from batches.queue.simulated_queue import Segment, SimulatedWork
from batches.queue.simulation import Engines, SimulatedWorker, simulate
from models_registry.gpu.arbiter import choose, in_order
from models_registry.speed.speeds import Answers
from models_registry.workloads import Work
from tests.batches.waiting import FOREVER

NOW = datetime(2026, 1, 1, tzinfo=timezone.get_fixed_timezone(0))


class Windows(dict):
    def get(self, name, default=None):
        return 1.0


def played(jobs, slots, loads, now=NOW, patience=FOREVER, **fields):
    """Every engine has one request in flight."""
    return simulate(jobs, slots, Engines(loads, Windows()), now, patience, **fields)


def segment(engine, seconds, why=""):
    """Requests of a second each; None: it is not known how long they take."""
    rest = None if seconds is None else Rest(int(seconds), Answers(1.0, 1.0, 1.0, 1))
    return Segment(engine, int(seconds or 3), rest, why)


# The queue played through, against the arbiter itself


def brute(jobs, loaded, loads, now, patience):
    """Ask the arbiter about everything that waits, again and again. What the engine can run beside what it runs is
    taken up as long as the arbiter chooses it, once less than a second is left of what has a higher priority.
    The engine is divided among those that have the highest priority, until one of them has ended or joined."""
    left = {job.id: list(job.parts) for job in jobs}
    byid = {job.id: job for job in jobs}
    start, end, order, loaded_at = {}, {}, [], now
    running = {}  # id: seconds of the engine that it still takes, and its number of segments there

    def chosen():
        works = []
        for job in jobs:
            if not left[job.id] or job.id in running:
                continue
            part = next((part for part in left[job.id] if part.engine == loaded), left[job.id][0])
            works.append(Work(part, job.id, part.engine, job.priority, job.since, job.deadline))
        return choose(works, loaded, loaded_at, now, patience), works

    def above(work):
        return sum(seconds for one, seconds in running.items() if byid[one].priority > work.priority)

    def take(work):
        parts = [part for part in left[work.id] if part.engine == work.model]
        left[work.id] = [part for part in left[work.id] if part.engine != work.model]
        running[work.id] = float(sum(part.rest.work for part in parts))
        if work.id not in order:
            order.append(work.id)

    while True:
        work, works = chosen()
        if not running:
            if work is None:
                break
            if work.model != loaded:
                now += timedelta(seconds=loads[work.model])
                loaded, loaded_at = work.model, now
            take(work)
            work, works = chosen()
        while work and work.model == loaded:
            if above(work) > 1:
                break
            take(work)
            work, works = chosen()
        urgent = max((work.priority for work in works if work.model != loaded), default=-999)
        leaving = [one for one in running if byid[one].priority < urgent]
        assert not leaving, "these tests have one segment for each engine, so nothing urgent comes"
        top = max(byid[one].priority for one in running)
        senders = [one for one in running if byid[one].priority == top]
        step = min(running[one] for one in senders) * len(senders)
        if work and work.model == loaded:
            step = min(step, above(work) - 1 + 1e-6)
        for one in senders:
            start.setdefault(one, now)
            running[one] -= step / len(senders)
        now += timedelta(seconds=step)
        for one in senders:
            if running[one] <= 1e-9:
                del running[one]
                end[one] = now
    return {job.id: (start[job.id], end[job.id]) for job in jobs}, order


def random_jobs(random, count, engines, priorities, several):
    jobs = []
    for number in range(count):
        names = random.sample(engines, k=random.randint(1, several))
        parts = tuple(segment(name, float(random.randint(1, 900))) for name in names)
        since = NOW - timedelta(seconds=random.choice([0, random.randint(0, 5000)]))
        deadline = NOW + random.choice([FOREVER, timedelta(seconds=random.randint(0, 20_000))])
        jobs.append(SimulatedWork(f"{number:04}", random.randint(0, priorities), since, deadline, parts))
    return jobs


def close(found, wanted):
    return abs((found - wanted).total_seconds()) <= 10  # the length of a few requests


@pytest.mark.parametrize("patience", [FOREVER, timedelta(minutes=30)], ids=["no ageing", "with ageing"])
@pytest.mark.parametrize("seed", range(25))
def test_it_is_what_the_arbiter_does(seed, patience):
    chance = random.Random(seed)
    engines = [f"m{number}" for number in range(chance.randint(1, 5))]
    loads = {name: float(chance.randint(0, 300)) for name in engines}
    jobs = random_jobs(chance, chance.randint(1, 60), engines, chance.choice([0, 3]), 1)
    loaded = chance.choice(["", *engines])
    found = played(jobs, [SimulatedWorker(loaded)], loads, NOW, patience)
    times, order = brute(jobs, loaded, loads, NOW, patience)
    assert [turn.id for turn in found.order] == order
    for one, (start, end) in times.items():
        assert close(found.times[one].start, start) and close(found.times[one].end, end), one
    assert not any(times.why for times in found.times.values())


def job(name, engine="a", seconds=10.0, priority=0, waited=0, parts=None, why=""):
    parts = parts or (segment(engine, seconds, why),)
    return SimulatedWork(name, priority, NOW - timedelta(seconds=waited), NOW + FOREVER, tuple(parts))


def seconds_of(found):
    return {
        name: tuple(None if one is None else round((one - NOW).total_seconds(), 3) for one in (times.start, times.end))
        for name, times in found.items()
    }


LOADS = {"a": 100.0, "b": 200.0}


def test_what_runs_goes_first_unless_something_more_urgent_waits():
    jobs = [job("runs", "b"), job("waits", "a", waited=99)]
    found = played(jobs, [SimulatedWorker("b", ("runs",))], LOADS).times
    assert seconds_of(found) == {"runs": (0, 10), "waits": (110, 120)}
    jobs[1] = job("waits", "a", priority=1)
    found = played(jobs, [SimulatedWorker("b", ("runs",))], LOADS).times
    assert seconds_of(found) == {"waits": (100, 110), "runs": (310, 320)}


def test_batches_for_one_engine_share_it():
    jobs = [job("runs", "a", 20), job("joins", "a", 10, waited=9), job("other", "b", waited=99)]
    found = played(jobs, [SimulatedWorker("a", ("runs",))], LOADS)
    assert seconds_of(found.times) == {"runs": (0, 30), "joins": (0, 20), "other": (230, 240)}
    assert [turn.id for turn in found.order] == ["joins", "other"]
    found = played(jobs, [SimulatedWorker("a", ("runs",))], LOADS, NOW, timedelta(seconds=50))
    assert seconds_of(found.times) == {"runs": (0, 20), "other": (220, 230), "joins": (330, 340)}, "it has waited"


def test_a_higher_priority_on_the_same_engine_sends_first_and_the_others_stay():
    jobs = [job("runs", "a", 20), job("urgent", "a", 10, priority=5)]
    found = played(jobs, [SimulatedWorker("a", ("runs",))], LOADS).times
    assert seconds_of(found) == {"urgent": (0, 10), "runs": (0, 30)}
    urgent = job("urgent", "b", 10, priority=5)
    both = [job("runs", "a", 20), job("too", "a", 20, priority=7), urgent]
    found = played(both, [SimulatedWorker("a", ("runs", "too"))], LOADS).times
    assert seconds_of(found) == {"too": (0, 20), "urgent": (220, 230), "runs": (330, 350)}, "it makes way, one stays"


def test_a_batch_runs_all_its_segments_of_one_engine_at_once():
    parts = (segment("a", 10), segment("b", 5), segment("a", 30))
    found = played([job("x", parts=parts), job("y", "b", 5)], [SimulatedWorker("a")], LOADS)
    assert seconds_of(found.times) == {"x": (0, 250), "y": (240, 250)}, "40 s for a, 200 s of loading"


def test_a_small_batch_leaves_the_rest_of_the_window_to_others():
    usual = Answers(10.0, 10.0, 10.0, 100)
    small, large = (
        SimulatedWork(name, 0, NOW, None, (Segment("a", count, Rest(count, usual)),))
        for name, count in (("small", 20), ("large", 380))
    )
    found = simulate([small, large], [SimulatedWorker("a")], Engines({"a": 1.0}, {"a": 100.0}), NOW, FOREVER).times
    assert seconds_of(found) == {"small": (0, 10), "large": (0, 40)}


def test_equals_share_what_a_higher_priority_leaves():
    usual = Answers(10.0, 10.0, 10.0, 20)

    def requests(name, count, priority=0):
        return SimulatedWork(name, priority, NOW, None, (Segment("a", count, Rest(count, usual)),))

    jobs = [requests("big", 160), requests("small", 16), requests("urgent", 4, priority=5)]
    engines = Engines({"a": 1.0}, {"a": 20.0})
    found = seconds_of(simulate(jobs, [SimulatedWorker("a", ("big", "urgent"))], engines, NOW, FOREVER).times)
    assert found["urgent"] == (0, 10) and found["small"][0] == 0 and found["small"][1] <= 25, found
    jobs = [requests("big", 160), requests("small", 16), requests("urgent", 100, priority=5)]
    found = seconds_of(simulate(jobs, [SimulatedWorker("a", ("big", "urgent"))], engines, NOW, FOREVER).times)
    assert found["small"][0] == pytest.approx(40, abs=1), "the other fills the window until then"


def test_only_so_many_run_at_once_and_the_others_follow(monkeypatch):
    monkeypatch.setattr(sharing, "MOST", 2)
    jobs = [job(name, "a", 9 if name in "xz" else 5, waited=9 - number) for number, name in enumerate("wxyz")]
    found = played(jobs, [SimulatedWorker("a")], LOADS)
    assert [turn.id for turn in found.order] == list("wxyz")
    assert [start for start, _ in seconds_of(found.times).values()] == [0, 0, 10, pytest.approx(18, abs=1)]


def test_what_is_not_known_takes_its_part_of_the_window_and_no_more():
    usual = Answers(10.0, 10.0, 10.0, 100)
    new = SimulatedWork("new", 0, NOW, None, (Segment("a", 20, None, "new has never been measured."),))
    known = SimulatedWork("known", 0, NOW, None, (Segment("a", 400, Rest(400, usual)),))
    low = job("low", "b", priority=-1)
    engines = Engines({"a": 1.0, "b": 1.0}, {"a": 100.0, "b": 1.0})
    found = simulate([new, known, low], [SimulatedWorker("a")], engines, NOW, FOREVER).times
    assert seconds_of(found) == {"known": (0, 50), "new": (0, None), "low": (None, None)}, "it has 80 places"
    assert found["new"].why == "new has never been measured." and "new has never" in found["low"].why


def test_with_two_workers_the_second_takes_what_the_first_does_not():
    jobs = [job(name, "a" if name in "wy" else "b", waited=9 - number) for number, name in enumerate("wxyz")]
    found = played(jobs, [SimulatedWorker("a"), SimulatedWorker("b")], LOADS).times
    assert seconds_of(found) == {"w": (0, 11), "x": (0, 11), "y": (8, 20), "z": (8, 20)}


def test_lanes_run_beside_the_gpu_and_beside_each_other():
    def remote(name, seconds):
        return replace(segment(name, seconds), lane=name)

    slots = [SimulatedWorker("a"), SimulatedWorker("r", (), "r"), SimulatedWorker("s", ("there",), "s")]
    jobs = [
        job("local", "a", 20, priority=-5),
        job("far", parts=[remote("r", 30)], priority=9),
        job("behind", parts=[remote("r", 5)], priority=1),
        job("there", parts=[remote("s", 7)]),
        job("both", parts=[segment("a", 10), remote("s", 4)], priority=1),
        job("new", parts=[replace(segment("t", None, "t has never been measured."), lane="t")]),
    ]
    found = seconds_of(played(jobs, [*slots, SimulatedWorker("t", (), "t")], {**LOADS, "r": 0.0, "s": 0.0}).times)
    assert found.pop("new") == (0, None)
    assert found.pop("behind") == (29, 35), "it sends as soon as the other has sent all"
    assert found == {"far": (0, 30), "there": (0, 7), "both": (0, 14), "local": (9, 30)}
    found = played(jobs[1:], slots[1:], {"r": 0.0, "s": 0.0, "t": 0.0}, blocked="The GPU is hot.")
    times = seconds_of(found.times)
    assert times["far"] == (0, 30) and times["both"][1] is None and found.times["both"].why == "The GPU is hot."


def test_two_workers_share_the_queue():
    """A batch joins where the last request of the other is sent soon: the other worker could run it, too."""
    jobs = [job(name, "a", waited=9 - number) for number, name in enumerate("wxyz")]
    found = seconds_of(played(jobs, [SimulatedWorker("a"), SimulatedWorker("a")], LOADS).times)
    assert {name: start for name, (start, _) in found.items()} == {"w": 0, "x": 0, "y": 8, "z": 8}
    assert all(end == pytest.approx(11 if name in "wx" else 20, abs=1) for name, (_, end) in found.items())


def test_behind_what_is_not_known_nothing_is_known_and_it_says_what():
    jobs = [
        job("first", "a", waited=3),
        job("new", "b", None, waited=2, why="b has never been measured."),
        job("behind", "c", waited=1),
        job("new too", "d", None, why="d has never been measured."),
    ]
    found = played(jobs, [SimulatedWorker("a")], {**LOADS, "c": 1.0, "d": 1.0}, NOW, FOREVER).times
    assert seconds_of(found) == {
        "first": (0, 10), "new": (210, None), "behind": (None, None), "new too": (None, None)
    }  # fmt: skip
    assert found["new"].why == "b has never been measured." and not found["first"].why
    assert "b has never been measured." in found["behind"].why
    assert found["new too"].why == "d has never been measured."


def test_a_time_to_load_that_is_not_known_is_not_guessed():
    found = played([job("x", "new"), job("y", "a")], [SimulatedWorker("a")], {**LOADS, "new": None}).times
    assert seconds_of(found) == {"y": (0, 10), "x": (None, None)}
    assert found["x"].why == "How long new takes to load has never been measured."


def test_a_load_under_way_takes_what_is_left_of_it_and_no_promise_is_kept_alive():
    jobs = [job("runs", "b"), job("waits", "a")]
    found = played(jobs, [SimulatedWorker("", ("runs",), load_spent=150.0)], LOADS).times
    assert seconds_of(found) == {"runs": (50, 60), "waits": (160, 170)}
    found = played(jobs, [SimulatedWorker("", ("runs",), load_spent=200.0)], LOADS).times
    assert seconds_of(found) == {"runs": (None, None), "waits": (None, None)}
    assert found["runs"].why == "b takes longer to load than usual (200 s)."
    assert "b takes longer to load than usual (200 s)." in found["waits"].why
    asked = replace(jobs[0], id="load", uncounted=True)
    found = played([asked, jobs[1]], [SimulatedWorker("", ("load",), load_spent=999.0)], LOADS).times
    assert seconds_of(found) == {"load": (None, None), "waits": (None, None)}


def test_the_second_model_of_a_batch_may_be_the_one_that_is_not_known():
    parts = (segment("a", 10.0), segment("b", None, "b has never been measured."))
    found = played([job("x", parts=parts)], [SimulatedWorker("a")], LOADS).times
    assert seconds_of(found) == {"x": (0, None)} and "b has never" in found["x"].why


def test_without_a_worker_nothing_starts():
    found = played([job("x")], [], LOADS).times
    assert seconds_of(found) == {"x": (None, None)} and found["x"].why == "No GPU worker is running."


def reasons(jobs, slots, loads=LOADS):
    found = played(jobs, slots, loads, NOW, timedelta(minutes=30), loaded="a")
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
    asked = SimulatedWork("asked", 0, NOW, None, (Segment("new"),), uncounted=True)
    jobs = [job("runs", waited=9), job("waits", "b", waited=1), asked]
    found = played(jobs, [SimulatedWorker("a", ("runs",))], LOADS)
    assert [turn.id for turn in found.order] == ["waits", "asked"]
    assert seconds_of(found.times)["waits"] == (210, 220)


def test_the_arbiter_is_asked_seldom(monkeypatch):
    """The cost of a long queue: its order is worked out anew only where something has changed."""
    asked = []

    def counted(waiting, *given):
        asked.append(len(waiting))
        return in_order(waiting, *given)

    monkeypatch.setattr("batches.queue.simulation.in_order", counted)
    most = CANDIDATES + 4 * OF_A_KIND
    jobs = random_jobs(random.Random(1), most, ["a", "b", "c", "d"], 0, 1)
    found = played([replace(job, deadline=None) for job in jobs], [SimulatedWorker("a")], dict.fromkeys("abcd", 9.0))
    assert len(found.times) == len(found.order) == most and len(asked) <= 10
    jobs = random_jobs(random.Random(1), most, ["a", "b", "c", "d"], 3, 3)
    found = played(jobs, [SimulatedWorker("a")], dict.fromkeys("abcd", 9.0), NOW, timedelta(minutes=30))
    assert len(found.times) == most and len(asked) < 10 + most

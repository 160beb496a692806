"""What is told of batches that share an engine, against the true rule played through: place by place, answer by answer,
with answers of random length."""

import heapq
import itertools
import math
import random
import statistics
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from batches.queue import remaining
from batches.queue.remaining import Progress, Rest
from batches.queue.simulated_queue import Segment, SimulatedWork
from batches.queue.simulation import Engines, SimulatedWorker, simulate
from models_registry.speed.measurements import percentile
from models_registry.speed.speeds import Answers
from tests.batches.queue.test_remaining import LENGTHS
from tests.batches.waiting import FOREVER

FEW = 20
NOW = datetime(2026, 1, 1, tzinfo=timezone.get_fixed_timezone(0))


class Engine:
    """An engine with so many places, and batches that come at some time: (name, when, priority, lengths of answers).

    Whoever has the highest priority sends next; within one priority, whoever has spent the fewest tokens: a request
    counts as the mean when it is sent, and as what it took when it is answered. Who comes begins with the least of the
    others. tokens: how many a batch has in a second of a place, where it is not one.
    """

    def __init__(self, places, batches, tokens=None):
        tokens = dict.fromkeys((name for name, *_ in batches), 1.0) | (tokens or {})
        self.spans = {name: [] for name, *_ in batches}  # when each request was sent, and answered
        self.lengths = {name: list(lengths) for name, _, _, lengths in batches}
        self.came = {name: came for name, came, *_ in batches}
        priority = {name: priority for name, _, priority, _ in batches}
        mean = statistics.fmean(itertools.chain(*self.lengths.values()))
        coming = sorted(((came, name) for name, came, *_ in batches), reverse=True)
        unsent, spent, flying, clock = {}, {}, [], 0.0
        while coming or unsent or flying:
            if coming and (not flying or coming[-1][0] <= flying[0][0]) and (len(flying) == places or not unsent):
                clock = max(clock, coming[-1][0])
            elif len(flying) == places or not unsent:
                clock, name, length = heapq.heappop(flying)
                spent[name] += length * tokens[name] - mean
            while coming and coming[-1][0] <= clock:
                _, name = coming.pop()
                spent[name] = min((spent[one] for one in unsent), default=0.0)
                unsent[name] = list(self.lengths[name])
            while unsent and len(flying) < places:
                name = min(unsent, key=lambda one: (-priority[one], spent[one], one))
                length = unsent[name].pop()
                spent[name] += mean
                self.spans[name].append((clock, clock + length))
                heapq.heappush(flying, (clock + length, name, length))
                if not unsent[name]:
                    del unsent[name]
        self.priority = priority
        self.ends = {name: max(end for _, end in spans) for name, spans in self.spans.items()}
        self.starts = {name: min(sent for sent, _ in spans) for name, spans in self.spans.items()}

    def progress(self, name, now):
        """As the worker tells it at this time."""
        sent = [(began, end) for began, end in self.spans[name] if began <= now]
        flying = [began for began, end in sent if end > now]
        answered = len(sent) - len(flying)
        spent = sum(min(end, now) - began for began, end in sent)
        oldest, latest = now - min(flying, default=now), now - max((one for one, _ in sent), default=now)
        lasted = now - self.starts[name]
        return Progress(
            answered, len(self.lengths[name]) - answered, len(flying), spent, oldest, latest, max(lasted, 0)
        )


def told(engine, places, usual, now):
    """When each batch that has come and has not ended will end, from now; as the snapshot of the queue has it."""
    here = [name for name, came in engine.came.items() if came <= now and engine.ends[name] > now]
    jobs = []
    for number, name in enumerate(here):
        progress = engine.progress(name, now)
        rest = remaining.left(usual, progress) if engine.spans[name][0][0] <= now else Rest(progress.pending, usual)
        part = Segment("a", progress.pending, rest)
        jobs.append(SimulatedWork(name, engine.priority[name], NOW + timedelta(seconds=number), None, (part,)))
    slot = SimulatedWorker("a", tuple(here))
    found = simulate(jobs, [slot], Engines({"a": 1.0}, {"a": places}), NOW, FOREVER).times
    return {name: (times.end - NOW).total_seconds() for name, times in found.items()}


def measured(chance, kind, places):
    lasted = sorted(LENGTHS[kind](chance) for _ in range(2000))
    return Answers(percentile(lasted, 50), percentile(lasted, 99), statistics.fmean(lasted), places)


def some_batches(chance, kind, count, priorities, until=0.0):
    """Of very different size. The last comes at `until`."""
    sizes = [round(math.exp(chance.uniform(0, math.log(3000)))) for _ in range(count)]
    came = [0.0] + [chance.uniform(0, until) for _ in sizes[1:]]
    return [
        (f"{number:02}", came[number], chance.randint(0, priorities), [LENGTHS[kind](chance) for _ in range(size)])
        for number, size in enumerate(sizes)
    ]


def wrong(engine, places, usual, looks):
    """Where more than twice what is left is told, or less than half: with both. Less than a second, a tenth of the
    whole, or an answer's usual time is no error. Of fewer than FEW answers the longest is luck."""
    last, found, asked = max(engine.ends.values()), [], 0
    for now in looks:
        for name, said in told(engine, places, usual, now).items():
            if len(engine.lengths[name]) < FEW:
                continue
            true = engine.ends[name] - now
            slack = max(1.0, usual.mean, (last - min(engine.starts.values())) / 10)
            asked += 1
            if not true / 2 - slack <= said <= 2 * true + slack:
                found.append((name, round(now, 1), round(said, 1), round(true, 1)))
    return found, asked


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("priorities", [0, 2])
def test_it_is_within_a_factor_of_two_at_any_time(kind, priorities):
    for seed in range(6):
        chance = random.Random(f"{kind} {priorities} {seed}")
        places = chance.choice([40, 160, 320])
        engine = Engine(places, some_batches(chance, kind, chance.randint(2, 12), priorities))
        whole = max(engine.ends.values())
        found, asked = wrong(engine, places, measured(chance, kind, places), [whole * n / 20 for n in range(20)])
        assert len(found) <= asked / 50, (seed, places, asked, found)


@pytest.mark.parametrize("kind", LENGTHS)
def test_when_others_join_it_is_true_again_within_seconds(kind):
    """The last comes while the others run. From a second later on it is within a factor of two."""
    for seed in range(6):
        chance = random.Random(f"{kind} joins {seed}")
        places = chance.choice([40, 160])
        usual = measured(chance, kind, places)
        joins = chance.uniform(2, 10) * usual.mean
        engine = Engine(places, some_batches(chance, kind, chance.randint(3, 9), chance.choice([0, 1]), joins))
        whole, last = max(engine.ends.values()), max(engine.came.values())
        found, asked = wrong(engine, places, usual, [last + 1 + (whole - last) * n / 20 for n in range(18)])
        assert len(found) <= asked / 50, (seed, places, asked, found)


@pytest.mark.parametrize("kind", ["short", "mixed"])
def test_before_anything_has_begun_it_is_known_when_each_ends(kind):
    for seed in range(6):
        chance = random.Random(f"{kind} before {seed}")
        batches = some_batches(chance, kind, chance.randint(10, 60), chance.choice([0, 2]))
        engine, usual = Engine(160, batches), measured(chance, kind, 160)
        jobs = [
            SimulatedWork(name, priority, NOW + timedelta(seconds=number), None,
                          (Segment("a", len(lengths), Rest(len(lengths), usual)),))
            for number, (name, _, priority, lengths) in enumerate(batches)
        ]  # fmt: skip
        found = simulate(jobs, [SimulatedWorker("a")], Engines({"a": 1.0}, {"a": 160.0}), NOW, FOREVER).times
        slack = max(usual.mean, max(engine.ends.values()) / 10)
        for name, _, _, lengths in batches:
            said, true = (found[name].end - NOW).total_seconds(), engine.ends[name]
            assert len(lengths) < FEW or true / 2 - slack <= said <= 2 * true + slack, (seed, name, said, true)
        last = max((times.end - NOW).total_seconds() for times in found.values())
        assert last == pytest.approx(max(engine.ends.values()), rel=0.15, abs=usual.most), seed


def test_who_has_fewer_tokens_in_a_second_has_more_places():
    """Two adapters, of which one writes half as fast: each has as many tokens, so this one has two thirds."""
    chance = random.Random(7)
    lengths = {name: [LENGTHS["short"](chance) for _ in range(4000)] for name in ("slow", "fast")}
    engine = Engine(60, [(name, 0.0, 0, each) for name, each in lengths.items()], {"slow": 1.0, "fast": 2.0})
    usual = measured(chance, "short", 60)
    jobs = [
        SimulatedWork(name, 0, NOW, None, (Segment("a", 4000, Rest(4000, usual), tokens=tokens),))
        for name, tokens in (("slow", 1.0), ("fast", 2.0))
    ]
    found = simulate(jobs, [SimulatedWorker("a")], Engines({"a": 1.0}, {"a": 60.0}), NOW, FOREVER).times
    for name in lengths:
        assert (found[name].end - NOW).total_seconds() == pytest.approx(engine.ends[name], rel=0.05), name
    assert engine.ends["slow"] < 0.8 * engine.ends["fast"]

"""What is told of a batch's end, against runs that are played through, in a window, with answers of random length."""

import heapq
import random
import statistics

import pytest

from batches.queue import remaining
from batches.queue.remaining import Progress, Rest
from models_registry.speed.measurements import percentile
from models_registry.speed.speeds import Answers

LENGTHS = {
    "short": lambda chance: chance.uniform(0.8, 1.2),
    "long": lambda chance: chance.uniform(50, 70),
    "mixed": lambda chance: chance.uniform(0.8, 1.2) if chance.random() < 0.8 else chance.uniform(40, 60),
    "equal": lambda chance: 10.0,
}


class Played:
    """A batch of so many requests, `window` at a time: when each was sent and answered."""

    def __init__(self, chance, kind, requests, window, slower=1.0):
        self.requests, self.window = requests, window
        free = [0.0] * min(window, requests)
        self.spans = []
        for _ in range(requests):
            sent = heapq.heappop(free)
            self.spans.append((sent, sent + slower * LENGTHS[kind](chance)))
            heapq.heappush(free, self.spans[-1][1])
        self.seconds = max(end for _, end in self.spans)

    def measured(self):
        lasted = sorted(end - sent for sent, end in self.spans)
        at_once = min(self.window, self.requests)
        return Answers(percentile(lasted, 50), percentile(lasted, 99), statistics.fmean(lasted), at_once)

    def progress(self, now):
        """As the worker tells it at this time."""
        sent = [(began, end) for began, end in self.spans if began <= now]
        flying = [began for began, end in sent if now < end]
        spent = sum(min(end, now) - began for began, end in sent)
        answered, latest = len(sent) - len(flying), now - max(began for began, _ in sent)
        oldest = now - min(flying, default=now)
        return Progress(answered, self.requests - answered, len(flying), spent, oldest, latest, now)


def told(run, measured, now):
    usual = remaining.crowded(measured, min(run.window, run.requests)) if measured else None
    rest = remaining.left(usual, run.progress(now))
    return rest and rest.seconds(run.window)


def moments(run):
    """From the first second until nine tenths are over; what is left then is one answer's luck."""
    last = 0.9 * run.seconds
    return [1.0 + (last - 1.0) * step / 40 for step in range(41)] if last > 1 else []


def off(run, measured, least=1.0):
    """The times at which it is told more than twice what is left, or less than half: with both. Less than a second, or
    a tenth of the whole, is no error."""
    slack = max(least, run.seconds / 10)
    found = []
    for now in moments(run):
        said, true = told(run, measured, now), run.seconds - now
        if not true / 2 - slack <= said <= 2 * true + slack:
            found.append((round(now, 1), round(said, 1), round(true, 1)))
    return found


def case(*words, before=2000, requests, slower=1.0, kind):
    """A model that was measured, and a batch for it."""
    chance = random.Random(" ".join(map(str, (*words, before, requests, slower, kind))))
    return Played(chance, kind, requests, 160, slower), Played(chance, kind, before, 160).measured()


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("requests", [40, 160, 240, 800, 4000])
@pytest.mark.parametrize("before", [400, 2000])
def test_it_is_within_a_factor_of_two_from_the_first_second_on(kind, requests, before):
    """But for the luck of the last few, in one of a hundred looks."""
    found = [off(*case(seed, before=before, requests=requests, kind=kind)) for seed in range(5)]
    assert sum(map(len, found)) <= 2, found


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("slower", [0.5, 2.0])
def test_an_engine_that_is_twice_as_fast_or_slow_today_is_found_out(kind, slower):
    for seed in range(3):
        run, measured = case(seed, requests=4000, slower=slower, kind=kind)
        late = [one for one in off(run, measured) if one[0] > 1.2 * max(1.0, slower) * measured.most]
        assert len(late) <= 2, (seed, late)


@pytest.mark.parametrize("before", [3, 10])
def test_a_small_measurement_does_not_make_a_large_batch_slow(before):
    """Ten requests took 1 s, 0.1 s each; 4,000 in a window of 160 take 26 s, not 400."""
    run, measured = case(before=before, requests=4000, kind="short")
    usual = remaining.crowded(measured, 160)
    assert run.seconds / 2 < Rest(4000, usual).seconds(160) < 3 * run.seconds
    assert off(run, measured)[10:] == [], "and once a window has ended it is right"


def test_what_is_longer_than_ever_is_seen_by_those_in_flight():
    run, _ = case(requests=160, kind="long")
    _, measured = case(requests=160, kind="short")
    said = [told(run, measured, now) for now in (1.0, 10.0, 20.0, 40.0)]
    assert said == sorted(said) and said[0] < 2 and 30 < said[-1] < 60, "as long again as it is late"


@pytest.mark.parametrize("kind", LENGTHS)
def test_of_a_model_never_measured_it_is_told_by_the_batch_itself(kind):
    run, _ = case(requests=4000, kind=kind)
    assert told(run, None, 0.5) is None
    for now in (0.3 * run.seconds, 0.6 * run.seconds, 0.8 * run.seconds):
        assert (run.seconds - now) / 2 < told(run, None, now) < 2 * (run.seconds - now)


def test_what_is_shorter_than_ever_is_seen_when_half_a_window_has_ended():
    run, _ = case(requests=2000, kind="short")
    _, measured = case(requests=160, kind="long")
    assert told(run, measured, 0.5) > 500
    assert off(run, measured, least=3.0) == []


def test_after_an_interruption_what_was_spent_counts():
    """For how long it ran is known, however long it waited in between."""
    run, measured = case(requests=1600, kind="equal", slower=2.0)
    usual = remaining.crowded(measured, 160)
    now = run.progress(100.0)
    for lasted in (100.0, 10_000.0):
        again = Progress(now.answered, now.pending, 0, now.spent, 0.0, 5.0, lasted)
        assert remaining.left(usual, again).seconds(160) == pytest.approx(run.seconds - 100, rel=0.2)


def test_without_what_was_spent_it_is_as_usual():
    """Batches that ran before it was recorded."""
    rest = remaining.left(Answers(1.0, 4.0, 1.5, 160), Progress(300, 700, 160, 0.0, 1.0, 0.1, 50.0))
    assert rest.work == 540 * 1.5


@pytest.mark.parametrize("seed", range(5))
def test_a_time_is_told_of_whatever_state_a_batch_is_in(seed):
    """Also where nothing was answered of what was sent, and nothing is in flight any more."""
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(2000):
        answered, pending = dice.choice((0, 1, 300)), dice.choice((1, 40, 700))
        in_flight = dice.choice((0, min(1, pending), pending))
        spent, oldest, latest, lasted = (dice.choice((0.0, 0.2, 60.0)) for _ in range(4))
        now = Progress(answered, pending, in_flight, spent, oldest, latest, lasted)
        rest = remaining.left(dice.choice((None, Answers(1.0, 4.0, 1.5, 160))), now)
        assert rest is None or 0 <= rest.seconds(160) < float("inf"), now


def test_the_last_takes_what_it_takes():
    usual = Answers(1.0, 4.0, 1.5, 160)

    def seconds(*values):
        return remaining.left(usual, Progress(*values)).seconds(160)

    assert seconds(1000, 0, 0, 1500.0, 0.0, 5.0, 10.0) == 0.0
    assert seconds(999, 1, 1, 1500.0, 600.0, 600.0, 610.0) >= 500, "it is overdue, and told so"
    assert 0 < seconds(999, 1, 1, 1500.0, 1.0, 1.0, 12.0) < 5


@pytest.mark.parametrize(("requests", "seconds"), [(0, 0.0), (1, 1.0), (99, 4.0), (160, 4.0), (1600, 15 - 1.5 + 4)])
def test_a_whole_batch(requests, seconds):
    assert Rest(requests, Answers(1.0, 4.0, 1.5, 160)).seconds(160) == pytest.approx(seconds)


def test_the_longer_the_few_long_ones_the_sooner_all_are_sent():
    many = Rest(800, Answers(1.0, 50.0, 10.8, 160))
    assert (many.work - many.saved(160)) / 160 == pytest.approx(54 - 23, abs=1)
    equal = Rest(800, Answers(5.0, 5.0, 5.0, 160))
    assert (equal.work - equal.saved(160)) / 160 == 20.0
    assert equal.saved(800) == equal.saved(900) == equal.work, "all of them at once"


def test_a_request_far_beyond_what_answers_have_taken_is_lost():
    usual, minute = Answers(1.0, 3.0, 1.2, 10), 60.0

    def lost(oldest, of=usual, answered=0, own=0.0, in_flight=1):
        """own: seconds that each of those took that were answered."""
        spent = answered * own + in_flight * oldest
        return remaining.is_lost(of, Progress(answered, 5, in_flight, spent, oldest, oldest, oldest))

    assert [lost(seconds) for seconds in (2.0, 50.0, minute, 2 * minute)] == [False, False, False, True]
    assert not lost(2 * minute, in_flight=0), "nothing is in flight"
    assert not lost(5 * minute, answered=20, own=40.0) and lost(7 * minute, answered=20, own=40.0), "as its own are"
    assert not lost(60 * minute, of=None), "where nothing is known yet"
    assert lost(10 * minute, of=None, answered=3, own=2.0)


def test_what_hangs_at_the_end_of_a_batch_is_late_also_where_its_model_was_never_measured():
    def said(oldest):
        now = Progress(252, 48, 48, 252 * 0.8 + 48 * oldest, oldest, oldest, oldest + 5)
        return remaining.left(None, now).seconds(160)

    found = [said(seconds) for seconds in (10.0, 20.0, 40.0)]
    assert found == sorted(found) and found[0] > 3 and found[-1] > 20, found

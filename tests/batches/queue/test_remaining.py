"""What is told of a batch's end, against runs that are played through, in a window, with answers of random length."""

import heapq
import random
import statistics

import pytest

from batches.queue import remaining
from models_registry.speed.measurements import percentile
from models_registry.speed.speeds import Answers

LENGTHS = {
    "short": lambda chance: chance.uniform(0.8, 1.2),
    "long": lambda chance: chance.uniform(50, 70),
    "mixed": lambda chance: chance.uniform(0.8, 1.2) if chance.random() < 0.8 else chance.uniform(40, 60),
    "equal": lambda chance: 10.0,
}
RATE_SECONDS = 30.0


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

    def state(self, now):
        """As the worker tells it at this time: answered, pending, oldest, live."""
        ends = [end for _, end in self.spans if end <= now]
        oldest = max((now - sent for sent, end in self.spans if sent <= now < end), default=0.0)
        since = max(0.0, now - RATE_SECONDS)
        of_late = sum(end > since for end in ends)
        live = (now - since) / of_late if 2 * len(ends) >= min(self.window, self.requests) and of_late else None
        return len(ends), self.requests - len(ends), oldest, live


def told(run, measured, now, one_turn=True):
    usual = remaining.crowded(measured, min(run.window, run.requests))
    answered, pending, oldest, live = run.state(now)
    return remaining.left(usual, run.window, answered, pending, now if one_turn else None, oldest, live)


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
    assert run.seconds / 2 < remaining.whole(usual, 160, 4000) < 3 * run.seconds
    assert off(run, measured)[10:] == [], "and once a window has ended it is right"


def test_what_is_longer_than_ever_is_seen_by_those_in_flight():
    run, _ = case(requests=160, kind="long")
    _, measured = case(requests=160, kind="short")
    said = [told(run, measured, now) for now in (1.0, 10.0, 20.0, 40.0)]
    assert said == sorted(said) and said[0] < 2 and 30 < said[-1] < 60, "as long again as it is late"


def test_what_is_shorter_than_ever_is_seen_when_half_a_window_has_ended():
    run, _ = case(requests=2000, kind="short")
    _, measured = case(requests=160, kind="long")
    assert told(run, measured, 0.5) > 500
    assert off(run, measured, least=3.0) == []


def test_after_an_interruption_what_is_left_is_a_batch_of_its_own():
    run, measured = case(requests=1600, kind="equal")
    for now in (1.0, 35.0, 61.0):
        assert told(run, measured, now, one_turn=False) == pytest.approx(run.seconds - now, abs=10)


def test_the_last_takes_what_it_takes():
    usual = Answers(1.0, 4.0, 1.5, 160)
    assert remaining.left(usual, 160, 1000, 0, 10.0, 0.0) == 0.0
    assert remaining.left(usual, 160, 999, 1, 20.0, 600.0) >= 500, "it is overdue, and told so"
    assert 0 < remaining.left(usual, 160, 999, 1, 12.0, 1.0) < 5


@pytest.mark.parametrize(("requests", "seconds"), [(0, 0.0), (1, 1.0), (99, 4.0), (160, 4.0), (1600, 15 - 1.5 + 4)])
def test_a_whole_batch(requests, seconds):
    assert remaining.whole(Answers(1.0, 4.0, 1.5, 160), 160, requests) == pytest.approx(seconds)


def test_the_longer_the_few_long_ones_the_sooner_all_are_sent():
    assert remaining.sending(Answers(1.0, 50.0, 10.8, 160), 160, 800) == pytest.approx(54 - 23, abs=1)
    assert remaining.sending(Answers(5.0, 5.0, 5.0, 160), 160, 800) == 20.0

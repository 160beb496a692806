"""How long a batch takes, and still takes, from how long answers took before. Numbers in, seconds out.

Seconds per request alone say little about another batch: three requests in flight take as long as one of them, and a
full window is many times faster; and a batch may have the window for itself, or a small part of it. So what requests
take is told in seconds of one place in the window: a request takes a place for as long as its answer takes.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from models_registry.speed.speeds import Answers

CROWDED = 0.25  # with twice as many in flight an answer takes 2 ** CROWDED as long; see `crowded`
LUCK = 2.0  # factor by which the last answers may be longer than so few usually are, or end earlier than the longest
LONGEST = 5.0  # times their mean: so long answers of a model that was never measured are taken to be; more is late
FAR = 10.0  # times what answers have taken, and
FAR_SECONDS = 60.0  # longer, after which nobody knows when one comes that is in flight


@dataclass(frozen=True)
class Rest:
    """What is left of a batch's requests for one model.

    unsent: how many are not sent yet. usual: how long their answers take. in_flight: how many are. work: the seconds of
    one place until the last is sent, where others fill the rest of the window. least: seconds that those in flight
    still take.
    """

    unsent: int
    usual: Answers
    in_flight: int = 0
    least: float = 0.0

    @property
    def work(self) -> float:
        return self.unsent * self.usual.mean

    def saved(self, filled: float) -> float:
        """The seconds of one place that are saved when so many are sent at once, because the window has room.

        They end together, and so do those that follow each of them: E[x²] / 2 E[x] of each place is saved, at least its
        first answer. A few long answers among many short ones make it exceed the mean.
        """
        if filled >= self.unsent:
            return self.work
        spread = self.usual.most - self.usual.median
        part = min(1.0, max(0.0, (self.usual.mean - self.usual.median) / spread)) if spread > 0 else 0.0
        square = (1 - part) * self.usual.median**2 + part * self.usual.most**2  # as if answers had two lengths only
        return min(self.work, filled * max(self.usual.mean, square / 2 / self.usual.mean))

    def seconds(self, window: float) -> float:
        """How long they take alone on the engine: until the last is sent, plus the longest answer after that."""
        if not self.unsent:
            return self.least
        filled = min(self.unsent, max(0.0, window - self.in_flight))
        sending = (self.work - self.saved(filled)) / window
        return max(sending + longest(self.usual, min(window, filled + self.in_flight)), self.least)


def together(rests: Sequence[Rest]) -> Rest:
    """What is left of a batch with several models, whose requests are sent one model after the other."""
    if len(rests) == 1:
        return rests[0]
    weights = [rest.unsent or 1e-9 for rest in rests]
    median = statistics.fmean((rest.usual.median for rest in rests), weights)
    mean = statistics.fmean((rest.usual.mean for rest in rests), weights)
    usual = Answers(median, max(rest.usual.most for rest in rests), mean, max(rest.usual.at_once for rest in rests))
    in_flight, least = sum(rest.in_flight for rest in rests), max(rest.least for rest in rests)
    return Rest(sum(rest.unsent for rest in rests), usual, in_flight, least)


@dataclass(frozen=True)
class Progress:
    """How far a batch is. answered, pending: its requests. in_flight: of the pending ones, those that are sent. spent:
    the seconds for which its requests were in flight, summed over all. oldest, latest: seconds since the oldest of
    those in flight, and the latest of all, were sent. lasted: seconds since its first request."""

    answered: int
    pending: int
    in_flight: int
    spent: float
    oldest: float
    latest: float
    lasted: float


def left(usual: Answers | None, now: Progress) -> Rest | None:
    """What is left of a batch that runs; None when nothing is known of it yet.

    usual: as `crowded` gives it for this batch; None when its model was never measured, and then half of those that it
    has had in flight at once have to be answered first. Its answers are assumed to be as long as the measured ones
    times one factor, which is learned as it runs. What it has had of the window meanwhile does not matter.
    """
    if usual is None:
        if 2 * now.answered < max(now.in_flight, 1) or not now.spent:
            return None
        mean = now.spent / (now.answered + now.in_flight / 2)
        most = max(mean, min(now.oldest, LONGEST * _own(now)))
        usual = Answers(mean, most, mean, max(now.in_flight, 1))
    usual = usual.times(_factor(usual, now))
    unsent = now.pending - now.in_flight
    overdue = max(usual.median - now.oldest, now.oldest - usual.most) if now.in_flight else 0.0
    if unsent:
        return Rest(unsent, usual, now.in_flight, max(0.0, overdue))
    had = max(now.in_flight, round(now.spent / now.lasted) if now.lasted else 0)  # in flight when the last was sent
    due = longest(usual, min(had, now.answered + now.pending)) - now.latest
    due = max(due, (usual.most - now.oldest) / LUCK)
    if now.oldest <= LUCK * usual.median:  # else one of the long ones is among them
        due = min(due, LUCK * longest(usual, now.in_flight))
    return Rest(0, usual, now.in_flight, max(due, overdue, 0.0))


def _own(now: Progress) -> float:
    """How many seconds those of the batch took that are answered; at least, for not all in flight are the oldest."""
    return max(0.0, now.spent - now.in_flight * now.oldest) / now.answered if now.answered else 0.0


def is_lost(usual: Answers | None, now: Progress) -> bool:
    """Has a request been in flight for so much longer than answers take that nothing is known of its end?

    usual: as measured. Where the batch's own answers take longer, they count.
    """
    known = max(_own(now), usual.most if usual else 0.0)
    return now.in_flight > 0 and known > 0 and now.oldest > max(FAR * known, known + FAR_SECONDS)


def _factor(usual: Answers, now: Progress) -> float:
    """How many times longer the answers of this batch are than usual.

    Until half of those in flight are answered, the median is at least as long as the oldest has lasted; no more is
    known, because the shortest answers end first. If half ends sooner than the usual median, answers are shorter. Once
    even the longest could have ended, the mean is that of all answers so far, and of one usual window.
    """
    if 2 * now.answered < now.in_flight:
        return max(1.0, 2 * now.oldest / usual.median - 1)  # expected to take as long again as they are late
    if not now.spent or not (now.answered or now.in_flight):  # it began before this was recorded, or was interrupted
        return 1.0
    factor = min(1.0, now.spent / (now.answered + now.in_flight / 2) / usual.median)
    if now.lasted > usual.most * factor:
        mean = usual.mean * factor
        ended = now.answered + now.in_flight * min(1.0, now.oldest / mean)
        factor *= (now.in_flight * mean + now.spent) / (now.in_flight + ended) / mean
    return factor


def longest(usual: Answers, requests: float) -> float:
    """Seconds of the longest of so many answers: between the median, for one answer, and the 99th percentile. The
    logarithm of how many answers are longer is taken to fall evenly between the two."""
    if requests <= 0:
        return 0.0
    part = math.log((max(requests, 1) + 1) / 2) / math.log(50)
    return usual.median + (usual.most - usual.median) * min(1.0, part)


def crowded(usual: Answers, at_once: float) -> Answers:
    """How long answers take with more in flight.

    An engine with capacity left is not slowed down by more requests; one without is slowed down in proportion. The
    fourth root lies between: for sixteen times as many it errs by a factor of two at most, for engines from no slowing
    at all to the square root. With fewer in flight, answers are assumed to take as long.
    """
    return usual.times(max(1.0, at_once / usual.at_once) ** CROWDED)

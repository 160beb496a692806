"""How long a batch takes, and still takes, from how long answers took before. Numbers in, seconds out.

Seconds per request alone say little about another batch: three requests in flight take as long as one of them, and a
full window is many times faster. So a measurement of a turn has how long its answers took and how many were in flight;
a batch is then so many answers in a window of so many.
"""

import math

from models_registry.speed.speeds import Answers

CROWDED = 0.25  # with twice as many in flight an answer takes 2 ** CROWDED as long; see `crowded`
LUCK = 2.0  # factor by which the last answers may be longer than so few usually are, or end earlier than the longest


def whole(usual: Answers, window: int, requests: int) -> float:
    """Seconds from the first request to the last answer: until the last is sent, plus the longest answer after that."""
    return sending(usual, window, requests) + longest(usual, min(window, requests))


def sending(usual: Answers, window: int, requests: int) -> float:
    """Seconds until the last request is sent: requests · mean / window, less the time that those in flight still take
    then. That time is E[x²] / 2 E[x] for each; a few long answers among many short ones make it exceed the mean."""
    if requests <= window:
        return 0.0
    spread = usual.most - usual.median
    part = min(1.0, max(0.0, (usual.mean - usual.median) / spread)) if spread > 0 else 0.0
    square = (1 - part) * usual.median**2 + part * usual.most**2  # as if there were answers of two lengths only
    return max(0.0, requests * usual.mean / window - max(usual.mean, square / 2 / usual.mean))


def longest(usual: Answers, requests: int) -> float:
    """Seconds of the longest of so many answers: between the median, for one answer, and the 99th percentile. The
    logarithm of how many answers are longer is taken to fall evenly between the two."""
    if not requests:
        return 0.0
    part = math.log((requests + 1) / 2) / math.log(50)
    return usual.median + (usual.most - usual.median) * min(1.0, part)


def crowded(usual: Answers, at_once: int) -> Answers:
    """How long answers take with more in flight.

    An engine with capacity left is not slowed down by more requests; one without is slowed down in proportion. The
    fourth root lies between: for sixteen times as many it errs by a factor of two at most, for engines from no slowing
    at all to the square root. With fewer in flight, answers are assumed to take as long.
    """
    return usual.times(max(1.0, at_once / usual.at_once) ** CROWDED)


def left(
    usual: Answers,
    window: int,
    answered: int,
    pending: int,
    elapsed: float | None,
    oldest: float,
    live: float | None = None,
) -> float:
    """Seconds until the last answer of a batch that runs.

    usual: as `crowded` gives it for this batch. elapsed: seconds since its first request; None if it was interrupted
    since, and then the rest counts as a batch of its own. oldest: seconds since the oldest in flight was sent. live:
    recent seconds per request; None before half of the first window has ended.

    Its answers are assumed to be as long as the measured ones times one factor, which is learned as it runs.
    """
    if not pending:
        return 0.0
    if elapsed is None:
        return _resumed(usual, window, pending, oldest, live)
    requests = answered + pending
    usual = usual.times(_factor(usual, min(window, requests), answered, pending, elapsed, oldest))
    unsent = max(0, pending - window)
    due = whole(usual, window, requests) - elapsed
    if pending < min(window, requests):
        due = min(max(due, (usual.most - oldest) / LUCK), LUCK * longest(usual, pending))
    return max(due, unsent * usual.mean / window, usual.median - oldest, oldest - usual.most)


def _factor(usual: Answers, at_once: int, answered: int, pending: int, elapsed: float, oldest: float) -> float:
    """How many times longer the answers of this batch are than usual.

    Until half of a window has ended, the median is at least as long as the batch has lasted; no more is known, because
    the shortest answers end first. If half ends sooner than the usual median, answers are shorter. Once even the
    longest could have ended, the mean is that of all answers so far, and of one usual window. Once all are sent and the
    window is not full, the batch is between its last request and its end.
    """
    if 2 * answered < at_once:
        return _late(elapsed, usual.median)
    in_flight = min(pending, at_once)
    requests = answered + pending
    if pending < at_once < requests:
        sent = sending(usual, at_once, requests)
        most = elapsed / sent if sent else math.inf
        return max(min(1.0, most), elapsed / whole(usual, at_once, requests))
    factor = min(1.0, at_once * elapsed / (answered + in_flight / 2) / usual.median)
    if pending < at_once:
        return max(factor, elapsed / longest(usual, requests))
    if elapsed > usual.most * factor:
        usual = usual.times(factor)
        ended = answered + in_flight * min(1.0, oldest / usual.mean)
        factor *= at_once * (usual.mean + elapsed) / (at_once + ended) / usual.mean
    return factor


def _resumed(usual: Answers, window: int, pending: int, oldest: float, live: float | None) -> float:
    if live is None:
        usual = usual.times(_late(oldest, usual.median))
        return max(whole(usual, window, pending) - oldest, max(0, pending - window) * usual.mean / window)
    usual = usual.times((usual.mean + live * min(window, pending)) / 2 / usual.mean)
    return max(whole(usual, window, pending) - min(oldest, usual.mean), oldest - usual.most)


def _late(lasted: float, median: float) -> float:
    """The factor for answers most of which have not ended: they are expected to take as long again as they are late."""
    return max(1.0, 2 * lasted / median - 1)

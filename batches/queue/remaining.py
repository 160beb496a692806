"""How long a batch takes, and still takes, by how long answers took before. Pure: numbers in, seconds out.

A pace alone, seconds over requests, says little of another batch: three requests in flight together take as long as one
of them, and a full window is many times faster. So what is kept of a turn is how long its answers took, and how many
were in flight; a batch is then so many answers in a window of so many.
"""

import math

from models_registry.speed.speeds import Answers

CROWDED = 0.25  # with twice as many in flight an answer takes 2 ** CROWDED as long; see `crowded`
LUCK = 2.0  # by so much the last ones may be longer than so few are, or end before the longest would


def whole(usual: Answers, window: int, requests: int) -> float:
    """Seconds from the first request to the last answer: until the last is sent, and then the longest that is left."""
    return sending(usual, window, requests) + longest(usual, min(window, requests))


def sending(usual: Answers, window: int, requests: int) -> float:
    """Seconds until the last request is sent: all of requests · mean / window, but for what those in flight still take
    then. That is E[x²] / 2 E[x] for each, which long ones among many short ones make more than the mean."""
    if requests <= window:
        return 0.0
    spread = usual.most - usual.median
    part = min(1.0, max(0.0, (usual.mean - usual.median) / spread)) if spread > 0 else 0.0
    square = (1 - part) * usual.median**2 + part * usual.most**2  # as if there were answers of two lengths only
    return max(0.0, requests * usual.mean / window - max(usual.mean, square / 2 / usual.mean))


def longest(usual: Answers, requests: int) -> float:
    """Of so many answers: from the median, of one, to the 99th percentile, as if the logarithm of how many are longer
    fell evenly between the two."""
    if not requests:
        return 0.0
    part = math.log((requests + 1) / 2) / math.log(50)
    return usual.median + (usual.most - usual.median) * min(1.0, part)


def crowded(usual: Answers, at_once: int) -> Answers:
    """As answers are with more in flight. An engine that has room is not slowed down by them, one that has none by as
    much as they are more: the power of a quarter errs by two at most for sixteen times as many, from engines that are
    not slowed down at all to those that are by the square root. Fewer are taken to be as long."""
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

    usual: as `crowded` gives it for this batch. elapsed: since its first request, None where it was interrupted since:
    then what is left is a batch of its own. oldest: since the oldest in flight was sent. live: seconds per request of
    late, None before half of the first window has ended.

    Its answers are taken to be as long as those measured before, but for one factor, which is learned.
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
    """How much longer the answers of a batch are than usual.

    Until half of a window has ended, its median is as long as that has lasted at least; the rest says nothing, for the
    shortest end first. If it has ended in less than the median, they are shorter. Once the longest could have ended
    too, the mean is that of all so far, and of one window as usual. Once all are sent, and there is room in the window,
    what counts is that the batch is between its last request and its end.
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
    """By how much answers are longer of which most have not ended: as long again as they are late."""
    return max(1.0, 2 * lasted / median - 1)

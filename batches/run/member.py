"""One batch in a turn: which requests it has left, what is in flight, and which answers are not committed yet."""

import enum
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from batches.models import Batch
from batches.run.commit import Entry, Pending
from batches.run.outcomes import Outcome
from batches.run.pace import Rates
from models_registry.models import Model
from models_registry.speed.measurements import Tally
from vbs.openai import raw_json

PAGE = 500  # pending requests that are read at once
EXPECTED_TOKENS = 128  # of an answer, before there was one
COMMON = 8  # answers of its own that weigh as much as what is common on the engine
BYTES_A_TOKEN = 4  # of a line in the input file


class RunEnd(enum.Enum):
    """Why a batch left a turn, in words for its log."""

    DONE = "no request of this model is left"
    CLOSED = "the batch was cancelled or has expired"
    FETCHING = "its model is being fetched"
    YIELDED = "something more urgent waits"
    PAUSED = "the queue is paused"
    STOPPED = "this worker has to stop"


# Seconds for which requests in flight may go on when the batch has to leave the engine.
DRAIN = {RunEnd.YIELDED: 30.0, RunEnd.PAUSED: 30.0, RunEnd.STOPPED: 2.0}


class Lengths:
    """How many tokens the answers have on the average, of all batches that share an engine."""

    def __init__(self) -> None:
        self._answers = self._written = 0

    def add(self, written: int) -> None:
        self._answers += 1
        self._written += written

    @property
    def average(self) -> float:
        return self._written / self._answers if self._answers else EXPECTED_TOKENS


class Segment:
    """The requests of a batch for one of its models. index: which of them. asked: the name that the requests use."""

    def __init__(self, index: int, asked: str, model: Model) -> None:
        self.index, self.asked, self.model = index, asked, model
        self.served_name = raw_json.raw(model.served_name)


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A request that is in flight, and the key of its call. level: how many deaths of engines it counts as having seen.
    prompt: the tokens that its batch was charged for what is sent."""

    member: "Member"
    segment: Segment
    row: Pending
    level: int
    prompt: float
    at: float
    tally: Tally


class Member:
    """A batch in a turn.

    settled: tokens that it was charged for what is answered. common: the lengths of answers on its engine. joining: how
    many requests it has sent since it came in; None once it has its share of what is in flight. end: why it is to
    leave; then nothing new is sent, and what is in flight may go on until `drained_by`. trouble: an error that concerns
    this batch alone. waited: the longest time in which it had requests to send and others were served, in seconds.
    """

    def __init__(self, batch: Batch, priority: int, segments: Sequence[Segment], opened: ExitStack, file: int) -> None:
        self.batch, self.priority, self.segments = batch, priority, list(segments)
        self.file = file  # descriptor of the input file
        self.started = False
        self.renewed = time.monotonic()
        self.settled = 0.0
        self.common = Lengths()
        self.joining: int | None = None
        self.end: RunEnd | None = None
        self.drained_by = 0.0
        self.trouble: Exception | None = None
        self.late = False  # it seems to be expired
        self.closed = False  # it was cancelled, or has expired
        self.in_flight: dict[int, Sent] = {}  # by the ids of the rows, the oldest first
        self.outcomes: list[Outcome] = []
        self.rates: Rates | None = None
        self.waited = 0.0
        self._served_at = time.monotonic()
        self._opened = opened
        self._answers = self._written = self._sent = 0
        self.rewind()

    def close(self) -> None:
        """Close the input file."""
        self._opened.close()

    # The requests that it has left

    def rewind(self) -> None:
        """Read its pending requests from the first one again."""
        self.ready: deque[tuple[Segment, Pending]] = deque()  # those that have seen no death
        self.suspects: dict[int, deque[tuple[Segment, Pending]]] = {}  # the others, by the deaths that they have seen
        self._unread = deque(self.segments)
        self._after: Pending | None = None
        self.reading = False
        self.in_flight.clear()
        self._prompts = 0.0  # tokens of what is in flight

    @property
    def wants_page(self) -> bool:
        return bool(self._unread) and not self.reading and len(self.ready) < PAGE // 2

    @property
    def next_page(self) -> tuple[str, int, Pending | None, int]:
        """The arguments of `commit.pending` for the next page."""
        return self.batch.pk, self._unread[0].index, self._after, PAGE

    def add_page(self, rows: Sequence[Pending], last: int) -> None:
        """Take a page in. last: the number of deaths from which on each request runs alone."""
        segment = self._unread[0]
        for row in rows:
            if row.crashes:
                self.suspects.setdefault(min(row.crashes, last), deque()).append((segment, row))
            else:
                self.ready.append((segment, row))
        self._after = rows[-1] if rows else None
        if len(rows) < PAGE:
            self._unread.popleft()
            self._after = None

    @property
    def may_send(self) -> bool:
        return self.end is None and self.trouble is None and not self.late

    def levels(self) -> set[int]:
        """How many deaths the requests have seen that are not sent yet."""
        return {*self.suspects, 0} if self.ready or self._unread else set(self.suspects)

    def has(self, level: int) -> bool:
        """Can a request be sent that has seen so many deaths?"""
        return bool(self.suspects.get(level) if level else self.ready)

    def pop(self, level: int) -> tuple[Segment, Pending]:
        if not level:
            return self.ready.popleft()
        found = self.suspects[level].popleft()
        if not self.suspects[level]:
            del self.suspects[level]
        return found

    @property
    def unsent(self) -> int:
        """How many requests it can send; of those that are not read yet a page counts."""
        if not self.may_send:
            return 0
        return len(self.ready) + sum(map(len, self.suspects.values())) + (PAGE if self._unread else 0)

    @property
    def is_done(self) -> bool:
        """Have all requests been sent and answered?"""
        return not (self.ready or self._unread or self.suspects or self.in_flight)

    @property
    def _deaths(self) -> int | None:
        """How many deaths of engines its pending requests have seen, the most; None before its first page is read. What
        was ever sent comes before what was not, so later pages have none that has seen one."""
        if self._unread and not self.ready:
            return None
        return max([*self.suspects, *(sent.level for sent in self.in_flight.values())], default=0)

    # What is in flight, and what came of it

    def send(self, segment: Segment, row: Pending, level: int, tally: Tally) -> Sent:
        """Charge the batch for a request that is sent now."""
        prompt = row.length / BYTES_A_TOKEN
        self._prompts += prompt
        if self.joining is not None:
            self.joining += 1
        self._served_at = time.monotonic()
        self._sent += 1
        sent = self.in_flight[row.id] = Sent(self, segment, row, level, prompt, self._served_at, tally)
        return sent

    def answered(self, sent: Sent, made: Outcome) -> None:
        """Keep the outcome until it is committed. It is charged by the tokens that there were."""
        self._prompts -= sent.prompt
        self.outcomes.append(made)
        if tokens := made.input_tokens + made.output_tokens:
            self.settled += tokens
            self._answers += 1
            self._written += made.output_tokens
            self.common.add(made.output_tokens)
        else:
            self.settled += sent.prompt + self._expected
        if self.rates:
            self.rates.add(made)

    @property
    def _expected(self) -> float:
        """Tokens of an answer: like its own so far, and at first like those of the others."""
        return (self._written + COMMON * self.common.average) / (self._answers + COMMON)

    @property
    def spent(self) -> float:
        """Tokens that it was charged for, by which batches of one priority share the engine. What is in flight counts
        by what is expected now, so that a wrong guess ends with the first answers."""
        return self.settled + self._prompts + len(self.in_flight) * self._expected

    def chosen(self) -> None:
        """It is its turn to send, after others."""
        self.waited = max(self.waited, time.monotonic() - self._served_at)

    def idle(self) -> None:
        """It has nothing to send now, so it does not wait."""
        self._served_at = time.monotonic()

    def take(self) -> Entry:
        """What is to be committed of it now."""
        taken, self.outcomes = self.outcomes, []
        self.renewed = now = time.monotonic()
        oldest = next(iter(self.in_flight.values()), None)
        assert self.rates
        age = None if oldest is None else now - oldest.at
        pace = self.rates.read(age, self._sent, len(self.in_flight), self._deaths)
        return Entry(self.batch.pk, taken, pace)

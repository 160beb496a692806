"""Which batch of a turn sends next: by priority, then by tokens; what has seen deaths apart. No engine, no database."""

import itertools
import random
from collections import Counter, deque
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from batches.run.commit import Pending
from batches.run.member import PAGE, Member
from batches.run.share import IN_A_ROW, SUSPECTS_WAIT, Share


def member(name, count, length=400, priority=0, crashes=0):
    model = SimpleNamespace(served_name="m", pk=1)
    made = Member(SimpleNamespace(pk=name), priority, [], ExitStack(), -1)
    segment = SimpleNamespace(index=0, asked="m", model=model)
    made._unread.append(segment)
    while made._unread:
        start = made._after.line if made._after else 0
        page = [Pending(n, None, n + 1, 0, length, str(n), crashes) for n in range(start, min(count, start + PAGE))]
        made.add_page(page, last=3)
    return made


def play(share, members, sends, answer=128):
    """Send so many requests, each answered at once. The names of their batches."""
    sent = []
    for _ in range(sends):
        chosen = share.next(members, False)
        if chosen is None:
            break
        segment, row = chosen.pop(share.level)
        share.sent()
        one = chosen.send(segment, row, share.level, None)
        chosen.answered(one, SimpleNamespace(input_tokens=row.length // 4, output_tokens=answer))
        chosen.in_flight.pop(row.id)
        sent.append(chosen.batch.pk)
    return sent


class Engine:
    """Has so many places, and answers what was sent first, with so many tokens."""

    def __init__(self, places, answer):
        self.share, self.places, self.answer = Share(places), places, answer
        self.members, self.running = [], deque()

    def join(self, *newcomers):
        for one in newcomers:
            self.members.append(one)
            self.share.newcomer(one)

    def fill(self):
        while len(self.running) < self.places and (chosen := self.share.next(self.members, bool(self.running))):
            segment, row = chosen.pop(self.share.level)
            self.share.sent()
            self.running.append(chosen.send(segment, row, self.share.level, None))

    def run(self, answers):
        """The places that each batch has after so many answers."""
        self.fill()
        for _ in range(answers):
            one = self.running.popleft()
            del one.member.in_flight[one.row.id]
            one.member.answered(one, SimpleNamespace(input_tokens=20, output_tokens=self.answer))
            self.fill()
        return [len(one.in_flight) for one in self.members]


@pytest.mark.parametrize("answer", [2, 128, 2000])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_who_comes_when_one_has_all_places_has_its_share_of_them_at_once(count, answer):
    """However long the answers are, of which nothing is known yet."""
    engine, share = Engine(320, answer), 320 / count
    engine.join(member("first", 6000))
    engine.run(0)
    engine.join(*(member(f"{n}", 6000) for n in range(1, count)))
    assert engine.run(0) == [320, *[0] * (count - 1)]
    had = engine.run(320)
    assert had[0] > 0 and all(one >= 0.7 * share for one in had[1:]), "as soon as the places were free"
    engine.run(320)
    for _ in range(8):
        had = engine.run(320)
        assert all(abs(one - share) <= 40 for one in had), had


@pytest.mark.parametrize("answer", [2, 128, 2000])
def test_who_comes_when_much_is_done_has_its_share_and_no_more(answer):
    engine = Engine(320, answer)
    engine.join(member("first", 9000))
    engine.run(4000)
    engine.join(member("second", 2500))
    had = engine.run(320)
    assert min(had) >= 80, "as soon as the places were free"
    engine.run(320)
    for _ in range(8):
        had = engine.run(320)
        assert all(abs(one - 160) <= 40 for one in had), had


def test_those_who_come_one_after_the_other_do_not_starve_the_one_that_is_there():
    """Each has at most its share of the places, though its requests are the shorter."""
    engine = Engine(32, 50)
    first = member("first", 6000)
    engine.join(first)
    engine.run(500)
    before = first.unsent
    for n in range(20):
        engine.members[1:] = [one for one in engine.members[1:] if not one.is_done]
        engine.join(member(f"{n}", 16))
        engine.run(32)
    assert before - first.unsent >= 20 * 16 - 32


def test_the_highest_priority_sends_first():
    members = [member("low", 50), member("high", 50, priority=1)]
    assert play(Share(4), members, 100) == ["high"] * 50 + ["low"] * 50


def test_batches_of_one_priority_share_by_tokens():
    members = [member("long", 1000, length=8000), member("short", 1000, length=400)]
    sent = Counter(play(Share(4), members, 600))
    tokens = {name: count * (128 + (2000 if name == "long" else 100)) for name, count in sent.items()}
    assert abs(tokens["long"] - tokens["short"]) <= 2 * IN_A_ROW + 4000


def test_a_newcomer_gets_its_share_from_then_on_and_no_more():
    share, old = Share(4), member("old", 2000)
    play(share, [old], 1000)
    new = member("new", 500)
    share.newcomer(new)
    sent = play(share, [old, new], 400)
    assert abs(sent.count("new") - 200) <= 2 * IN_A_ROW / 228 + 1


def test_the_longest_wait_is_bounded_whoever_else_is_there():
    """Between two turns of a batch no other sends more than its tokens in a row, and a request."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    drawn = random.Random(seed)
    members = [member(f"{n}", 400, length=drawn.randint(100, 20_000)) for n in range(20)]
    share = Share(64)
    sent = play(share, members, 4000)
    costs = {one.batch.pk: one.spent / (400 - one.unsent) for one in members}
    in_a_row = {name: IN_A_ROW / cost + 1 for name, cost in costs.items()}  # requests, at most
    for one in members:
        places = [place for place, name in enumerate(sent) if name == one.batch.pk]
        places += [len(sent)] if one.unsent else []
        longest = max(after - before for before, after in itertools.pairwise(places))
        # While it waits, another has as many tokens as make up for those that it has had itself at once.
        ahead = max(IN_A_ROW, costs[one.batch.pk]) * 2
        assert longest <= sum(ahead / cost + in_a_row[name] for name, cost in costs.items() if name != one.batch.pk) + 1


def test_what_has_seen_deaths_is_apart_and_comes_last():
    members = [member("fine", 20), member("suspect", 5, priority=1, crashes=1)]
    share = Share(4)
    assert play(share, members, 20) == ["fine"] * 20
    assert share.next(members, True) is None, "what is in flight has to end first"
    assert play(share, members, 5) == ["suspect"] * 5 and share.level == 1


def test_what_has_seen_deaths_does_not_wait_for_ever():
    members = [member("fine", 2000), member("suspect", 5, crashes=2)]
    share = Share(4)
    sent = play(share, members, SUSPECTS_WAIT * 4)
    while share.next(members, True):
        sent += play(share, members, 1)
    assert sent.count("fine") <= SUSPECTS_WAIT * 4 + IN_A_ROW / 228 + 1
    assert share.next(members, True) is None, "what is in flight has to end first"
    assert play(share, members, 10) == ["suspect"] * 5 + ["fine"] * 5


def test_who_is_late_or_leaves_sends_nothing():
    one, other = member("one", 5), member("other", 5)
    share = Share(4)
    one.late, other.trouble = True, ValueError()
    assert play(share, [one, other], 10) == []
    one.late = False
    assert play(share, [one, other], 10) == ["one"] * 5


def test_a_batch_knows_the_deaths_that_its_requests_have_seen():
    assert member("fine", 3)._deaths == 0 and member("suspect", 3, crashes=2)._deaths == 2
    one = member("alone", 1, crashes=2)
    segment, row = one.pop(2)
    one.send(segment, row, 2, None)
    assert one._deaths == 2, "in flight"
    one.rewind()
    one._unread.append(segment)
    assert one._deaths is None, "before they are read"

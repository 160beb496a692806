"""What was worked out a moment ago is told again, for a while, and of a bounded number of things."""

import threading

import pytest

from vbs import timed_cache
from vbs.timed_cache import Kept


def test_it_is_made_anew_when_it_is_old(monkeypatch):
    values, made = Kept(), []
    now = [0.0]
    monkeypatch.setattr(timed_cache.time, "monotonic", lambda: now[0])

    def get(seconds):
        return values.get("a", seconds, lambda: made.append(1) or len(made))

    assert [get(2), get(2)] == [1, 1]
    now[0] = 1.9
    assert [get(2), get(1), get(2)] == [1, 2, 2]
    values.forget()
    assert get(2) == 3


def test_it_does_not_grow(monkeypatch):
    monkeypatch.setattr(timed_cache, "MOST", 3)
    values = Kept()
    for key in range(10):
        values.get(key, 60, lambda: 0)
    assert len(values._entries) == 3 and values.get(9, 60, lambda: 1) == 0 and values.get(0, 60, lambda: 1) == 1


def test_what_cannot_be_made_is_tried_again_by_the_next():
    values = Kept()
    with pytest.raises(ZeroDivisionError):
        values.get("a", 60, lambda: 1 // 0)
    assert values.get("a", 60, lambda: 2) == 2


def renewing(values):
    """Somebody is just making the second value; what lets it be made."""
    values.get("a", 60, lambda: 1)
    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: values.get("a", 0, lambda: begun.set() or (over.wait(20) and 2)))
    thread.start()
    assert begun.wait(20)
    return thread, over


def test_who_comes_meanwhile_is_told_the_one_before():
    values = Kept(late=60)
    thread, over = renewing(values)
    assert values.get("a", 0, lambda: 3) == 1
    over.set()
    thread.join()
    assert values.get("a", 60, lambda: 3) == 2


def test_who_comes_meanwhile_waits_if_the_one_before_is_too_old(monkeypatch):
    values = Kept(late=60)
    now = [0.0]
    monkeypatch.setattr(timed_cache.time, "monotonic", lambda: now[0])
    thread, over = renewing(values)
    now[0] = 61.0
    threading.Timer(0.1, over.set).start()
    assert values.get("a", 1, lambda: 3) == 2
    thread.join()


def test_what_is_forgotten_while_it_is_made_is_made_anew():
    values = Kept()
    thread, over = renewing(values)
    values.forget()
    assert values.get("a", 60, lambda: 3) == 3
    over.set()
    thread.join()
    assert values.get("a", 60, lambda: 4) == 3

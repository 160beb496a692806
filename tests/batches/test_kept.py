"""What was worked out a moment ago is told again, for a while, and of a bounded number of things."""

from batches import kept
from batches.kept import Kept


def test_it_is_made_anew_when_it_is_old(monkeypatch):
    values, made = Kept(), []
    now = [0.0]
    monkeypatch.setattr(kept.time, "monotonic", lambda: now[0])

    def get(seconds):
        return values.get("a", seconds, lambda: made.append(1) or len(made))

    assert [get(2), get(2)] == [1, 1]
    now[0] = 1.9
    assert [get(2), get(1), get(2)] == [1, 2, 2]
    values.forget()
    assert get(2) == 3


def test_it_does_not_grow(monkeypatch):
    monkeypatch.setattr(kept, "MOST", 3)
    values = Kept()
    for key in range(10):
        values.get(key, 60, lambda: 0)
    assert len(values._values) == 3 and values.get(9, 60, lambda: 1) == 0 and values.get(0, 60, lambda: 1) == 1

"""Who is next on the GPU. No database."""

from datetime import UTC, datetime, timedelta

import pytest

from models_registry.gpu import Work, choose

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = timedelta(minutes=30)


def work(name, minutes=1, model="m", priority=0, left=None):
    deadline = None if left is None else NOW + timedelta(minutes=left)
    return Work(None, name, model, priority, NOW - timedelta(minutes=minutes), deadline)


@pytest.mark.parametrize(
    "waiting, expected",
    [
        ([], None),
        ([work("young", 1), work("old", 2)], "old"),
        ([work("loaded", 1, "here"), work("older", 2)], "loaded"),
        ([work("loaded", 1, "here"), work("urgent", 1, priority=1)], "urgent"),
        ([work("loaded", 1, "here"), work("patient", 29), work("overdue", 31)], "overdue"),
        ([work("loaded", 1, "here"), work("due soon", 1, left=10)], "due soon"),
        ([work("loaded", 1, "here"), work("due later", 1, left=60)], "loaded"),
        ([work("low but overdue", 99, priority=-1), work("normal", 1)], "normal"),
        ([work("overdue", 40), work("longer overdue", 50)], "longer overdue"),
        ([work("overdue", 50), work("overdue and loaded", 40, "here")], "overdue"),
        ([work("b"), work("a")], "a"),
    ],
)
def test_the_order(waiting, expected):
    for order in (waiting, waiting[::-1]):
        chosen = choose(order, "here", NOW, PATIENCE)
        assert (chosen and chosen.id) == expected


def test_nobody_starves_while_the_loaded_model_keeps_getting_work():
    """A stream of work for the loaded model, and one that needs a swap: it runs once it has waited long enough."""
    now, loaded, waited = NOW, "here", None
    other = Work(None, "other", "m", 0, NOW)
    for minute in range(60):
        now = NOW + timedelta(minutes=minute)
        steady = Work(None, f"steady {minute}", "here", 0, now)
        chosen = choose([steady, other], loaded, now, PATIENCE)
        if chosen is other:
            waited = minute
            break
    assert waited == 31

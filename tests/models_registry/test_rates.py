"""How much a second: on the whole, and of late."""

from types import SimpleNamespace

import pytest

from models_registry import rates
from models_registry.rates import Meter, per_second


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(rates, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_on_the_whole():
    assert per_second(4, 8, 0) == (2, 0)
    assert per_second(0, 1) == (1 / rates.LEAST_SECONDS,), "nothing takes no time"


def test_of_late(clock):
    meter = Meter(10, 100)  # what is there already was not brought by us
    clock.seconds += 2
    assert meter.read(110) == (5,)
    for _ in range(20):
        clock.seconds += 1
        found = meter.read(110)
    assert found == (0,), "what came longer ago does not count"
    clock.seconds += 1
    assert meter.read(132)[0] == pytest.approx(22 / 11), "from a look on that is ten seconds old, or a little more"


def test_a_look_that_comes_late_still_tells_what_came_since_the_one_before(clock):
    meter = Meter(10, 0, 0)
    clock.seconds += 60
    assert meter.read(60, 120) == (1, 2)
    clock.seconds += 60
    assert meter.read(60, 240) == (0, 2)

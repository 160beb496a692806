"""Plots: marks and ticks stand where their values belong, whatever these are."""

from datetime import timedelta

import pytest
from django.utils import timezone

from vbs.pages.charts import plots


def test_a_plot_puts_values_where_they_belong():
    start = timezone.now()
    points = [plots.Point(start + timedelta(hours=n), value, "batch") for n, value in enumerate((0, 50, 100))]
    plot = plots.plot("Speed", "tokens/s", points)
    low, middle, high = (float(mark.y) for mark in plot.marks)
    assert low == plots.HEIGHT - plots.BOTTOM and high == plots.TOP and low - middle == pytest.approx(middle - high)
    first, _, last = (float(mark.x) for mark in plot.marks)
    assert plots.LEFT < first < last < plots.WIDTH
    assert [tick.text for tick in plot.up] == ["0", "50", "100"]
    assert plot.description == "3 × batch: 0 to 100 tokens/s"


@pytest.mark.parametrize("value", [0, 1e-9, 0.3, 7, 99.9, 123_456, 1e15])
def test_a_plot_of_any_size_stays_within_its_frame(value):
    plot = plots.plot("t", "u", [plots.Point(timezone.now(), value, "load")])
    (mark,) = plot.marks
    assert plots.TOP <= float(mark.y) <= plots.HEIGHT - plots.BOTTOM
    assert 2 <= len(plot.up) <= 6 and len({tick.text for tick in plot.up}) == len(plot.up)


def test_nothing_to_draw():
    assert plots.plot("t", "u", []) is None
    assert plots.plot("t", "u", [plots.Point(timezone.now(), float("nan"), "load")]) is None

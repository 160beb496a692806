"""Charts: the table behind each says what was measured, whatever the values are."""

from datetime import timedelta

import pytest
from django.template.loader import render_to_string
from django.utils import timezone

from vbs.pages.charts.series import MOST_STEPS, Amount, Point, Row, bars, lines, points, rates

START = timezone.now().replace(minute=0, second=0, microsecond=0)


def rows(*values):
    return [Row(START + timedelta(hours=n), each) for n, each in enumerate(values)]


def test_measurements_of_one_time_share_a_row():
    chart = points(
        "Memory taken",
        "GiB",
        [
            Point(START + timedelta(hours=1), 3, "measured"),
            Point(START, 2, "predicted"),
            Point(START, 1, "measured"),
            Point(START, float("nan"), "lost"),
        ],
    )
    assert chart.kinds == ("predicted", "measured") and chart.id == "chart-memory-taken"
    assert [row.values for row in chart.rows] == [(2, 1), (None, 3)]
    assert [row.cells for row in chart.rows] == [("2", "1"), ("–", "3")]
    assert "predicted: 2 GiB; measured: 1 to 3 GiB" in chart.description


def test_short_runs_beside_long_ones_make_no_teeth():
    """Many turns of a second that were slow, beside long ones that were not: a line near what the sum says."""
    turns = [Amount(START + timedelta(minutes=n), 50.0, 1.0, "batch") for n in range(1000) if n % 10]
    turns += [Amount(START + timedelta(minutes=n), 6000.0, 60.0, "batch") for n in range(0, 1000, 10)]
    chart = rates("Output tokens per second", "tokens/s", [*turns, Amount(START, 8.0, 2.0, "benchmark")])
    batch = [row.values[0] for row in chart.rows if row.values[0] is not None]
    assert 1 < len(chart.rows) <= MOST_STEPS + 1 and chart.kinds == ("batch", "benchmark")
    assert min(batch) > 85 and max(batch) < 100, batch
    assert [row.values[1] for row in chart.rows if row.values[1] is not None] == [4.0]
    assert rates("t", "u", [Amount(START, 1.0, 0.0, "batch")]) is None, "no time is no rate"


def test_nothing_to_draw():
    assert points("t", "u", []) is None and rates("t", "u", []) is None
    assert points("t", "u", [Point(START, float("nan"), "load")]) is None
    assert lines("t", "u", ["a"], [Row(START, (None,))]) is None


def test_bars_say_their_sums_and_the_busiest_time():
    chart = bars("Requests an hour", "requests", ("completed", "failed"), rows((1, 0), (1000, 2), (0, 0)), 3600)
    busiest = START + timedelta(hours=1)
    assert f": 1,001 completed, 2 failed; most in the time from {busiest:%H:%M} on, 1,002." in chart.description
    quiet = bars("t", "requests", ("completed", "failed"), rows((0, 0), (0, 0)), 3600)
    assert quiet.description.endswith("0 completed, 0 failed.")


@pytest.mark.parametrize("wrong", [[], [(1,)], [(1, -1)], [(1, float("inf"))], [(1, None)]])
def test_bars_of_what_is_no_amount_are_refused(wrong):
    with pytest.raises(ValueError):
        bars("t", "u", ("a", "b"), rows(*wrong), 3600)


@pytest.mark.parametrize("value", [0, 1e-9, 0.3, 7, 99.94, 123_456, 1e15])
def test_the_table_has_numbers_that_a_script_can_read(value):
    """What charts.js reads is what people read: digits, commas between thousands, or a dash."""
    chart = lines("t", "u", ["a"], rows((value,), (None,)))
    page = render_to_string("_chart.html", {"chart": chart})
    shown = chart.rows[0].cells[0]
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.005)
    assert f'<td class="number">{shown}</td>' in page and START.isoformat() in page
    assert page.count("<tr>") == 2 and 'data-kind="a"' in page


def test_a_name_is_escaped():
    page = render_to_string("_chart.html", {"chart": lines("<b>", "<i>", ["<u>"], rows((1,)))})
    assert "<b>" not in page and "<i>" not in page and "<u>" not in page

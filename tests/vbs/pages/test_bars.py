"""Bars over time: how high they are, what is written beside them, and what is said of them to who cannot see them."""

from datetime import UTC, datetime, timedelta

import pytest
from django.template.loader import render_to_string
from hypothesis import given
from hypothesis import strategies as st

from vbs.pages.charts.bars import LEAST, Bar, bars
from vbs.pages.charts.plots import TICKS, WIDTH

FIRST = datetime(2026, 11, 20, 18, tzinfo=UTC)


def day(*amounts, kinds=("completed", "failed")):
    rows = [Bar(FIRST + timedelta(hours=hour), one) for hour, one in enumerate(amounts)]
    return bars("Requests an hour", "requests", kinds, rows)


def heights(shown):
    return [[float(piece.height) for piece in column.pieces] for column in shown.columns]


def test_pieces_stand_on_each_other_and_are_as_high_as_their_amounts():
    shown = day((30, 10), (0, 0), (100, 0))
    assert [len(column.pieces) for column in shown.columns] == [2, 0, 1]
    completed, failed = shown.columns[0].pieces
    assert float(completed.height) == pytest.approx(3 * float(failed.height), abs=0.2)
    assert float(failed.y) + float(failed.height) == pytest.approx(float(completed.y), abs=0.11)
    assert float(completed.y) + float(completed.height) == pytest.approx(shown.top + shown.depth, abs=0.11)
    assert (completed.kind, failed.kind) == ("completed", "failed")
    assert heights(shown)[2][0] == pytest.approx(shown.depth)


def test_one_failure_among_a_million_is_seen():
    assert heights(day((1_000_000, 1)))[0][1] == LEAST


def test_a_time_in_which_nothing_happened_has_its_place():
    shown = day(*[(0, 0)] * 24)
    assert shown.empty and len(shown.columns) == 24 and not any(heights(shown))
    assert [tick.text for tick in shown.up] == ["0", "1"]
    assert 1 < len(shown.across) <= 6 and all(tick.text.endswith(":00") for tick in shown.across)


def test_what_is_said():
    shown = day((1_200, 3), (5, 0))
    assert shown.columns[0].text == "20 Nov 18:00: 1,200 completed, 3 failed"
    assert "1,205 completed, 3 failed" in shown.description and "18:00 on, 1,203" in shown.description
    assert day((2_000_000, 0)).up[-1].text == "2 M"


@pytest.mark.parametrize("rows", [[], [Bar(FIRST, (1,))], [Bar(FIRST, (1, -1))], [Bar(FIRST, (1, float("nan")))]])
def test_what_is_no_amount(rows):
    with pytest.raises(ValueError):
        bars("Requests", "requests", ("completed", "failed"), rows)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), min_size=1, max_size=96))
def test_everything_is_within_the_picture(amounts):
    shown = day(*amounts)
    assert len(shown.up) <= TICKS + 1
    for column in shown.columns:
        for piece in column.pieces:
            assert shown.left <= float(piece.x) and float(piece.x) + float(piece.width) <= WIDTH
            assert float(piece.y) >= shown.top - LEAST - 0.2
            assert float(piece.y) + float(piece.height) <= shown.top + shown.depth + 0.2


def test_the_picture_has_no_style_and_escapes_its_texts():
    shown = bars("<b>", "<i>", ("<u>",), [Bar(FIRST, (1,))])
    html = render_to_string("_bars.html", {"bars": shown})
    assert 'role="img"' in html and "<desc>" in html and "style" not in html
    assert "<b>" not in html and "<i>" not in html and "<u>" not in html

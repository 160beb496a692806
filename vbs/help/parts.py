"""What the page of the parts shows: each part that pages are made of, filled with made-up values that stay the same."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms

from vbs.pages.charts import series

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

COLORS = (
    ("ground", "behind the cards"), ("card", "of cards"), ("ink", "of text"), ("quiet", "of what explains"),
    ("line", "between rows"), ("hover", "under the pointer"), ("accent", "links, what is chosen"),
    ("good", "went well"), ("fair", "waits, or needs attention"), ("bad", "failed, or cannot be undone"),
    ("other", "a further series"),
)  # fmt: skip
STATES = (  # each is its own class
    ("Of a batch", ("validating", "queued", "loading", "running", "writing", "cancelling")),
    ("How it ended", ("completed", "failed", "expired", "cancelled")),
    ("Of a model", ("ready", "downloading", "paused", "loaded", "asleep", "unchecked")),
    ("Of an operation", ("queued", "running", "succeeded", "failed", "cancelled")),
    ("Of the queue", ("waiting", "paused")),
    ("Of a key", ("usable", "expired", "revoked")),
    ("Of a person", ("active", "inactive")),
    ("Of the server", ("health-ok", "health-attention", "health-bad")),
)
SPACES = (4, 8, 12, 16, 20, 28)  # px
READINGS = (
    {"name": "GPU memory", "text": "129 GiB of 140 GiB", "percent": 92},
    {"name": "Memory", "text": "21.4 GiB of 24.0 GiB", "percent": 89, "warns": True},
    {"name": "Processors", "text": "98 %", "percent": 98},
    {"name": "Requests at once", "text": "248"},
)


class SampleForm(forms.Form):
    """One field of each sort, and one that was filled in wrongly."""

    name = forms.CharField(label="Name", help_text="Shown first wherever the batch is.", initial="reviews")
    model = forms.ChoiceField(label="Model", choices=[("a", "smollm2-135m"), ("b", "qwen3-0.6b")])
    tokens = forms.IntegerField(label="Longest answer, in tokens", min_value=1)
    prompt = forms.CharField(
        label="Prompt template", widget=forms.Textarea({"rows": 3}), initial="Is this review positive? {review}"
    )
    keep = forms.BooleanField(label="Keep the results for 30 days", required=False, initial=True)


def context() -> dict[str, Any]:
    filled = {
        "name": "reviews",
        "model": "a",
        "tokens": "0",
        "prompt": "Is this review positive? {review}",
        "keep": "on",
    }
    return {
        "colors": COLORS,
        "states": STATES,
        "spaces": SPACES,
        "form": SampleForm(filled, label_suffix="", auto_id="sample_%s"),
        "at": AT,
        "readings": READINGS,
        "charts": [_pace(), _day(), _loads()],
    }


def _pace() -> series.Chart | None:
    rows = [
        series.Row(AT + timedelta(seconds=10 * n), (round(40 + 12 * math.sin(n / 6), 1), 2.0 if n % 17 == 5 else 0.0))
        for n in range(60)
    ]
    return series.lines("Requests per second", "requests/s", ("completed", "failed"), rows)


def _day() -> series.Chart:
    rows = [
        series.Row(AT.replace(minute=0) + timedelta(hours=n), (abs(9000 * math.sin(n / 4)) // 1, 120.0 * (n % 7 == 3)))
        for n in range(24)
    ]
    return series.bars("Requests an hour", "requests", ("completed", "failed"), rows, 3600)


def _loads() -> series.Chart | None:
    measured = [series.Point(AT + timedelta(hours=7 * n), 20 + 3 * (n % 4), "load") for n in range(9)]
    measured += [series.Point(AT + timedelta(hours=11 * n), 24 + 2 * (n % 3), "benchmark") for n in range(5)]
    return series.points("Seconds to load", "s", measured)

"""Days that somebody filters by. They are those of the time zone that the address names, or of UTC where it names none:
times.js puts the zone of the browser into the form, and so an address shows everybody the same rows."""

from datetime import UTC, date, datetime, time, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from django import forms

LONGEST = 60  # characters of a zone's name
FIRST = 1970  # no day before this year is asked for: what is kept is younger


def zone_of(name: str) -> tzinfo | None:
    """The zone of this name, UTC for an empty one, or None for one that is not known here."""
    if not name:
        return UTC
    try:
        return ZoneInfo(name) if len(name) <= LONGEST else None
    except (ValueError, LookupError, OSError):  # OSError: the name of a folder of zones
        return None


def first_moment(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(), zone) if day.year >= FIRST else datetime(FIRST, 1, 1, tzinfo=UTC)


def _day(label: str) -> forms.DateField:
    return forms.DateField(label=label, required=False, widget=forms.DateInput({"type": "date"}, "%Y-%m-%d"))


class DaysForm(forms.Form):
    """The days from which and to which rows are shown, both of them included, and their zone."""

    since = _day("From")
    until = _day("To")
    zone = forms.CharField(required=False, max_length=LONGEST, widget=forms.HiddenInput(attrs={"data-zone": ""}))

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        name = str(self["zone"].value() or "")
        shown = name if name and zone_of(name) else "UTC"
        for day in ("since", "until"):
            self.fields[day].label = f"{self.fields[day].label} ({shown})"

    def clean(self) -> dict[str, Any]:
        """With the zone itself in the place of its name."""
        given = super().clean() or self.cleaned_data
        since, until, name = given.get("since"), given.get("until"), given.get("zone", "")
        if since and until and since > until:
            self.add_error("until", f"{until} is before {since}: no day lies between them.")
        given["zone"] = zone_of(name) or UTC
        if (since or until) and not zone_of(name):
            self.add_error("since", f"{name!r} is no time zone that this server knows: name one such as Europe/Berlin.")
        return given

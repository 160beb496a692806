"""The filters of the history, which find batches among hundreds of thousands without counting."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta, tzinfo

from django import forms
from django.contrib.postgres.search import SearchQuery
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.http import QueryDict

from batches import phase
from batches.models import TERMINAL, WORDS, Batch, BatchQuerySet, BatchStatus
from vbs.accounts.models import Project
from vbs.pages.days import DaysForm, first_moment
from vbs.pages.viewer import Viewer, choices

PAGE = 50
NEAR = 500  # batches from where a page begins that are looked through one by one
MOST_WORDS = 10
LIVE = "live"
_LIVE = tuple(status for status in BatchStatus if status not in TERMINAL)
_STATES = [
    ("", "All"),
    (LIVE, "Live: not ended yet"),
    *((name, name.capitalize()) for name in (*phase.PHASES, *TERMINAL)),
]


class HistoryFilterForm(DaysForm):
    """What is asked for. All of it is optional."""

    state = forms.ChoiceField(label="State", choices=_STATES, required=False)
    model = forms.CharField(
        label="Model",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"list": "models", "autocomplete": "off", "dir": "auto", "spellcheck": "false"}),
    )
    project = forms.ChoiceField(label="Project", required=False)
    words = forms.CharField(
        label="Name, metadata, id",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"type": "search", "dir": "auto", "spellcheck": "false"}),
    )
    before = forms.CharField(required=False, max_length=40, widget=forms.HiddenInput)
    after = forms.CharField(required=False, max_length=40, widget=forms.HiddenInput)
    field_order = ("state", "model", "project", "since", "until", "words")

    def __init__(self, query: QueryDict, projects: Sequence[Project]) -> None:
        super().__init__(query, label_suffix="")
        if len(projects) < 2:  # there is nothing to choose
            del self.fields["project"]
        else:
            field = self.fields["project"]
            assert isinstance(field, forms.ChoiceField)
            field.choices = [("", "All"), *((str(one.pk), one.name) for one in projects)]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """The filters of one request, and the id before or after which its page of rows begins."""

    state: str = ""
    model: str = ""
    project: str = ""
    since: date | None = None
    until: date | None = None
    zone: tzinfo = UTC
    words: str = ""
    before: str = ""
    after: str = ""

    @property
    def narrows(self) -> bool:
        return any((self.state, self.model, self.project, self.since, self.until, self.words))

    def query(self, **place: str) -> str:
        """The query string of the page of rows that begins here."""
        given = QueryDict(mutable=True)
        for name in ("state", "model", "project", "since", "until", "words"):
            if value := getattr(self, name):
                given[name] = str(value)
        if self.since or self.until:
            given["zone"] = str(self.zone)
        given.update(place)
        return f"?{given.urlencode()}" if given else "?"


def form(viewer: Viewer, query: QueryDict) -> HistoryFilterForm:
    return HistoryFilterForm(query, choices(viewer) if viewer.project is None else [])


def page(viewer: Viewer, asked: Filter) -> tuple[list[Batch], bool, bool]:
    """The batches of one page, newest first, and whether there are newer and older ones."""
    if asked.after:
        found = _first(viewer, asked, ascending=True)
        if len(found) > PAGE:
            return found[PAGE - 1 :: -1], True, True
    # Fewer newer ones than a page has: show the first page.
    found = _first(viewer, asked, ascending=False)
    return found[:PAGE], bool(asked.before and found), len(found) > PAGE


def _first(viewer: Viewer, asked: Filter, ascending: bool) -> list[Batch]:
    """The first of those from its place on, a page and one more.

    Asked for as `ORDER BY id LIMIT 51` alone, PostgreSQL walks the primary key until it has found enough, or sorts all
    that match, by what it believes to be rarer; it errs where filters go together, and where a table has grown since
    its last ANALYZE (100,000 batches: 47 ms instead of 3, and 160 instead of 32). So those near the place are looked
    through first, which finds what is common; when they are not enough, what matches is taken from the indexes and put
    in order afterwards, and that is little, for it was not common.
    """
    rows = _near(_matching(viewer, asked), asked, ascending)
    order = F("id").asc() if ascending else F("id").desc()
    if _is_ordered(viewer, asked):
        return list(rows.order_by(order)[: PAGE + 1])
    end = _near(Batch.objects.all(), asked, ascending).order_by(order).values_list("pk", flat=True)[NEAR : NEAR + 1]
    if not (ends := list(end)):
        return list(rows.order_by(order)[: PAGE + 1])
    found = list(rows.filter(**{"pk__lt" if ascending else "pk__gt": ends[0]}).order_by(order)[: PAGE + 1])
    if len(found) > PAGE:
        return found
    by_value = Concat("id", Value(""))  # no index has this order
    keys = rows.order_by(by_value.asc() if ascending else by_value.desc()).values_list("pk", flat=True)[: PAGE + 1]
    return list(_shown(Batch.objects.filter(pk__in=list(keys))).order_by(order))


def _is_ordered(viewer: Viewer, asked: Filter) -> bool:
    """Whether an index has exactly these rows in the order of a page: those of one project, or all."""
    if asked.state or asked.model or asked.words:
        return False
    return viewer.projects is None or bool(asked.project) or viewer.project is not None


def _near(rows: BatchQuerySet, asked: Filter, ascending: bool) -> BatchQuerySet:
    if ascending:
        return rows.filter(pk__gt=asked.after)
    start = asked.before
    if asked.until and (not start or _id_after(asked.until, asked.zone) < start):
        start = _id_after(asked.until, asked.zone)
    return rows.filter(pk__lt=start) if start else rows


def _matching(viewer: Viewer, asked: Filter) -> BatchQuerySet:
    rows: BatchQuerySet = viewer.own(_shown(Batch.objects.filter(hidden=False)))  # type: ignore[assignment]
    if asked.state == LIVE:
        rows = rows.filter(status__in=_LIVE)
    elif asked.state in phase.PHASES:
        rows = rows.filter(phase.rows(asked.state))
    elif asked.state:
        rows = rows.filter(status=asked.state)
    if asked.model:
        rows = rows.filter(model_names__contains=[asked.model])
    if asked.project:
        rows = rows.filter(project=int(asked.project))
    if asked.since:
        rows = rows.filter(pk__gte=_id_of(asked.since, asked.zone))
    if asked.until:
        rows = rows.filter(pk__lt=_id_after(asked.until, asked.zone))
    words = asked.words.strip()
    if words.startswith("batch_"):  # the digits of an id are hexadecimal, and g comes after all of them
        digits = re.fullmatch(r"batch_[0-9a-f]*", words)
        return rows.filter(pk__gte=words, pk__lt=f"{words}g") if digits else rows.filter(pk=words)
    if words:
        rows = rows.alias(found=WORDS).filter(found=_every(words))
    return rows


def _shown(rows: BatchQuerySet) -> BatchQuerySet:
    """The rows with only the columns that the page shows."""
    return rows.with_holding().select_related("project").only(
        "name", "status", "model_names", "total", "completed", "failed", "not_run", "created_at", "validated_at",
        "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelled_at", "priority",
        "metadata", "leased_by", "in_flight", "project__name",
    )  # fmt: skip


def _every(words: str) -> SearchQuery:
    """A search for all of the words, and for the beginning of the last one. Each is quoted, so none is an operator."""
    quoted = ["'" + word.replace("\\", "\\\\").replace("'", "''") + "'" for word in words.split()[:MOST_WORDS]]
    return SearchQuery(" & ".join(quoted) + ":*", config="simple", search_type="raw")


def _id_of(day: date, zone: tzinfo) -> str:
    """The smallest id that a batch of this day can have: an id begins with the millisecond at which it was made."""
    return f"batch_{max(0, int(first_moment(day, zone).timestamp())) * 1000:012x}"


def _id_after(day: date, zone: tzinfo) -> str:
    return _id_of(day + timedelta(days=1), zone) if day < date.max else "batch_g"

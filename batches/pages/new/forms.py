"""The forms of a new batch, one for each way in: a table, a batch file, or prompts typed in. The API's rules apply."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson
from django import forms
from django.db.models import QuerySet
from rest_framework.exceptions import ValidationError as Invalid

from batches.api.serializers import ENDPOINTS, Metadata
from batches.models import MOST_NAME, Batch
from batches.pages.new.page import model_choices, usual_model
from batches.pages.new.table import Table
from vbs.accounts.models import Project
from vbs.configuration import runtime
from vbs.openai.fields import PlainObject
from vbs.pages.once import OnceField
from vbs.pages.viewer import Viewer

PAIRS, PAIRS_SHOWN = 16, 3
RECHECKED = ("endpoint", "model")  # what decides whether a line is right
TABLE, FILE, PROMPTS = "table", "file", "prompts"  # the ways in
WAYS = {TABLE: "A table", FILE: "A batch file", PROMPTS: "Prompts"}
MOST_TEXT = 200_000  # characters of a template, a system prompt
MOST_TYPED = 1_000_000  # characters of typed prompts
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def typed_prompts(text: str) -> list[str]:
    """Prompts that are separated by blank lines; where there is no blank line, each line is one."""
    text = text.replace("\r\n", "\n").strip()
    pieces = _BLANK_LINE.split(text) if _BLANK_LINE.search(text) else text.split("\n")
    return [piece.strip() for piece in pieces if piece.strip()]


class NewBatch(forms.Form):
    """What every way in has: the model, and how the batch runs."""

    use_required_attribute = False
    way = FILE
    no_model = "As each line says"

    name = forms.CharField(
        max_length=MOST_NAME,
        required=False,
        help_text="Shown first wherever the batch is listed.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    project = forms.ModelChoiceField(
        queryset=Project.objects.none(), empty_label=None, error_messages={"required": "Choose a project."}
    )
    model = forms.ChoiceField(
        required=False,
        error_messages={"invalid_choice": "No ready model or alias is called “%(value)s” now: choose another."},
    )
    endpoint = forms.ChoiceField(
        required=False,
        choices=[("", "Suggested by the file and the model"), *((one, one) for one in ENDPOINTS)],
    )
    priority = forms.IntegerField(
        min_value=-100, max_value=100, initial=0, help_text="−100 to 100; a higher one runs first."
    )
    completion_window = forms.ChoiceField(help_text="Requests that are not done by then expire.")
    once = OnceField()

    def __init__(self, viewer: Viewer, data: Any = None, **options: Any) -> None:
        super().__init__(data, **options)
        projects: QuerySet[Project] = viewer.all_own(Project.objects.all(), "pk")
        field = self.fields["project"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = projects
        self.projects = list(projects[:2])
        field.initial = viewer.project or (self.projects[0].pk if self.projects else None)
        if len(self.projects) == 1:
            field.widget = forms.HiddenInput()
        self.fields["model"].choices = model_choices(self.no_model)  # type: ignore[attr-defined]
        windows = [(one, one) for one in runtime.value("VBS_COMPLETION_WINDOWS")]
        self.fields["completion_window"].choices = windows  # type: ignore[attr-defined]
        self.fields["completion_window"].initial = windows[0][0]
        for number in range(PAIRS):
            for half, most in (("key", 64), ("value", 512)):
                name, label = f"{half}-{number}", f"Metadata {half} {number + 1}"
                attrs = {"autocomplete": "off", "dir": "auto", "aria-label": label, "placeholder": half.capitalize()}
                text = forms.TextInput(attrs=attrs)
                self.fields[name] = forms.CharField(
                    label=label, max_length=most, required=False, strip=False, widget=text
                )
        for name, field in self.fields.items():
            if name not in ("endpoint", "name", "id_column", "template"):
                field.widget.attrs["hx-preserve"] = "true"  # what is typed while a file is on its way

    @property
    def run_fields(self) -> list[forms.BoundField]:
        """What few people change."""
        names = ("endpoint", "priority", "completion_window", "project")
        return [self[name] for name in names if name in self.fields and not self[name].is_hidden]

    @property
    def more_is_wrong(self) -> bool:
        """Whether a field that is folded has an error, and so has to be shown."""
        folded = {"endpoint", "priority", "completion_window", "project", "parameters"}
        return any(name in folded or name[:4] in ("key-", "valu") for name in self.errors)

    @property
    def rows(self) -> list[tuple[forms.BoundField, forms.BoundField]]:
        return [(self[f"key-{number}"], self[f"value-{number}"]) for number in range(PAIRS)]

    @property
    def first_rows(self) -> list[tuple[forms.BoundField, forms.BoundField]]:
        return self.rows[: self._used() + 1]

    @property
    def other_rows(self) -> list[tuple[forms.BoundField, forms.BoundField]]:
        return self.rows[self._used() + 1 :]

    def _used(self) -> int:
        """The pairs up to the last one with a text, and a few empty ones."""
        filled = [place for place, (key, value) in enumerate(self.rows) if key.value() or value.value()]
        return max([PAIRS_SHOWN - 1, *filled])

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        pairs: dict[str, str] = {}
        for number in range(PAIRS):
            key, value = found.get(f"key-{number}") or "", found.get(f"value-{number}") or ""
            if not key and value:
                self.add_error(f"key-{number}", "Give this value a key.")
            elif key in pairs:
                self.add_error(f"key-{number}", f"The key “{key}” is used twice.")
            elif key:
                pairs[key] = value
        try:
            found["metadata"] = Metadata().run_validation(pairs) or None
        except Invalid as error:
            self.add_error(None, str(error.detail))
        return found

    @property
    def mark(self) -> str:
        """What makes sure that this form, as it is filled in, makes one batch."""
        once = self.cleaned_data.get("once", "")
        sent = sorted((name, str(value)) for name, value in self.data.items() if name != "csrfmiddlewaretoken")
        return f"{once} {hashlib.sha256(orjson.dumps(sent)).hexdigest()}" if once else ""

    def chosen(self, name: str) -> Any:
        """What a browser has sent, if it is right; in a new form, what is filled in beforehand. None without either."""
        if self.is_bound:
            return self.cleaned_data.get(name)
        return self.get_initial_for_field(self.fields[name], name) if name in self.fields else None

    @property
    def chosen_project(self) -> Project | None:
        found = self.chosen("project")
        return found if isinstance(found, Project) or found is None else Project.objects.filter(pk=found).first()

    def options(self) -> dict[str, Any]:
        """The arguments of `submit.create`."""
        found = {name: self.chosen(name) for name in ("name", "endpoint", "priority", "metadata")}
        window = self.chosen("completion_window") or self.fields["completion_window"].initial
        return found | {"completion_window": window, "default_model": self.chosen("model") or ""}


class Prompted(NewBatch):
    """What the ways have in which requests are made here: what each of them asks, and how long its answer may be."""

    no_model = "Choose a model"

    system = forms.CharField(
        label="System prompt",
        required=False,
        max_length=MOST_TEXT,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 2, "dir": "auto", "placeholder": "You are a helpful assistant."}),
    )
    max_tokens = forms.IntegerField(
        label="Max tokens",
        required=False,
        min_value=1,
        max_value=10_000_000,
        widget=forms.NumberInput(attrs={"placeholder": "no limit"}),
    )
    temperature = forms.FloatField(
        required=False,
        min_value=0,
        max_value=2,
        widget=forms.NumberInput(attrs={"placeholder": "the model’s own", "step": "any"}),
    )
    parameters = forms.CharField(
        label="Other parameters",
        required=False,
        max_length=MOST_TEXT,
        help_text='A JSON object, such as {"top_p": 0.9}; every request gets it.',
        widget=forms.Textarea(attrs={"rows": 2, "class": "code", "dir": "ltr", "spellcheck": "false"}),
    )

    def __init__(self, viewer: Viewer, data: Any = None, **options: Any) -> None:
        super().__init__(viewer, data, **options)
        self.initial["model"] = self.initial.get("model") or usual_model(self.fields["project"].initial)

    def clean_parameters(self) -> dict[str, Any]:
        if not (text := self.cleaned_data["parameters"].strip()):
            return {}
        try:
            found = PlainObject().run_validation(orjson.loads(text))
        except orjson.JSONDecodeError as error:
            message = f'This is not JSON ({error}). Write an object, such as {{"top_p": 0.9}}.'
            raise forms.ValidationError(message) from None
        except Invalid as error:
            raise forms.ValidationError(str(error.detail[0])) from None  # type: ignore[index]
        assert isinstance(found, dict)
        return found

    def all_parameters(self) -> dict[str, Any]:
        """The parameters of every request, those with a field of their own included."""
        named = {name: self.chosen(name) for name in ("max_tokens", "temperature")}
        others = self.chosen("parameters") or {}
        return others | {name: value for name, value in named.items() if value is not None}


class NewPrompts(Prompted):
    way = PROMPTS

    prompts = forms.CharField(
        max_length=MOST_TYPED,
        help_text="One per line. Prompts of several lines: leave a blank line between them.",
        error_messages={"required": "Type a prompt."},
        widget=forms.Textarea(
            attrs={"rows": 8, "dir": "auto", "placeholder": "Why is the sky blue?\nName three rivers of Europe."}
        ),
    )


class NewTable(Prompted):
    """table: what is known of it, once it is there."""

    way = TABLE

    template = forms.CharField(
        label="Prompt",
        required=False,
        max_length=MOST_TEXT,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 5, "dir": "auto", "aria-describedby": "id_template_helptext"}),
    )
    id_column = forms.ChoiceField(
        label="Id column",
        required=False,
        help_text="Different in each row.",
    )

    def __init__(self, viewer: Viewer, data: Any = None, table: Table | None = None, **options: Any) -> None:
        super().__init__(viewer, data, **options)
        ids = [("", "The row’s number"), *((name, name) for name in (table.headings if table else ()))]
        self.fields["id_column"].choices = ids  # type: ignore[attr-defined]
        if table and not self.is_bound:
            self.initial.setdefault("id_column", table.ids)
        if table and table.wordiest and not table.own_prompt:
            example = f"Summarize in one sentence:\n\n{{{table.wordiest}}}"
            self.fields["template"].widget.attrs["placeholder"] = example


FORMS: dict[str, type[NewBatch]] = {TABLE: NewTable, FILE: NewBatch, PROMPTS: NewPrompts}


def like(batch: Batch) -> Mapping[str, Any]:
    """The values of the form that make the same batch again."""
    names = ("name", "endpoint", "priority", "completion_window")
    values: dict[str, Any] = {name: getattr(batch, name) for name in names}
    if batch.completion_window not in runtime.value("VBS_COMPLETION_WINDOWS"):
        del values["completion_window"]
    for number, (key, value) in enumerate(list((batch.metadata or {}).items())[:PAIRS]):
        values |= {f"key-{number}": key, f"value-{number}": value}
    return values | {"model": batch.default_model, "project": batch.project_id}

"""The form of a new batch, without its file. The API's rules apply."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.db.models import QuerySet
from rest_framework.exceptions import ValidationError as Invalid

from batches.api.serializers import ENDPOINTS, Metadata
from batches.models import Batch
from batches.pages.new.page import model_choices
from vbs.accounts.models import Project
from vbs.configuration import runtime
from vbs.pages.viewer import Viewer

PAIRS, PAIRS_SHOWN = 16, 3
RECHECKED = ("endpoint", "model")  # what decides whether a line is right


class NewBatch(forms.Form):
    use_required_attribute = False

    project = forms.ModelChoiceField(
        queryset=Project.objects.none(), empty_label=None, error_messages={"required": "Choose a project."}
    )
    model = forms.ChoiceField(
        required=False,
        help_text="For lines that name no model. A table needs one, unless it has a column “model”.",
        error_messages={"invalid_choice": "No ready model or alias is called “%(value)s” now: choose another."},
    )
    endpoint = forms.ChoiceField(
        required=False,
        choices=[("", "As the file and the model suggest"), *((one, one) for one in ENDPOINTS)],
    )
    priority = forms.IntegerField(
        min_value=-100, max_value=100, initial=0, help_text="−100 to 100; a higher one runs first."
    )
    completion_window = forms.ChoiceField(help_text="Requests that are not done by then expire.")

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
        self.fields["model"].choices = model_choices()  # type: ignore[attr-defined]
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
            if name != "endpoint":
                field.widget.attrs["hx-preserve"] = "true"  # what is typed while a file is on its way

    @property
    def plain_fields(self) -> list[forms.BoundField]:
        names = ("project", "model", "endpoint", "priority", "completion_window")
        return [self[name] for name in names if not self[name].is_hidden]

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

    def options(self) -> dict[str, Any]:
        """The arguments of `submit.create`."""
        names = ("endpoint", "completion_window", "priority", "metadata")
        return {name: self.cleaned_data[name] for name in names} | {"default_model": self.cleaned_data["model"]}


def like(batch: Batch) -> Mapping[str, Any]:
    """The values of the form that make the same batch again."""
    names = ("endpoint", "priority", "completion_window")
    values: dict[str, Any] = {name: getattr(batch, name) for name in names}
    if batch.completion_window not in runtime.value("VBS_COMPLETION_WINDOWS"):
        del values["completion_window"]
    for number, (key, value) in enumerate(list((batch.metadata or {}).items())[:PAIRS]):
        values |= {f"key-{number}": key, f"value-{number}": value}
    return values | {"model": batch.default_model, "project": batch.project_id}

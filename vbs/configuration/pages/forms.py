"""The form for a new value of a setting."""

from typing import Any

from django import forms

from vbs.configuration import runtime
from vbs.configuration.declared import Setting, parsed

LOSES = "VBS_RETENTION_DAYS"  # when it is lowered


class ValueForm(forms.Form):
    value = forms.CharField(max_length=500, strip=True, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    sure = forms.BooleanField(required=False, label="Delete what is older than that")

    def __init__(self, *given: Any, setting: Setting, **named: Any) -> None:
        super().__init__(*given, **named)
        self.setting = setting
        value = self.fields["value"]
        value.label = setting.name
        value.help_text = f"{setting.allowed} {setting.changes}".strip()
        if setting.name != LOSES:
            del self.fields["sure"]

    def clean_value(self) -> Any:
        text = self.cleaned_data["value"]
        try:
            return parsed(self.setting.name, text)
        except ValueError as error:
            raise forms.ValidationError(f"{self.setting.name} is {text[:60]!r}: {error}") from None

    def clean(self) -> None:
        new = self.cleaned_data.get("value")
        if self.setting.name == LOSES and new is not None and not self.cleaned_data.get("sure"):
            before = runtime.value(LOSES)
            if new < before:
                self.add_error(
                    "sure",
                    f"It is {before} now: with {new}, the request rows of batches that ended more than {new} days ago "
                    "are deleted within a minute, and cannot be brought back. Tick this to have that.",
                )

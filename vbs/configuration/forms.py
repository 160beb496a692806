"""A new value for a setting."""

from typing import Any

from django import forms

from vbs.configuration import runtime
from vbs.configuration.limits import CHECKS
from vbs.configuration.registry import Setting

# When a change takes hold, and what else there is to know.
NOTES = {
    "VBS_MAX_BATCH_REQUESTS": "Holds for batches that are read from now on.",
    "VBS_COMPLETION_WINDOWS": "With commas between them. The first one is taken where a client names none. "
    "Batches that are there keep theirs.",
    "VBS_RETENTION_DAYS": "Lowering it deletes the request rows of older batches within a minute, for ever. "
    "Their output files stay.",
    "VBS_MAX_WAIT_MINUTES": "Holds from the next decision on, what the GPU does next.",
    "VBS_REQUEST_SECONDS": "A batch that runs keeps the limit with which its turn began.",
    "VBS_REQUEST_ATTEMPTS": "A batch that runs keeps the limit with which its turn began.",
    "VBS_DEFAULT_MAX_TOKENS": "0 sets no limit: such an answer may run to the end of the model's context. A batch that "
    "runs keeps the limit with which its turn began.",
    "VBS_GPU_MAX_CELSIUS": "In °C. Below the temperature of an idle GPU, no work starts at all.",
    "VBS_GPU_MAX_USED_PERCENT": "In percent. 100 switches this check off.",
}
LOSES = "VBS_RETENTION_DAYS"  # when it is lowered


class ValueForm(forms.Form):
    value = forms.CharField(max_length=500, strip=True, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    sure = forms.BooleanField(required=False, label="Delete what is older than that")

    def __init__(self, *given: Any, setting: Setting, **named: Any) -> None:
        super().__init__(*given, **named)
        self.setting = setting
        value = self.fields["value"]
        value.label = setting.name
        allowed = f"A whole number from {setting.range}. " if setting.range else ""
        value.help_text = allowed + NOTES.get(setting.name, "")
        if setting.name != LOSES:
            del self.fields["sure"]

    def clean_value(self) -> Any:
        text = self.cleaned_data["value"]
        try:
            return CHECKS[self.setting.name](text)
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

"""Fields that not everybody may set, or that do not apply to a form's object."""

from typing import Any

from django import forms
from django.forms.utils import pretty_name


class GuardedForm(forms.Form):
    """A withheld field is not shown. When a browser sends it anyway, the form is refused, so that no input is dropped
    silently."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._withheld: dict[str, tuple[forms.Field, str]] = {}

    def withhold(self, name: str, why: str) -> None:
        """why: who may set the field, or where; this follows the field's name in the message."""
        self._withheld[name] = (self.fields.pop(name), why)

    def lock(self, name: str, why: str) -> None:
        """Shows the field, but does not let it be changed."""
        field = self.fields[name]
        field.disabled, field.help_text = True, f"{why[:1].upper()}{why[1:]}."
        self._withheld[name] = (field, why)

    def full_clean(self) -> None:
        super().full_clean()
        if not self.is_bound:
            return
        for name, (field, why) in self._withheld.items():
            key = self.add_prefix(name)
            sent = field.widget.value_from_datadict(self.data, self.files, key)
            if key in self.data and _differs(field, self.get_initial_for_field(field, name), sent):
                label = field.label or pretty_name(name)
                self.add_error(None, f"{label} ({name}) cannot be set here: {why}. Nothing was done.")


def _differs(field: forms.Field, before: Any, sent: Any) -> bool:
    """Like `has_changed`, which ignores disabled fields."""
    disabled, field.disabled = field.disabled, False
    try:
        return field.has_changed(before, sent)
    finally:
        field.disabled = disabled

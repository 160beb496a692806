"""Fields that not everybody may set, or that do not go with what a form is about."""

from typing import Any

from django import forms
from django.forms.utils import pretty_name


class GuardedForm(forms.Form):
    """A field that is withheld is not shown. Sent all the same it is refused, and with it the form: nothing that
    somebody asked for is dropped without a word."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._withheld: dict[str, tuple[forms.Field, str]] = {}

    def withhold(self, name: str, why: str) -> None:
        """why: who may set it, or where; it follows on the name of the field."""
        self._withheld[name] = (self.fields.pop(name), why)

    def lock(self, name: str, why: str) -> None:
        """Show it as it is, not to be changed."""
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
    """As `has_changed`, which takes what is disabled for unchanged."""
    disabled, field.disabled = field.disabled, False
    try:
        return field.has_changed(before, sent)
    finally:
        field.disabled = disabled

"""A form that makes something works once: a reload or a second click makes nothing more.

The form has a mark of its own, which is kept in the transaction that makes the thing, like an `Idempotency-Key`.
"""

import hashlib
import secrets

from django import forms
from django.core import signing

from vbs.accounts.models import KeptAnswer, Project

SALT = "vbs.pages.once"


def _fresh() -> str:
    return signing.dumps(secrets.token_urlsafe(12), salt=SALT)


class OnceField(forms.CharField):
    """A hidden field whose value is for `first`."""

    widget = forms.HiddenInput

    def __init__(self) -> None:
        super().__init__(required=False, max_length=200, initial=_fresh)

    def clean(self, value: str | None) -> str:
        text = str(super().clean(value))
        if text:
            try:
                signing.loads(text, salt=SALT, max_age=KeptAnswer.KEPT)  # as long as marks are kept
            except signing.BadSignature:
                raise forms.ValidationError("This form is more than a day old: load the page anew.") from None
        return text


def first(mark: str, project: Project) -> bool:
    """Whether the form with this mark has made nothing yet; at the commit, it has. Of two at the same time the second
    waits for the first."""
    if not mark:
        return True
    key = hashlib.sha256(f"{SALT} {mark}".encode()).hexdigest()
    _, is_new = KeptAnswer.objects.get_or_create(
        pk=key, defaults={"project": project, "fingerprint": "form", "status": 200}
    )
    return is_new

"""A form that makes something works once: a reload or a second click makes nothing more.

The form has a mark of its own, which is kept in the transaction that makes the thing, like an `Idempotency-Key`.
"""

import hashlib
import secrets
from collections.abc import Callable

from django import forms
from django.core import signing
from django.db import transaction

from vbs.accounts.models import KeptAnswer, Project

SALT = "vbs.pages.once"


def _fresh() -> str:
    return signing.dumps(secrets.token_urlsafe(12), salt=SALT)


class OnceField(forms.CharField):
    """A hidden field whose value is for `first` and `make`."""

    widget = forms.HiddenInput

    def __init__(self) -> None:
        super().__init__(required=False, max_length=200, initial=_fresh)

    def clean(self, value: str | None) -> str:
        text = str(super().clean(value))
        if text:
            try:
                signing.loads(text, salt=SALT, max_age=KeptAnswer.KEPT)  # as long as marks are kept
            except signing.BadSignature:
                raise forms.ValidationError("This form is more than a day old: reload the page.") from None
        return text


def first(mark: str, project: Project | None = None) -> bool:
    """Whether the form with this mark has made nothing yet; at the commit, it has. Of two at the same time the second
    waits for the first."""
    return not mark or _kept(mark, project)[1]


def make(mark: str, project: Project | None, create: Callable[[], str]) -> tuple[str, bool]:
    """The id of what the form with this mark makes, which `create` does and returns, and True; the id of what it has
    made before, and False. Of two at the same time the second waits for the first."""
    with transaction.atomic():
        if not mark:
            return create(), True
        kept, is_new = _kept(mark, project)
        if is_new:
            kept.body = create()
            kept.save(update_fields=["body"])
        return kept.body, is_new


def keep(mark: str, made: str) -> None:
    """Keeps the id of what the form with this mark has made, where that took longer than a transaction may."""
    if mark:
        kept, _ = _kept(mark, None)
        kept.body = made
        kept.save(update_fields=["body"])


def made(mark: str) -> str:
    """The id of what the form with this mark has made with `make` or `keep`; empty when it has made nothing."""
    found = KeptAnswer.objects.filter(pk=_key(mark)).first() if mark else None
    return found.body if found else ""


def _key(mark: str) -> str:
    return hashlib.sha256(f"{SALT} {mark}".encode()).hexdigest()


def _kept(mark: str, project: Project | None) -> tuple[KeptAnswer, bool]:
    return KeptAnswer.objects.get_or_create(
        pk=_key(mark), defaults={"project": project, "fingerprint": "form", "status": 200}
    )

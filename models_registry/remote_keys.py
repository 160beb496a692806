"""The keys that servers of remote models are sent: a model's own, which is kept encrypted, and the one of the settings.

A key is sent to one origin: a model's own key to the origin of its source, VBS_REMOTE_KEY to those of
VBS_REMOTE_ORIGINS. So further addresses of a model, which may be changed, do not get its key.
"""

from django.conf import settings

from models_registry.models import Model
from vbs.database import sealed
from vbs.outgoing.addresses import origin
from vbs.places import PROGRAM

MOST_KEY = 1000  # characters
PURPOSE = "keys of remote models"


class WrongKey(ValueError):
    """A text that cannot be sent in a header. The message does not contain it."""


class UnreadableKey(Exception):
    """A model's key was stored with another secret key."""


def seal(key: str) -> str:
    """What the database keeps of a key; empty for none. Raises WrongKey."""
    key = key.strip()
    if not key:
        return ""
    if len(key) > MOST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise WrongKey(
            f"this is not a key: one has 1 to {MOST_KEY:,} letters, digits and signs, without blanks. Copy it again, "
            "as a whole"
        )
    return sealed.seal(key, PURPOSE)


def of(model: Model) -> dict[str, str]:
    """The keys for the servers of this model, by their origin. Raises UnreadableKey."""
    keys = dict.fromkeys(map(origin, settings.VBS_REMOTE_ORIGINS), settings.VBS_REMOTE_KEY)
    if model.key_secret:
        try:
            keys[origin(model.source)] = sealed.unseal(model.key_secret, PURPOSE)
        except sealed.Unreadable as error:
            raise UnreadableKey(
                f"the key of {model.name} cannot be read: {error}. Store it again: "
                f"'{PROGRAM} model edit {model.name} --key-file FILE', or on the model's page"
            ) from None
    return keys


def every() -> list[str]:
    """All keys that can be read, to hide them in logs."""
    found = {settings.VBS_REMOTE_KEY}
    for secret in Model.objects.exclude(key_secret="").values_list("key_secret", flat=True):
        try:
            found.add(sealed.unseal(secret, PURPOSE))
        except sealed.Unreadable:
            continue  # it is sent nowhere, so no log has it
    return sorted(found - {""})

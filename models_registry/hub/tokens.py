"""Stores access tokens of the hub, encrypted."""

import re

from models_registry.catalog.folders import ModelError
from models_registry.models import HubToken
from vbs.database import sealed
from vbs.places import PROGRAM

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_TOKEN = 1000  # characters
PURPOSE = "access tokens of the hub"


def keep(name: str, token: str) -> HubToken:
    """Store an access token under this name; it replaces an older one. Raises ModelError."""
    if not NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot be the name of an access token: use 1 to 100 letters, digits and . _ -, "
            "a letter or digit first"
        )
    check(token.strip())
    secret = sealed.seal(token.strip(), PURPOSE)
    return HubToken.objects.update_or_create(name=name, defaults={"secret": secret})[0]


def reveal(token: HubToken) -> str:
    """Decrypt it. Raises ModelError when it was stored with another secret key."""
    try:
        return sealed.unseal(token.secret, PURPOSE)
    except sealed.Unreadable as error:
        raise ModelError(
            f"the access token {token.name} cannot be read: {error}. Store it again: {PROGRAM} model token {token.name}"
        ) from None


def check(token: str) -> None:
    """Raises ModelError for a text that cannot be sent in a header; the message does not contain it."""
    if not token or len(token) > MOST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ModelError(
            f"this is not an access token: one has 1 to {MOST_TOKEN:,} letters, digits and signs, without blanks. "
            "Copy it again, as a whole"
        )

"""Stores access tokens of the hub, encrypted with a key that is derived from the server's secret key.

So a copy of the database alone does not reveal them.
"""

import base64
import re

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from models_registry.catalog.folders import ModelError
from models_registry.models import HubToken
from vbs.places import PROGRAM

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_TOKEN = 1000  # characters
PURPOSE = b"vbs: access tokens of the hub"  # another purpose gives another key


def keep(name: str, token: str) -> HubToken:
    """Store an access token under this name; it replaces an older one. Raises ModelError."""
    if not NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot be the name of an access token: use 1 to 100 letters, digits and . _ -, "
            "a letter or digit first"
        )
    check(token.strip())
    secret = _cipher().encrypt(token.strip().encode()).decode()
    return HubToken.objects.update_or_create(name=name, defaults={"secret": secret})[0]


def reveal(token: HubToken) -> str:
    """Decrypt it. Raises ModelError when it was stored with another secret key."""
    try:
        return _cipher().decrypt(token.secret.encode()).decode()
    except InvalidToken:
        raise ModelError(
            f"the access token {token.name} cannot be read: the server's secret key (VBS_SECRET_KEY, or secret_key in "
            f"the data folder) has changed since it was stored. Store it again: {PROGRAM} model token {token.name}"
        ) from None


def check(token: str) -> None:
    """Raises ModelError for a text that cannot be sent in a header; the message does not contain it."""
    if not token or len(token) > MOST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ModelError(
            f"this is not an access token: one has 1 to {MOST_TOKEN:,} letters, digits and signs, without blanks. "
            "Copy it again, as a whole"
        )


def _cipher() -> Fernet:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(settings.SECRET_KEY.encode())
    return Fernet(base64.urlsafe_b64encode(key))

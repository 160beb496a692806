"""Access tokens of the hub: kept encrypted, with a key that is made from the server's secret key.

So a copy of the database alone gives none away. Knows no hub.
"""

import base64
import re

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from models_registry.catalog.folders import ModelError
from models_registry.models import HubToken

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_TOKEN = 1000  # characters
PURPOSE = b"vbs: access tokens of the hub"  # another purpose would be another key


def keep(name: str, token: str) -> HubToken:
    """Keep a token under this name, in place of the one that may be there. Raises ModelError."""
    if not NAME.fullmatch(name):
        raise ModelError(f"{name!r} cannot be a token's name: use 1 to 100 letters, digits and . _ -, no sign first")
    check(token.strip())
    secret = _cipher().encrypt(token.strip().encode()).decode()
    return HubToken.objects.update_or_create(name=name, defaults={"secret": secret})[0]


def reveal(token: HubToken) -> str:
    """Raises ModelError when it was kept under another secret key."""
    try:
        return _cipher().decrypt(token.secret.encode()).decode()
    except InvalidToken:
        raise ModelError(
            f"the token {token.name} cannot be read: the server's secret key (VBS_SECRET_KEY, or secret_key in "
            f"the data folder) has changed since it was kept. Give it anew: manage.py model token {token.name}"
        ) from None


def check(token: str) -> None:
    """Raises ModelError for what no header could carry, without saying what it was."""
    if not token or len(token) > MOST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ModelError(
            f"this is no access token: one is 1 to {MOST_TOKEN:,} letters, digits and signs, without blanks. "
            "Was it copied whole?"
        )


def _cipher() -> Fernet:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(settings.SECRET_KEY.encode())
    return Fernet(base64.urlsafe_b64encode(key))

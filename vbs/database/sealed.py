"""Texts that the database keeps encrypted, with keys that are derived from the server's secret key.

So a copy of the database alone does not reveal them. Django's signing would not do: what it signs can be read.
"""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class Unreadable(Exception):
    """It was sealed with another secret key."""


def seal(text: str, purpose: str) -> str:
    """purpose: what the text is for; what is sealed for one purpose cannot be opened for another."""
    return _cipher(purpose).encrypt(text.encode()).decode()


def unseal(sealed: str, purpose: str) -> str:
    """Raises Unreadable."""
    try:
        return _cipher(purpose).decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Unreadable(
            "the server's secret key (VBS_SECRET_KEY, or secret_key in the data folder) has changed since it was stored"
        ) from None


def _cipher(purpose: str) -> Fernet:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"vbs: {purpose}".encode())
    return Fernet(base64.urlsafe_b64encode(key.derive(settings.SECRET_KEY.encode())))

"""What is asked at the door, and what is answered there: the API's error envelope, without the application."""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass

from vbs.run import descriptors

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Refusal:
    """An answer that ends the connection."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


def later(status: int, code: str, message: str, seconds: int = 5) -> Refusal:
    """Not now; the client may ask again after so many seconds."""
    return Refusal(status, code, message, (("Retry-After", str(seconds)),))


def failure(error: BaseException | None) -> Refusal | None:
    """What is said of an error for which the machine has no more to give, if it is one."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        words = "The server's storage is full; nothing was kept. Free some space and send it again."
        return Refusal(507, "storage_full", words)
    if isinstance(error, OSError) and error.errno in descriptors.EXHAUSTED:
        words = "The server has as many files and connections open as it may; the request was not accepted."
        return later(503, "no_descriptors", f"{words} Try again in a few seconds.")
    return None


@dataclass(frozen=True)
class Head:
    """What is known of a request before its body comes."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]  # names in lower case
    length: int | None  # of the body, where it was announced
    address: str


Admit = Callable[[Head], Refusal | None]
"""Whether a large body may come in, or why not. Called in a thread, for the head of the request."""
